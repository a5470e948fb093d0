"""Castling: auxiliary softmax attention for the training of linear-angular attention, removed before its end.

"Castling-ViT" (arXiv 2211.10526, section 4.2) adds a branch of masked softmax attention to linear-angular blocks during
training, and regularises it until its mask is empty. The authors' schedule was not released; here a rising threshold
closes the mask with certainty.

A threshold is a share from 0 to 1, independent of the number of tokens N: at share s an attention entry is open when it
is above ``1 / ((1 - s) N)``. The entries of a query sum to 1, so a share below 1 - s of them can be open. At 0 all
entries above the mean are open, at 1 none is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, final, get_args

import torch
from torch import nn

from manynet import elastic
from manynet.data import Batch
from manynet.learning.strategy import Step, Strategy, TrainingError
from manynet.space.search_space import SearchSpace
from manynet.trainers.finetune import FineTune
from manynet.trainers.sandwich import Sandwich
from manynet.trainers.single_path import SinglePath

Paths = Literal["sandwich", "single_path"]


@dataclass(frozen=True)
class Closing:
    """Linear schedule of the threshold over a run.

    Args:
        threshold: of the first step, a share from 0 to 1.
        final_threshold: from ``close_at`` on.
        close_at: share of the run; 1 is its last step.

    Raises:
        ValueError: for a value outside 0 to 1, or a threshold that falls.
    """

    threshold: float
    final_threshold: float
    close_at: float

    def __post_init__(self) -> None:
        for name in ("threshold", "final_threshold"):
            value = getattr(self, name)
            if isinstance(value, bool) or not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, but got {value!r}")
        if self.final_threshold < self.threshold:
            raise ValueError(
                f"final_threshold must be at least threshold, {self.threshold}, but got {self.final_threshold}"
            )
        if isinstance(self.close_at, bool) or not 0 <= self.close_at <= 1:
            raise ValueError(f"close_at must be a share of the run, from 0 to 1, but got {self.close_at!r}")

    def at(self, step: int, steps: int) -> float:
        """The threshold of step ``step``, from 0, of ``steps``."""
        last = round(self.close_at * (steps - 1))
        if step >= last:
            return self.final_threshold
        return self.threshold + (self.final_threshold - self.threshold) * step / last


@dataclass
class Passes:
    """The auxiliary branch in the forward passes of one step.

    Args:
        threshold: a share below 1.
        weight: of the regulariser.
        autocast: creates the context of a pass without the branch.

    Attributes:
        branches: one a pass.
    """

    threshold: float
    weight: float
    autocast: Callable[[], AbstractContextManager[Any]]
    branches: list[elastic.Auxiliary] = field(default_factory=list)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """The context of a forward pass and its loss."""
        with self.autocast(), elastic.auxiliary(1 / (1 - self.threshold)) as branch:
            self.branches.append(branch)
            yield

    def regularised(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss of the last pass plus its weighted regulariser."""
        return loss + self.weight * self.branches[-1].regulariser

    @torch.no_grad()
    def open_shares(
        self, blocks: Mapping[nn.Module, str], device: torch.device
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean regulariser of all calls of layers, and each block's mean share of open entries."""
        calls = [call for branch in self.branches for call in branch.calls]
        shares: dict[str, list[torch.Tensor]] = {}
        for call in calls:
            shares.setdefault(blocks[call.layer], []).append(call.open / call.entries)
        mass = torch.stack([call.mass for call in calls]).mean() if calls else torch.zeros((), device=device)
        return mass, {block: torch.stack(values).mean() for block, values in shares.items()}


class _Castling(Strategy):
    """Wraps a strategy: adds the auxiliary branch to its passes until the branch is closed."""

    def __init__(self, inner: Strategy, closing: Closing, regulariser_weight: float) -> None:
        if isinstance(regulariser_weight, bool) or not 0 <= regulariser_weight < math.inf:
            raise ValueError(f"regulariser_weight must be at least 0, but got {regulariser_weight!r}")
        self.inner, self.closing, self.regulariser_weight = inner, closing, regulariser_weight
        # Share of open entries of each block when it last ran; a step need not run all blocks.
        self._open: dict[str, torch.Tensor] = {}

    def start(self, space: SearchSpace, device: torch.device) -> None:
        # Checks the space, not the network: a subnet may use softmax in all its blocks.
        if not any(isinstance(module, elastic.LinearAngularAttention) for module in space.build().modules()):
            raise TrainingError(
                f"Castling trains spaces with linear-angular blocks, but {space.name!r} has none"
            )

    def backward(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        names = {module: block_name(name) for name, module in network.named_modules()}
        blocks = [names[module] for module in names if isinstance(module, elastic.LinearAngularAttention)]
        threshold = self.closing.at(step.number, step.total)
        if threshold == 1:
            logged = self.inner.backward(network, batch, step)
            regulariser = torch.zeros(())
            self._open = {block: torch.zeros(()) for block in blocks}
        else:
            passes = Passes(threshold, self.regulariser_weight, step.autocast)
            inner_step = replace(step, autocast=passes.forward, regularised=passes.regularised)
            logged = self.inner.backward(network, batch, inner_step)
            regulariser, open_shares = _averaged(*passes.open_shares(names, batch.targets.device), step)
            self._open |= open_shares
        shares = {f"open/{block}": self._open[block] for block in blocks if block in self._open}
        mean = {"open": sum(shares.values(), torch.zeros(())) / len(shares)} if shares else {}
        return {**logged, "threshold": torch.tensor(threshold), "regulariser": regulariser, **mean, **shares}

    def finished(self) -> None:
        """Reject a network if a block's branch was open when it last ran.

        Raises:
            TrainingError: with the blocks, and the share of entries open in each.
        """
        still_open = {block: float(share) for block, share in self._open.items() if share > 0}
        if still_open:
            shares = ", ".join(f"{share:.3g} of {block}" for block, share in still_open.items())
            raise TrainingError(
                f"no entry of the auxiliary branch may be open when training ends, but got {shares}; "
                "with a final_threshold of 1 none is"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"open": self._open}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._open = dict(state["open"])


@final
class Castling(_Castling):
    """Trains a supernet by sandwich rule or single path, with the auxiliary branch in linear-angular blocks.

    Args:
        paths: which subnets a step trains: ``sandwich`` (:class:`trainers.sandwich.Sandwich`) or ``single_path``
            (:class:`trainers.single_path.SinglePath`).
        samples: random subnets a step; for ``sandwich``.
        distill: whether other subnets also learn from the largest; for ``sandwich``.
        threshold: of the first step, a share from 0 to 1; see :mod:`trainers.castling`.
        final_threshold: from ``close_at`` on. Below 1 the branch remains, and the run ends in an error unless
            the regulariser has emptied it.
        close_at: share of the run over which the threshold rises. At a threshold of 1, steps run without the branch.
        regulariser_weight: weight in the loss of the attention in open entries, a share from 0 to 1.
    """

    def __init__(
        self,
        paths: Paths = "sandwich",
        samples: int = 2,
        distill: bool = True,
        threshold: float = 0.0,
        final_threshold: float = 1.0,
        close_at: float = 0.8,
        regulariser_weight: float = 0.1,
    ) -> None:
        if paths not in get_args(Paths):
            raise ValueError(f"paths must be one of ({', '.join(get_args(Paths))}), but got {paths!r}")
        inner = Sandwich(samples, distill) if paths == "sandwich" else SinglePath()
        super().__init__(inner, Closing(threshold, final_threshold, close_at), regulariser_weight)


@final
class CastlingFineTune(_Castling):
    """Trains one subnet on the labels, as :class:`trainers.finetune.FineTune`, with the auxiliary branch.

    Args:
        threshold: as in :class:`Castling`, like all others.
    """

    trains: ClassVar[Literal["supernet", "subnet"]] = "subnet"

    def __init__(
        self,
        threshold: float = 0.0,
        final_threshold: float = 1.0,
        close_at: float = 0.8,
        regulariser_weight: float = 0.1,
    ) -> None:
        super().__init__(FineTune(), Closing(threshold, final_threshold, close_at), regulariser_weight)


def block_name(name: str) -> str:
    """The block in a module's name: ``blocks.3.attention`` gives ``block3``; without numbers, the whole name."""
    parts = name.split(".")
    numbered = [
        part if before.isdigit() else before.removesuffix("s") + part
        for before, part in pairwise(parts)
        if part.isdigit()
    ]
    return ".".join(numbered) or name


def _averaged(
    regulariser: torch.Tensor, shares: Mapping[str, torch.Tensor], step: Step
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Average over workers; all run the same blocks, because their random draws are equal."""
    values = torch.stack([regulariser, *shares.values()])
    step.average([values])
    regulariser, *means = values.unbind()
    return regulariser, dict(zip(shares, means, strict=True))
