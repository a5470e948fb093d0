"""The report: one page, complete, offline and escaped."""

import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from manynet.records.conditions import parse_conditions, parse_objectives
from manynet.records.formatting import show
from manynet.records.ledger import Kind, Record
from manynet.records.rank_correlation import kendall
from manynet.report import ReportContent, ReportError, figures, render, write_report
from manynet.report.parallel import parallel
from manynet.storage import StorageError

LATENCY = "latency@host/torch?threads=2"
SECTIONS = ["pareto", "hypervolume", "front", "choices", "training", "ranking", "finalists", "settings"]
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: links, identifiers, open elements and text outside of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text, self.scripts = "", [""]
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.text += data + "\n"

    def attributes(self, name: str) -> list[str]:
        return [value for _, given in self.tags if (value := given.get(name)) is not None]


def record(number: int, accuracy: float, latency: float, kind: Kind = "evaluation", **changes: Any) -> Record:
    source = changes.pop("source", "measured")
    spread = {"device": LATENCY.removeprefix("latency@"), "spread": 0.04, "steady": True, "source": source}
    metrics = {"accuracy": accuracy, "parameters": 1e5 * number, "macs": 1e6, LATENCY: latency}
    architecture = {"width": 16 * number, "norm": ("batch", "layer")[number % 2]} | changes.pop(
        "architecture", {}
    )
    return Record(
        f"key{number}",
        kind,
        "space",
        "weights",
        architecture,
        "data",
        "protocol",
        metrics | changes.pop("metrics", {}),
        [spread],
    )


RECORDS = [
    record(1, 0.6, 1.0),
    record(2, 0.8, 2.0, source="predicted"),
    record(3, 0.7, 3.0),
    record(4, 0.9, 4.0, source="table"),
    record(5, 0.95, 9.0),
]
ANCHORS = [(0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.95)]
FILES = ("arch.json", "weights.safetensors", "model.onnx", "model.pt2")


def content(objectives: Sequence[str] = ("accuracy:max", f"{LATENCY}:min"), **parts: Any) -> ReportContent:
    return ReportContent("tiny", parse_objectives(objectives), **{"metric": "accuracy", **parts})


def full(**parts: Any) -> ReportContent:
    finalist = record(4, 0.93, 4.1, kind="finalist", metrics={"test_accuracy": 0.925})
    given: dict[str, Any] = {
        "records": RECORDS,
        "conditions": parse_conditions(f"{LATENCY} <= 5"),
        "finalists": [finalist],
        "anchors": ANCHORS,
        "ranking": kendall(*zip(*ANCHORS, strict=True)),
        "curves": [
            {"step": 1, "loss": 2.0, "learning_rate": 1e-3},
            {
                "step": 2,
                "loss": 1.0,
                "learning_rate": 1e-4,
                "largest/accuracy": 0.9,
                "smallest/accuracy": 0.7,
            },
        ],
        "baseline": ("logistic regression", 0.89),
        "links": {finalist.key: [f"finalists/{finalist.key}/{name}" for name in FILES]},
        "facts": {"space": "tiny-conv"},
    }
    return content(**given | parts)


def traces(figure: go.Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data if trace.visible is not False}


def sections(page: Page) -> list[str]:
    return [given["id"] or "" for tag, given in page.tags if tag == "section"]


def test_a_full_report_has_every_section_and_number() -> None:
    page = Page(render(full()))
    assert page.open == [] and sections(page) == SECTIONS
    for text in (
        "tiny-conv",
        "3 on the Pareto front",
        "90.00%",
        "1 ms",
        "best test accuracy",
        "92.50%",
        "89.00%",
        "logistic regression",
        "tau 1.00 [",
        "4.1 ms",
        "± 4%",
        f"{LATENCY} <= 5",
    ):
        assert text in page.text, text
    assert "no " not in " ".join(re.findall(r'class="empty">([^<]*)', render(full())))


def test_nothing_is_fetched_and_plotly_is_there_once() -> None:
    html = render(full())
    page = Page(html)
    for name in ("src", "href", "srcset", "action", "data", "poster"):
        assert not [value for value in page.attributes(name) if re.match(r"\w+:|//", value)]
    assert not re.findall(r"@import|url\(", "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL)))
    assert sum(len(script) > 1_000_000 for script in page.scripts) == 1
    policy = next(value for value in page.attributes("content") if "default-src" in value)
    assert "default-src 'none'" in policy and "http" not in policy


def test_links_are_relative_and_name_every_file() -> None:
    page = Page(render(full()))
    links = [link for link in page.attributes("href") if not link.startswith("#")]
    assert links == [f"finalists/key4/{name}" for name in FILES]
    assert [link[1:] for link in page.attributes("href") if link.startswith("#")] == SECTIONS


@pytest.mark.parametrize("link", ["http://x/y", "/etc/passwd", "javascript:alert(1)", "//host/x"])
def test_other_links_are_refused(link: str) -> None:
    with pytest.raises(ReportError, match="links must be paths relative to the report, but got"):
        content(links={"key4": [link]})


def test_another_task_is_told_by_its_own_metric() -> None:
    records = [
        record(number, 0.0, latency, metrics={"auc": auc, "log_loss": 1 - auc, "test_auc": auc - 0.01})
        for number, (auc, latency) in enumerate([(0.71234, 1.0), (0.75678, 2.0)], 1)
    ]
    study = content(
        ["auc:max", f"{LATENCY}:min"],
        metric="auc",
        records=records,
        finalists=records,
        anchors=ANCHORS,
        baseline=("logistic regression", 0.70004),
        curves=[{"step": 1, "loss": 0.5, "largest/auc": 0.7, "largest/log_loss": 0.4}],
    )
    text = Page(render(study)).text
    assert "best test auc\n0.7468" in text and "test auc, baseline" in text and "0.7568" in text
    assert study.colour == "auc" and "75.68%" not in text
    axes = figures.ranking(ANCHORS, None, "auc").layout
    assert axes.xaxis.title.text == "auc with shared weights" and axes.xaxis.tickformat is None
    panels = [title.text for title in figures.training(study.curves).layout.annotations]
    assert panels == ["loss", "validation"], "a log loss is a loss"


def test_content_is_escaped() -> None:
    evil = "</script><script>alert(1)</script><b>'\"&"
    bad = record(1, 0.9, 1.0, architecture={evil: evil}, metrics={evil: 1.0})
    page = Page(
        render(
            ReportContent(
                evil,
                full().objectives,
                evil,
                [bad, *RECORDS],
                finalists=[bad],
                facts={evil: evil},
                baseline=(evil, 0.5),
                curves=[{"step": 1, evil + "/accuracy": 1.0}],
                links={bad.key: [f"finalists/{evil}"]},
            )
        )
    )
    assert page.open == []
    assert not any("alert(1)" in script.split("Plotly.newPlot")[0] for script in page.scripts)
    assert not [given for tag, given in page.tags if tag == "b" and given]
    assert len([tag for tag, _ in page.tags if tag == "script"]) == len(
        [
            tag
            for tag, _ in Page(render(full(curves=[{"step": 1, "largest/accuracy": 1.0}], anchors=[]))).tags
            if tag == "script"
        ]
    )
    assert evil in page.text


def test_an_empty_study_says_why_each_section_is_empty() -> None:
    html = render(content())
    page = Page(html)
    assert sections(page) == SECTIONS and "newPlot" not in "".join(page.scripts[2:])
    for text in (
        "No architecture has been evaluated yet.",
        "There is no Pareto front",
        "At least two evaluated architectures",
        "No training curve",
        "No anchor was trained alone",
        "No finalist has been trained yet.",
        "No step is on record yet.",
    ):
        assert text in page.text


def test_records_that_all_break_a_constraint_are_no_front() -> None:
    text = Page(render(full(conditions=parse_conditions("parameters <= 1")))).text
    assert "No evaluated architecture has every objective and meets every constraint." in text


def test_one_evaluation_has_no_hypervolume() -> None:
    page = render(content(records=[record(1, 0.9, 2.0)]))
    assert "One evaluation spans no box" in page and "of the box seen" not in page


def test_what_a_search_tells_has_panels_of_its_own() -> None:
    curves = [
        {"step": step, "loss": 1.0, "learning_rate": 0.1, "entropy": 9.0 - step, "found_macs": 5e5}
        for step in (1, 2)
    ]
    figure = figures.training(curves)
    assert [title.text for title in figure.layout.annotations] == ["loss", "learning rate", "cost", "search"]
    assert list(traces(figure)["entropy"].y) == [8.0, 7.0]


def test_an_auxiliary_branch_has_a_panel_of_its_own_and_a_colour_a_block() -> None:
    shares = {f"open/block{block}": 0.1 * block for block in range(6)}
    row = {"loss": 1.0, "threshold": 0.5, "regulariser": 0.2, **shares, "largest/accuracy": 0.9}
    figure = figures.training([{"step": step, **row} for step in (1, 2)])
    assert [title.text for title in figure.layout.annotations] == ["loss", "validation", "auxiliary branch"]
    shown = traces(figure)
    assert list(shown["open/block2"].y) == [0.2, 0.2]
    assert len({shown[name].line.color for name in shares}) == 6
    assert {shown[name].xaxis for name in ("threshold", "regulariser", *shares)} == {shown["threshold"].xaxis}


def test_a_report_needs_an_objective() -> None:
    with pytest.raises(ReportError, match="at least one objective"):
        ReportContent("tiny", [], "accuracy")


def test_front_finalists_and_sources_look_different() -> None:
    study = full()
    x, y = study.objectives[1], study.objectives[0]
    shown = traces(figures.pareto(study, x, y))
    assert [one.key for one in study.front] == ["key4", "key2", "key1"]
    assert list(shown["Pareto front"].x) == [1.0, 2.0, 4.0] and shown["Pareto front"].line.shape == "hv"
    assert list(shown["outside the constraints"].x) == [9.0]
    assert list(shown["finalists"].y) == [0.93]
    evaluated = [shown[f"evaluated ({source})"] for source in ("measured", "predicted", "table")]
    markers = [*(trace.marker.symbol for trace in evaluated), shown["finalists"].marker.symbol]
    assert len(set(markers)) == 4
    assert list(shown[""].marker.symbol) == [evaluated[2].marker.symbol, evaluated[1].marker.symbol, "circle"]


def test_hover_shows_the_architecture_and_the_spread() -> None:
    study = full()
    hover = traces(figures.pareto(study, study.objectives[1], study.objectives[0]))["finalists"].text[0]
    assert "width = 64" in hover and "norm = batch" in hover and "± 4%, table" not in hover
    assert "4.1 ms</b>  ± 4%, measured" in hover


@pytest.mark.parametrize(("objectives", "plots"), [(3, 2), (4, 3)])
def test_more_objectives_are_shown_in_pairs_with_the_first(objectives: int, plots: int) -> None:
    names = ["accuracy:max", f"{LATENCY}:min", "parameters:min", "macs:min"][:objectives]
    html = render(content(names, records=RECORDS))
    assert sorted(set(re.findall(r'id="(plot-pareto-\d)"', html))) == [
        f"plot-pareto-{n}" for n in range(plots)
    ]


def test_one_objective_shows_the_best_so_far() -> None:
    study = content(["accuracy:max"], records=RECORDS)
    page = Page(render(study))
    assert "Best so far" in page.text and "One objective has no volume" in page.text
    assert list(traces(figures.best_so_far(study))["best so far"].y) == [0.6, 0.8, 0.8, 0.9, 0.95]


def test_hypervolume_only_grows_and_ignores_what_breaks_a_constraint() -> None:
    curve = figures.hypervolume(full()).data[0].y
    assert len(curve) == 5 and all(after >= before for before, after in pairwise(curve))
    assert curve[4] == curve[3] > 0


def test_parallel_coordinates_have_a_tick_for_each_category_and_for_dead_choices() -> None:
    records = [*RECORDS, record(6, 0.5, 1.0, architecture={"extra": "yes", "same": 1})]
    records = [
        Record(**{**vars(one), "architecture": {**one.architecture, "constant": 3}}) for one in records
    ]
    axes = {axis.label: axis for axis in parallel(content(records=records)).data[0].dimensions}
    assert list(axes["norm"].ticktext) == ["batch", "layer"] and list(axes["norm"].values) == [
        1,
        0,
        1,
        0,
        1,
        0,
    ]
    assert list(axes["extra"].ticktext) == ["–", "yes"] and list(axes["extra"].values) == [0, 0, 0, 0, 0, 1]
    assert list(axes["width"].tickvals) == [16, 32, 48, 64, 80, 96]
    assert "constant" not in axes and "host/torch?threads=2 (ms)" in axes


def test_training_curves_skip_steps_without_a_score() -> None:
    shown = traces(figures.training(full().curves))
    assert list(shown["loss"].x) == [1, 2] and list(shown["largest/accuracy"].x) == [2]
    assert {"smallest/accuracy", "learning_rate"} <= set(shown)


def test_a_weak_ranking_is_said() -> None:
    weak = kendall([1, 2, 3, 4], [1, 2, 3, 4])
    html = render(full(ranking=weak))
    assert 'class="bad"' in html and "too uncertain to carry a search" in html
    assert "Too few anchors" in render(full(ranking=None, anchors=ANCHORS[:2]))


def test_records_without_a_value_are_left_out() -> None:
    missing = record(7, math.nan, 1.0)
    assert len(content(records=[*RECORDS, missing]).front) == 4
    assert "newPlot" in render(content(records=[*RECORDS, missing]))


def test_the_report_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "study" / "report.html"
    write_report(path, content())
    write_report(path.as_uri(), full())
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]
    assert "3 on the Pareto front" in path.read_text(encoding="utf-8")
    with pytest.raises(StorageError, match="a file that can be written"):
        write_report(path / "report.html", content())


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("accuracy", 0.91234, "91.23%"),
        (LATENCY, 2.3456, "2.35 ms"),
        ("macs", 1.5e9, "1.5 G"),
        ("parameters", 2e5, "200 k"),
        ("loss", 0.5, "0.5"),
        ("loss", None, "–"),
    ],
)
def test_values_have_units(column: str, value: float | None, text: str) -> None:
    assert show(column, value) == text


def test_figures_are_json() -> None:
    study = full()
    figure = figures.pareto(study, study.objectives[1], study.objectives[0])
    assert json.loads(figure.to_json())["data"]
