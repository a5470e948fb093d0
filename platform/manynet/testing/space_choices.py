"""The contract of a space's choices: what is drawn, repaired, and made canonical."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from manynet.space.domains import admitted, allowed
from manynet.space.search_space import SearchSpace
from manynet.testing.findings import Findings, scramble


@dataclass(frozen=True)
class Arch:
    """An architecture as it was drawn, repaired, and with what cannot matter dropped."""

    valid: dict[str, Any]
    canonical: dict[str, Any]


Archs = list[Arch]


def check_choices(space: SearchSpace, samples: int, findings: Findings) -> Archs:
    """Hold draws to the space's domains; different architectures to look at further, the largest first."""
    archs: Archs = []
    with findings.trying("a space must have a largest and a smallest architecture"):
        largest, smallest = dict(space.largest), dict(space.smallest)
        for name, arch in (("largest", largest), ("smallest", smallest)):
            _check_canonical(space, arch, findings)
            archs.append(Arch(arch, arch))
            del name
        most, least = space.read(largest).macs, space.read(smallest).macs
        findings.expect(
            most >= least,
            "the largest architecture must not cost less than the smallest",
            f"{most} < {least}",
        )
    for seed in range(samples):
        with findings.trying("sample must draw an architecture of the space"):
            scramble(2 * seed)
            drawn, sample = space.draw(np.random.default_rng(seed)), space.sample(seed)
            scramble(2 * seed + 1)
            again = space.draw(np.random.default_rng(seed))
            findings.expect(
                drawn == again,
                "sample must draw from its generator alone",
                f"seed {seed} gives {drawn}, then {again}",
            )
            _check_canonical(space, sample, findings)
            archs.append(Arch(_checked(space, drawn, findings), dict(sample)))
        with findings.trying("every combination of options must become an architecture"):
            # As a sampler proposes: each key for itself, whatever the space's own prior.
            config = _uniform(space, seed)
            given = dict(config)
            valid = _checked(space, config, findings)
            findings.expect(config == given, "repair must leave what it gets as it is", f"changed {given}")
            archs.append(Arch(valid, space.canonical(valid)))
            _check_order(space, valid, findings)
    return list({tuple(sorted(arch.valid.items(), key=repr)): arch for arch in archs}.values())


def _uniform(space: SearchSpace, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(1000 + seed)
    return {key: domain.sample(random_state=rng) for key, domain in space.domains.items()}


def _checked(space: SearchSpace, config: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """The valid architecture of a configuration: of the domains, and left as it is by another repair."""
    valid = space.valid(config)
    for key, value in valid.items():
        domain = space.domains.get(key)
        if (
            findings.expect(domain is not None, "repair must add no key", f"adds {key!r}")
            and domain is not None
        ):
            try:
                holds = admitted(key, domain, value) == value
            except ValueError:
                holds = False
            findings.expect(
                holds,
                "a repaired value must be of its domain",
                f"{key} is {value!r}, not {allowed(domain)}, for {dict(config)}",
            )
    findings.expect(
        space.valid(valid) == valid, "repair must leave a valid architecture as it is", f"changes {valid}"
    )
    return valid


def _check_canonical(space: SearchSpace, arch: Mapping[str, Any], findings: Findings) -> None:
    again = space.canonical(arch)
    findings.expect(again == arch, "canonical must be idempotent", f"makes {again} of {dict(arch)}")
    for key, value in arch.items():
        findings.expect(
            admitted(key, space.domains[key], value) == value,
            "an architecture must be of the domains",
            f"{key} is {value!r}",
        )


def _check_order(space: SearchSpace, arch: Mapping[str, Any], findings: Findings) -> None:
    turned = dict(reversed(list(arch.items())))
    findings.expect(
        space.key(turned) == space.key(arch),
        "an architecture's key must not depend on the order of its choices",
        f"does for {dict(arch)}",
    )
