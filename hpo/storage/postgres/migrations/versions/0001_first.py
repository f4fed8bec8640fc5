"""The first tables and functions of the schema `hpo`.

Revision ID: 0001
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Run the SQL files beside this one."""
    for name in ("0001_tables.sql", "0001_functions.sql"):
        sql = (Path(__file__).parent / name).read_text(encoding="utf-8")
        # The driver's own cursor takes the text as it is; SQLAlchemy would read its percent signs.
        with op.get_bind().connection.cursor() as cursor:
            cursor.execute(sql)


def downgrade() -> None:
    """There is nothing before the first revision but no schema at all."""
    op.get_bind().exec_driver_sql("drop schema hpo cascade")
