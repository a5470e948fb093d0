"""What a subnet uses of its supernet: modules, tensors, and how much of each tensor."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import chain
from operator import add
from typing import TypeVar

import torch
from torch import nn

from manynet.elastic.count import Count, largest, product
from manynet.elastic.layer import Elastic, union
from manynet.elastic.recorder import Recorder, Use, storage

Key = TypeVar("Key", bound=Hashable)
Sizes = tuple[Count | int, ...]


class Usage:
    """What recorded passes of one architecture used of a network, all together.

    A tensor that several layers hold is one tensor: it keeps the union of what they use. A tensor that is read
    outside the elastic layer that holds it, such as ``embedding.weight``, is used whole.

    Args:
        network: ran under the recorders.
        recorders: of passes of one architecture.
    """

    def __init__(self, network: nn.Module, *recorders: Recorder) -> None:
        self._network = network
        self._ran = _most(recorder.ran for recorder in recorders)
        self._touched = _most(recorder.touched for recorder in recorders)
        self._uses: dict[Elastic, list[Use]] = {}
        for layer, use in chain.from_iterable(map(_calls, recorders)):
            self._uses.setdefault(layer, []).append(use)
        self._unions = self._tied_unions()

    def needs(self, module: nn.Module) -> bool:
        """Whether a module itself ran, or holds a tensor that was used."""
        own = chain(module.parameters(recurse=False), module.buffers(recurse=False))
        return module in self._ran or any(storage(tensor) in self._touched for tensor in own)

    def unused(self, module: nn.Module) -> list[str]:
        """Names of a module's own parameters that nothing used."""
        return [
            name
            for name, parameter in module.named_parameters(recurse=False)
            if id(parameter) not in self._unions and not self._whole(module, parameter)
        ]

    @property
    def parameters(self) -> Count | int:
        """Number of elements used of all parameters, each counted once; a count if it depends on soft choices."""
        cut = self.cut() if self._decided else {}
        sizes: dict[int, Count | int] = {}
        for module in self._network.modules():
            for parameter in module.parameters(recurse=False):
                size = parameter.numel() * self._whole(module, parameter)
                if id(parameter) in cut:
                    size = largest(size, cut[id(parameter)].numel())
                elif id(parameter) in self._unions:
                    dims = self._unions[id(parameter)]
                    size = largest(size, product(*dims, parameter.shape[len(dims) :].numel()))
                sizes[id(parameter)] = largest(sizes.get(id(parameter), 0), size)
        return reduce(add, sizes.values(), 0)

    def cut(self) -> dict[int, torch.Tensor]:
        """Tensors of elastic layers cut to what was used of them, by the identity of the whole tensor.

        Raises:
            ChoiceError: if a size depends on a soft choice.
        """
        tensors: dict[int, torch.Tensor] = {}
        for layer in self._uses:
            for name, part in layer.narrowed(self._widened(layer)).items():
                whole = layer.get_tensor(name)
                other = tensors.get(id(whole), part)
                # Layers that cut one tensor in different ways (a kernel resampled to two sizes) share it whole.
                fits = other.shape == part.shape and storage(whole) not in self._touched
                tensors[id(whole)] = part if fits else whole
        return tensors

    @property
    def _decided(self) -> bool:
        return not any(isinstance(size, Count) for sizes in self._unions.values() for size in sizes)

    def _whole(self, module: nn.Module, parameter: nn.Parameter) -> Count | int:
        """Indicator of whether a parameter is used in another way than by slices that are noted."""
        touched = self._touched.get(storage(parameter), 0)
        if isinstance(module, Elastic) and id(parameter) not in self._unions:
            # A layer that does not note it may use all of it.
            return largest(touched, self._ran.get(module, 0))
        return touched

    def _tied_unions(self) -> dict[int, Sizes]:
        unions: dict[int, Sizes] = {}
        for layer, uses in self._uses.items():
            for name, sizes in union(uses).items():
                tensor = id(layer.get_tensor(name))
                # Where one layer notes fewer dimensions, the others are whole.
                unions[tensor] = tuple(map(largest, unions.get(tensor, sizes), sizes))
        return unions

    def _widened(self, layer: Elastic) -> Sequence[Use]:
        """The calls of a layer, with the sizes of a tensor that it shares widened to those of all its layers."""
        unions = {
            name: self._unions[id(layer.get_tensor(name))] for use in self._uses[layer] for name in use.sizes
        }
        return [replace(use, sizes={name: unions[name] for name in use.sizes}) for use in self._uses[layer]]


def _calls(recorder: Recorder) -> list[tuple[Elastic, Use]]:
    calls = []
    for layer, uses in recorder.uses.items():
        assert isinstance(layer, Elastic)
        calls += [(layer, use) for use in uses]
    return calls


def _most(indicators: Iterable[Mapping[Key, Count | int]]) -> dict[Key, Count | int]:
    most: dict[Key, Count | int] = {}
    for one in indicators:
        for key, indicator in one.items():
            most[key] = largest(most.get(key, 0), indicator)
    return most
