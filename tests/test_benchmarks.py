"""Benchmarks: their frame, and that every script runs, by its quick form."""

import ast
import json
import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
# As Python does for a script of that folder.
sys.path.append(str(ROOT / "benchmarks"))

from support import frame, memory, timing
from support.frame import Bar, Option, at_least, at_most

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
SECONDS = 900.0

# It starts clusters of its own.
ALONE = {"evaluator_nodes", "time_to_first_candidate"}


def in_this_process(script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a script prints that is run here, with this process's Ray and all that is imported."""
    monkeypatch.setattr(sys, "argv", [str(script), "--quick"])
    capsys.readouterr()
    with warnings.catch_warnings():
        runpy.run_path(str(script), run_name="__main__")
    return capsys.readouterr().out


def in_its_own(script: Path) -> str:
    """What a script prints that is run in a process of its own, with a Ray of its own."""
    return subprocess.run(
        [sys.executable, script, "--quick"],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=SECONDS,
        cwd=ROOT,
    ).stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_quick_form_runs_and_ends_with_figures(
    script: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = in_its_own(script) if script.stem in ALONE else in_this_process(script, monkeypatch, capsys)
    line = json.loads(printed.splitlines()[-1])
    assert line["benchmark"] == script.stem
    assert line["quick"]
    assert line["figures"]
    assert line["pass"] is None
    assert all(bar["met"] is None for bar in line["bars"].values())


def test_none_reaches_into_private_names() -> None:
    files = sorted((ROOT / "benchmarks").rglob("*.py"))
    wrong = [
        f"{file.name}: {node.attr if isinstance(node, ast.Attribute) else node.name}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.Attribute) and private(node.attr) and not own(node.value))
        or (isinstance(node, ast.alias) and private(node.name.rpartition(".")[2]))
    ]
    assert not wrong


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def ended(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    figures: dict[str, Any],
    bars: dict[str, Bar],
    *arguments: str,
) -> tuple[int, dict[str, Any]]:
    """Exit status and last line of a benchmark that found these figures."""
    monkeypatch.setattr(sys, "argv", ["made.py", *arguments])
    status = 0
    try:
        frame.run(lambda given: figures, file="made.py", about=None, bars=bars)
    except SystemExit as exit:
        status = int(exit.code or 0)
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    ("bar", "figure", "met"),
    [
        (at_most(1.2), 1.1, True),
        (at_most(1.2), 1.2, True),
        (at_most(1.2), 1.3, False),
        (at_most(1.2), float("nan"), False),
        (at_least(1.2), 1.3, True),
        (at_least(1.2), 1.2, True),
        (at_least(1.2), 1.1, False),
        (at_least(1.2), float("nan"), False),
    ],
)
def test_a_missed_bar_is_told_and_fails_the_script(
    bar: Bar,
    figure: float,
    met: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bars = {"ratio": bar, "other": at_most(1)}
    status, line = ended(monkeypatch, capsys, {"ratio": figure, "other": 0}, bars)
    assert status == (0 if met else 1)
    assert line["pass"] is met
    assert line["bars"]["ratio"] == {"at_most" if bar.upper else "at_least": 1.2, "met": met}
    assert line["bars"]["other"]["met"]


def test_bars_are_judged_by_figures_that_are_not_rounded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, line = ended(monkeypatch, capsys, {"ratio": 1.2000001}, {"ratio": at_most(1.2)})
    assert status == 1
    assert line["figures"] == {"ratio": 1.2}


def test_a_quick_run_judges_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, line = ended(monkeypatch, capsys, {"ratio": 2.0}, {"ratio": at_most(1)}, "--quick")
    assert status == 0
    assert line["pass"] is None
    assert line["bars"]["ratio"]["met"] is None


def test_what_was_not_measured_is_not_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, line = ended(monkeypatch, capsys, {"ratio": None}, {"ratio": at_most(1)})
    assert status == 0
    assert line["pass"] is None


def test_without_bars_nothing_passes_or_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, line = ended(monkeypatch, capsys, {"by": {1: (0.5, float("inf"))}}, {})
    assert status == 0
    assert line["pass"] is None
    assert line["figures"] == {"by": {"1": [0.5, None]}}


def test_a_bar_without_a_figure_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyError, match="ratoi"):
        ended(monkeypatch, capsys, {"ratio": 1.0}, {"ratoi": at_most(1)}, "--quick")


def test_options_have_defaults_for_quick_runs() -> None:
    options = (
        Option("--steps", 100, quick=2),
        Option("--tokens", (4, 9), quick=(4,)),
        Option("--data", "digits"),
    )
    whole, quick = (frame.parsed(options, None, arguments) for arguments in ([], ["--quick"]))
    assert (whole.steps, whole.tokens, whole.data) == (100, (4, 9), "digits")
    assert (quick.steps, quick.tokens, quick.data) == (2, (4,), "digits")
    assert whole.output != quick.output
    given = frame.parsed(options, None, ["--quick", "--steps", "7", "--tokens", "16", "25"])
    assert (given.steps, given.tokens) == (7, [16, 25])


def test_works_take_turns_and_warm_up_rounds_do_not_count() -> None:
    ran: list[str] = []
    ticks = iter(range(100))
    works = {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}
    seconds = timing.in_turns(works, rounds=2, warm_up=1, clock=lambda: float(next(ticks)))
    assert "".join(ran) == "ababab"
    assert [len(taken) for taken in seconds.values()] == [2, 2]


def test_saved_bytes_count_each_storage_once_and_no_parameter() -> None:
    layer = torch.nn.Linear(8, 8, bias=False)
    x = torch.randn(4, 8)
    counter = memory.SavedBytes(layer)
    with counter.counted():
        # Saves its input and its weight; the exponential saves its output, twice over what the product saves.
        y = layer(x).exp()
        loss = (y * y).sum()
    assert counter.most == 2 * x.nbytes
    loss.backward()
    del y, loss
    with counter.counted():
        layer(x)
    assert counter.most == 2 * x.nbytes
