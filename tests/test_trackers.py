"""Trackers: each candidate is a run with its architecture and its metrics; what cannot be told is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from manynet.config.experiment import parse_experiment
from manynet.search import trackers
from manynet.search.trackers import TrackerError
from manynet.studies.study import Study

LATENCY = "latency@host/torch?batch=8"
FAILURE = "ValueError: too deep"


class Candidate(tune.Trainable):
    """Reports as an evaluator does: metrics, or a failure."""

    def setup(self, config: dict[str, Any]) -> None:
        """Nothing to keep."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        depth = self.config["block.depth"]
        if depth == 3:
            return {"failure": FAILURE, "hopeless": False, "done": True}
        return {"accuracy": depth / 10, LATENCY: 2.5, "macs": 1000, "done": True}


def search(asked: list[str], study: str, folder: Path, depths: list[int]) -> None:
    tuner = tune.Tuner(
        tune.with_resources(Candidate, {"cpu": 1}),
        param_space={"block.depth": tune.grid_search(depths), "operator": "any|conv"},
        tune_config=tune.TuneConfig(max_concurrent_trials=2, reuse_actors=True),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(folder),
            callbacks=trackers.callbacks(asked, study),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    tuner.fit()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The driver's working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path


@pytest.mark.usefixtures("ray_cluster")
def test_mlflow_has_a_run_a_candidate_and_a_resumed_search_goes_on_in_its_experiment(here: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    study, asked = str(here / "runs" / "mine"), ["mlflow:sqlite:///mlflow.db"]
    trackers.check(asked)
    search(asked, study, here / "first", [1, 3])
    search(asked, study, here / "resumed", [2])

    client = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db")
    experiment = client.get_experiment_by_name("mine")
    runs = {run.data.params["block.depth"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"1", "2", "3"}
    assert runs["1"].data.params == {"block.depth": "1", "operator": "any|conv"}
    assert runs["2"].data.metrics == {"accuracy": 0.2, "latency_host/torch_batch_8": 2.5, "macs": 1000}
    assert {depth: run.info.status for depth, run in runs.items()} == {
        "1": "FINISHED",
        "2": "FINISHED",
        "3": "FAILED",
    }
    assert runs["3"].data.tags["failure"] == FAILURE and not runs["3"].data.metrics
    assert runs["3"].data.tags["study"] == study


@pytest.mark.usefixtures("ray_cluster")
def test_wandb_offline_leaves_a_run_a_candidate(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    trackers.check(["wandb:team/digits"])
    search(["wandb:team/digits"], str(here / "mine"), here / "tune", [1, 3])

    good, bad = sorted(map(told, here.glob("wandb/offline-run-*/*.wandb")), key=lambda run: run["exit_code"])
    assert good["config"] == {"block.depth": 1, "operator": "any|conv"}
    assert good["metrics"] == {"accuracy": 0.1, LATENCY: 2.5, "macs": 1000}
    assert (good["project"], good["group"], good["entity"]) == ("digits", "mine", "team")
    assert bad["exit_code"] == 1 and bad["summary"]["failure"] == FAILURE and not bad["metrics"]


def told(file: Path) -> dict[str, Any]:
    """What an offline run's file says, which `wandb sync` sends."""
    from wandb.proto.wandb_internal_pb2 import Record

    def values(items: Any) -> dict[str, Any]:
        found = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        return {key: value for key, value in found.items() if not key.startswith("_")}

    said: dict[str, Any] = {"metrics": {}, "summary": {}}
    for data in entries(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            run = record.run
            said |= {"project": run.project, "group": run.run_group, "entity": run.entity}
            said["config"] = values(run.config.update)
        said["metrics"] |= values(record.history.item)
        said["summary"] |= values(record.summary.update)
        if record.HasField("exit"):
            said["exit_code"] = record.exit.exit_code
    return said


def entries(content: bytes) -> Iterator[bytes]:
    """Of a log in LevelDB's format: parts with a header of check sum, length and kind, in blocks of 32 KiB."""
    position, entry = 7, b""
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        entry += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield entry
            entry = b""


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        ("mflow", "a tracker must be one of mlflow, mlflow:ADDRESS, wandb, wandb:PROJECT, but got 'mflow'"),
        ("wandb:", "a tracker must be one of"),
        ("mlflow:mlruns", "an MLflow store must be a database or a server, .*'mlruns'"),
        ("mlflow:file:///tmp/mlruns", "an MLflow store must be a database or a server"),
        (
            "mlflow:sqllite:///x.db",
            "an MLflow store must be one that MLflow opens, but got 'sqllite:///x.db'",
        ),
        ("wandb:digits", "tracker wandb needs a key, but found none: set WANDB_API_KEY"),
    ],
)
def test_a_tracker_that_cannot_be_told_is_one_line(tracker: str, message: str, here: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    with pytest.raises(TrackerError, match=message) as refused:
        trackers.check([tracker])
    assert "\n" not in str(refused.value)


def test_a_key_that_cannot_be_one_is_refused_and_not_told(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "secret-but-short")
    with pytest.raises(TrackerError, match="tracker wandb needs a key that its server accepts") as refused:
        trackers.check(["wandb:digits"])
    assert "secret" not in str(refused.value)


def test_a_tool_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setattr("sys.path", [str(here)])
    monkeypatch.delitem(__import__("sys").modules, "wandb", raising=False)
    with pytest.raises(TrackerError, match="needs the package wandb, but it is not installed"):
        trackers.check(["wandb:digits"])


EXPERIMENT = """
study: {folder}
space: search_spaces.vit:tiny
train: {{steps: 10}}
search: {{objectives: ["accuracy:max", "macs:min"], evaluations: {evaluations}, trackers: {trackers}}}
"""


@pytest.mark.usefixtures("ray_cluster")
def test_trackers_and_evaluations_may_change_when_a_study_goes_on(here: Path) -> None:
    pytest.importorskip("mlflow")

    def begin(evaluations: int, asked: str) -> Study:
        text = EXPERIMENT.format(folder=here / "study", evaluations=evaluations, trackers=asked)
        return Study.begin(parse_experiment(text, "test"))

    begin(10, "[]")
    begin(10, '["mlflow:sqlite:///mlflow.db"]')
    again = Study.open(here / "study").experiment.search
    assert again is not None and again.trackers == ["mlflow:sqlite:///mlflow.db"]
    assert begin(20, "[]").experiment.search.evaluations == 20  # type: ignore[union-attr]
