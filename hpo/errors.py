"""Every way to fail that a caller or a user meets, with exit code and hint.

HpoError                      exit 1: the thing asked for failed
├── UsageError                exit 2: wrong usage or input
│   ├── FaultsError           several faults of one input, reported at once
│   │   ├── SpecError         a study file
│   │   ├── SpaceError        a search-space file
│   │   ├── DatasetError      a dataset
│   │   └── NodesError        nodes of a Ray cluster
│   ├── UnknownStudyError     no study of that name, or no single open one
│   ├── StudyExistsError      a study of that name is there already
│   └── StudyClosedError      the study takes no more of that
├── ServiceError              exit 3: a service cannot be reached
│   ├── DatabaseError
│   ├── TrackingError
│   ├── ClusterError
│   └── StoreError            the artifact store, which may also be full
├── SchemaError               the database's tables are not those of this version
├── MismatchError             this machine's code or data is not what the study was made with
│   └── MissingDatasetError   exit 2, a UsageError too: the data is neither here nor pushed
├── TrialError                a trial ends FAIL; its `reason` is one of TRIAL_FAIL_REASONS
├── RepeatedFailureError      trials in a row that fail with the same error
├── ChampionError             the champion on record or in MLflow is not what the act needs
├── WeightsError              weights that are missing, damaged or altered
├── ExportError               an exported model that does not find what its weights find
├── CheckpointError           a checkpoint that a training cannot be continued from
└── StorageFullError          no space left on a device

The message gives the value seen and the value expected; `hint` the command that mends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

TRIAL_FAIL_REASONS = ("diverged", "out_of_memory", "crashed", "hung", "error")


class HpoError(Exception):
    """Base of all errors of this project.

    Attributes:
        exit_code: what the command line exits with.
        hint: what to do next, as one sentence or command; "" when there is nothing to say.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Ray and the training process send errors between processes; keyword arguments
        # are not in Exception.args.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(kind: type[HpoError], args: tuple[object, ...], state: dict[str, object]) -> HpoError:
    error = kind.__new__(kind)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


class UsageError(HpoError):
    """Wrong usage or input."""

    exit_code = 2


class FaultsError(UsageError):
    """All faults of one input, reported at once.

    Attributes:
        what: the input, for instance a file's name.
        faults: one sentence each, starting with the key it speaks of.
    """

    def __init__(self, what: str, faults: Sequence[str], *, hint: str = "") -> None:
        self.what = what
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(f"{what}: {count}{lines}", hint=hint)


class SpecError(FaultsError):
    """Faults of a study file."""


class SpaceError(FaultsError):
    """Faults of a search-space file."""


class DatasetError(FaultsError):
    """Faults of a dataset."""


class NodesError(FaultsError):
    """Nodes of a Ray cluster that cannot run workers, and why each cannot.

    Attributes:
        passing: whether services that they cannot reach are all that they lack; exit code 3 then.
    """

    def __init__(self, what: str, faults: Sequence[str], *, passing: bool = False) -> None:
        super().__init__(what, faults)
        self.passing = passing
        if passing:
            self.exit_code = ServiceError.exit_code


class UnknownStudyError(UsageError):
    """No study of that name, or no single open study to take by default."""


class StudyExistsError(UsageError):
    """A study of that name exists; `--exist-ok` takes it when the specs are equal."""


class StudyClosedError(UsageError):
    """The study is finished or stopped and does not take what was asked."""


class ServiceError(HpoError):
    """A service cannot be reached."""

    exit_code = 3


class DatabaseError(ServiceError):
    """PostgreSQL cannot be reached, or refuses the user, the password or the database."""


class TrackingError(ServiceError):
    """MLflow cannot be reached."""


class ClusterError(ServiceError):
    """Ray cannot be reached or started."""


class StoreError(ServiceError):
    """The artifact store cannot be reached, written or read, or is full; it may pass."""


class SchemaError(HpoError):
    """The database's tables are older or newer than this version of the code knows."""


class MismatchError(HpoError):
    """This machine's code or data differs from what the study was created with."""


class MissingDatasetError(MismatchError, UsageError):
    """A study's dataset is not whole on this machine, and was not pushed to the artifact store."""


class TrialError(HpoError):
    """A trial ends FAIL.

    Attributes:
        reason: one of TRIAL_FAIL_REASONS.
    """

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        if reason not in TRIAL_FAIL_REASONS:
            message = f"{reason}: {message}"
            reason = "error"
        self.reason = reason
        super().__init__(message, hint=hint)


class RepeatedFailureError(HpoError):
    """Several trials in a row failed with the same error; the budget is kept for the mended run."""


class ChampionError(HpoError):
    """There is no champion, MLflow lacks it, or its alias was moved outside this service."""


class WeightsError(HpoError):
    """Weights are missing, damaged, or not those whose sha256 was stored."""


class ExportError(HpoError):
    """An export cannot be made here, or does not find what its weights find: it is not used."""


class CheckpointError(HpoError):
    """A checkpoint that a training cannot be continued from; the one before it may do."""


class StorageFullError(HpoError):
    """No space is left on a device."""
