"""Attention with heads of a few features: PyTorch's own, only faster."""

from __future__ import annotations

import pytest
import torch

from manynet import elastic
from manynet.elastic.small_heads import is_small, small_head_attention


def plainly(qkv: torch.Tensor) -> torch.Tensor:
    batch, tokens, width = qkv.shape
    heads = qkv.double().view(batch, tokens, width // 6, 3, 2)
    query, key, value = heads.permute(3, 0, 2, 1, 4).unbind(0)
    weights = (query @ key.transpose(2, 3) / 2**0.5).softmax(-1)
    return (weights @ value).transpose(1, 2).reshape(batch, tokens, -1)


def made(batch: int, heads: int, tokens: int, scale: float = 1.0) -> torch.Tensor:
    """Query, key and value, the first two scaled."""
    qkv = torch.randn(batch, tokens, heads, 3, 2, generator=torch.Generator().manual_seed(0))
    qkv[:, :, :, :2] *= scale
    return qkv.flatten(2)


@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0])
@pytest.mark.parametrize(("batch", "heads", "tokens"), [(5, 1, 7), (3, 8, 48), (1, 3, 1), (2, 4, 64)])
def test_values_and_slopes_are_those_of_softmax_attention(
    scale: float, batch: int, heads: int, tokens: int
) -> None:
    qkv = made(batch, heads, tokens, scale)
    slope = torch.randn(batch, tokens, heads * 2, generator=torch.Generator().manual_seed(1))
    ours, theirs = qkv.clone().requires_grad_(), qkv.clone().requires_grad_()
    found, expected = small_head_attention(ours), plainly(theirs)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=2e-4 * max(scale, 0.01))
    found.backward(slope)
    expected.backward(slope.double())
    assert ours.grad is not None and theirs.grad is not None
    largest = float(theirs.grad.abs().max())
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=2e-4 * max(1.0, largest))


def test_every_number_of_threads_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in (1, 2, 4, 16):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        qkv = made(7, 2, 5).requires_grad_()
        mixed = small_head_attention(qkv)
        mixed.square().sum().backward()
        assert qkv.grad is not None
        results.append((mixed, qkv.grad))
    for mixed, slope in results[1:]:
        assert torch.equal(mixed, results[0][0]) and torch.equal(slope, results[0][1])


def test_scores_too_far_apart_for_powers_of_two_vanish_nowhere() -> None:
    tokens = [[100.0, -100.0, 9.0, 9.0, 1.0, 3.0], [100.0, -100.0, -9.0, -9.0, 2.0, 5.0]]
    qkv = torch.tensor([[*tokens, [100.0, -100.0, 0.0, 0.0, 4.0, 7.0]]])
    found = small_head_attention(qkv)  # the box around the keys reaches far beyond them
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), plainly(qkv), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("feature", range(6))
def test_what_is_not_a_number_is_not_hidden(feature: int) -> None:
    qkv = made(2, 3, 5)
    qkv[0, 1, feature] = torch.nan
    found = small_head_attention(qkv)
    assert found[0, 1, :2].isnan().any() and found[1].isfinite().all() and found[0, :, 2:].isfinite().all()


def test_no_examples_give_none() -> None:
    assert small_head_attention(torch.empty(0, 5, 12)).shape == (0, 5, 4)


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
