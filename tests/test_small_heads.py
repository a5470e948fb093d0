"""Attention with heads of a few features: PyTorch's own, only faster."""

from __future__ import annotations

import pytest
import torch

from manynet import elastic
from manynet.elastic import small_heads
from manynet.elastic.small_heads import is_small, small_head_attention


def plainly(qkv: torch.Tensor) -> torch.Tensor:
    query, key, value = (x.transpose(1, 2) for x in qkv.double().chunk(3, 1))
    weights = (query @ key.transpose(1, 2) / query.shape[2] ** 0.5).softmax(-1)
    return (weights @ value).transpose(1, 2)


@pytest.mark.parametrize("chunk", [1, 2**17])
@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0])
@pytest.mark.parametrize(("heads", "size", "tokens"), [(5, 2, 7), (24, 2, 48), (3, 1, 1), (2, 4, 64)])
def test_values_and_slopes_are_those_of_softmax_attention(
    monkeypatch: pytest.MonkeyPatch, chunk: int, scale: float, heads: int, size: int, tokens: int
) -> None:
    monkeypatch.setattr(small_heads, "_CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(heads, 3 * size, tokens, generator=generator)
    qkv[:, : 2 * size] *= scale
    slope = torch.randn(heads, size, tokens, generator=generator)
    ours, theirs = qkv.clone().requires_grad_(), qkv.clone().requires_grad_()
    found, expected = small_head_attention(ours), plainly(theirs)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=2e-4)
    found.backward(slope)
    expected.backward(slope.double())
    assert ours.grad is not None and theirs.grad is not None
    largest = float(theirs.grad.abs().max())
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=2e-4 * max(1.0, largest))


def test_scores_too_far_apart_for_powers_of_two_vanish_nowhere() -> None:
    qkv = torch.zeros(1, 6, 3)
    qkv[0, 0], qkv[0, 1] = 100.0, -100.0  # the box around the keys reaches far beyond them
    qkv[0, 2], qkv[0, 3] = torch.tensor([9.0, -9.0, 0.0]), torch.tensor([9.0, -9.0, 0.0])
    qkv[0, 4:] = torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 7.0]])
    found = small_head_attention(qkv)
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), plainly(qkv), rtol=1e-5, atol=1e-5)


def test_a_layer_gives_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = elastic.Attention(16, 8, 2), torch.randn(3, 5, 16)
    assert is_small(x, 2) and not is_small(x, 16) and not is_small(x.double(), 2)
    fast = layer(x, heads=6)
    monkeypatch.setattr("manynet.elastic.attention.is_small", lambda x, head_dim: False)
    torch.testing.assert_close(fast, layer(x, heads=6), rtol=1e-5, atol=1e-6)


def test_while_it_is_exported_it_is_pytorchs_operator() -> None:
    layer, x = elastic.Attention(16, 8, 2), torch.randn(3, 5, 16)
    program = torch.export.export(layer, (x,))
    names = {str(node.target) for node in program.graph.nodes}
    assert any("scaled_dot_product_attention" in name for name in names)
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-5, atol=1e-6)
