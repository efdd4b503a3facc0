"""The first schema of all tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _key(kind=sa.Integer):
    return sa.Column("id", kind, primary_key=True)


def _user():
    return sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True)


def _some(name, kind=sa.String, **more):
    return sa.Column(name, kind, nullable=False, **more)


def upgrade() -> None:
    """Make the tables."""
    op.create_table("users", _key(), _some("name", unique=True), _some("password"),
                    _some("administrator", sa.Boolean), _some("created", sa.Double))  # fmt: skip
    op.create_table("sessions", _key(sa.String), _user(), _some("created", sa.Double), _some("seen", sa.Double),
                    _some("agent"))  # fmt: skip
    op.create_table("invitations", _key(sa.String), _some("administrator", sa.Boolean), _some("note"),
                    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE")),
                    _some("expires", sa.Double))  # fmt: skip
    op.create_table("attempts", _key(), _some("name", index=True), _some("address", index=True), _some("at", sa.Double))
    op.create_table(
        "records", _key(), _user(), _some("kind", index=True), _some("name"), _some("settings", sa.JSON),
        sa.Column("source_id", sa.Integer, sa.ForeignKey("records.id", ondelete="SET NULL"), index=True),
        _some("state", index=True), _some("wish"), _some("attempt", sa.Integer), _some("created", sa.Double),
        sa.Column("began", sa.Double), sa.Column("ended", sa.Double), sa.Column("best", sa.Double), _some("message"),
        _some("detail"),
        sqlite_autoincrement=True,  # the number of a deleted record, and its folder, are never used again
    )  # fmt: skip


def downgrade() -> None:
    """Drop the tables."""
    for name in ("records", "attempts", "invitations", "sessions", "users"):
        op.drop_table(name)
