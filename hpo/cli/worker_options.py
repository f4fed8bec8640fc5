"""Options of the commands that run workers; knows no worker."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hpo.settings import Settings

stall_option = click.option(
    "--stall-timeout", metavar="T", default="2h", show_default=True,
    help="A training without an epoch for so long fails as hung.",
)  # fmt: skip
grace_option = click.option(
    "--grace", metavar="T", default="30s", show_default=True,
    help="Asked to leave, let the epoch end within this time.",
)  # fmt: skip
checkpoint_option = click.option(
    "--checkpoint-every", type=click.IntRange(min=0), metavar="N",
    help="Epochs between two checkpoints, 0 for none (default: HPO_CHECKPOINT_EVERY, else 1).",
)  # fmt: skip


def with_checkpoints(settings: Settings, every: int | None) -> Settings:
    """The settings, with `--checkpoint-every` where it was given."""
    return settings if every is None else replace(settings, checkpoint_every=every)
