"""Interface of training strategies, which decide a step's subnets and losses."""

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
from manynet.errors import ManynetError, typed_line
from manynet.space.search_space import Architecture, SearchSpace


class TrainingError(ManynetError):
    """Training cannot start, or cannot go on, with these settings."""


def _unchanged(loss: torch.Tensor) -> torch.Tensor:
    return loss


@dataclass(frozen=True)
class Step:
    """Context of one optimizer step for a strategy.

    Attributes:
        space: the search space the network belongs to.
        number: index of this step, from 0.
        total: steps of the whole run, for schedules.
        random: seeded by (seed, number), so equal on every worker and after a resume.
        label_smoothing: share of the target spread over all classes.
        autocast: creates the context of a forward pass and its loss.
        average: averages tensors over workers, in place. The loop does this for the network's gradients; a
            strategy needs it only for parameters of its own.
        held: returns this worker's part of a held-out batch, by number from 0.
        regularised: maps the loss of the last forward pass to the minimised loss. A strategy that wraps another
            one adds its terms here; otherwise it is the identity.
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
        trains: whether it trains the supernet (whose weights all subnets share), or one extracted subnet.
        held_out: share of the training examples that are reserved for :attr:`Step.held`.
    """

    trains: ClassVar[Literal["supernet", "subnet"]] = "supernet"
    held_out: float = 0.0

    @abstractmethod
    def backward(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        """Add this worker's gradients to ``.grad`` of the network's parameters.

        Gradients are zeroed before the call, must be added in place (never replaced or set to None), and are
        averaged over workers, clipped and applied by the caller.

        Args:
            network: a supernet called as ``network(*inputs, arch=arch)``, or a subnet.
            batch: this worker's part of the global batch, augmented, on the network's device.
            step: context of the step.

        Returns:
            Detached scalars to log, including ``loss``, left on the device to avoid a synchronisation.
        """

    def start(self, space: SearchSpace, device: torch.device) -> None:  # noqa: B027 (most keep no state)
        """Create the strategy's own parameters, before the first step and before a state is loaded."""

    def watched(self, space: SearchSpace) -> Mapping[str, Architecture]:
        """Subnets to validate during training, by name."""
        return {"largest": space.largest, "smallest": space.smallest}

    def found(self) -> Architecture | None:
        """The architecture that training chose, if the strategy chooses one; a search evaluates it first."""
        return None

    def finished(self) -> None:  # noqa: B027 (most have nothing to refuse)
        """Called on every worker after the last step, before results are written.

        Raises:
            TrainingError: when the trained network must not be used.
        """

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a checkpoint must hold."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (most keep no state)
        """Restore the result of :meth:`state_dict`."""


def load_strategy(name: str, options: Mapping[str, Any], trains: str) -> Strategy:
    """Create the strategy ``name`` (``module:name``) with its options.

    Raises:
        TrainingError: when it is no strategy, trains the other kind of network, or does not take an option.
        manynet.references.UnknownNameError: when the name does not exist.
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
            names = ", ".join(allowed) or "none"
            raise TrainingError(f"an option of {name} must be one of ({names}), but got {option!r}")
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise TrainingError(
            f"the options of {name} must be valid, but got {dict(options)}: {error}"
        ) from None
    except ManynetError:
        raise
    except Exception as error:  # a strategy of the user's own may fail in any way
        raise TrainingError(f"{name} could not be made: {typed_line(error)}") from error
