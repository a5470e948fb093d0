"""The contract of extraction: subnets give the supernet's outputs, at the cost that was metered."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.tune.search.sample import Categorical, Domain
from safetensors.torch import load_model, save_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from manynet import references
from manynet.space.domains import extremes
from manynet.space.export import write_weights
from manynet.space.search_space import SearchSpace
from manynet.space.subnet import Subnet, cost, extract
from manynet.testing.findings import Findings
from manynet.testing.space_choices import Archs
from manynet.testing.space_forward import TOLERANCE, gap

_FEW = 256
_DRAWS = 200


def check_subnets(space: SearchSpace, network: nn.Module, archs: Archs, findings: Findings) -> None:
    """Extract every architecture; arguments are those of :func:`manynet.testing.space_forward.check_forward`."""
    for arch in (one.canonical for one in archs):
        with findings.trying("every architecture must be extracted"):
            # As a search does: seen on one example, run on others.
            subnet = extract(network, arch, space.example(arch, batch=1))
            inputs = space.example(arch, batch=3)
            with torch.no_grad():
                difference = gap(subnet(*inputs), network(*inputs, arch=dict(arch)))
            findings.expect(
                difference <= TOLERANCE,
                "an extracted subnet must give the supernet's outputs",
                f"they differ by {difference:.2g} for {arch}",
            )
            _check_cost(space, subnet, arch, findings)


def _check_cost(space: SearchSpace, subnet: Subnet, arch: Mapping[str, Any], findings: Findings) -> None:
    metered = cost(space, arch)
    held = sum(parameter.numel() for parameter in subnet.parameters())
    findings.expect(
        held == metered.parameters,
        "metered parameters must be those of the extracted subnet",
        f"are {metered.parameters} where it has {held}, for {arch}",
    )
    with FlopCounterMode(display=False) as counter:
        subnet.to("meta")(*space.example(arch, batch=1, device="meta"))
    counted = counter.get_total_flops() // 2
    findings.expect(
        counted == metered.macs,
        "metered multiply-adds must be those that PyTorch counts in the extracted subnet",
        f"are {metered.macs} where it counts {counted}, for {arch}",
    )


def check_saved(space: SearchSpace, network: nn.Module, arch: Mapping[str, Any], findings: Findings) -> None:
    """A subnet must be whole in its weights: written and read into a new network, it gives the same."""
    inputs = space.example(arch, batch=3)
    with findings.trying("a subnet must be saved and loaded again"), tempfile.TemporaryDirectory() as folder:
        subnet = extract(network, arch, space.example(arch, batch=1)).eval()
        reference = references.find(space)
        if reference is None:
            again = extract(space.build(), arch, space.example(arch, batch=1)).eval()
            save_model(subnet.network, f"{folder}/weights.safetensors")
            load_model(again.network, f"{folder}/weights.safetensors")
        else:
            write_weights(subnet, Path(folder), space, reference, any_batch=True)
            again = Subnet.load(folder, space)
        with torch.no_grad():
            difference = gap(again(*inputs), subnet(*inputs))
        findings.expect(
            difference <= TOLERANCE,
            "a subnet that is saved and loaded must give the same outputs",
            f"they differ by {difference:.2g}: something that it computes with is in no parameter or buffer",
        )


def check_reach(
    space: SearchSpace, network: nn.Module, archs: Sequence[Mapping[str, Any]], findings: Findings
) -> None:
    """Every weight must be of some architecture: another would be trained, saved and sent for nothing.

    A space of few architectures is held to it for all of every weight; a larger one, whose rare combinations may not
    be met, for a weight of every part of the supernet.
    """
    with findings.trying("every weight must be of some architecture"):
        few = space.size <= _FEW and all(map(_listed, space.domains.values()))
        whole = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        reached: dict[str, tuple[int, ...]] = {}
        for arch in chain(archs, _every(space) if few else _covering(space)):
            subnet = extract(network, arch, space.example(arch, batch=1), share=True)
            for name, parameter in subnet.network.named_parameters():
                reached[name] = _larger(reached.get(name, ()), tuple(parameter.shape))
            left = _unreached(whole, reached) if few else _idle_parts(whole, reached)
            if not left:
                return
        name = left[0]
        got = f"at most {reached[name]} of it" if name in reached else "none of it"
        rule = "every weight must be of some architecture"
        findings.expect(False, rule, f"{name} {whole[name]} is used by none: {got}")


def check_read(space: SearchSpace, findings: Findings) -> None:
    """Every choice must be read by some architecture's network: another makes a space larger and nothing different.

    Canonical architectures are without the keys that nothing reads.
    """
    rule = "every choice must be read by the network of some architecture"
    with findings.trying(rule):
        left = set(space.domains)
        for arch in chain(_covering(space), map(space.sample, range(_DRAWS))):
            left -= set(arch)
            if not left:
                return
        findings.expect(False, rule, f"{min(left)!r} was read by none of many")


Shapes = Mapping[str, tuple[int, ...]]


def _unreached(whole: Shapes, reached: Shapes) -> list[str]:
    """Weights that are not of any architecture to their full size."""
    return [name for name, shape in whole.items() if name not in reached or not _holds(reached[name], shape)]


def _idle_parts(whole: Shapes, reached: Shapes) -> list[str]:
    """Weights of parts of the supernet that never ran."""
    parts = {name.partition(".")[0] for name in reached}
    return [name for name in whole if name.partition(".")[0] not in parts]


def _larger(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(max, zip(one, other, strict=True))) if len(one) == len(other) else other


def _holds(one: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return len(one) == len(whole) and all(a >= b for a, b in zip(one, whole, strict=True))


def _listed(domain: Domain) -> bool:
    return isinstance(domain, Categorical)


def _every(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """All architectures."""
    options = [extremes(domain) for domain in space.domains.values()]
    for values in itertools.product(*options):
        yield space.canonical(dict(zip(space.domains, values, strict=True)))


def _covering(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Architectures that between them have every extreme option, where it can matter, and random ones."""
    for at, (key, domain) in enumerate(space.domains.items()):
        drawn = space.draw(np.random.default_rng(at))
        for option in extremes(domain):
            yield space.canonical({**drawn, **space.largest, key: option})
        yield space.canonical(drawn)
