"""A whole study as plain values: what belongs to it, and what can be wrong with it.

The content is one row `study` and lists of rows by section. A row is a mapping of every column to
a JSON value: times are ISO 8601 text with microseconds, those with an offset are UTC; figures that
JSON lacks are the texts NaN, Infinity and -Infinity. Trials go by their number, workers by their
place in the list of workers, counted from 1. `finals` is the content of the study's finals, which
have none of their own, or null.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from hpo.studies.finals import SUFFIX
from hpo.studies.names import name_fault
from hpo.studies.spec import StudySpec

Row = dict[str, Any]

STATES = {"fail": "failed"}  # the others are Optuna's names in small letters

STUDY = (
    "name", "uid", "spec", "spec_sha256", "dataset_fingerprint", "code_version", "trials",
    "timeout_s", "state", "created_at", "first_claim_at", "test_fingerprint", "model_sha256",
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A list of rows.

    Attributes:
        key: the columns that tell its rows apart, and sort them.
        others: all other columns.
    """

    key: tuple[str, ...]
    others: tuple[str, ...]

    def sorted(self, rows: list[Row]) -> list[Row]:
        """The rows in the one order that equal studies have."""
        return sorted(rows, key=self.identity)

    def identity(self, row: Row) -> tuple[Any, ...]:
        """What tells a row from the others."""
        return tuple(row[column] for column in self.key)


# In the order in which they can be written.
SECTIONS = {
    "directions": Section(("objective",), ("direction",)),
    "study_user_attrs": Section(("key",), ("value_json",)),
    "study_system_attrs": Section(("key",), ("value_json",)),
    "trials": Section(("trial",), ("state", "datetime_start", "datetime_complete")),
    # optuna-dashboard keeps what it knows of a trial with the study, under keys with its id
    "notes": Section(("trial", "before", "after"), ("value_json",)),
    "params": Section(("trial", "param_name"), ("param_value", "distribution_json")),
    "values": Section(("trial", "objective"), ("value", "value_type")),
    "intermediate_values": Section(
        ("trial", "step"), ("intermediate_value", "intermediate_value_type")
    ),
    "trial_user_attrs": Section(("trial", "key"), ("value_json",)),
    "trial_system_attrs": Section(("trial", "key"), ("value_json",)),
    "workers": Section(
        ("worker",),
        ("host", "pid", "device", "started_at", "seen_at", "ended_at", "ended_why", "environment"),
    ),
    "leases": Section(
        ("trial",),
        ("worker", "claimed_at", "takeovers", "deaths", "told_at", "told_state", "value",
         "best_epoch", "reason"),
    ),
    "attempts": Section(
        ("trial", "attempt"),
        ("worker", "claimed_at", "ended_at", "ended", "resumed_epoch", "note"),
    ),
    "epochs": Section(("trial", "epoch"), ("metrics", "recorded_at")),
    "artifacts": Section(("trial", "name"), ("sha256", "bytes", "epoch", "recorded_at")),
    "checkpoints": Section(
        ("trial", "epoch"),
        ("attempt", "sha256", "bytes", "best_epoch", "best_sha256", "best_bytes", "recorded_at"),
    ),
    "promotions": Section(
        ("place",),
        ("promotion_id", "decided_at", "outcome", "model", "alias", "trial_number", "version",
         "previous_version", "override", "why", "actor", "evidence"),
    ),
    # Of finals: which trial of their study each one looks at again
    "final": Section(("trial",), ("of_trial", "seed", "trained")),
}  # fmt: skip


@dataclass(frozen=True)
class StudyDocument:
    """A study.

    Attributes:
        content: `study` and the sections; equal for equal studies.
        made: who wrote it and where its files are; may differ between equal studies.
            `artifacts` is the place of the artifact store; there lies each checkpoint in the area
            of the study `uid` and of the attempt that `tokens` has by `trial/epoch`. `finals` has
            these two of the finals.
    """

    content: Any
    made: dict[str, Any]

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.content["study"]["name"])

    @property
    def finals(self) -> StudyDocument | None:
        """The study's finals, as a study; None where there are none."""
        if self.content["finals"] is None:
            return None
        made = self.made.get("finals")  # nobody checks it
        return StudyDocument(
            self.content["finals"] | {"finals": None}, made if isinstance(made, dict) else {}
        )

    def summary(self) -> dict[str, Any]:
        """Counts of what the study holds and of the files that belong to it; JSON-able.

        `starts_from` is the study's `model` where that is a file, else None.
        """
        content, finals = self.content, self.content["finals"]
        both = [content] if finals is None else [content, finals]
        artifacts = [row for one in both for row in one["artifacts"]]
        checkpoints = [row for one in both for row in one["checkpoints"]]
        study = content["study"]
        return {
            "study": self.name,
            "trials": _states(content),
            "budget": study["trials"],
            "starts_from": study["spec"]["model"] if study["model_sha256"] else None,
            "epochs": len(content["epochs"]),
            "finals": None if finals is None else _states(finals),
            "promotions": len(content["promotions"]),
            "artifacts": _files(artifacts, ""),
            "checkpoints": _files(checkpoints, "", "best_"),
        }

    def sha256(self) -> str:
        """Hex digest of the content."""
        # PostgreSQL's text has no lone surrogates, but an altered file may
        text = compact(self.content).encode(errors="surrogatepass")
        return hashlib.sha256(text).hexdigest()

    def renamed(self, name: str) -> StudyDocument:
        """A copy of the document under another name, as a study of its own.

        Decisions about the study under its own name are left out.
        """
        if name == self.name:
            return self
        finals = self.content["finals"]
        changed: dict[str, Any] = {
            "finals": finals and _renamed(finals, name + SUFFIX),
            "promotions": [],
        }
        return replace(self, content=_renamed(self.content, name) | changed)


def _renamed(content: dict[str, Any], name: str) -> dict[str, Any]:
    study = content["study"]
    spec = replace(StudySpec.from_dict(study["spec"]), study=name)
    own: Row = {"name": name, "uid": str(uuid.uuid4())}
    own |= {"spec": spec.to_dict(), "spec_sha256": spec.sha256()}
    attrs = [
        row | ({"value_json": json.dumps(spec.sha256())} if row["key"] == _SHOWN_SHA256 else {})
        for row in content["study_user_attrs"]
    ]
    return content | {"study": study | own, "study_user_attrs": attrs}


def _states(content: dict[str, Any]) -> dict[str, int]:
    """How many trials are in each state."""
    states = Counter(row["state"].lower() for row in content["trials"])
    return {STATES.get(state, state): count for state, count in sorted(states.items())}


_SHOWN_SHA256 = "hpo:spec_sha256"
_SHA256 = re.compile("[0-9a-f]{64}")


def _files(rows: list[Row], *prefixes: str) -> dict[str, int]:
    """How many different files, and bytes, rows name in `PREFIXsha256` and `PREFIXbytes`."""
    sizes = {row[f"{one}sha256"]: row[f"{one}bytes"] for row in rows for one in prefixes}
    sizes.pop(None, None)
    return {"files": len(sizes), "bytes": sum(sizes.values())}


def compact(value: Any) -> str:
    """JSON with sorted keys and nothing else that could differ."""
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def faults(content: Any) -> list[str]:
    """Everything that does not belong into a study, in words; [] when all is well."""
    if not isinstance(content, dict) or "finals" not in content:
        return ["content: is no mapping with `finals`"]
    own = {name: part for name, part in content.items() if name != "finals"}
    found = _faults(own)
    if not found and own["final"]:
        found = ["final: is for finals alone"]
    if found or content["finals"] is None:
        return found
    return [f"finals.{fault}" for fault in _finals_faults(content["finals"], own)]


def _finals_faults(finals: Any, parent: dict[str, Any]) -> list[str]:
    name = parent["study"]["name"] + SUFFIX
    if found := _faults(finals, name):
        return found
    if finals["study"]["model_sha256"] != parent["study"]["model_sha256"]:
        return ["study.model_sha256: is not that of the study whose finals they are"]
    trials = {row["trial"] for row in parent["trials"]}
    return [
        f"final: '{parent['study']['name']}' has no trial {row['of_trial']}"
        for row in finals["final"]
        if row["of_trial"] not in trials
    ]


def _faults(content: Any, name: str | None = None) -> list[str]:
    """The faults of one study, which is called `name` if that is known."""
    if not isinstance(content, dict):
        return ["content: is no mapping"]
    names = {"study", *SECTIONS}
    found = [f"{name}: is missing" for name in sorted(names - content.keys())]
    found += [f"{name}: is not known" for name in sorted(content.keys() - names)]
    if found:
        return found
    found = _study_faults(content["study"], name)
    for part, section in SECTIONS.items():
        found += _row_faults(part, section, content[part])
    return found or _reference_faults(content)


def _study_faults(study: Any, name: str | None) -> list[str]:
    if not isinstance(study, dict) or study.keys() != set(STUDY):
        return [f"study: the keys {', '.join(STUDY)} are expected"]
    if fault := _name_fault(study["name"], name):
        return [f"study.name: {fault}"]
    try:
        spec = StudySpec.from_dict(study["spec"])
        uuid.UUID(study["uid"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return [f"study: cannot be read ({type(error).__name__}: {error})"]
    sha256 = study["model_sha256"]
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        return ["study.model_sha256: is no sha256"]
    return [] if spec.study == study["name"] else [f"study.spec.study: is {spec.study!r}"]


def _name_fault(given: Any, expected: str | None) -> str:
    if expected is not None:
        return "" if given == expected else f"is {given!r}, {expected!r} is expected"
    return name_fault(given, "/:") if isinstance(given, str) else "is no text"


def _row_faults(name: str, section: Section, rows: Any) -> list[str]:
    columns = {*section.key, *section.others}
    if not isinstance(rows, list):
        return [f"{name}: is no list"]
    for place, row in enumerate(rows, 1):
        if not isinstance(row, dict) or row.keys() != columns:
            return [f"{name}, row {place}: the keys {', '.join(sorted(columns))} are expected"]
        kinds = {type(part) for part in section.identity(row)}
        kinds |= {type(row.get(other, 0)) for other in ("worker", "attempt")} - {type(None)}
        if not kinds <= {int, str}:
            return [f"{name}, row {place}: {section.identity(row)} cannot name a row"]
    counted = Counter(section.identity(row) for row in rows)
    return [f"{name}: {key} stands {count} times" for key, count in counted.items() if count > 1]


def _reference_faults(content: dict[str, Any]) -> list[str]:
    """Rows that speak of a trial, worker or attempt that is not there."""
    trials = {row["trial"] for row in content["trials"]}
    workers = {row["worker"] for row in content["workers"]} | {None}
    attempts = {(row["trial"], row["attempt"]) for row in content["attempts"]}
    found = [
        f"{name}: there is no trial {row['trial']}"
        for name, section in SECTIONS.items()
        for row in content[name]
        if "trial" in section.key and row["trial"] not in trials
    ]
    found += [
        f"{name}: there is no worker {row['worker']}"
        for name in ("leases", "attempts")
        for row in content[name]
        if row["worker"] not in workers
    ]
    found += [
        f"checkpoints: trial {row['trial']} has no attempt {row['attempt']}"
        for row in content["checkpoints"]
        if (row["trial"], row["attempt"]) not in attempts
    ]
    return found
