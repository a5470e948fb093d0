"""Conditions and objectives as text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manynet.errors import ManynetError
from manynet.records.conditions import (
    OPERATORS,
    Condition,
    ConditionError,
    Objective,
    check_columns,
    latency_devices,
    parse_conditions,
    parse_objective,
    parse_objectives,
)

COLUMN = "latency@host/torch?batch=8&threads=2"
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def test_conditions_are_joined_and_columns_are_literal() -> None:
    assert parse_conditions(f"{COLUMN} <= 5 and parameters < 2e5") == [
        Condition(COLUMN, "<=", 5.0),
        Condition("parameters", "<", 200_000.0),
    ]


def test_a_list_of_texts_is_joined_in_order() -> None:
    found = parse_conditions(["accuracy >= 0.9", "macs <= 1 and loss == 0"])
    assert [str(one) for one in found] == ["accuracy >= 0.9", "macs <= 1", "loss == 0"]


@pytest.mark.parametrize("nothing", ["", "  ", [], [""]])
def test_blank_text_asks_for_nothing(nothing: str | list[str]) -> None:
    assert parse_conditions(nothing) == []


def test_text_of_a_condition_reads_back() -> None:
    (condition,) = parse_conditions(f"{COLUMN} >= 1234567.5")
    assert parse_conditions(str(condition)) == [condition]


@pytest.mark.parametrize(
    "text",
    [
        "parameters<=5",
        "parameters <=5",
        "parameters <= 5 and",
        "and parameters <= 5",
        "parameters <= 5 or macs <= 3",
        "parameters = 5",
        "parameters != 5",
        "parameters <=",
        "<= 5",
        "parameters <= 5 macs <= 3",
        "my column <= 5",
    ],
)
def test_another_form_is_refused_with_the_text_and_the_rule(text: str) -> None:
    with pytest.raises(ConditionError) as caught:
        parse_conditions(text)
    message = str(caught.value)
    assert repr(text) in message and "<column> <op> <number>" in message and "\n" not in message
    assert all(operator in message for operator in OPERATORS)


@pytest.mark.parametrize("number", ["five", "nan", "inf", "5ms", "5,0"])
def test_a_bound_is_a_finite_number(number: str) -> None:
    with pytest.raises(ConditionError, match="finite number, but got '.+' in 'macs <= "):
        parse_conditions(f"macs <= {number}")


@pytest.mark.parametrize(
    ("operator", "below", "equal", "above"),
    [
        ("<=", True, True, False),
        ("<", True, False, False),
        (">=", False, True, True),
        (">", False, False, True),
        ("==", False, True, False),
    ],
)
@pytest.mark.parametrize("bound", [-3.0, 0.0, 2.5])
def test_operators(operator: str, below: bool, equal: bool, above: bool, bound: float) -> None:
    condition = Condition("loss", operator, bound)
    assert [condition.holds({"loss": bound + step}) for step in (-1, 0, 1)] == [below, equal, above]


@given(st.sampled_from(OPERATORS), NUMBERS, NUMBERS)
def test_violation_is_positive_exactly_where_python_says_no(
    operator: str, value: float, bound: float
) -> None:
    expected = {
        "<=": value <= bound,
        ">=": value >= bound,
        "<": value < bound,
        ">": value > bound,
        "==": value == bound,
    }[operator]
    condition = Condition("loss", operator, bound)
    assert condition.holds({"loss": value}) is expected
    assert (condition.violation({"loss": value}) <= 0) is expected


def test_violation_is_a_share_of_the_bound() -> None:
    (parameters, latency, zero) = parse_conditions(
        "parameters <= 2e5 and latency@host/torch <= 5 and loss <= 0"
    )
    metrics = {"parameters": 3e5, "latency@host/torch": 7.5, "loss": 0.25}
    assert parameters.violation(metrics) == latency.violation(metrics) == 0.5
    assert zero.violation(metrics) == 0.25


@pytest.mark.parametrize("metrics", [{}, {"accuracy": math.nan}])
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_missing_or_undefined_value_is_infeasible(metrics: dict[str, float], operator: str) -> None:
    condition = Condition("accuracy", operator, 0.5)
    assert not condition.holds(metrics)
    assert condition.violation(metrics) == math.inf


def test_objectives_read_back_and_name_optunas_direction() -> None:
    found = parse_objectives(["accuracy:max", f"{COLUMN}:min"])
    assert found == [Objective("accuracy", True), Objective(COLUMN, False)]
    assert [one.direction for one in found] == ["maximize", "minimize"]
    assert parse_objectives([str(one) for one in found]) == found


@pytest.mark.parametrize(
    "text", ["accuracy", "accuracy:maximum", ":max", "accuracy:", "", "accuracy: max", "a b:max"]
)
def test_a_misspelt_objective_is_refused(text: str) -> None:
    with pytest.raises(ConditionError) as caught:
        parse_objective(text)
    assert str(caught.value) == f"an objective must be '<column>:max' or '<column>:min', but got {text!r}"


def test_objectives_are_distinct_and_at_least_one() -> None:
    with pytest.raises(ConditionError, match="each column once, but got 'accuracy' twice"):
        parse_objectives(["accuracy:max", "macs:min", "accuracy:min"])
    with pytest.raises(ConditionError, match="at least one"):
        parse_objectives([])


def test_known_columns_pass() -> None:
    wanted = [*parse_conditions(f"{COLUMN} <= 5 and macs <= 1"), parse_objective("loss:min")]
    check_columns(wanted, ("accuracy", "loss"))
    with pytest.raises(
        ConditionError, match="columns are auc, log_loss, macs, .* but got 'loss' in 'loss:min'"
    ):
        check_columns(wanted, ("auc", "log_loss"))


@pytest.mark.parametrize("text", ["acuracy:max", "latency:min", "latency@:min", "test_accuracy:max"])
def test_an_unknown_column_is_named_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ConditionError) as caught:
        check_columns([parse_objective(text)], ("accuracy", "loss"))
    message = str(caught.value)
    assert f"'{text}'" in message and "accuracy, loss, macs, parameters and latency@<device>" in message
    assert isinstance(caught.value, ManynetError)


def test_devices_are_found_once_each() -> None:
    wanted = [
        parse_objective("accuracy:max"),
        parse_objective("latency@phone/onnx:min"),
        *parse_conditions(f"{COLUMN} <= 5 and latency@phone/onnx <= 3"),
    ]
    assert latency_devices(wanted) == ["phone/onnx", "host/torch?batch=8&threads=2"]
