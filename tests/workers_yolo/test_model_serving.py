"""A registered detector answers over HTTP as it answers in the same process."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from support.command_line import free_port, wait_for
from support.training import register

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from support.mlflow_server import MlflowServer
    from support.training import Detector

    from hpo.tracking.registry import Version
    from hpo.trainer import Package

pytestmark = [
    pytest.mark.promotion,
    # MLflow's registry loads its rows in a way that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]

# In a process of its own: the tests' process imports no torch
IN_PROCESS = """
import json, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
images = pandas.DataFrame({"image": sys.argv[3:]})
print(json.dumps(model.predict(images, params={"conf": 0.05}).to_dict("records")))
"""
LOAD_WEIGHTS = """
import sys
from ultralytics import YOLO
print(YOLO(sys.argv[1]).predict(sys.argv[2], imgsz=64, verbose=False)[0].boxes.shape[1])
"""


def environment(uri: str, folder: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("YOLO_")}
    return own | {
        # As in an activated environment: MLflow starts `uvicorn` by its name
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "XDG_CONFIG_HOME": str(folder / "config"),
    }


class Served:
    """A model behind `mlflow models serve`.

    Attributes:
        version: the registered version.
    """

    def __init__(self, uri: str, version: Version, folder: Path) -> None:
        self.version, self._folder, self._uri = version, folder, uri
        self._port = free_port()
        self._log = folder / "serve.log"
        words = [
            *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
            *("-m", f"models:/{version.model}@champion"),
            *("--host", "127.0.0.1", "--port", str(self._port)),
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                words, env=environment(uri, folder), cwd=folder, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        wait_for(self._answers, "the served model answers")

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return self._ask("ping", None, "")[0] == 200
        except OSError:
            return False

    def _ask(self, path: str, body: bytes | None, kind: str) -> tuple[int, str]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/{path}", data=body, headers={"Content-Type": kind}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def json(self, document: Any) -> tuple[int, Any]:
        """Status and answer of a JSON request."""
        status, text = self._ask("invocations", json.dumps(document).encode(), "application/json")
        return status, json.loads(text)

    def boxes(self, document: Any) -> list[dict[str, Any]]:
        """The boxes of a request that is fulfilled."""
        status, answer = self.json({"params": {"conf": 0.05}, **document})
        assert status == 200, answer
        found: list[dict[str, Any]] = answer["predictions"]
        return found

    def parquet(self, table: pd.DataFrame) -> tuple[int, Any]:
        """Status and answer of a request with a column of bytes."""
        body = table.to_parquet()
        status, text = self._ask("invocations", body, "application/vnd.apache.parquet")
        return status, json.loads(text)

    def in_process(self, *images: Path) -> list[dict[str, Any]]:
        """The boxes when the model is loaded without a server, from the files' paths."""
        done = subprocess.run(
            [sys.executable, "-c", IN_PROCESS, self._uri, f"models:/{self.version.model}@champion",
             *map(str, images)],
            env=environment(self._uri, self._folder), cwd=self._folder, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return found

    def stop(self) -> None:
        """Stop it and its workers."""
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture(scope="module")
def package(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The detector's package, as whoever registers it completes it."""
    run_dir = tmp_path_factory.mktemp("package") / "run"
    made = detector.process.package(detector.weights, detector.job(run_dir))
    return replace(made, card="# Shapes\n\nFinds squares.\n", metadata={"trial": 3})


@pytest.fixture(scope="module")
def served(
    package: Package, mlflow_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A registered version, served, with MLflow on PostgreSQL directly."""
    folder = tmp_path_factory.mktemp("served")
    one = Served(mlflow_url, register(mlflow_url, package, folder), folder)
    yield one
    one.stop()


@pytest.fixture(scope="module")
def boxes(served: Served, detector: Detector) -> list[dict[str, Any]]:
    """The boxes of every image when the model is loaded in a process and given paths."""
    return served.in_process(*detector.images)


def base64_of(image: Path) -> str:
    return base64.b64encode(image.read_bytes()).decode()


def assert_equal(boxes: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The same boxes in the same order, but for the last bits of another process."""
    assert len(boxes) == len(expected)
    for box, other in zip(boxes, expected, strict=True):
        assert box == pytest.approx(other, abs=1e-4)


def only(row: int, boxes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The boxes of one image of a request, as if it were the only one."""
    return [{**box, "image": 0} for box in boxes if box["image"] == row]


def test_every_form_of_an_image_gives_the_boxes_of_the_process_itself(
    served: Served, detector: Detector, boxes: list[dict[str, Any]]
) -> None:
    """Base64, a data: URI, byte values and nested lists, in every layout that MLflow reads."""
    image, expected = detector.images[0], only(0, boxes)
    assert expected, "the weights find something"
    text = base64_of(image)
    uri = f"data:image/png;base64,{text}"
    values = list(image.read_bytes())
    with Image.open(image) as opened:
        pixels = opened.convert("RGB")
        nested = [[list(pixels.getpixel((x, y))) for x in range(64)] for y in range(64)]  # type: ignore[arg-type]
    for cell in (text, uri, values, nested):
        split = {"columns": ["image"], "data": [[cell]]}
        for document in (
            {"dataframe_split": split},
            {"dataframe_records": [{"image": cell}]},
            {"inputs": {"image": [cell]}},
            {"inputs": [{"image": cell}]},
            {"instances": [{"image": cell}]},
        ):
            assert_equal(served.boxes(document), expected)
    assert_equal(served.boxes({"inputs": [text]}), expected)
    for cell in (text, nested):
        twice = served.boxes({"inputs": {"image": [cell, cell]}})
        assert_equal(only(1, twice), expected)


def test_a_column_of_bytes_is_taken(
    served: Served, detector: Detector, boxes: list[dict[str, Any]]
) -> None:
    """Parquet carries the bytes as they are; JSON has none, so there they are base64."""
    import pandas as pd

    table = pd.DataFrame({"image": [image.read_bytes() for image in detector.images]})
    status, answer = served.parquet(table)
    assert status == 200, answer
    # Parquet has no place for params: the default confidence
    assert_equal(answer["predictions"], [box for box in boxes if box["confidence"] >= 0.25])


def test_params_are_obeyed(served: Served, detector: Detector) -> None:
    """`conf`, `iou` and `imgsz` reach the detector; an image without boxes gives no rows."""
    image = detector.images[0]
    records = [{"image": base64_of(image)}]
    many = served.boxes({"dataframe_records": records, "params": {"conf": 0.001, "iou": 1.0}})
    few = served.boxes({"dataframe_records": records, "params": {"conf": 0.001, "iou": 0.1}})
    larger = served.boxes({"dataframe_records": records, "params": {"conf": 0.05, "imgsz": 128}})
    assert len(many) > len(few) > 0
    assert larger != served.boxes({"dataframe_records": records})
    assert served.boxes({"dataframe_records": records, "params": {"conf": 1.0}}) == []


def test_requests_at_once_do_not_mix(
    served: Served, detector: Detector, boxes: list[dict[str, Any]]
) -> None:
    """64 requests by 8 threads: each gets the boxes of its own image, at its own confidence."""
    asked = [(row, least) for row in range(len(detector.images)) for least in (0.05, 0.3)] * 2

    def ask(row: int, least: float) -> list[dict[str, Any]]:
        image = base64_of(detector.images[row])
        return served.boxes({"inputs": [image], "params": {"conf": least}})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, *zip(*asked, strict=True)))
    for (row, least), answer in zip(asked, answers, strict=True):
        expected = [box for box in only(row, boxes) if box["confidence"] >= least]
        assert_equal(answer, expected)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"dataframe_records": [{"picture": "x"}]}, "image"),
        ({"dataframe_records": [{"image": "no image."}]}, "row 0: 'no image.' is no base64"),
        ({"dataframe_records": [{"image": "aGVsbG8="}]}, "no image that can be read: 'aGVsbG8='"),
        ({"dataframe_records": [{"image": None}]}, "row 0: no image: None"),
        (
            {"dataframe_records": [{"image": [[[1, 2, 3]], [[1, 2, 3]] * 2]}]},
            "rows of pixels have different",
        ),
        ({"dataframe_records": [{"image": [[[1, 2, 300]]]}]}, "expected values from 0 to 255"),
        ({"dataframe_records": [{"image": "data:image/png,x"}]}, "expected data:image/"),
        ({"dataframe_records": [], "params": {"conf": 2.0}}, "image"),
        (
            {"inputs": {"image": ["aGVsbG8="]}, "params": {"conf": 2.0}},
            "conf: 2.0, expected 0 to 1",
        ),
        (
            {"inputs": {"image": ["aGVsbG8="]}, "params": {"imgsz": 100000}},
            "imgsz: 100000, expected 1 to 4096 px",
        ),
    ],
)
def test_a_bad_request_is_answered_with_400_and_words(
    served: Served, document: Any, words: str
) -> None:
    """No 500: what is wrong with it is said, and the server goes on."""
    status, answer = served.json(document)
    assert (status, words in answer["message"]) == (400, True), answer


def test_a_server_reads_no_files_for_those_who_ask(served: Served, detector: Detector) -> None:
    """A path that the server could read is refused like one that is not there."""
    image = detector.images[0]  # the fixture `boxes` reads it by its path, without a server
    for path in (str(image), image.as_uri(), "/etc/passwd.", "/no/such.file"):
        status, answer = served.json({"dataframe_records": [{"image": path}]})
        assert (status, "files are not read here" in answer["message"]) == (400, True), answer


def test_programs_in_disguise_are_not_run(served: Served) -> None:
    """Pillow would hand PostScript to Ghostscript."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "EPS")
    text = base64.b64encode(buffer.getvalue()).decode()
    status, answer = served.json({"dataframe_records": [{"image": text}]})
    assert (status, "no image that can be read" in answer["message"]) == (400, True), answer


def test_the_version_has_weights_card_licence_and_origin(
    served: Served, detector: Detector, package: Package
) -> None:
    """What the page of the version shows; `artifacts/best.pt` loads with Ultralytics."""
    import yaml

    folder = Path(served.version.source.removeprefix("file://"))
    assert (folder / "README.md").read_text(encoding="utf-8") == package.card
    assert "GNU AFFERO GENERAL PUBLIC LICENSE" in (folder / "LICENSE").read_text(encoding="utf-8")
    written = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    assert written["metadata"] == {"trial": 3, "license": "AGPL-3.0-or-later"}
    weights = folder / "artifacts" / "best.pt"
    assert weights.read_bytes() == detector.weights.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WEIGHTS, str(weights), str(detector.images[0])],
        capture_output=True, text=True, check=False, env=environment("", folder.parent),
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "6", done.stderr


def test_it_serves_from_mlflow_s_server_too(
    package: Package, detector: Detector, mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    """The files come through the server's own artifact store."""
    version = register(mlflow_server.url, package, tmp_path)
    assert version.source.startswith("mlflow-artifacts:")
    one = Served(mlflow_server.url, version, tmp_path)
    try:
        image = detector.images[0]
        found = one.boxes({"inputs": {"image": [base64_of(image)]}})
        assert_equal(found, one.in_process(image))
    finally:
        one.stop()
