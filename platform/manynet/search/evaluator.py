"""Tune trainable that evaluates candidates: one trial of one step each, on a reused actor."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError

from manynet.errors import OutOfService, located_line
from manynet.records.ledger import Ledger, Record, record_key
from manynet.search.gate import Gate
from manynet.search.outcome import Evaluation, Failure, to_result

logger = logging.getLogger(__name__)

Architecture = Mapping[str, Any]
Evaluate = Callable[[Architecture], Evaluation]
Prepare = Callable[[], Evaluate]
"""Called once in each evaluator process: builds the state that candidates share."""


@dataclass(frozen=True)
class Provenance:
    """Everything that determines a score besides the architecture.

    Attributes:
        space, weights, data: digests.
        protocol: text of the scoring settings and devices.
        made_with: current settings that do not affect scores; kept in each record's details.
    """

    space: str
    weights: str
    data: str
    protocol: str
    made_with: Mapping[str, Any] = field(default_factory=dict)

    def key(self, arch: Architecture) -> str:
        """The ledger key of one architecture's evaluation."""
        return record_key("evaluation", self.space, self.weights, arch, self.data, self.protocol)

    def record(self, arch: Architecture, evaluation: Evaluation, **details: Any) -> Record:
        """The ledger's record of one evaluation."""
        return Record(
            key=self.key(arch),
            kind="evaluation",
            space=self.space,
            weights=self.weights,
            architecture=dict(arch),
            data=self.data,
            protocol=self.protocol,
            metrics=dict(evaluation.metrics),
            measurements=list(evaluation.measurements),
            details={**evaluation.details, "made_with": dict(self.made_with), **details},
        )

    def made(self, record: Record) -> bool:
        """Whether ``record`` is an evaluation under this provenance."""
        return record.kind == "evaluation" and (
            record.space,
            record.weights,
            record.data,
            record.protocol,
        ) == (
            self.space,
            self.weights,
            self.data,
            self.protocol,
        )


PATIENCE = 60.0
"""Seconds to wait for the other evaluators: some may never start where resources are short."""


class Evaluator(tune.Trainable):
    """Evaluates the architecture in its trial's config, and writes the ledger record itself."""

    def setup(  # type: ignore[override]  # tune.with_parameters adds the rest
        self,
        config: dict[str, Any],
        prepare: Prepare,
        ledger: Ledger,
        provenance: Provenance,
        gate: ActorHandle[Gate] | None = None,
    ) -> None:
        """Store the arguments; the first step builds the evaluation."""
        self._prepare = prepare
        self._evaluate: Evaluate | None = None
        self._gate = gate
        self._ledger = ledger
        self._provenance = provenance

    def __repr__(self) -> str:
        # The dashboard would show only the name of Tune's wrapper class.
        return "Evaluator"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Accept any candidate: no state depends on it."""
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate, write, report. Errors are reported as results: raising one would cost a new process."""
        self._wait_for_others()
        try:
            # Not in setup: an error there would be an actor that never starts.
            if self._evaluate is None:
                self._evaluate = self._prepare()
            start = time.perf_counter()
            evaluation = self._evaluate(self.config)
            _check_finite(evaluation)
            details = {"seconds": round(time.perf_counter() - start, 6), "evaluator": os.getpid()}
            self._ledger.write(self._provenance.record(self.config, evaluation, **details))
        except Exception as error:
            # The driver tells of it in one line; Ray would print every traceback there as well.
            logger.debug("candidate %s failed", self.config, exc_info=True)
            return to_result(Failure(located_line(error), hopeless=isinstance(error, OutOfService)))
        return to_result(evaluation)

    def _wait_for_others(self) -> None:
        if self._gate is not None:
            # Here, not in setup: Tune may move a trial to another evaluator until it has begun.
            with contextlib.suppress(GetTimeoutError):
                ray.get(self._gate.arrive.remote(), timeout=PATIENCE)
            self._gate = None


def _check_finite(evaluation: Evaluation) -> None:
    for column, value in evaluation.metrics.items():
        if not math.isfinite(value):
            raise ValueError(f"metrics must be finite, but {column} is {value}")
