"""Attention maps of both families of vision transformers, and who refuses to give them."""

import math

import pytest
import torch
from torch import nn

import manynet as mn
from manynet import elastic
from manynet.search_spaces import pit, vit
from manynet.search_spaces.vit import AttentionMaps

FAMILIES = {"vit": (vit.tiny, vit.castling_tiny, {1, 2}), "pit": (pit.tiny, pit.castling_tiny, {1, 3})}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[mn.SearchSpace, mn.SearchSpace, list[int], nn.Module]:
    torch.manual_seed(0)
    space, mixed, depths = FAMILIES[request.param]
    return space, mixed, sorted(depths, reverse=True), space.build().eval()


def by_hand(network: nn.Module, arch: mn.Architecture, images: torch.Tensor) -> list[torch.Tensor]:
    """Maps of all blocks, of the queries and keys that arrive in an ordinary forward pass."""
    maps: list[torch.Tensor] = []

    def packed(module: elastic.Attention, inputs: tuple[torch.Tensor, ...]) -> None:
        query, key, _ = inputs[0].unflatten(2, (-1, 3, module.head_dim)).unbind(3)
        maps.append(softmax_of(query, key))

    parts: dict[str, torch.Tensor] = {}

    def separate(name: str, dim: int, output: torch.Tensor) -> None:
        parts[name] = output.unflatten(2, (-1, dim))
        if len(parts) == 2:
            maps.append(softmax_of(parts.pop("query"), parts.pop("key")))

    for name, module in network.named_modules():
        if name.endswith(".mix"):
            module.register_forward_pre_hook(packed)
        if isinstance(network, pit.PoolingTransformer) and name.endswith(
            ("attention.query", "attention.key")
        ):
            last = name.rpartition(".")[2]
            module.register_forward_hook(lambda m, i, o, last=last: separate(last, arch["head_dim"], o))
    with torch.no_grad():
        network(images, arch=arch)
    return maps


def softmax_of(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    scores = torch.einsum("bnhd,bmhd->bhnm", query, key) / math.sqrt(query.shape[-1])
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def test_maps_are_the_softmax_of_what_the_blocks_compare(family) -> None:  # type: ignore[no-untyped-def]
    space, _, depths, network = family
    arch = space.largest
    (images,) = space.example(arch, batch=2)
    with torch.no_grad():
        maps = AttentionMaps(network, depths)(images, arch=arch)
        outside = network(images, arch=arch)
        with elastic.attention_maps():
            assert torch.equal(network(images, arch=arch), outside)
    expected = by_hand(network, arch, images)
    assert len(maps) == len(depths)
    for depth, found in zip(depths, maps, strict=True):
        torch.testing.assert_close(found, expected[depth - 1])
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]))


def test_maps_are_extracted_and_exported(family) -> None:  # type: ignore[no-untyped-def]
    space, _, depths, network = family
    arch = space.smallest if space is vit.tiny else space.largest
    depths = [1] if space is vit.tiny else depths
    (images,) = space.example(arch, batch=2)
    subnet = mn.extract(AttentionMaps(network, depths), arch, (images,))
    with torch.no_grad():
        expected = AttentionMaps(network, depths)(images, arch=arch)
        exported = torch.export.export(subnet, (images,)).module()(images)
        for one, other, third in zip(expected, subnet(images), exported, strict=True):
            torch.testing.assert_close(one, other)
            torch.testing.assert_close(one, third)
    assert not any(name.startswith("network.network.head") for name, _ in subnet.named_parameters())


def test_a_space_that_needs_maps_refuses_linear_angular_blocks(family) -> None:  # type: ignore[no-untyped-def]
    _, mixed, depths, _ = family
    with pytest.raises(elastic.ChoiceError, match="attention must be softmax .* may be linear-angular"):
        AttentionMaps(mixed.build(), depths)


def test_a_block_that_has_no_map_says_so(family) -> None:  # type: ignore[no-untyped-def]
    _, mixed, _, _ = family
    arch = {**mixed.largest, **{key: "linear-angular" for key in mixed.largest if key.endswith("attention")}}
    network = mixed.build().eval()
    with elastic.attention_maps(), pytest.raises(elastic.ChoiceError, match="but got linear-angular"):
        network(*mixed.example(arch), arch=arch)
    assert network(*mixed.example(arch), arch=arch).isfinite().all()


def test_depths_are_checked() -> None:
    network = vit.tiny.build()
    with pytest.raises(elastic.ChoiceError, match="depths must be one or more integers of at least 1"):
        AttentionMaps(network, [])
    with pytest.raises(elastic.ChoiceError, match="depths must be at most the blocks, 1, but got 2"):
        AttentionMaps(network, [2])(*vit.tiny.example(vit.tiny.smallest), arch=vit.tiny.smallest)
