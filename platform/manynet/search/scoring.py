"""Scores one candidate: extract the subnet, recalibrate batch norm, score, measure."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import ray
import torch
from torch import nn

from manynet.config.settings import SearchSettings
from manynet.data import Batch, Data
from manynet.learning.head_tuning import with_tuned_head
from manynet.records.conditions import LATENCY
from manynet.runtime.malloc import keep_freed_memory
from manynet.search.evaluator import Evaluate
from manynet.search.outcome import Evaluation
from manynet.space.evaluation import Inputs, calibrated, score
from manynet.space.search_space import Architecture, Reading, SearchSpace
from manynet.space.subnet import Subnet, extract


class Latency(Protocol):
    """One measurement: its median in ms, and all the ledger keeps of it."""

    @property
    def milliseconds(self) -> float: ...

    def to_dict(self) -> dict[str, Any]: ...


Measure = Callable[[Subnet, Inputs], Mapping[str, Latency]]
"""Measures a subnet's latency on every device, by device name; holds the device exclusively."""
Lease = Callable[[], AbstractContextManager[object]]
"""Shared right to compute on this node, held for one batch; a measurement needs it exclusively."""


def calibration_batches(data: Data, count: int, size: int) -> list[Inputs]:
    """Training inputs for batch-norm recalibration, the same for every subnet.

    Returns:
        ``count`` batches of ``size`` examples, in an order that does not follow the classes.
    """
    return [batch.inputs for batch in islice(data.train.stream(size, seed=0), count)]


def tuning_batches(data: Data, count: int, size: int) -> list[Batch]:
    """Training batches for head tuning, the same for every subnet."""
    return list(islice(data.train.stream(size, seed=1), count))


@dataclass(frozen=True)
class Scoring:
    """Builds the evaluation function; called once in each evaluator's process.

    Attributes:
        space: the search space.
        weights: reference to the supernet's state in the object store.
        data: subnets are calibrated on its train split and scored on its validation split.
        settings: how many examples of each.
        measure: measures latencies; None without latency columns.
        lease: entered once a batch.
    """

    space: SearchSpace
    weights: ray.ObjectRef[Mapping[str, torch.Tensor]]
    data: Data
    settings: SearchSettings
    measure: Measure | None = None
    lease: Lease = nullcontext

    def __call__(self) -> Evaluate:
        # One thread an evaluator: with more, two evaluators on two cores are slower than one.
        torch.set_num_threads(1)
        keep_freed_memory()
        # Building and extracting compute too: the lease keeps them apart from measurements.
        with self.lease():
            network = self._network()
            settings = self.settings
            calibration = calibration_batches(self.data, settings.calibration_batches, settings.batch_size)
            tuning = tuning_batches(self.data, settings.finetune_steps, settings.batch_size)
        device = next(network.parameters()).device

        def evaluate(arch: Architecture) -> Evaluation:
            example = self.space.example(arch, batch=1, device=device)
            with self.lease():
                subnet = extract(network, arch, example, share=True)
                subnet = calibrated(subnet, self.space, calibration)
                cost = self.space.read(arch)
            if tuning:
                rate = self.settings.finetune_learning_rate
                subnet = with_tuned_head(subnet, self.space, self._leased(tuning), rate)
            return self._evaluation(subnet, cost)

        return evaluate

    def _network(self) -> nn.Module:
        network = self.space.build()
        weights: Mapping[str, Any] = ray.get(self.weights)
        network.load_state_dict(weights)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return network.eval().requires_grad_(False).to(device)

    def _leased(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield each batch under the lease, so that a measurement waits for one batch at most."""
        for batch in batches:
            with self.lease():
                yield batch

    def _evaluation(self, subnet: Subnet, cost: Reading) -> Evaluation:
        metrics = score(
            subnet,
            self.space,
            self.data.validation,
            batch_size=self.settings.batch_size,
            limit=self.settings.validation_examples,
            lease=self.lease,
        )
        metrics |= {"macs": cost.macs, "parameters": cost.parameters}
        if self.measure is None:
            return Evaluation(metrics)
        # Moving needs a copy: it shares tensors with the supernet.
        on_cpu = subnet if next(subnet.parameters()).device.type == "cpu" else copy.deepcopy(subnet).cpu()
        start = time.perf_counter()
        measured = self.measure(on_cpu, self.space.example(subnet.arch, batch=1))
        waited = round(time.perf_counter() - start, 6)
        metrics |= {LATENCY + name: latency.milliseconds for name, latency in measured.items()}
        return Evaluation(
            metrics, [latency.to_dict() for latency in measured.values()], {"device_seconds": waited}
        )
