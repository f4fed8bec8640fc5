"""The key `promotion` of a study file: every rule with its range, and what it asks of the rest."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from hpo.datasets.generated import make_shapes
from hpo.errors import SpecError
from hpo.studies import validation
from hpo.studies.spec import Promotion, StudySpec
from hpo.studies.study_file import TEMPLATE, read_study_file
from hpo.trainer import DETECTION_METRICS, load_trainer

if TYPE_CHECKING:
    from collections.abc import Callable

HOME = Path("nowhere")  # nothing is made there
SIMULATED: dict[str, Any] = {
    "study": "s",
    "trainer": "simulated",
    "search_space": "simulated",
    "budget": {"trials": 6, "epochs": 9},
}
RULES: dict[str, Any] = {
    "model": "m", "alias": "best", "finalists": 5, "seeds": 2, "full_epochs": 40,
    "confidence": 0.9, "resamples": 500, "seed": 7, "min_value": 0.25, "min_gain": 0.01,
    "max_class_loss": 0.05, "max_latency_ms": 30.0, "max_size_mb": 12.5,
}  # fmt: skip


def read(tmp_path: Path, **changes: Any) -> StudySpec:
    """The spec of a study file of the simulated trainer."""
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(SIMULATED | changes), encoding="utf-8")
    return read_study_file(file, {}, home=HOME)


def faults(tmp_path: Path, **changes: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, **changes)
    return list(caught.value.faults)


def test_every_rule_is_read(tmp_path: Path) -> None:
    """Each key of a promotion, as it is written."""
    promotion = read(tmp_path, promotion=RULES).promotion
    assert promotion == Promotion(**RULES)
    assert {*RULES, "wanted", "onnx"} == {item.name for item in fields(Promotion)}


@pytest.mark.parametrize("given", [..., None, {}, {"finalists": None}])
def test_rules_left_out_take_their_defaults(tmp_path: Path, given: Any) -> None:
    """A study promotes under the name of its own unless it says otherwise."""
    changes = {} if given is ... else {"promotion": given}
    assert read(tmp_path, **changes).promotion == Promotion(model="s", alias="champion")


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"finalist": 3}, "finalist: unknown key (did you mean 'finalists'?)"),
        ({"wanted": False}, "wanted: unknown key"),
        ({"finalists": 0}, "finalists: is 0, at least 1 is expected"),
        ({"finalists": 21}, "finalists: is 21, at most 20 is expected"),
        ({"finalists": 1.5}, "finalists: is 1.5, a whole number is expected"),
        ({"seeds": 0}, "seeds: is 0, at least 1 is expected"),
        ({"seeds": 11}, "seeds: is 11, at most 10 is expected"),
        ({"full_epochs": 0}, "full_epochs: is 0, at least 1 is expected"),
        ({"confidence": 0.5}, "confidence: is 0.5, above 0.5 and below 1 is expected"),
        ({"confidence": 1}, "confidence: is 1.0, above 0.5 and below 1 is expected"),
        ({"confidence": 95}, "confidence: is 95.0, above 0.5 and below 1 is expected"),
        ({"confidence": "high"}, "confidence: is 'high', a number is expected"),
        ({"resamples": 99}, "resamples: is 99, at least 100 is expected"),
        ({"resamples": 100_001}, "resamples: is 100001, at most 100000 is expected"),
        (
            {"resamples": 998, "confidence": 0.999},
            "resamples: is 998, at least 999 is expected at a confidence of 0.999",
        ),
        ({"seed": -1}, "seed: is -1, at least 0 is expected"),
        ({"min_value": 30}, "min_value: is 30.0, at most 1 is expected"),
        ({"min_gain": -0.1}, "min_gain: is -0.1, at least 0 is expected"),
        ({"max_class_loss": 1.1}, "max_class_loss: is 1.1, at most 1 is expected"),
        ({"max_class_loss": -0.1}, "max_class_loss: is -0.1, at least 0 is expected"),
        ({"max_latency_ms": 0}, "max_latency_ms: is 0.0, a number above 0 is expected"),
        ({"max_size_mb": -1}, "max_size_mb: is -1.0, a number above 0 is expected"),
        ({"onnx": 1}, "onnx: is 1, true or false is expected"),
        ({"onnx": True}, "onnx: the trainer 'simulated' exports no model; remove it"),
        ({"alias": "previous"}, "alias: 'previous' is kept for the champion before"),
        ({"alias": "Previous"}, "alias: 'Previous' is kept for the champion before"),
    ],
)
def test_a_rule_that_cannot_be_is_one_fault(
    tmp_path: Path, rules: dict[str, Any], expected: str
) -> None:
    """The key, what was given and what is expected."""
    (fault,) = faults(tmp_path, promotion=rules)
    assert fault.startswith(f"promotion.{expected}")


def test_just_enough_resamples_are_taken(tmp_path: Path) -> None:
    """As many as make the confidence possible."""
    promotion = read(tmp_path, promotion={"resamples": 999, "confidence": 0.999}).promotion
    assert (promotion.resamples, promotion.confidence) == (999, 0.999)


@pytest.mark.parametrize("given", ["None", "nothing", False, 3, ["none"]])
def test_only_none_promotes_nothing(tmp_path: Path, given: Any) -> None:
    """What was perhaps meant so is not taken for it."""
    (fault,) = faults(tmp_path, promotion=given)
    assert fault.startswith("promotion: is ")


def test_none_promotes_nothing(tmp_path: Path) -> None:
    """It asks nothing of the objective, the test split or the study's name."""
    changes = {"objective": {"metric": "loss"}, "study": "a:b"}
    promotion = read(tmp_path, **changes, promotion="none").promotion
    assert not promotion.wanted
    assert StudySpec.from_dict(read(tmp_path, promotion="none").to_dict()).promotion == Promotion(
        model="s", alias="champion", wanted=False
    )


def test_an_override_turns_none_into_a_promotion(tmp_path: Path) -> None:
    """And back, whatever the file says."""
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(SIMULATED | {"promotion": "none"}))

    def wanted(**overrides: Any) -> bool:
        return read_study_file(file, overrides, home=HOME).promotion.wanted

    assert wanted(promotion={"model": "m"})
    assert not wanted()
    file.write_text(yaml.safe_dump(SIMULATED | {"promotion": {"model": "m"}}))
    assert not wanted(promotion="none")


def test_a_metric_that_held_out_images_do_not_give_is_refused(tmp_path: Path) -> None:
    """With both ways out."""
    (fault,) = faults(tmp_path, objective={"metric": "loss"})
    assert fault == (
        "objective.metric: 'loss' cannot be judged on held-out images, mAP50, mAP50-95, precision, "
        "recall can; take one of them, or `promotion: none` promotes nothing"
    )


@pytest.mark.parametrize("trainer", ["simulated", "yolo"])
def test_every_metric_that_can_be_judged_is_one_of_the_trainers(trainer: str) -> None:
    """No trainer is asked for what it does not know."""
    assert set(DETECTION_METRICS) <= set(load_trainer(trainer).describe().metrics)


def test_full_epochs_are_refused_where_epochs_are_searched(tmp_path: Path) -> None:
    """A finalist then has epochs of its own."""
    (tmp_path / "epochs.yaml").write_text(
        "name: e\ndescription: d\ntrainer: simulated\n"
        "parameters: {epochs: {type: int, low: 2, high: 9}}\n"
    )
    searched = {"search_space": "epochs.yaml", "budget": {"trials": 3}}
    (fault,) = faults(tmp_path, **searched, promotion={"full_epochs": 20})
    assert fault.startswith("promotion.full_epochs: is refused where")
    assert read(tmp_path, **searched).promotion.wanted


def test_onnx_without_its_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the study is created, not when its winner is to be exported."""

    def read_onnx() -> StudySpec:
        return read_study_file(None, {"promotion": {"onnx": True}}, home=HOME)

    monkeypatch.setattr(validation, "ONNX_PACKAGES", ("json", "no_such_package"))
    with pytest.raises(SpecError) as caught:
        read_onnx()
    assert caught.value.faults == (
        "promotion.onnx: needs no_such_package: `pip install 'hpo-service[onnx]'`",
    )
    monkeypatch.setattr(validation, "ONNX_PACKAGES", ("json",))
    assert read_onnx().promotion.onnx


@pytest.fixture
def with_data(tmp_path: Path) -> Callable[..., StudySpec]:
    """Reads the built-in study on three drawn images, of which none is kept back."""
    data = make_shapes(tmp_path / "set", imgsz=32, train=2, val=1, test=0)

    def read_with(**overrides: Any) -> StudySpec:
        given = {"data": str(data)} | overrides
        return read_study_file(None, given, home=tmp_path / ".hpo")

    return read_with


def test_data_without_a_test_split_is_refused(with_data: Callable[..., StudySpec]) -> None:
    """One fault with both mends, together with the other faults."""
    with pytest.raises(SpecError) as caught:
        with_data(budget={"trials": 0})
    trials, data = caught.value.faults
    assert trials.startswith("budget.trials: is 0")
    assert data.startswith("data: test: missing; expected images that no trial sees. `hpo data sp")
    assert data.endswith("Or `promotion: none` promotes nothing.")


def test_data_without_a_test_split_serves_a_study_that_promotes_nothing(
    with_data: Callable[..., StudySpec],
) -> None:
    """Nothing is judged there."""
    assert not with_data(promotion="none").promotion.wanted


def test_the_template_shows_every_rule() -> None:
    """A user finds each key in the file that `hpo init` writes, the optional ones as comments."""
    text = TEMPLATE.read_text(encoding="utf-8")
    below = text[text.index("promotion:") :]
    for item in fields(Promotion):
        assert item.name == "wanted" or f"  {item.name}: " in below or f"  # {item.name}: " in below
    uncommented = yaml.safe_load(below.replace("\n  # ", "\n  "))["promotion"]
    assert Promotion(**uncommented).max_size_mb is not None
    shown = yaml.safe_load(below)["promotion"]
    rules = read_study_file(None, {}, home=HOME).promotion
    assert {name: getattr(rules, name) for name in shown} == shown
    assert rules == Promotion(model=rules.model, alias=rules.alias), (
        "what the template shows is the default"
    )
