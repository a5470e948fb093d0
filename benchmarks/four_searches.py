"""Four ways to search one space at equal CPU seconds, with the training of their winners.

On ``search_spaces.dmasking:tiny``: random search (every candidate trained alone), a single-path supernet with
regularised evolution, a sandwich supernet with NSGA-II, and a differentiable search for each target. Every net that
a method hands over is trained from random weights by one recipe, of the same number of steps; those that the
validation split puts on a front are its winners, and see the test split once. A seed also draws the splits of data
that name none.

A method may look only at nets up to a tenth above the dearest target. Hypervolumes are shares of the box from the
cheapest target to that limit, in the logarithm of multiply-adds, and from chance to no error, in test accuracy.

    python benchmarks/four_searches.py [--data idx:/path] [--seconds 40] [--seeds 1]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
import torch
from equal_cost import HASTY, SCORED, Alone, Spent, Terms, affordable, search_options
from rich.console import Console
from rich.table import Table
from torch import nn

from manynet import data
from manynet.config.settings import SearchSettings, TrainSettings
from manynet.learning.strategy import Strategy
from manynet.records import pareto
from manynet.records.conditions import parse_conditions, parse_objectives
from manynet.records.ledger import Record
from manynet.records.selection import winners
from manynet.report.figures import layout
from manynet.runtime.malloc import keep_freed_memory
from manynet.samplers import loading
from manynet.search.evaluator import Evaluate, Evaluation, Provenance
from manynet.search.scoring import Scoring
from manynet.search.searcher import ArchitectureSearcher
from manynet.search_spaces.dmasking import tiny
from manynet.trainers.differentiable import Differentiable
from manynet.trainers.sandwich import Sandwich
from manynet.trainers.single_path import SinglePath

OUTPUT = Path(__file__).parent / "output" / "four_searches.html"
OBJECTIVES = parse_objectives(["accuracy:max", "macs:min"])
ABOVE = 1.1
"""Of the dearest target: what a net may cost at most."""
SUPERNET, SEARCHED, GRADIENTS = 0.4, 0.55, 0.75
"""Shares of a budget spent when a supernet is trained, and when it is searched; and of a target's part, by gradients."""
PILOT, AT_ONCE, MANY = 12, 4, 10**6
COLOURS = ("#6b7280", "#2563eb", "#0d9488", "#ea580c")
PURPOSES = ("supernet", "search", "retraining")
BARS = {"most_off_budget": 0.1}


@dataclass(frozen=True)
class Assignment:
    """What a method is asked for, and what it spent on it so far.

    Attributes:
        terms: that all methods have in common.
        targets: multiply-adds of nets that are wanted.
        budget: CPU seconds for everything.
        spent: of those.
    """

    terms: Terms
    targets: Sequence[float]
    budget: float
    spent: Spent

    @property
    def limit(self) -> float:
        """Multiply-adds of the dearest net that counts."""
        return ABOVE * max(self.targets)


@dataclass(frozen=True)
class LocalScoring(Scoring):
    """A search's own evaluation, of a supernet in this process."""

    network: nn.Module | None = None

    def _network(self) -> nn.Module:
        assert self.network is not None
        return self.network.eval().requires_grad_(False)


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
        steps = steps_within(seconds, step_seconds(terms, strategy()), spent_already=PILOT)
        trained = terms.learnt(terms.supernet(), strategy(), with_steps(terms.recipe, steps)).averaged()
    settings = SearchSettings(
        batch_size=SCORED, calibration_batches=len(terms.calibration), validation_examples=terms.examples
    )
    with spent.on("search"):
        # Without Ray there is no object store: the network itself stands in for the reference to its weights.
        evaluate = LocalScoring(terms.space, None, terms.data, settings, network=trained)()  # type: ignore[arg-type]
    records = proposed(
        given, sampler, options, evaluate, "search", lambda: spent.total < SEARCHED * given.budget
    )
    return retrained(given, records)


def by_gradient(given: Assignment) -> list[Alone]:
    """A differentiable search for each target, of which the architecture that was found is trained alone."""
    terms, spent = given.terms, given.spent
    nets, training = list[Alone](), 0.0
    with spent.on("supernet"):
        each = step_seconds(terms, Differentiable(target=given.targets[0], **HASTY))
    for number, target in enumerate(given.targets):
        part = (given.budget - spent.total) / (len(given.targets) - number)
        steps = steps_within(part - training if training else GRADIENTS * part, each)
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


def step_seconds(terms: Terms, strategy: Strategy) -> float:
    """CPU seconds of a training step of a supernet, by some on a network that is thrown away."""
    start = time.process_time()
    terms.learnt(terms.supernet(), strategy, with_steps(terms.recipe, PILOT))
    return (time.process_time() - start) / PILOT


def steps_within(seconds: float, each: float, spent_already: int = 0) -> int:
    """Steps that fit some seconds."""
    return max(PILOT, round(seconds / each) - spent_already)


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


def main() -> None:
    """Run all methods, print tables, write the picture, and end with one JSON line."""
    given = options()
    torch.set_num_threads(1)
    keep_freed_memory()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results = [
        result(method, assigned) for seed in range(given.seeds) for method, assigned in turns(given, seed)
    ]
    show(results, given)
    OUTPUT.parent.mkdir(exist_ok=True)
    picture(results).write_html(OUTPUT)
    print(f"picture: {OUTPUT.relative_to(Path(__file__).parent.parent)}")
    report(results)


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seconds", type=float, default=40.0, help="CPU seconds of each method and seed")
    parser.add_argument("--targets", type=float, nargs="+", default=[150e3, 300e3, 600e3])
    parser.add_argument("--retrain-steps", type=int, default=200, help="of every net trained alone")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="of weights, everywhere")
    parser.add_argument(
        "--validation-examples", type=int, default=1000, help="that nets are chosen by, at most"
    )
    parser.add_argument("--seeds", type=int, default=1)
    return parser.parse_args()


def turns(given: argparse.Namespace, seed: int) -> Iterator[tuple[str, Assignment]]:
    """Every method's name and assignment for a seed."""
    loaded = data.load(given.data, channels=1, image_size=28, seed=seed)
    recipe = TrainSettings(
        steps=given.retrain_steps, batch_size=given.batch_size, learning_rate=given.learning_rate, seed=seed
    )
    terms = Terms(tiny, loaded, recipe, given.validation_examples)
    for method in METHODS:
        yield method, Assignment(terms, sorted(given.targets), given.seconds, Spent())


def show(results: Sequence[Result], given: argparse.Namespace) -> None:
    """Print the winners of each method, and what it spent its seconds on."""
    title = f"{given.seconds:g} CPU seconds each, {given.data}"
    winners_table = Table("method", "seed", "MACs", "validation", "test", title=f"Winners: {title}")
    for one in results:
        for winner in one.winners:
            accuracies = (f"{winner.validation:.4f}", f"{winner.test:.4f}")
            winners_table.add_row(one.method, str(one.seed), f"{winner.macs:,}", *accuracies)
        winners_table.add_section()
    seconds = [f"{purpose}, s" for purpose in PURPOSES]
    costs = Table("method", "seed", *seconds, "nets trained", "hypervolume", title=f"Methods: {title}")
    for one in results:
        spent = [f"{one.seconds.get(purpose, 0.0):.1f}" for purpose in PURPOSES]
        costs.add_row(one.method, str(one.seed), *spent, str(one.trained), f"{one.volume:.4f}")
    console = Console(width=120)
    console.print(winners_table)
    console.print(costs)


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


def report(results: Sequence[Result]) -> None:
    """The line for scripts: hypervolumes are means over seeds."""
    volumes = {
        method: statistics.mean(one.volume for one in results if one.method == method) for method in METHODS
    }
    off = max(one.off for one in results)
    figures = {
        "most_off_budget": round(off, 4),
        "hypervolume": {method: round(value, 4) for method, value in volumes.items()},
    }
    passed = off <= BARS["most_off_budget"]
    print(json.dumps({"benchmark": "four_searches", "figures": figures, "bars": BARS, "pass": passed}))


if __name__ == "__main__":
    main()
