"""Alembic runs this file: the migrations, on the engine from Database."""

from alembic import context

from accelerated.platform.database import Base

engine = context.config.attributes["engine"]
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
