"""Finals, held-out test splits, rollbacks and overrides, and where a worker ran.

Revision ID: 0003
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

from hpo.errors import SchemaError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Run the SQL file beside this one."""
    sql = (Path(__file__).parent / "0003_tables.sql").read_text(encoding="utf-8")
    # The driver's own cursor takes the text as it is; SQLAlchemy would read its percent signs.
    with op.get_bind().connection.cursor() as cursor:
        cursor.execute(sql)


def downgrade() -> None:
    """Refused: rollbacks and overrides cannot be told without their columns.

    Raises:
        SchemaError: always.
    """
    raise SchemaError(
        "the schema `hpo` does not go back from 0003 to 0002",
        hint="Restore a backup made before the upgrade (`pg_dump`, or `hpo export` of each study).",
    )
