"""Differentiable search: what is learnt from what, cost targets, and resuming."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import manynet as mn
from manynet.config.settings import TrainSettings
from manynet.data import Batch, load
from manynet.latency.operations import LatencyTableError, calls
from manynet.latency.table import LatencyTable
from manynet.learning.learner import Learner
from manynet.learning.strategy import TrainingError, load_strategy
from manynet.search_spaces import dmasking, vit
from manynet.trainers import cost_terms
from manynet.trainers.differentiable import Differentiable
from manynet.training.loop import HeldOut

SPACE = dmasking.space(
    "mini",
    resolution=(6, 8),
    stages=(
        dmasking.Stage((4, 8), 1, 1, (1.0, 2.0)),
        dmasking.Stage((4, 8, 12), 2, 2, (1.5, 3.0)),
    ),
    stem=4,
    stem_stride=1,
    head=16,
    channels=1,
    classes=10,
)
DATA = load("digits", channels=1, image_size=8)


def learner(strategy: Differentiable, steps: int) -> Learner:
    torch.manual_seed(0)
    held, _ = DATA.train.divided(strategy.held_out, seed=0)
    settings = TrainSettings(steps=steps, batch_size=32, learning_rate=5e-3, ema=0)
    stream = HeldOut(lambda start: held.stream(32, seed=0, start=start))
    return Learner(SPACE.build(), SPACE, strategy, settings, held=stream)


def batches(start: int = 0) -> Iterator[Batch]:
    _, rest = DATA.train.divided(0.2, seed=0)
    return rest.stream(32, seed=0, start=start)


def trained(strategy: Differentiable, steps: int) -> dict[str, torch.Tensor]:
    learning, stream = learner(strategy, steps), batches()
    for _ in range(steps):
        logged = learning.train_on(next(stream))
    return logged


@pytest.mark.parametrize("target", [20_000, 40_000])
def test_the_likeliest_architecture_costs_what_was_asked(target: int) -> None:
    assert mn.cost(SPACE, SPACE.smallest).macs < 15_000 and mn.cost(SPACE, SPACE.largest).macs > 60_000
    strategy = Differentiable(target=target, strength=3.0, learning_rate=0.1, every=1, warmup=0.0)
    logged = trained(strategy, 100)
    found = mn.cost(SPACE, strategy.found()).macs
    assert found == pytest.approx(target, rel=0.15)
    assert float(logged["found_macs"]) == pytest.approx(found)
    assert {"loss", "temperature", "entropy", "expected_macs"} <= logged.keys()


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Address of a table in which an operation takes 2 us and 10 ns for each number of its weights and input."""
    undecided = SPACE.soften(SPACE.largest, {key: torch.ones(len(o)) for key, o in SPACE.soft.items()})
    times = {
        str(one): 0.002 + 1e-5 * float(np.prod(one.sizes[0][1]) + np.prod(one.input))
        for call in calls(SPACE, undecided)
        for one in call.operations
        if one is not None
    }
    made = LatencyTable(device="made", tool="up", unit="ms", rows="operations", measured=times)
    made.write(tmp_path / "table.json")
    return str(tmp_path / "table.json")


@pytest.mark.parametrize("target", [0.08, 0.13])
def test_the_likeliest_architecture_takes_as_long_as_was_asked(target: float, table: str) -> None:
    made = LatencyTable.read(table)
    assert made.milliseconds(SPACE, SPACE.smallest) < 0.06 and made.milliseconds(SPACE, SPACE.largest) > 0.2
    options = {"target": target, "cost": "latency", "table": table, "strength": 3.0, "learning_rate": 0.1}
    strategy = Differentiable(**options, every=1, warmup=0.0)  # type: ignore[arg-type]
    logged = trained(strategy, 100)
    found = made.milliseconds(SPACE, strategy.found())
    assert found == pytest.approx(target, rel=0.15)
    assert float(logged["found_latency"]) == pytest.approx(found)
    assert float(logged["expected_latency"]) == pytest.approx(target, rel=0.25)


def test_a_table_that_cannot_serve_is_refused_before_training(tmp_path: Path, table: str) -> None:
    options = {"target": 1.0, "cost": "latency"}
    with pytest.raises(mn.ManynetError, match="none.json must be a file that can be read"):
        load_strategy(
            "trainers.differentiable:Differentiable",
            {**options, "table": str(tmp_path / "none.json")},
            "supernet",
        )
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(LatencyTableError, match="damaged.json must be a table of latency"):
        load_strategy(
            "trainers.differentiable:Differentiable",
            {**options, "table": str(tmp_path / "damaged.json")},
            "supernet",
        )
    with pytest.raises(
        LatencyTableError, match="must hold all that the space runs, but lacks 'Conv2d stride 2x2 weight"
    ):
        Differentiable(target=1.0, cost="latency", table=table).start(dmasking.tiny, torch.device("cpu"))


def test_logits_learn_from_held_out_examples_and_weights_do_not() -> None:
    strategy = Differentiable(target=30_000, every=2, warmup=0.0)
    learning, weights_alone = learner(strategy, 8), learner(Differentiable(target=30_000, every=99), 8)
    held, asked = learning._held, []

    def noted(number: int) -> Batch:
        asked.append(number)
        return held(number)

    learning._held = noted
    before = {key: logit.detach().clone() for key, logit in strategy.logits.items()}
    stream, same_stream = batches(), batches()
    for update in (False, True):
        weights_alone.train_on(next(same_stream))
        learning.train_on(next(stream))
        changed = [key for key, logit in strategy.logits.items() if not torch.equal(logit, before[key])]
        assert bool(changed) == update and asked == [0] * update
    # The logits' pass leaves no gradient in the weights: they are what they are without it.
    for ours, theirs in zip(learning.network.parameters(), weights_alone.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_resumed_search_goes_on_as_it_was() -> None:
    whole, halves = (learner(Differentiable(target=30_000, every=2), 12) for _ in range(2))
    stream = batches()
    expected = [whole.train_on(next(stream)) for _ in range(12)]
    stream = batches()
    for _ in range(7):
        halves.train_on(next(stream))
    resumed = learner(Differentiable(target=30_000, every=2), 12)
    resumed.load_state_dict(halves.state_dict())
    stream = batches(7)
    for step in range(7, 12):
        logged = resumed.train_on(next(stream))
        assert logged.keys() == expected[step].keys()
        for name, value in logged.items():
            torch.testing.assert_close(value, expected[step][name])
    one, two = whole.strategy.state_dict(), resumed.strategy.state_dict()
    torch.testing.assert_close(one["logits"], two["logits"])


@pytest.mark.parametrize("number", [0, 7])
def test_where_loss_and_cost_of_a_drawn_choice_balance_its_logits_stay(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = Differentiable(target=30_000)
    learning = learner(strategy, 8)
    learning.step = number
    step = learning._step()
    costs = dict(zip(SPACE.soft["resolution"], torch.tensor([1.0, 3.0]), strict=True))
    monkeypatch.setattr(strategy, "_loss", lambda network, batch, arch, step: -costs[arch["resolution"]])
    monkeypatch.setattr(
        strategy, "_expected", lambda weights: torch.stack([*costs.values()]) @ weights["resolution"]
    )
    loss = strategy._expected_loss(learning.network, next(batches()), "resolution", step)
    total = loss + strategy.expected_cost(step)
    (slope,) = torch.autograd.grad(total, [strategy.logits["resolution"]])
    torch.testing.assert_close(slope, torch.zeros(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "target"),
        ({"target": 0}, "target must be above 0, but got 0"),
        (
            {"target": 1, "cost": "watts"},
            r"cost must be one of \(macs, parameters, latency\), but got 'watts'",
        ),
        ({"target": 1, "cost": "latency"}, "table must be an address where cost is 'latency', .* got None"),
        (
            {"target": 1, "table": "t.json"},
            "table must be an address where cost is 'latency', .* got 't.json'",
        ),
        (
            {"target": 1, "cost": "latency", "table": "t.json"},
            "table must be an absolute path or a URI, but got 't.json'",
        ),
        ({"target": 1, "held_out": 0}, "held_out must be a share below 1, but got 0"),
        ({"target": 1, "warmup": 1}, "warmup must be a share below 1, but got 1"),
        ({"target": 1, "temprature": 1}, "an option of .* must be one of"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        load_strategy("trainers.differentiable:Differentiable", options, "supernet")


def test_a_space_without_undecided_choices_is_refused() -> None:
    with pytest.raises(TrainingError, match="choices that may stay undecided, but 'vit-tiny' has none"):
        Differentiable(target=1).start(vit.tiny, torch.device("cpu"))


@pytest.mark.parametrize("cost", ["macs", "parameters"])
def test_a_target_out_of_reach_is_refused(cost: Any) -> None:
    least, most = (getattr(mn.cost(SPACE, arch), cost) for arch in (SPACE.smallest, SPACE.largest))
    for target in (least - 1, most + 1):
        with pytest.raises(TrainingError, match=rf"target must be within the .* {cost} of 'mini', but got"):
            Differentiable(target=target, cost=cost).start(SPACE, torch.device("cpu"))
    for target in (least, most):
        Differentiable(target=target, cost=cost).start(SPACE, torch.device("cpu"))


def test_a_choice_to_draw_must_be_one_of_the_space() -> None:
    with pytest.raises(TrainingError, match=r"drawn must be of the choices .* but got 'resolutoin'"):
        Differentiable(target=1, drawn="resolutoin").start(SPACE, torch.device("cpu"))


def test_what_is_logged_of_a_search_is_up_to_date() -> None:
    strategy = Differentiable(target=30_000, every=2, warmup=0.0, learning_rate=0.5)
    logged = trained(strategy, 4)
    assert float(logged["found_macs"]) == pytest.approx(mn.cost(SPACE, strategy.found()).macs)
    logits = strategy.state_dict()["logits"]
    entropy = sum(torch.distributions.Categorical(logits=logit).entropy() for logit in logits.values())
    assert float(logged["entropy"]) == pytest.approx(float(entropy), rel=1e-5)


def test_cost_terms() -> None:
    loss, cost = torch.tensor(2.0), torch.tensor(150.0)
    assert float(cost_terms.absolute(loss, cost, 100, 2)) == pytest.approx(3.0)
    assert float(cost_terms.absolute(loss, cost, 300, 2)) == pytest.approx(3.0)
    assert float(cost_terms.additive(loss, cost, 150, 2)) == pytest.approx(2.0)
    assert float(cost_terms.multiplied(loss, cost, 150, 1)) == pytest.approx(2 * (1 + 0.6931472))
