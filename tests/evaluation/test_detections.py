"""Detections as a file: the same bytes for the same, and never half of them."""

from __future__ import annotations

import gc
import warnings
import zipfile
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.found import Drawn, draw

from hpo.errors import WeightsError
from hpo.evaluation.detections import Detections

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("drawn", [Drawn(), Drawn(images=1, objects=0, wrong=0)])
def test_what_is_saved_is_loaded(tmp_path: Path, drawn: Drawn) -> None:
    """Every field with its values and its type, empty ones too."""
    found = draw(1, drawn)
    found.save(tmp_path / "detections.npz")
    again = Detections.load(tmp_path / "detections.npz")
    for item in fields(Detections):
        one, other = getattr(found, item.name), getattr(again, item.name)
        assert type(one) is type(other)
        assert np.asarray(one).dtype == np.asarray(other).dtype
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("stored", "loaded"),
    [
        (("images/test/a.png", "images/test/b.png"), ("a.png", "b.png")),
        (("../x/test/1/a.png", "../x/test/2/a.png#2"), ("1/a.png", "2/a.png#2")),
        (("a.png", "a.png#2"), ("a.png", "a.png#2")),
        (("a/test/1.png", "b/test/1.png"), ("a/test/1.png", "b/test/1.png")),
    ],
)
def test_names_do_not_hang_on_where_the_dataset_lay(
    tmp_path: Path, stored: tuple[str, ...], loaded: tuple[str, ...]
) -> None:
    """A champion and a challenger that were evaluated on two copies can be compared."""
    found = replace(draw(1, Drawn(images=2)), images=stored)
    found.save(tmp_path / "detections.npz")
    assert Detections.load(tmp_path / "detections.npz").images == loaded


def test_the_same_detections_give_the_same_bytes(tmp_path: Path) -> None:
    """Whenever they are written: the archive holds no time of its own."""
    for name in ("a", "b"):
        draw(1).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {1980}
    draw(1, model=1).save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    """At any length, the empty one too."""
    path = tmp_path / "detections.npz"
    draw(1).save(path)
    whole = path.read_bytes()
    for length in [0, 1, *range(10, len(whole), len(whole) // 20), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="holds no detections"):
            Detections.load(path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """Bytes overwritten in the middle of the data are noticed."""
    path = tmp_path / "detections.npz"
    draw(1).save(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        starts = [member.header_offset + 100 for member in archive.infolist()]
        large = [s for s, m in zip(starts, archive.infolist(), strict=True) if m.file_size > 500]
    assert large
    for start in large:
        path.write_bytes(whole[:start] + b"\xff" * 8 + whole[start + 8 :])
        with pytest.raises(WeightsError, match="holds no detections"):
            Detections.load(path)


def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """Wherever it is, in the archive's own records too."""
    path, found = tmp_path / "detections.npz", draw(1, Drawn(images=2))
    found.save(path)
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            again = Detections.load(path)
        except WeightsError:
            refused += 1
            continue
        for item in fields(Detections):
            assert np.array_equal(getattr(found, item.name), getattr(again, item.name))
    assert refused > len(whole) // 11 // 2


def test_a_refused_file_is_closed(tmp_path: Path) -> None:
    """Nothing keeps it open, so that it can be fetched anew."""
    path = tmp_path / "detections.npz"
    draw(1).save(path)
    path.write_bytes(path.read_bytes()[:200])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(WeightsError):
            Detections.load(path)
        gc.collect()
    assert [str(one.message) for one in seen] == []


def test_another_archive_is_refused(tmp_path: Path) -> None:
    """One that lacks a part or is of another scheme."""
    path = tmp_path / "other.npz"
    np.savez_compressed(path, scheme=np.array(1))
    with pytest.raises(WeightsError, match="holds no detections"):
        Detections.load(path)
    found = draw(1)
    arrays = {item.name: np.asarray(getattr(found, item.name)) for item in fields(Detections)}
    np.savez_compressed(path, scheme=np.array(2), allow_pickle=False, **arrays)
    with pytest.raises(WeightsError, match="scheme 2, expected 1"):
        Detections.load(path)
