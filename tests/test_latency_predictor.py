"""Predicted latency, where it is known what must hold."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from ray import tune
from scipy.stats import kendalltau

from manynet.latency.predictor import LatencyPredictor, PredictorError
from manynet.space.domains import ArchitectureError, declared

LAYERS, OPERATORS = 12, ("k3_e1", "k3_e6", "k5_e6", "skip")
CHAIN = {f"layer{i}.operator": tune.choice(list(OPERATORS)) for i in range(LAYERS)}
TRANSFORMER: dict[str, Any] = {
    "resolution": tune.choice([160, 192, 224, 256]),
    "depth": tune.choice([6, 8, 10, 12]),
    "width": tune.choice([128, 192, 256, 320]),
    **{f"block{i}.ratio": tune.choice([2, 3, 4]) for i in range(12)},
}
Arch = Mapping[str, Any]


def draw(domains: Mapping[str, Any], count: int, seed: int) -> list[Arch]:
    generator = np.random.default_rng(seed)
    drawn = [
        {key: domain.sample(random_state=generator) for key, domain in domains.items()} for _ in range(count)
    ]
    # Blocks behind the depth do not matter, so canonical architectures lack them.
    return [
        {k: v for k, v in arch.items() if not k.startswith("block") or int(k[5:-6]) < arch["depth"]}
        for arch in drawn
    ]


def chained(arch: Arch) -> float:
    """Additive: operators cost more in the first layers, which see larger images, and layer 7 is odd."""
    cost = dict(zip(OPERATORS, (0.4, 1.4, 2.0, 0.05), strict=True))
    times = [cost[arch[f"layer{i}.operator"]] * (2 - i / LAYERS) for i in range(LAYERS)]
    return 2 + sum(times) + times[7]


def transformed(arch: Arch) -> float:
    """Multiplicative, but for what blocks add up to."""
    blocks = sum(1 + arch[f"block{i}.ratio"] / 2 for i in range(arch["depth"]))
    return 1 + blocks * (arch["width"] / 128) ** 1.7 * (arch["resolution"] / 160) ** 2


def times(law: Callable[[Arch], float], archs: Sequence[Arch], noise: float = 0.0, seed: int = 0) -> Any:
    """Milliseconds, multiplied by log-normal noise."""
    factors = np.exp(noise * np.random.default_rng(seed).normal(size=len(archs)))
    return np.array([law(arch) for arch in archs]) * factors


def space(domains: Mapping[str, Any]) -> dict[str, Any]:
    return {key: declared(key, domain) for key, domain in domains.items()}


def quality(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean absolute error as a share, and Kendall's tau."""
    return float(np.abs(found / truth - 1).mean()), kendalltau(found, truth).statistic


def test_sums_are_learnt_from_fewer_nets_than_they_have_terms() -> None:
    # 12 layers of 4 operators, 37 terms: what operators have in common in all layers makes up for the rest.
    few, new = draw(CHAIN, 30, 0), draw(CHAIN, 300, 1)
    predictor = LatencyPredictor.fit(space(CHAIN), few, times(chained, few))
    error, tau = quality(predictor.predict(new).milliseconds, times(chained, new))
    assert error < 0.06 and tau > 0.85
    many = draw(CHAIN, 100, 2)
    predictor = LatencyPredictor.fit(space(CHAIN), many, times(chained, many))
    assert quality(predictor.predict(new).milliseconds, times(chained, new))[0] < 0.01
    assert predictor.error < 0.02 and predictor.tau > 0.95 and predictor.count == 100


def test_products_are_learnt_though_choices_multiply() -> None:
    few, new = draw(TRANSFORMER, 60, 0), draw(TRANSFORMER, 300, 1)
    predictor = LatencyPredictor.fit(space(TRANSFORMER), few, times(transformed, few))
    error, tau = quality(predictor.predict(new).milliseconds, times(transformed, new))
    assert error < 0.05 and tau > 0.92


def test_what_latency_follows_helps() -> None:
    few, new = draw(TRANSFORMER, 20, 0), draw(TRANSFORMER, 300, 1)
    macs = [np.array([[1e6 * transformed(arch) - 1e6] for arch in archs]) for archs in (few, new)]
    truth = times(transformed, few, 0.02)
    without = LatencyPredictor.fit(space(TRANSFORMER), few, truth)
    given = LatencyPredictor.fit(space(TRANSFORMER), few, truth, macs[0])
    blind, _ = quality(without.predict(new).milliseconds, times(transformed, new))
    error, _ = quality(given.predict(new, macs[1]).milliseconds, times(transformed, new))
    assert error < 0.03 and error < blind / 2
    assert given.error < without.error


@pytest.mark.parametrize(("law", "domains"), [(chained, CHAIN), (transformed, TRANSFORMER)])
def test_it_knows_how_unsure_it_is(law: Callable[[Arch], float], domains: dict[str, Any]) -> None:
    within, errors, estimates, noises = [], [], [], []
    for seed in range(5):
        few, new = draw(domains, 80, seed), draw(domains, 300, 100 + seed)
        predictor = LatencyPredictor.fit(space(domains), few, times(law, few, 0.08, seed))
        measured = times(law, new, 0.08, 100 + seed)
        predicted = predictor.predict(new)
        away = np.abs(measured / predicted.milliseconds - 1)
        within.append((away < predicted.deviation).mean())
        errors.append(np.abs(predicted.milliseconds / measured - 1).mean())
        estimates.append(predictor.error)
        noises.append(predictor.noise)
    assert 0.58 < np.mean(within) < 0.78
    assert np.mean(estimates) == pytest.approx(np.mean(errors), rel=0.25)
    assert np.mean(noises) == pytest.approx(0.08, rel=0.35)


def test_it_is_less_sure_of_what_is_far_and_surer_once_told() -> None:
    archs = draw(TRANSFORMER, 150, 0)
    near = [arch for arch in archs if arch["depth"] < 12]
    deep = [arch for arch in archs if arch["depth"] == 12]
    predictor = LatencyPredictor.fit(space(TRANSFORMER), near[:50], times(transformed, near[:50]))
    before = predictor.predict(deep).deviation
    assert np.median(before) > 1.5 * np.median(predictor.predict(near[50:]).deviation)
    told = near[:50] + deep[:10]
    after = LatencyPredictor.fit(space(TRANSFORMER), told, times(transformed, told)).predict(deep[10:])
    assert np.median(after.deviation) < np.median(before[10:]) / 1.5


def test_the_same_measurements_give_the_same_predictor() -> None:
    few, new = draw(TRANSFORMER, 30, 0), draw(TRANSFORMER, 20, 1)
    one, two = (LatencyPredictor.fit(space(TRANSFORMER), few, times(transformed, few)) for _ in range(2))
    assert (one.predict(new).milliseconds == two.predict(new).milliseconds).all()
    assert (one.error, one.tau, one.noise) == (two.error, two.tau, two.noise)


def test_predictions_are_times_even_far_from_what_was_measured() -> None:
    slow = [arch for arch in draw(CHAIN, 400, 0) if chained(arch) > 18][:15]
    predictor = LatencyPredictor.fit(space(CHAIN), slow, times(chained, slow))
    fastest = predictor.predict([dict.fromkeys(CHAIN, "skip"), {}])
    assert (fastest.milliseconds > 0).all() and np.isfinite(fastest.deviation).all()


def test_equal_times_are_predicted_for_all() -> None:
    few = draw(CHAIN, 12, 0)
    predictor = LatencyPredictor.fit(space(CHAIN), few, [5.0] * 12)
    assert predictor.predict(draw(CHAIN, 5, 1)).milliseconds == pytest.approx(5.0)
    assert predictor.tau == 0.0 and predictor.error == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("count", "milliseconds", "costs", "rule"),
    [
        (9, [1.0] * 9, None, "at least 10 architectures, but got 9"),
        (12, [1.0] * 11, None, r"one time, but got 12 and times of shape \(11,\)"),
        (12, [1.0] * 11 + [0.0], None, "above 0 and finite, but got 0.0"),
        (12, [1.0] * 11 + [float("nan")], None, "above 0 and finite, but got nan"),
        (12, [1.0] * 11 + [-2.0], None, "above 0 and finite, but got -2.0"),
        (12, [1.0] * 12, [[1.0]] * 11, r"a shape of \(12, 1\), as fitted, but got \(11, 1\)"),
        (12, [1.0] * 12, [1.0] * 12, r"\(architectures, figures\), but got a shape of \(12,\)"),
        (12, [1.0] * 12, [[-1.0]] * 12, "at least 0 and finite, but got -1.0"),
    ],
)
def test_bad_measurements_are_refused(count: int, milliseconds: list[float], costs: Any, rule: str) -> None:
    with pytest.raises(PredictorError, match=rule):
        LatencyPredictor.fit(space(CHAIN), draw(CHAIN, count, 0), milliseconds, costs)


def test_costs_are_given_when_and_only_when_it_was_fitted_with_them() -> None:
    few = draw(CHAIN, 12, 0)
    truth = times(chained, few)
    with pytest.raises(PredictorError, match=r"shape of \(12, 0\), as fitted, but got \(12, 1\)"):
        LatencyPredictor.fit(space(CHAIN), few, truth).predict(few, [[1.0]] * 12)
    with pytest.raises(PredictorError, match=r"shape of \(12, 1\), as fitted, but got \(0, 0\)"):
        LatencyPredictor.fit(space(CHAIN), few, truth, [[1.0]] * 12).predict(few)


def test_architectures_of_another_space_are_refused() -> None:
    few = draw(CHAIN, 12, 0)
    with pytest.raises(ArchitectureError, match="but got 'depth'"):
        LatencyPredictor.fit(space(CHAIN), [*few[:-1], {**few[0], "depth": 3}], times(chained, few))
