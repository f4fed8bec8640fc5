"""Checkpoints, the log of attempts, and deaths that are counted; time that tests can inject.

Revision ID: 0002
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

from hpo.errors import SchemaError

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
    """Refused: what was continued from a checkpoint cannot be told without one.

    Raises:
        SchemaError: always.
    """
    raise SchemaError(
        "the schema `hpo` does not go back from 0002 to 0001",
        hint="Restore a backup made before the upgrade (`pg_dump`, or `hpo export` of each study).",
    )
