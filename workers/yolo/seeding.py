"""Seed every epoch from the seed and its number alone, so that no random state is ever saved.

Plain Ultralytics draws one stream of random numbers through all epochs, in loader processes too,
which no other process can take up. Here each epoch has a stream of its own: another trajectory
than plain Ultralytics', the same in every life of a trial.
"""

from __future__ import annotations

import random
from hashlib import sha256
from typing import Any

import numpy as np
import torch


def start_epoch(seed: int, epoch: int, loader: Any) -> None:
    """Seed every source of random numbers, and leave nothing of the epoch before in the loader.

    Args:
        seed: the job's.
        epoch: any number of the epoch's own.
        loader: Ultralytics' InfiniteDataLoader of the training images.
    """
    number = int.from_bytes(sha256(f"{seed} {epoch}".encode()).digest()[:4], "big")
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - the state that Ultralytics' augmentations draw from
    torch.manual_seed(number)  # of every device
    loader.generator.manual_seed(number)  # shuffles, and seeds the loader's processes
    loader.reset()  # its processes load ahead, into the next epoch
    _forget_images(loader.dataset)


def _forget_images(dataset: Any) -> None:
    """Empty the buffer of recent images, out of which a mosaic picks where no cache holds all."""
    if dataset.cache == "ram":
        return
    dataset.buffer.clear()
    # Both or none: an image that is kept here is not put into the buffer when it is loaded again
    dataset.ims, dataset.im_hw0, dataset.im_hw = ([None] * dataset.ni for _ in range(3))
