"""What a front chose: shares of options, choices that are not there, many options, and its table in the report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from manynet.records.ledger import Record
from manynet.report import ReportContent, ReportError, render
from manynet.report.choice_tables import choice_tables
from manynet.report.choices import NOT_THERE, OTHERS, containing, mixes, varied
from manynet.search_spaces import vit


def record(number: int, architecture: Mapping[str, Any], **metrics: float) -> Record:
    return Record(f"key{number}", "evaluation", "space", "weights", architecture, "data", "protocol", metrics)


def network(number: int, *kinds: str, width: int = 32, **metrics: float) -> Record:
    blocks = {f"block{index}.attention": kind for index, kind in enumerate(kinds)}
    return record(number, {"depth": len(kinds), "width": width, **blocks, "classes": 10}, **metrics)


EVALUATED = [
    network(0, "softmax", "linear-angular"),
    network(1, "linear-angular", "linear-angular"),
    network(2, "linear-angular"),
    network(3, "linear-angular", "softmax", width=48),
    network(4, "softmax", "softmax", "softmax"),
]


def test_shares_of_the_options_and_of_what_is_not_there_sum_to_one() -> None:
    (mix,) = containing(mixes(EVALUATED[:4], EVALUATED), "attention")
    assert mix.columns == ("linear-angular", "softmax", NOT_THERE)
    assert mix.shares("block0.attention") == (0.75, 0.25, 0.0)
    assert mix.shares("block1.attention") == (0.5, 0.25, 0.25)
    assert mix.shares("block2.attention") == (0.0, 0.0, 1.0), "evaluated, but not on the front"


def test_a_choice_that_is_everywhere_has_no_column_for_where_it_is_not() -> None:
    (depth,) = containing(mixes(EVALUATED[:2], EVALUATED), "depth")
    assert depth.columns == ("1", "2", "3") and depth.shares("depth") == (0.0, 1.0, 0.0)


def test_only_choices_that_varied_say_something() -> None:
    found = mixes(EVALUATED, EVALUATED)
    assert [mix.name for mix in found] == ["depth", "width", "attention", "classes"]
    assert [mix.name for mix in varied(found)] == ["depth", "width", "attention"]
    same = [network(n, "softmax", kind) for n, kind in enumerate(("softmax", "linear-angular"))]
    (mix,) = varied(mixes(same, same))
    assert list(mix.counts) == ["block1.attention"]


def test_a_choice_is_found_by_a_part_of_its_key() -> None:
    found = mixes(EVALUATED, EVALUATED)
    (mix,) = containing(found, "block1")
    assert list(mix.counts) == ["block1.attention"]
    with pytest.raises(ReportError, match=r"such as \(depth, width, attention, classes\), but got 'kernel'$"):
        containing(found, "kernel")


def test_blocks_are_in_the_order_of_their_numbers() -> None:
    short = network(0, *["softmax"] * 2)
    (mix,) = containing(mixes([short], [short, network(1, *["softmax"] * 12)]), "attention")
    assert list(mix.counts) == [f"block{index}.attention" for index in range(12)]


def test_numbers_with_many_options_are_told_in_intervals() -> None:
    records = [record(number, {"rate": 1.5 * number}) for number in range(100)]
    (mix,) = mixes(records[:30], records)
    assert mix.options == ("0 to 36", "37.5 to 73.5", "75 to 111", "112.5 to 148.5")
    assert mix.counts["rate"] == (25, 5, 0, 0)


def test_of_many_other_options_the_most_frequent_are_told_apart() -> None:
    records = [record(number, {"inputs": f"{number}+{number + 1}"}) for number in range(20)]
    (mix,) = mixes([records[19], records[3]], records)
    assert len(mix.options) == 8 and mix.options[-1] == OTHERS
    assert {"19+20", "3+4"} < set(mix.options)
    assert sum(mix.shares("inputs")) == 1.0 and mix.shares("inputs")[-1] == 0.0


def test_the_report_has_a_row_for_each_block_and_escapes_names() -> None:
    evil = "<b>x</b>"
    records = [
        network(0, "softmax", "linear-angular", accuracy=0.9, macs=2.0),
        network(1, evil, accuracy=0.8, macs=1.0),
    ]
    html = choice_tables(varied(mixes(records, records)))
    assert evil not in html and "&lt;b&gt;x&lt;/b&gt;" in html
    rows = re.findall(r"<tr><td>(block\d|network)</td>(.*?)</tr>", html)
    assert [place for place, _ in rows] == ["network", "block0", "block1"], (
        "depth, and attention of two blocks"
    )
    assert re.findall(r">([^<]+)</td>", rows[2][1]) == ["–", "50%", "–", "50%"]


def test_a_front_of_one_has_no_shares() -> None:
    from manynet.records.conditions import parse_objectives

    content = ReportContent(
        "one", parse_objectives(["accuracy:max"]), "accuracy", [network(0, "softmax", accuracy=1)]
    )
    assert "At least two architectures on the front are needed." in render(content)


def test_a_space_of_many_choices_is_a_few_tables() -> None:
    space = vit.autoformer_t
    records = [record(seed, space.sample(seed)) for seed in range(6)]
    found = varied(mixes(records, records))
    assert {"depth", "width", "heads", "mlp_ratio"} >= {mix.name for mix in found}
    assert len(containing(found, "heads")[0].counts) == 14
