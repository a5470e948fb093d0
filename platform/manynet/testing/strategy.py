"""The contract of a training strategy: what one optimizer step trains."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from manynet import references
from manynet.data import Data
from manynet.learning.strategy import Strategy, TrainingError
from manynet.space.fitting import fit_together
from manynet.space.search_space import SearchSpace
from manynet.testing.findings import Findings, isolated, resolved
from manynet.testing.strategy_runs import Runs, same_tensors
from manynet.testing.strategy_space import SPACE

_STEPS = 6


def check_strategy(
    strategy: Strategy | type[Strategy] | str | Any,
    space: SearchSpace | str | None = None,
    data: Data | str = "digits",
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """What is wrong with a strategy: it trains a small space for a few steps, without Ray.

    Args:
        strategy: the class, what makes one without arguments, an instance, or its ``module:name``.
        space: what it trains; by default a small convolutional one, all of whose choices may stay undecided.
        data: that it trains on.
        options: arguments of the class.

    Returns:
        Sentences; none where the strategy keeps its contract.
    """
    findings = Findings()
    with isolated():
        make = _maker(strategy, dict(options or {}), findings)
        found = resolved(SearchSpace, SPACE if space is None else space, findings)
        if make is None or found is None:
            return findings.sentences
        with findings.trying("the data must fit the space that the strategy is checked with"):
            fitted, loaded = fit_together(found, data)
            if _check_declared(make, findings):
                _check(Context(make, Runs(make, fitted, loaded, _STEPS), findings))
    return findings.sentences


@dataclass(frozen=True)
class Context:
    """What every part of the check needs."""

    make: Callable[[], Strategy]
    runs: Runs
    findings: Findings


def _maker(strategy: Any, options: Mapping[str, Any], findings: Findings) -> Callable[[], Strategy] | None:
    """Makes a new strategy at each call; None with a finding."""
    if isinstance(strategy, str):
        with findings.trying(f"{strategy!r} must name a Strategy"):
            strategy = references.load(strategy)
        if findings:
            return None
    made = None
    with findings.trying("a strategy must be made from its options"):
        if isinstance(strategy, type) and inspect.isabstract(strategy):
            lacks = ", ".join(sorted(strategy.__abstractmethods__))  # type: ignore[attr-defined]
            findings.expect(False, "a strategy must define every abstract method", f"lacks {lacks}")
            return None
        made = strategy if isinstance(strategy, Strategy) else strategy(**options)
    if findings:
        return None
    if not findings.expect(isinstance(made, Strategy), "the plug-in must be a Strategy", f"is {made!r:.80}"):
        return None
    if isinstance(strategy, Strategy):
        return lambda: copy.deepcopy(strategy)
    return lambda: strategy(**options)


def _check_declared(make: Callable[[], Strategy], findings: Findings) -> bool:
    with findings.trying("a strategy must say what it trains"):
        made = make()
        findings.expect(
            made.trains in ("supernet", "subnet"),
            "trains must be 'supernet' or 'subnet'",
            f"is {made.trains!r}",
        )
        share = made.held_out
        plain = isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share < 1
        findings.expect(plain, "held_out must be a share below 1", f"is {share!r}")
    return not findings


def _check(context: Context) -> None:
    findings, runs = context.findings, context.runs
    straight = None
    with findings.trying("a strategy must train a few steps"):
        straight = runs.trained(findings)
    if straight is None or findings:
        return
    moved = any(not torch.equal(a, b) for a, b in zip(straight.first, straight.last, strict=True))
    findings.expect(moved, "training must move the weights", f"after {_STEPS} steps all are as they were")
    rule = "finished must be called after the last step, and refuse only by a TrainingError"
    with findings.trying(rule), suppress(TrainingError):
        straight.strategy.finished()
    _check_told(straight.strategy, runs.space, findings)
    _check_step(context)
    _check_resumed(context, straight.learner.state_dict())
    _check_workers(context)


def _check_told(strategy: Strategy, space: SearchSpace, findings: Findings) -> None:
    with findings.trying("watched and found must give architectures of the space"):
        told = dict(strategy.watched(space)) if strategy.trains == "supernet" else {}
        found = strategy.found()
        if found is not None:
            told["found"] = found
        for arch in told.values():
            space.canonical(arch)


def _check_step(context: Context) -> None:
    """One call of backward: repeatable, adding to gradients, leaving weights alone, and down the loss."""
    findings, runs = context.findings, context.runs
    with findings.trying("backward must serve one step"):
        one, again = runs.backward(), runs.backward(others=7)
        findings.expect(
            one.archs == again.archs and same_tensors(one.gradients, again.gradients),
            "draws must derive from Step.random alone, so that a resumed run does the same",
            "two calls for the same step drew differently",
        )
        findings.expect(
            same_tensors(one.before, one.after),
            "backward must leave the weights to the optimizer",
            "changed some",
        )
        findings.expect(
            one.training, "backward must leave the network in training mode", "left it in evaluation mode"
        )
        findings.expect(one.gradients, "backward must give weights a gradient", "none has one")
        bad = [name for name, slope in one.gradients.items() if not slope.isfinite().all()]
        findings.expect(not bad, "gradients must be finite", f"that of {', '.join(bad[:1])} is not")
        twice = runs.backward(times=2)
        doubled = {name: 2 * slope for name, slope in one.gradients.items()}
        findings.expect(
            same_tensors(doubled, twice.gradients, 1e-3),
            "gradients must be added to those that are there",
            "a second call replaced or lost some",
        )
        if not findings:
            _check_downhill(context, one.loss, one.gradients)


def _check_downhill(context: Context, loss: float, gradients: Mapping[str, torch.Tensor]) -> None:
    steepness = float(sum(slope.double().square().sum() for slope in gradients.values()))
    if steepness <= 0 or loss <= 0:
        return
    lower = context.runs.backward(shift=(-0.02 * loss / steepness, gradients)).loss
    context.findings.expect(
        lower < loss,
        "a small step against the gradients must lower the loss",
        f"it goes from {loss:.6g} to {lower:.6g}",
    )


def _check_resumed(context: Context, straight: Mapping[str, Any]) -> None:
    findings, runs = context.findings, context.runs
    with findings.trying(
        "state_dict must be tensors and plain values, which torch.load takes with weights_only"
    ):
        resumed = runs.resumed(_STEPS // 2)
        for part in ("network", "average", "strategy"):
            findings.expect(
                _same(straight[part], resumed[part]),
                "a run that is stopped and resumed must end as one that is not",
                f"{part} differs: some of what a step depends on is in neither its state_dict nor Step.random",
            )


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def _check_workers(context: Context) -> None:
    """Two workers with half a batch each must do what one does with all of it."""
    findings, runs = context.findings, context.runs
    with findings.trying("backward must serve each of several workers"):
        halves = [runs.backward(part=part) for part in (0, 1)]
        whole = runs.backward()
        findings.expect(
            halves[0].archs == halves[1].archs == whole.archs,
            "all workers must train the same architectures in a step",
            "what is drawn depends on the worker's examples",
        )
        if runs.has_batch_norm:
            return
        # A weight that one of them did not reach has a gradient of zero there.
        known = {**halves[0].gradients, **halves[1].gradients}
        mean = {
            name: torch.stack([half.gradients.get(name, 0 * slope) for half in halves]).mean(0)
            for name, slope in known.items()
        }
        findings.expect(
            same_tensors(mean, whole.gradients, 1e-3),
            "the mean of two workers' gradients must be the gradient of their examples together",
            "it is another: a loss must be a mean over the batch",
        )
