"""Subnets: their cost, and their extraction from the supernet, which holds the weights of all."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn

from manynet import references
from manynet.data.features import Features
from manynet.elastic.replacing import copied, replace_tensors
from manynet.elastic.usage import Usage
from manynet.elastic.watched import Watched
from manynet.errors import InvalidValue, ManynetError, first_line
from manynet.space.domains import ArchitectureError, Value, plain
from manynet.space.search_space import Architecture, SearchSpace
from manynet.storage import StorageError, join, local_copy, read_bytes


@dataclass(frozen=True)
class Cost:
    """Cost of a subnet for one example.

    Attributes:
        macs: multiply-adds of matrix products and convolutions.
        parameters: number of parameters of the extracted subnet.
    """

    macs: int
    parameters: int


def cost(space: SearchSpace, arch: Architecture) -> Cost:
    """Multiply-adds for one example, and parameters, of a subnet.

    Raises:
        ArchitectureError: when ``arch`` does not belong to the space.
    """
    reading = space.read(space.canonical(arch))
    return Cost(reading.macs, reading.parameters)


class ExportError(ManynetError):
    """An exported subnet cannot be written, or read back."""


class Subnet(nn.Module):
    """An extracted subnet: a network with only the weights it uses, and its architecture.

    Attributes:
        network: the supernet's class, every layer cut to what the architecture uses.
        arch: the architecture.
    """

    def __init__(self, network: nn.Module, arch: Architecture) -> None:
        super().__init__()
        self.network = network
        self.arch: dict[str, Value] = {key: plain(value) for key, value in arch.items()}

    def forward(self, *inputs: torch.Tensor) -> Any:
        """The supernet's output for the same inputs and architecture."""
        return self.network(*inputs, arch=self.arch)

    @staticmethod
    def load(folder: str | Path, space: SearchSpace | None = None, trust: bool = False) -> Subnet:
        """Load an exported subnet from its ``arch.json`` and ``weights.safetensors``.

        The file names the code of its space. Manynet's own spaces are found by that name; other code runs only if the
        caller passes the space or trusts the file.

        Args:
            folder: local, or any address that pyarrow opens.
            space: the subnet's search space.
            trust: import the module or script that ``arch.json`` names. This runs its code.

        Raises:
            ExportError: when a file is missing or damaged, names code that is not trusted, or the space has changed
                since the export.
        """
        described = _description(folder)
        space = _space_of(described, folder, trust) if space is None else space
        if described.features is not None:
            space = space.fitted(described.features)
        if space.digest != described.space_digest:
            raise ExportError(
                f"{folder} came from another version of {described.space}: its space has digest "
                f"{described.space_digest}, but got {space.digest}"
            )
        weights = join(folder, "weights.safetensors")
        try:
            arch = space.canonical(described.architecture)
            subnet = extract(space.build(), arch, space.example(arch)).eval()
            with local_copy(weights) as path:
                load_model(subnet.network, path)
        except ArchitectureError as error:
            raise ExportError(f"{join(folder, 'arch.json')} must describe a subnet: {error}") from None
        except (StorageError, OSError, RuntimeError, SafetensorError) as error:
            raise ExportError(f"{weights} must hold the subnet's weights: {first_line(error)}") from None
        return subnet


class _Description(BaseModel):
    """What ``arch.json`` must say for its subnet to be loaded."""

    model_config = ConfigDict(strict=True)

    architecture: dict[str, bool | int | float | str]
    space: str
    space_digest: str
    features: Features | None = None


def _description(folder: str | Path) -> _Description:
    address = join(folder, "arch.json")
    try:
        return _Description.model_validate_json(read_bytes(address))
    except ValidationError as error:
        missing = [
            str(one["loc"][0]) for one in error.errors() if one["type"] == "missing" and len(one["loc"]) == 1
        ]
        if missing:
            raise ExportError(f"{address} must say {', '.join(missing)}") from None
        raise ExportError(f"{address} must describe a subnet: {InvalidValue.first(error).line()}") from None
    except StorageError as error:
        raise ExportError(f"{address} must describe a subnet: {error}") from None


def _space_of(description: _Description, folder: str | Path, trust: bool) -> SearchSpace:
    """The space that a file names, if its code is Manynet's own or trusted."""
    if not trust and not references.is_ours(description.space):
        raise ExportError(
            f"{folder} names code that is not Manynet's, {description.space!r:.200}: load it with space=, its search "
            "space, or with trust=True to run that code"
        )
    return references.make(SearchSpace, description.space)


def extract(
    network: nn.Module, arch: Architecture, example: Iterable[torch.Tensor], share: bool = False
) -> Subnet:
    """Copy a subnet out of a supernet, which is not changed.

    The subnet runs on ``example`` to record what it uses: once, and once more in training mode if a module asks
    for the mode. Layers are cut to the slices that ran; modules that did not run and parameters that no operation
    read are dropped. A layer that ran with different slices keeps their union, and so do layers that share a tensor.

    Args:
        network: the supernet.
        arch: the subnet's architecture.
        example: inputs, batch first; see :meth:`manynet.SearchSpace.example`.
        share: do not copy tensors that are used whole (embedding tables): for subnets that are not trained.

    Returns:
        The subnet, in the supernet's training or evaluation mode.
    """
    live: dict[int, torch.Tensor] = {id(parameter): parameter for parameter in network.parameters()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    # The copy shares all parameters. It has buffers of its own, as training may write to them.
    structure = copy.deepcopy(network, live | {id(buffer): own for buffer, own in buffers})
    usage = _usage(structure, arch, tuple(example))
    for buffer, own in buffers:
        own.copy_(buffer)
    _drop_unused(structure, usage)
    shared = {id(own): buffer for buffer, own in buffers} if share else {}
    replace_tensors(structure, shared | _own_tensors(structure, usage.cut(), share))
    return Subnet(structure, arch).train(network.training)


def _usage(structure: nn.Module, arch: Architecture, example: tuple[torch.Tensor, ...]) -> Usage:
    """What an architecture uses in evaluation, and in training where that may use more."""
    watched = Watched(structure)
    recorders = [watched.record(example, arch)]
    if recorders[0].asks_mode:
        with torch.random.fork_rng({x.device for x in example if x.device.type == "cuda"}):
            recorders.append(watched.record(example, arch, training=True))
    return Usage(watched.released(), *recorders)


def _drop_unused(module: nn.Module, usage: Usage) -> bool:
    """Remove parameters and modules that were not used; returns whether ``module`` is needed."""
    needed = usage.needs(module)
    for name, child in module.named_children():
        if _drop_unused(child, usage):
            needed = True
        else:
            # Set to None rather than deleted: indices in a module list must not change.
            module._modules[name] = None
    for name in usage.unused(module):
        module._parameters[name] = None
    return needed


def _own_tensors(
    structure: nn.Module, cut: Mapping[int, torch.Tensor], share: bool
) -> dict[int, torch.Tensor]:
    """Copies of the tensors that a subnet does not share, cut, by the identity of the whole ones."""
    copies: dict[int, torch.Tensor] = {}
    for tensor in chain(structure.parameters(), structure.buffers()):
        part = cut.get(id(tensor), tensor)
        # Whole buffers are the structure's own already.
        if part is not tensor or isinstance(tensor, nn.Parameter) and not share:
            copies[id(tensor)] = copied(part, tensor)
    return copies
