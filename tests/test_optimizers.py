"""Sliced gradients and Adagrad on them, against PyTorch's own on gradients filled up with zeros."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from manynet import elastic
from manynet.learning.gradients import Gradients
from manynet.learning.optimizers import ADAGRAD_EPS, Adagrad


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = elastic.Linear(6, 8)
        self.norm = elastic.LayerNorm(8)
        self.last = elastic.Linear(8, 1)
        self.scale = nn.Parameter(torch.ones(1))
        self.idle = elastic.Linear(3, 3)

    def forward(self, x: torch.Tensor, width: int, inputs: int) -> torch.Tensor:
        hidden = self.norm(self.first(x[:, :inputs], out_features=width)).relu()
        return self.last(hidden) * self.scale


def passes(network: nn.Module, sizes: list[tuple[int, int]]) -> None:
    for width, inputs in sizes:
        x = torch.linspace(-1, 1, 24).view(4, 6) * width
        network(x, width, inputs).square().mean().backward()


sizes = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 6)), min_size=1, max_size=3)


@settings(deadline=None, max_examples=30)
@given(steps=st.lists(sizes, min_size=1, max_size=4))
def test_adagrad_on_slices_is_pytorchs_on_whole_gradients(steps):
    torch.manual_seed(0)
    ours = Net()
    theirs = copy.deepcopy(ours)
    gradients = Gradients(ours.parameters(), sliced=True)
    sliced = Adagrad(list(ours.parameters()))
    whole = torch.optim.Adagrad(theirs.parameters(), lr=0.1, eps=ADAGRAD_EPS)
    for step in steps:
        with gradients.collect():
            passes(ours, step)
        gradients.clip(0.5)
        sliced.step(gradients.reached, 0.1)
        whole.zero_grad()
        passes(theirs, step)
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        whole.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_a_sliced_gradient_has_the_size_of_what_ran():
    network = Net()
    gradients = Gradients(network.parameters(), sliced=True)
    with gradients.collect():
        passes(network, [(3, 2), (2, 5)])
    shapes = {
        name: gradients.reached[p].shape for name, p in network.named_parameters() if p in gradients.reached
    }
    assert shapes == {
        "first.weight": (3, 5),
        "first.bias": (3,),
        "norm.weight": (3,),
        "norm.bias": (3,),
        "last.weight": (1, 3),
        "last.bias": (1,),
        "scale": (1,),
    }
    assert all(p.grad is None for name, p in network.named_parameters() if name.startswith(("first", "norm")))


def test_outside_a_step_slices_belong_to_their_parameters():
    network = Net()
    with Gradients(network.parameters(), sliced=True).collect():
        pass
    passes(network, [(3, 2)])
    assert network.first.weight.grad is not None
    assert network.first.weight.grad.shape == (8, 6)
    assert network.first.weight.grad[3:].abs().max() == 0


def test_adagrad_goes_on_exactly_from_its_state():
    def train(network: nn.Module, optimizer: Adagrad, steps: range) -> None:
        gradients = Gradients(network.parameters(), sliced=True)
        for step in steps:
            with gradients.collect():
                passes(network, [(2 + step, 3)])
            optimizer.step(gradients.reached, 0.1)

    torch.manual_seed(0)
    straight = Net()
    resumed = copy.deepcopy(straight)
    train(straight, Adagrad(list(straight.parameters())), range(4))
    first, second = (Adagrad(list(resumed.parameters())) for _ in range(2))
    train(resumed, first, range(2))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(resumed, second, range(2, 4))
    for mine, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_norm_is_over_what_was_reached():
    network = Net()
    gradients = Gradients(network.parameters(), sliced=True)
    with gradients.collect():
        passes(network, [(3, 2)])
    total = torch.cat([g.flatten() for g in gradients.reached.values()]).norm()
    assert float(gradients.clip(0.0)) == pytest.approx(float(total))
    gradients.clip(0.01)
    assert float(gradients.clip(0.0)) == pytest.approx(0.01, rel=1e-3)
