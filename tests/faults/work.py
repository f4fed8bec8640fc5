"""How much work was done again after each takeover, and whether that was allowed.

The rule, by the log. At a takeover let C be the newest checkpoint recorded whose files no fault
touched, and L the trial's last recorded epoch.

1. The attempt goes on after C, and records C+1, C+2, … one after the other.
2. Each of the epochs C+1 … L is accounted for. An epoch is excused when
   - the upload of its checkpoint had begun and was not done when its attempt was over, or
   - it ended while the upload of an earlier one was under way: only the newest one waits, or
   - a checkpoint of it or of a later epoch was damaged or removed by a fault, or
   - the store was full or unreachable when it ended, or until the retry after that.
   Of an attempt that was killed at most one epoch is not excused, of one that drained none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from faults import schedule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.record import Attempt, Record

RETRY_S = 11.0  # the longest pause before an upload is tried again, and a second for the upload


@dataclass(frozen=True)
class Takeover:
    """One attempt that continued another's trial.

    Attributes:
        attempt: it.
        before: the attempt that it followed.
        usable: epoch of the newest checkpoint that it could use; 0 for none.
        last: the last epoch recorded before it.
    """

    attempt: Attempt
    before: Attempt
    usable: int
    last: int

    @property
    def repeated(self) -> int:
        """Epochs to be trained again."""
        return self.last - self.usable


def takeovers(record: Record) -> list[Takeover]:
    """All that came as far as to continue the training."""
    found: list[Takeover] = []
    latest: dict[int, Attempt] = {}
    for attempt in record.attempts.values():
        before = latest.get(attempt.trial)
        latest[attempt.trial] = attempt
        if before is None or attempt.resumed is None:
            continue
        rows = record.checkpoints(attempt.trial, attempt.claimed)
        at = attempt.claimed.at
        usable = next((row["epoch"] for row in rows if record.usable(row, at)), 0)
        reported = record.of("epoch", trial=attempt.trial, before=attempt.claimed)
        last = max((one.after["epoch"] for one in reported), default=0)
        found.append(Takeover(attempt, before, usable, last))
    return found


def takeovers_continue(record: Record) -> Iterator[str]:
    """A trial goes on from its newest checkpoint that can be used, and misses no epoch."""
    for takeover in takeovers(record):
        attempt = takeover.attempt
        where = f"trial {record.numbers[attempt.trial]}, {attempt.token}"
        if attempt.resumed != takeover.usable:
            yield f"{where}: went on after {attempt.resumed}, could after {takeover.usable}"
        own = record.made(attempt)
        first = (attempt.resumed or 0) + 1
        if own != list(range(first, first + len(own))):
            yield f"{where}: went on after {attempt.resumed} and recorded {own}"


def work_is_kept(record: Record) -> Iterator[str]:
    """At most one completed epoch a kill is repeated, beside those the rule above excuses."""
    for takeover in takeovers(record):
        attempt = takeover.attempt
        unexcused: Counter[str] = Counter()
        reported = record.of("epoch", trial=attempt.trial, before=attempt.claimed)
        newest = {one.after["epoch"]: one for one in reported}
        for epoch in range(takeover.usable + 1, takeover.last + 1):
            maker = record.attempts[str(newest[epoch].caller)]
            spoilt = _was_spoilt(record, attempt, newest[epoch])
            if not spoilt and not _excused(record, maker, newest[epoch]):
                unexcused[maker.token] += 1
        for token, count in unexcused.items():
            allowed = 0 if record.attempts[token].ended == "released" else 1
            if count > allowed:
                yield (f"trial {record.numbers[attempt.trial]}: epochs after {takeover.usable} up "
                       f"to {takeover.last} are trained again; {count} of {token}, "
                       f"{record.attempts[token].ended}, are not excused")  # fmt: skip


def _was_spoilt(record: Record, attempt: Attempt, reported: Any) -> bool:
    """Whether a checkpoint that held this epoch was spoilt before the takeover.

    Its row may be gone by now: an earlier takeover has met it, and was killed before another epoch.
    """
    rows = record.of("checkpoint", trial=attempt.trial, before=attempt.claimed)
    held = (one.after for one in rows if one.op != "DELETE" and one.id > reported.id)
    return any(
        row["epoch"] >= reported.after["epoch"] and not record.usable(row, attempt.claimed.at)
        for row in held
    )


def _excused(record: Record, maker: Attempt, reported: Any) -> bool:
    epoch, over = reported.after["epoch"], maker.over.at
    for upload in maker.uploads:
        interrupted = upload.end is None and upload.next is None
        if upload.epoch == epoch and (interrupted or (upload.end or 0.0) > over):
            return True
        if upload.begin <= reported.at <= (upload.end or upload.next or over):
            return True
    away = record.windows(schedule.FULL, schedule.AWAY)
    return any(begin <= reported.at <= end + RETRY_S for begin, end in away)


CHECKS = (takeovers_continue, work_is_kept)
