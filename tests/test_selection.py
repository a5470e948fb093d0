"""Which evaluated subnets become finalists and anchors."""

import itertools

from manynet.records.conditions import parse_conditions, parse_objectives
from manynet.records.ledger import Record
from manynet.records.selection import anchors, winners

OBJECTIVES = parse_objectives(["accuracy:max", "macs:min"])


def record(accuracy: float, macs: float) -> Record:
    key = f"{accuracy}-{macs}"
    metrics = {"accuracy": accuracy, "macs": macs}
    return Record(key, "evaluation", "s", "w", {"width": macs}, "d", "p", metrics)


FRONT = [record(0.1 * i, 10.0 * i) for i in range(1, 8)]
BEHIND = [record(0.1 * i - 0.05, 10.0 * i + 1) for i in range(1, 8)]


def test_winners_spread_over_the_front_with_both_ends() -> None:
    assert winners(FRONT + BEHIND, OBJECTIVES, [], 3) == [FRONT[6], FRONT[3], FRONT[0]]


def test_the_fronts_behind_fill_up() -> None:
    chosen = winners(FRONT[:2] + BEHIND[:2], OBJECTIVES, [], 3)
    assert chosen[0] == FRONT[1] and FRONT[0] in chosen and len(chosen) == 3


def test_winners_meet_the_conditions() -> None:
    chosen = winners(FRONT + BEHIND, OBJECTIVES, parse_conditions("macs <= 30"), 9)
    assert {r.metrics["macs"] for r in chosen} == {10.0, 20.0, 30.0, 11.0, 21.0}
    assert winners(FRONT, OBJECTIVES, parse_conditions("macs <= 3"), 3) == []


def test_a_record_without_an_objective_does_not_win() -> None:
    partial = Record("x", "evaluation", "s", "w", {}, "d", "p", {"accuracy": 1.0})
    assert winners([partial, *FRONT], OBJECTIVES, [], 1) == [FRONT[6]]


def test_one_winner_is_the_best_by_the_first_objective() -> None:
    assert winners(FRONT, OBJECTIVES, [], 1) == [FRONT[6]]


def test_anchors_span_the_ranks() -> None:
    chosen = anchors(BEHIND + FRONT, "accuracy", 3)
    assert chosen[0] == BEHIND[0] and chosen[-1] == FRONT[6] and len(chosen) == 3
    assert anchors(FRONT, "accuracy", 0) == []
    assert len(anchors(FRONT, "accuracy", 50)) == 7


def test_more_anchors_are_added_between_those_that_stay() -> None:
    ranked = BEHIND + FRONT
    first = anchors(ranked, "accuracy", 3)
    more = anchors(ranked, "accuracy", 5, {r.key for r in first})
    assert len(more) == 5 and {r.key for r in first} < {r.key for r in more}
    positions = sorted(sorted(ranked, key=lambda r: r.metrics["accuracy"]).index(r) for r in more)
    assert max(b - a for a, b in itertools.pairwise(positions)) <= 4
    # New evaluations move the ranks; what was trained still counts.
    assert {r.key for r in anchors([*ranked, record(0.9, 90.0)], "accuracy", 3, {r.key for r in first})} == {
        r.key for r in first
    }


def test_more_winners_are_added_to_those_that_stay_on_the_front() -> None:
    first = winners(FRONT, OBJECTIVES, [], 2)
    more = winners(FRONT, OBJECTIVES, [], 4, {r.key for r in first})
    assert len(more) == 4 and {r.key for r in first} < {r.key for r in more}


def test_a_kept_winner_that_is_on_the_front_no_more_takes_no_place() -> None:
    better = [record(0.1 * i + 0.03, 10.0 * i) for i in range(1, 8)]
    chosen = winners(FRONT + better, OBJECTIVES, [], 3, {r.key for r in FRONT})
    assert set(map(id, chosen)) <= set(map(id, better))
