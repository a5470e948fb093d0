"""A study on an object store: a real S3 server that runs here, killed and resumed, read and refused."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from typer.testing import CliRunner

import manynet as mn
from manynet import references
from manynet.cli import app
from manynet.config.settings import SearchSettings
from manynet.errors import ManynetError
from manynet.records.ledger import Ledger, Record
from manynet.search.evaluator import Provenance
from manynet.search.outcome import Evaluation
from manynet.search.runs import run
from manynet.storage import StorageError, exists, join, local_copy, locate, read_json
from manynet.telemetry.tensorboard import Events
from manynet.training import checkpoints as checkpoint

FAST: dict[str, Any] = {"batch_size": 16, "augment": "none", "learning_rate": 3e-3}
STEPS, EVALUATIONS = 60, 24
EXPERIMENT: dict[str, Any] = {
    "space": "search_spaces.vit:tiny",
    "data": "digits",
    "train": {**FAST, "strategy": "trainers.single_path:SinglePath", "steps": STEPS, "checkpoint_every": 10},
    "search": {"objectives": ["accuracy:max", "macs:min"], "evaluations": EVALUATIONS, "evaluators": 2},
    "finalists": {**FAST, "workers": 0, "count": 1, "steps": 4, "anchors": 0},
}
EXPORTS = {"arch.json", "weights.safetensors", "model.onnx", "model.pt2"}


def wait_for(happened: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def start(*arguments: str, cwd: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "manynet", *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def names(address: str) -> set[str]:
    filesystem, path = locate(address)
    return {info.base_name for info in filesystem.get_file_info(pyarrow.fs.FileSelector(path))}


class Killed:
    """A study that was killed in its training and in its search, and resumed from another folder each time."""

    def __init__(self, s3: Any, folder: Path, joining: dict[str, str], when_free: Callable[[], None]) -> None:
        self.address = f"s3://studies/a%20run{s3.options}"
        folders = [folder / name for name in ("one", "two", "three")]
        for one in folders:
            one.mkdir()
        file = folders[0] / "experiment.yaml"
        file.write_text(yaml.safe_dump({"study": self.address, **EXPERIMENT}))
        training = start("run", str(file), cwd=folders[0], environment=joining)
        checkpoints = join(self.address, "supernet", "checkpoints")
        wait_for(lambda: checkpoint.find(checkpoints), training)
        kill(training)
        when_free()
        self.checkpoint = checkpoint.find(checkpoints)[0]
        searching = start("resume", self.address, cwd=folders[1], environment=joining)
        wait_for(lambda: len(self.records()) >= 3, searching)
        kill(searching)
        when_free()
        self.before = self.records()
        # The same folder by its other form: the server is named by the environment, that of a new Ray too.
        environment = {**os.environ, "AWS_ENDPOINT_URL": f"http://{s3.place}"}
        last = start("resume", "s3://studies/a%20run", cwd=folders[2], environment=environment)
        wait_for(lambda: len(self.records()) > len(self.before), last)
        # The server does not answer for a while.
        s3.process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        s3.process.send_signal(signal.SIGCONT)
        self.output, _ = last.communicate()
        assert last.returncode == 0, self.output
        self.beside = [path for one in folders for path in one.iterdir() if path != file]

    def records(self) -> list[Record]:
        return [r for r in Ledger(join(self.address, "ledger")).read() if r.kind == "evaluation"]


@pytest.fixture(scope="module")
def killed(
    s3: Any,
    tmp_path_factory: pytest.TempPathFactory,
    joining: dict[str, str],
    when_free: Callable[[], None],
) -> Killed:
    return Killed(s3, tmp_path_factory.mktemp("s3"), joining, when_free)


def test_a_killed_study_repeats_no_finished_evaluation(killed: Killed) -> None:
    after = {record.key: record for record in killed.records()}
    assert 3 <= len(killed.before) < EVALUATIONS == len(after)
    assert all(after[record.key] == record for record in killed.before)


def test_a_server_that_is_away_for_a_while_costs_no_candidate(killed: Killed) -> None:
    assert "failed" not in killed.output and f"{EVALUATIONS} of {EVALUATIONS}" in killed.output


def test_killed_training_goes_on_from_its_last_checkpoint(killed: Killed) -> None:
    folder = join(killed.address, "supernet", "tensorboard")
    with local_copy(join(folder, max(names(folder)))) as path:
        events = list(LegacyEventFileLoader(str(path)).Load())
    begun = [event.step for event in events if event.HasField("session_log")]
    # Workers outlive a killed driver for a moment, and may write another.
    assert len(begun) == 1 and 0 < killed.checkpoint.step <= begun[0] < STEPS
    shown = {value.tag for event in events for value in event.summary.value}
    assert {"learning_rate", "largest/accuracy"} <= shown
    result = read_json(join(killed.address, "supernet", "result.json"))
    assert result["curves"][-1]["step"] == STEPS


def test_everything_is_on_the_bucket_and_nothing_beside_it(killed: Killed) -> None:
    expected = {"experiment.yaml", "supernet", "ledger", "subnets", "finalists", "report.html"}
    assert expected <= names(killed.address)
    expected = {"weights.safetensors", "result.json", "curves.jsonl", "checkpoints", "tensorboard"}
    assert expected <= names(join(killed.address, "supernet"))
    (finalist,) = names(join(killed.address, "finalists"))
    assert names(join(killed.address, "finalists", finalist)) == EXPORTS
    assert killed.beside == []


def test_what_is_there_is_read_from_there(killed: Killed, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study = mn.Study.open(killed.address)
    (winner,) = study.winners()
    subnet = mn.Subnet.load(join(study.folder, winner.details["folder"]))
    example = study.space.example(winner.architecture)
    with torch.no_grad():
        assert subnet(*example).shape == (len(example[0]), 10)
    study.supernet()(*example, arch=winner.architecture)
    assert study.found().title == "a run"
    # By the environment, too.
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3.place}")
    assert mn.Study.open("s3://studies/a%20run").best().metrics == study.best().metrics


@pytest.mark.parametrize("command", ["best", "report", "front"])
def test_commands_take_the_address(killed: Killed, command: str) -> None:
    ran = CliRunner().invoke(app, [command, killed.address])
    assert ran.exit_code == 0, ran.output


def test_events_of_a_long_run_are_several_files(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manynet.telemetry.tensorboard._PART", 100)
    folder = f"s3://studies/events{s3.options}"
    events = Events(folder)
    for step in range(3):
        events.scalar("loss", 0.5, step)
        events.flush(now=True)
        time.sleep(1e-4)
    events.close()
    points = []
    for name in sorted(names(folder)):
        with local_copy(join(folder, name)) as path:
            points += [e.step for e in LegacyEventFileLoader(str(path)).Load() if e.HasField("summary")]
    assert points == [0, 1, 2] and len(names(folder)) > 1


def test_a_bucket_that_is_not_there_is_refused_before_anything_is_trained(
    s3: Any, tmp_path: Path, manynet: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    address = f"s3://none/run{s3.options}"
    study = mn.Study(address, "search_spaces.vit:tiny")
    with pytest.raises(
        StorageError, match=r"^s3://none/run.* must be a folder that can be written: .*bucket.*$"
    ):
        study.train(**EXPERIMENT["train"])
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump({**EXPERIMENT, "study": address, "search": None, "finalists": None}))
    ran = manynet("run", str(file), cwd=tmp_path)
    output = ran.stdout + ran.stderr
    (line,) = [line for line in output.splitlines() if line.startswith("Error:")]
    assert ran.returncode == 1 and "must be a folder that can be written" in line
    assert "Traceback" not in output and "INFO" not in output


def test_a_server_that_is_not_there_is_one_line(mortal_s3: Any) -> None:
    mortal_s3.stop()
    with pytest.raises(
        StorageError, match=r"^s3://studies/run.* must be a file that can be read: .*connect.*$"
    ):
        mn.Study(f"s3://studies/run{mortal_s3.options}", "search_spaces.vit:tiny")


def test_a_server_that_goes_away_ends_a_search_in_one_line(
    ray_cluster: None, mortal_s3: Any, tmp_path: Path
) -> None:
    address = f"s3://studies/run{mortal_s3.options}"
    space = references.load_one(mn.SearchSpace, "search_spaces.vit:tiny")
    process = mortal_s3.process.pid

    def prepare() -> Callable[[Any], Evaluation]:
        def evaluate(arch: Any) -> Evaluation:
            if exists(join(address, "ledger")) and len(Ledger(join(address, "ledger")).keys()) >= 6:
                os.kill(process, signal.SIGKILL)
            return Evaluation({"accuracy": 1 / arch["width"], "loss": 1.0, "macs": 1.0, "parameters": 1.0})

        return evaluate

    settings = SearchSettings(objectives=["accuracy:max"], evaluations=40, evaluators=2)
    with pytest.raises(ManynetError) as raised:
        run(
            space,
            settings,
            Ledger(join(address, "ledger")),
            prepare,
            Provenance(space.digest, "weights", "data", "protocol"),
            tmp_path,
        )
    assert "\n" not in str(raised.value) and "must be a folder that can be" in str(raised.value)
