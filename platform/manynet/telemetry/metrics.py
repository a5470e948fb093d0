"""Metrics that a run exports through Ray to Prometheus and Grafana."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ray.util.metrics import Counter, Gauge


@dataclass(frozen=True)
class Definition:
    """A metric that a process of a run exports.

    Attributes:
        name: in Ray, which exports it as ``ray_<name>``.
        kind: of the metric; a counter only grows.
        description: meaning and unit.
        tags: labels of its series, besides Ray's own.
    """

    name: str
    kind: Literal["counter", "gauge"]
    description: str
    tags: tuple[str, ...]

    @property
    def exported(self) -> str:
        """The name that Prometheus scrapes."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"


STUDY, DEVICE = ("study",), ("device", "actor")

CANDIDATES = Definition("manynet_candidates", "counter", "Candidates that were evaluated.", STUDY)
FAILURES = Definition(
    "manynet_failed_candidates", "gauge", "Candidates of this start whose evaluation failed.", STUDY
)
RATE = Definition(
    "manynet_candidates_per_second", "gauge", "Candidates a second, over the last minute.", STUDY
)
IDLE = Definition(
    "manynet_evaluator_idle_share", "gauge", "Share of evaluator time without a candidate.", STUDY
)
HYPERVOLUME = Definition(
    "manynet_hypervolume", "gauge", "Share of the box of feasible values dominated.", STUDY
)
FRONT = Definition("manynet_front_size", "gauge", "Architectures on the Pareto front.", STUDY)
LEDGER = Definition("manynet_ledger_records", "gauge", "Evaluations of the search in the ledger.", STUDY)
EVALUATIONS = Definition(
    "manynet_evaluations_wanted", "gauge", "Evaluations that the search is to reach.", STUDY
)
QUEUE = Definition("manynet_device_queue_length", "gauge", "Networks that wait for a device.", ("device",))
DRIFT = Definition(
    "manynet_device_drift", "gauge", "Drift of a device's reference subnet, as a share.", DEVICE
)
MEASURED = Definition(
    "manynet_device_measurements", "gauge", "Networks that a device's actor measured.", DEVICE
)
STEP = Definition("manynet_training_step", "gauge", "Optimizer steps done.", ("network",))
LOSS = Definition("manynet_training_loss", "gauge", "Loss of the last logged step.", ("network",))
RATE_OF_LEARNING = Definition(
    "manynet_learning_rate", "gauge", "Learning rate of the last logged step.", ("network",)
)

ALL = (
    CANDIDATES,
    FAILURES,
    RATE,
    IDLE,
    HYPERVOLUME,
    FRONT,
    LEDGER,
    EVALUATIONS,
    QUEUE,
    DRIFT,
    MEASURED,
    STEP,
    LOSS,
    RATE_OF_LEARNING,
)


def gauge(definition: Definition) -> Gauge:
    """A gauge in this process; exported only from Ray processes."""
    return Gauge(definition.name, definition.description, definition.tags)


def counter(definition: Definition) -> Counter:
    """A counter in this process; exported only from Ray processes."""
    return Counter(definition.name, definition.description, definition.tags)
