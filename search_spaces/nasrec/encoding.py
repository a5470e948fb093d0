"""Converts NASRec's published architectures to architectures of these spaces.

Their JSON files have two lists with an entry a block. ``micro``: ``active_nodes`` (numbers of operators),
``dense_in_dims``, ``sparse_in_dims``, ``dense_sparse_interact`` and ``deep_fm`` (0 or 1). ``macro``:
``dense_idx``, ``sparse_idx``, ``dense_left_idx`` and ``dense_right_idx`` (lists of sources).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manynet.space.domains import ArchitectureError

_NODES: Mapping[str, Sequence[str]] = {
    "xlarge": ("fc", "dot_product", "gating", "sum", "attention", "embed_fc"),
    "autoctr": ("fc", "dot_product", "embed_fc"),
}
_SPARSE = ("attention", "embed_fc")
_CONNECTIONS = {
    "dense_from": "dense_idx",
    "sparse_from": "sparse_idx",
    "left": "dense_left_idx",
    "right": "dense_right_idx",
}


def from_published(encoding: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the content of one of the authors' JSON files to an architecture.

    Its keys are those of ``full`` for an ``xlarge`` encoding, and of ``small`` for an ``autoctr`` one; hand it
    to :meth:`manynet.SearchSpace.canonical` of that space.

    Args:
        encoding: the file's content; in a record of a search, it is under ``choice``.

    Raises:
        ArchitectureError: when an entry is missing or invalid.
    """
    content = encoding.get("choice", encoding)
    config = encoding.get("config", content.get("config", "xlarge"))
    if config not in _NODES:
        raise ArchitectureError(f"config must be one of ({', '.join(_NODES)}), but got {config!r}")
    try:
        pairs = list(zip(content["micro"], content["macro"], strict=True))
        blocks = [_block(micro, macro, config, number) for number, (micro, macro) in enumerate(pairs, 1)]
    except KeyError as error:
        raise ArchitectureError(f"an encoding must have the entry {error}") from None
    except (TypeError, ValueError) as error:
        if isinstance(error, ArchitectureError):
            raise
        raise ArchitectureError(
            f"an encoding must have lists micro and macro with an entry a block: {error}"
        ) from None
    return {key: value for block in blocks for key, value in block.items()}


def _block(micro: Mapping[str, Any], macro: Mapping[str, Any], config: str, number: int) -> dict[str, Any]:
    names = [_node(node, config, number) for node in micro["active_nodes"]]
    choices: dict[str, Any] = {
        "dense_operator": _joined([n for n in names if n not in _SPARSE], number, "a dense operator"),
        "sparse_operator": _joined([n for n in names if n in _SPARSE], number, "a sparse operator"),
        "dense_width": micro["dense_in_dims"],
        "sparse_tokens": micro["sparse_in_dims"],
        "dense_to_sparse": bool(micro["dense_sparse_interact"]),
        "fm": bool(micro["deep_fm"]),
    }
    pairwise = {"gating", "sum"} & set(_NODES[config])
    for key, entry in _CONNECTIONS.items():
        if key in ("dense_from", "sparse_from") or pairwise:
            choices[key] = _joined([str(s) for s in sorted(set(macro[entry]))], number, entry)
    return {f"block{number}.{key}": value for key, value in choices.items()}


def _node(node: int, config: str, number: int) -> str:
    if not 0 <= node < len(_NODES[config]):
        most = len(_NODES[config]) - 1
        raise ArchitectureError(f"active_nodes must be 0 to {most}, but block {number} has {node}")
    return _NODES[config][node]


def _joined(names: Sequence[str], number: int, what: str) -> str:
    if not names:
        raise ArchitectureError(f"every block must have {what}, but block {number} has none")
    return "+".join(names)
