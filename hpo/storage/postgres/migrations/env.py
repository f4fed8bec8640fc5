"""Alembic's environment: runs the migrations on the connection that schema.upgrade hands over."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    # Optuna owns public.alembic_version. Ours has another name too: for a database user called
    # `hpo`, PostgreSQL looks in a schema of that name first, and Optuna would read ours.
    version_table="version",
    version_table_schema="hpo",
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
