"""hpo.errors: the names that others may catch, and what each ends a command with."""

from __future__ import annotations

import inspect
import pickle

import pytest

from hpo import errors
from hpo.errors import HpoError, SpecError, TrialError

# name -> (exit code, base)
PUBLIC = {
    "HpoError": (1, "Exception"),
    "UsageError": (2, "HpoError"),
    "FaultsError": (2, "UsageError"),
    "SpecError": (2, "FaultsError"),
    "SpaceError": (2, "FaultsError"),
    "DatasetError": (2, "FaultsError"),
    "NodesError": (2, "FaultsError"),
    "UnknownStudyError": (2, "UsageError"),
    "StudyExistsError": (2, "UsageError"),
    "StudyClosedError": (2, "UsageError"),
    "ServiceError": (3, "HpoError"),
    "DatabaseError": (3, "ServiceError"),
    "TrackingError": (3, "ServiceError"),
    "ClusterError": (3, "ServiceError"),
    "StoreError": (3, "ServiceError"),
    "SchemaError": (1, "HpoError"),
    "MismatchError": (1, "HpoError"),
    "MissingDatasetError": (2, "MismatchError"),
    "TrialError": (1, "HpoError"),
    "RepeatedFailureError": (1, "HpoError"),
    "ChampionError": (1, "HpoError"),
    "WeightsError": (1, "HpoError"),
    "ExportError": (1, "HpoError"),
    "CheckpointError": (1, "HpoError"),
    "StorageFullError": (1, "HpoError"),
}


def classes() -> list[type[HpoError]]:
    """The error classes that the file defines."""
    return [
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, HpoError)
    ]


def test_the_tree_is_what_others_may_rely_on() -> None:
    """No error is renamed, moved or given another exit code by accident."""
    found = {kind.__name__: (kind.exit_code, kind.__mro__[1].__name__) for kind in classes()}
    assert found == PUBLIC


def test_the_tree_in_the_docstring_names_every_class() -> None:
    """The drawing at the file's top is complete."""
    drawing = errors.__doc__ or ""
    assert [name for name in PUBLIC if name not in drawing] == []


@pytest.mark.parametrize(
    "error",
    [
        HpoError("no", hint="do this"),
        SpecError("hpo.yaml", ["a: is wrong", "b: too"], hint="`hpo init`"),
        TrialError("diverged", "loss is NaN at epoch 3"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_the_way_between_processes(error: HpoError) -> None:
    """Message, hint and further attributes arrive as they were sent."""
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_a_reason_that_is_none_is_kept_in_words() -> None:
    """A trial's reason is one of five words; another one is not lost."""
    error = TrialError("melted", "the board is gone")
    assert error.reason == "error"
    assert str(error) == "melted: the board is gone"
