"""What a training strategy is: which subnets a step trains, and with which losses."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from manynet import references
from manynet.data import Batch
from manynet.errors import ManynetError
from manynet.space.search_space import Architecture, SearchSpace


class TrainingError(ManynetError):
    """Training cannot start, or cannot go on, as asked."""


def _unchanged(loss: torch.Tensor) -> torch.Tensor:
    return loss


@dataclass(frozen=True)
class Step:
    """Context of one optimizer step, as a strategy gets it.

    Attributes:
        space: the search space the network belongs to.
        number: of this step, from 0.
        total: steps of the whole run, for schedules.
        random: seeded by (seed, number), so equal on every worker and after a resume.
        label_smoothing: share of the target spread over all classes.
        autocast: makes the context of a forward pass and its loss.
        average: replaces tensors by their mean over workers. The loop does it for the network's
            gradients; a strategy needs it only for parameters of its own.
        held: a batch of the examples held out for the strategy, by number from 0: this worker's part.
        regularised: maps the loss of the forward pass before it to what is minimised. A strategy that runs
            another one inside itself adds terms by it; else it is the loss.
    """

    space: SearchSpace
    number: int
    total: int
    random: np.random.Generator
    label_smoothing: float
    autocast: Callable[[], AbstractContextManager[Any]]
    average: Callable[[Sequence[torch.Tensor]], None]
    held: Callable[[int], Batch]
    regularised: Callable[[torch.Tensor], torch.Tensor] = _unchanged


class Strategy(ABC):
    """Runs the forward and backward passes of one optimizer step.

    Options are the constructor's arguments. A strategy with parameters of its own (architecture
    weights) keeps and steps its own optimizer in :meth:`backward`, averages gradients with
    :attr:`Step.average`, and hands its tensors to checkpoints through the two state methods.

    Attributes:
        trains: whether it is given the supernet, or an extracted subnet.
        held_out: share of the training examples that come by :attr:`Step.held` alone, and never as a batch.
    """

    trains: ClassVar[Literal["supernet", "subnet"]] = "supernet"
    held_out: float = 0.0

    @abstractmethod
    def backward(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        """Add this worker's gradients to ``.grad`` of the network's parameters.

        Gradients arrive zeroed, must be added in place (never replaced or set to None), and are
        averaged over workers, clipped and applied by the caller.

        Args:
            network: a supernet called as ``network(*inputs, arch=arch)``, or a subnet.
            batch: this worker's part of the joint batch, augmented, on the network's device.
            step: which step this is.

        Returns:
            Detached scalars to log, ``loss`` among them, left on the device so as not to wait for it.
        """

    def start(self, space: SearchSpace, device: torch.device) -> None:  # noqa: B027 (most keep no state)
        """Make parameters of its own, before the first step and before a state is loaded."""

    def watched(self, space: SearchSpace) -> Mapping[str, Architecture]:
        """Subnets that are validated during training, by name."""
        return {"largest": space.largest, "smallest": space.smallest}

    def found(self) -> Architecture | None:
        """The architecture it chose, where it chooses one; a search evaluates it first."""
        return None

    def finished(self) -> None:  # noqa: B027 (most have nothing to refuse)
        """Called on every worker after the last step, before anything is called trained.

        Raises:
            TrainingError: when what is trained must not be used as it is.
        """

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a checkpoint must hold."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (most keep no state)
        """Take back what :meth:`state_dict` gave."""


def load_strategy(name: str, options: Mapping[str, Any], trains: str) -> Strategy:
    """Make the strategy that ``name`` (``module:name``) and its options ask for.

    Raises:
        TrainingError: when it is no strategy, trains something else, or does not take an option.
        manynet.references.UnknownNameError: when there is nothing of that name.
    """
    kind = references.load(name)
    if not (isinstance(kind, type) and issubclass(kind, Strategy)) or inspect.isabstract(kind):
        raise TrainingError(
            f"a strategy must be a concrete subclass of manynet.learning.strategy.Strategy, but got {name!r}"
        )
    if kind.trains != trains:
        raise TrainingError(
            f"this step needs a strategy that trains a {trains}, but {name!r} trains a {kind.trains}"
        )
    allowed = list(inspect.signature(kind).parameters)
    for option in options:
        if option not in allowed:
            takes = ", ".join(allowed) or "none"
            raise TrainingError(f"an option of {name} must be one of ({takes}), but got {option!r}")
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise TrainingError(
            f"the options of {name} must be valid, but got {dict(options)}: {error}"
        ) from None
