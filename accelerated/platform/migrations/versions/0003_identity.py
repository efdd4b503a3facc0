"""The database says to which folder it belongs."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "installation",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("folder", sa.String, nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("installation")
