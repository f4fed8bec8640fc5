"""Ultralytics itself reads the same images and boxes from what `Dataset.absolute()` says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpo.datasets import validation
from hpo.datasets.data_yaml import IMAGE_SUFFIXES, label_path, load
from hpo.datasets.generated import make_shapes
from hpo.datasets.split import divide

# Runs in a process of its own: Ultralytics reads its settings' folder when it is imported.
READ = """
import json, sys
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset
found = {"formats": sorted(IMG_FORMATS)}
for place in sys.argv[1:]:
    data = check_det_dataset(place, autodownload=False)
    found[place] = {"names": list(data["names"].values())}
    for split in ("train", "val", "test"):
        seen = YOLODataset(data[split], data=data, task="detect", imgsz=32, augment=False)
        found[place][split] = [
            [label["im_file"], label["cls"].ravel().tolist(), label["bboxes"].tolist()]
            for label in seen.labels
        ]
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Data YAMLs in every form that is understood."""
    folder = tmp_path_factory.mktemp("layouts")
    data = make_shapes(folder / "images" / "set", imgsz=32, train=5, val=2, test=1)
    root = data.parent
    (root / "labels/train/00000.txt").write_text("0 .1 .1 .3 .1 .3 .4\n")
    (root / "labels/train/00001.txt").write_text("")
    (root / "labels/train/00002.txt").unlink()
    (root / "labels/train/00003.txt").write_text("\ufeff2 1.005 .5 .1 .1\n")
    (root / "images/train/._00000.bmp").write_text("hidden")
    (root / "images/train/notes.md").write_text("not an image")
    listed = f"./images/train/00003.bmp\n{root}/images/train/00000.bmp\n"
    (root / "some.txt").write_text(listed, encoding="utf-8-sig")
    good = yaml.safe_load(data.read_text())
    changes: list[dict[str, Any]] = [
        {},
        {"train": "../images/train"},
        {"train": "some.txt", "val": ["images/val", "images/test"]},
        {"path": "../set", "names": ["a", "b", "c"], "nc": "3"},
        {"names": None, "nc": 3},
    ]
    made = []
    for number, change in enumerate(changes):
        made.append(root / f"{number}.yaml")
        content = {key: value for key, value in (good | change).items() if value is not None}
        made[-1].write_text(yaml.safe_dump(content))
    return made


@pytest.mark.process
def test_ultralytics_reads_the_same(layouts: list[Path], tmp_path: Path) -> None:
    """Images, their order, classes and boxes, from any folder; of a divided set, too."""
    places = []
    for number, layout in enumerate(layouts):
        places.append(tmp_path / f"{number}.yaml")
        places[-1].write_text(yaml.safe_dump(load(layout).absolute()))
    divided = divide(layouts[0], tmp_path / "divided.yaml").yaml
    layouts, places = [*layouts, divided], [*places, divided]
    env = {**os.environ, "YOLO_CONFIG_DIR": str(tmp_path), "YOLO_OFFLINE": "1"}
    command = [sys.executable, "-c", READ, *map(str, places)]
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.split("FOUND")[1])
    assert theirs["formats"] == sorted(IMAGE_SUFFIXES)
    for layout, place in zip(layouts, places, strict=True):
        ours = load(layout)
        found = theirs[str(place)]
        assert found["names"] == list(ours.names)
        for split in ("train", "val", "test"):
            images = ours.splits[split].images
            assert [Path(image) for image, _, _ in found[split]] == list(images)
            for image, classes, boxes in found[split]:
                file = label_path(Path(image))
                wanted = validation.read(file, ours.names)[0] if file.is_file() else []
                assert classes == [label.cls for label in wanted]
                for box, label in zip(boxes, wanted, strict=True):
                    assert box == pytest.approx(label.box(), abs=1e-6)
