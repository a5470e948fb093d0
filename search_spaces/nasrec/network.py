"""The supernet of NASRec (arXiv 2207.07187): blocks that may read any block before them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import manynet as mn
from manynet import elastic
from manynet.search_spaces.nasrec.operators import (
    Attention,
    DenseOperator,
    DenseToSparse,
    DotProduct,
    EmbedFullyConnected,
    FactorizationMachine,
    FullyConnected,
    Gating,
    Limits,
    Sizes,
    SparseOperator,
    Sum,
    UnbalancedDotProduct,
)

DENSE: Mapping[str, Callable[[Sizes, Sizes, Limits], DenseOperator]] = {
    "fc": FullyConnected,
    "dot_product": DotProduct,
    "gating": Gating,
    "sum": Sum,
}
SPARSE: Mapping[str, Callable[[Sizes, Limits], SparseOperator]] = {
    "attention": Attention,
    "embed_fc": EmbedFullyConnected,
}
UNBALANCED = {"dot_product": UnbalancedDotProduct}


def several(choice: str) -> list[str]:
    """The parts of a choice that may name several: ``"0+2"`` is sources 0 and 2."""
    return choice.split("+")


class Block(nn.Module):
    """All operators and mergers of one block.

    Args:
        dense: width of each dense source, by name.
        tokens: number of tokens of each sparse source, by name.
        limits: largest sizes.
        dense_operators: names in :data:`DENSE`.
        sparse_operators: names in :data:`SPARSE`.
        balanced: whether dot products mix tokens to a fixed number first.
    """

    def __init__(
        self,
        dense: Sizes,
        tokens: Sizes,
        limits: Limits,
        dense_operators: Sequence[str],
        sparse_operators: Sequence[str],
        balanced: bool,
    ) -> None:
        super().__init__()
        kinds = DENSE if balanced else {**DENSE, **UNBALANCED}
        self.dense = nn.ModuleDict({name: kinds[name](dense, tokens, limits) for name in dense_operators})
        self.sparse = nn.ModuleDict({name: SPARSE[name](tokens, limits) for name in sparse_operators})
        self.dense_to_sparse = DenseToSparse(limits)
        self.fm = FactorizationMachine(limits)


class Head(nn.Module):
    """Linear over the last block's dense output and tokens, flattened: the logit of a click."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.dense = elastic.Linear(limits.width, 1)
        scale = (limits.dim * limits.tokens) ** -0.5
        self.tokens = elastic.Parameter(torch.empty(limits.dim, limits.tokens).uniform_(-scale, scale))
        self.merged = elastic.Linear(limits.dim * DenseToSparse.TOKENS, 1, bias=False)

    def forward(self, dense: torch.Tensor, tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Map dense ``(B, width)`` and tokens ``(B, dim, n)``, own and merged, to logits ``(B,)``."""
        own, *merged = tokens.values()
        weight = self.tokens(None, own.shape[-1]).reshape(1, -1)
        logits: torch.Tensor = self.dense(dense) + F.linear(own.flatten(1), weight)
        for part in merged:
            logits = logits + self.merged(part.flatten(1))
        return logits.squeeze(1)


class NASRec(mn.Supernet):
    """The largest of a family of click-through models.

    Source 0 is the input: dense features, and the embeddings as tokens. Source j is block j's output: a dense
    activation, its tokens, and the tokens merged into them where ``dense_to_sparse`` is on.

    Args:
        dense: dense features.
        tables: embedding tables, one a categorical feature.
        blocks: number of blocks.
        limits: largest sizes.
        dense_operators: names in :data:`DENSE`.
        sparse_operators: names in :data:`SPARSE`.
        balanced: see :class:`Block`.
    """

    def __init__(
        self,
        dense: int,
        tables: Sequence[elastic.Table],
        blocks: int,
        limits: Limits,
        dense_operators: Sequence[str],
        sparse_operators: Sequence[str],
        balanced: bool,
    ) -> None:
        super().__init__()
        self.tables = elastic.EmbeddingTables(tables, limits.dim)
        self.blocks = nn.ModuleList()
        widths, counts = {"0": dense}, {"0": len(tables)}
        for number in range(1, blocks + 1):
            self.blocks.append(Block(widths, counts, limits, dense_operators, sparse_operators, balanced))
            widths = {**widths, str(number): limits.width}
            counts = {**counts, str(number): limits.tokens, merged(str(number)): DenseToSparse.TOKENS}
        self.head = Head(limits)

    def forward(self, dense: torch.Tensor, ids: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        """Map dense ``(B, D)`` and ids ``(B, ids)`` to logits ``(B,)``."""
        last = str(len(self.blocks))
        run = _Run(self, dense, ids, arch)
        logits: torch.Tensor = self.head(run.dense(last), run.tokens(last))
        return logits


def merged(source: str) -> str:
    """Name of the tokens made from a block's dense output."""
    return f"{source}-merged"


class _Run:
    """One forward pass, evaluated lazily from the head backwards: unread outputs are not computed."""

    def __init__(
        self, network: NASRec, dense: torch.Tensor, ids: torch.Tensor, arch: mn.Architecture
    ) -> None:
        self.network, self.arch, self.input, self.ids = network, arch, dense, ids
        self._operated: dict[str, torch.Tensor] = {}
        self._dense: dict[str, torch.Tensor] = {"0": dense}
        self._own: dict[str, torch.Tensor] = {}
        self._merged: dict[str, torch.Tensor] = {}

    def dense(self, source: str) -> torch.Tensor:
        """The dense output of a source, ``(B, width)``."""
        if source not in self._dense:
            output = self.operated(source)
            if self._choice(source, "fm"):
                width = self._choice(source, "dense_width")
                output = output + self._block(source).fm(self.own_tokens(source), width)
            self._dense[source] = output
        return self._dense[source]

    def operated(self, source: str) -> torch.Tensor:
        """Sum of a block's dense operators, before the merger."""
        if source not in self._operated:
            width, operators = self._choice(source, "dense_width"), self._block(source).dense
            parts = [
                elastic.choose(operators, name, width, self._inputs(source, name))
                for name in several(self._choice(source, "dense_operator"))
            ]
            self._operated[source] = reduce(add, parts)
        return self._operated[source]

    def own_tokens(self, source: str) -> torch.Tensor:
        """Sum of a block's sparse operators, or the embeddings of the input: ``(B, dim, tokens)``."""
        if source not in self._own:
            if source == "0":
                self._own[source] = self.network.tables(self.ids).transpose(1, 2).contiguous()
            else:
                count, operators = self._choice(source, "sparse_tokens"), self._block(source).sparse
                read = self._tokens_from(self._choice(source, "sparse_from"))
                names = several(self._choice(source, "sparse_operator"))
                parts = [elastic.choose(operators, name, count, read) for name in names]
                self._own[source] = reduce(add, parts)
        return self._own[source]

    def tokens(self, source: str) -> dict[str, torch.Tensor]:
        """The tokens of a source, by name: its own, and those merged from its dense output."""
        tokens = {source: self.own_tokens(source)}
        if source != "0" and self._choice(source, "dense_to_sparse"):
            if source not in self._merged:
                self._merged[source] = self._block(source).dense_to_sparse(self.operated(source))
            tokens[merged(source)] = self._merged[source]
        return tokens

    def _inputs(self, source: str, operator: str) -> dict[str, dict[str, torch.Tensor]]:
        """Inputs of a block's dense operator, by connection."""
        kind = self._block(source).dense[operator]
        assert isinstance(kind, DenseOperator)
        chosen = {connection: self._choice(source, connection) for connection in kind.reads}
        return {
            connection: self._tokens_from(sources)
            if connection == "sparse_from"
            else {name: self.dense(name) for name in several(sources)}
            for connection, sources in chosen.items()
        }

    def _tokens_from(self, sources: str) -> dict[str, torch.Tensor]:
        return {name: x for source in several(sources) for name, x in self.tokens(source).items()}

    def _block(self, source: str) -> Block:
        block = self.network.blocks[int(source) - 1]
        assert isinstance(block, Block)
        return block

    def _choice(self, source: str, key: str) -> Any:
        return self.arch[f"block{source}.{key}"]
