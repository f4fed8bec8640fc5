"""Datasets in the artifact store.

Revision ID: 0004
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Run the SQL file beside this one."""
    sql = (Path(__file__).parent / "0004_tables.sql").read_text(encoding="utf-8")
    # The driver's own cursor takes the text as it is; SQLAlchemy would read its percent signs.
    with op.get_bind().connection.cursor() as cursor:
        cursor.execute(sql)


def downgrade() -> None:
    """Drop the table: what it says can be pushed again, and the archives stay in the store."""
    op.execute("drop table hpo.dataset")
