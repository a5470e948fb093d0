"""Kendall tau with a confidence interval."""

import math

import numpy as np
import pytest
from scipy import stats

from manynet.records.rank_correlation import (
    RankingError,
    RankingQuality,
    _resampled_tau,
    _weighted_pearson,
    kendall,
    pearson,
)


def test_tau_is_scipys_with_ties() -> None:
    shared, alone = [0.5, 0.5, 0.7, 0.8, 0.6], [0.6, 0.7, 0.7, 0.9, 0.5]
    quality = kendall(shared, alone)
    assert quality.tau == pytest.approx(stats.kendalltau(shared, alone).statistic)
    assert quality.low <= quality.tau <= quality.high
    assert quality.count == 5


def test_every_resample_is_the_tau_of_the_drawn_anchors() -> None:
    generator = np.random.default_rng(3)
    scores = np.round(generator.random((2, 6)), 1)
    draws = np.random.default_rng(7).multinomial(6, np.full(6, 1 / 6), size=10_000)
    found = _resampled_tau(scores, draws.astype(float))
    for counts, tau in zip(draws[:200], found[:200], strict=True):
        expected = stats.kendalltau(*np.repeat(scores, counts, axis=1)).statistic
        assert tau == pytest.approx(0.0 if math.isnan(expected) else expected)


def test_every_resample_is_the_pearson_of_the_drawn_anchors() -> None:
    generator = np.random.default_rng(3)
    scores = np.round(generator.random((2, 6)), 1)
    draws = generator.multinomial(6, np.full(6, 1 / 6), size=200)
    found = _weighted_pearson(scores, draws.astype(float))
    for counts, value in zip(draws, found, strict=True):
        drawn = np.repeat(scores, counts, axis=1)
        constant = (drawn.std(axis=1) < 1e-12).any()
        assert value == pytest.approx(0.0 if constant else np.corrcoef(drawn)[0, 1])


def test_pearson_is_numpys_with_an_interval_around_it() -> None:
    generator = np.random.default_rng(0)
    truth = np.arange(40.0)
    noisy = truth + generator.normal(0, 12, 40)
    found = pearson(truth, noisy)
    assert found.value == pytest.approx(np.corrcoef(truth, noisy)[0, 1])
    assert found.low < found.value < found.high
    assert pearson(truth, 1e9 + 1e-3 * truth).value == pytest.approx(1.0, abs=1e-3)
    assert pearson(truth, -truth).value == pytest.approx(-1.0)
    with pytest.raises(RankingError, match="at least 3 anchors"):
        pearson([1, 2], [1, 2])


def test_the_interval_follows_the_seed_and_narrows_with_anchors() -> None:
    generator = np.random.default_rng(0)
    truth = np.arange(60.0)
    noisy = truth + generator.normal(0, 12, 60)
    few, many = kendall(truth[::8], noisy[::8]), kendall(truth, noisy)
    assert kendall(truth, noisy) == many
    assert kendall(truth, noisy, seed=1).low != many.low
    assert many.high - many.low < few.high - few.low
    assert many.carries_search


def test_the_interval_covers_the_true_tau_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    true_tau = 2 / math.pi * math.asin(0.7)
    covered = 0
    for _ in range(60):
        sample = generator.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], size=30).T
        quality = kendall(sample[0].tolist(), sample[1].tolist())
        covered += quality.low <= true_tau <= quality.high
    assert covered >= 50


@pytest.mark.parametrize(("count", "enough"), [(3, False), (4, False), (5, True)])
def test_few_agreeing_anchors_prove_nothing(count: int, enough: bool) -> None:
    quality = kendall(list(range(count)), list(range(count)))
    assert quality.tau == pytest.approx(1)
    assert quality.carries_search is enough


def test_constant_scores_rank_nothing() -> None:
    assert kendall([0.1] * 5, [1, 2, 3, 4, 5]) == RankingQuality(0.0, 0.0, 0.0, 5)


def test_reversed_ranking_is_negative() -> None:
    quality = kendall(list(range(8)), list(range(8, 0, -1)))
    assert quality.tau == pytest.approx(-1) and quality.high < 0 and not quality.carries_search


@pytest.mark.parametrize(
    ("shared", "alone", "rule"),
    [
        ([1, 2, 3], [1, 2], "both scores, but got 3 shared and 2 alone"),
        ([1, 2], [1, 2], "at least 3 anchors, but got 2"),
        ([1, 2, math.nan], [1, 2, 3], "finite, but got nan"),
    ],
)
def test_bad_input(shared: list[float], alone: list[float], rule: str) -> None:
    with pytest.raises(RankingError, match=rule):
        kendall(shared, alone)


def test_verdict_says_the_numbers_and_what_they_mean() -> None:
    assert str(RankingQuality(0.62, 0.31, 0.87, 8)) == "tau 0.62 [0.31, 0.87] over 8 anchors"
    assert RankingQuality(0.62, 0.31, 0.87, 8).verdict.endswith("ranking carries a search")
    assert RankingQuality(0.2, -0.4, 0.7, 8).verdict.endswith("ranking is too uncertain to carry a search")
