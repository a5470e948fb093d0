"""Trains networks on Ray Train workers; resumes interrupted training."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import ray
import torch
from ray.exceptions import RayActorError
from ray.train import (
    CheckpointConfig,
    ControllerError,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer

from manynet.config.settings import TrainSettings
from manynet.data import Data, Features
from manynet.errors import ManynetError
from manynet.learning.strategy import TrainingError, load_strategy
from manynet.learning.torchrec_setup import check_installed
from manynet.space.search_space import Architecture, SearchSpace
from manynet.storage import absolute, exists, join, locate, read_bytes, unwritable
from manynet.telemetry import training_status
from manynet.training import checkpoints as checkpoint
from manynet.training import loop as training_loop
from manynet.training.log import CURVES
from manynet.training.loop import CHECKPOINTS, TrainingJob, Work, load_weights
from manynet.training.progress import training_bar
from manynet.training.results import (
    Trained,
    check_identity,
    digest,
    finished,
    identity,
    load_subnet,
    required,
    result,
)

__all__ = [
    "SubnetJob",
    "Trained",
    "TrainingError",
    "TrainingStopped",
    "finished",
    "load_subnet",
    "load_weights",
    "train_subnets",
    "train_supernet",
]

# Workers wait for each other during a validation; Ray Train itself detects dead workers.
_COLLECTIVE_SECONDS = 24 * 3600


class TrainingStopped(TrainingError):
    """Training was interrupted; the next start resumes it."""


@dataclass(frozen=True)
class SubnetJob:
    """A subnet to train.

    Attributes:
        key: unique among the jobs; names the subnet's folder.
        arch: its architecture.
        settings: of the training; the seed also determines random weights.
        weights: address of the supernet weights it is extracted from; None starts from random weights.
    """

    key: str
    arch: Architecture
    settings: TrainSettings
    weights: str | None = None


def train_supernet(
    space: SearchSpace,
    data: Data,
    settings: TrainSettings,
    folder: str | Path,
    validation_examples: int = 10_000,
) -> Trained:
    """Train a supernet; resume interrupted training, or return the finished result.

    A supernet is one network whose weights all subnets of a space share.

    Writes ``weights.safetensors``, ``result.json``, ``curves.jsonl``, ``tensorboard/`` and the newest
    ``checkpoints/`` to ``folder``.

    Args:
        folder: a local path or pyarrow address that all nodes can access.
        validation_examples: most examples of the validation split to score.

    Raises:
        TrainingError: when settings are invalid, a checkpoint is damaged, or training diverges.
        TrainingStopped: when interrupted.
    """
    job = TrainingJob("supernet", absolute(folder), settings, identity(space, data, settings))
    return _train([job], space, data, absolute(folder), validation_examples)[0]


def train_subnets(
    jobs: Sequence[SubnetJob],
    space: SearchSpace,
    data: Data,
    folder: str | Path,
    validation_examples: int = 10_000,
) -> dict[str, Trained]:
    """Train several subnets, one after another on one group of workers; finished ones are not repeated.

    Each writes the files of :func:`train_supernet` to ``folder/<key>``.

    Args:
        jobs: all with the same ``workers`` and ``threads``.
        folder: as :func:`train_supernet`.
        validation_examples: as :func:`train_supernet`.

    Returns:
        The result of each key's job; see :func:`load_subnet`.

    Raises:
        TrainingError: as :func:`train_supernet`.
    """
    if len({job.key for job in jobs}) < len(jobs):
        raise TrainingError("jobs must have different keys, but got some twice")
    if len({(job.settings.workers, job.settings.threads) for job in jobs}) > 1:
        raise TrainingError("jobs must agree on workers and threads, but they differ")
    address = absolute(folder)
    training_jobs = [_subnet_job(job, space, data, address) for job in jobs]
    results = _train(training_jobs, space, data, address, validation_examples)
    return dict(zip([job.key for job in jobs], results, strict=True))


def check(settings: TrainSettings, trains: str) -> None:
    """Validate training settings; ``trains`` is ``supernet`` or ``subnet``.

    Raises:
        TrainingError: for a strategy that does not exist or does not fit, or a batch that workers cannot share evenly.
    """
    load_strategy(settings.strategy, settings.strategy_options, trains)
    if settings.workers and settings.batch_size % settings.workers:
        raise TrainingError(
            f"batch_size must be a multiple of workers, but got {settings.batch_size} and {settings.workers}"
        )


def check_packages(data: Data) -> None:
    """Check that the optional packages for training on ``data`` are installed and load.

    Raises:
        TrainingError: in one line that says what to install.
    """
    if isinstance(data.features, Features):
        check_installed()


def is_finished(folder: str | Path) -> bool:
    """Whether training in ``folder`` has ended."""
    return finished(absolute(folder)) is not None


def curves(folder: str | Path) -> list[dict[str, float]]:
    """Learning curves in ``folder`` so far, one row an evaluation: see :class:`Trained`."""
    address = join(absolute(folder), CURVES)
    lines = read_bytes(address).decode().splitlines() if exists(address) else []
    return [json.loads(line) for line in lines]


def _subnet_job(job: SubnetJob, space: SearchSpace, data: Data, folder: str) -> TrainingJob:
    arch = space.canonical(job.arch)
    weights = None if job.weights is None else digest(job.weights)
    job_identity = identity(space, data, job.settings, arch, weights)
    return TrainingJob(job.key, join(folder, job.key), job.settings, job_identity, arch, job.weights)


def _train(
    jobs: Sequence[TrainingJob], space: SearchSpace, data: Data, folder: str, validation_examples: int
) -> list[Trained]:
    for job in jobs:
        check(job.settings, job.trains)
    missing = [job for job in jobs if result(job) is None]
    if missing:
        check_packages(data)
        _check_checkpoints(missing, folder)
        _check_cluster(missing[0].settings)
        checkpoint.prune(join(folder, CHECKPOINTS), checkpoint.KEPT)
        _run(Work(space, data, missing, folder, validation_examples))
        # A supernet's last checkpoints may be useful later; a finished subnet's result replaces its own.
        checkpoint.prune(join(folder, CHECKPOINTS), checkpoint.KEPT if jobs[0].arch is None else 0)
    return [required(job) for job in jobs]


def _run(work: Work) -> None:
    settings = work.jobs[0].settings
    gpu = 0 < settings.workers <= _cluster("GPU")
    # Without workers it logs each report at level INFO.
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    filesystem, path = locate(join(work.folder, CHECKPOINTS))
    trainer = TorchTrainer(
        training_loop.run,
        train_loop_config={"work": ray.put(work)},
        torch_config=TorchConfig(timeout_s=_COLLECTIVE_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu=gpu, resources_per_worker=_resources(settings, gpu)
        ),
        # Ray's type hints show the arguments of Ray Train v1; v2 is what runs.
        run_config=RunConfig(  # type: ignore[call-arg]
            # Never an existing name: Ray Train would restore that run's list of checkpoints.
            name=f"run-{datetime.now(UTC):%Y%m%dT%H%M%S%f}",
            # Checkpoints must be on a filesystem equal to this one.
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=checkpoint.KEPT),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    with training_bar(join(work.folder, training_status.FILE)), _interrupt_handler_restored(), _driver_kept():
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error, work.folder) from error
        except (KeyboardInterrupt, SystemExit, RayActorError) as error:
            # On Ctrl-C Ray Train stops the workers, then raises whichever of these comes first.
            raise TrainingStopped(_stop_message(work)) from error


def _cause(error: TrainingFailedError, folder: str) -> ManynetError:
    if isinstance(error, ControllerError) and isinstance(error.controller_failure, OSError):
        # Ray Train keeps its own state beside the checkpoints.
        return unwritable(folder, error.controller_failure)
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    causes = [getattr(failure, "_base_exc", failure) for failure in failures.values()]
    for cause in causes:
        if isinstance(cause, ManynetError):
            return cause
    text = f"{type(causes[0]).__name__}: {causes[0]}" if causes else str(error)
    return TrainingError(f"training failed on a worker: {text}")


def _stop_message(work: Work) -> str:
    for job in work.jobs:
        if result(job) is None:
            saved = checkpoint.find(join(work.folder, CHECKPOINTS), job.name)
            step = saved[0].step if saved else 0
            return f"training of {job.name} was stopped; a resume goes on from step {step} of {job.settings.steps}"
    return "training was stopped after its last step; a resume takes its results"


@contextmanager
def _interrupt_handler_restored() -> Iterator[None]:
    """Restore the Ctrl-C handler after Ray Train, whose own would act on a finished run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def _driver_kept() -> Iterator[None]:
    """Restore the driver's threads and random numbers, which training without workers sets."""
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=range(min(1, torch.cuda.device_count()))):
            yield
    finally:
        torch.set_num_threads(threads)


def _check_checkpoints(jobs: Sequence[TrainingJob], folder: str) -> None:
    for job in jobs:
        for saved in checkpoint.find(join(folder, CHECKPOINTS), job.name)[:1]:
            saved.verify()
            check_identity(job, (saved.manifest or {})["identity"], join(folder, CHECKPOINTS))


def _check_cluster(settings: TrainSettings) -> None:
    needed, cpus = settings.workers * settings.threads, _cluster("CPU")
    if needed > cpus:
        raise TrainingError(
            f"train.workers x train.threads must be at most the cluster's CPUs ({cpus:g}), "
            f"but got {settings.workers} x {settings.threads}"
        )


def _cluster(resource: str) -> float:
    return float(ray.cluster_resources().get(resource, 0))


def _resources(settings: TrainSettings, gpu: bool) -> dict[str, float]:
    return {"CPU": settings.threads, **({"GPU": 1} if gpu else {})}
