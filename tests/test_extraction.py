"""A subnet keeps what its forward uses, whichever way: by calls, by operations on tensors, or in training only."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ray import tune
from torch import nn
from torch.nn import functional as F

import manynet as mn
from manynet import elastic
from manynet.space.domains import SpaceError


class Base(mn.Supernet):
    """Tokens ``(B, 4, 8)`` to logits; subclasses change the features ``(B, 4, 16)``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = elastic.Linear(8, 16)
        self.head = elastic.Linear(16, 10)
        self.never = nn.Linear(3, 3)
        self.nowhere = nn.Parameter(torch.ones(7))

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return self.head(self.features(self.stem(x), arch).mean(1)[:, : arch["width"]])

    def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return x


class Attention(Base):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 4, batch_first=True)

    def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return self.attend(x, x, x)[0]


class Encoder(Base):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2, enable_nested_tensor=False
        )

    def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return self.layers(x)


class Scales(Base):
    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.full([16], float(n))) for n in range(4)])
        self.shifts = nn.ParameterDict({"used": torch.ones(16), "other": torch.ones(16)})

    def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return x * self.scales[1] + self.scales[3] + self.shifts["used"]


class Positions(Base):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(4, 16)

    def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return x + self.positions.weight


class ByName(Base):
    def __init__(self) -> None:
        super().__init__()
        self.plain, self.elastic = nn.Linear(16, 16), elastic.Linear(16, 16)

    def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        width = arch["width"]
        x = self.elastic.forward(self.plain.forward(x)[..., :width], out_features=width)
        return F.pad(x, (0, 16 - width))


class WeightsAlone(Base):
    def __init__(self) -> None:
        super().__init__()
        self.plain, self.elastic = nn.Linear(16, 16, bias=False), elastic.Linear(16, 16)

    def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        width = arch["width"]
        x = F.linear(x, self.plain.weight.data.t())[..., :width]
        return F.linear(self.elastic(x, out_features=width), self.elastic.weight[:, :width])


class Recurrent(Base):
    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(16, 16, batch_first=True)

    def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return self.memory(x)[0]


class Listed(Base):
    """Holds a tensor of a module in a list of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)
        self.tensors = [self.inner.weight, (self.inner.bias,), {"again": self.inner.bias}]

    def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        weight, (bias,), again = self.tensors
        return F.linear(x, weight, bias) + again["again"]


class TrainedBranch(Base):
    """Has a branch, a scale and a running mean that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.noise, self.scale = nn.Linear(16, 16), nn.Parameter(torch.ones(16))
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("mean", torch.zeros(16))

    def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean((0, 1)), alpha=0.1)
            x = F.dropout(self.noise(x) * self.scale, arch["rate"])
        return self.norm(x)


class Tied(Base):
    """One weight in three layers, each of which uses another part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (elastic.Linear(16, 16) for _ in range(3))
        self.b.weight = self.c.weight = self.a.weight

    def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        width = arch["width"]
        x = self.a(x, out_features=width)
        x = self.b(x, out_features=16)
        return F.pad(self.c(x[..., :3], out_features=5), (0, 11))


class TiedHead(Base):
    """A plain embedding and an elastic layer hold one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.back = nn.Embedding(16, 16), elastic.Linear(16, 16, bias=False)
        self.back.weight = self.words.weight

    def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        words = self.words(torch.zeros(x.shape[:2], dtype=torch.long, device=x.device))
        return F.pad(self.back((x + words)[..., :8], out_features=8), (0, 8))


class OwnTensors(Base):
    """Makes tensors in forward without saying where, and holds an unregistered one."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed = torch.arange(16.0)

    def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return x + torch.arange(4.0)[:, None] + self.fixed


KINDS = [
    Attention, Encoder, Scales, Positions, ByName, WeightsAlone, Recurrent, Listed, TrainedBranch, Tied, TiedHead,
    OwnTensors,
]  # fmt: skip


def space_of(kind: type[Base]) -> mn.SearchSpace:
    domains = {
        "width": tune.choice([8, 12, 16]),
        "rate": tune.choice([0.1, 0.2]),
        "idle": tune.choice([1, 2]),
    }
    return mn.SearchSpace(kind.__name__, domains, kind, mn.tasks.Classification(10), (4, 8))


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[Base]:
    torch.manual_seed(0)
    result: type[Base] = request.param
    return result


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("width", [8, 16])
def test_a_subnet_is_the_supernets_path_and_costs_what_is_said(
    kind: type[Base], width: int, share: bool
) -> None:
    space = space_of(kind)
    network = space.build().eval()
    arch = space.canonical({"width": width, "rate": 0.1, "idle": 1})
    state, draws = copy.deepcopy(network.state_dict()), torch.random.get_rng_state()
    subnet = mn.extract(network, arch, space.example(arch, batch=1), share=share)
    assert torch.equal(draws, torch.random.get_rng_state())
    x = space.example(arch, batch=3)
    with torch.no_grad():
        torch.testing.assert_close(subnet(*x), network(*x, arch=arch))
    assert sum(p.numel() for p in subnet.parameters()) == mn.cost(space, arch).parameters
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)


def test_a_subnet_trains_on_tensors_of_its_own(kind: type[Base]) -> None:
    space = space_of(kind)
    network = space.build()
    arch = space.canonical({"width": 8, "rate": 0.1, "idle": 1})
    state = copy.deepcopy(network.state_dict())
    subnet = mn.extract(network, arch, space.example(arch)).train()
    before = subnet(*space.example(arch, batch=3)).detach()
    optimizer = torch.optim.SGD(subnet.parameters(), 0.5)
    subnet(*space.example(arch, batch=3)).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    # What the step changed is what forward computes with.
    without = {name for name, parameter in subnet.named_parameters() if parameter.grad is None}
    assert without <= {"network.plain.weight"}
    assert not torch.equal(subnet(*space.example(arch, batch=3)), before)
    torch.testing.assert_close(copy.deepcopy(subnet).state_dict(), subnet.state_dict())


@pytest.mark.parametrize(
    ("kind", "gone"),
    [
        (Scales, {"scales.0", "scales.2", "shifts.other"}),
        (Positions, set()),
        (WeightsAlone, set()),
    ],
)
def test_parameters_that_no_operation_reads_are_dropped(kind: type[Base], gone: set[str]) -> None:
    space = space_of(kind)
    network = space.build()
    held = {
        name
        for name, _ in mn.extract(
            network, space.largest, space.example(space.largest)
        ).network.named_parameters()
    }
    always = {"never.weight", "never.bias", "nowhere"}
    assert {name for name, _ in network.named_parameters()} - held == gone | always


def test_what_is_read_whole_is_not_cut() -> None:
    space = space_of(WeightsAlone)
    arch = space.canonical({"width": 8, "rate": 0.1, "idle": 1})
    network = mn.extract(space.build(), arch, space.example(arch)).network
    assert (network.elastic.weight.shape, network.elastic.bias.shape) == ((16, 16), (8,))


def test_tied_layers_keep_the_union_of_what_they_use_as_one_tensor() -> None:
    space = space_of(Tied)
    network = mn.extract(space.build(), {"width": 8}, space.example({"width": 8})).network
    assert network.a.weight is network.b.weight is network.c.weight
    assert network.a.weight.shape == (16, 16)
    assert (network.a.bias.shape, network.c.bias.shape) == ((8,), (5,))


def test_choices_that_only_training_reads_have_an_effect() -> None:
    space = space_of(TrainedBranch)
    assert set(space.sample(0)) == {"width", "rate"}
    assert set(space_of(Attention).sample(0)) == {"width"}


def test_a_forward_that_needs_numbers_is_one_line() -> None:
    class Looks(Base):
        def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(SpaceError, match="forward must run on PyTorch's 'meta' device, .* but got") as caught:
        space_of(Looks).sample(0)
    assert "\n" not in str(caught.value)


def test_training_that_looks_at_numbers_is_costed_as_evaluation() -> None:
    class Depth(Base):
        """Stochastic depth, decided in Python."""

        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Linear(16, 16)

        def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
            return x if self.training and torch.rand(1, device=x.device) < 0 else self.block(x)

    space = space_of(Depth)
    arch: dict[str, Any] = space.sample(0)
    subnet = mn.extract(space.build(), arch, space.example(arch))
    assert sum(p.numel() for p in subnet.parameters()) == mn.cost(space, arch).parameters


def test_a_network_that_cannot_be_built_on_meta_keeps_its_ties() -> None:
    class Reads(Tied):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(self.a.weight.detach().abs().max().item() * torch.ones(16))

        def features(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
            return super().features(x * self.scale, arch)

    space = space_of(Reads)
    plain = space_of(Tied)
    extra = mn.cost(space, {"width": 8}).parameters - mn.cost(plain, {"width": 8}).parameters
    assert extra == 16
