"""What decision.md, decision.html, the model card and the files say, for every kind of decision."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import exhibits

import hpo.promotion
from hpo.evaluation.confusion import by_image, confusion
from hpo.promotion.report.charts import curves, panels, ticks
from hpo.promotion.report.images import MOST_BYTES, chosen, encoded
from hpo.promotion.report.render import as_html, as_markdown, model_card

LARGEST_PAGE = 2_000_000
VOID = {"meta", "img", "br", "link", "hr", "input"}


HEADLINES = {
    "promoted": ("Promoted", "Trial 7 of harbour is now ships version 4, alias champion."),
    "kept": ("Kept", "stays champion: trial 7 of harbour does not take its place."),
    "inconclusive": ("Inconclusive", "trial 7 of harbour is not shown to be better."),
    "override": ("Promoted past the gate", "Trial 7 of harbour is now ships version 4"),
    "first champion": ("Promoted", "ships version 1, alias champion, its first champion."),
    "kept without a champion": ("Not promoted", "ships has no champion still"),
    "simulated": ("Promoted", "Trial 7 of harbour is now ships version 4"),
    "nothing": ("Nothing to promote", "No trial of harbour could be judged for ships."),
    "rolled back": ("Rolled back", "The alias champion of ships points to version 2 again."),
    "of an earlier version": ("Promoted", "Trial 1 of harbour is now ships version 1"),
}


every_kind = pytest.mark.parametrize("kind", exhibits.KINDS)


class Read(HTMLParser):
    """Every start tag with its attributes; fails where tags do not close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@every_kind
def test_every_kind_of_decision_is_told_in_every_document(kind: str) -> None:
    """Its outcome, what is so now, and why, in Markdown and HTML; metadata that is JSON."""
    exhibit = exhibits.KINDS[kind]()
    word, sentence = HEADLINES[kind]
    found = exhibits.written(kind)
    page = "".join(Read(found["decision.html"]).words)
    for content in (found["decision.md"], page):
        assert word.lower() in content.lower()
        assert sentence in content
        assert exhibit.decision.reason in content
    assert json.loads(found["metadata.json"])["outcome"] == exhibit.decision.outcome.value


def test_a_rule_that_is_not_met_is_shouted() -> None:
    """With what was wanted and what was seen; those that are met say so quietly."""
    text = exhibits.written("kept")["decision.md"]
    cells = ("no class may lose", "at most 0.1 of AP50", "-0.1200 (&lt;script>)", "NOT met")
    assert "| " + " | ".join(f"**{cell}**" for cell in cells) + " |" in text
    assert "| latency | at most 30 ms | 23.4 ms | met |" in text
    assert "NOT met" in exhibits.written("kept")["decision.html"]
    assert "NOT met" not in exhibits.written("promoted")["decision.html"]


def test_the_candidates_figures_and_run_are_there() -> None:
    """Run, test figure with its interval, gain with its interval, gain over the baseline, cost."""
    found = exhibits.written("promoted")
    for content in (found["decision.md"], found["decision.html"]):
        for figure in (
            "0123456789abcdef0123456789abcdef", "0.7131", "[0.6611, 0.7621]",
            "+0.0613 [+0.0273, +0.0963]", "98.2%", "2000 resamples",
            "chance of such a gain by luck alone: 2.1%", "gain +0.21000",
            "mean of 2 seeds; the weights are of seed 1: 0.722",
            "12 trials (8 complete, 1 failed, 3 pruned), 1506.0 s", "1.839 h",
            "5f0c8f5e-5b9f-5a52-8f1c-0f6a6c1f5e3d", "cpu: AMD EPYC 7B13 (1 thread)",
        ):  # fmt: skip
            assert figure in content, figure


def test_a_gain_is_a_fall_where_less_is_better() -> None:
    """The sign of the gain over the baseline is that of the objective."""
    found = exhibits.exhibit()
    objective = replace(found.study.spec.objective, direction="minimize")
    spec = replace(found.study.spec, objective=objective)
    assert "gain -0.21000" in as_markdown(replace(found, study=replace(found.study, spec=spec)))


def test_the_gain_over_the_baseline_is_of_one_training_each() -> None:
    """The mean over the seeds of the finals is no match for a baseline's only value."""
    found = exhibits.exhibit()
    assert found.evidence.value == 0.7103
    assert "gain +0.21000 by 0.71000 of trial 7 in the study" in as_markdown(found)
    gone = as_markdown(replace(found, trials=found.trials[:5]))
    assert "- baseline: 0.50000 (trial 0)\n" in gone


def test_one_seeds_value_is_no_mean() -> None:
    """Only its best epoch is told."""
    found = exhibits.exhibit()
    (best, *others) = found.evidence.finalists
    finalists = (replace(best, seeds=best.seeds[1:]), *others)
    known = replace(found.evidence, finalists=finalists)
    text = as_markdown(replace(found, decision=replace(found.decision, evidence=known)))
    assert "- mAP50 in validation (maximize): 0.71030 (best epoch 18)" in text
    assert "mean of" not in text


def test_without_a_champion_nothing_is_compared() -> None:
    """No columns of dashes, in any document."""
    found = exhibits.written("first champion")
    card = model_card(exhibits.first_champion())
    for content in (found["decision.md"], found["decision.html"], card):
        assert "AP50 challenger" in content
        assert "AP50 champion" not in content
    assert "| class | true boxes | AP50 challenger |" in card
    assert "AP50 champion" in exhibits.written("kept")["decision.md"]


@pytest.mark.parametrize(
    ("kind", "who"),
    [("promoted", "champion before"), ("kept", "champion"), ("inconclusive", "champion")],
)
def test_the_champion_is_one_before_only_where_it_was_replaced(kind: str, who: str) -> None:
    """In the finalists' table, where the note stands second."""
    assert f"| version 3 | {who} |" in exhibits.written(kind)["decision.md"]


def test_the_page_leaves_details_of_the_finalists_to_the_text() -> None:
    """Its table has room for what decides."""
    found = exhibits.written("kept")
    assert "GFLOPs |" in found["decision.md"]
    assert ">GFLOPs</th>" not in found["decision.html"]
    assert ">note</th>" in found["decision.html"]


def test_one_is_told_in_the_singular() -> None:
    """One trial, one image."""
    found = exhibits.exhibit()
    assert found.evidence.gain is not None
    gain = replace(found.evidence.gain, images=1)
    decision = replace(found.decision, evidence=replace(found.evidence, gain=gain))
    text = as_markdown(replace(found, decision=decision, trials=found.trials[:1]))
    assert "1 trial (1 complete)" in text
    assert "on the same 1 test image:" in text
    assert "resamples of 1 image;" in text


@every_kind
def test_tables_in_markdown_keep_their_columns(kind: str) -> None:
    """Whatever stands in a cell: a class is named `a|b `c` & d`."""
    tables = re.findall(r"(?:^\|.*\|\n)+", exhibits.written(kind)["decision.md"], re.MULTILINE)
    assert tables
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


@every_kind
def test_no_name_becomes_markup(kind: str) -> None:
    """A class called <script> is shown by that name, and is no script, in all documents."""
    page = exhibits.written(kind)["decision.html"]
    assert Read(page).all("script") == []
    for content in (
        page,
        exhibits.written(kind)["decision.md"],
        model_card(exhibits.KINDS[kind]()),
    ):
        assert "<script" not in content


def test_control_characters_do_not_break_the_page() -> None:
    """A name may hold what no HTML may."""
    exhibit = replace(exhibits.nothing(), decision_id="a\x00b\x1bc")
    assert "a\ufffdb\ufffdc" in as_html(exhibit)


@every_kind
def test_the_page_is_one_file_that_says_what_its_pictures_show(kind: str) -> None:
    """Nothing is loaded from elsewhere; pictures have texts, tables captions, columns scopes."""
    page = exhibits.written(kind)["decision.html"]
    read = Read(page)
    assert len(page) < LARGEST_PAGE
    sources = [v for _, attrs in read.tags for k, v in attrs.items() if k in ("src", "href")]
    assert all(str(source).startswith("data:image/jpeg;base64,") for source in sources)
    assert "url(" not in page
    assert "@import" not in page
    assert all(image["alt"] and image["width"] and image["height"] for image in read.all("img"))
    for picture in read.all("svg"):
        assert picture.get("aria-label") or picture.get("aria-hidden") or "height" in picture
    assert len(read.all("caption")) == len(read.all("table"))
    assert all(head.get("scope") in ("col", "row") for head in read.all("th"))
    assert len(read.all("h1")) == 1


def test_champion_and_challenger_stand_side_by_side() -> None:
    """Six images with both, two matrices, curves, and a row for each finalist and class."""
    page = exhibits.written("promoted")["decision.html"]
    read = Read(page)
    assert len(read.all("img")) == 12
    assert page.count('class="matrix"') == 2
    assert page.count('class="curves"') == 3
    labels = [one.get("aria-label") or "" for one in read.all("svg")]
    assert "Gain in mAP50: +0.0613 [+0.0273, +0.0963]" in labels
    assert "AP50 of <script>alert(1)</script>: -0.0300" in labels
    assert "trial 6: 0.7021 [0.6501, 0.7511]" in labels
    assert "version 3 (champion): 0.6518" in labels


def test_pictures_that_are_not_here_are_left_out() -> None:
    """One that is gone is skipped; without any there is no section of them."""
    exhibit = exhibits.exhibit()
    gone = "images/test/0016.jpg"
    some = replace(exhibit, pictures=lambda name: None if name == gone else exhibits.picture(name))
    assert len(Read(as_html(some)).all("img")) == 10
    none = as_html(replace(exhibit, pictures=lambda _: None))
    assert (none.count("<img"), none.count("What they find")) == (0, 0)


def test_a_champion_of_other_images_is_not_shown_beside_the_challengers() -> None:
    """Its matrix is; its boxes on other pictures would be lies."""
    other = replace(exhibits.detections(0.7), images=tuple(map(str, range(40))))
    page = as_html(replace(exhibits.exhibit(), champion=other))
    assert page.count("<img") == 6
    assert page.count('class="matrix"') == 2


def test_the_images_shown_are_those_on_which_the_two_differ_most() -> None:
    """No image that is left out differs by more."""
    both = [by_image(exhibits.detections(0.85, seed=2)), by_image(exhibits.detections(0.7, seed=3))]
    gaps = [abs(a.mistakes - b.mistakes) for a, b in zip(*both, strict=True)]
    shown = chosen(both)
    assert len(set(shown)) == 6
    assert min(gaps[at] for at in shown) >= max(gaps[at] for at in set(range(40)) - set(shown))


def test_a_picture_is_never_larger_than_its_share_of_the_page() -> None:
    """Noise, which JPEG cannot shrink, is made smaller."""
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    assert len(encoded(Image.fromarray(noise))) <= MOST_BYTES


def test_many_classes_are_told_without_filling_the_page() -> None:
    """The matrix has the ten most frequent and the others as one; nothing is lost in it."""
    names = tuple(f"class {at:02d}" for at in range(30))
    found = exhibits.detections(0.8, names=names)
    page = as_html(replace(exhibits.exhibit(), challenger=found, champion=None, pictures=None))
    matrix = page.partition('class="matrix"')[2].partition("</table>")[0]
    assert matrix.count('scope="row"') == 12
    assert "20 others" in matrix
    counts = sum(int(count) for count in re.findall(r"<small>(\d+)</small>", matrix))
    assert counts == confusion(found).sum()


def test_a_curve_is_interrupted_where_a_figure_does_not_exist() -> None:
    """A gap, not a line through it; a single epoch is a dot."""
    points = [{"epoch": e, "metrics": {"mAP50": v}} for e, v in enumerate([0.1, 0.2, None, 0.4], 1)]
    (panel,) = curves(points, "mAP50", 4)
    assert [len(piece) for piece in panel.lines[0].pieces] == [2, 1]
    drawn = as_html(replace(exhibits.exhibit(), curve=points))
    assert drawn.count("<polyline") == 1
    assert drawn.count('<circle class="line0"') == 1
    nan = [{"epoch": 1, "metrics": {"mAP50": math.nan}}]
    assert curves(nan, "mAP50", None) == []
    assert curves([], "mAP50", None) == []


def test_the_objectives_curve_comes_first_and_losses_are_paired() -> None:
    """Training and validation of a loss share a panel."""
    found = panels(exhibits.curve(), "recall")
    assert [panel.title for panel in found] == ["Figures in validation", "box_loss", "cls_loss"]
    assert next(iter(found[0].series)) == "recall"
    assert list(found[1].series) == ["train/box_loss", "val/box_loss"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.12, 0.08), (0.7, 0.7001), (1, 300), (-5, 0)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    """Two to seven of them."""
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert low - 1e-9 <= found[0] <= found[-1] <= high + 1e-9


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_texts_and_lines_stand_out_from_the_paper(theme: int) -> None:
    """4.5 to 1 for texts and 3 to 1 for lines, as WCAG 2 asks at level AA."""
    style = (Path(hpo.promotion.__file__).parent / "report/templates/page.css").read_text(
        encoding="utf-8"
    )
    blocks = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in style.split(":root {")[1:]]
    colours: dict[str, Any] = blocks[theme]
    for paper in ("paper", "shade"):
        for ink in ("ink", "soft", "good", "bad", "open"):
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
    for line in ("plot", "plot2", "plot3", "plot4"):
        assert contrast(colours[line], colours["paper"]) >= 3, line
