"""Soft choices: with one-hot weights they are hard, and what they cost is the mean over all hard choices."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from manynet import elastic
from manynet.elastic.count import Count, Expectation
from manynet.elastic.operations import Operations
from manynet.elastic.recorder import Recorder
from manynet.elastic.soft import Soft
from manynet.elastic.usage import Usage
from manynet.elastic.watched import Watched

OPTIONS: dict[str, list[Any]] = {
    "width": [2, 4, 6],
    "expansion": [1, 2],
    "depth": [1, 2, 3],
    "operator": ["conv", "wide", "none"],
    "features": [3, 5],
    "kernel": [1, 3, 5],
}


class Block(nn.Module):
    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.conv = elastic.Conv2d(6, 6, kernel, padding=kernel // 2)
        self.norm = elastic.BatchNorm2d(6)

    def forward(self, x: torch.Tensor, width: Any) -> torch.Tensor:
        return self.norm(self.conv(x, width, width), width).relu()


class Net(nn.Module):
    """A chain, a choice of operators, a depthwise layer, a repeated block and a head, on 5 x 5 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = elastic.Conv2d(3, 6, 3, padding=1, bias=False)
        self.stem_norm = elastic.BatchNorm2d(6)
        self.operators = nn.ModuleDict({"conv": Block(1), "wide": Block(3), "none": Nothing()})
        self.expand = elastic.Conv2d(6, 12, 1)
        self.expand_norm = elastic.BatchNorm2d(12)
        self.depthwise = elastic.Conv2d(12, 12, 5, padding=2, groups=12)
        self.depthwise_norm = elastic.BatchNorm2d(12)
        self.project = elastic.Conv2d(12, 6, 1)
        self.blocks = nn.ModuleList([Block(1), Block(1), Block(3)])
        self.hidden = elastic.Linear(6, 5)
        self.hidden_norm = elastic.LayerNorm(5)
        self.head = elastic.Linear(5, 4)

    def forward(self, x: torch.Tensor, arch: dict[str, Any]) -> torch.Tensor:
        width, features = arch["width"], arch["features"]
        hidden = elastic.combine(lambda e, w: e * w, arch["expansion"], width)
        x = self.stem_norm(self.stem(x, width), width).relu()
        x = elastic.choose(self.operators, arch["operator"], x, width)
        y = self.expand_norm(self.expand(x, hidden, width), hidden).relu()
        y = self.depthwise_norm(
            self.depthwise(y, in_channels=hidden, kernel_size=arch["kernel"]), hidden
        ).relu()
        x = elastic.masked(self.project(y, width, hidden), width)
        x = elastic.repeat(self.blocks, arch["depth"], x, lambda index: {"width": width})
        x = self.hidden_norm(self.hidden(x.mean((2, 3)), features, width), features)
        return self.head(x, None, features)


class Nothing(nn.Module):
    def forward(self, x: torch.Tensor, width: Any) -> torch.Tensor:
        return x


def softened(weights: dict[str, torch.Tensor]) -> dict[str, Soft]:
    return {key: elastic.soft(key, OPTIONS[key], weight) for key, weight in weights.items()}


def one_hot(arch: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {
        k: torch.eye(len(OPTIONS[k]))[OPTIONS[k].index(value)].requires_grad_() for k, value in arch.items()
    }


def metered(net: nn.Module, arch: dict[str, Any]) -> tuple[Count | int, Count | int]:
    """Multiply-adds and parameters."""
    watched = Watched(copy.deepcopy(net).to("meta"))
    recorder = watched.record([torch.empty(1, 3, 5, 5, device="meta")], arch, metering=True)
    return recorder.macs, Usage(watched.network, recorder).parameters


ALL = [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("arch", ALL[::23])
def test_one_hot_weights_are_a_hard_choice(arch: dict[str, Any], training: bool) -> None:
    torch.manual_seed(0)
    net = Net().train(training)
    for module in net.modules():
        if isinstance(module, elastic.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    x = torch.randn(4, 3, 5, 5)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    hard = net(x, arch)
    net.load_state_dict(state)
    torch.testing.assert_close(net(x, softened(one_hot(arch))), hard, rtol=1e-4, atol=1e-5)


def test_expected_cost_is_the_mean_over_all_hard_choices() -> None:
    net = Net()
    torch.manual_seed(0)
    weights = {key: torch.rand(len(options)).softmax(0) for key, options in OPTIONS.items()}
    counted = metered(net, softened(weights))
    macs, parameters = map(Expectation, counted)
    mean_macs = mean_parameters = 0.0
    for arch in ALL:
        chance = 1.0
        for key, value in arch.items():
            chance *= float(weights[key][OPTIONS[key].index(value)])
        hard = metered(net, arch)
        at = {key: OPTIONS[key].index(value) for key, value in arch.items()}
        for count, one in zip(counted, hard, strict=True):
            assert isinstance(count, Count) and count.at(at) == one
        mean_macs += chance * float(hard[0])  # type: ignore[arg-type]
        mean_parameters += chance * float(hard[1])  # type: ignore[arg-type]
    assert float(macs(weights)) == pytest.approx(mean_macs, rel=1e-5)
    assert float(parameters(weights)) == pytest.approx(mean_parameters, rel=1e-5)


def test_slopes_of_the_cost_reach_every_choice() -> None:
    net = Net()
    weights = {key: torch.rand(len(options)).softmax(0).requires_grad_() for key, options in OPTIONS.items()}
    expected = Expectation(metered(net, softened(weights))[0])
    expected(weights).backward()
    for key, weight in weights.items():
        assert weight.grad is not None and len(set(weight.grad.tolist())) == len(OPTIONS[key]), key


def test_slopes_of_the_loss_reach_every_choice_through_normalisation() -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(8, 3, 5, 5)
    weights = {key: torch.full([len(o)], 1 / len(o)).requires_grad_() for key, o in OPTIONS.items()}
    net(x, softened(weights)).square().sum().backward()
    for key, weight in weights.items():
        assert weight.grad is not None and (weight.grad - weight.grad.mean()).abs().max() > 1e-3, key


def test_multiply_adds_are_those_that_pytorch_counts() -> None:
    net = Net()
    for arch in ALL[::13]:
        recorder = Recorder(metering=True)
        with torch.no_grad(), Operations(recorder):
            copy.deepcopy(net).to("meta")(torch.empty(1, 3, 5, 5, device="meta"), arch)
        assert recorder.macs == metered(net, arch)[0]


@pytest.mark.parametrize(
    ("shapes", "dim"),
    [([(2, 3), (4, 3)], 0), ([(2, 3), (2, 1), (2, 5)], -1), ([(3,), (0,)], 0), ([(2, 3)], 1)],
)
def test_a_concatenation_is_as_large_as_pytorchs(shapes: list[tuple[int, ...]], dim: int) -> None:
    with Operations(Recorder(metering=True)):
        joined = torch.cat([torch.empty(shape, device="meta") for shape in shapes], dim)
    assert (joined.shape, joined.device.type) == (
        torch.cat(list(map(torch.empty, shapes)), dim).shape,
        "meta",
    )


@pytest.mark.parametrize(
    ("shapes", "dim", "message"),
    [([(2, 3), (4, 3)], 1, "Sizes of tensors must match"), ([(2,), (3,)], 1, "Dimension out of range")],
)
def test_a_concatenation_that_does_not_fit_is_pytorchs_error(
    shapes: list[tuple[int, ...]], dim: int, message: str
) -> None:
    with Operations(Recorder(metering=True)), pytest.raises((RuntimeError, IndexError), match=message):
        torch.cat([torch.empty(shape, device="meta") for shape in shapes], dim)


def test_a_concatenation_of_two_types_has_pytorchs() -> None:
    with Operations(Recorder(metering=True)):
        joined = torch.cat([torch.empty(2, device="meta", dtype=d) for d in (torch.int64, torch.float32)])
    assert joined.dtype == torch.float32
