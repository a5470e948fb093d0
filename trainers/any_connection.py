"""NASRec's single-operator any-connection training, and the alternatives compared in the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast, final, get_args

import numpy as np
import torch
from ray.tune.search.sample import Categorical
from torch import nn

from manynet.data import Batch
from manynet.learning.strategy import Step, Strategy, TrainingError
from manynet.space.evaluation import fit
from manynet.space.search_space import SearchSpace

Count = Literal["single", "any"]
_MOST = 4


@final
@dataclass(frozen=True)
class AnyConnection(Strategy):
    """Trains one subnet a step; during warm-up often one with all operators and connections (arXiv 2207.07187).

    For spaces whose blocks choose operators and sources: keys ``<block>.<...>_operator``, and ``..._from``,
    ``left`` and ``right``, whose values may name several joined by ``+``. The defaults are the authors' best
    strategy; ``connections="single"`` and ``operators="any"`` are the alternatives that they compare.

    Args:
        operators: ``single`` is one dense and one sparse operator a block, ``any`` is any number of each,
            their outputs added.
        connections: ``any`` is the space's own prior, ``single`` is one source a connection.
        warmup: share of the steps over which the probability of a full path falls from 1 to 0. It is drawn
            once for all connections, and once for each block's operators and sizes.
    """

    operators: Count = "single"
    connections: Count = "any"
    warmup: float = 0.2

    def __post_init__(self) -> None:
        for name in ("operators", "connections"):
            if getattr(self, name) not in get_args(Count):
                raise ValueError(
                    f"{name} must be one of ({', '.join(get_args(Count))}), but got {getattr(self, name)!r}"
                )
        if isinstance(self.warmup, bool) or not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup must be from 0 to 1, but got {self.warmup!r}")

    def start(self, space: SearchSpace, device: torch.device) -> None:
        if not any(_is_connection(key) for key in space.domains):
            raise TrainingError(
                "AnyConnection trains spaces whose blocks choose their sources (keys ..._from), "
                f"but {space.name!r} has none"
            )

    def backward(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        arch = self.draw(step)
        with step.autocast():
            outputs = network(*fit(batch.inputs, step.space, arch), arch=arch)
            loss = step.space.task.loss(outputs, batch.targets, step.label_smoothing)
        torch.autograd.backward(loss)
        return {"loss": loss.detach()}

    def draw(self, step: Step) -> dict[str, Any]:
        """The architecture of a step; full paths and several operators go beyond the space's own options."""
        space, rng = step.space, step.random
        arch: dict[str, Any] = dict(space.draw(rng))
        for key, value in arch.items():
            if self.connections == "single" and _is_connection(key):
                arch[key] = str(rng.choice(value.split("+")))
            if self.operators == "any" and _is_operator(key):
                arch[key] = _some(_options(space, key), rng)
        return self._warmed_up(arch, step)

    def _warmed_up(self, arch: dict[str, Any], step: Step) -> dict[str, Any]:
        steps = self.warmup * step.total
        probability = 1 - step.number / steps if step.number < steps else 0.0
        blocks = dict.fromkeys(_block(key) for key in arch)
        connections = step.random.random() < probability
        full = {block: step.random.random() < probability for block in blocks}
        return {
            key: _all(step.space, key)
            if (connections if _is_connection(key) else full[_block(key)])
            else value
            for key, value in arch.items()
        }


def _all(space: SearchSpace, key: str) -> Any:
    """The largest option: all operators or sources, the largest size, or a merger turned on."""
    options = _options(space, key)
    if _is_connection(key) or _is_operator(key):
        return "+".join(option for option in options if "+" not in option)
    return max(options)


def _some(options: list[Any], rng: np.random.Generator) -> str:
    """A random subset of options: one, and up to three more with probability 1/2 each."""
    count = 1 + rng.binomial(min(len(options), _MOST) - 1, 0.5)
    chosen = rng.choice(len(options), size=count, replace=False)
    return "+".join(options[index] for index in sorted(chosen.tolist()))


def _options(space: SearchSpace, key: str) -> list[Any]:
    return list(cast(Categorical, space.domains[key]).categories)


def _block(key: str) -> str:
    return key.partition(".")[0]


def _is_connection(key: str) -> bool:
    return key.endswith(("_from", ".left", ".right"))


def _is_operator(key: str) -> bool:
    return key.endswith("_operator")
