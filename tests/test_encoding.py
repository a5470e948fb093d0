"""Architectures as rows of numbers."""

import numpy as np
import pytest
from ray import tune

from manynet.latency.encoding import Encoding
from manynet.space.domains import ArchitectureError, declared

DOMAINS = {
    "depth": tune.choice([2, 4, 8]),
    "block1.operator": tune.choice(["conv", "skip"]),
    "block2.operator": tune.choice(["conv", "pool"]),
    "block4.operator": tune.choice(["conv", "skip"]),
    "dropout": tune.uniform(0.0, 0.5),
    "heads": tune.randint(1, 5),
}
ARCH = {"depth": 4, "block1.operator": "skip", "dropout": 0.25, "heads": 4}


@pytest.fixture
def encoding() -> Encoding:
    return Encoding({key: declared(key, domain) for key, domain in DOMAINS.items()})


def test_options_ranges_and_what_is_absent_have_columns(encoding: Encoding) -> None:
    depth, first, second, third = [0, 1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]
    dropout, heads = [0.5, 1, 0], [1.0, 1, 0]
    row = encoding.rows([ARCH])
    assert row.tolist() == [[*depth, *first, *second, *third, *dropout, *heads]]
    assert encoding.rows([{}]).sum() == len(DOMAINS)
    assert encoding.rows([]).shape == (0, encoding.width)


def test_equal_numbers_are_one_option(encoding: Encoding) -> None:
    assert (encoding.rows([{**ARCH, "depth": 4.0}]) == encoding.rows([ARCH])).all()


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"depth": 3}, r"depth must be one of \(2, 4, 8\), but got 3"),
        ({"depth": [4]}, r"depth must be one of \(2, 4, 8\), but got \[4\]"),
        ({"block2.operator": "skip"}, r"block2.operator must be one of \(conv, pool\), but got 'skip'"),
        ({"width": 3}, r"a choice must be one of \(depth, .*\), but got 'width'"),
        ({"dropout": 0.7}, "dropout must be a number from 0.0 to 0.5, but got 0.7"),
        ({"heads": 5}, "heads must be an integer from 1 to 4, but got 5"),
        ({"heads": "4"}, "heads must be an integer from 1 to 4, but got '4'"),
    ],
)
def test_what_is_not_of_the_space_is_refused(
    encoding: Encoding, changed: dict[str, object], rule: str
) -> None:
    with pytest.raises(ArchitectureError, match=rule):
        encoding.rows([ARCH, {**ARCH, **changed}])


def test_the_same_option_is_alike_in_near_places(encoding: Encoding) -> None:
    def row(**operators: str) -> np.ndarray:
        empty = encoding.rows([{}])[0]
        return encoding.rows([{key.replace("_", "."): value for key, value in operators.items()}])[0] - empty

    alike = encoding.similarity(2.0)
    conv = [4, 7, 10]  # columns of conv in the three places
    assert alike[np.ix_(conv, conv)] == pytest.approx(
        np.exp(-np.array([[0, 1, 2], [1, 0, 1], [2, 1, 0]]) / 2)
    )
    # pool is in one place only, and shares no effect with skip of another.
    assert alike[8].sum() == 1
    assert encoding.similarity(np.inf)[5, 11] == 1 and encoding.similarity(np.inf)[5, 8] == 0
    assert np.linalg.eigvalsh(alike).min() > -1e-12
    assert encoding.repeats


def test_numbers_lie_in_order_and_other_options_equally_far(encoding: Encoding) -> None:
    places, choices = encoding.coordinates()
    at = encoding.rows([{"depth": 2}, {"depth": 4}, {"depth": 8}]) @ places
    near, far = np.linalg.norm(at[1] - at[0]), np.linalg.norm(at[2] - at[0])
    assert (near, far) == pytest.approx((0.5, 1.0))
    at = encoding.rows([{"block1.operator": "conv"}, {"block1.operator": "skip"}, {}]) @ places
    assert [np.linalg.norm(at[0] - other) for other in at[1:]] == pytest.approx([3**-0.5] * 2)
    # Operators of all blocks are one choice.
    assert len(set(choices.tolist())) == 4
