"""One optimizer step, and the state that a checkpoint must hold to repeat the next one exactly."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import distributed as dist
from torch import nn

from manynet.data import Batch
from manynet.elastic import Parameter, PositionEmbedding
from manynet.gradients import Gradients, average
from manynet.settings import TrainSettings
from manynet.space import SearchSpace
from manynet.strategy import Step, Strategy, TrainingError

_MOST_SKIPPED = 5


class Learner:
    """Trains a network with AdamW on a warm-up and cosine schedule, and keeps a moving average of it.

    Every draw of step k derives from (seed, k), so network, average, optimizer, the strategy's own state
    and k are all there is to remember.

    Args:
        network: on the device it is to be trained on, with equal weights on every worker.
        space: the network belongs to.
        strategy: what a step trains.
        settings: of the run; ``batch_size`` and ``workers`` play no part here.
        rank: of this worker; only layers that draw (dropout) differ by it.
        group: the workers that train together; None is all there are.

    Attributes:
        average: moving average of the network's weights (the network itself where ``ema`` is 0).
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
    ) -> None:
        self.network, self.space, self.strategy, self.settings = network, space, strategy, settings
        self.rank, self.group = rank, group
        self.device = next(network.parameters()).device
        self.average = copy.deepcopy(network).requires_grad_(False) if settings.ema else network
        self.optimizer = _adamw(network, settings)
        self.gradients = Gradients(p for p in network.parameters() if p.requires_grad)
        self.autocast = autocast(settings.precision, self.device)
        self.step = self._skipped = 0
        strategy.start(space, self.device)

    def train_on(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Do one step on this worker's part of a joint batch; what the strategy logged, on the device.

        A step whose gradient is not finite leaves the weights as they are.

        Raises:
            TrainingError: at the fifth such step in a row.
        """
        torch.manual_seed(_seed(self.settings.seed, self.step, self.rank))
        self.network.train()
        self.gradients.clear()
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

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average is not self.network else {},
            "optimizer": self.optimizer.state_dict(),
            "strategy": self.strategy.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.network.load_state_dict(state["network"])
        if self.average is not self.network:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.strategy.load_state_dict(state["strategy"])
        self.step = state["step"]

    def _step(self) -> Step:
        return Step(
            space=self.space,
            number=self.step,
            total=self.settings.steps,
            random=np.random.default_rng((self.settings.seed, self.step)),
            label_smoothing=self.settings.label_smoothing,
            autocast=self.autocast,
            average=lambda tensors: average(tensors, self.group),
        )

    def _update(self) -> None:
        rate = learning_rate(self.step, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.average is not self.network:
            update_average(self.average, self.network, self.settings.ema, self.step)

    def _skip(self) -> None:
        self._skipped += 1
        if self._skipped == _MOST_SKIPPED:
            raise TrainingError(
                f"gradients must be finite, but at step {self.step} they were not, {_MOST_SKIPPED} times in a row; "
                f"try a lower train.learning_rate than {self.settings.learning_rate}, or precision float32"
            )


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Linear warm-up to the peak, then a cosine to nearly 0 at the last step (arXiv 1608.03983, one cycle)."""
    warmup = round(settings.warmup * settings.steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step + 1 - warmup) / (settings.steps + 1 - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the network, quickly at first: the decay is min(decay, (1 + t) / (10 + t)).

    Buffers (batch-norm statistics, which are averages already) are copied.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for held, buffer in zip(average.buffers(), network.buffers(), strict=True):
        held.copy_(buffer)


def autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Makes the context of a forward pass.

    ``auto`` is bf16 on a GPU that computes in it, and float32 elsewhere: CPUs differ too much in what
    bf16 costs them, so there it must be asked for.
    """
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" or (precision == "auto" and fast):
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext


def _adamw(network: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    positions = {
        id(p)
        for m in network.modules()
        if isinstance(m, Parameter | PositionEmbedding)
        for p in m.parameters()
    }
    parameters = [p for p in network.parameters() if p.requires_grad]
    # Norms, biases and tokens have no scale that decay could usefully bound.
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in positions]
    others = [p for p in parameters if p.ndim <= 1 or id(p) in positions]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused
    )


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
