"""Training on Ray Train workers: results, resume after kills, damaged checkpoints, several workers."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file

from manynet import data
from manynet.config.settings import TrainSettings
from manynet.learning.strategy import TrainingError
from manynet.search_spaces.vit import tiny
from manynet.space.evaluation import score
from manynet.telemetry.training_status import line as status
from manynet.training import checkpoints as checkpoint
from manynet.training.runs import SubnetJob, load_subnet, load_weights, train_subnets, train_supernet

STEPS = 60
SETTINGS = {
    "strategy_options": {"samples": 0},
    "steps": STEPS,
    "batch_size": 8,
    "evaluate_every": 25,
    "checkpoint_every": 10,
}


def digits():
    return data.load("digits", channels=1)


@pytest.fixture(scope="module")
def straight(ray_cluster, tmp_path_factory):
    """A supernet trained without a break: its folder and what training gave."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, train_supernet(tiny, digits(), TrainSettings(**SETTINGS), folder, validation_examples=50)


def test_training_leaves_weights_and_curves(straight):
    folder, trained = straight
    assert trained.weights == f"{folder}/weights.safetensors"
    tiny.build().load_state_dict(load_weights(trained.weights))
    rows = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    assert rows == trained.curves
    assert [row["step"] for row in rows] == [25, 50, 60]
    expected = {"step", "loss", "learning_rate"}
    expected |= {f"{size}/{metric}" for size in ("largest", "smallest") for metric in ("accuracy", "loss")}
    assert set(rows[0]) == expected
    assert trained.metrics == rows[-1]
    assert list((folder / "tensorboard").glob("events.*"))
    progress = json.loads((folder / "progress.json").read_text())
    assert (progress["step"], progress["steps"]) == (STEPS, STEPS)


def test_the_newest_two_checkpoints_are_kept(straight):
    found = checkpoint.find(f"{straight[0]}/checkpoints")
    assert [c.step for c in found] == [50, 40]
    for each in found:
        each.verify()


def test_the_drivers_process_trains_as_a_worker_does_and_stays_as_it_was(straight, tmp_path):
    numbers, level = torch.get_rng_state(), logging.getLogger().level
    torch.set_num_threads(2)
    try:
        settings = TrainSettings(**{**SETTINGS, "workers": 0})
        trained = train_supernet(tiny, digits(), settings, tmp_path, validation_examples=50)
        threads = torch.get_num_threads()
    finally:
        torch.set_num_threads(1)
    assert trained.digest == straight[1].digest
    assert trained.curves == straight[1].curves
    assert [c.step for c in checkpoint.find(f"{tmp_path}/checkpoints")] == [50, 40]
    assert (threads, logging.getLogger().level) == (2, level)
    assert torch.equal(torch.get_rng_state(), numbers)


def test_trained_already_is_returned_and_other_settings_are_refused(straight):
    folder, trained = straight
    before = (folder / "result.json").stat().st_mtime_ns
    other = {**SETTINGS, "workers": 2, "evaluate_every": 7}
    assert train_supernet(tiny, digits(), TrainSettings(**other), folder) == trained
    assert (folder / "result.json").stat().st_mtime_ns == before
    longer = TrainSettings(**{**SETTINGS, "learning_rate": 0.5})
    with pytest.raises(TrainingError, match="train.learning_rate must be 0.001 as in what .*, but got 0.5"):
        train_supernet(tiny, digits(), longer, folder)


def test_damaged_weights_are_not_taken_for_the_result(straight, tmp_path):
    folder, _ = straight
    for name in ("weights.safetensors", "result.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    os.truncate(tmp_path / "weights.safetensors", 1000)
    with pytest.raises(TrainingError, match="weights must be as they were written"):
        train_supernet(tiny, digits(), TrainSettings(**SETTINGS), tmp_path)


SCRIPT = """
import sys
import ray
from manynet import data
from manynet.errors import ManynetError
from manynet.config.settings import TrainSettings
from manynet.training.runs import train_supernet
from manynet.search_spaces.vit import tiny

if __name__ == "__main__":
    ray.init(log_to_driver=False)
    settings = TrainSettings.model_validate_json(sys.argv[1])
    try:
        train_supernet(tiny, data.load("digits", channels=1), settings, sys.argv[2], validation_examples=50)
    except ManynetError as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


def interrupted(
    folder: Path, after: int, how: signal.Signals, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Train in another process, and send it a signal once there is a checkpoint at ``after`` or later."""
    arguments = [sys.executable, "-c", SCRIPT, TrainSettings(**SETTINGS).model_dump_json(), str(folder)]
    process = subprocess.Popen(
        arguments, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 240
    while not any(c.step >= after for c in checkpoint.find(f"{folder}/checkpoints")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)
    process.send_signal(how)
    _, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.returncode, "", errors)


def test_a_run_that_is_interrupted_killed_and_damaged_ends_with_the_same_weights(
    straight, tmp_path, joining: dict[str, str], when_free: Callable[[], None]
):
    stopped = interrupted(tmp_path, 10, signal.SIGINT, joining)
    when_free()
    assert stopped.returncode == 1
    last = stopped.stderr.strip().splitlines()[-1]
    newest = checkpoint.find(f"{tmp_path}/checkpoints")[0]
    assert last == (
        f"TrainingStopped: training of supernet was stopped; a resume goes on from step {newest.step} of {STEPS}"
    )
    killed = interrupted(tmp_path, newest.step + 10, signal.SIGKILL, joining)
    when_free()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "result.json").exists()

    newest, before = checkpoint.find(f"{tmp_path}/checkpoints")[:2]
    state = Path(newest.folder) / "state.pt"
    os.truncate(state, state.stat().st_size // 2)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    settings = TrainSettings(**SETTINGS)
    with pytest.raises(TrainingError, match=f"of {state} it has .* delete the folder {newest.folder}"):
        train_supernet(tiny, digits(), settings, tmp_path, validation_examples=50)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files

    for path in Path(newest.folder).iterdir():
        path.unlink()
    Path(newest.folder).rmdir()
    assert checkpoint.find(f"{tmp_path}/checkpoints")[0] == before
    here = settings.model_copy(update={"workers": 0})
    resumed = train_supernet(tiny, digits(), here, tmp_path, validation_examples=50)
    assert resumed.digest == straight[1].digest
    assert resumed.curves == straight[1].curves


def test_subnets_train_on_two_workers_from_random_and_from_shared_weights(straight, tmp_path):
    shared = straight[1].weights
    arch = tiny.smallest
    settings = TrainSettings(
        strategy="trainers.finetune:FineTune", steps=6, batch_size=8, workers=2, learning_rate=1e-5, warmup=0
    )
    jobs = [SubnetJob("anchor", arch, settings), SubnetJob("finalist", arch, settings, weights=shared)]
    trained = train_subnets(jobs, tiny, digits(), tmp_path, validation_examples=50)
    assert list(trained) == ["anchor", "finalist"]
    assert train_subnets(jobs[::-1], tiny, digits(), tmp_path) == trained
    for result in trained.values():
        subnet = load_subnet(tiny, arch, result)
        metrics = score(subnet, tiny, digits().validation, batch_size=50, limit=50)
        assert metrics["accuracy"] == result.metrics["accuracy"]
        assert metrics["loss"] == pytest.approx(result.metrics["loss"], rel=1e-5)
    # Six steps at this rate hardly move a weight: each is still near to where it started.
    anchor, finalist = (load_file(result.weights)["norm.weight"] for result in trained.values())
    width = len(anchor)
    torch.testing.assert_close(anchor, torch.ones(width), rtol=0, atol=1e-4)
    torch.testing.assert_close(finalist, load_file(shared)["norm.weight"][:width], rtol=0, atol=1e-4)
    assert (finalist - 1).abs().max() > 2e-4
    assert not list((tmp_path / "checkpoints").iterdir())


def test_gradients_of_two_workers_are_those_of_one(ray_cluster, tmp_path):
    def gradients(rank: int, world: int, meeting: str) -> np.ndarray:
        import torch.distributed as dist

        from manynet.learning.gradients import Gradients
        from manynet.learning.learner import Learner
        from manynet.trainers.sandwich import Sandwich

        torch.set_num_threads(1)
        if world > 1:
            dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=world)
        torch.manual_seed(0)
        settings = TrainSettings(steps=1, gradient_clip=0.0)
        learner = Learner(tiny.build(), tiny, Sandwich(), settings, rank)
        batch = next(digits().train.stream(16, seed=0, rank=rank, world=world))
        learner.train_on(batch)
        learner.network.extra = torch.nn.Linear(2, 2)
        reached_by_one = learner.network.extra
        lonely = Gradients(reached_by_one.parameters())
        with lonely.collect():
            if rank == 0:
                reached_by_one(torch.ones(1, 2)).sum().backward()
        lonely.average()
        for parameter, gradient in lonely.reached.items():
            parameter.grad = gradient
        if world > 1:
            dist.destroy_process_group()
        parts = [
            p.grad * world if p in set(reached_by_one.parameters()) else p.grad
            for p in learner.network.parameters()
        ]
        return torch.cat([part.flatten() for part in parts if part is not None]).numpy()

    # Local, so that it is sent by value: workers cannot import this file.
    task = ray.remote(num_cpus=1)(_local(gradients))
    meeting = str(tmp_path / "meeting")
    first, second = ray.get([task.remote(rank, 2, meeting) for rank in range(2)])
    alone = ray.get(task.remote(0, 1, meeting))
    np.testing.assert_array_equal(first, second)
    assert np.abs(alone).max() > 1e-3
    np.testing.assert_allclose(first, alone, rtol=0, atol=1e-6)


def _local(function):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return function


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"batch_size": 9, "workers": 2},
            "batch_size must be a multiple of workers, but got 9 and 2",
        ),
        ({"strategy": "trainers.finetune:FineTune", "strategy_options": {}}, "trains a subnet"),
        ({"strategy_options": {"sample": 1}}, r"must be one of \(samples, distill\), but got 'sample'"),
        ({"workers": 4, "threads": 4}, r"must be at most the cluster's CPUs \(4\), but got 4 x 4"),
    ],
)
def test_what_cannot_start_is_refused_in_one_line(ray_cluster, tmp_path, changed, message):
    with pytest.raises(TrainingError, match=message) as raised:
        train_supernet(tiny, digits(), TrainSettings(**{**SETTINGS, **changed}), tmp_path)
    assert "\n" not in str(raised.value)


def test_jobs_must_have_their_own_keys_and_one_size(tmp_path):
    jobs = [SubnetJob("a", tiny.smallest, TrainSettings())] * 2
    with pytest.raises(TrainingError, match="different keys"):
        train_subnets(jobs, tiny, digits(), tmp_path)
    jobs[1] = SubnetJob("b", tiny.smallest, TrainSettings(workers=2))
    with pytest.raises(TrainingError, match="agree on workers and threads"):
        train_subnets(jobs, tiny, digits(), tmp_path)


def test_a_checkpoint_tells_every_damage_and_a_half_written_one_is_passed_over(tmp_path):
    for step in (1, 2, 3):
        state = {"weight": torch.arange(100.0), "step": step}
        checkpoint.save(f"{tmp_path}/run-1/net-step-{step:08d}", state, {"seed": 0})
    newest = checkpoint.find(str(tmp_path), "net")[0]
    newest.verify()
    assert newest.load()["step"] == 3
    assert newest.manifest["identity"] == {"seed": 0}

    folder = Path(newest.folder)
    whole = (folder / "state.pt").read_bytes()
    for damage, message in [(whole[:-1], "it has"), (whole[:-1] + b"?", "its sha256 differs")]:
        (folder / "state.pt").write_bytes(damage)
        with pytest.raises(checkpoint.CheckpointError, match=message):
            newest.verify()
    (folder / "state.pt").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="it is missing"):
        newest.verify()
    (folder / "manifest.json").write_bytes(b"{")
    with pytest.raises(checkpoint.CheckpointError, match="manifest.json it cannot be read"):
        checkpoint.find(str(tmp_path), "net")[0].verify()
    (folder / "manifest.json").unlink()
    assert [c.step for c in checkpoint.find(str(tmp_path))] == [2, 1]

    checkpoint.prune(str(tmp_path), keep=1)
    assert [path.name for path in (tmp_path / "run-1").iterdir()] == ["net-step-00000002"]
    checkpoint.prune(str(tmp_path), keep=0)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path):
    checkpoint.save(f"{tmp_path}/run-1/net-step-1", {"weight": Path("/")}, {})
    with pytest.raises(Exception, match="weights_only|Weights only"):
        checkpoint.find(str(tmp_path))[0].load()


def test_the_bars_text_names_losses_and_accuracies():
    content = {
        "job": "a",
        "number": 1,
        "jobs": 3,
        "step": 5,
        "steps": 9,
        "logged": {"loss": 0.5, "found_macs": 123456.0},
        "metric": "accuracy",
        "scores": {"largest/accuracy": 0.25},
    }
    assert status(content) == "a (2/3), loss 0.500, found_macs 123,456, largest 25.0%"
    by_auc = {**content, "metric": "auc", "scores": {"largest/auc": 0.75}, "logged": {}}
    assert status(by_auc) == "a (2/3), largest 0.7500"
    assert status({**content, "jobs": 1, "logged": {}}) == "largest 25.0%"


def test_the_bars_text_is_one_part_for_all_blocks_and_hides_no_small_share():
    shares = {"open/block0": 0.0, "open/block1": 0.25, "open/block2": 0.00004}
    content = {"jobs": 1, "metric": "accuracy", "scores": {}}
    assert status({**content, "logged": {"loss": 0.5, **shares}}) == "loss 0.500, open 0.000 to 0.250"
    del shares["open/block1"]
    assert status({**content, "logged": shares}) == "open 0.000 to 4e-05"


def test_batches_of_two_workers_are_those_of_one():
    joint = list(islice(digits().train.stream(8, seed=3, start=2), 3))
    parts = [islice(digits().train.stream(8, seed=3, start=2, rank=rank, world=2), 3) for rank in range(2)]
    for whole, *halves in zip(joint, *parts, strict=True):
        assert torch.equal(torch.cat([half.inputs[0] for half in halves]), whole.inputs[0])
