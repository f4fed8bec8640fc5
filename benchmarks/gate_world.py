"""Made-up models on made-up images, for measuring the gate: their true mAP is known.

An image has a difficulty, several objects of some of five unequal classes, and places where a
detector may see what is not there. All of that is shared by the models. What a model makes of an
object is its skill less the difficulties, with luck of which a part, the likeness, is shared too.
It decides together whether the object is found, how well its box fits and how sure the model is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.evaluation.detections import OVERLAPS, Detections

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

NAMES = ("a", "b", "c", "d", "e")
SHARES = (0.40, 0.25, 0.18, 0.10, 0.07)
THEMED = 0.5  # share of an image's objects that are of its theme: classes come in company
SEEN, LURED = -1.2, -0.3  # above this strength there is a detection
OBJECTS, LURES = 2.0, 4.0  # on the average, of an image; one object more is always there


@dataclass(frozen=True)
class World:
    """Which models are compared.

    Attributes:
        name: in the table.
        skill: of the champion.
        likeness: share of a model's luck that the other one has too.
    """

    name: str
    skill: float
    likeness: float


@dataclass(frozen=True)
class _Split:
    """Images as every model sees them: objects first to last by image, then lures."""

    object_image: NDArray[Any]
    object_kind: NDArray[Any]
    object_ease: NDArray[Any]
    lure_image: NDArray[Any]
    lure_kind: NDArray[Any]
    lure_pull: NDArray[Any]

    @classmethod
    def draw(cls, rng: np.random.Generator, images: int) -> _Split:
        difficulty = rng.normal(0, 0.8, images)
        objects = np.repeat(np.arange(images), 1 + rng.poisson(OBJECTS, images))
        lures = np.repeat(np.arange(images), rng.poisson(LURES, images))
        theme = rng.choice(len(NAMES), images, p=SHARES)
        alone = rng.choice(len(NAMES), len(objects), p=SHARES)
        return cls(
            object_image=objects,
            object_kind=np.where(rng.random(len(objects)) < THEMED, theme[objects], alone),
            object_ease=-difficulty[objects] - rng.normal(0, 0.8, len(objects)),
            lure_image=lures,
            lure_kind=rng.choice(len(NAMES), len(lures), p=SHARES),
            lure_pull=0.5 * difficulty[lures] + rng.normal(0, 1, len(lures)),
        )


@dataclass(frozen=True)
class _Found:
    """What one model finds, by image."""

    image: NDArray[Any]
    kind: NDArray[Any]
    confidence: NDArray[Any]
    correct: NDArray[Any]

    @classmethod
    def by(cls, split: _Split, skill: float, luck: NDArray[Any], lure_luck: NDArray[Any]) -> _Found:
        strength = skill + split.object_ease + 0.7 * luck[0]
        overlap = np.clip(0.68 + 0.1 * strength + 0.1 * luck[1], 0, 0.98)
        pull = split.lure_pull - 0.5 * skill + 0.7 * lure_luck
        seen, lured = strength > SEEN, pull > LURED
        sure = np.concatenate(
            ((1.2 * strength - 0.5 + 0.6 * luck[2])[seen], (1.1 * pull - 1.5)[lured])
        )
        correct = np.zeros((len(sure), len(OVERLAPS)), dtype=bool)
        correct[: seen.sum()] = overlap[seen, None] >= np.array(OVERLAPS)
        image = np.concatenate((split.object_image[seen], split.lure_image[lured]))
        kind = np.concatenate((split.object_kind[seen], split.lure_kind[lured]))
        confidence = (1 / (1 + np.exp(-sure))).astype(np.float32)
        order = np.argsort(image, kind="stable")
        return cls(image[order], kind[order], confidence[order], correct[order])


def studies(
    rng: np.random.Generator, number: int, images: int, skills: Sequence[float], likeness: float
) -> Iterator[list[Detections]]:
    """`number` test splits of so many images, each as the detections of one model a skill."""
    split = _Split.draw(rng, number * images)
    shared, own = np.sqrt(likeness), np.sqrt(1 - likeness)
    luck = rng.normal(size=(3, len(split.object_image)))
    lure_luck = rng.normal(size=len(split.lure_image))
    models = [
        _Found.by(
            split, skill, shared * luck + own * rng.normal(size=luck.shape),
            shared * lure_luck + own * rng.normal(size=lure_luck.shape),
        )
        for skill in skills
    ]  # fmt: skip
    for first in range(0, number * images, images):
        yield [_cut(split, model, first, images) for model in models]


def _cut(split: _Split, found: _Found, first: int, images: int) -> Detections:
    """One study's images; the gate looks at no box, so all of them are the same."""
    ends = (first, first + images)
    own = slice(*np.searchsorted(found.image, ends))
    true = slice(*np.searchsorted(split.object_image, ends))
    image = found.image[own] - first
    true_image = split.object_image[true] - first
    return Detections(
        images=tuple(map(str, range(images))),
        names=NAMES,
        sizes=np.zeros((images, 2), dtype=np.int32),
        image=image,
        box=np.zeros((len(image), 4), dtype=np.float32),
        confidence=found.confidence[own],
        kind=found.kind[own],
        correct=found.correct[own],
        true_image=true_image,
        true_box=np.zeros((len(true_image), 4), dtype=np.float32),
        true_kind=split.object_kind[true],
    )
