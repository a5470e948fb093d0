"""FBNetV2's space: its size, choices left undecided, and resolutions inside the network."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import manynet as mn
from manynet import elastic, samplers
from manynet.config.settings import TrainSettings
from manynet.data import load
from manynet.elastic.count import Expectation
from manynet.elastic.layer import ChoiceError
from manynet.elastic.resolution import scattered, subsampled
from manynet.learning.learner import Learner
from manynet.learning.strategy import Strategy
from manynet.records.conditions import parse_objectives
from manynet.samplers import loading
from manynet.search.evaluator import Provenance
from manynet.search.searcher import ArchitectureSearcher
from manynet.search_spaces import dmasking
from manynet.trainers.sandwich import Sandwich
from manynet.trainers.single_path import SinglePath


def test_the_published_space_has_as_many_channel_choices_as_published() -> None:
    options = [len(o) for key, o in dmasking.fbnetv2.soft.items() if key.endswith(".channels")]
    assert len(options) == 18 and math.prod(options) == pytest.approx(4.4e14, rel=0.01)


def test_what_a_skipped_block_chooses_does_not_matter() -> None:
    arch = dmasking.tiny.largest | {"block2.operator": "skip"}
    kept = dmasking.tiny.canonical(arch)
    assert {key for key in kept if key.startswith("block2.")} == {"block2.operator", "block2.channels"}
    with pytest.raises(mn.ManynetError, match="block1.operator must be one of"):
        dmasking.tiny.canonical(arch | {"block1.operator": "skip"})


@pytest.mark.parametrize("seed", range(6))
def test_one_hot_weights_are_a_hard_choice(seed: int) -> None:
    space = dmasking.tiny
    arch = space.draw(np.random.default_rng(seed))
    torch.manual_seed(0)
    net = space.build().eval()
    for module in net.modules():
        if isinstance(module, elastic.BatchNorm2d):
            torch.nn.init.normal_(module.bias)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    (images,) = space.example(space.largest, batch=3)
    weights = {key: torch.eye(len(options))[options.index(arch[key])] for key, options in space.soft.items()}
    with torch.no_grad():
        torch.testing.assert_close(
            net(images, arch=space.soften({}, weights)), net(images, arch=arch), rtol=1e-4, atol=1e-5
        )


def test_expected_cost_is_the_mean_of_hard_draws() -> None:
    space = dmasking.tiny
    generator = torch.Generator().manual_seed(0)
    weights = {key: torch.rand(len(o), generator=generator).softmax(0) for key, o in space.soft.items()}
    expected = [float(Expectation(count)(weights)) for count in space.count(space.soften({}, weights))]
    costs = []
    for _ in range(400):
        drawn = {
            key: options[int(torch.multinomial(weights[key], 1, generator=generator))]
            for key, options in space.soft.items()
        }
        cost = mn.cost(space, drawn)
        costs.append((cost.macs, cost.parameters))
    means, errors = torch.tensor(costs, dtype=torch.float64).mean(0), torch.tensor(costs).double().std(0) / 20
    for value, mean, error in zip(expected, means, errors, strict=True):
        assert abs(value - float(mean)) < 4 * float(error)


def test_slopes_of_the_cost_reach_every_choice_that_matters_and_no_other() -> None:
    space = dmasking.tiny
    weights = {key: torch.full([len(o)], 1 / len(o)).requires_grad_() for key, o in space.soft.items()}
    macs, parameters = (Expectation(count) for count in space.count(space.soften({}, weights)))
    for expected, idle in ((macs, ("activation",)), (parameters, ("activation", "resolution"))):
        slopes = torch.autograd.grad(expected(weights), list(weights.values()), allow_unused=True)
        for key, slope in zip(weights, slopes, strict=True):
            matters = not key.endswith(idle) and len(space.soft[key]) > 1
            assert matters == (slope is not None and float((slope - slope.mean()).abs().max()) > 0), key


@pytest.mark.parametrize(
    ("arch", "weights", "message"),
    [
        ({}, {"head": torch.ones(1)}, "an undecided choice must be one of .* but got 'head'"),
        ({}, {"resolution": torch.ones(3)}, r"resolution must have 4 weights, but got a shape of \(3,\)"),
    ],
)
def test_what_cannot_be_undecided_is_refused(arch: Any, weights: Any, message: str) -> None:
    with pytest.raises(mn.ManynetError, match=message):
        dmasking.tiny.soften(arch, weights)


@pytest.mark.parametrize(("size", "side"), [(4, 8), (5, 8), (6, 7), (8, 8)])
def test_an_operation_at_a_resolution_sees_only_the_subsampled_image(size: int, side: int) -> None:
    torch.manual_seed(0)
    x, kernel = torch.randn(2, 3, side, side), torch.randn(4, 3, 3, 3)
    found = elastic.at_resolution(lambda image: F.conv2d(image, kernel, padding=1), x, size)
    places = [i * side // size for i in range(size)]
    expected = F.conv2d(x[:, :, places][:, :, :, places], kernel, padding=1)
    assert found.shape == (2, 4, side, side)
    torch.testing.assert_close(found[:, :, places][:, :, :, places], expected)
    assert int((found != 0).any(1).sum()) <= 2 * size * size


def test_pixels_go_back_where_a_strided_operation_would_put_them() -> None:
    y = scattered(torch.ones(1, 1, 2, 2), size=4, side=8)
    assert y.shape == (1, 1, 4, 4) and y[0, 0, [0, 2]][:, [0, 2]].sum() == 4 == y.sum()
    with pytest.raises(ChoiceError, match="resolution must be at most the input's, 4, but got 5"):
        subsampled(torch.zeros(1, 1, 4, 4), 5)


@pytest.mark.parametrize("strategy", [Sandwich(samples=1), SinglePath()], ids=["sandwich", "single path"])
def test_the_same_space_trains_by_other_strategies(strategy: Strategy) -> None:
    torch.manual_seed(0)
    data = load("digits", channels=1, image_size=28)
    settings = TrainSettings(steps=3, batch_size=8, warmup=0, gradient_clip=0)
    learner = Learner(dmasking.tiny.build(), dmasking.tiny, strategy, settings)
    before = [parameter.detach().clone() for parameter in learner.network.parameters()]
    for batch in itertools.islice(data.train.stream(8, seed=0), 3):
        assert math.isfinite(float(learner.train_on(batch)["loss"]))
    after = list(learner.network.parameters())
    # Activations have no weights and every block's largest ran or may have: nearly all have moved.
    moved = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert sum(moved) > 0.7 * len(moved)


@pytest.mark.parametrize("name", sorted(samplers.__all__))
def test_every_sampler_searches_the_same_space(name: str) -> None:
    space, objectives = dmasking.tiny, parse_objectives(["accuracy:max", "macs:min"])
    provenance = Provenance(space.digest, "weights", "data", "protocol")
    searcher = ArchitectureSearcher(
        space,
        objectives,
        [],
        loading.load(name, {}, 0, objectives),
        provenance,
        evaluations=14,
        seed=0,
    )
    seen = set()
    for trial in map(str, itertools.count()):
        arch = searcher.suggest(trial)
        if arch == "FINISHED":
            break
        assert isinstance(arch, dict) and space.canonical(arch) == arch
        seen.add(space.key(arch))
        macs = mn.cost(space, arch).macs
        searcher.on_trial_complete(trial, {"accuracy": math.log(macs), "macs": macs})
    assert len(seen) == 14
