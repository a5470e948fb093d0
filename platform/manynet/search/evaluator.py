"""One candidate is one Tune trial of one step, on an evaluator that is kept for the next."""

from __future__ import annotations

import asyncio
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

from manynet.errors import OutOfService
from manynet.records.ledger import Ledger, Record, record_key
from manynet.search.outcome import Evaluation, Failure, to_result

logger = logging.getLogger(__name__)

Architecture = Mapping[str, Any]
Evaluate = Callable[[Architecture], Evaluation]
Prepare = Callable[[], Evaluate]
"""Called once in each evaluator's process: builds what is kept between candidates."""


@dataclass(frozen=True)
class Provenance:
    """All that decides a score besides the architecture.

    Attributes:
        space, weights, data: digests.
        protocol: what else decides it, in words.
        made_with: settings that decide no score, as they are now; kept in each record's details.
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


class Gate:
    """Lets evaluators go when all of them have come.

    Tune hands a trial that waits for its evaluator to start to any that is idle, and then gives the
    starting one up: without the gate, the first evaluator would do quick candidates alone for ever.
    """

    def __init__(self, count: int) -> None:
        self._missing = count
        self._all = asyncio.Event()

    async def arrive(self) -> None:
        """Return once ``count`` evaluators have called this."""
        self._missing -= 1
        if self._missing <= 0:
            self._all.set()
        await self._all.wait()


PATIENCE = 60.0
"""Seconds to wait for the other evaluators: some may never start where resources are short."""


class Evaluator(tune.Trainable):
    """Evaluates the architecture that is its trial's configuration, and writes the record itself."""

    def setup(  # type: ignore[override]  # tune.with_parameters gives the rest
        self,
        config: dict[str, Any],
        prepare: Prepare,
        ledger: Ledger,
        provenance: Provenance,
        gate: ActorHandle[Gate] | None = None,
    ) -> None:
        """Keep what evaluation needs; building it is left to the first step."""
        self._prepare = prepare
        self._evaluate: Evaluate | None = None
        self._gate = gate
        self._ledger = ledger
        self._provenance = provenance

    def __repr__(self) -> str:
        # Of Tune's own classes around this one, the dashboard would show the name alone.
        return "Evaluator"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Nothing kept depends on the candidate."""
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate, write, report. An error is reported too: raising it would cost a new process."""
        self._wait_for_others()
        try:
            # Not in setup: there, an error would be an actor that never comes up.
            if self._evaluate is None:
                self._evaluate = self._prepare()
            start = time.perf_counter()
            evaluation = self._evaluate(self.config)
            _check_finite(evaluation)
            details = {"seconds": round(time.perf_counter() - start, 6), "evaluator": os.getpid()}
            self._ledger.write(self._provenance.record(self.config, evaluation, **details))
        except Exception as error:
            logger.exception("candidate %s failed", self.config)
            reason = f"{type(error).__name__}: {error}"
            return to_result(Failure(reason, hopeless=isinstance(error, OutOfService)))
        return to_result(evaluation)

    def _wait_for_others(self) -> None:
        if self._gate is not None:
            # Here, not in setup: only a trial that has begun is safe from being given to another evaluator.
            with contextlib.suppress(GetTimeoutError):
                ray.get(self._gate.arrive.remote(), timeout=PATIENCE)
            self._gate = None


def _check_finite(evaluation: Evaluation) -> None:
    for column, value in evaluation.metrics.items():
        if not math.isfinite(value):
            raise ValueError(f"metrics must be finite, but {column} is {value}")
