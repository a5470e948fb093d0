"""Subnets: their cost, and their extraction from the supernet, which holds the weights of all."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn

from manynet import references
from manynet.data.features import Features
from manynet.elastic.layer import Elastic
from manynet.elastic.recorder import Recorder, watch
from manynet.errors import ManynetError
from manynet.space.domains import Value
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
        self.arch: dict[str, Value] = dict(arch)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """The supernet's output for the same inputs and architecture."""
        return self.network(*inputs, arch=self.arch)

    @staticmethod
    def load(folder: str | Path) -> Subnet:
        """Load an exported subnet from its ``arch.json`` and ``weights.safetensors`` alone.

        Args:
            folder: local, or any address that pyarrow opens.

        Raises:
            ExportError: when a file is missing or damaged, or the space has changed since the export.
        """
        description = _description(folder)
        space = references.make(SearchSpace, description["space"])
        if description.get("features"):
            space = space.fitted(Features.from_dict(description["features"]))
        if space.digest != description["space_digest"]:
            raise ExportError(
                f"{folder} came from another version of {description['space']}: its space has digest "
                f"{description['space_digest']}, but got {space.digest}"
            )
        arch, weights = description["architecture"], join(folder, "weights.safetensors")
        subnet = extract(space.build(), arch, space.example(arch)).eval()
        try:
            with local_copy(weights) as path:
                load_model(subnet.network, path)
        except (StorageError, OSError, RuntimeError, SafetensorError) as error:
            raise ExportError(f"{weights} must hold the subnet's weights: {error}") from None
        return subnet


def _description(folder: str | Path) -> dict[str, Any]:
    address = join(folder, "arch.json")
    try:
        description: dict[str, Any] = json.loads(read_bytes(address))
        missing = {"space", "space_digest", "architecture"} - description.keys()
    except (StorageError, ValueError, AttributeError) as error:
        raise ExportError(f"{address} must describe a subnet: {error}") from None
    if missing:
        raise ExportError(f"{address} must say {', '.join(sorted(missing))}")
    return description


def extract(
    network: nn.Module, arch: Architecture, example: Iterable[torch.Tensor], share: bool = False
) -> Subnet:
    """Copy a subnet out of a supernet, which is not changed.

    The subnet runs once on ``example`` to record its slices. Layers are cut to the slices that ran, modules
    that did not run are dropped. A layer that ran with different slices keeps their union.

    Args:
        network: the supernet.
        arch: the subnet's architecture.
        example: inputs, batch first; see :meth:`manynet.SearchSpace.example`.
        share: do not copy tensors that are used whole (embedding tables): for subnets that are not trained.

    Returns:
        The subnet, in the supernet's training or evaluation mode.
    """
    shared = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
    # The copy shares all tensors: only the module tree is new.
    structure = copy.deepcopy(network, dict(shared)).eval()
    handles = watch(structure)
    with torch.no_grad(), Recorder() as recorder:
        structure(*example, arch=arch)
    for handle in handles:
        handle.remove()
    _drop_idle(structure, recorder)
    for layer, uses in recorder.uses.items():
        assert isinstance(layer, Elastic)
        layer.shrink(uses)
    if not share:
        _own_tensors(structure, shared)
    return Subnet(structure, arch).train(network.training)


def _drop_idle(module: nn.Module, recorder: Recorder) -> bool:
    """Remove children that neither ran nor contain one that ran; returns whether ``module`` is needed."""
    needed = module in recorder.ran
    for name, child in module.named_children():
        if _drop_idle(child, recorder):
            needed = True
        else:
            # Set to None rather than deleted: indices in a module list must not change.
            module._modules[name] = None
    return needed


def _own_tensors(module: nn.Module, shared: dict[int, torch.Tensor]) -> None:
    """Give ``module`` copies of the tensors it still shares; tied tensors stay tied."""
    copies: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is None or id(tensor) not in shared:
                    continue
                if id(tensor) not in copies:
                    clone = tensor.detach().clone()
                    is_parameter = isinstance(tensor, nn.Parameter)
                    copies[id(tensor)] = nn.Parameter(clone, tensor.requires_grad) if is_parameter else clone
                tensors[name] = copies[id(tensor)]  # type: ignore[assignment]
