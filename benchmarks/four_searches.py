"""Four ways to search one space at equal CPU seconds, with the training of their winners.

On ``search_spaces.dmasking:tiny``: random search (every candidate trained alone), a single-path supernet with
regularised evolution, a sandwich supernet with NSGA-II, and a differentiable search for each target. Every net that
a method hands over is trained from random weights by one recipe, of the same number of steps; those that the
validation split puts on a front are its winners, and see the test split once. A seed also draws the splits of data
that name none.

A method may look only at nets up to a tenth above the dearest target. Hypervolumes are shares of the box from the
cheapest target to that limit, in the logarithm of multiply-adds, and from chance to no error, in test accuracy.

    python benchmarks/four_searches.py [--data idx:/path] [--seconds 40] [--seeds 1]

Writes ``four_searches.html`` in ``benchmarks/output``.
"""

from __future__ import annotations

import math
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import optuna
import plotly.graph_objects as go
import torch
from support.equal_cost import HASTY, SCORED, Alone, Spent, Terms, affordable, search_options
from support.frame import Option, at_most, run, show
from torch import nn

import manynet as mn
from manynet import data
from manynet.config.settings import TrainSettings
from manynet.learning.strategy import Strategy
from manynet.records import pareto
from manynet.records.conditions import parse_conditions, parse_objectives
from manynet.records.ledger import Record
from manynet.records.selection import winners
from manynet.report.figures import layout
from manynet.runtime.malloc import keep_freed_memory
from manynet.samplers import loading
from manynet.search.evaluator import Evaluate, Provenance
from manynet.search.outcome import Evaluation
from manynet.search.searcher import ArchitectureSearcher
from manynet.search_spaces.dmasking import tiny
from manynet.space.evaluation import calibrated, score
from manynet.trainers.differentiable import Differentiable
from manynet.trainers.sandwich import Sandwich
from manynet.trainers.single_path import SinglePath

OBJECTIVES = parse_objectives(["accuracy:max", "macs:min"])
ABOVE = 1.1
"""Of the dearest target: what a net may cost at most."""
SUPERNET, SEARCHED, GRADIENTS = 0.4, 0.55, 0.75
"""Shares of a budget spent when a supernet is trained, and when it is searched; and of a target's part, by gradients."""
AT_ONCE, MANY = 4, 10**6
COLOURS = ("#6b7280", "#2563eb", "#0d9488", "#ea580c")
PURPOSES = ("supernet", "search", "retraining")
OPTIONS = (
    Option("--data", "digits"),
    Option("--seconds", 40.0, "CPU seconds of each method and seed", quick=0.5),
    Option("--targets", (150e3, 300e3, 600e3), "multiply-adds", quick=(300e3,)),
    Option("--retrain-steps", 200, "of every net trained alone", quick=2),
    Option("--batch-size", 32, quick=8),
    Option("--learning-rate", 5e-3, "of weights, everywhere"),
    Option("--validation-examples", 1000, "that nets are chosen by, at most", quick=32),
    Option("--pilot", 12, "steps that tell how long a step of a supernet takes", quick=1),
    Option("--seeds", 1),
)
# Or the comparison would not be of equal cost.
BARS = {"most_off_budget": at_most(0.1)}


@dataclass(frozen=True)
class Assignment:
    """What a method is asked for, and what it spent on it so far.

    Attributes:
        terms: that all methods have in common.
        targets: multiply-adds of nets that are wanted.
        budget: CPU seconds for everything.
        spent: of those.
        pilot: steps that tell how long a step of a supernet takes.
    """

    terms: Terms
    targets: Sequence[float]
    budget: float
    spent: Spent
    pilot: int

    @property
    def limit(self) -> float:
        """Multiply-adds of the dearest net that counts."""
        return ABOVE * max(self.targets)


def by_random(given: Assignment) -> list[Alone]:
    """Random search: every candidate is trained alone."""
    nets: list[Alone] = []

    def evaluate(arch: Any) -> Evaluation:
        nets.append(given.terms.alone(arch))
        return Evaluation({**nets[-1].validation, "macs": nets[-1].macs})

    def more() -> bool:
        return affordable(given.spent, given.budget, len(nets), "retraining")

    proposed(given, "random", {}, evaluate, "retraining", more)
    return nets


def by_single_path(given: Assignment) -> list[Alone]:
    """A supernet trained one path a step, searched by regularised evolution."""
    return by_supernet(given, SinglePath, "evolution", {"population_size": 24, "sample_size": 6})


def by_sandwich(given: Assignment) -> list[Alone]:
    """A supernet trained by the sandwich rule, searched by NSGA-II."""
    return by_supernet(given, Sandwich, "nsga2", {"population_size": 24})


def by_supernet(
    given: Assignment, strategy: Callable[[], Strategy], sampler: str, options: dict[str, Any]
) -> list[Alone]:
    """Train a supernet, search it, and train what it ranks first alone."""
    terms, spent = given.terms, given.spent
    with spent.on("supernet"):
        seconds = SUPERNET * given.budget
        steps = max(given.pilot, round(seconds / step_seconds(given, strategy())) - given.pilot)
        trained = terms.learnt(terms.supernet(), strategy(), with_steps(terms.recipe, steps)).averaged()
    supernet = trained.eval().requires_grad_(False)
    records = proposed(
        given,
        sampler,
        options,
        lambda arch: scored(terms, supernet, arch),
        "search",
        lambda: spent.total < SEARCHED * given.budget,
    )
    return retrained(given, records)


def scored(terms: Terms, supernet: nn.Module, arch: mn.Architecture) -> Evaluation:
    """What a search's evaluator does for a candidate, in this process."""
    subnet = mn.extract(supernet, arch, terms.space.example(arch, batch=1), share=True)
    subnet = calibrated(subnet, terms.space, terms.calibration)
    metrics = score(subnet, terms.space, terms.data.validation, batch_size=SCORED, limit=terms.examples)
    return Evaluation({**metrics, "macs": terms.space.read(arch).macs})


def by_gradient(given: Assignment) -> list[Alone]:
    """A differentiable search for each target, of which the architecture that was found is trained alone."""
    terms, spent = given.terms, given.spent
    nets, training = list[Alone](), 0.0
    with spent.on("supernet"):
        each = step_seconds(given, Differentiable(target=given.targets[0], **HASTY))
    for number, target in enumerate(given.targets):
        part = (given.budget - spent.total) / (len(given.targets) - number)
        steps = max(given.pilot, round((part - training if training else GRADIENTS * part) / each))
        with spent.on("supernet"):
            strategy = Differentiable(target=target, **search_options(steps))
            terms.learnt(terms.supernet(), strategy, with_steps(terms.recipe, steps))
        before = spent.seconds["retraining"]
        with spent.on("retraining"):
            nets.append(terms.alone(strategy.found()))
        training = spent.seconds["retraining"] - before
    return nets


METHODS: dict[str, Callable[[Assignment], list[Alone]]] = {
    "random": by_random,
    "single path, evolution": by_single_path,
    "sandwich, NSGA-II": by_sandwich,
    "differentiable": by_gradient,
}


def step_seconds(given: Assignment, strategy: Strategy) -> float:
    """CPU seconds of a training step of a supernet, by some on a network that is thrown away."""
    terms, start = given.terms, time.process_time()
    terms.learnt(terms.supernet(), strategy, with_steps(terms.recipe, given.pilot))
    return (time.process_time() - start) / given.pilot


def with_steps(recipe: TrainSettings, steps: int) -> TrainSettings:
    """The same recipe for another number of steps."""
    return recipe.model_copy(update={"steps": steps})


def proposed(
    given: Assignment,
    sampler: str,
    options: dict[str, Any],
    evaluate: Evaluate,
    purpose: str,
    more: Callable[[], bool],
) -> list[Record]:
    """Evaluate what a sampler proposes while there is ``more`` to spend, one at least; the time counts as ``purpose``."""
    terms = given.terms
    provenance = Provenance(terms.space.digest, sampler, terms.data.digest, purpose)
    seed = terms.recipe.seed
    searcher = ArchitectureSearcher(
        terms.space,
        OBJECTIVES,
        parse_conditions(f"macs <= {given.limit}"),
        loading.load(sampler, options, seed, OBJECTIVES),
        provenance,
        MANY,
        seed,
    )
    records: list[Record] = []
    for number in count():
        if records and not more():
            break
        with given.spent.on("search"):
            arch = searcher.suggest(str(number))
        if not isinstance(arch, dict):
            break
        with given.spent.on(purpose):
            evaluation = evaluate(arch)
        searcher.on_trial_complete(str(number), evaluation.metrics)
        records.append(provenance.record(arch, evaluation))
    return records


def retrained(given: Assignment, records: Sequence[Record]) -> list[Alone]:
    """Winners spread over the front, some at a time, trained alone for what is left of the budget; one at least."""
    left, nets = list(records), list[Alone]()
    while left:
        for record in winners(left, OBJECTIVES, [], AT_ONCE):
            if nets and not affordable(given.spent, given.budget, len(nets), "retraining"):
                return nets
            with given.spent.on("retraining"):
                nets.append(given.terms.alone(record.architecture))
            left.remove(record)
    return nets


@dataclass(frozen=True)
class Winner:
    """A net on the front of what a method trained alone.

    Attributes:
        macs: multiply-adds of one example.
        validation: accuracy that put it there.
        test: accuracy on the test split.
    """

    macs: int
    validation: float
    test: float


@dataclass(frozen=True)
class Result:
    """What a method came to.

    Attributes:
        method: its name.
        seed: of all its draws.
        winners: by multiply-adds.
        trained: nets that it trained alone.
        seconds: by purpose.
        off: how far it was from its budget, as a share.
        volume: share of the box that its winners dominate.
    """

    method: str
    seed: int
    winners: Sequence[Winner]
    trained: int
    seconds: dict[str, float]
    off: float
    volume: float


def result(method: str, given: Assignment) -> Result:
    """Let a method spend its budget, and test its winners once."""
    nets = METHODS[method](given)
    values = [[net.macs, net.validation["accuracy"]] for net in nets]
    best = [nets[index] for index in pareto.front(values, [False, True])]
    found = [Winner(net.macs, net.validation["accuracy"], given.terms.tested(net)) for net in best]
    return Result(
        method,
        given.terms.recipe.seed,
        sorted(found, key=lambda winner: winner.macs),
        len(nets),
        dict(given.spent.seconds),
        abs(given.spent.total / given.budget - 1),
        volume(found, given),
    )


def volume(found: Sequence[Winner], given: Assignment) -> float:
    """Hypervolume as a share of the box."""
    cheapest = min(given.targets)
    values = [[math.log(max(winner.macs, cheapest)), winner.test] for winner in found]
    chance = 1 / given.terms.space.task.num_classes  # type: ignore[attr-defined]
    box = ([math.log(cheapest), 1.0], [math.log(given.limit), chance])
    return float(pareto.hypervolume_curve(values, [False, True], box)[-1])


def main(given: Namespace) -> dict[str, Any]:
    """Run all methods and draw their fronts."""
    torch.set_num_threads(1)
    keep_freed_memory()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results = [
        result(method, assigned) for seed in range(given.seeds) for method, assigned in turns(given, seed)
    ]
    show_results(results, f"{given.seconds:g} CPU seconds each, {given.data}")
    given.output.mkdir(parents=True, exist_ok=True)
    picture(results).write_html(given.output / "four_searches.html")
    print(f"picture: {given.output / 'four_searches.html'}")
    volumes = {
        method: statistics.mean(one.volume for one in results if one.method == method) for method in METHODS
    }
    return {"most_off_budget": max(one.off for one in results), "hypervolume": volumes}


def turns(given: Namespace, seed: int) -> Iterator[tuple[str, Assignment]]:
    """Every method's name and assignment for a seed."""
    loaded = data.load(given.data, channels=1, image_size=28, seed=seed)
    recipe = TrainSettings(
        steps=given.retrain_steps, batch_size=given.batch_size, learning_rate=given.learning_rate, seed=seed
    )
    terms = Terms(tiny, loaded, recipe, given.validation_examples)
    for method in METHODS:
        yield method, Assignment(terms, sorted(given.targets), given.seconds, Spent(), given.pilot)


def show_results(results: Sequence[Result], title: str) -> None:
    """Print the winners of each method, and what it spent its seconds on."""
    winners_found: list[Sequence[str] | None] = []
    for one in results:
        for winner in one.winners:
            accuracies = (f"{winner.validation:.4f}", f"{winner.test:.4f}")
            winners_found.append((one.method, str(one.seed), f"{winner.macs:,}", *accuracies))
        winners_found.append(None)
    show(f"Winners: {title}", ("method", "seed", "MACs", "validation", "test"), winners_found)
    costs = [
        (
            *(one.method, str(one.seed)),
            *(f"{one.seconds.get(purpose, 0.0):.1f}" for purpose in PURPOSES),
            *(str(one.trained), f"{one.volume:.4f}"),
        )
        for one in results
    ]
    seconds = [f"{purpose}, s" for purpose in PURPOSES]
    show(f"Methods: {title}", ("method", "seed", *seconds, "nets trained", "hypervolume"), costs)


def picture(results: Sequence[Result]) -> go.Figure:
    """The fronts of all methods; a line is one seed's."""
    figure = go.Figure()
    for colour, method in zip(COLOURS, METHODS, strict=True):
        for number, one in enumerate(one for one in results if one.method == method):
            figure.add_scatter(
                x=[winner.macs for winner in one.winners],
                y=[winner.test for winner in one.winners],
                mode="lines+markers",
                name=method,
                legendgroup=method,
                showlegend=not number,
                line={"color": colour, "width": 1.5},
                marker={"size": 8},
                hovertemplate="%{x:,} MACs<br>%{y:.4f}<extra>" + f"{method}, seed {one.seed}</extra>",
            )
    figure.update_layout(
        **layout(460, legend=True),
        xaxis={"title": "MACs", "type": "log"},
        yaxis={"title": "test accuracy of winners, trained alone"},
    )
    return figure


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
