"""The model card: what a registered model is, what it was measured on, and what it is not for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.promotion import tables
from hpo.promotion.exhibit import evaluation_of
from hpo.promotion.markdown import candidate, code, grid, plain
from hpo.promotion.usage import own_steps
from hpo.promotion.wording import (
    SIMULATED,
    counted,
    difference_sentence,
    figure,
    reason_sentence,
    span,
    test_images,
)

if TYPE_CHECKING:
    from hpo.promotion.exhibit import Exhibit

FEW_IMAGES = 100  # in a test split: below this the card warns
FEW_BOXES = 20  # of a class in it


@dataclass(frozen=True)
class Licence:
    """Under what a model may be used.

    Attributes:
        name: SPDX identifier.
        words: what follows from it, in sentences.
    """

    name: str
    words: str


# Installed Ultralytics says AGPL-3.0 of itself; what that means for weights is its own view:
# https://www.ultralytics.com/license, https://github.com/ultralytics/ultralytics/issues/14297
LICENCES = {
    "yolo": Licence(
        "AGPL-3.0",
        "The weights were trained with Ultralytics, whose code and pretrained weights are under "
        "AGPL-3.0. Ultralytics holds that models trained with it are so too, and sells other terms "
        "(https://www.ultralytics.com/license). The images may have terms of their own.",
    ),
}


def model_card(exhibit: Exhibit, licence: Licence | None = None) -> str:
    """The card as Markdown, for the version's description or its folder.

    Args:
        exhibit: the decision that made the version.
        licence: of the model; that of the study's trainer where it is not given.
    """
    decision, study = exhibit.decision, exhibit.study
    licence = licence or LICENCES.get(study.spec.trainer)
    version = "" if decision.version is None else f" version {decision.version}"
    parts = [
        f"# {plain(decision.model)}{version}",
        f"> {SIMULATED}" if decision.simulated else "",
        plain(_what(exhibit)),
        "## Data", _data(exhibit),
        "## Figures", candidate(exhibit), plain(difference_sentence(exhibit)),
        grid(tables.classes(exhibit)),
        "## Limits", "\n".join(f"- {plain(limit)}" for limit in limits(exhibit)),
        "## Licence", _licence(licence),
        "## How to use it",
        *(part for step in own_steps(exhibit)
          for part in (f"### {step.title}", plain(step.text), code(step))),
        "## Where it comes from", grid(tables.identity(exhibit)),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def limits(exhibit: Exhibit) -> list[str]:
    """What the figures do not say."""
    images, found = test_images(exhibit), []
    if exhibit.decision.simulated:
        found.append("It is no model: the trainer `simulated` made its figures up.")
    if images is None:
        found.append("It was not evaluated on held-out images.")
    else:
        found.append(
            f"It was tested on {counted(images, 'image')} of the same collection as its training "
            "images, and on none from elsewhere: other cameras, places, weather or populations are "
            "untested."
        )
        if images < FEW_IMAGES:
            found.append(
                f"{counted(images, 'test image')} {'is' if images == 1 else 'are'} few: "
                f"{_sampling(exhibit)}a difference of the interval's width is luck."
            )
    found += _scarce(exhibit)
    if exhibit.decision.override:
        found.append(
            "A person promoted it past the gate: "
            f"{exhibit.decision.why or 'no reason was given'} ({exhibit.decision.actor})."
        )
    settings = evaluation_of(exhibit.evidence, exhibit.decision.trial).get("settings") or {}
    if "imgsz" in settings:
        found.append(f"Its figures hold for images scaled to {settings['imgsz']} px.")
    found.append(
        "It was chosen as the best of several trials in validation, so its validation figure "
        "flatters it; the test split did not choose it."
    )
    return found


def _what(exhibit: Exhibit) -> str:
    spec, decision = exhibit.study.spec, exhibit.decision
    kind = "A stand-in for a detector" if decision.simulated else "An object detector"
    return (
        f"{kind} ({spec.model}, trained by {exhibit.study.code_version}): trial {decision.trial} "
        f"of the hyperparameter search {exhibit.study.name}. {reason_sentence(decision)}"
    )


def _data(exhibit: Exhibit) -> str:
    study, images = exhibit.study, test_images(exhibit)
    names = _class_names(exhibit)
    lines = [
        f"dataset: {_data_name(study.spec.data)}",
        f"fingerprint: {study.fingerprint or 'none'}",
        "test split: "
        + ("not evaluated" if images is None else counted(images, "image"))
        + f", fingerprint {exhibit.evidence.get('test_fingerprint') or study.test_fingerprint}",
        *([f"classes: {', '.join(names)}"] if names else []),
    ]
    return "\n".join(f"- {plain(line)}" for line in lines)


def _data_name(data: str | None) -> str:
    """The dataset's name; a card travels, so of a path only what says something elsewhere."""
    if data is None:
        return "none, the trainer needs none"
    return "/".join(data.replace("\\", "/").split("/")[-2:])


def _class_names(exhibit: Exhibit) -> list[str]:
    if exhibit.challenger is not None:
        return list(exhibit.challenger.names)
    return [str(one["name"]) for one in exhibit.evidence.get("classes") or ()]


def _sampling(exhibit: Exhibit) -> str:
    for one in exhibit.evidence.get("finalists") or ():
        ends = span(one.get("interval")) if one["trial"] == exhibit.decision.trial else ""
        if ends:
            value = figure(exhibit.evidence.get("test_value"))
            return f"with others like them {exhibit.metric} {value} may be anywhere in {ends}, and "
    return ""


def _scarce(exhibit: Exhibit) -> list[str]:
    """Classes of which the test split has few or no objects."""
    found = exhibit.challenger
    if found is None:
        return []
    counts = {name: int((found.true_kind == at).sum()) for at, name in enumerate(found.names)}
    few = [f"{name} ({count})" for name, count in counts.items() if count < FEW_BOXES]
    if not few:
        return []
    shown = ", ".join(few[:10]) + (f" and {len(few) - 10} more" if len(few) > 10 else "")  # noqa: PLR2004 - a line's worth
    return [f"Classes with fewer than {FEW_BOXES} true boxes in the test split: {shown}."]


def _licence(licence: Licence | None) -> str:
    if licence is None:
        return "Not stated: the trainer names none."
    return f"{licence.name}. {plain(licence.words)}"
