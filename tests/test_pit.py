"""Pooling-based vision transformers: the published sizes, the layers of their own, and a space like any other."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import manynet as mn
from manynet.config.settings import TrainSettings
from manynet.data import load
from manynet.learning.learner import Learner
from manynet.learning.strategy import Strategy
from manynet.search_spaces import pit
from manynet.space.evaluation import fit
from manynet.space.export import export
from manynet.trainers.sandwich import Sandwich
from manynet.trainers.single_path import SinglePath


# The authors say 4.9, 10.6 and 23.5 million parameters, 0.7, 1.4 and 2.9 billion multiply-adds. PiT-Ti's 4.847
# million are 4.85 to two digits, from which their 4.9 must be.
@pytest.mark.parametrize(
    ("arch", "parameters", "macs", "published"),
    [
        (pit.pit_ti, 4_847_272, 699_059_456, (4.9, 0.7)),
        (pit.pit_xs, 10_618_888, 1_394_699_136, (10.6, 1.4)),
        (pit.pit_s, 23_461_912, 2_870_796_096, (23.5, 2.9)),
    ],
    ids=["ti", "xs", "s"],
)
def test_the_published_architectures_cost_what_was_published(
    arch: dict[str, Any], parameters: int, macs: int, published: tuple[float, float]
) -> None:
    assert pit.imagenet.canonical(arch) == arch
    cost = mn.cost(pit.imagenet, arch)
    assert (cost.parameters, cost.macs) == (parameters, macs)
    assert cost.parameters / 1e6 == pytest.approx(published[0], abs=0.055)
    assert cost.macs / 1e9 == pytest.approx(published[1], abs=0.05)


def test_the_published_architectures_are_subnets_of_one_supernet() -> None:
    network = pit.imagenet.build()
    for arch in (pit.pit_ti, pit.pit_xs, pit.pit_s):
        subnet = mn.extract(network, arch, pit.imagenet.example(arch, batch=1))
        assert sum(p.numel() for p in subnet.parameters()) == mn.cost(pit.imagenet, arch).parameters
        assert torch.equal(subnet.network.positions.weight, network.positions.weight[..., : arch["width"]])


@pytest.mark.parametrize("side", [1, 2, 7, 8])
def test_pooling_is_a_grouped_convolution_with_two_outputs_a_channel(side: int) -> None:
    torch.manual_seed(0)
    pool = pit.Pool(6)
    tokens = torch.randn(2, 1 + side * side, 4)
    pooled = pool(tokens)
    grid = tokens[:, 1:].transpose(1, 2).reshape(2, 4, side, side)
    expected = F.conv2d(grid, pool.grid.weight[:8], pool.grid.bias[:8], stride=2, padding=1, groups=4)
    torch.testing.assert_close(pooled[:, 1:], expected.flatten(2).transpose(1, 2))
    first = F.linear(tokens[:, 0], pool.class_token.weight[:8, :4], pool.class_token.bias[:8])
    torch.testing.assert_close(pooled[:, 0], first)


@pytest.mark.parametrize(("heads", "head_dim"), [(1, 4), (3, 2), (2, 6), (3, 6)])
def test_attention_of_any_heads_is_that_of_plain_layers(heads: int, head_dim: int) -> None:
    torch.manual_seed(0)
    layer, inner = pit.Attention(10, 18), heads * head_dim
    x = torch.randn(2, 5, 8)
    query, key, value = (
        F.linear(x, p.weight[:inner, :8], p.bias[:inner]) for p in list(layer.children())[:3]
    )
    parts = []
    for head in range(heads):
        place = slice(head * head_dim, (head + 1) * head_dim)
        scores = query[..., place] @ key[..., place].transpose(1, 2) / math.sqrt(head_dim)
        parts.append(scores.softmax(-1) @ value[..., place])
    expected = F.linear(torch.cat(parts, -1), layer.project.weight[:8, :inner], layer.project.bias[:8])
    torch.testing.assert_close(layer(x, heads, head_dim), expected)


def test_the_whole_network_is_one_of_plain_layers() -> None:
    torch.manual_seed(0)
    arch = {"resolution": 32, "patch_size": 8, "stride": 4, "width": 16, "head_dim": 8}
    for index, (depth, heads) in enumerate([(2, 2), (1, 4), (2, 8)]):
        arch |= {f"stage{index}.depth": depth, f"stage{index}.heads": heads, f"stage{index}.mlp_ratio": 2}
    (images,) = pit.tiny.example(arch, batch=3)
    network = mn.extract(pit.tiny.build().eval(), arch, (images,)).network
    with torch.no_grad():
        # Biases and norms begin at 0 and 1, where mistaking one for another would not show.
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        x = F.conv2d(images, network.patches.weight, network.patches.bias, stride=4).flatten(2).mT
        x = torch.cat([network.class_token.data.expand(3, 1, 16), x + network.positions.weight], dim=1)
        for index, (depth, side) in enumerate([(2, 7), (1, 4), (2, 2)]):
            for number in range(depth):
                x = plain_block(network.stages[index][number], arch[f"stage{index}.heads"])(x)
            if index < 2:
                pool = network.pools[index]
                grid = x[:, 1:].mT.reshape(3, -1, side, side)
                grid = F.conv2d(grid, pool.grid.weight, pool.grid.bias, 2, 1, groups=grid.shape[1])
                first = F.linear(x[:, :1], pool.class_token.weight, pool.class_token.bias)
                x = torch.cat([first, grid.flatten(2).mT], dim=1)
        x = F.layer_norm(x[:, 0], (64,), network.norm.weight, network.norm.bias, 1e-6)
        expected = F.linear(x, network.head.weight, network.head.bias)
        torch.testing.assert_close(network(images, arch=arch), expected, atol=1e-5, rtol=1e-5)


def plain_block(block: pit.Block, heads: int) -> nn.Module:
    """PyTorch's own transformer block with these weights."""
    width, hidden = block.expand.in_features, block.expand.out_features
    plain = nn.TransformerEncoderLayer(
        width, heads, hidden, 0.0, F.gelu, layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    own = block.state_dict()
    parts = [("norm1", "norm1"), ("norm2", "norm2"), ("expand", "linear1"), ("project", "linear2")]
    parts.append(("attention.project", "self_attn.out_proj"))
    state = {f"{new}.{kind}": own[f"{old}.{kind}"] for old, new in parts for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        qkv = [own[f"attention.{name}.{kind}"] for name in ("query", "key", "value")]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(qkv)
    plain.load_state_dict(state)
    return plain.eval()


def test_the_class_token_has_no_position_and_every_patch_has_one() -> None:
    network = pit.tiny.build().eval()
    arch = pit.tiny.canonical(pit.tiny.largest | {"resolution": 32, "stride": 4})
    (images,) = pit.tiny.example(arch)
    seen: list[torch.Tensor] = []
    network.stages[0][0].register_forward_hook(lambda m, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        network(images, arch=arch)
        network.positions.weight += 1
        network(images, arch=arch)
    moved = seen[1] - seen[0]
    assert torch.equal(moved[:, 0], torch.zeros_like(moved[:, 0]))
    torch.testing.assert_close(moved[:, 1:], torch.ones_like(moved[:, 1:]))


def test_canonical_is_idempotent_and_every_choice_matters() -> None:
    rng = np.random.default_rng(0)
    for space in (pit.tiny, pit.imagenet):
        for _ in range(5):
            raw = space.draw(rng)
            arch = space.canonical(raw)
            # Stages are never skipped, so no combination makes a choice idle.
            assert arch == raw == space.canonical(arch)


@pytest.mark.parametrize("key", sorted(pit.tiny.domains))
def test_every_option_gives_another_output(key: str) -> None:
    torch.manual_seed(0)
    space, network = pit.tiny, pit.tiny.build().eval()
    (images,) = space.example(space.largest, batch=2)
    outputs = []
    for option in space.domains[key].categories:
        arch = space.canonical(space.largest | {key: option})
        with torch.no_grad():
            outputs.append(network(*fit((images,), space, arch), arch=arch))
    assert all(not torch.allclose(one, other) for one, other in itertools.combinations(outputs, 2))


def test_largest_and_smallest_bound_the_cost_of_every_sample() -> None:
    for space in (pit.tiny, pit.imagenet):
        costs = [mn.cost(space, space.sample(seed)).macs for seed in range(10)]
        assert mn.cost(space, space.smallest).macs <= min(costs)
        assert max(costs) <= mn.cost(space, space.largest).macs


@pytest.mark.parametrize(
    ("patch_size", "stride", "got"),
    [(4, 5, "patch_size 4, stride 5"), (8, 4, "patch_size 8, stride 4"), (3, 2, "patch_size 3, stride 2")],
)
def test_strides_that_leave_out_pixels_are_refused(patch_size: int, stride: int, got: str) -> None:
    with pytest.raises(ValueError, match=f"stride must be at most patch_size .* got resolution 8, {got}"):
        pit.space(
            "misfit",
            resolution=(8,),
            patch_size=(patch_size,),
            stride=(stride,),
            width=(8,),
            head_dim=(4,),
            stages=(pit.Stage((1,), (1,)),),
            mlp_ratio=(1,),
        )


@pytest.mark.parametrize("strategy", [Sandwich(samples=1), SinglePath()], ids=["sandwich", "single path"])
def test_it_learns_digits(strategy: Strategy) -> None:
    torch.manual_seed(0)
    data = load("digits", channels=1, image_size=32)
    settings = TrainSettings(steps=16, batch_size=32, warmup=0, learning_rate=3e-3)
    learner = Learner(pit.tiny.build(), pit.tiny, strategy, settings)
    losses = [float(learner.train_on(b)["loss"]) for b in itertools.islice(data.train.stream(32, seed=0), 16)]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_an_export_gives_the_same_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    arch = pit.tiny.canonical(pit.tiny.sample(3) | {"resolution": 16, "stride": 4})
    subnet = mn.extract(pit.tiny.build(), arch, pit.tiny.example(arch)).eval()
    # It compares weights, torch.export and ONNX with the subnet, and raises where they differ.
    export(subnet, tmp_path / "subnet", pit.tiny, "search_spaces.pit:tiny", pit.tiny.example(arch, batch=5))
    (images,) = pit.tiny.example(arch, batch=7)
    with torch.no_grad():
        torch.testing.assert_close(
            mn.Subnet.load(tmp_path / "subnet")(images), subnet(images), atol=1e-5, rtol=1e-5
        )
