"""Records can be put first and have tags, links make several accounts, users take turns and have their own quota."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("records", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("records", sa.Column("tags", sa.String, nullable=False, server_default=""))
    op.add_column("invitations", sa.Column("uses", sa.Integer, nullable=False, server_default="1"))
    op.add_column("users", sa.Column("quota", sa.Integer))
    op.add_column("users", sa.Column("leaving", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("users", sa.Column("turn", sa.Double, nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop them."""
    for table, names in (
        ("records", ("priority", "tags")),
        ("invitations", ("uses",)),
        ("users", ("quota", "leaving", "turn")),
    ):
        for name in names:
            op.drop_column(table, name)
