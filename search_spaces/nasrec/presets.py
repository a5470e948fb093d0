"""NASRec's search spaces: choices, prior and presets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from ray import tune
from ray.tune.search.sample import Domain

import manynet as mn
from manynet import elastic
from manynet.data.features import Categorical, Features
from manynet.search_spaces.nasrec.network import DENSE, SPARSE, NASRec
from manynet.search_spaces.nasrec.operators import Limits

MOST_SOURCES = 4
"""Most sources of a connection."""


def sources(block: int) -> list[str]:
    """The sources that block ``block``, counted from 1, can read: the input, 0, and the blocks before it."""
    return [str(source) for source in range(block)]


def space(
    name: str,
    features: Features,
    *,
    blocks: int = 7,
    widths: Sequence[int] = (16, 32, 64, 128, 256, 512, 768, 1024),
    tokens: Sequence[int] = (16, 32, 48, 64),
    dim: int = 16,
    dense_operators: Sequence[str] = tuple(DENSE),
    sparse_operators: Sequence[str] = tuple(SPARSE),
    balanced: bool = True,
) -> mn.SearchSpace:
    """A space of click-through models over these options.

    A choice of connections names sources joined by ``+``: ``"0+2"`` reads the input and block 2.

    Args:
        name: of the space.
        features: of the data.
        blocks: number of blocks; block i may read sources 0 to i - 1, where 0 is the input.
        widths: features of a block's dense output.
        tokens: output tokens of a block's sparse operator.
        dim: features of a token and of an embedding; even.
        dense_operators: any of fc, dot_product, gating, sum.
        sparse_operators: any of attention, embed_fc.
        balanced: whether dot products mix tokens to a fixed number before they interact.

    Raises:
        ValueError: for no block, an operator that does not exist, or an odd ``dim``.
    """
    _check(blocks, dim, dense_operators, sparse_operators)
    domains: dict[str, Domain] = {}
    for block in range(1, blocks + 1):
        options = _options(block, widths, tokens, dense_operators, sparse_operators)
        domains |= {f"block{block}.{key}": tune.choice(list(values)) for key, values in options.items()}
    network = partial(
        NASRec,
        dense=features.dense_width,
        tables=[elastic.Table(f.name, f.rows, f.values) for f in features.categorical],
        blocks=blocks,
        limits=Limits(max(widths), max(tokens), dim),
        dense_operators=tuple(dense_operators),
        sparse_operators=tuple(sparse_operators),
        balanced=balanced,
    )
    return mn.SearchSpace(
        name=name,
        domains=domains,
        supernet=network,
        task=mn.tasks.ClickThrough(),
        input_shape={"dense": (features.dense_width,), "ids": ((features.ids_width,), torch.int64)},
        sample=partial(_draw, domains),
        features=features,
        adapt=partial(
            space,
            name,
            blocks=blocks,
            widths=widths,
            tokens=tokens,
            dim=dim,
            dense_operators=dense_operators,
            sparse_operators=sparse_operators,
            balanced=balanced,
        ),
    )


def _check(blocks: int, dim: int, dense: Sequence[str], sparse: Sequence[str]) -> None:
    if blocks < 1:
        raise ValueError(f"blocks must be at least 1, but got {blocks}")
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be a positive even number, but got {dim}")
    for kind, given, known in (("dense", dense, DENSE), ("sparse", sparse, SPARSE)):
        wrong = [name for name in given if name not in known] or ["none"] * (not given)
        if wrong:
            raise ValueError(f"{kind}_operators must be some of ({', '.join(known)}), but got {wrong[0]!r}")


def _options(
    block: int, widths: Sequence[int], tokens: Sequence[int], dense: Sequence[str], sparse: Sequence[str]
) -> dict[str, Sequence[Any]]:
    """Options of each choice of one block."""
    before = sources(block)
    connections = [
        "+".join(subset)
        for count in range(1, min(MOST_SOURCES, len(before)) + 1)
        for subset in combinations(before, count)
    ]
    pairwise = {"left": before, "right": before} if {"gating", "sum"} & set(dense) else {}
    return {
        "dense_operator": dense,
        "sparse_operator": sparse,
        "dense_width": widths,
        "sparse_tokens": tokens,
        "dense_from": connections,
        "sparse_from": connections,
        **pairwise,
        "dense_to_sparse": (False, True),
        "fm": (False, True),
    }


def _draw(domains: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The authors' prior: a connection reads 1 + Binomial(min(n - 1, 3), 1/2) of n sources, the rest is uniform."""
    return {
        key: draw_connection(key, rng) if key.endswith("_from") else _uniform(domain.categories, rng)
        for key, domain in domains.items()
    }


def draw_connection(key: str, rng: np.random.Generator) -> str:
    """Draw sources for the connection ``key``, such as ``block3.dense_from``."""
    block = int(key.removeprefix("block").partition(".")[0])
    count = 1 + rng.binomial(min(block - 1, MOST_SOURCES - 1), 0.5)
    chosen = rng.choice(block, size=count, replace=False)
    return "+".join(str(source) for source in sorted(chosen.tolist()))


def _uniform(options: Sequence[Any], rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]


_PUBLISHED_ROWS = (
    *(1461, 584, 10131227, 2202609, 306, 25, 12518, 634, 4, 93146, 5684, 8351593, 3195, 28, 14993, 5461307),
    *(11, 5653, 2174, 5, 7046548, 19, 16, 286182, 106, 142573),
)
_ROWS_IN_A_SEARCH = 500_000

CRITEO = Features(
    dense=tuple(f"I{number}" for number in range(1, 14)),
    categorical=tuple(
        Categorical(f"C{number}", min(rows, _ROWS_IN_A_SEARCH))
        for number, rows in enumerate(_PUBLISHED_ROWS, 1)
    ),
)
"""Features of the Criteo data, with tables capped as the authors cap them for a search."""

full = space("nasrec-full", CRITEO)
small = space("nasrec-small", CRITEO, dense_operators=("fc", "dot_product"), sparse_operators=("embed_fc",))

_TINY: dict[str, Any] = {"blocks": 4, "widths": (16, 32, 64, 128), "tokens": (8, 16, 24, 32)}
_FEW = Features(
    dense=("I1", "I2", "I3", "I4"),
    categorical=tuple(Categorical(f"C{number}", 1000) for number in range(1, 9)),
)

tiny = space("nasrec-tiny", _FEW, **_TINY)
tiny_unbalanced = space("nasrec-tiny-unbalanced", _FEW, balanced=False, **_TINY)
