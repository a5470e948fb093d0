"""`manynet watch`: what it shows of a run in each state, that it fits, and what it refuses."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from rich.cells import cell_len
from rich.console import Console

from manynet.cli.watching import study_folder as reading
from manynet.cli.watching.plots import Axis, scatter, sparkline
from manynet.cli.watching.sources import source
from manynet.cli.watching.study_folder import StudyStatus, read_study
from manynet.cli.watching.view import line, page
from manynet.errors import ManynetError
from manynet.studies import devices as study_devices
from manynet.studies import on_record
from manynet.telemetry import finalists_file as winners
from manynet.telemetry import search_status as status
from manynet.telemetry import training_status
from manynet.telemetry.search_status import Member, SearchStatus
from manynet.training import loop as training_loop

ROOT = Path(__file__).parent.parent
LATENCY = "latency@host/torch"
EXPERIMENT = """
space: search_spaces.vit:tiny
train: {}
search: {objectives: ["accuracy:max", "latency@host/torch:min"]}
finalists: {}
"""
TRAINING = {
    "job": "supernet",
    "number": 0,
    "jobs": 1,
    "steps": 300,
    "metric": "accuracy",
    "step": 120,
    "logged": {"loss": 1.0785},
    "scores": {"largest/accuracy": 0.9167},
    "found": "",
}
SUBNETS = TRAINING | {"job": "2df2570b", "number": 3, "jobs": 5, "steps": 60, "step": 30}
DEVICE = {
    "device": "host/torch",
    "actor": "board/1",
    "node": "n",
    "fingerprint": "f",
    "state": "set aside",
    "why": "drift",
    "measured": 60,
    "unsteady": 1,
    "refused": 2,
    "deaths": 0,
    "drift": 0.158,
}
FRONT = [
    Member(
        architecture={"depth": 6},
        metrics={"accuracy": 0.9611 - 0.01 * i, LATENCY: 2.2 - 0.1 * i, "macs": 2e5 - 1e4 * i, "loss": 0.3},
    )
    for i in range(20)
]


def searching(folder: Path | str, **changes: Any) -> SearchStatus:
    told: dict[str, Any] = {
        "study": str(folder),
        "space": "vit-tiny",
        "state": "searching",
        "objectives": ["accuracy:max", f"{LATENCY}:min"],
        "constraints": ["parameters <= 60000"],
        "done": 37,
        "evaluations": 80,
        "failed": 2,
        "evaluators": 2,
        "per_second": 0.42,
        "seconds_left": 102.4,
        "idle_share": 0.13,
        "hypervolume": 0.7131,
        "hypervolumes": [(i, 0.5 + i / 200) for i in range(37)],
        "front": FRONT,
        "updated": time.time(),
    }
    return SearchStatus(**(told | changes))


def put(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def begun(folder: Path, upto: str) -> Path:
    """A study's folder as it is at a step."""
    put(folder, "experiment.yaml", f"study: {folder}{EXPERIMENT}")
    if upto == "begun":
        return folder
    put(folder, "supernet/progress.json", TRAINING)
    if upto == "train":
        return folder
    put(folder, "supernet/result.json", {})
    put(folder, "devices.json", {"references": {}, "devices": [DEVICE]})
    if upto == "starting":
        return folder
    status.write(str(folder), searching(folder, state="searching" if upto == "search" else "ended"))
    if upto in ("search", "ended"):
        return folder
    put(folder, "subnets/progress.json", SUBNETS)
    if upto == "done":
        found = [Member(architecture={}, metrics={"test_accuracy": 0.9722, LATENCY: 1.5})]
        winners.write(str(folder), found)
    return folder


def shown(seen: Sequence[StudyStatus], width: int, height: int, now: float | None = None) -> str:
    """The page as a terminal without colour shows it; that it fits is asserted."""
    console = Console(width=width, height=height, no_color=True, file=io.StringIO())
    with console.capture() as captured:
        console.print(page(seen, width, height, time.time() if now is None else now))
    text = captured.get()
    lines = text.splitlines()
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width
    return text


STATES = {
    "begun": ["training has not reported yet"],
    "train": ["[train]", "training", "40%", "loss 1.079", "largest 91.7%"],
    "starting": ["train ✓", "[search]", "no candidate is evaluated yet", "host/torch"],
    "search": [
        *(
            "[search]",
            "37 of 80",
            "46%",
            "0.42 a second",
            "102 s left",
            "front of 20",
            "idle 13%",
            "2 failed",
        ),
        *("parameters <= 60000", "hypervolume 0.7131", "▁", "█", "accuracy ↑", "host/torch ↓"),
        *("96.11%", "2.2 ms", "●", "set aside", "drift +15.8%", "2 refused", "last news", "Ctrl-C"),
    ],
    "ended": ["[finalists]", "none is trained yet"],
    "finalists": ["search ✓", "[finalists]", "70%", "2df2570b (4/5)"],
    "done": ["finalists ✓", "done", "test_accuracy", "0.9722", "1.5 ms"],
}


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50)])
@pytest.mark.parametrize(("upto", "told"), STATES.items())
def test_a_study_is_shown_at_each_step_and_fits(
    upto: str, told: list[str], width: int, height: int, tmp_path: Path
) -> None:
    seen = [read_study(str(begun(tmp_path / "mine", upto)))]
    text = shown(seen, width, height)
    assert [part for part in told if part.replace("0.9722", "97.22%") not in text] == []
    assert text.startswith("mine") and "no news" not in text


def test_a_large_terminal_shows_all_of_the_front_and_a_small_one_says_how_much_is_left(
    tmp_path: Path,
) -> None:
    seen = [read_study(str(begun(tmp_path, "search")))]
    small, large = shown(seen, 80, 24), shown(seen, 160, 50)
    rows = re.findall(r"^ +\d\d\.\d\d%", small, re.MULTILINE)
    assert f"and {20 - len(rows)} more" in small and len(rows) > 8
    assert "more" not in large and "77.11%" in large


@pytest.mark.parametrize("height", [3, 6, 10])
@pytest.mark.parametrize("width", [20, 40, 70])
def test_the_smallest_terminals_are_kept_to(width: int, height: int, tmp_path: Path) -> None:
    shown([read_study(str(begun(tmp_path, "search")))], width, max(height, 7))


def test_silence_is_told_while_a_step_runs_and_not_after_the_end(tmp_path: Path) -> None:
    running = read_study(str(begun(tmp_path / "a", "search")))
    later = time.time() + 40
    assert "! no news for 40 s: the driver may be gone" in shown([running], 80, 24, later)
    assert line([running], later).endswith("(no news: the driver may be gone)")
    assert "no news" not in line([running], later - 20)
    over = read_study(str(begun(tmp_path / "b", "done")))
    stopped = begun(tmp_path / "c", "search")
    status.write(str(stopped), searching(stopped, state="stopped"))
    assert "no news" not in line([over, read_study(str(stopped))], later + 4000)


def test_one_objective_and_an_empty_front_are_shown_too(tmp_path: Path) -> None:
    folder = begun(tmp_path, "search")
    status.write(str(folder), searching(folder, objectives=["accuracy:max"], front=FRONT[:1]))
    assert "96.11%" in shown([read_study(str(folder))], 80, 24)
    status.write(str(folder), searching(folder, front=[], done=0, hypervolumes=[], seconds_left=None))
    assert "front of 0" in shown([read_study(str(folder))], 80, 24)


def test_points_stand_where_their_values_are() -> None:
    drawn = scatter([(0.0, 0.0), (1.0, 2.0), (0.5, 2.0)], Axis("x", "0", "1"), Axis("y", "0", "2"), 13, 6)
    assert drawn == [
        "  y",
        "2│     ●    ●",
        " │           ",
        "0│●          ",
        " └───────────",
        "  0    x    1",
    ]
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 4)[-1] == "█" and sparkline([], 4) == ""


def test_a_sweep_is_shown_as_a_row_a_study(tmp_path: Path) -> None:
    put(tmp_path, "experiment.yaml", f"study: {tmp_path}{EXPERIMENT}sweep: {{train.steps: [10, 20]}}\n")
    begun(tmp_path / "steps=10", "done")
    begun(tmp_path / "steps=20", "train")
    text = shown(source(str(tmp_path))(), 80, 24)
    first, second = (row for row in text.splitlines() if row.startswith("steps="))
    assert "done" in first and "0.7131" in first and "1 winners" in first
    assert "training" in second and "step 120 of 300" in second
    silent = shown(source(str(tmp_path))(), 80, 24, time.time() + 40)
    assert "steps=20  training" in silent and "step 120 of 300" in silent


def test_the_files_are_those_that_a_run_writes() -> None:
    assert on_record.EXPERIMENT == reading.EXPERIMENT
    assert study_devices.FILE == reading.DEVICES
    assert f"supernet/{training_status.FILE}" == reading.TRAINING
    assert f"supernet/{training_loop.RESULT}" == reading.TRAINED
    assert f"subnets/{training_status.FILE}" == reading.SUBNETS


def test_a_file_that_holds_something_else_is_one_line(tmp_path: Path) -> None:
    folder = begun(tmp_path, "search")
    put(folder, "search.json", {"candidates": 3})
    with pytest.raises(ManynetError, match="search.json must hold a search's status"):
        read_study(str(folder))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "nowhere",
            r"a run must be the folder of a study .* or the address of a Ray cluster .* got 'nowhere'",
        ),
        ("127.0.0.1:1", "a Ray cluster must listen at '127.0.0.1:1', but nobody does"),
        ("ray://127.0.0.1:1", "a Ray cluster must listen at 'ray://127.0.0.1:1', but nobody does"),
        ("http://127.0.0.1:8265", "an address must be a path or a URI pyarrow can open"),
    ],
)
def test_a_wrong_address_is_one_clear_line(given: str, message: str) -> None:
    with pytest.raises(ManynetError, match=message) as refused:
        source(given)
    assert "\n" not in str(refused.value)


def watching(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "manynet", "watch", *arguments]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen(command, **(piped | options))


def test_once_prints_a_snapshot_and_needs_no_pytorch_and_no_ray(tmp_path: Path) -> None:
    folder = begun(tmp_path, "search")
    script = (
        "import sys; from manynet.cli import app; app(['watch', sys.argv[1], '--once'], standalone_mode=False);"
        "print('loaded', sorted({'torch', 'ray', 'optuna', 'plotly'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "37 of 80" in ran.stdout and "loaded []" in ran.stdout


def test_without_a_terminal_it_prints_a_line_when_something_is_new_and_ends_when_told_to(
    tmp_path: Path,
) -> None:
    folder = begun(tmp_path / "mine", "search")
    with watching(str(folder), "--until-done") as watched:
        assert watched.stdout is not None
        assert watched.stdout.readline().startswith("mine: searching: 37 of 80, 2 failed")
        begun(folder, "done")
        rest, errors = watched.communicate(timeout=60)
    assert watched.returncode == 0 and not errors
    assert rest.splitlines()[-1].startswith("mine: done, 1 winners")


def test_on_a_terminal_it_is_drawn_anew_and_leaves_quietly(tmp_path: Path) -> None:
    folder = begun(tmp_path, "search")
    controller, terminal = pty.openpty()
    with watching(
        str(folder), stdout=terminal, stdin=terminal, env={**os.environ, "TERM": "xterm"}
    ) as watched:
        drawn = until(controller, b"37 of 80")
        status.write(str(folder), searching(folder, done=41))
        drawn += until(controller, b"41 of 80")
        watched.send_signal(signal.SIGINT)
        _, errors = watched.communicate(timeout=60)
    assert b"\x1b[?1049h" in drawn
    assert watched.returncode == 0 and not errors


def until(controller: int, wanted: bytes) -> bytes:
    """What a program writes to its terminal, until it holds ``wanted``."""
    read = b""
    while wanted not in read:
        ready, _, _ = select.select([controller], [], [], 60)
        assert ready, read
        read += os.read(controller, 65536)
    return read


class Telling:
    """Stands for a running search."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told

    def status(self) -> dict[str, Any]:
        return self._told


@pytest.mark.usefixtures("ray_cluster")
def test_the_searches_of_a_cluster_are_found_by_their_actors() -> None:
    def begin(address: str) -> Any:
        told = searching(address, updated=time.time() + 3600).model_dump()
        options: dict[str, Any] = {
            "name": f"{status.PREFIX}{address}",
            "namespace": status.NAMESPACE,
            "num_cpus": 0,
        }
        return ray.remote(Telling).options(**options).remote(told)

    cluster = ray.get_runtime_context().gcs_address
    # Ray asks twenty times, a second apart, where it is not told otherwise.
    asks = {"RAY_AUTH_TOKEN": "0" * 64, "RAY_NUM_REDIS_GET_RETRIES": "2"}
    stranger = watching(cluster, "--once", env={**os.environ, **asks})
    first = begin("s3://bucket/one?region=x")
    ray.get(first.status.remote())
    alone = watching(cluster, "--once").communicate(timeout=120)[0]
    assert "one  vit-tiny" in alone and "37 of 80" in alone and "96.11%" in alone
    second = begin("/runs/two")
    ray.get(second.status.remote())
    both = watching(cluster, "--once").communicate(timeout=120)[0]
    assert [row.split()[0] for row in both.splitlines() if "37 of 80" in row] == ["two", "one"]
    for actor in (first, second):
        ray.kill(actor)
    out, errors = stranger.communicate(timeout=120)
    if os.environ.get("RAY_AUTH_MODE") == "token":
        # Ray's core says above it that it tries again.
        refusal = errors.splitlines()[-1]
        assert stranger.returncode == 1 and not out and "Traceback" not in errors
        assert refusal.startswith("Error: a Ray cluster must run at") and "RAY_AUTH_TOKEN" in refusal
