"""Pareto front and hypervolume."""

import math

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from manynet.records.pareto import ParetoError, front, hypervolume, hypervolume_curve

POINTS = st.integers(1, 4).flatmap(
    lambda width: st.tuples(
        st.lists(st.lists(st.integers(0, 4), min_size=width, max_size=width), max_size=25),
        st.lists(st.booleans(), min_size=width, max_size=width),
    )
)


def dominates(one: list[int], other: list[int], maximise: list[bool]) -> bool:
    pairs = [(a, b) if up else (-a, -b) for a, b, up in zip(one, other, maximise, strict=True)]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


@given(POINTS)
def test_front_is_what_nothing_dominates_each_point_once(drawn: tuple[list[list[int]], list[bool]]) -> None:
    values, maximise = drawn
    expected = [
        index
        for index, point in enumerate(values)
        if point not in values[:index] and not any(dominates(other, point, maximise) for other in values)
    ]
    assert front(values, maximise).tolist() == expected


def test_front_agrees_with_optuna() -> None:
    values = np.random.default_rng(0).random((60, 3))
    study = optuna.create_study(directions=["maximize", "minimize", "maximize"])
    for row in values:
        study.add_trial(optuna.trial.create_trial(values=row.tolist()))
    assert front(values, [True, False, True]).tolist() == sorted(trial.number for trial in study.best_trials)


def test_undefined_rows_are_never_on_the_front() -> None:
    assert front([[math.nan, 0.0], [1.0, 1.0], [2.0, math.nan]], [True, False]).tolist() == [1]
    assert front([], [True, False]).tolist() == []


@pytest.mark.parametrize("values", [[[1.0]], [[1.0, 2.0, 3.0]], [1.0, 2.0]])
def test_shapes_must_agree(values: list[list[float]]) -> None:
    with pytest.raises(ParetoError, match=r"must be \(N, 2\)"):
        front(values, [True, False])


def test_hypervolume_by_hand() -> None:
    # Three steps of a staircase, accuracy up and latency down, from the corner (0, 10).
    values = [[0.5, 2.0], [0.8, 4.0], [0.9, 9.0]]
    assert hypervolume(values, [True, False], [0.0, 10.0]) == pytest.approx(0.5 * 2 + 0.8 * 5 + 0.9 * 1)
    assert hypervolume([[1, 1, 1], [2, 2, 0.5]], [True] * 3, [0, 0, 0]) == pytest.approx(1 + 2 - 0.5)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_hypervolume_is_optunas(width: int) -> None:
    values = np.random.default_rng(width).random((30, width))
    maximise = [index % 2 == 0 for index in range(width)]
    losses = np.where(maximise, 1 - values, values)
    expected = compute_hypervolume(losses, np.ones(width))
    assert hypervolume(values, maximise, np.where(maximise, 0.0, 1.0)) == pytest.approx(expected)


def test_points_beyond_the_reference_add_nothing() -> None:
    inside, outside = [0.5, 2.0], [0.9, 11.0]
    reference = [0.0, 10.0]
    assert hypervolume([inside, outside], [True, False], reference) == pytest.approx(4.0)
    assert hypervolume([outside], [True, False], reference) == 0.0
    assert hypervolume([], [True, False], reference) == 0.0
    with pytest.raises(ParetoError, match="finite"):
        hypervolume([inside], [True, False], [math.nan, 1.0])


@given(POINTS)
def test_curve_equals_the_volume_of_every_prefix(drawn: tuple[list[list[int]], list[bool]]) -> None:
    values, maximise = drawn
    ideal, nadir = np.where(maximise, 4.0, 0.0), np.where(maximise, 0.0, 4.0)
    curve = hypervolume_curve(values, maximise, (ideal, nadir))
    volumes = [hypervolume(values[:end], maximise, nadir) for end in range(1, len(values) + 1)]
    assert curve.tolist() == pytest.approx([volume / 4.0 ** len(maximise) for volume in volumes])


def test_curve_is_a_share_of_the_box_seen() -> None:
    values = [[0.5, 9.0], [0.5, 5.0], [0.9, 9.0], [0.5, 5.0], [0.7, 5.0], [0.9, 5.0]]
    assert hypervolume_curve(values, [True, False]).tolist() == pytest.approx([0, 0, 0, 0, 0.5, 1])


def test_undefined_points_and_constant_objectives_leave_a_curve() -> None:
    values = [[math.nan, 1.0], [0.2, 1.0], [math.nan, 1.0], [0.6, 1.0], [math.inf, 1.0]]
    assert hypervolume_curve(values, [True, False]).tolist() == pytest.approx([0, 0, 0, 1, 1])
    assert hypervolume_curve([[math.nan, 1.0]], [True, False]).tolist() == [0.0]
    assert hypervolume_curve([], [True, False]).tolist() == []


def test_points_outside_a_given_box() -> None:
    box = ([1.0, 0.0], [0.0, 1.0])
    assert hypervolume_curve([[-5.0, 0.0], [0.5, 0.5], [2.0, 0.0]], [True, False], box).tolist() == [
        0,
        0.25,
        2,
    ]
