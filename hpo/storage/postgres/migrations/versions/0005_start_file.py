"""The file that a study's trainings start from, by its content.

Revision ID: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    # Null where the trainer's own code holds the model, and in studies of an earlier version
    op.execute("alter table hpo.study add column model_sha256 text")


def downgrade() -> None:
    """Drop it: workers take what lies at the study's `model` again."""
    op.execute("alter table hpo.study drop column model_sha256")
