"""The file of a study: the same bytes for the same study, and no other file is taken for one."""

from __future__ import annotations

import gzip
import json
import os
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.studies import simulated_spec

from hpo.errors import FaultsError, SchemaError, UsageError
from hpo.studies.backup.document import SECTIONS, StudyDocument, faults
from hpo.studies.backup.file import VERSION, from_bytes, read, to_bytes, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UID = "5f6f4a4e-3a53-4f0b-9d0c-3f0d8a9c1b11"


@pytest.fixture
def document() -> StudyDocument:
    """A study of one trial with two epochs."""
    spec = simulated_spec(study="größe")
    study = {
        "name": "größe", "uid": UID, "spec": spec.to_dict(), "spec_sha256": spec.sha256(),
        "dataset_fingerprint": None, "code_version": "1", "trials": 6, "timeout_s": None,
        "state": "open", "created_at": "2026-01-02T03:04:05.000006+00:00", "first_claim_at": None,
        "test_fingerprint": None, "model_sha256": "a" * 64,
    }  # fmt: skip
    content: dict[str, Any] = {"study": study, "finals": None} | {name: [] for name in SECTIONS}
    ran = {"state": "RUNNING", "datetime_start": None, "datetime_complete": None}
    content["trials"] = [{"trial": 0, **ran}]
    content["epochs"] = [
        {"trial": 0, "epoch": epoch, "metrics": {"mAP50": epoch / 3}, "recorded_at": "2026-01-02"}
        for epoch in (1, 2)
    ]
    content["study_user_attrs"] = [
        {"key": "hpo:spec_sha256", "value_json": json.dumps(spec.sha256())}
    ]
    return StudyDocument(content, {"by": "a test", "artifacts": "here", "uid": UID, "tokens": {}})


def changed(document: StudyDocument, **sections: Any) -> StudyDocument:
    return replace(document, content=document.content | sections)


# The file


@pytest.mark.parametrize("name", ["study.json", "study.json.gz", "no suffix"])
def test_what_is_written_is_read(document: StudyDocument, tmp_path: Path, name: str) -> None:
    """Plain or compressed by its name; nothing else is left in the folder."""
    size = write(document, tmp_path / name)
    assert read(tmp_path / name) == document
    assert [file.name for file in tmp_path.iterdir()] == [name]
    data = (tmp_path / name).read_bytes()
    assert len(data) == size
    assert data.startswith(b"\x1f\x8b") == name.endswith(".gz")


def test_equal_documents_are_equal_bytes_with_a_row_a_line(document: StudyDocument) -> None:
    """Whatever order its keys had, and `diff` shows single rows."""
    shuffled = dict(sorted(document.content.items(), reverse=True))
    other = replace(document, content=shuffled)
    for compressed in (False, True):
        data = to_bytes(document, compressed=compressed)
        assert to_bytes(other, compressed=compressed) == data
    lines = to_bytes(document).decode().splitlines()
    assert sum(line.startswith('{"epoch":') for line in lines) == 2


def test_who_made_it_is_no_part_of_the_study(document: StudyDocument) -> None:
    """Its hash is that of the content; a strange `made` does no harm."""
    other = replace(document, made={"tokens": 3})
    assert other.sha256() == document.sha256()
    assert from_bytes(to_bytes(other), "f").content == document.content
    data = json.dumps(json.loads(to_bytes(document)) | {"made": ["?"]}).encode()
    assert from_bytes(data, "f").made == {}


def test_any_altered_or_cut_file_is_refused(document: StudyDocument) -> None:
    """Whichever byte of the content changes, and wherever it ends."""
    rng = random.Random(0)
    for compressed in (False, True):
        data = to_bytes(document, compressed=compressed)
        first = 40 if compressed else data.index(b'"directions"')
        last = len(data) - 9 if compressed else data.index(b'"format"')
        for place in rng.sample(range(first, last), 60):
            if not compressed and data[place : place + 1].isspace():
                continue
            altered = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            with pytest.raises(UsageError, match=r"was altered|no export|was cut"):
                from_bytes(altered, "f")
            with pytest.raises(UsageError, match=r"no export|was cut"):
                from_bytes(data[:place], "f")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is no JSON"),
        (b"PK\x03\x04 zip", "it is no JSON"),
        (b'["a list"]', "it is no JSON"),
        (b"{}", "its format is 'hpo-study'"),
        (b'{"format": "hpo-study"}', "its version is None"),
        (b'{"format": "hpo-study", "version": NaN}', "NaN is no JSON"),
        (b'{"a": ' * 100_000, "it is no JSON"),
        (b'{"format": "\xff"}', "it is no JSON"),
        (b'{"content": {"a": "\\ud800"}, "format": "hpo-study", "version": 1}', "was altered"),
        (gzip.compress(b"text", mtime=0), "it is no JSON"),
    ],
)  # fmt: skip
def test_another_file_is_no_export(data: bytes, why: str) -> None:
    """It is told in words, whatever it is."""
    with pytest.raises(UsageError, match=why) as caught:
        from_bytes(data, "some file")
    assert "some file" in str(caught.value)
    assert "hpo export" in caught.value.hint or "export the study again" in caught.value.hint


def test_a_file_of_version_2_knew_no_file_that_trainings_start_from(
    document: StudyDocument,
) -> None:
    """Neither its study's nor its finals'."""
    study = {
        key: value for key, value in document.content["study"].items() if key != "model_sha256"
    }
    finals = document.renamed("größe/finals").content
    del finals["finals"]
    finals["study"].pop("model_sha256")
    old = changed(document, study=study, finals=finals)
    file = {"format": "hpo-study", "version": 2, "sha256": old.sha256(), "content": old.content}
    read_now = from_bytes(json.dumps(file).encode(), "f").content
    assert read_now["study"] == study | {"model_sha256": None}
    assert read_now["finals"]["study"] == finals["study"] | {"model_sha256": None}


def test_a_file_of_a_newer_version_is_refused_with_what_mends_it(document: StudyDocument) -> None:
    """Before its content is looked at, which may have another form."""
    newer = json.loads(to_bytes(document)) | {"version": VERSION + 1, "content": "of the future"}
    with pytest.raises(
        SchemaError, match="version 4 of its format, this package knows 3"
    ) as caught:
        from_bytes(json.dumps(newer).encode(), "f")
    assert "pip install --upgrade" in caught.value.hint


# Where it is written


def test_a_file_is_replaced_only_when_asked(document: StudyDocument, tmp_path: Path) -> None:
    """And then at once; a link to it stays one."""
    file, link = tmp_path / "study.json", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to(file)
    with pytest.raises(UsageError, match="exists") as caught:
        write(document, file)
    assert "--force" in caught.value.hint
    assert file.read_text() == "mine"
    write(document, link, force=True)
    assert link.is_symlink()
    assert read(file) == document


def test_a_place_that_is_no_file_is_refused(document: StudyDocument, tmp_path: Path) -> None:
    """A folder, a pipe, a missing folder; with --force too."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place, why in ((tmp_path, "is no file"), (pipe, "is no file"),
                       (tmp_path / "a" / "b", "there is no folder")):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            write(document, place, force=True)
    for place, why in ((tmp_path, "is no file"), (pipe, "is no file"),
                       (tmp_path / "none", "does not exist")):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            read(place)


def test_a_write_that_fails_leaves_the_old_file(document: StudyDocument, tmp_path: Path) -> None:
    """The draft is removed and the first file is whole."""
    file = tmp_path / "study.json"
    write(document, file)
    before = file.read_bytes()
    unwritable = replace(document, made={"by": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(unwritable, file, force=True)
    name = tmp_path / ("n" * 250)  # its draft's name is too long for any file system
    with pytest.raises(OSError, match="too long"):
        write(document, name)
    assert [one.name for one in tmp_path.iterdir()] == ["study.json"]
    assert file.read_bytes() == before


def test_finals_stand_in_it_with_a_row_a_line(document: StudyDocument, tmp_path: Path) -> None:
    """As the study's own rows; read again they are a study below it."""
    whole = with_finals(document)
    write(whole, tmp_path / "f")
    assert read(tmp_path / "f") == whole
    lines = (tmp_path / "f").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith('{"epoch":') for line in lines) == 4
    assert whole.sha256() != document.sha256()
    finals = whole.finals
    assert finals is not None
    assert (finals.name, finals.finals, finals.made) == ("größe/finals", None, {"uid": "u"})
    assert document.finals is None
    assert whole.summary()["finals"] == {"running": 1}


def with_finals(document: StudyDocument, **changes: Any) -> StudyDocument:
    """The document with finals of its one trial."""
    spec = simulated_spec(study="größe/finals")
    own = {"name": spec.study, "spec": spec.to_dict(), "spec_sha256": spec.sha256()}
    finals = {name: part for name, part in document.content.items() if name != "finals"} | {
        "study": document.content["study"] | own,
        "final": [{"trial": 0, "of_trial": 0, "seed": 7, "trained": True}],
    }
    made = document.made | {"finals": {"uid": "u"}}
    return replace(changed(document, finals=finals | changes), made=made)


# What is in it


def break_finals(document: StudyDocument) -> StudyDocument:
    return with_finals(document, study=document.content["study"], epochs=[{}])


def finals_of_trial(number: int) -> Callable[[StudyDocument], StudyDocument]:
    rows = [{"trial": 0, "of_trial": number, "seed": 7, "trained": True}]
    return lambda document: with_finals(document, final=rows)


def break_rows(document: StudyDocument) -> StudyDocument:
    return changed(document, params=[{"trial": 0}], values="none", notes=[[]])


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (lambda d: changed(d, more=[]), ["more: is not known"]),
        (lambda d: replace(d, content={"study": {}, "finals": None}), ["trials: is missing"]),
        (lambda d: replace(d, content=None), ["content: is no mapping"]),
        (lambda d: changed(d, finals=[]), ["finals.content: is no mapping"]),
        (
            break_finals,
            ["finals.study.name: is 'größe', 'größe/finals' is", "finals.epochs, row 1: the keys"],
        ),
        (finals_of_trial(3), ["finals.final: 'größe' has no trial 3"]),
        (
            lambda d: changed(d, final=with_finals(d).content["finals"]["final"]),
            ["final: is for finals alone"],
        ),
        (break_rows, ["params, row 1: the keys", "values: is no list", "notes, row 1: the keys"]),
        (lambda d: changed(d, trials=[]), ["epochs: there is no trial 0"]),
        (lambda d: changed(d, trials=d.content["trials"] * 2), ["trials: (0,) stands 2 times"]),
        (lambda d: changed(d, study={"name": 1}), ["study: the keys name, uid"]),
        (
            lambda d: changed(d, study=d.content["study"] | {"name": "a/b"}),
            ["study.name: 'a/b' must not have '/'"],
        ),
        (
            lambda d: changed(d, study=d.content["study"] | {"name": "x"}),
            ["study.spec.study: is 'größe'"],
        ),
        (
            lambda d: changed(d, study=d.content["study"] | {"spec": {}}),
            ["study: cannot be read (KeyError"],
        ),
        (
            lambda d: changed(d, directions=[{"objective": [], "direction": "MAXIMIZE"}]),
            ["directions, row 1: ([],) cannot name a row"],
        ),
    ],
)
def test_parts_that_do_not_fit_are_all_told(
    document: StudyDocument, broken: Callable[[StudyDocument], StudyDocument], expected: list[str]
) -> None:
    """Even where the hash is right: the file was then made by hand, or by a fault of ours."""
    bad = broken(document)
    found = faults(bad.content)
    for sentence in expected:
        assert any(fault.startswith(sentence) for fault in found), found
    file = {
        "format": "hpo-study",
        "version": VERSION,
        "sha256": bad.sha256(),
        "content": bad.content,
    }
    with pytest.raises(FaultsError) as caught:
        from_bytes(json.dumps(file).encode(), "f")
    assert list(caught.value.faults) == found


def test_the_sha256_of_a_models_file_is_one(document: StudyDocument) -> None:
    """A place in the store is made of it."""
    for wrong in ("../../../etc/passwd", "", 5, True, ["a"]):
        study = document.content["study"] | {"model_sha256": wrong}
        assert "model_sha256" in faults(changed(document, study=study).content)[0]
    finals = document.renamed("größe/finals").content
    del finals["finals"]
    assert faults(changed(document, finals=finals).content) == []
    finals["study"] |= {"model_sha256": None}
    assert "whose finals" in faults(changed(document, finals=finals).content)[0]


def test_another_name_is_another_study(document: StudyDocument) -> None:
    """Name, spec and uid are its own; under its own name it stays what it is."""
    assert document.renamed("größe") is document
    other = document.renamed("other")
    assert faults(other.content) == []
    spec = simulated_spec(study="other")
    study = other.content["study"]
    assert (study["name"], study["spec_sha256"]) == ("other", spec.sha256())
    assert study["uid"] != UID
    assert other.content["study_user_attrs"][0]["value_json"] == json.dumps(spec.sha256())
    assert other.made["uid"] == UID
    both = with_finals(document).renamed("other")
    assert faults(both.content) == []
    assert both.finals is not None
    assert (both.finals.name, both.finals.content["study"]["uid"] != UID) == ("other/finals", True)
    assert document.content["study"]["uid"] == UID
