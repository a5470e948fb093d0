"""Strategies and the learner that runs them, without Ray."""

import copy
from contextlib import nullcontext
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from ray import tune
from torch.nn import functional as F

import manynet as mn
from manynet import data
from manynet.config.settings import TrainSettings
from manynet.data import Batch
from manynet.learning.gradients import Gradients, average
from manynet.learning.learner import Learner, autocast, learning_rate, update_average
from manynet.learning.strategy import Step, TrainingError, load_strategy
from manynet.space.evaluation import fit
from manynet.space.subnet import extract
from manynet.trainers.finetune import FineTune
from manynet.trainers.sandwich import Sandwich
from manynet.trainers.single_path import SinglePath


class Net(mn.Supernet):
    """Two elastic layers, the second optional: an architecture may leave weights without gradient."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.stem = mn.elastic.Conv2d(1, 16, kernel_size=3, padding=1)
        self.norm = mn.elastic.BatchNorm2d(16) if norm else None
        self.extra = mn.elastic.Linear(64, 64)
        self.head = mn.elastic.Linear(64, 10)

    def forward(self, x, arch):
        width = arch["width"]
        x = self.stem(x, out_channels=width)
        if self.norm is not None:
            x = self.norm(x, width)
        x = F.adaptive_avg_pool2d(x.relu(), 2).flatten(1)
        if arch["extra"]:
            x = self.extra(x, in_features=4 * width, out_features=4 * width).relu()
        return self.head(x, in_features=4 * width)


def image(arch):
    return (1, arch["resolution"], arch["resolution"])


DOMAINS = {
    "width": tune.choice([4, 8, 16]),
    "extra": tune.choice([False, True]),
    "resolution": tune.choice([6, 8]),
}
TASK = mn.tasks.Classification(num_classes=10)


@pytest.fixture
def space():
    return mn.SearchSpace("net", DOMAINS, Net, TASK, image)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", channels=1)


def settings(**changed):
    return TrainSettings(**{"steps": 20, "batch_size": 16, "warmup": 0.0, **changed})


def step_of(space, number=0):
    random = np.random.default_rng((0, number))
    return Step(space, number, 20, random, 0.1, nullcontext, average, pytest.fail)


def batches(digits, count, start=0):
    return list(islice(digits.train.stream(16, seed=0, start=start), count))


def gradients_of(network):
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def built(space, seed=0):
    torch.manual_seed(seed)
    return space.build()


def test_sandwich_is_the_mean_of_its_passes_with_the_largest_as_a_fixed_teacher(space, digits):
    (batch,) = batches(digits, 1)
    network = built(space)
    # Halfway through the run the others learn from labels and teacher alike.
    logged = Sandwich(samples=1).backward(network, batch, step_of(space, 10))

    expected = copy.deepcopy(network)
    expected.zero_grad()
    run = lambda arch: expected(*fit(batch.inputs, space, arch), arch=arch)
    drawn = space.draw(np.random.default_rng((0, 10)))
    teacher = run(space.largest)
    losses = [TASK.loss(teacher, batch.targets, 0.1)]
    for arch in (space.smallest, drawn):
        outputs = run(arch)
        soft = TASK.distillation(outputs, teacher.detach())
        losses.append(0.5 * TASK.loss(outputs, batch.targets, 0.1) + 0.5 * soft)
    (sum(losses) / 3).backward()

    assert float(logged["loss"]) == pytest.approx(sum(losses).item() / 3, rel=1e-6)
    assert float(logged["largest/loss"]) == pytest.approx(losses[0].item(), rel=1e-6)
    assert not logged["loss"].requires_grad
    for name, gradient in gradients_of(expected).items():
        torch.testing.assert_close(gradients_of(network)[name], gradient, rtol=1e-5, atol=1e-7)


def test_the_teacher_is_not_listened_to_before_it_knows_anything(space, digits):
    (batch,) = batches(digits, 1)
    networks = [built(space), built(space)]
    for distill, network in zip((True, False), networks, strict=True):
        Sandwich(samples=0, distill=distill).backward(network, batch, step_of(space, 0))
    for name, gradient in gradients_of(networks[0]).items():
        torch.testing.assert_close(gradients_of(networks[1])[name], gradient)


def test_sandwich_without_distillation_learns_from_labels_only(space, digits):
    (batch,) = batches(digits, 1)
    logged = Sandwich(samples=0, distill=False).backward(network := built(space), batch, step_of(space))
    with torch.no_grad():
        losses = [
            TASK.loss(network(*fit(batch.inputs, space, arch), arch=arch), batch.targets, 0.1)
            for arch in (space.largest, space.smallest)
        ]
    assert float(logged["loss"]) == pytest.approx(float(sum(losses)) / 2, rel=1e-6)


def test_single_path_reaches_only_the_weights_of_its_path(space, digits):
    (batch,) = batches(digits, 1)
    paths = [space.draw(np.random.default_rng((0, number))) for number in range(20)]
    number = next(i for i, path in enumerate(paths) if path["width"] == 4 and not path["extra"])
    network = built(space)
    SinglePath().backward(network, batch, step_of(space, number))
    assert network.extra.weight.grad is None
    assert network.stem.weight.grad[:4].abs().sum() > 0
    assert network.stem.weight.grad[4:].abs().sum() == 0


def test_steps_draw_different_paths_and_the_same_step_the_same(space):
    first, again = (space.draw(step_of(space, 3).random) for _ in range(2))
    assert first == again
    assert len({tuple(space.draw(step_of(space, n).random).items()) for n in range(20)}) > 3


def test_finetune_lowers_a_subnets_loss(space, digits):
    subnet = extract(built(space), space.largest, space.example(space.largest))
    learner = Learner(subnet, space, FineTune(), settings(learning_rate=1e-2, steps=60, ema=0.0))
    losses = [float(learner.train_on(batch)["loss"]) for batch in batches(digits, 60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_weights_that_no_pass_reached_stay_as_they_are(space, digits):
    network = built(space)
    learner = Learner(network, space, SinglePath(), settings(ema=0.0))
    before = copy.deepcopy(network.state_dict())
    for batch in batches(digits, 20):
        learner.train_on(batch)
        if network.extra.weight.grad is None:
            break
        before = copy.deepcopy(network.state_dict())
    assert torch.equal(network.extra.weight, before["extra.weight"])
    assert not torch.equal(network.stem.weight, before["stem.weight"])


def test_clipping_bounds_the_norm_of_all_gradients_together(space, digits):
    network = built(space)
    gradients = Gradients(network.parameters())
    for batch in batches(digits, 2):
        with gradients.collect():
            Sandwich().backward(network, batch, step_of(space))
    norm = gradients.clip(0.0)
    expected = torch.cat([p.grad.flatten() for p in network.parameters()]).norm()
    torch.testing.assert_close(norm, expected)
    gradients.clip(0.01)
    assert float(gradients.clip(0.0)) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("norm", [False, True])
def test_a_learner_goes_on_exactly_from_its_state(digits, norm):
    space = mn.SearchSpace("net", DOMAINS, lambda: Net(norm), TASK, image)
    straight = Learner(built(space), space, Sandwich(), settings())
    for batch in batches(digits, 6):
        straight.train_on(batch)
    first = Learner(built(space), space, Sandwich(), settings())
    for batch in batches(digits, 3):
        first.train_on(batch)
    second = Learner(built(space, seed=9), space, Sandwich(), settings())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for batch in batches(digits, 3, start=3):
        second.train_on(batch)
    for held in ("network", "average"):
        expected = straight.state_dict()[held]
        assert all(torch.equal(tensor, expected[name]) for name, tensor in second.state_dict()[held].items())


def test_a_step_without_a_finite_gradient_changes_nothing_and_the_fifth_in_a_row_is_an_error(space, digits):
    (batch,) = batches(digits, 1)
    broken = Batch((torch.full_like(batch.inputs[0], torch.nan),), batch.targets)
    learner = Learner(built(space), space, SinglePath(), settings())
    learner.train_on(batch)
    before = copy.deepcopy(learner.state_dict())
    for _ in range(4):
        learner.train_on(broken)
    assert all(torch.equal(t, before["network"][name]) for name, t in learner.network.state_dict().items())
    learner.train_on(batch)
    for _ in range(4):
        learner.train_on(broken)
    with pytest.raises(TrainingError, match="at step 10 they were not, 5 times in a row"):
        learner.train_on(broken)


def test_learning_rate_rises_to_its_peak_and_falls_to_nearly_zero():
    rates = [learning_rate(step, settings(steps=100, warmup=0.1, learning_rate=1.0)) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert max(rates) == 1.0
    assert all(a > b for a, b in pairwise(rates[9:]))
    assert 0 < rates[-1] < 1e-3


def test_average_follows_quickly_at_first_and_copies_buffers():
    network, held = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    network.weight.data.fill_(2.0)
    network.running_mean.fill_(5.0)
    update_average(held, network, 0.99, step=0)
    assert held.weight.item() == pytest.approx(0.1 * 1 + 0.9 * 2)
    update_average(held, network, 0.99, step=10**6)
    assert held.weight.item() == pytest.approx(0.99 * 1.9 + 0.01 * 2)
    assert float(held.running_mean) == 5.0


def test_only_matrices_and_kernels_decay(space):
    learner = Learner(built(space), space, SinglePath(), settings(weight_decay=0.3))
    decayed, others = learner.optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in others["params"]} == {1}


def test_position_embeddings_do_not_decay():
    from manynet.search_spaces.vit import tiny

    learner = Learner(tiny.build(), tiny, SinglePath(), settings())
    others = {id(p) for p in learner.optimizer.param_groups[1]["params"]}
    assert id(learner.network.positions.weight) in others
    assert id(learner.network.class_token.data) in others


def test_bf16_on_a_cpu_only_when_asked(space, digits):
    cpu = torch.device("cpu")
    assert not torch.is_autocast_enabled("cpu")
    with autocast("auto", cpu)():
        assert not torch.is_autocast_enabled("cpu")
    with autocast("bf16", cpu)():
        assert torch.is_autocast_enabled("cpu")
    learner = Learner(built(space), space, Sandwich(), settings(precision="bf16"))
    logged = learner.train_on(*batches(digits, 1))
    assert torch.isfinite(logged["loss"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "trainers.sandwich:Sandwich",
            {"sample": 3},
            r"must be one of \(samples, distill\), but got 'sample'",
        ),
        (
            "trainers.sandwich:Sandwich",
            {"samples": -1},
            "samples must be an integer of at least 0, but got -1",
        ),
        ("trainers.single_path:SinglePath", {"samples": 1}, r"must be one of \(none\), but got 'samples'"),
        (
            "trainers.finetune:FineTune",
            {},
            "trains a supernet, but 'trainers.finetune:FineTune' trains a subnet",
        ),
        ("manynet.learning.strategy:Strategy", {}, "must be a concrete subclass"),
        ("manynet.config.settings:TrainSettings", {}, "must be a concrete subclass"),
        ("trainers.sandwitch:Sandwich", {}, "names no module: there is no manynet.trainers.sandwitch"),
    ],
)
def test_a_strategy_that_cannot_be_is_refused_in_one_line(name, options, message):
    with pytest.raises(mn.ManynetError, match=message) as raised:
        load_strategy(name, options, "supernet")
    assert "\n" not in str(raised.value)
