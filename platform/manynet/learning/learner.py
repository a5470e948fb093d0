"""One optimizer step, and the complete training state for checkpoints."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import distributed as dist
from torch import nn

from manynet.config.settings import TrainSettings
from manynet.data import Batch
from manynet.elastic import EmbeddingTables
from manynet.learning.fused_tables import FusedTables, fused
from manynet.learning.gradients import Gradients, average
from manynet.learning.optimizers import optimizer
from manynet.learning.strategy import Step, Strategy, TrainingError
from manynet.space.search_space import SearchSpace

T = TypeVar("T")
_MOST_SKIPPED = 5


class Learner:
    """Trains a network on a warm-up and cosine schedule, and keeps a moving average of it.

    Every random draw of step k derives from (seed, k), so the state is the network, its average, the optimizer,
    the strategy's own state, and k. Embedding tables are trained separately, by fused kernels, and are not
    averaged: a step changes few of their rows.

    Args:
        network: on its training device, with equal weights on every worker.
        space: the network's search space.
        strategy: runs the forward and backward passes of a step.
        settings: of the run; ``batch_size`` and ``workers`` are not used.
        rank: of this worker; only layers that draw (dropout) differ by it.
        group: the workers that train together; None is all.
        held: returns held-out batches for strategies that use them; see :class:`Step`.

    Attributes:
        step: optimizer steps done.
    """

    def __init__(
        self,
        network: nn.Module,
        space: SearchSpace,
        strategy: Strategy,
        settings: TrainSettings,
        rank: int = 0,
        group: dist.ProcessGroup | None = None,
        held: Callable[[int], Batch] | None = None,
    ) -> None:
        self.space, self.strategy, self.settings = space, strategy, settings
        self._held = held or _no_held_out_batch
        self.rank, self.group = rank, group
        self.device = next(network.parameters()).device
        self._plain = network
        self._average = copy.deepcopy(network).requires_grad_(False) if settings.ema else network
        self.network, self._tables = with_fused_tables(network, self._table_rate(0), group)
        trained = [parameter for parameter in dense_parameters(network) if parameter.requires_grad]
        self.optimizer = optimizer(settings, network, trained)
        self.gradients = Gradients(trained, sliced=self.optimizer.sliced)
        self.autocast = autocast(settings.precision, self.device)
        self.step = self._skipped = 0
        strategy.start(space, self.device)

    def train_on(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Do one step on this worker's part of a global batch; returns the strategy's logged values, on the device.

        A step with a gradient that is not finite changes no weights except embedding tables.

        Raises:
            TrainingError: at the fifth such step in a row.
        """
        torch.manual_seed(_seed(self.settings.seed, self.step, self.rank))
        self.network.train()
        for tables in self._tables.values():
            tables.set_learning_rate(self._table_rate(self.step))
        with self.gradients.collect():
            logged = self.strategy.backward(self.network, batch, self._step())
        self.gradients.average(self.group)
        norm = self.gradients.clip(self.settings.gradient_clip)
        if bool(norm.isfinite()):
            self._update()
            self._skipped = 0
        else:
            self._skip()
        self.step += 1
        return logged

    def averaged(self) -> nn.Module:
        """The moving average (the network itself if ``ema`` is 0), with current embedding tables.

        Every worker must call it: each may hold a shard of the tables.
        """
        for name, tables in self._tables.items():
            tables.export(cast(EmbeddingTables, self._average.get_submodule(name)), self.group)
        return self._average

    def state_dict(self) -> dict[str, Any]:
        """All state that the next step depends on; every worker must call it."""
        separate = self._average is not self._plain
        return {
            "step": self.step,
            "network": dict(self._dense(self._plain.state_dict().items())),
            "average": dict(self._dense(self._average.state_dict().items())) if separate else {},
            "tables": {name: tables.whole(self.group) for name, tables in self._tables.items()},
            "optimizer": self.optimizer.state_dict(),
            "strategy": self.strategy.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of :meth:`state_dict`, on any number of workers."""
        self._plain.load_state_dict(state["network"], strict=not self._tables)
        if self._average is not self._plain:
            self._average.load_state_dict(state["average"], strict=not self._tables)
        for name, tables in self._tables.items():
            tables.load(state["tables"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.strategy.load_state_dict(state["strategy"])
        self.step = state["step"]

    def _dense(self, named: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
        """All entries except those of embedding tables, by name."""
        prefixes = tuple(f"{name}." for name in self._tables)
        return ((name, value) for name, value in named if not name.startswith(prefixes))

    def _table_rate(self, step: int) -> float:
        peak = self.settings.embedding_learning_rate or self.settings.learning_rate
        return learning_rate(step, self.settings) * peak / self.settings.learning_rate

    def _step(self) -> Step:
        smoothing = self.settings.label_smoothing
        return Step(
            space=self.space,
            number=self.step,
            total=self.settings.steps,
            random=np.random.default_rng((self.settings.seed, self.step)),
            label_smoothing=self.space.task.label_smoothing if smoothing is None else smoothing,
            autocast=self.autocast,
            average=lambda tensors: average(tensors, self.group),
            held=self._held,
        )

    def _update(self) -> None:
        self.optimizer.step(self.gradients.reached, learning_rate(self.step, self.settings))
        if self._average is not self._plain:
            update_average(self._average, self._plain, self.settings.ema, self.step)

    def _skip(self) -> None:
        self._skipped += 1
        if self._skipped == _MOST_SKIPPED:
            raise TrainingError(
                f"gradients must be finite, but at step {self.step} they were not, {_MOST_SKIPPED} times in a row; "
                f"try a lower train.learning_rate than {self.settings.learning_rate}, or precision float32"
            )


def _no_held_out_batch(number: int) -> Batch:
    raise TrainingError("a strategy that asks for held-out batches must say how many by held_out")


def with_fused_tables(
    network: nn.Module, rate: float, group: dist.ProcessGroup | None
) -> tuple[nn.Module, dict[str, FusedTables]]:
    """``network`` with trainable tables, and these by name; the network itself if it has no tables.

    The new network shares all other tensors with ``network``.
    """
    plain = {name: m for name, m in network.named_modules() if isinstance(m, EmbeddingTables)}
    if not plain:
        return network, {}
    shared = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
    trained = copy.deepcopy(network, shared)
    tables = {name: fused(module, rate, group) for name, module in plain.items()}
    for name, module in tables.items():
        trained.set_submodule(name, module)
    return trained, tables


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Linear warm-up to the peak, then a cosine to nearly 0 at the last step (arXiv 1608.03983, one cycle)."""
    warmup = round(settings.warmup * settings.steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step + 1 - warmup) / (settings.steps + 1 - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the network; the decay is min(decay, (1 + t) / (10 + t)), so quickly at first.

    Embedding tables are skipped; buffers (batch-norm statistics, which are averages already) are copied.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_([*dense_parameters(average)], [*dense_parameters(network)], 1 - decay)
    for target, source in zip(average.buffers(), network.buffers(), strict=True):
        target.copy_(source)


def dense_parameters(network: nn.Module) -> list[nn.Parameter]:
    """All parameters except embedding tables."""
    tables = [module for module in network.modules() if isinstance(module, EmbeddingTables)]
    sparse = {id(parameter) for module in tables for parameter in module.parameters()}
    return [parameter for parameter in network.parameters() if id(parameter) not in sparse]


def autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Factory of the autocast context of a forward pass.

    ``auto`` is bf16 on GPUs that support it, and float32 elsewhere: bf16's cost differs too much between
    CPUs, so there it must be requested.
    """
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" or (precision == "auto" and fast):
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
