"""Tools whose run is a call in this process."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manynet.devices.errors import MeasurementError
from manynet.devices.name import DeviceName
from manynet.devices.timing import Timing, time_run
from manynet.devices.tools.base import Tool, check_batch_of_one
from manynet.errors import typed_line


class InProcessTool(Tool):
    """Times calls in this process by the clock. A subclass defines :meth:`version` and :meth:`loaded`."""

    @abstractmethod
    def loaded(self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName) -> Callable[[], Any]:
        """Convert ``subnet``, which stays as it is, and return what runs it once on the whole batch.

        A run ends when its outputs are there, and gives them: a tensor or array, or several of them.
        Arguments are those of :meth:`prepare`.
        """

    def prepare(
        self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName
    ) -> Callable[[], Timing]:
        check_batch_of_one(example)
        with refused():
            run = self.loaded(subnet, example, name)
            run()
        return lambda: time_run(run)

    def outputs(
        self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName
    ) -> tuple[Tensor, ...] | None:
        with refused():
            return as_tensors(self.loaded(subnet, example, name)())


@contextmanager
def refused() -> Iterator[None]:
    """Whatever a network raises is a refusal of it, in one line.

    Raises:
        MeasurementError: for any error.
    """
    try:
        yield
    except MeasurementError:
        raise
    except Exception as error:
        raise MeasurementError(typed_line(error)) from error


def as_tensors(outputs: Any) -> tuple[Tensor, ...]:
    """A tensor, an array, or several of them, as tensors on the CPU in float32 or whole numbers."""
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if outputs is None:
        raise MeasurementError("a run must give its outputs, a tensor or array, but gave None")
    several = outputs if isinstance(outputs, tuple | list) else [outputs]
    found = [
        one.detach().cpu() if isinstance(one, Tensor) else torch.tensor(np.asarray(one)) for one in several
    ]
    return tuple(one.float() if one.is_floating_point() else one for one in found)
