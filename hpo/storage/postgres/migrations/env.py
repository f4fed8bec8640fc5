"""Alembic's environment: runs the migrations on the connection that schema.upgrade hands over.

To change a table, add `versions/NNNN_what.py` with the next number as its revision and the one
before as its `down_revision`, set `schema.HEAD` to that number, and leave earlier files alone.
There is no way back: whoever needs one restores a backup.

To change a function, change it in `functions.sql`; `schema.upgrade` runs the whole file whenever it
differs from what the database was given. A new name, another signature, result or meaning needs a
revision as well (its `upgrade` may be empty), by which programs of before are refused; the old
function is dropped in `functions.sql` before the new one is created.
"""

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
