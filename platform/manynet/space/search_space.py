"""Search spaces: a supernet, and Ray Tune domains for its choices.

A supernet is one network whose weights all networks of a space (subnets) share. An architecture is a flat
dict of choices; its canonical form lacks the keys that its network does not read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import torch
from ray.tune.search.sample import Domain
from torch import nn

from manynet.data.features import Features
from manynet.elastic.count import Count
from manynet.elastic.recorder import Use
from manynet.elastic.soft import Soft, soft
from manynet.space.costliest import costliest
from manynet.space.domains import (
    ArchitectureError,
    SpaceError,
    Value,
    admitted,
    declared,
    extremes,
    identity,
    size,
    soft_options,
)
from manynet.space.identity import content_of, digest
from manynet.space.meter import Meter
from manynet.space.tasks import Task

# Values are numbers and strings; the space knows which a key holds, the type checker does not.
Architecture = Mapping[str, Any]
Shape = tuple[int, ...]
InputShape = Shape | Mapping[str, Shape | tuple[Shape, torch.dtype]]


class Supernet(nn.Module):
    """A network whose weights all subnets share.

    Subclasses define ``forward(self, *inputs, arch)``: inputs are tensors with the batch first, and
    ``arch`` maps the space's keys to values, which it hands to elastic layers as arguments of their
    calls. It must read only keys that matter to the subnet at hand, and never change the network.
    """


@dataclass(frozen=True)
class Reading:
    """Keys and cost of an architecture, read from one forward pass at one example.

    Attributes:
        keys: the choices it read; all others have no effect.
        macs: multiply-adds of matrix products and convolutions.
        parameters: number of parameters of the extracted subnet.
    """

    keys: frozenset[str]
    macs: int
    parameters: int


class SearchSpace:
    """A supernet together with the choices that select its subnets.

    Args:
        name: for people; part of the space's identity.
        domains: a Ray Tune domain for each choice, usable as ``param_space`` of a ``tune.Tuner``.
        supernet: creates the network; called without arguments.
        task: loss and metrics.
        input_shape: shape of one example without the batch dimension; a mapping of names to shapes (or
            to a shape and a dtype) for several inputs; or a function of the architecture giving either.
        version: change it when the supernet's code changes what an architecture computes, so that
            evaluations of the old code are not reused.
        repair: makes an invalid combination valid; takes and returns a flat dict, and must not change a
            valid one.
        sample: draws an architecture from a random generator, for spaces whose prior is not uniform.
        features: the data's features; for spaces whose network depends on them.
        adapt: creates this space for other features.
        soft: keys that may stay undecided, each a ``tune.choice``: forward may pass them only to elastic
            layers, ``elastic.choose``, ``elastic.repeat`` and ``elastic.combine``.

    Raises:
        SpaceError: when the declaration is invalid.
    """

    def __init__(
        self,
        name: str,
        domains: Mapping[str, Domain],
        supernet: Callable[[], nn.Module],
        task: Task,
        input_shape: InputShape | Callable[[Architecture], InputShape],
        version: str = "1",
        repair: Callable[[dict[str, Value]], dict[str, Value]] | None = None,
        sample: Callable[[np.random.Generator], dict[str, Value]] | None = None,
        features: Features | None = None,
        adapt: Callable[[Features], SearchSpace] | None = None,
        soft: Collection[str] = (),
    ) -> None:
        if not domains:
            raise SpaceError("domains must hold at least one choice, but got none")
        if not callable(supernet) or isinstance(supernet, nn.Module):
            raise SpaceError(
                f"supernet must be a class or function that makes the network, but got {supernet!r}"
            )
        self.name = name
        self.domains = {key: declared(key, domain) for key, domain in domains.items()}
        self.soft = {key: soft_options(key, self.domains) for key in soft}
        self.task = task
        self._task_identity = content_of(task, f"the task of {name!r}")
        self.version = version
        self.features = features
        self._adapt = adapt
        self._supernet = supernet
        self._input_shape = input_shape
        self._repair = repair
        self._sample = sample

    def __repr__(self) -> str:
        return f"SearchSpace({self.name!r}, {len(self.domains)} choices)"

    def __getstate__(self) -> dict[str, Any]:
        # The meter's network is a cache: rebuilding it is cheaper than sending it.
        return {
            name: value for name, value in vars(self).items() if name not in ("_read", "_meter", "_counted")
        }

    @cached_property
    def digest(self) -> str:
        """Identity of the space: name, version, choices and task."""
        content = [
            self.name,
            self.version,
            self._task_identity,
            {k: identity(d) for k, d in self.domains.items()},
        ]
        return digest(content if self.features is None else [*content, self.features.to_dict()])

    def fitted(self, features: Features) -> SearchSpace:
        """This space for data with these features; itself, if it does not depend on them."""
        return self if self._adapt is None or features == self.features else self._adapt(features)

    def build(self) -> nn.Module:
        """A new supernet with random weights."""
        return self._supernet()

    def canonical(self, config: Mapping[str, Any]) -> dict[str, Value]:
        """Repair ``config`` and drop choices without effect, so that equal networks have equal dicts.

        A choice has no effect when the supernet's forward pass does not read it.

        Raises:
            ArchitectureError: for an unknown key, a value outside its domain, or a missing choice.
        """
        arch = self.valid(config)
        live = self.read(arch).keys
        return {key: value for key, value in arch.items() if key in live}

    def valid(self, config: Mapping[str, Any]) -> dict[str, Value]:
        """Check every value, and repair the combination; keys without effect are kept.

        Raises:
            ArchitectureError: for an unknown key or a value outside its domain.
        """
        unknown = [key for key in config if key not in self.domains]
        if unknown:
            raise ArchitectureError(
                f"a choice must be one of ({', '.join(self.domains)}), but got {unknown[0]!r}"
            )
        arch = {
            key: admitted(key, domain, config[key]) for key, domain in self.domains.items() if key in config
        }
        return arch if self._repair is None else self._repair(arch)

    def soften(self, arch: Architecture, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """An architecture with some choices undecided.

        Args:
            arch: values of all other keys.
            weights: weights of each undecided choice's options, ``(options,)``, summing to 1, by key.

        Raises:
            ArchitectureError: for a key that must be decided, or a number of weights other than that of options.
        """
        for key, values in weights.items():
            if key not in self.soft:
                raise ArchitectureError(
                    f"an undecided choice must be one of ({', '.join(self.soft)}), but got {key!r}"
                )
            if values.shape != (len(self.soft[key]),):
                raise ArchitectureError(
                    f"{key} must have {len(self.soft[key])} weights, but got a shape of {tuple(values.shape)}"
                )
        return {**arch, **{key: soft(key, self.soft[key], values) for key, values in weights.items()}}

    def key(self, config: Mapping[str, Any]) -> str:
        """Digest of the canonical architecture, 16 hexadecimal digits."""
        return digest(sorted(self.canonical(config).items()))

    def draw(self, rng: np.random.Generator) -> dict[str, Value]:
        """A random architecture, valid but not canonical: the cheap draw of a training step."""
        if self._sample is not None:
            return self.valid(self._sample(rng))
        return self.valid({key: domain.sample(random_state=rng) for key, domain in self.domains.items()})

    def sample(self, seed: int) -> dict[str, Value]:
        """A random canonical architecture; the same for the same seed."""
        return self.canonical(self.draw(np.random.default_rng(seed)))

    @cached_property
    def largest(self) -> dict[str, Value]:
        """The architecture with most multiply-adds; see :func:`manynet.space.costliest.costliest`."""
        start = {key: extremes(domain)[0] for key, domain in self.domains.items()}
        return self.canonical(costliest(self.domains, self._macs, start, 1))

    @cached_property
    def smallest(self) -> dict[str, Value]:
        """The architecture with fewest multiply-adds."""
        start = {key: self.largest.get(key, extremes(domain)[0]) for key, domain in self.domains.items()}
        return self.canonical(costliest(self.domains, self._macs, start, -1))

    def _macs(self, arch: Architecture) -> float:
        """Multiply-adds of an architecture with a value for every key."""
        if self._counted is None:
            valid = self.valid(arch)
            macs = self._meter.macs(valid, valid)
            assert isinstance(macs, int)
            return macs
        return self._counted.at({key: options.index(arch[key]) for key, options in self.soft.items()})

    @cached_property
    def _counted(self) -> Count | None:
        """Multiply-adds of all combinations from one soft pass, if every choice may stay undecided."""
        if self._repair is not None or self.soft.keys() != self.domains.keys():
            return None
        arch = self.soften({}, {key: torch.ones(len(options)) for key, options in self.soft.items()})
        macs = self._meter.macs(arch, self.decided(arch))
        return macs if isinstance(macs, Count) else None

    def inputs(self, arch: Architecture) -> dict[str, tuple[Shape, torch.dtype]]:
        """Shape without batch, and dtype, of each input of ``arch``, by name."""
        shape = self._input_shape(arch) if callable(self._input_shape) else self._input_shape
        if isinstance(shape, Mapping):
            return {name: _shape_and_dtype(entry) for name, entry in shape.items()}
        return {"input": (tuple(shape), torch.float32)}

    def example(
        self, arch: Architecture, batch: int = 2, device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, ...]:
        """Random inputs for ``arch``, each ``(batch, *shape)``; integer inputs are zeros."""
        generator = torch.Generator().manual_seed(0)
        return tuple(
            torch.empty(batch, *shape, dtype=dtype, device=device)
            if torch.device(device).type == "meta"
            else torch.randn(batch, *shape, generator=generator, dtype=dtype).to(device)
            if dtype.is_floating_point
            else torch.zeros(batch, *shape, dtype=dtype, device=device)
            for shape, dtype in self.inputs(arch).values()
        )

    @property
    def size(self) -> float:
        """Number of combinations of options, infinite beyond 1e308; distinct networks may be fewer."""
        try:
            return float(math.prod(size(domain) for domain in self.domains.values()))
        except OverflowError:
            return math.inf

    def read(self, arch: Architecture) -> Reading:
        """The keys that ``arch`` uses and its cost, from one forward pass without arithmetic.

        Raises:
            ArchitectureError: when the forward pass reads a choice that ``arch`` lacks.
        """
        return self._read(tuple(arch.items()))

    @cached_property
    def parts(self) -> list[str]:
        """Names of the supernet's own modules, such as ``blocks`` and ``head``."""
        return self._meter.parts

    @cached_property
    def _read(self) -> Callable[[tuple[tuple[str, Value], ...]], Reading]:
        @lru_cache(maxsize=4096)
        def read(items: tuple[tuple[str, Value], ...]) -> Reading:
            arch = _Traced(dict(items))
            macs, parameters = self._meter.cost(arch, arch)
            assert isinstance(macs, int) and isinstance(parameters, int)
            return Reading(frozenset(arch.read), macs, parameters)

        return read

    def count(self, arch: Architecture) -> tuple[Count | int, Count | int]:
        """Multiply-adds and parameters of an architecture from :meth:`soften`.

        Each is a count over all combinations of the undecided choices' options.
        """
        return self._meter.cost(arch, self.decided(arch))

    def calls(self, arch: Architecture) -> Mapping[nn.Module, Sequence[Use]]:
        """All calls of each elastic layer at one example; choices may be undecided. Layers are on ``meta``."""
        return self._meter.calls(arch, self.decided(arch))

    def decided(self, arch: Architecture) -> dict[str, Value]:
        """The architecture with undecided choices set to their largest number, or first other option."""
        return {
            key: extremes(self.domains[key])[0] if isinstance(value, Soft) else value
            for key, value in arch.items()
        }

    @cached_property
    def _meter(self) -> Meter:
        return Meter(self.build, partial(self.example, batch=1, device="meta"))


def described(arch: Architecture) -> str:
    """An architecture in one line, grouped by key prefixes such as ``block1.``."""
    groups: dict[str, list[str]] = {}
    for key, value in arch.items():
        prefix, _, name = key.rpartition(".")
        groups.setdefault(prefix, []).append(f"{name} {value}")
    return "; ".join(
        f"{prefix}: {', '.join(parts)}" if prefix else ", ".join(parts) for prefix, parts in groups.items()
    )


class _Traced(Mapping[str, Value]):
    """An architecture that records which of its keys are read."""

    def __init__(self, arch: dict[str, Value]) -> None:
        self.arch = arch
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Value:
        if key not in self.arch:
            raise ArchitectureError(
                f"an architecture must say {key!r}, but got only ({', '.join(self.arch)})"
            )
        self.read.add(key)
        return self.arch[key]

    def __contains__(self, key: object) -> bool:
        if key in self.arch:
            self.read.add(str(key))
        return key in self.arch

    def __iter__(self) -> Iterator[str]:
        self.read.update(self.arch)
        return iter(self.arch)

    def __len__(self) -> int:
        return len(self.arch)


def _shape_and_dtype(entry: Any) -> tuple[Shape, torch.dtype]:
    if len(entry) == 2 and isinstance(entry[1], torch.dtype):
        return tuple(entry[0]), entry[1]
    return tuple(entry), torch.float32
