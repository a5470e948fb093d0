"""The contract of choices that may stay undecided: with all weight on one option, they are that option."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from manynet.elastic.count import Count, Expectation
from manynet.space.search_space import SearchSpace
from manynet.testing.findings import Findings
from manynet.testing.space_forward import gap

_SAMPLES = 4
_TOLERANCE = 1e-3


def check_undecided(space: SearchSpace, network: nn.Module, findings: Findings) -> None:
    """Compare undecided choices of certain weights with decided ones: outputs, and cost."""
    if not space.soft:
        return
    for seed in range(_SAMPLES):
        arch = space.draw(np.random.default_rng(seed))
        weights = {
            key: torch.eye(len(options))[options.index(arch[key])]
            for key, options in space.soft.items()
            if key in arch
        }
        with findings.trying("forward must take undecided choices under every soft key"), torch.no_grad():
            soft = space.soften(arch, weights)
            inputs = space.example(space.decided(soft), batch=3)
            shapes = [space.inputs(one) for one in (arch, space.decided(soft))]
            if shapes[0] == shapes[1]:
                difference = gap(network(*inputs, arch=soft), network(*inputs, arch=arch))
                findings.expect(
                    difference <= _TOLERANCE,
                    "choices with all weight on one option must give what that option gives",
                    f"they differ by {difference:.2g} for {arch}",
                )
            _check_cost(space, soft, weights, arch, findings)


def _check_cost(
    space: SearchSpace,
    soft: dict[str, Any],
    weights: dict[str, torch.Tensor],
    arch: dict[str, Any],
    findings: Findings,
) -> None:
    reading = space.read(arch)
    for name, count, hard in zip(
        ("multiply-adds", "parameters"), space.count(soft), (reading.macs, reading.parameters), strict=True
    ):
        expected = float(Expectation(count)(weights)) if isinstance(count, Count) else float(count)
        findings.expect(
            abs(expected - hard) <= 1e-4 * hard + 0.5,
            f"expected {name} of certain choices must be those of the architecture",
            f"are {expected:.0f} where it has {hard}, for {arch}",
        )
