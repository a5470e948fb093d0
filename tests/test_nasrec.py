"""NASRec's spaces: against a plain computation of the same network, and against what was published."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import manynet as mn
from manynet.data.features import Categorical, Features
from manynet.search_spaces import nasrec
from manynet.search_spaces.nasrec.operators import DenseToSparse
from manynet.space.export import export

FEATURES = Features(
    dense=("a", "b", "c"),
    categorical=(
        Categorical("d", 50),
        Categorical("e", 20, values=3),
        *(Categorical(f"f{i}", 9) for i in range(4)),
    ),
)
tiny, unbalanced = nasrec.tiny.fitted(FEATURES), nasrec.tiny_unbalanced.fitted(FEATURES)
BLOCKS = 4


def inputs(count: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    columns = [f.rows for f in FEATURES.categorical for _ in range(f.values)]
    ids = torch.stack([torch.randint(0, rows, (count,), generator=generator) for rows in columns], dim=1)
    ids[::2, 3] = -1
    return torch.randn(count, 3, generator=generator), ids


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    made = {space.name: space.build().eval() for space in (tiny, unbalanced)}
    for network in made.values():
        for name, parameter in network.named_parameters():
            if "norm" in name:  # scales of 1 and shifts of 0 would hide a slice taken from the wrong place
                nn.init.uniform_(parameter, 0.5, 1.5)
    return made


def plainly(network: nn.Module, x: torch.Tensor, ids: torch.Tensor, arch: dict[str, Any]) -> torch.Tensor:
    """Every block in order, inputs and weights concatenated, tokens as ``(B, tokens, dim)``."""
    dense, sparse = {0: x}, {0: {"0": network.tables(ids)}}
    for number, block in enumerate(network.blocks, 1):
        arch_of = {k.partition(".")[2]: v for k, v in arch.items() if k.startswith(f"block{number}.")}
        width, count = arch_of["dense_width"], arch_of["sparse_tokens"]

        def read(choice: str) -> dict[str, torch.Tensor]:
            return {name: t for s in choice.split("+") for name, t in sparse[int(s)].items()}

        def linear(layer: nn.Module, parts: dict[str, torch.Tensor], size: int) -> torch.Tensor:
            weights = [layer.weights[name].weight[:size, : t.shape[-1]] for name, t in parts.items()]
            return torch.cat(list(parts.values()), -1) @ torch.cat(weights, 1).T

        def mixed(layer: nn.Module, parts: dict[str, torch.Tensor], size: int) -> torch.Tensor:
            return linear(layer, {n: t.transpose(1, 2) for n, t in parts.items()}, size)

        def norm(layer: nn.Module, t: torch.Tensor) -> torch.Tensor:
            size = t.shape[-1]
            centred = t - t.mean(-1, keepdim=True)
            scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            return scaled * layer.weight[:size] + layer.bias[:size]

        def chosen(key: str, arch_of: dict[str, Any] = arch_of) -> dict[str, torch.Tensor]:
            return {s: dense[int(s)] for s in arch_of[key].split("+")}

        total = torch.zeros(len(x), width)
        for name in arch_of["dense_operator"].split("+"):
            op = block.dense[name]
            if name == "fc":
                total += norm(op.norm, linear(op.project, chosen("dense_from"), width)).relu()
            elif name == "gating":
                gate = torch.sigmoid(linear(op.left, chosen("left"), width))
                total += norm(op.norm, gate * linear(op.right, chosen("right"), width))
            elif name == "sum":
                both = linear(op.left, chosen("left"), width) + linear(op.right, chosen("right"), width)
                total += norm(op.norm, both)
            else:
                tokens = read(arch_of["sparse_from"])
                first = norm(op.dense_norm, linear(op.dense, chosen("dense_from"), 16))
                rest = norm(op.mix_norm, mixed(op.mix, tokens, op.mix_norm.weight.shape[0]))
                every = torch.cat([first[:, None], rest.transpose(1, 2)], 1)
                gram = torch.einsum("bid,bjd->bij", every, every)
                pairs = torch.stack([gram[:, i, j] for i in range(every.shape[1]) for j in range(i)], 1)
                total += norm(op.norm, pairs @ op.project.weight[:width].T)
        own = torch.zeros(len(x), count, 16)
        for name in arch_of["sparse_operator"].split("+"):
            op = block.sparse[name]
            mix = norm(op.norm, mixed(op.project, read(arch_of["sparse_from"]), count)).transpose(1, 2)
            if name == "embed_fc":
                own += mix.relu()
            else:
                heads = op.attention.qkv(mix).view(len(x), count, 8, 3, 2)
                weights = torch.einsum("bihd,bjhd->bhij", heads[..., 0, :], heads[..., 1, :]) / 2**0.5
                seen = torch.einsum("bhij,bjhd->bihd", weights.softmax(-1), heads[..., 2, :]).flatten(2)
                mix = norm(op.attention_norm, mix + op.attention.proj(seen))
                own += norm(op.contract_norm, mix + op.contract(op.expand(mix).relu()))
        sparse[number] = {str(number): own}
        if arch_of["dense_to_sparse"]:
            merger = block.dense_to_sparse
            flat = norm(merger.norm, total @ merger.project.weight[:, :width].T)
            sparse[number][f"{number}-merged"] = flat.view(-1, 16, 8).transpose(1, 2)
        if arch_of["fm"]:
            products = own.sum(1).square() - own.square().sum(1)
            total = total + norm(block.fm.norm, products @ block.fm.project.weight[:width].T)
        dense[number] = total
    head, last = network.head, sparse[BLOCKS]
    logits = dense[BLOCKS] @ head.dense.weight[0, : dense[BLOCKS].shape[1]] + head.dense.bias
    logits = logits + torch.einsum(
        "bnd,dn->b", last[str(BLOCKS)], head.tokens.data[:, : last[str(BLOCKS)].shape[1]]
    )
    if f"{BLOCKS}-merged" in last:
        logits = logits + last[f"{BLOCKS}-merged"].transpose(1, 2).flatten(1) @ head.merged.weight[0]
    return logits


def several(arch: dict[str, Any], seed: int) -> dict[str, Any]:
    """Some operators more in every block."""
    rng = np.random.default_rng(seed)
    for key, options in (
        ("dense_operator", ["fc", "dot_product", "gating", "sum"]),
        ("sparse_operator", ["attention", "embed_fc"]),
    ):
        for number in range(1, BLOCKS + 1):
            count = int(rng.integers(1, len(options) + 1))
            arch[f"block{number}.{key}"] = "+".join(rng.permutation(options)[:count].tolist())
    return arch


@pytest.mark.parametrize("seed", range(16))
def test_the_network_is_what_a_plain_computation_gives(networks: dict[str, nn.Module], seed: int) -> None:
    arch = tiny.draw(np.random.default_rng(seed))
    if seed % 2:
        arch = several(arch, seed)
    x, ids = inputs(seed=seed)
    with torch.no_grad():
        found = networks[tiny.name](x, ids, arch=arch)
        torch.testing.assert_close(found, plainly(networks[tiny.name], x, ids, arch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space", [tiny, unbalanced], ids=lambda space: space.name)
def test_what_canonical_drops_changes_nothing_and_what_it_keeps_does(
    networks: dict[str, nn.Module], space: mn.SearchSpace
) -> None:
    network, (x, ids) = networks[space.name], inputs()
    rng, kept, dropped = np.random.default_rng(0), 0, 0
    with torch.no_grad():
        for _ in range(60):
            arch = space.draw(rng)
            other = {**arch}
            key = str(rng.choice(list(arch)))
            other[key] = rng.choice(
                [o for o in space.domains[key].categories if o != arch[key]] or [arch[key]]
            ).item()
            same = torch.equal(network(x, ids, arch=arch), network(x, ids, arch=other))
            assert same == (space.canonical(arch) == space.canonical(other)), key
            kept, dropped = kept + (not same), dropped + same
    assert min(kept, dropped) > 5


def test_an_unbalanced_dot_product_sums_over_all_pairs_of_tokens(networks: dict[str, nn.Module]) -> None:
    operator = networks[unbalanced.name].blocks[1].dense["dot_product"]
    x, ids = inputs()
    embedded = networks[unbalanced.name].tables(ids).transpose(1, 2)
    more, merged = torch.randn(6, 16, 8), torch.randn(6, 16, DenseToSparse.TOKENS)
    tokens = {"0": embedded, "1": more, "1-merged": merged}
    with torch.no_grad():
        found = operator(
            32, {"dense_from": {"0": x, "1": torch.randn(6, 16)[:, :16] * 0}, "sparse_from": tokens}
        )
        first = operator.dense.weights["0"](x)
        parts = {"dense": operator.dense_norm(first)[:, :, None], **tokens}
        total, count = torch.zeros(6, 32), 0
        names = list(parts)
        for i, one in enumerate(names):
            for two in names[i:]:
                if (one, two) == ("dense", "dense"):
                    continue
                weight = operator.pairs[f"{one}-{two}"].weight.data[
                    :32, : parts[one].shape[2], : parts[two].shape[2]
                ]
                total += torch.einsum("bdi,bdj,wij->bw", parts[one], parts[two], weight)
                count += 1
        expected = F.layer_norm(total, (32,), operator.norm.weight[:32], operator.norm.bias[:32], 1e-6)
    assert count == 9
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_exports_give_the_supernet_paths_probabilities(
    networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    import onnxruntime

    drawn = tiny.draw(np.random.default_rng(5))
    arch = tiny.canonical(
        drawn
        | {"block4.dense_operator": "dot_product", "block4.sparse_operator": "attention", "block4.fm": True}
    )
    x, ids = inputs(32)
    subnet = mn.extract(networks[tiny.name], arch, tiny.example(arch))
    export(subnet, tmp_path, tiny, "search_spaces.nasrec:tiny", (x, ids))
    with torch.no_grad():
        expected = networks[tiny.name](x, ids, arch=arch).sigmoid()
        loaded = mn.Subnet.load(tmp_path)(x, ids).sigmoid()
        program = torch.export.load(tmp_path / "model.pt2").module()(x, ids).sigmoid()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    found = session.run(None, dict(zip(names, (x.numpy(), ids.numpy()), strict=True)))[0]
    for probabilities in (loaded, program, torch.from_numpy(found).sigmoid()):
        torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "arch.json").read_text())["batch"] == "any"


def test_the_spaces_are_as_large_as_published() -> None:
    size = prod(len(domain.categories) for domain in nasrec.full.domains.values())
    assert size == pytest.approx(8.07e43, rel=0.01)
    small = prod(len(domain.categories) for domain in nasrec.small.domains.values())
    assert small == pytest.approx(size / 4**7 / prod(range(1, 8)) ** 2)
    options = {
        key.partition(".")[2]: domain.categories
        for key, domain in nasrec.full.domains.items()
        if "block7." in key
    }
    assert options["dense_width"] == [16, 32, 64, 128, 256, 512, 768, 1024]
    assert options["sparse_tokens"] == [16, 32, 48, 64]
    assert len(options["dense_from"]) == 7 + 21 + 35 + 35
    assert options["left"] == list("0123456")


def test_balancing_keeps_a_dot_product_from_growing_with_its_tokens() -> None:
    arch = {
        **{key: domain.categories[0] for key, domain in tiny.domains.items()},
        "block4.dense_operator": "dot_product",
        **{f"block{n}.sparse_tokens": 32 for n in range(1, 5)},
    }
    few, many = {**arch, "block4.sparse_from": "1"}, {**arch, "block4.sparse_from": "0+1+2+3"}

    def product(space: mn.SearchSpace, which: dict[str, Any]) -> int:
        rest = mn.cost(space, {**which, "block4.dense_operator": "fc"}).parameters
        return mn.cost(space, which).parameters - rest

    assert product(tiny, many) < 3 * product(tiny, few)
    assert product(unbalanced, many) > 5 * product(unbalanced, few)


def test_connections_are_drawn_from_the_authors_prior() -> None:
    rng = np.random.default_rng(0)
    drawn = [nasrec.full.draw(rng)["block7.sparse_from"].split("+") for _ in range(2000)]
    counts = np.bincount([len(one) for one in drawn], minlength=5)[1:] / len(drawn)
    np.testing.assert_allclose(counts, [1 / 8, 3 / 8, 3 / 8, 1 / 8], atol=0.04)
    often = np.bincount([int(s) for one in drawn for s in one], minlength=7) / sum(map(len, drawn))
    np.testing.assert_allclose(often, 1 / 7, atol=0.02)
    assert all(one == sorted(set(one)) for one in drawn)


ENCODING = {
    "micro": [
        {
            "active_nodes": [1, 4],
            "dense_in_dims": 128,
            "sparse_in_dims": 64,
            "dense_sparse_interact": 1,
            "deep_fm": 0,
        },
        {
            "active_nodes": [5, 2],
            "dense_in_dims": 32,
            "sparse_in_dims": 16,
            "dense_sparse_interact": 0,
            "deep_fm": 1,
        },
        {
            "active_nodes": [3, 5],
            "dense_in_dims": 768,
            "sparse_in_dims": 48,
            "dense_sparse_interact": 1,
            "deep_fm": 1,
        },
    ],
    "macro": [
        {"dense_idx": [0], "sparse_idx": [0], "dense_left_idx": [0], "dense_right_idx": [0]},
        {"dense_idx": [1, 0], "sparse_idx": [1], "dense_left_idx": [0], "dense_right_idx": [1]},
        {"dense_idx": [2], "sparse_idx": [2, 0, 1], "dense_left_idx": [2], "dense_right_idx": [0]},
    ],
    "num_blocks": 3,
    "config": "xlarge",
}


def test_a_published_encoding_is_an_architecture_of_the_full_space() -> None:
    arch = nasrec.from_published(ENCODING)
    space = nasrec.space("three", FEATURES, blocks=3)
    assert space.valid(arch) == arch
    assert arch["block1.dense_operator"] == "dot_product" and arch["block1.sparse_operator"] == "attention"
    assert arch["block2.dense_operator"] == "gating" and arch["block2.dense_from"] == "0+1"
    assert (
        arch["block3.sparse_from"] == "0+1+2" and arch["block3.left"] == "2" and arch["block3.right"] == "0"
    )
    assert arch["block3.dense_width"] == 768 and arch["block2.sparse_tokens"] == 16
    assert (arch["block1.dense_to_sparse"], arch["block1.fm"]) == (True, False)
    assert nasrec.from_published({"choice": ENCODING}) == arch


def test_a_published_encoding_of_the_small_space() -> None:
    micro = [
        {**entry, "active_nodes": [node, 2]} for entry, node in zip(ENCODING["micro"], (0, 1, 1), strict=True)
    ]
    arch = nasrec.from_published({**ENCODING, "micro": micro, "config": "autoctr"})
    space = nasrec.space(
        "three", FEATURES, blocks=3, dense_operators=("fc", "dot_product"), sparse_operators=("embed_fc",)
    )
    assert space.valid(arch) == arch
    assert [arch[f"block{n}.dense_operator"] for n in (1, 2, 3)] == ["fc", "dot_product", "dot_product"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": "large"}, "config must be one of .*, but got 'large'"),
        ({"macro": ENCODING["macro"][:2]}, "an entry a block"),
        (
            {"micro": [{**ENCODING["micro"][0], "active_nodes": [7]}] * 3},
            "active_nodes must be 0 to 5, but block 1 has 7",
        ),
        (
            {"micro": [{**ENCODING["micro"][0], "active_nodes": [0]}] * 3},
            "a sparse operator, but block 1 has none",
        ),
        ({"macro": [{"dense_idx": [0]}] * 3}, "must have the entry 'sparse_idx'"),
    ],
)
def test_an_encoding_that_is_none_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(mn.ArchitectureError, match=message):
        nasrec.from_published({**ENCODING, **change})


def test_a_space_takes_the_features_of_its_data() -> None:
    assert tiny.digest != nasrec.tiny.digest
    assert tiny.fitted(FEATURES) is tiny
    assert tiny.inputs({}) == {"dense": ((3,), torch.float32), "ids": ((8,), torch.int64)}
    assert Features.from_dict(FEATURES.to_dict()) == FEATURES
    none = nasrec.tiny.fitted(Features((), FEATURES.categorical))
    assert none.inputs({})["dense"][0] == (1,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 0}, "blocks must be at least 1, but got 0"),
        ({"dim": 15}, "dim must be a positive even number, but got 15"),
        ({"dense_operators": ("fc", "product")}, r"dense_operators must be some of \(fc.*but got 'product'"),
        ({"sparse_operators": ()}, "sparse_operators must be some of"),
    ],
)
def test_a_space_that_cannot_be_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nasrec.space("wrong", FEATURES, **options)
