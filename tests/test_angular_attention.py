"""Linear-angular attention: its formula, its convolutions, its slices, and the branch that leaves nothing behind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import manynet as mn
from manynet import elastic
from manynet.elastic.angular_attention import EPSILON, AngularProducts
from manynet.elastic.depthwise import TokenGrid, TokenTaps
from manynet.elastic.recorder import Recorder
from manynet.latency.operations import calls
from manynet.latency.table_timing import single_operation
from manynet.search_spaces import pit, vit
from manynet.space.export import export

SPACES = {"castling-tiny": vit.castling_tiny, "castling-32": vit.castling_32, "pit": pit.castling_tiny}


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().sum(-1, keepdim=True) + EPSILON).sqrt()


def convolved(branch: nn.Module | None, value: torch.Tensor, prefix: int) -> torch.Tensor:
    """What a branch adds, by PyTorch's own convolution: ``(B, N, heads, d)`` to ``(B, N, heads, d)``."""
    batch, tokens, heads, head_dim = value.shape
    if isinstance(branch, TokenTaps):
        planes = value.movedim(2, 1)
        weight = branch.weight[:heads, None, :, None]
        return F.conv2d(planes, weight, padding=(4, 0), groups=heads).movedim(1, 2)
    added = torch.zeros_like(value)
    if isinstance(branch, TokenGrid):
        side, features = math.isqrt(tokens - prefix), heads * head_dim
        planes = value[:, prefix:].reshape(batch, side, side, features).permute(0, 3, 1, 2)
        grid = F.conv2d(planes.contiguous(), branch.weight[:features], padding=1, groups=features)
        added[:, prefix:] = grid.permute(0, 2, 3, 1).reshape(batch, side * side, heads, head_dim)
    return added


def plainly(
    layer: elastic.LinearAngularAttention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """The formula, one example, head and query at a time."""
    prefix = getattr(layer.branch, "prefix_tokens", 0)
    output = convolved(layer.branch, value, prefix)
    for example in range(len(value)):
        for head in range(value.shape[2]):
            q, k, v = (x[example, :, head] for x in (query, key, value))
            for token in range(len(q)):
                likeness = (unit(k) @ unit(q[token])) / math.pi
                constant = v[token] if layer.products.constant == "released" else v.sum(0)
                output[example, token, head] += unit(constant / 2 + likeness @ v)
    return output.flatten(2)


def made(tokens: int, head_dim: int, heads: int = 2, batch: int = 2) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values that share memory, as those of one projection do."""
    torch.manual_seed(0)
    return torch.randn(batch, tokens, heads, 3, head_dim, dtype=torch.float64).unbind(3)


@pytest.mark.parametrize("branch", ["taps", "grid", "none"])
@pytest.mark.parametrize("constant", ["released", "exact"])
@pytest.mark.parametrize(("tokens", "head_dim"), [(10, 4), (5, 16), (26, 26), (2, 3), (17, 5)])
def test_it_is_the_formula(constant: str, branch: str, tokens: int, head_dim: int) -> None:
    query, key, value = made(tokens, head_dim)
    layer = elastic.LinearAngularAttention(3, head_dim, constant, branch, prefix_tokens=1).double()
    kept = [x.clone() for x in (query, key, value)]
    expected = plainly(layer, query, key, value)
    torch.testing.assert_close(layer(query, key, value), expected)
    with torch.inference_mode():
        torch.testing.assert_close(layer(query, key, value), expected)
        one = [x[:, :, :1] for x in (query, key, value)]
        torch.testing.assert_close(layer(*one), plainly(layer, *one))
    assert all(torch.equal(x, before) for x, before in zip((query, key, value), kept, strict=True))


@pytest.mark.parametrize("constant", ["released", "exact"])
def test_slopes_are_those_of_the_formula(constant: str) -> None:
    layer = elastic.LinearAngularAttention(2, 3, constant, "taps").double()
    ours = [x.clone().requires_grad_() for x in made(5, 3)]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    slope = torch.randn(2, 5, 6, dtype=torch.float64)
    inputs = [*ours, layer.branch.weight]
    found = torch.autograd.grad(layer(*ours), inputs, slope)
    expected = torch.autograd.grad(plainly(layer, *theirs), [*theirs, layer.branch.weight], slope)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("branch", ["taps", "grid", "none"])
@pytest.mark.parametrize("constant", ["released", "exact"])
def test_zero_tokens_give_zeros_and_finite_slopes(constant: str, branch: str) -> None:
    layer = elastic.LinearAngularAttention(2, 4, constant, branch)
    inputs = [torch.zeros(1, 9, 2, 4, requires_grad=True) for _ in range(3)]
    output = layer(*inputs)
    assert torch.equal(output, torch.zeros(1, 9, 8))
    output.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in inputs)


@pytest.mark.parametrize("branch", ["taps", "grid", "none"])
@pytest.mark.parametrize(("constant", "tokens"), [("released", 9), ("exact", 25)])
def test_half_precision_is_near(constant: str, branch: str, tokens: int) -> None:
    torch.manual_seed(0)
    options = {"constant": constant, "branch": branch}
    layer = elastic.Attention(32, 2, 16, kinds=("linear-angular",), angular=options)
    x = torch.randn(2, tokens, 32)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        output, branches = attend(layer, x, math.inf)
        assert output.dtype == torch.bfloat16 and branches.regulariser.dtype == torch.float32
        with torch.inference_mode():
            inferred = layer(x)
    with torch.inference_mode():
        whole = layer.bfloat16()(x.bfloat16())
    for found in (output, inferred, whole):
        torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"constant": "half"}, r"^constant must be one of \(released, exact\), but got 'half'$"),
        ({"branch": "conv"}, r"^branch must be one of \(taps, grid, none\), but got 'conv'$"),
    ],
)
def test_an_option_that_there_is_not_is_one_clear_line(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(elastic.ChoiceError, match=message):
        elastic.LinearAngularAttention(2, 4, **arguments)
    with pytest.raises(elastic.ChoiceError, match=message):
        vit.space("x", **one_block(), attention=("linear-angular",), angular=arguments)


def one_block() -> dict[str, Any]:
    return {
        "resolution": (8,),
        "patch_size": (4,),
        "depth": (1,),
        "width": (8,),
        "heads": (1,),
        "mlp_ratio": (1,),
    }


@pytest.mark.parametrize("kinds", [("softmax", "hard"), (), "softmax"])
def test_a_kind_that_there_is_not_is_one_clear_line(kinds: Any) -> None:
    message = r"^attention must be some of \(softmax, linear-angular\), but got "
    for make in (
        lambda: elastic.Attention(8, 2, 4, kinds=kinds),
        lambda: vit.space("x", **one_block(), attention=kinds),
        lambda: pit.Attention(8, 8, 2, kinds),
    ):
        with pytest.raises(elastic.ChoiceError, match=message):
            make()
    with pytest.raises(elastic.ChoiceError, match=r"one of \(softmax\), but got 'linear-angular'"):
        elastic.Attention(8, 2, 4)(torch.randn(1, 3, 8), kind="linear-angular")


def test_a_grid_needs_a_square_of_tokens() -> None:
    layer = elastic.LinearAngularAttention(1, 4, branch="grid", prefix_tokens=1)
    for tokens in (1, 9):
        with pytest.raises(elastic.ChoiceError, match=f"square grid after 1 others, but got {tokens} in all"):
            layer(*torch.randn(3, 1, tokens, 1, 4).unbind(0))


@pytest.mark.parametrize("branch", ["taps", "grid", "none"])
def test_fewer_heads_and_features_are_those_of_a_smaller_layer(branch: str) -> None:
    torch.manual_seed(0)
    options = {"branch": branch, "prefix_tokens": 1}
    kinds = ("softmax", "linear-angular")
    large = elastic.Attention(12, 4, 5, kinds=kinds, angular=options)
    small = elastic.Attention(9, 2, 5, kinds=kinds, angular=options)
    with torch.no_grad():
        for parameter, whole in zip(small.parameters(), large.parameters(), strict=True):
            parameter.copy_(whole[tuple(map(slice, parameter.shape))])
    x = torch.randn(3, 10, 9)
    for kind in kinds:
        torch.testing.assert_close(large(x, heads=2, kind=kind), small(x, kind=kind))
    assert not torch.allclose(small(x, kind="softmax"), small(x, kind="linear-angular"))


def test_a_soft_kind_is_the_weighted_sum_and_its_cost_an_expectation() -> None:
    torch.manual_seed(0)
    layer = elastic.Attention(8, 2, 4, kinds=("softmax", "linear-angular"), angular={"branch": "none"})
    x, weights = torch.randn(2, 5, 8), torch.tensor([0.25, 0.75], requires_grad=True)
    kind = elastic.soft("kind", layer.kinds, weights)
    apart = [layer(x, kind=name) for name in layer.kinds]
    output = layer(x, kind=kind)
    torch.testing.assert_close(output, 0.25 * apart[0] + 0.75 * apart[1])
    output.sum().backward()
    assert weights.grad is not None and weights.grad.abs().min() > 0
    macs = []
    for choice in (*layer.kinds, kind):
        with Recorder() as recorder:
            layer(x, kind=choice)
        macs.append(recorder.macs)
    assert [int(macs[2].at({"kind": option})) for option in (0, 1)] == macs[:2]


@pytest.mark.parametrize("name", ["castling-tiny", "castling-32", "pit", "taps", "none", "grid"])
def test_subnets_cost_what_they_are_metered_at(name: str) -> None:
    torch.manual_seed(0)
    space = SPACES.get(name) or mixed_space(name)
    network = space.build().eval()
    for seed in range(4):
        arch = space.sample(seed)
        inputs = space.example(arch, batch=2)
        subnet = mn.extract(network, arch, space.example(arch, batch=1))
        with torch.no_grad():
            torch.testing.assert_close(subnet(*inputs), network(*inputs, arch=arch), atol=1e-5, rtol=1e-5)
        cost = mn.cost(space, arch)
        assert sum(p.numel() for p in subnet.parameters()) == cost.parameters
        with FlopCounterMode(display=False) as counter:
            subnet.to("meta")(*space.example(arch, batch=1, device="meta"))
        assert counter.get_total_flops() == 2 * cost.macs


def mixed_space(branch: str) -> mn.SearchSpace:
    options = one_block() | {"resolution": (8, 20), "patch_size": (2, 4), "depth": (1, 2), "heads": (1, 2)}
    return vit.space(
        f"mixed-{branch}",
        **options,
        head_dim=4,
        channels=1,
        classes=10,
        attention=("softmax", "linear-angular"),
        angular={"branch": branch},
    )


def test_what_belongs_to_one_kind_leaves_subnets_of_the_other() -> None:
    space = vit.castling_tiny
    base = {key: value for key, value in space.largest.items() if not key.endswith(".attention")}
    network = space.build()
    for kind, kept in (("softmax", 0), ("linear-angular", 4)):
        arch = base | {f"block{block}.attention": kind for block in range(4)}
        subnet = mn.extract(network, arch, space.example(arch, batch=1))
        assert sum("angular" in key for key, _ in subnet.named_parameters()) == kept
    plain = vit.tiny.build().state_dict()
    assert {key for key in network.state_dict() if "angular" not in key} == set(plain)


def test_spaces_without_the_choice_stay_what_they_were() -> None:
    assert vit.tiny.digest == "3d8376a4ba24ac82"
    assert vit.deit_scaling.digest == "cb041fa6dcbbcce7"
    assert pit.tiny.digest == "68c480d1446ab4ea"
    assert not any("attention" in key for space in (vit.tiny, pit.tiny) for key in space.domains)


def test_options_without_a_choice_make_another_space() -> None:
    spaces = [
        vit.space("x", **one_block(), attention=attention, angular=angular)
        for attention in (("softmax",), ("linear-angular",), ("softmax", "linear-angular"))
        for angular in (None, {"constant": "exact"})
    ]
    assert len({space.digest for space in spaces}) == 5
    assert [sum("attention" in key for key in space.domains) for space in spaces] == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(("branch", "layer"), [("taps", "TokenTaps"), ("grid", "TokenGrid")])
def test_its_operations_can_be_in_a_table_and_run_alone(branch: str, layer: str) -> None:
    space = mixed_space(branch)
    arch = space.largest | {f"block{block}.attention": "linear-angular" for block in range(2)}
    found = {str(call.operations[0]): call for call in calls(space, arch)}
    for kind in ("AngularProducts", layer):
        (name,) = [name for name in found if name.startswith(kind)]
        call = found[name]
        network, inputs = single_operation(call, call.operations[0])
        with torch.inference_mode(), Recorder() as recorder:
            network(*inputs)
        ((use,),) = recorder.uses.values()
        assert (use.input, use.geometry) == (call.operations[0].input, call.geometry)


@pytest.mark.parametrize("branch", ["taps", "grid"])
def test_an_export_gives_the_same_and_holds_nothing_of_training(branch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    space = {"taps": taps_space, "grid": grid_space}[branch]
    arch = space.largest | {"block0.attention": "linear-angular", "block1.attention": "softmax"}
    subnet = mn.extract(space.build(), space.canonical(arch), space.example(arch)).eval()
    (images,) = space.example(arch, batch=3)
    # Writing compares PyTorch's program and ONNX Runtime with the subnet.
    with elastic.auxiliary(threshold=0.0):
        export(subnet, tmp_path, space, f"{__file__}:{branch}_space", (images,))
    assert json.loads((tmp_path / "arch.json").read_text())["batch"] == "any"
    program = torch.export.load(tmp_path / "model.pt2")
    # Softmax attention is one operator; the branch of training would be several.
    assert not [node for node in program.graph.nodes if "softmax" in str(node.target)]


taps_space, grid_space = mixed_space("taps"), mixed_space("grid")


def attend(layer: nn.Module, x: torch.Tensor, threshold: float) -> tuple[torch.Tensor, elastic.Auxiliary]:
    with elastic.auxiliary(threshold=threshold) as branch:
        return layer(x), branch


@pytest.fixture
def layer() -> elastic.Attention:
    torch.manual_seed(0)
    return elastic.Attention(8, 2, 4, kinds=("linear-angular",), angular={"branch": "taps"}).train()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0, 1.1, 6.0, math.inf])
def test_the_branch_is_masked_softmax_attention_before_the_normalisation(
    layer: elastic.Attention, threshold: float
) -> None:
    x = 2 * torch.randn(3, 6, 8)
    output, branch = attend(layer, x, threshold)
    query, key, value = (y.transpose(1, 2) for y in layer.qkv(x).view(3, 6, 2, 3, 4).unbind(3))
    attention = (query @ key.transpose(2, 3) / 2).softmax(-1)
    masked = torch.where(attention > threshold / 6, attention, 0.0)
    linear = value / 2 + unit(query) @ unit(key).transpose(2, 3) @ value / math.pi
    mixed = unit(linear + masked @ value).transpose(1, 2)
    mixed = mixed + convolved(layer.angular.branch, value.transpose(1, 2), 0)
    torch.testing.assert_close(output, layer.proj(mixed.flatten(2)))
    (call,) = branch.calls
    assert (call.layer, call.entries) == (layer.angular.products, 3 * 2 * 6 * 6)
    assert int(call.open) == int((masked > 0).sum())
    torch.testing.assert_close(branch.regulariser, masked.sum() / (3 * 2 * 6))
    assert (int(call.open) == call.entries) == (threshold == 0)
    assert (int(call.open) == 0) == (threshold >= 6)


def test_the_regulariser_teaches_queries_and_keys(layer: elastic.Attention) -> None:
    x, threshold = 2 * torch.randn(3, 6, 8), 1.2
    (slope,) = torch.autograd.grad(attend(layer, x, threshold)[1].regulariser, layer.qkv.weight)
    by_part = slope.view(2, 3, 4, 8).abs().amax((0, 2, 3))
    assert by_part[0] > 0 and by_part[1] > 0 and by_part[2] == 0
    before = attend(layer, x, threshold)[1].regulariser
    for _ in range(200):
        _, branch = attend(layer, x, threshold)
        (slope,) = torch.autograd.grad(branch.regulariser, layer.qkv.weight)
        with torch.no_grad():
            layer.qkv.weight -= slope
    assert branch.regulariser < 0.5 * before


def test_a_closed_branch_and_none_give_the_same_to_the_last_bit(layer: elastic.Attention) -> None:
    x = torch.randn(3, 6, 8)
    with_none = layer(x)
    assert torch.equal(attend(layer, x, 6.0)[0], with_none)
    assert not torch.equal(attend(layer, x, 0.0)[0], with_none)
    with torch.no_grad():
        evaluated = layer.eval()(x)
        output, branch = attend(layer, x, 0.0)
    assert torch.equal(output, evaluated) and not branch.calls
    assert branch.regulariser == 0


def test_an_extracted_subnet_is_the_network_with_the_branch_switched_off() -> None:
    torch.manual_seed(0)
    space = vit.castling_tiny
    arch = space.largest | {f"block{block}.attention": "linear-angular" for block in range(4)}
    network = space.build().train()
    (images,) = space.example(arch)
    with elastic.auxiliary(threshold=0.0) as branch:
        trained = network(images, arch=arch)
        subnet = mn.extract(network, arch, space.example(arch)).eval()
    assert len(branch.calls) == 4 and all(int(call.open) == call.entries for call in branch.calls)
    names = {module: name for name, module in network.named_modules()}
    assert [names[call.layer].split(".")[1] for call in branch.calls] == ["0", "1", "2", "3"]
    with torch.no_grad():
        off = network.eval()(images, arch=arch)
        assert torch.equal(subnet(images), off)
    assert not torch.allclose(trained, off)
    assert set(dict(subnet.network.named_parameters())) <= set(dict(network.named_parameters()))


@pytest.mark.parametrize("threshold", [-0.1, math.nan])
def test_a_threshold_below_zero_is_one_clear_line(threshold: float) -> None:
    refused = pytest.raises(elastic.ChoiceError, match="^threshold must be at least 0, but got")
    with refused, elastic.auxiliary(threshold=threshold):
        pass


def test_a_constant_that_sums_all_values_is_angular_attention_s_own() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 64, 1, 16).unbind(0)
    cosine = (unit(query[0, :, 0]) @ unit(key[0, :, 0]).T).clamp(-1, 1)
    angular = (1 - cosine.acos() / math.pi) @ value[0, :, 0]
    nearness = {}
    for constant in ("released", "exact"):
        mixed = AngularProducts(constant)(query, key, value)[0, 0]
        nearness[constant] = float(F.cosine_similarity(mixed, angular).mean())
    assert nearness["exact"] > 0.99 and nearness["released"] < 0.6
