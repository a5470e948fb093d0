"""Runs of a strategy on the learner that training uses, and single steps of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from manynet.config.settings import TrainSettings
from manynet.data import Batch, Data, Split
from manynet.elastic.soft import Soft
from manynet.learning.learner import Learner
from manynet.learning.strategy import Strategy
from manynet.space.evaluation import has_batch_norm
from manynet.space.search_space import SearchSpace
from manynet.space.subnet import Subnet, extract
from manynet.testing.findings import Findings, scramble

_BATCH = 16


@dataclass(frozen=True)
class Trained:
    """A run to its end: the weights at its first and last step."""

    learner: Learner
    strategy: Strategy
    first: list[torch.Tensor]
    last: list[torch.Tensor]


@dataclass(frozen=True)
class OneStep:
    """One call of ``backward`` on a new network."""

    loss: float
    archs: list[dict[str, Any]]
    gradients: dict[str, torch.Tensor]
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    training: bool


@dataclass(frozen=True)
class Runs:
    """Trains ``space`` on ``data`` by what ``make`` gives.

    Attributes:
        make: a new strategy.
        space: fitted to the data.
        data: that are trained on.
        steps: of a run.
    """

    make: Callable[[], Strategy]
    space: SearchSpace
    data: Data
    steps: int

    @property
    def has_batch_norm(self) -> bool:
        """Whether halves of a batch are normalised differently from the whole."""
        return has_batch_norm(self.space.build())

    def trained(self, findings: Findings) -> Trained:
        """Train to the end, checking every step's log and architectures."""
        strategy = self.make()
        learner = self._learner(strategy)
        first = [parameter.detach().clone() for parameter in learner.network.parameters()]
        seen: list[dict[str, Any]] = []
        handle = learner.network.register_forward_pre_hook(_noting(seen), with_kwargs=True)
        for batch in self._batches(strategy, 0, self.steps):
            check_logged(learner.train_on(batch), findings)
        handle.remove()
        check_archs(seen, self.space, strategy.trains, findings)
        return Trained(learner, strategy, first, [p.detach().clone() for p in learner.network.parameters()])

    def resumed(self, at: int) -> Mapping[str, Any]:
        """The state after a run that was stopped at a step, written, and gone on with by new objects."""
        strategy = self.make()
        learner = self._learner(strategy)
        for batch in self._batches(strategy, 0, at):
            learner.train_on(batch)
        written = io.BytesIO()
        torch.save(learner.state_dict(), written)
        written.seek(0)
        scramble(11)
        again = self.make()
        other = self._learner(again, seed=12)
        other.load_state_dict(torch.load(written, weights_only=True))
        for batch in self._batches(again, at, self.steps):
            other.train_on(batch)
        return other.state_dict()

    def backward(
        self,
        part: int | None = None,
        times: int = 1,
        others: int = 5,
        shift: tuple[float, Mapping[str, torch.Tensor]] | None = None,
    ) -> OneStep:
        """Call ``backward`` for the first step on new weights, always the same.

        Args:
            part: half of the batch that is given, 0 or 1; None is all of it.
            times: how often it is called.
            others: seed of the global generators.
            shift: moves the weights first, by a number of times these gradients.
        """
        strategy = self.make()
        learner = self._learner(strategy)
        network = learner.network.train()
        if shift is not None:
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    if name in shift[1]:
                        parameter.add_(shift[0] * shift[1][name])
        (batch,) = self._batches(strategy, 0, 1)
        if part is not None:
            half = len(batch.targets) // 2
            cut = slice(part * half, (part + 1) * half)
            batch = Batch(tuple(x[cut] for x in batch.inputs), batch.targets[cut])
        seen: list[dict[str, Any]] = []
        network.register_forward_pre_hook(_noting(seen), with_kwargs=True)
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        logged: Mapping[str, torch.Tensor] = {}
        for number in range(times):
            if number:
                # What the first has learnt of its own would change the second's gradients.
                strategy = self.make()
                strategy.start(self.space, learner.device)
            scramble(others)
            torch.manual_seed(0)  # as the learner does, for layers that draw
            logged = strategy.backward(network, batch, replace(learner._step()))
        slopes = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        after = {name: p.detach().clone() for name, p in network.named_parameters()}
        return OneStep(float(logged["loss"]), seen, slopes, before, after, network.training)

    def _learner(self, strategy: Strategy, seed: int = 0) -> Learner:
        torch.manual_seed(seed)
        network: nn.Module = self.space.build()
        if strategy.trains == "subnet":
            network = extract(network, self.space.largest, self.space.example(self.space.largest))
        settings = TrainSettings(steps=self.steps, batch_size=_BATCH, learning_rate=5e-3, warmup=0, seed=2)
        held = self._split(strategy)[0]
        batches = None if held is None else lambda number: next(held.stream(_BATCH, seed=2, start=number))
        return Learner(network, self.space, strategy, settings, held=batches)

    def _batches(self, strategy: Strategy, start: int, stop: int) -> Iterator[Batch]:
        stream = self._split(strategy)[1].stream(_BATCH, seed=2, start=start)
        return islice(stream, stop - start)

    def _split(self, strategy: Strategy) -> tuple[Split | None, Split]:
        if not strategy.held_out:
            return None, self.data.train
        return self.data.train.divided(strategy.held_out, seed=2)


def _noting(seen: list[dict[str, Any]]) -> Callable[..., None]:
    def note(module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        arch = module.arch if isinstance(module, Subnet) else named.get("arch", {})
        seen.append({key: _plain(value) for key, value in arch.items()})

    return note


def _plain(value: Any) -> Any:
    return value if not isinstance(value, Soft) else "undecided"


def check_logged(logged: Any, findings: Findings) -> None:
    """Hold what ``backward`` returns to its contract."""
    if not findings.expect(
        isinstance(logged, Mapping) and "loss" in logged,
        "backward must return what to log, with the loss",
        f"returns {logged!r:.80}",
    ):
        return
    for name, value in logged.items():
        plain = isinstance(value, torch.Tensor) and value.dim() == 0 and not value.requires_grad
        findings.expect(plain, "what is logged must be detached scalar tensors", f"{name} is {value!r:.80}")
    loss = logged["loss"]
    finite = bool(torch.as_tensor(loss).isfinite().all())
    findings.expect(finite, "the loss must be finite", f"is {loss!r:.80}")


def check_archs(seen: list[dict[str, Any]], space: SearchSpace, trains: str, findings: Findings) -> None:
    """Hold the architectures that a strategy trained to the space."""
    findings.expect(seen, "a step must call the network", "none did")
    for arch in seen if trains == "supernet" else []:
        undecided = [key for key, value in arch.items() if value == "undecided"]
        outside = [key for key in undecided if key not in space.soft]
        findings.expect(not outside, "only soft keys may be undecided", f"{', '.join(outside[:1])} is")
        decided = {key: value for key, value in arch.items() if key not in undecided}
        with findings.trying("a strategy must train architectures of the space"):
            valid = space.valid(decided)
            findings.expect(
                bool(undecided) or valid == decided,
                "a strategy must train architectures of the space",
                f"one is {decided}, which the space repairs",
            )


def same_tensors(
    left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor], share: float = 0.0
) -> bool:
    """Whether tensors of the same names are equal, or differ by at most a share of the largest value."""
    if left.keys() != right.keys():
        return False
    largest = max((float(t.abs().max()) for t in right.values()), default=0.0)
    return all(
        float((left[name] - right[name]).abs().max()) <= share * largest + 1e-8 * bool(share) for name in left
    )
