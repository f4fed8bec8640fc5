"""Checkpoints, the log of attempts, and deaths that are counted; time that tests can inject.

Revision ID: 0002
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Run the SQL files beside this one."""
    for name in ("0002_tables.sql", "0002_functions.sql"):
        sql = (Path(__file__).parent / name).read_text(encoding="utf-8")
        # The driver's own cursor takes the text as it is; SQLAlchemy would read its percent signs.
        with op.get_bind().connection.cursor() as cursor:
            cursor.execute(sql)


def downgrade() -> None:
    """Not offered: what was continued from a checkpoint cannot be told without one."""
    raise NotImplementedError("restore a backup made before the upgrade instead")
