"""Which paths single-operator any-connection training draws, and the strategies beside it."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

import manynet as mn
from manynet.config.settings import TrainSettings
from manynet.data import Batch
from manynet.data.features import Categorical, Features
from manynet.learning.learner import Learner
from manynet.learning.strategy import Step, load_strategy
from manynet.search_spaces import nasrec, vit
from manynet.trainers.any_connection import AnyConnection

FEATURES = Features(("a", "b"), tuple(Categorical(f"c{n}", 30, values=1 + n % 2) for n in range(4)))
space = nasrec.tiny.fitted(FEATURES)
TOTAL = 1000
OPERATORS = {"dense_operator": "dot_product+fc+gating+sum", "sparse_operator": "attention+embed_fc"}


def step(number: int) -> Step:
    random = np.random.default_rng((0, number))
    return Step(space, number, TOTAL, random, 0.0, nullcontext, lambda tensors: None, pytest.fail)


def draws(strategy: AnyConnection, numbers: range) -> list[dict[str, Any]]:
    return [strategy.draw(step(number)) for number in numbers]


def connections(arch: dict[str, Any]) -> dict[str, list[str]]:
    return {k: v.split("+") for k, v in arch.items() if k.endswith(("_from", ".left", ".right"))}


def is_full(arch: dict[str, Any], block: int) -> bool:
    return all(arch[f"block{block}.{key}"] == value for key, value in OPERATORS.items())


def test_after_the_warm_up_every_draw_is_of_the_space() -> None:
    found = draws(AnyConnection(warmup=0.2), range(200, 400))
    assert all(space.valid(arch) == arch for arch in found)
    assert {len(sources) for arch in found for sources in connections(arch).values()} == {1, 2, 3, 4}
    assert len({tuple(arch.items()) for arch in found}) == 200


def test_full_paths_fade_out_over_the_warm_up() -> None:
    found = draws(AnyConnection(warmup=1.0), range(TOTAL))
    wide = [all(len(s) == int(k[5]) for k, s in connections(arch).items()) for arch in found]
    full = [is_full(arch, 3) for arch in found]
    for drawn in (wide, full):
        share = np.array(drawn).reshape(4, -1).mean(1)
        np.testing.assert_allclose(share, [7 / 8, 5 / 8, 3 / 8, 1 / 8], atol=0.1)
    assert wide[0] and full[0]
    # Drawn apart: connections and blocks agree no more often than by chance.
    middle = slice(400, 600)
    both = np.mean(np.array(wide[middle]) & np.array(full[middle]))
    assert 0.12 < both < 0.4
    other = np.array([is_full(arch, 2) for arch in found])[middle]
    assert 0.1 < np.mean(other & np.array(full[middle])) < 0.4


def test_a_full_path_has_the_largest_sizes_and_all_mergers() -> None:
    arch = AnyConnection(warmup=1.0).draw(step(0))
    for block in range(1, 5):
        assert is_full(arch, block)
        assert arch[f"block{block}.dense_width"] == 128 and arch[f"block{block}.sparse_tokens"] == 32
        assert arch[f"block{block}.fm"] is True and arch[f"block{block}.dense_to_sparse"] is True
        assert arch[f"block{block}.left"] == "+".join(map(str, range(block)))


def test_single_connection_reads_one_source_each() -> None:
    found = draws(AnyConnection(connections="single", warmup=0.0), range(300))
    assert all(len(s) == 1 for arch in found for s in connections(arch).values())
    counts = np.bincount([int(arch["block4.dense_from"]) for arch in found], minlength=4)
    np.testing.assert_allclose(counts / 300, 0.25, atol=0.08)
    assert all(space.valid(arch) == arch for arch in found)


def test_any_operator_adds_several() -> None:
    found = draws(AnyConnection(operators="any", warmup=0.0), range(400))
    counts = np.bincount([len(arch["block2.dense_operator"].split("+")) for arch in found], minlength=5)
    np.testing.assert_allclose(counts[1:] / 400, [1 / 8, 3 / 8, 3 / 8, 1 / 8], atol=0.07)
    assert {arch["block2.sparse_operator"] for arch in found} == {
        "attention",
        "embed_fc",
        "attention+embed_fc",
    }


@pytest.mark.parametrize("options", [{}, {"connections": "single"}, {"operators": "any"}], ids=str)
def test_every_strategy_trains(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    settings = TrainSettings(
        optimizer="adagrad", learning_rate=0.05, ema=0, steps=40, gradient_clip=5.0, warmup=0
    )
    learner = Learner(space.build(), space, AnyConnection(**options), settings)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 30, (256, 6), generator=generator)
    batch = Batch((torch.randn(256, 2, generator=generator), ids), (ids[:, 0] < 12).float())
    losses = [float(learner.train_on(batch)["loss"]) for _ in range(40)]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


def clicks(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(0, 30, (64, 6), generator=generator) for _ in range(count)]
    return [Batch((torch.randn(64, 2, generator=generator), i), (i[:, 0] < 12).float()) for i in ids]


@pytest.mark.parametrize(("optimizer", "ema"), [("adagrad", 0.0), ("adamw", 0.9)])
def test_a_learner_with_tables_goes_on_exactly_from_its_state(optimizer: str, ema: float) -> None:
    def learner() -> Learner:
        torch.manual_seed(0)
        settings = TrainSettings(optimizer=optimizer, learning_rate=0.01, ema=ema, steps=20, warmup=0)
        return Learner(space.build(), space, AnyConnection(), settings)

    straight, first, second = learner(), learner(), learner()
    for batch in clicks(6):
        straight.train_on(batch)
    for batch in clicks(6)[:3]:
        first.train_on(batch)
    state = copy.deepcopy(first.state_dict())
    first.train_on(clicks(1)[0])  # what comes after must not reach the state
    second.load_state_dict(state)
    for batch in clicks(6)[3:]:
        second.train_on(batch)
    expected, found = straight.averaged().state_dict(), second.averaged().state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    torch.manual_seed(0)
    begun = space.build().state_dict()
    assert expected.keys() == begun.keys()
    assert not torch.equal(expected["tables.weight0"], begun["tables.weight0"])


def test_only_spaces_with_connections_can_be_trained_so() -> None:
    with pytest.raises(mn.ManynetError, match="choose their sources.*but 'vit-tiny' has none"):
        Learner(vit.tiny.build(), vit.tiny, AnyConnection(), TrainSettings())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operators": "both"}, r"operators must be one of \(single, any\), but got 'both'"),
        ({"connections": "all"}, r"connections must be one of \(single, any\), but got 'all'"),
        ({"warmup": 2}, "warmup must be from 0 to 1, but got 2"),
        ({"warm": 0.5}, r"must be one of \(operators, connections, warmup\), but got 'warm'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(mn.ManynetError, match=message):
        load_strategy("trainers.any_connection:AnyConnection", options, "supernet")
