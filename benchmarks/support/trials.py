"""Trials without work: an evaluation that sleeps, and an empty trial of Ray Tune.

Apart from the search, because their workers import this file, and the search takes seconds to import.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import ray
from ray import tune

from manynet.search.evaluator import Evaluate
from manynet.search.outcome import Evaluation


@dataclass(frozen=True)
class Sleeping:
    """Prepares an evaluation that sleeps, and notes when it ended and on which node.

    Attributes:
        seconds: of sleep.
    """

    seconds: float

    def __call__(self) -> Evaluate:
        node = float(int(ray.get_runtime_context().get_node_id()[:8], 16))

        def evaluate(arch: Mapping[str, Any]) -> Evaluation:
            time.sleep(self.seconds)
            # Both change with every choice, and disagree: a front, not one optimum that is proposed for ever.
            merit, price = (
                sum(crc32(f"{name}{item}".encode()) % 97 for item in arch.items()) for name in "ap"
            )
            metrics = {"accuracy": merit / 1e4, "macs": float(price)}
            return Evaluation({**metrics, "ended": time.time(), "node": node})

        return evaluate


class Empty(tune.Trainable):
    """A trial without work."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """There is nothing to reset."""
        return True

    def step(self) -> dict[str, Any]:
        """Done at once."""
        return {"score": 0.0, "done": True}
