"""What an architecture reads and costs, from forward passes on ``meta``: shapes without numbers, no arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from manynet.elastic.count import Count
from manynet.elastic.recorder import Recorder, Use
from manynet.elastic.replacing import copied, replace_tensors
from manynet.elastic.usage import Usage
from manynet.elastic.watched import Watched
from manynet.space.domains import SpaceError

Inputs = tuple[torch.Tensor, ...]
_META = torch.device("meta")


class Meter:
    """Runs architectures of a supernet on ``meta``.

    Args:
        build: creates the supernet.
        inputs: inputs of an architecture, one example on ``meta``.
    """

    def __init__(self, build: Callable[[], nn.Module], inputs: Callable[[Mapping[str, Any]], Inputs]) -> None:
        self._build = build
        self._inputs = inputs

    @property
    def parts(self) -> list[str]:
        """Names of the supernet's own modules, such as ``blocks`` and ``head``."""
        return [name for name, _ in self._watched.network.named_children()]

    def calls(self, arch: Mapping[str, Any], decided: Mapping[str, Any]) -> Mapping[nn.Module, Sequence[Use]]:
        """All calls of each elastic layer at one example; arguments and errors are those of :meth:`cost`."""
        return self._record(arch, decided).uses

    def macs(self, arch: Mapping[str, Any], decided: Mapping[str, Any]) -> Count | int:
        """Multiply-adds of one example in evaluation; arguments and errors are those of :meth:`cost`."""
        return self._record(arch, decided).macs

    def cost(self, arch: Mapping[str, Any], decided: Mapping[str, Any]) -> tuple[Count | int, Count | int]:
        """Multiply-adds of one example in evaluation, and parameters of evaluation and training together.

        Args:
            arch: choices; they may be undecided.
            decided: the same with each choice decided, for the shapes of the inputs.

        Raises:
            SpaceError: when forward cannot run on ``meta``.
        """
        recorders = [self._record(arch, decided)]
        if recorders[0].asks_mode:
            # Training that looks at numbers cannot run here. What it alone would use is then left out.
            with suppress(SpaceError):
                recorders.append(self._record(arch, decided, training=True))
        return recorders[0].macs, Usage(self._watched.network, *recorders).parameters

    def _record(
        self, arch: Mapping[str, Any], decided: Mapping[str, Any], training: bool = False
    ) -> Recorder:
        inputs = self._inputs(decided)
        record = partial(self._watched.record, inputs, arch, metering=True, training=training)
        try:
            return record()
        except (RuntimeError, NotImplementedError) as error:
            if not _is_of_meta(error):
                raise
        try:
            # Forward may make tensors without saying where. Then they are made on meta too.
            with _META:
                return record()
        except (RuntimeError, NotImplementedError) as error:
            if not _is_of_meta(error):
                raise
            raise SpaceError(
                "forward must run on PyTorch's 'meta' device, where tensors have a shape and no numbers, but got "
                f"{type(error).__name__}: {str(error).splitlines()[0]}"
            ) from None

    @cached_property
    def _watched(self) -> Watched:
        try:
            with _META:
                network = self._build()
        except (RuntimeError, NotImplementedError):
            # A constructor that reads a tensor's value (.item()) cannot run on meta.
            network = self._build()
            tensors = [*network.parameters(), *network.buffers()]
            replace_tensors(network, {id(tensor): copied(tensor.to(_META), tensor) for tensor in tensors})
        return Watched(network.requires_grad_(False))


def _is_of_meta(error: Exception) -> bool:
    return "meta" in str(error).lower()
