"""The tables of the schema `hpo`.

Revision ID: 0005. The numbers before it had migrations of their own and were never released.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Run the SQL file beside this one."""
    sql = (Path(__file__).parent / "0001_initial.sql").read_text(encoding="utf-8")
    # The driver's own cursor takes the text as it is; SQLAlchemy would read its percent signs.
    with op.get_bind().connection.cursor() as cursor:
        cursor.execute(sql)
