"""The contract of a search space: its choices, its supernet, and how subnets leave it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from manynet.space.search_space import SearchSpace
from manynet.testing.findings import Findings, isolated, resolved
from manynet.testing.space_choices import Archs, check_choices
from manynet.testing.space_forward import check_forward
from manynet.testing.space_identity import check_identity
from manynet.testing.space_subnets import check_reach, check_read, check_saved, check_subnets
from manynet.testing.space_undecided import check_undecided


def check_space(space: SearchSpace | str | Any, samples: int = 8, fresh_process: bool = True) -> list[str]:
    """What is wrong with a search space, seen on random architectures.

    Args:
        space: the space, what makes it without arguments, or its ``module:name``.
        samples: architectures of each kind: drawn by the space, and uniformly from its domains.
        fresh_process: whether a space that a module holds is also loaded in a new process, which takes seconds.

    Returns:
        Sentences; none where the space keeps its contract.
    """
    findings = Findings()
    with isolated():
        found = resolved(SearchSpace, space, findings)
        if found is None:
            return findings.sentences
        network = _built(found, findings)
        archs = None if network is None else check_choices(found, samples, findings)
        if network is not None and archs:
            _check_networks(found, network, archs, findings)
        check_identity(found, space, fresh_process, findings)
    return findings.sentences


def _check_networks(space: SearchSpace, network: nn.Module, archs: Archs, findings: Findings) -> None:
    if not check_forward(space, network, archs, findings):
        return
    check_subnets(space, network, archs, findings)
    check_saved(space, network, archs[0].canonical, findings)
    check_reach(space, network, [arch.canonical for arch in archs], findings)
    check_read(space, findings)
    check_undecided(space, network, findings)


def _built(space: SearchSpace, findings: Findings) -> nn.Module | None:
    """A supernet in evaluation mode, none of whose slices is like another."""
    with findings.trying("supernet must make a network without arguments"):
        network, other = space.build(), space.build()
        rule = "supernet must make a torch.nn.Module"
        if not findings.expect(isinstance(network, nn.Module), rule, f"makes {network!r:.80}"):
            return None
        shared = {id(one) for one in network.parameters()} & {id(one) for one in other.parameters()}
        findings.expect(
            not shared,
            "supernet must make a network of its own at each call",
            f"two share {len(shared)} weights",
        )
        rule = "a supernet must have weights"
        if not findings.expect(any(True for _ in network.parameters()), rule, "has none"):
            return None
        return diversified(network).eval()
    return None


def diversified(network: nn.Module) -> nn.Module:
    """``network`` with random numbers where all are alike: in ones and zeros, no slice is told from another."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.is_floating_point() and bool((parameter == parameter.flatten()[:1]).all()):
                parameter.uniform_(0.5, 1.5)
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
                module.running_var.uniform_(0.5, 2.0)
                assert module.running_mean is not None
                module.running_mean.uniform_(-0.5, 0.5)
    return network
