"""How well latency is predicted from 100 measured nets: ours, ridge on one-hot, and nearest neighbours, device by device.

Data are the measured latencies of 5000 FBNet nets (22 layers of 9 operators) that came with HELP (arXiv 2106.08630), as
an npz: ``arch`` (5000, 22), ``ops`` (9,) and ``latency_ms/DEVICE`` (5000,). Every draw takes 100 nets at random and
tests on the others; the three see the same nets. Ridge's penalty is chosen by leave-one-out, the number of neighbours (by
Hamming distance) by five folds. Bars hold on devices whose latency is not a mere sum of looked-up numbers: ours is at
most one standard error behind the better of the others, in tau and in error, by the standard error of the differences of
paired draws and by that of unpaired ones.

Then ours chooses what to measure: from 20 random nets on, five at a time, those of 1000 that it is least sure of.

    python benchmarks/latency_predictor.py --data help_fbnet.npz

Without the file, nets and latencies of two devices are made up, to measure speed: then only its bar is judged.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import tune
from scipy.stats import kendalltau
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from support.frame import Option, at_least, at_most, run, show
from support.timing import cpu_seconds

from manynet.latency.predictor import LatencyPredictor

OPTIONS = (
    Option("--data", "", "the npz of 5000 FBNet nets"),
    Option("--draws", 20, quick=2),
    Option("--chosen-draws", 3, "in which ours chooses what to measure", quick=1),
    Option("--devices", 100, "of the file, at most", quick=1),
    Option("--made-up", 2000, "nets where there is no file", quick=300),
    Option("--measured", 100, "nets that are learnt from", quick=30),
)
BARS = {
    "tau_behind_in_standard_errors": at_most(1.0),
    "error_behind_in_standard_errors": at_most(1.0),
    "per_second": at_least(50_000),
}
ADDITIVE = ("pixel3", "fpga", "made-up sum")
FIRST, AT_ONCE, POOL = 20, 5, 1000
LAYERS, OPERATORS = 22, 9
PENALTIES = np.logspace(-3, 3, 25)
NEIGHBOURS = (1, 2, 3, 5, 8, 12, 20, 30)
OTHERS = ("ridge", "neighbours")
Array = NDArray[Any]
Scores = dict[str, Array]
"""Tau and error of each draw, ``(draws, 2)``, by who predicted."""


class Nets:
    """The nets of the data, as each predictor takes them."""

    def __init__(self, data: Mapping[str, Array]) -> None:
        self.codes = data["arch"].astype(int)
        operators = data["ops"].tolist()
        layers = [f"layer{layer}.operator" for layer in range(self.codes.shape[1])]
        self.domains = {layer: tune.choice(operators) for layer in layers}
        self.archs = [
            dict(zip(layers, (operators[code] for code in row), strict=True)) for row in self.codes.tolist()
        ]
        self.one_hot = np.eye(len(operators))[self.codes].reshape(len(self.codes), -1)

    def of(self, places: Array) -> list[dict[str, str]]:
        return [self.archs[place] for place in places]


def main(given: Namespace) -> dict[str, Any]:
    """Compare on every device."""
    data = dict(np.load(given.data, allow_pickle=False)) if given.data else made_up(given.made_up)
    nets = Nets(data)
    columns = [name for name in data if name.startswith("latency_ms/")][: given.devices]
    devices = {name.partition("/")[2]: data[name] for name in columns}
    scores: dict[str, Scores] = {}
    trust: dict[str, Array] = {}
    for device, times in devices.items():
        drawn = [one_draw(nets, times, seed, given.measured) for seed in range(given.draws)]
        scores[device] = {name: np.array([draw[0][name] for draw in drawn]) for name in drawn[0][0]}
        trust[device] = np.mean([draw[1] for draw in drawn], axis=0)
    chosen = {
        device: np.mean(
            [choosing(nets, times, seed, given.measured) for seed in range(given.chosen_draws)], axis=0
        )
        for device, times in devices.items()
    }
    show_scores(scores, given.measured)
    show_trust(trust, chosen, given.measured)
    figures = summary(scores, trust, chosen)
    if not given.data:
        # How ours compares on latencies that were made for it tells nothing.
        print("there is no --data: these nets are made up")
        figures |= {"tau_behind_in_standard_errors": None, "error_behind_in_standard_errors": None}
    return {**figures, "per_second": per_second(nets, next(iter(devices.values())), given.measured)}


def made_up(count: int) -> dict[str, Array]:
    """Nets of FBNet's shape, on a device whose operators add up, and on one where long nets take more, with noise."""
    random = np.random.default_rng(0)
    arch = random.integers(OPERATORS, size=(count, LAYERS))
    costs = random.lognormal(sigma=0.7, size=(LAYERS, OPERATORS))
    sums = costs[np.arange(LAYERS), arch].sum(axis=1)
    noise = random.lognormal(sigma=0.03, size=count)
    return {
        "arch": arch,
        "ops": np.array([f"operator{number}" for number in range(OPERATORS)]),
        "latency_ms/made-up board": sums**1.3 * noise,
        "latency_ms/made-up sum": sums,
    }


def one_draw(nets: Nets, times: Array, seed: int, measured: int) -> tuple[dict[str, Array], Array]:
    """Tau and error of each way, ``(2,)``; then of ours what it says of itself, and what is so."""
    order = np.random.default_rng(seed).permutation(len(times))
    seen, new = order[:measured], order[measured:]
    ridge = RidgeCV(alphas=PENALTIES).fit(nets.one_hot[seen], times[seen])
    neighbours = GridSearchCV(
        KNeighborsRegressor(metric="hamming", algorithm="brute"),
        {"n_neighbors": [count for count in NEIGHBOURS if count <= measured // 2]},
        cv=5,
        scoring="neg_mean_absolute_percentage_error",
    ).fit(nets.codes[seen], times[seen])
    ours = LatencyPredictor.fit(nets.domains, nets.of(seen), times[seen])
    predicted = ours.predict(nets.of(new))
    found = {
        "ours": predicted.milliseconds,
        "ridge": ridge.predict(nets.one_hot[new]),
        "neighbours": neighbours.predict(nets.codes[new]),
    }
    scores = {name: scored(values, times[new]) for name, values in found.items()}
    within = np.abs(times[new] / predicted.milliseconds - 1) < predicted.deviation
    return scores, np.array([ours.tau, scores["ours"][0], ours.error, scores["ours"][1], within.mean()])


def scored(found: Array, truth: Array) -> Array:
    """Kendall's tau and mean absolute error as a share."""
    return np.array([kendalltau(found, truth).statistic, np.abs(found / truth - 1).mean()])


def choosing(nets: Nets, times: Array, seed: int, measured: int) -> Array:
    """Errors with few random nets, with many, and with as many most of which ours chose, on nets that none of them saw."""
    order = np.random.default_rng(seed).permutation(len(times))
    size = min(POOL, len(times) // 2)
    pool, new = order[:size], order[size:]

    def fitted(places: Array) -> LatencyPredictor:
        return LatencyPredictor.fit(nets.domains, nets.of(places), times[places])

    def error(predictor: LatencyPredictor) -> float:
        return float(scored(predictor.predict(nets.of(new)).milliseconds, times[new])[1])

    seen, rest = pool[:FIRST], pool[FIRST:]
    first = error(fitted(seen))
    while len(seen) < measured:
        unsure = np.argsort(-fitted(seen).predict(nets.of(rest)).deviation, kind="stable")
        seen, rest = np.append(seen, rest[unsure[:AT_ONCE]]), rest[unsure[AT_ONCE:]]
    return np.array([first, error(fitted(pool[:measured])), error(fitted(seen))])


def per_second(nets: Nets, times: Array, measured: int) -> float:
    """Predictions a second of this process, from dicts to milliseconds and deviations: the median of five."""
    predictor = LatencyPredictor.fit(nets.domains, nets.archs[:measured], times[:measured])
    many = nets.archs * 10
    return len(many) / statistics.median(cpu_seconds(lambda: predictor.predict(many)) for _ in range(5))


def behind(scores: Scores, measure: int) -> tuple[float, float]:
    """How far ours is behind the better of the others, in standard errors: of paired and of unpaired differences.

    Measure 0 is tau, of which more is better, and 1 the error. Below 0 ours is ahead.
    """
    sign = (1, -1)[measure]
    best = max(OTHERS, key=lambda name: sign * scores[name][:, measure].mean())
    ours, theirs = sign * scores["ours"][:, measure], sign * scores[best][:, measure]
    gap, draws = (theirs - ours).mean(), len(ours)
    paired = (theirs - ours).std(ddof=1) / np.sqrt(draws)
    unpaired = np.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / draws)
    return float(gap / paired), float(gap / unpaired)


def show_scores(scores: Mapping[str, Scores], measured: int) -> None:
    """Tau and error of each way on each device, and how far ours is behind."""
    rows = []
    for device, found in scores.items():
        means = [f"{tau:.3f}, {error:6.2%}" for tau, error in (found[name].mean(axis=0) for name in found)]
        behinds = ["{:+.0f}, {:+.0f}".format(*behind(found, measure)) for measure in (0, 1)]
        rows.append((f"{device} (additive)" if device in ADDITIVE else device, *means, *behinds))
    columns = [f"{name}: tau, error" for name in ("ours", *OTHERS)]
    show(f"{measured} measured nets", ("device", *columns, "tau behind by", "error behind by"), rows)
    print("Behind by standard errors, paired and unpaired; negative is ahead.")


def show_trust(trust: Mapping[str, Array], chosen: Mapping[str, Array], measured: int) -> None:
    """What ours says of itself beside what is so, and errors where it chooses."""
    rows = []
    for device, (said_tau, tau, said_error, error, within) in trust.items():
        cells = (f"{said_tau:.3f}, {tau:.3f}", f"{said_error:6.2%}, {error:6.2%}", f"{within:.0%}")
        rows.append((device, *cells, *(f"{figure:.2%}" for figure in chosen[device])))
    said = ("tau: said, is", "error: said, is", "within one deviation")
    errors = (f"{FIRST} random", f"{measured} random", "chosen")
    show("ours: what it says of itself, and the error when it chooses", ("device", *said, *errors), rows)


def summary(
    scores: Mapping[str, Scores], trust: Mapping[str, Array], chosen: Mapping[str, Array]
) -> dict[str, Any]:
    """Figures over the devices whose latency is no mere sum."""
    judged = [device for device in scores if device not in ADDITIVE]
    worst = [max(max(behind(scores[device], measure)) for device in judged) for measure in (0, 1)]
    return {
        "tau_behind_in_standard_errors": worst[0],
        "error_behind_in_standard_errors": worst[1],
        "mean_tau": mean_of(scores, judged, 0),
        "mean_error": mean_of(scores, judged, 1),
        "within_one_deviation": float(np.mean([trust[device][4] for device in judged])),
        "chosen_over_random_error": float(np.mean([row[2] / row[1] for row in chosen.values()])),
    }


def mean_of(scores: Mapping[str, Scores], devices: Sequence[str], measure: int) -> dict[str, float]:
    """Mean over the devices of each way."""
    return {
        name: float(np.mean([scores[device][name][:, measure].mean() for device in devices]))
        for name in ("ours", *OTHERS)
    }


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
