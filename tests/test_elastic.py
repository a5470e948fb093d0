"""Elastic layers: slices of the largest weights, checked against PyTorch's own layers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from manynet import elastic
from manynet.elastic.embedding import resample_kernel
from manynet.elastic.layer import ChoiceError
from manynet.elastic.recorder import Recorder, recording


def test_linear_runs_the_leading_slice() -> None:
    layer = elastic.Linear(8, 6)
    x = torch.randn(3, 5)
    expected = F.linear(x, layer.weight[:4, :5], layer.bias[:4])
    torch.testing.assert_close(layer(x, out_features=4, in_features=5), expected)
    torch.testing.assert_close(layer(x, out_features=4), expected)
    assert layer(torch.randn(2, 8)).shape == (2, 6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding", [0, 1, "same", "valid"])
def test_conv_runs_the_leading_slice(bias: bool, padding: int | str) -> None:
    layer = elastic.Conv2d(8, 6, 3, padding=padding, bias=bias)
    x = torch.randn(2, 5, 7, 9)
    expected = F.conv2d(x, layer.weight[:4, :5], layer.bias[:4] if bias else None, padding=padding)
    torch.testing.assert_close(layer(x, out_channels=4, in_channels=5), expected)


def test_depthwise_conv_follows_its_input() -> None:
    layer = elastic.Conv2d(8, 8, 3, padding=1, stride=2, groups=8)
    x = torch.randn(2, 5, 7, 9)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight[:5], layer.bias[:5], 2, 1, 1, 5))
    with pytest.raises(
        ChoiceError, match="out_channels of a depthwise convolution must be in_channels, 5, but got 4"
    ):
        layer(x, out_channels=4)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_updates_only_its_slice(momentum: float | None) -> None:
    layer = elastic.BatchNorm2d(8, momentum=momentum)
    plain = nn.BatchNorm2d(5, momentum=momentum)
    for _ in range(2):
        x = torch.randn(4, 5, 3, 3) + 2
        torch.testing.assert_close(layer(x, 5), plain(x))
    torch.testing.assert_close(layer.running_mean[:5], plain.running_mean)
    assert torch.equal(layer.running_mean[5:], torch.zeros(3))
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x))


def test_layer_norm_takes_the_statistics_of_its_slice() -> None:
    layer = elastic.LayerNorm(8)
    x = torch.randn(2, 3, 5)
    torch.testing.assert_close(layer(x), F.layer_norm(x, (5,), eps=1e-6))


def test_attention_with_fewer_heads_is_attention_built_with_fewer_heads() -> None:
    large, small = elastic.Attention(12, 4, 5), elastic.Attention(9, 2, 5)
    small.load_state_dict(
        {name: large.state_dict()[name][tuple(map(slice, p.shape))] for name, p in small.state_dict().items()}
    )
    x = torch.randn(2, 7, 9)
    torch.testing.assert_close(large(x, heads=2), small(x))
    assert (large.heads, small.heads) == (4, 2)
    qkv = F.linear(x, large.qkv.weight[:30, :9], large.qkv.bias[:30])
    query, key, value = qkv.view(2, 7, 2, 3, 5).permute(3, 0, 2, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    expected = F.linear(mixed, large.proj.weight[:9, :10], large.proj.bias[:9])
    torch.testing.assert_close(small(x), expected)


def test_patch_embedding_at_its_own_size_is_a_convolution() -> None:
    layer = elastic.PatchEmbedding(3, 10, 4)
    x = torch.randn(2, 3, 8, 12)
    expected = F.conv2d(x, layer.weight[:6], layer.bias[:6], stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(layer(x, width=6), expected)


def test_patches_overlap_at_a_smaller_stride() -> None:
    layer = elastic.PatchEmbedding(3, 10, 4)
    x = torch.randn(2, 3, 8, 10)
    expected = F.conv2d(x, layer.weight[:6], layer.bias[:6], stride=2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(layer(x, width=6, stride=2), expected)
    assert layer(x, patch_size=2, stride=2).shape == (2, 20, 10)


def test_a_resampled_kernel_gives_an_enlarged_patch_the_same_token() -> None:
    kernel, patch = torch.randn(5, 2, 4, 4), torch.randn(3, 2, 4, 4)
    enlarged = F.interpolate(patch, (8, 8), mode="bilinear", antialias=True)
    before = torch.einsum("oihw,bihw->bo", kernel, patch)
    after = torch.einsum("oihw,bihw->bo", resample_kernel(kernel, 8), enlarged)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_position_embedding_keeps_its_prefix_and_interpolates_the_grid() -> None:
    layer = elastic.PositionEmbedding(6, grid=4, prefix_tokens=1)
    assert torch.equal(layer(4, 6), layer.weight)
    resized = layer(7, 5)
    assert resized.shape == (1, 50, 5)
    assert torch.equal(resized[:, 0], layer.weight[:, 0, :5])
    with torch.no_grad():
        layer.weight[:, 1:] = 3.0
    torch.testing.assert_close(layer(7, 5)[:, 1:], torch.full((1, 49, 5), 3.0))


def test_parameter_slices_every_dimension() -> None:
    layer = elastic.Parameter(torch.arange(12.0).view(3, 4))
    assert torch.equal(layer(2, 3), layer.data[:2, :3])
    assert torch.equal(layer(None, 3), layer.data[:, :3])
    assert layer() is layer.data


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: elastic.Linear(8, 6)(torch.zeros(1, 8), out_features=7),
            "out_features must be an integer from 1 to 6, but got 7",
        ),
        (
            lambda: elastic.Linear(8, 6)(torch.zeros(1, 9)),
            "in_features must be an integer from 1 to 8, but got 9",
        ),
        (
            lambda: elastic.Linear(8, 6)(torch.zeros(1, 8), in_features=4),
            "in_features must be the input's size, but got 4",
        ),
        (lambda: elastic.Linear(8, 6)(torch.zeros(1, 8), out_features=0), "out_features must be an integer"),
        (
            lambda: elastic.Linear(8, 6)(torch.zeros(1, 8), out_features=2.0),
            "out_features must be an integer",
        ),
        (lambda: elastic.Conv2d(8, 6, 3, groups=2), "groups must be 1, or equal"),
        (lambda: elastic.Conv2d(8, 6, 3, padding_mode="circular"), "padding_mode must be 'zeros'"),
        (lambda: elastic.BatchNorm2d(4)(torch.zeros(1, 3, 2, 2), 2), "num_features must be the input's size"),
        (
            lambda: elastic.PatchEmbedding(1, 4, 4)(torch.zeros(1, 1, 8, 8), patch_size=3),
            "patch_size must divide",
        ),
        (
            lambda: elastic.PatchEmbedding(1, 4, 4)(torch.zeros(1, 1, 9, 9), stride=2),
            "stride must divide the image's sides less the patch size of 4, 9 and 9, but got 2",
        ),
        (
            lambda: elastic.PatchEmbedding(1, 4, 4)(torch.zeros(1, 3, 8, 8)),
            "in_channels must be an integer from 1 to 1",
        ),
        (
            lambda: elastic.choose({"a": lambda x: x}, "b", torch.zeros(1)),
            "the choice must be one of .a., but got 'b'",
        ),
        (
            lambda: elastic.repeat([lambda x: x], 2, torch.zeros(1)),
            "depth must be an integer from 1 to 1, but got 2",
        ),
        (lambda: elastic.Parameter(torch.zeros(2))(1, 1), "at most 1 sizes"),
    ],
)
def test_a_wrong_choice_is_one_clear_line(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ChoiceError, match=message):
        call()


def test_a_layer_narrower_than_its_input_is_refused() -> None:
    with pytest.raises(ChoiceError, match="in_channels must be an integer from 1 to 8"):
        elastic.Conv2d(8, 8, 3)(torch.zeros(1, 9, 8, 8))


def test_an_error_in_a_forward_pass_leaves_no_recorder_behind() -> None:
    layer = elastic.Linear(4, 4)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ChoiceError), Recorder(metering=True):
        layer(torch.zeros(1, 5))
    assert recording() is None
    assert layer(torch.ones(1, 4)).abs().sum() > 0
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_gradients_reach_only_the_slice() -> None:
    layer = elastic.Linear(4, 4)
    layer(torch.ones(1, 2), out_features=3).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad[:3, :2].abs().min() > 0
    assert layer.weight.grad[3:].abs().max() == 0 == layer.weight.grad[:, 2:].abs().max()
