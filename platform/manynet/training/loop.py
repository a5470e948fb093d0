"""Training loop of a worker: jobs one after another, each data-parallel over all workers."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import safetensors.torch
import torch
from ray.train import CheckpointUploadMode
from torch import distributed as dist
from torch import nn

from manynet.config.settings import Role, TrainSettings
from manynet.data import Batch, Data, Split
from manynet.data.images.augment import augment
from manynet.learning.gradients import average
from manynet.learning.learner import Learner, learning_rate
from manynet.learning.strategy import load_strategy
from manynet.runtime.malloc import keep_freed_memory
from manynet.space.domains import Value
from manynet.space.evaluation import calibrated, has_batch_norm, score_rows
from manynet.space.search_space import SearchSpace
from manynet.space.subnet import Subnet, extract
from manynet.storage import join, locate, read_bytes, write_bytes
from manynet.telemetry import training_status
from manynet.training import checkpoints as checkpoint
from manynet.training.log import TrainingLog

WEIGHTS, RESULT, CHECKPOINTS = "weights.safetensors", "result.json", "checkpoints"
_EVALUATION_BATCH = 256
_CALIBRATION_BATCHES = 8


@dataclass(frozen=True)
class TrainingJob:
    """One network to train.

    Attributes:
        name: unique among the jobs of a run; names checkpoints.
        folder: address for weights, curves and result.
        settings: of the training.
        identity: everything the result depends on; an earlier result with the same identity is reused.
        arch: the subnet's; None trains the supernet, whose weights all subnets share.
        weights: address of supernet weights to start from; None is random weights from ``settings.seed``.
    """

    name: str
    folder: str
    settings: TrainSettings
    identity: Mapping[str, Any]
    arch: Mapping[str, Value] | None = None
    weights: str | None = None

    @property
    def trains(self) -> str:
        """Kind of network that the strategy must train."""
        return "supernet" if self.arch is None else "subnet"


@dataclass(frozen=True)
class Work:
    """Arguments of all workers, sent once through the object store.

    Attributes:
        space: search space of every job.
        data: data of every job.
        jobs: in order; finished ones are left out.
        folder: address under which ``checkpoints/`` and ``progress.json`` are kept.
        validation_examples: most examples of the validation split to score.
    """

    space: SearchSpace
    data: Data
    jobs: Sequence[TrainingJob]
    folder: str
    validation_examples: int


@dataclass(frozen=True)
class Worker:
    """Rank and device of this worker."""

    rank: int
    world: int
    device: torch.device


def run(config: Mapping[str, Any]) -> None:
    """Train all jobs of ``config["work"]``, an object reference to :class:`Work`."""
    work: Work = ray.get(config["work"])
    if work.jobs[0].settings.workers:
        _set_up_process()
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    for job in work.jobs:
        torch.set_num_threads(job.settings.threads)
        Training(job, work, worker).run()


def _set_up_process() -> None:
    """Set up a worker's process; the driver's stays as it is."""
    # Ray Train logs each report at level INFO, to a logger that its own setting does not reach.
    logging.getLogger().setLevel(logging.WARNING)
    keep_freed_memory()


class Training:
    """One job on one worker.

    Attributes:
        rows: learning curves, one row an evaluation: ``step``, ``loss`` (mean since the previous row),
            ``learning_rate``, the strategy's own values, and the metrics of each monitored subnet.
    """

    def __init__(self, job: TrainingJob, work: Work, worker: Worker) -> None:
        self.job, self.work, self.worker = job, work, worker
        settings = job.settings
        strategy = load_strategy(settings.strategy, settings.strategy_options, job.trains)
        network = initial_network(work.space, job).to(worker.device)
        _broadcast(network, worker)
        self._train, held_out = work.data.train, None
        if strategy.held_out:
            reserved, self._train = work.data.train.divided(strategy.held_out, seed=settings.seed)
            held_out = HeldOut(lambda start: self._stream(reserved, start))
        self.learner = Learner(network, work.space, strategy, settings, worker.rank, held=held_out)
        self.rows: list[dict[str, float]] = []
        self._losses: list[torch.Tensor] = []
        self._made_with: list[dict[str, Any]] = []
        self._started = time.monotonic()
        about: training_status.TrainedNetwork = {
            "job": job.name,
            "number": work.jobs.index(job),
            "jobs": len(work.jobs),
            "steps": settings.steps,
            "metric": work.space.task.metric,
        }
        self._log = TrainingLog(
            job.folder, join(work.folder, training_status.FILE), about, silent=worker.rank > 0
        )

    def run(self) -> None:
        """Train from the newest checkpoint, or from scratch, and write the result."""
        self._resume()
        self._made_with.append({"step": self.learner.step, **self.job.settings.of(Role.EFFORT)})
        self._log.start(self.learner.step)
        for batch in itertools.islice(self._batches(), self.job.settings.steps - self.learner.step):
            logged = self.learner.train_on(batch)
            self._losses.append(logged["loss"])
            rate = learning_rate(self.learner.step - 1, self.job.settings)
            self._log.step(self.learner.step, rate, logged)
            self._after_step(logged)
        self._log.close()
        self._finish()

    def _resume(self) -> None:
        saved = checkpoint.find(join(self.work.folder, CHECKPOINTS), self.job.name)
        if saved:
            state = saved[0].load()
            self.learner.load_state_dict(state["learner"])
            self.rows, self._losses = state["rows"], list(state["losses"].to(self.worker.device))
            self._started -= state["seconds"]
            self._made_with = list(state.get("made_with", []))

    def _batches(self) -> Iterator[Batch]:
        """This worker's part of each global batch, from the learner's step on."""
        return self._stream(self._train, self.learner.step)

    def _stream(self, split: Split, start: int) -> Iterator[Batch]:
        """This worker's part of each global batch of a split, augmented, from batch ``start`` on."""
        settings, worker = self.job.settings, self.worker
        seed, rank, world = settings.seed, worker.rank, worker.world
        stream = split.stream(settings.batch_size, seed=seed, start=start, rank=rank, world=world)
        for step, batch in enumerate(stream, start):
            moved = Batch(_to(batch.inputs, worker.device), batch.targets.to(worker.device))
            yield augment(moved, settings.augment, seed=seed, step=step, rank=rank, world=world)

    def _after_step(self, logged: Mapping[str, torch.Tensor]) -> None:
        settings, step = self.job.settings, self.learner.step
        last = step == settings.steps
        evaluating = last or step % settings.evaluate_every == 0
        # The last step's state is the result itself.
        saving = step % settings.checkpoint_every == 0 and not last
        if evaluating:
            self._evaluate(logged)
        # All workers contribute their shards, the first one writes.
        state = self.learner.state_dict() if saving else None
        if evaluating or saving:
            ray.train.report(
                self.rows[-1] if evaluating else {"step": step},
                checkpoint=self._save(state) if state is not None and self.worker.rank == 0 else None,
                checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
            )
        if saving and not settings.workers:
            # Ray Train does it where there are workers.
            checkpoint.prune(join(self.work.folder, CHECKPOINTS), checkpoint.KEPT)

    def _save(self, learner_state: Mapping[str, Any]) -> ray.train.Checkpoint:
        """Write a checkpoint directly to the run's folder, without a copy; the manifest comes last."""
        losses = torch.stack(self._losses).cpu() if self._losses else torch.empty(0)
        seconds = time.monotonic() - self._started
        state = {
            "learner": learner_state,
            "rows": self.rows,
            "losses": losses,
            "seconds": seconds,
            "made_with": self._made_with,
        }
        run = ray.train.get_context().get_experiment_name()
        name = checkpoint.folder_name(self.job.name, self.learner.step)
        address = join(self.work.folder, CHECKPOINTS, run, name)
        checkpoint.save(address, state, self.job.identity)
        filesystem, path = locate(address)
        return ray.train.Checkpoint(path, filesystem)

    def _evaluate(self, logged: Mapping[str, torch.Tensor]) -> None:
        loss = torch.stack(self._losses).mean()
        average([loss])
        self._losses = []
        step = self.learner.step
        rate = learning_rate(step - 1, self.job.settings)
        values = {name: float(value) for name, value in logged.items()}
        # Losses belong to one step: the row has the mean of one of them, and none of the others.
        losses = {name: values.pop(name) for name in list(values) if name.endswith("loss")}
        self.rows.append(
            {"step": step, "loss": float(loss), "learning_rate": rate, **values, **self._metrics()}
        )
        architecture = self.learner.strategy.found()
        if architecture is not None:
            self._log.found(step, architecture)
        self._log.rows(self.rows, losses)

    def _metrics(self) -> dict[str, float]:
        """Validation metrics of the monitored subnets."""
        space, network = self.work.space, self.learner.averaged()
        if self.job.arch is not None:
            assert isinstance(network, Subnet)
            return self._score(network)
        return {
            f"{name}/{metric}": value
            for name, arch in self.learner.strategy.watched(space).items()
            for metric, value in self._score(self._extracted(network, arch)).items()
        }

    def _extracted(self, network: nn.Module, arch: Mapping[str, Value]) -> Subnet:
        return extract(network, arch, self.work.space.example(arch, device=self.worker.device), share=True)

    def _score(self, subnet: Subnet) -> dict[str, float]:
        """Exact metrics over the validation split; each worker scores every ``world``-th batch."""
        worker, split = self.worker, self.work.data.validation
        batches = split.batches(_EVALUATION_BATCH, limit=self.work.validation_examples)
        own_batches = itertools.islice(batches, worker.rank, None, worker.world)
        rows = score_rows(subnet, self.work.space, own_batches, calibration=self._calibration(subnet))
        parts: list[Any] = [rows] * worker.world
        if worker.world > 1:
            dist.all_gather_object(parts, rows)
        return self.work.space.task.metrics(torch.cat([part for part in parts if len(part)]))

    def _calibration(self, subnet: Subnet) -> list[tuple[torch.Tensor, ...]]:
        """Training inputs for batch-norm recalibration; none without batch norm."""
        if not has_batch_norm(subnet):
            return []
        stream = self.work.data.train.stream(_EVALUATION_BATCH, seed=0)
        return [batch.inputs for batch in itertools.islice(stream, _CALIBRATION_BATCHES)]

    def _finish(self) -> None:
        """Write the weights, then the result that marks them complete, unless the strategy rejects them."""
        self.learner.strategy.finished()
        network = self.learner.averaged()
        if self.worker.rank == 0:
            content = safetensors.torch.save(_tensors(self._final(network)))
            write_bytes(join(self.job.folder, WEIGHTS), content)
            result = {
                "identity": self.job.identity,
                "digest": hashlib.sha256(content).hexdigest()[:16],
                "curves": self.rows,
                "found": self.learner.strategy.found(),
                "seconds": time.monotonic() - self._started,
                "made_with": self._made_with,
            }
            write_bytes(join(self.job.folder, RESULT), json.dumps(result, indent=1).encode())

    def _final(self, network: nn.Module) -> nn.Module:
        if not isinstance(network, Subnet):
            return network
        return calibrated(network, self.work.space, self._calibration(network)).network


class HeldOut:
    """Held-out batches by number; the stream is restarted only when numbers are not consecutive."""

    def __init__(self, stream: Callable[[int], Iterator[Batch]]) -> None:
        self._stream, self._next = stream, 0
        self._batches: Iterator[Batch] | None = None

    def __call__(self, number: int) -> Batch:
        if self._batches is None or number != self._next:
            self._batches = self._stream(number)
        self._next = number + 1
        return next(self._batches)


def initial_network(space: SearchSpace, job: TrainingJob) -> nn.Module:
    """Initial network of a job, on the CPU."""
    torch.manual_seed(job.settings.seed)
    supernet = space.build()
    if job.weights is not None:
        supernet.load_state_dict(load_weights(job.weights))
    if job.arch is None:
        return supernet
    return extract(supernet, job.arch, space.example(job.arch))


def load_weights(address: str) -> dict[str, Any]:
    """The tensors of a safetensors file, by name."""
    return safetensors.torch.load(read_bytes(address))


def _broadcast(network: nn.Module, worker: Worker) -> None:
    """Broadcast the first worker's weights: on different machines, equal seeds may give different bits."""
    if worker.world > 1:
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, src=0)


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    # Cloned, because safetensors rejects tensors that share memory (tied weights).
    return {name: t.detach().cpu().contiguous().clone() for name, t in network.state_dict().items()}


def _to(tensors: Sequence[torch.Tensor], device: torch.device) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.to(device) for tensor in tensors)
