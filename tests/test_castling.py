"""Castling: what its branch adds to a step, its schedule, what is told of it, and the refusal to end while it is open."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import manynet as mn
from manynet import elastic
from manynet.config.settings import TrainSettings
from manynet.data import Batch, load
from manynet.learning.learner import Learner
from manynet.learning.strategy import Strategy, TrainingError, load_strategy
from manynet.search_spaces import pit, vit
from manynet.space.evaluation import fit
from manynet.trainers.castling import Castling, CastlingFineTune, Closing, block_name
from manynet.trainers.finetune import FineTune
from manynet.trainers.sandwich import Sandwich
from manynet.trainers.single_path import SinglePath
from manynet.training.runs import train_supernet

OPTIONS: dict[str, Any] = {
    "resolution": (8,),
    "patch_size": (2, 4),
    "width": (8, 12),
    "heads": (1, 2),
    "mlp_ratio": (1, 2),
    "head_dim": 4,
    "channels": 1,
    "classes": 10,
}
SPACE = vit.space("mixed", depth=(1, 2, 3), attention=("softmax", "linear-angular"), **OPTIONS)
ANGULAR = vit.space("angular", depth=(2, 3), attention=("linear-angular",), **OPTIONS)
SOFTMAX = vit.space("softmax", depth=(2,), **OPTIONS)
ONE = SPACE.largest | {f"block{block}.attention": "linear-angular" for block in range(3)}
DATA = load("digits", channels=1, image_size=8)
STEPS = 20


def learner(strategy: Strategy, space: mn.SearchSpace = SPACE, arch: Any = None) -> Learner:
    torch.manual_seed(0)
    network = space.build()
    if arch is not None:
        network = mn.extract(network, arch, space.example(arch))
    return Learner(network, space, strategy, TrainSettings(steps=STEPS, learning_rate=5e-3, ema=0, warmup=0))


def batches(count: int, start: int = 0) -> Iterator[Batch]:
    return islice(DATA.train.stream(16, seed=0, start=start), count)


def trained(strategy: Strategy, **of: Any) -> tuple[Learner, list[dict[str, torch.Tensor]]]:
    learning = learner(strategy, **of)
    return learning, [learning.train_on(batch) for batch in batches(STEPS)]


def passes(strategy: Strategy, number: int, **of: Any) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A network with the gradients of one step, and what was logged."""
    learning = learner(strategy, **of)
    learning.step = number
    network = learning.network.train()
    return network, strategy.backward(network, next(batches(1)), learning._step())


def gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def opened(logged: Mapping[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in logged.items() if name.startswith("open/")}


def test_every_pass_of_the_sandwich_has_the_branch_and_its_regulariser() -> None:
    strategy = Castling(samples=1, threshold=0.1, final_threshold=0.1, regulariser_weight=0.5)
    network, logged = passes(strategy, 10, space=ANGULAR)
    plain = learner(Sandwich(), ANGULAR).network.train()
    (batch,) = batches(1)
    losses: list[torch.Tensor] = []
    masses: list[torch.Tensor] = []
    teacher = None
    for arch in (ANGULAR.largest, ANGULAR.smallest, ANGULAR.draw(np.random.default_rng((0, 10)))):
        with elastic.auxiliary(1 / 0.9) as branch:
            outputs = plain(*fit(batch.inputs, ANGULAR, arch), arch=arch)
        loss = ANGULAR.task.loss(outputs, batch.targets, ANGULAR.task.label_smoothing)
        if teacher is not None:
            loss = 0.5 * loss + 0.5 * ANGULAR.task.distillation(outputs, teacher)
        else:
            teacher = outputs.detach()
        losses.append(loss)
        masses.append(branch.regulariser)
    total, mass = torch.stack(losses).mean(), torch.stack(masses).mean()
    torch.autograd.backward(total + 0.5 * mass)
    assert float(logged["loss"]) == pytest.approx(total.item(), rel=1e-5)
    assert min(mass.item() for mass in masses) > 0.1
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(network)[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("strategy", "plain", "arch"),
    [
        (Castling(), Sandwich(), None),
        (Castling(paths="single_path"), SinglePath(), None),
        (CastlingFineTune(), FineTune(), ONE),
    ],
)
def test_before_it_closes_a_step_is_another_and_after_it_the_plain_one(
    strategy: Strategy, plain: Strategy, arch: Any
) -> None:
    # At this step a linear-angular block is among what single path draws.
    for number, same in ((3, False), (15, True), (19, True)):
        ours, logged = passes(strategy, number, arch=arch)
        theirs, expected = passes(plain, number, arch=arch)
        assert torch.equal(logged["loss"], expected["loss"]) == same
        found = [torch.equal(gradients(ours)[name], slope) for name, slope in gradients(theirs).items()]
        assert all(found) == same
        assert (float(logged["regulariser"]) == 0) == same


@pytest.mark.parametrize("paths", ["sandwich", "single_path"])
def test_the_branch_of_every_block_closes_before_the_run_ends(paths: Any) -> None:
    strategy = Castling(paths=paths)
    _, logged = trained(strategy, space=ANGULAR)
    assert {name for row in logged for name in opened(row)} == {f"open/block{block}" for block in range(3)}
    for row in logged:
        # More entries than that cannot be above the threshold, for those of a query sum to 1.
        assert opened(row)["open/block0"] <= 1 - float(row["threshold"])
    assert max(opened(logged[2]).values()) > 0.1
    assert [float(row["threshold"]) for row in logged[15:]] == [1.0] * 5
    assert all(share == 0 for row in logged[15:] for share in opened(row).values())
    assert float(logged[14]["threshold"]) < 1
    strategy.finished()


def test_what_is_told_of_a_block_is_its_share_of_open_entries() -> None:
    strategy = CastlingFineTune(threshold=0.2, final_threshold=0.2)
    network, logged = passes(strategy, 0, arch=ONE)
    with elastic.auxiliary(1.25) as branch:
        network(*fit(next(batches(1)).inputs, SPACE, ONE))
    expected = [int(call.open) / call.entries for call in branch.calls]
    assert list(opened(logged)) == ["open/block0", "open/block1", "open/block2"]
    assert list(opened(logged).values()) == pytest.approx(expected)
    assert float(logged["open"]) == pytest.approx(sum(expected) / 3)
    assert float(logged["regulariser"]) == pytest.approx(branch.regulariser.item())
    assert min(expected) > 0 and max(expected) < 0.8


def test_a_block_that_a_step_does_not_reach_keeps_what_it_was() -> None:
    strategy = Castling(paths="single_path")
    _, logged = trained(strategy)
    steps = [[step for step, row in enumerate(logged) if f"open/block{block}" in row] for block in range(3)]
    assert all(found == list(range(found[0], STEPS)) for found in steps)
    kept = [opened(a) == opened(b) for a, b in pairwise(logged[:15])]
    assert any(kept) and not all(kept)


def test_shares_are_the_mean_of_all_workers() -> None:
    strategy = CastlingFineTune()
    _, alone = passes(strategy, 0, arch=ONE)
    learning = learner(strategy, arch=ONE)

    def with_a_closed_one(tensors: Sequence[torch.Tensor]) -> None:
        for tensor in tensors:
            tensor.div_(2)

    step = replace(learning._step(), average=with_a_closed_one)
    logged = strategy.backward(learning.network.train(), next(batches(1)), step)
    assert opened(logged) == pytest.approx({name: share / 2 for name, share in opened(alone).items()})


def test_a_branch_that_is_open_at_the_end_is_refused_with_its_blocks() -> None:
    strategy = Castling(final_threshold=0.5)
    _, logged = trained(strategy, space=ANGULAR)
    shares = opened(logged[-1])
    assert min(shares.values()) > 0
    with pytest.raises(TrainingError) as raised:
        strategy.finished()
    told = ", ".join(f"{share:.3g} of {name.removeprefix('open/')}" for name, share in shares.items())
    assert str(raised.value) == (
        f"no entry of the auxiliary branch may be open when training ends, but got {told}; "
        "with a final_threshold of 1 none is"
    )


def test_a_threshold_below_1_does_where_it_leaves_nothing_open() -> None:
    # A token is one of 5 or 17: above 0.95 no entry can be open.
    strategy = Castling(final_threshold=0.95)
    _, logged = trained(strategy, space=ANGULAR)
    assert max(opened(logged[2]).values()) > 0 and set(opened(logged[-1]).values()) == {0.0}
    strategy.finished()


def test_a_resumed_run_goes_on_as_it_was() -> None:
    options: dict[str, Any] = {"paths": "single_path", "final_threshold": 0.5}
    whole, expected = trained(Castling(**options))
    first = learner(Castling(**options))
    for batch in batches(13):
        first.train_on(batch)
    second = learner(Castling(**options))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for row, batch in zip(expected[13:], batches(7, start=13), strict=True):
        logged = second.train_on(batch)
        assert logged.keys() == row.keys()
        assert all(torch.equal(value, row[name]) for name, value in logged.items())
    for name, tensor in whole.state_dict()["network"].items():
        assert torch.equal(second.state_dict()["network"][name], tensor)
    # What no later step reached is known from the checkpoint alone.
    late = learner(strategy := Castling(**options))
    late.load_state_dict(copy.deepcopy(first.state_dict()))
    with pytest.raises(TrainingError, match="but got .* of block"):
        strategy.finished()


class Softmaxes(TorchDispatchMode):
    """Counts calls of softmax, which linear-angular attention itself has none of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._softmax.default
        return func(*args, **(kwargs or {}))


def test_nothing_of_the_branch_is_evaluated_or_extracted() -> None:
    learning = learner(Castling(samples=0), ANGULAR)
    before = {name: parameter.shape for name, parameter in learning.network.named_parameters()}
    (batch, other) = batches(2)
    with Softmaxes() as training:
        learning.train_on(batch)
    # A call for each block of the largest and of the smallest.
    assert training.count == 2 + 3
    network, arch = learning.network, ANGULAR.largest
    subnet = mn.extract(network, arch, ANGULAR.example(arch))
    inputs = fit(other.inputs, ANGULAR, arch)
    with torch.no_grad(), elastic.auxiliary(0.0), Softmaxes() as evaluated:
        assert torch.equal(subnet.eval()(*inputs), network.eval()(*inputs, arch=arch))
    assert evaluated.count == 0
    assert {name: parameter.shape for name, parameter in network.named_parameters()} == before
    fresh = mn.extract(ANGULAR.build(), arch, ANGULAR.example(arch))
    assert subnet.state_dict().keys() == fresh.state_dict().keys()
    assert sum(p.numel() for p in subnet.parameters()) == mn.cost(ANGULAR, arch).parameters


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "threshold must be from 0 to 1, but got -0.1"),
        ({"threshold": 1.5}, "threshold must be from 0 to 1, but got 1.5"),
        ({"threshold": math.nan}, "threshold must be from 0 to 1, but got nan"),
        ({"final_threshold": 2}, "final_threshold must be from 0 to 1, but got 2"),
        (
            {"threshold": 0.5, "final_threshold": 0.2},
            "final_threshold must be at least threshold, 0.5, but got 0.2",
        ),
        ({"close_at": 1.2}, "close_at must be a share of the run, from 0 to 1, but got 1.2"),
        ({"close_at": 500}, "close_at must be a share of the run, from 0 to 1, but got 500"),
        ({"regulariser_weight": -1}, "regulariser_weight must be at least 0, but got -1"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, Any], message: str) -> None:
    for name, trains in (("Castling", "supernet"), ("CastlingFineTune", "subnet")):
        with pytest.raises(TrainingError, match=f": {message}$") as raised:
            load_strategy(f"trainers.castling:{name}", options, trains)
        assert "\n" not in str(raised.value)


def test_paths_must_be_known() -> None:
    message = r"paths must be one of \(sandwich, single_path\), but got 'alone'$"
    with pytest.raises(TrainingError, match=message):
        load_strategy("trainers.castling:Castling", {"paths": "alone"}, "supernet")
    with pytest.raises(TrainingError, match="samples must be an integer of at least 0, but got -1"):
        load_strategy("trainers.castling:Castling", {"samples": -1}, "supernet")
    with pytest.raises(TrainingError, match="needs a strategy that trains a subnet, but .* a supernet"):
        load_strategy("trainers.castling:Castling", {}, "subnet")


@pytest.mark.parametrize("strategy", [Castling(), CastlingFineTune()])
def test_a_space_without_linear_angular_blocks_is_refused_before_training(strategy: Strategy) -> None:
    with pytest.raises(TrainingError, match="with linear-angular blocks, but 'softmax' has none$"):
        learner(strategy, SOFTMAX)


def test_a_subnet_that_chose_softmax_throughout_trains_plainly() -> None:
    plain = SPACE.largest | {f"block{block}.attention": "softmax" for block in range(3)}
    ours, logged = passes(strategy := CastlingFineTune(), 0, arch=plain)
    theirs, _ = passes(FineTune(), 0, arch=plain)
    assert all(torch.equal(gradients(ours)[name], slope) for name, slope in gradients(theirs).items())
    assert not opened(logged)
    strategy.finished()


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
@pytest.mark.parametrize("close_at", [0.0, 0.3, 0.8, 1.0])
def test_the_last_step_has_the_final_threshold_however_long_the_run(steps: int, close_at: float) -> None:
    closing = Closing(0.2, 1.0, close_at)
    found = [closing.at(step, steps) for step in range(steps)]
    assert found == sorted(found) and found[-1] == 1.0
    last = round(close_at * (steps - 1))
    assert all(threshold < 1 for threshold in found[:last])
    assert set(found[last:]) == {1.0}
    assert not last or found[0] == 0.2


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("blocks.3.attention.angular.products", "block3"),
        ("network.blocks.11.attention.angular", "block11"),
        ("stages.1.0.attention.angular", "stage1.0"),
        ("attention.angular", "attention.angular"),
    ],
)
def test_blocks_are_named_by_their_numbers(name: str, block: str) -> None:
    assert block_name(name) == block


@pytest.mark.parametrize("paths", ["sandwich", "single_path"])
def test_both_kinds_are_trained_in_every_block_though_the_largest_has_softmax_alone(paths: Any) -> None:
    space = vit.castling_grid_8
    kinds = [{a[key] for key in a if key.endswith("attention")} for a in (space.largest, space.smallest)]
    assert kinds == [{"softmax"}, {"linear-angular"}]
    learning = learner(Castling(paths=paths, close_at=0), space)
    ran: set[str] = set()
    for name, module in learning.network.named_modules():
        if name.endswith((".attention.mix", ".attention.angular")):
            module.register_forward_hook(lambda *call, name=name: ran.add(name))
    for batch in batches(STEPS):
        learning.train_on(batch)
    assert ran == {f"blocks.{block}.attention.{kind}" for block in range(4) for kind in ("mix", "angular")}


def test_pyramids_tell_their_blocks_by_stage() -> None:
    strategy = Castling(paths="single_path", close_at=0)
    _, logged = passes(strategy, 0, space=pit.castling_tiny)
    assert "open/stage0.0" in opened(logged) and set(opened(logged).values()) == {0.0}


def test_a_run_on_workers_tells_its_branch_and_is_refused_while_it_is_open(
    ray_cluster: None, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "strategy": "trainers.castling:Castling",
        "strategy_options": {"paths": "single_path", "final_threshold": 0.3},
        "steps": 12,
        "batch_size": 8,
        "evaluate_every": 4,
        "workers": 2,
    }
    with pytest.raises(TrainingError, match="no entry of the auxiliary branch may be open .* of block0"):
        train_supernet(ANGULAR, DATA, TrainSettings(**settings), tmp_path, validation_examples=20)
    assert not (tmp_path / "result.json").exists() and not (tmp_path / "weights.safetensors").exists()
    rows = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12] and all(row["open/block0"] > 0 for row in rows)
    assert all(0 < row["open"] < 1 for row in rows)
