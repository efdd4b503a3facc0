"""The column `wish` is named `request`."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Rename it; what it holds stays. SQLite renames in place as PostgreSQL does, with no copy of the table."""
    op.execute("ALTER TABLE records RENAME COLUMN wish TO request")


def downgrade() -> None:
    """Rename it back."""
    op.execute("ALTER TABLE records RENAME COLUMN request TO wish")
