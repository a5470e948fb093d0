"""Sweeps of differentiable searches from end to end: what each leaves, a kill, a resume, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import manynet as mn
from manynet.config.experiment import parse_experiment, variants
from manynet.config.settings import FinalistsSettings
from manynet.errors import ManynetError
from manynet.search_spaces import dmasking
from manynet.studies.alone import Keys, SubnetTrainer
from manynet.studies.finalists import Selection
from manynet.studies.sweep import Sweep
from manynet.training import checkpoints as checkpoint

ROOT = Path(__file__).parent.parent
space = dmasking.space(
    "sweep-mini",
    resolution=(6, 8),
    stages=(dmasking.Stage((4, 8), 1, 1, (1.0, 2.0)), dmasking.Stage((4, 8, 12), 1, 2, (1.5, 3.0))),
    stem=4,
    stem_stride=1,
    head=16,
    channels=1,
    classes=10,
)
TARGETS = (10_000, 25_000)
TEXT = f"""
study: STUDY
space: {__file__}:space
train:
  strategy: trainers.differentiable:Differentiable
  strategy_options: {{strength: 3.0, learning_rate: 0.1, every: 1}}
  steps: 80
  workers: 0
  batch_size: 32
  learning_rate: 5e-3
  evaluate_every: 40
  checkpoint_every: 20
search: {{objectives: [accuracy:max, macs:min], evaluations: 1, evaluators: 1}}
finalists: {{start: random, workers: 0, steps: 40, batch_size: 32, learning_rate: 5e-3, count: 1, anchors: 0, evaluate_every: 40}}
sweep: {{train.strategy_options.target: {list(TARGETS)}}}
"""


def sweep_in(folder: Path) -> Sweep:
    return Sweep.begin(parse_experiment(TEXT.replace("STUDY", str(folder)), "x.yaml"))


@pytest.fixture(scope="module")
def sweep(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    made = sweep_in(tmp_path_factory.mktemp("sweep"))
    made.run()
    return made


def result_of(folder: str | Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((Path(folder) / "supernet/result.json").read_text())
    return result


def test_each_study_searches_evaluates_what_it_found_and_trains_it_from_random_weights(sweep: Sweep) -> None:
    studies = dict(sweep.studies())
    assert list(studies) == [f"target={target}" for target in TARGETS]
    for study in studies.values():
        found = result_of(study.folder)["found"]
        evaluated = [record for record in study.ledger.read() if record.kind == "evaluation"]
        assert [dict(record.architecture) for record in evaluated] == [found]
        (winner,) = study.winners()
        assert dict(winner.architecture) == found and "start=random" in winner.protocol
        assert (Path(study.folder) / winner.details["folder"] / "model.onnx").exists()
    costs = [study.winners()[0].metrics["macs"] for study in studies.values()]
    assert costs == [pytest.approx(target, rel=0.15) for target in TARGETS]


def test_finalists_of_random_and_of_shared_weights_are_different_trainings(sweep: Sweep) -> None:
    _, study = next(sweep.studies())
    trainer = SubnetTrainer(study.space, study.data, study.ledger, "folder", "digest")
    (arch,) = (winner.architecture for winner in study.winners())
    alone = {}
    for start in ("random", "shared"):
        selection = Selection(Keys("space", "data"), "weights", FinalistsSettings(start=start))
        alone[start] = selection.alone("finalist", arch)
    assert alone["random"].weights is None and alone["shared"].weights == "weights"
    assert trainer.key(alone["random"]) != trainer.key(alone["shared"])


def test_the_page_of_all_studies_leads_to_each_of_them(sweep: Sweep) -> None:
    page = (Path(sweep.folder) / "report.html").read_text()
    for target in TARGETS:
        assert f'href="target%3D{target}/report.html"' in page
        assert (Path(sweep.folder) / f"target={target}/report.html").exists()
    assert "macs" in page and "test_accuracy" in page


def test_progress_tells_entropy_costs_and_the_likeliest_architecture(sweep: Sweep) -> None:
    folder = Path(sweep.folder) / f"target={TARGETS[0]}/supernet"
    progress = json.loads((folder / "progress.json").read_text())
    assert progress["found"].startswith("resolution ") and "block1: channels " in progress["found"]
    assert "found/accuracy" in progress["scores"]
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert {"entropy", "temperature", "expected_macs", "found_macs", "found/accuracy"} <= set(
        events.Tags()["scalars"]
    )
    assert "found/text_summary" in events.Tags()["tensors"]


def test_a_killed_sweep_goes_on_to_the_same_end(
    sweep: Sweep, tmp_path: Path, joining: dict[str, str], when_free: Callable[[], None]
) -> None:
    file = tmp_path / "sweep.yaml"
    # Only its supernet is compared, so none is trained from random weights.
    one = "\n".join(line for line in TEXT.splitlines() if not line.startswith("finalists:"))
    one = one.replace(str(list(TARGETS)), str(list(TARGETS[:1])))
    file.write_text(one.replace("STUDY", str(tmp_path / "run")))
    command = [sys.executable, "-m", "manynet", "run", str(file)]
    driver = subprocess.Popen(
        command, cwd=ROOT, env=joining, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    first = tmp_path / f"run/target={TARGETS[0]}"
    deadline = time.monotonic() + 240
    while not checkpoint.find(f"{first}/supernet/checkpoints"):
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    when_free()
    assert not (first / "supernet/result.json").exists()
    with pytest.raises(ManynetError, match=r"holds several studies; name one of them: target=10000$"):
        mn.Study.open(tmp_path / "run")
    Sweep.open(tmp_path / "run").run()
    ours, theirs = result_of(first), result_of(f"{sweep.folder}/target={TARGETS[0]}")
    assert ours["found"] == theirs["found"] and ours["digest"] == theirs["digest"]
    assert ours["curves"] == theirs["curves"]


def test_another_sweep_in_the_same_folder_is_refused(sweep: Sweep) -> None:
    text = TEXT.replace("STUDY", sweep.folder)
    with pytest.raises(ManynetError, match="train of .* was begun with steps=80, but got 90"):
        Sweep.begin(parse_experiment(text.replace("steps: 80", "steps: 90"), "x.yaml"))
    with pytest.raises(ManynetError, match="holds another experiment"):
        Sweep.begin(parse_experiment(text, "x.yaml", ["sweep={train.seed: [0, 1]}"]))


def test_names_of_studies_tell_their_values_apart() -> None:
    experiment = parse_experiment(
        TEXT, "x.yaml", ["sweep={train.seed: [0, 1], finalists.seed: [0, 1], data: [digits, 'idx:a/b']}"]
    )
    made = variants(experiment)
    assert len(made) == 8
    assert "train.seed=1,finalists.seed=0,data=idx_a_b" in made
    one = made["train.seed=1,finalists.seed=0,data=idx_a_b"]
    assert one.train is not None and (one.train.seed, one.data, one.sweep) == (1, "idx:a/b", None)
    assert one.study == "STUDY/train.seed=1,finalists.seed=0,data=idx_a_b"


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("{train.stpes: [1]}", "train.stpes is not a key; train takes strategy"),
        ("{train.steps: [1, 0]}", "train.steps: input should be greater than 0, but got 0"),
        ("{train.steps: []}", r"sweep takes keys .* but got train.steps: \[\]"),
        ("{train.steps: [1, 1]}", r"list of different values, but got train.steps: \[1, 1\]"),
        (
            "{data: ['idx:a', 'idx/a']}",
            "values of a sweep must differ in letters and digits, but got 'data=idx_a'",
        ),
        ("{study: [a, b]}", "sweep takes keys of the experiment besides study"),
        ("{train.steps: 3}", "sweep.train.steps: input should be a valid list, but got 3"),
        ("{space.x: [3]}", "space.x cannot be set"),
        ("{}", "sweep: dictionary should have at least 1 item"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_clear_line(sweep: str, message: str) -> None:
    with pytest.raises(ManynetError, match=message) as caught:
        variants(parse_experiment(TEXT, "x.yaml", [f"sweep={sweep}"]))
    assert not re.search(r"\n", str(caught.value))
