"""Equal, close or different, and the sentence that says so."""

from __future__ import annotations

import math
from typing import Any

import pytest

from workers.reproduce.report import ComparedEpoch, Failure, Reproduction, Sameness, compare

EPOCH = {"mAP50": 0.25, "loss": 1.5, "seconds": 1.0}


def compared(number: int = 1, **changes: Any) -> ComparedEpoch:
    return compare(number, EPOCH, EPOCH | changes, "mAP50", 0.01)


def reproduction(*epochs: ComparedEpoch, **changes: Any) -> Reproduction:
    fields: dict[str, Any] = {"study": "s", "number": 3, "state": "complete", "metric": "mAP50"}
    return Reproduction(**fields | {"tolerance": 0.01, "epochs": epochs} | changes)


def test_an_equal_epoch_is_equal_in_every_metric_but_its_time() -> None:
    """Seconds differ from run to run and are no figure of the training."""
    found = compared(seconds=7.0)
    assert (found.sameness, found.gap, found.differing) == (Sameness.EQUAL, 0.0, {})


@pytest.mark.parametrize(
    ("changes", "sameness"),
    [
        ({"mAP50": math.nextafter(0.25, 1)}, Sameness.CLOSE),
        ({"mAP50": 0.2599}, Sameness.CLOSE),
        ({"mAP50": 0.2601}, Sameness.DIFFERENT),
        ({"loss": 9.0}, Sameness.CLOSE),
        ({"another": 1.0}, Sameness.CLOSE),
        ({"mAP50": math.nan}, Sameness.DIFFERENT),
    ],
)
def test_the_objective_decides_what_is_close(changes: Any, sameness: Sameness) -> None:
    """One bit is not equal; the tolerance is for the objective, in its own unit."""
    assert compared(**changes).sameness is sameness


def test_what_cannot_be_recorded_is_equal_to_its_record() -> None:
    """NaN and infinities are null in PostgreSQL."""
    now = {"mAP50": math.nan, "loss": math.inf}
    found = compare(1, {"mAP50": None, "loss": None}, now, "mAP50", 0.0)
    assert found.sameness is Sameness.EQUAL


def test_an_epoch_that_only_one_training_has_is_different() -> None:
    """Whether it is the record's or this one's."""
    assert compare(1, None, EPOCH, "mAP50", 9.0).sameness is Sameness.DIFFERENT
    assert compare(1, EPOCH, None, "mAP50", 9.0).sameness is Sameness.DIFFERENT


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        (
            [compared(1), compared(2)],
            "trial 3 is reproduced: all 2 epochs are equal in every metric",
        ),
        (
            [compared(1), compared(2, mAP50=0.252)],
            (
                "trial 3 is reproduced within the tolerance: 1 of 2 epochs differs, mAP50 by at "
                "most 0.002, at epoch 2, within 0.01"
            ),
        ),
        (
            [compared(1), compared(2, loss=1.75), compared(3, loss=1.625)],
            (
                "trial 3 is reproduced within the tolerance: 2 of 3 epochs differ, from epoch 2 "
                "on, mAP50 in none; the most loss by 0.25, at epoch 2"
            ),
        ),
        (
            [compared(1), compared(2, mAP50=0.5), compared(3, mAP50=0.3)],
            (
                "trial 3 is not reproduced: 2 of 3 epochs differ, from epoch 2 on, the most at "
                "epoch 2: mAP50 was 0.25, is 0.5"
            ),
        ),
        (
            [compared(1), compare(2, EPOCH, None, "mAP50", 0.01)],
            (
                "trial 3 is not reproduced: 1 of 2 epochs differs, the most at epoch 2: mAP50 was "
                "0.25, is none"
            ),
        ),
    ],
)
def test_the_verdict_is_a_sentence(epochs: list[ComparedEpoch], said: str) -> None:
    """How like, where the largest difference is and how large."""
    assert reproduction(*epochs).sentence() == said


OOM = Failure("out_of_memory: killed\n  a log's tail", 1)


@pytest.mark.parametrize(
    ("now", "sameness", "said"),
    [
        (Failure("out_of_memory: killed\n  another tail", 1), Sameness.EQUAL, "in the same way"),
        (Failure("out_of_memory: killed", 2), Sameness.CLOSE, "again, after epoch 2"),
        (Failure("out_of_memory: CUDA", 1), Sameness.CLOSE, "again, after epoch 1 (out_of_memory"),
        (Failure("error: no such file", 0), Sameness.DIFFERENT, "before its first epoch ended"),
        (None, Sameness.DIFFERENT, "does not fail there again"),
    ],
)
def test_a_failure_is_compared_too(now: Failure | None, sameness: Sameness, said: str) -> None:
    """The same reason at the same place is equal, the same reason elsewhere is close."""
    found = reproduction(compared(), state="failed", failure=OOM, failure_now=now)
    assert found.verdict is sameness
    assert "it failed after epoch 1 (out_of_memory: killed) and" in found.sentence()
    assert said in found.sentence()


def test_a_trial_that_fails_only_now_is_not_reproduced() -> None:
    """However equal its epochs were until then."""
    found = reproduction(compared(), failure_now=OOM)
    assert found.verdict is Sameness.DIFFERENT
    assert "now it fails after epoch 1 (out_of_memory: killed)" in found.sentence()


def test_a_failure_beyond_the_asked_epochs_is_not_judged() -> None:
    """With `--epochs` the training ends before it can fail; the sentence says how far it went."""
    found = reproduction(compared(), state="failed", failure=Failure("error: x", 2), until=1)
    assert found.verdict is Sameness.EQUAL
    assert found.sentence().startswith("trial 3 is reproduced up to epoch 1: it failed after")
