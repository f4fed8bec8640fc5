"""`hpo predict` takes the images meant, draws what was found, and overwrites none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from hpo.cli.predict import destinations, draw, find_pictures, upright
from hpo.errors import FaultsError, UsageError
from hpo.tracking.loading import Reference, read_reference

if TYPE_CHECKING:
    from pathlib import Path


def image(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(path)
    return path


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("shapes", Reference("shapes")),
        ("shapes@previous", Reference("shapes", alias="previous")),
        ("shapes/12", Reference("shapes", number=12)),
        ("models:/shapes@champion", Reference("shapes", alias="champion")),
        ("models:/shapes/3", Reference("shapes", number=3)),
    ],
)
def test_a_model_is_named_as_people_and_mlflow_name_it(text: str, meant: Reference) -> None:
    """Name, alias and version, with MLflow's scheme or without."""
    assert read_reference(text) == meant


@pytest.mark.parametrize(
    "text", ["", "models:/", "a@", "a/", "a/x", "a/1@b", "@champion", "runs:/1/model", "s3://b/k"]
)
def test_what_names_no_registered_model_is_refused(text: str) -> None:
    """The message shows what was given and the forms that are taken."""
    with pytest.raises(UsageError, match="expected NAME, NAME@ALIAS or NAME/VERSION") as caught:
        read_reference(text)
    assert repr(text) in str(caught.value)


def test_files_and_folders_are_taken_in_order_and_once(tmp_path: Path) -> None:
    """A folder's images by name, at any depth; other files in it do not matter."""
    lone = image(tmp_path / "z.png")
    folder = tmp_path / "folder"
    for name in ("b.jpg", "a.png", "deep/c.PNG"):
        image(folder / name)
    (folder / "notes.txt").write_text("no image")
    found = find_pictures([lone, folder, folder / "a.png"])
    assert [one.path for one in found] == [
        lone, folder / "a.png", folder / "b.jpg", folder / "deep" / "c.PNG",
    ]  # fmt: skip


def test_a_file_that_is_no_image_is_named_before_anything_is_done(tmp_path: Path) -> None:
    """Named by the user or found in a folder: none is left out silently."""
    image(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "text.txt").write_text("no image")
    with pytest.raises(FaultsError) as caught:
        find_pictures([tmp_path, tmp_path / "text.txt"])
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [
        str(tmp_path / "bad.jpg"), str(tmp_path / "text.txt"),
    ]  # fmt: skip


def test_a_place_without_images_is_said(tmp_path: Path) -> None:
    """An empty folder, and a path that is not there."""
    with pytest.raises(UsageError, match="no image in"):
        find_pictures([tmp_path])
    with pytest.raises(UsageError, match=r"none\.jpg: no such file or folder"):
        find_pictures([tmp_path / "none.jpg"])


def test_each_result_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Equal names from two folders do not collide; what cannot be written becomes PNG."""
    for name in ("one/a.png", "two/a.png", "two/b.bmp"):
        image(tmp_path / name)
    pictures = find_pictures([tmp_path / "one", tmp_path / "two"])
    assert destinations(pictures, tmp_path / "out") == [
        tmp_path / "out" / "a.png", tmp_path / "out" / "a-2.png", tmp_path / "out" / "b.png",
    ]  # fmt: skip


def test_an_input_is_never_written_over(tmp_path: Path) -> None:
    """Not even through a link to its folder."""
    image(tmp_path / "in" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    pictures = find_pictures([tmp_path / "in"])
    for folder in (tmp_path / "in", tmp_path / "link"):
        with pytest.raises(UsageError, match="is one of the images"):
            destinations(pictures, folder)


def test_boxes_are_drawn_where_they_are_and_labels_stay_inside() -> None:
    """The outline has the class's colour; a box in the corner has its label within the picture."""
    black = Image.new("RGB", (200, 100))
    box = {"x1": 150.0, "y1": 2.0, "x2": 198.0, "y2": 60.0, "class": 0, "name": "square"}
    drawn = draw(black, [{**box, "confidence": 0.5}])
    assert drawn.size == black.size
    assert black.getbbox() is None, "the picture given is not touched"
    outline = drawn.getpixel((150, 50))
    assert outline not in {(0, 0, 0), None}
    assert drawn.getpixel((198, 50)) == outline
    assert drawn.getpixel((175, 50)) == (0, 0, 0)
    other = draw(black, [{**box, "class": 1, "confidence": 0.5}])
    assert other.getpixel((150, 50)) not in {outline, (0, 0, 0)}


def test_an_image_is_read_as_the_camera_held_it(tmp_path: Path) -> None:
    """Its tag says how to turn it; boxes are drawn on the upright one, as they were found."""
    path = tmp_path / "turned.jpg"
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.new("RGB", (40, 30)).save(path, exif=tag)
    assert upright(path).size == (30, 40)
