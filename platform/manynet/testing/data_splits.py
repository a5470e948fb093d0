"""The contract of one split: what its batches hold, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from manynet.data import Batch, DataError, Features, Images, Split
from manynet.testing.examples import Rows, fingerprints
from manynet.testing.findings import Findings, scramble

_SIZES = (64, 7)
_MIXED = 64


def check_split(
    name: str, split: Split, features: Images | Features, most: int, findings: Findings
) -> Rows | None:
    """Hold ``batches`` to what it promises; the split's examples in their order, or None where they cannot be read.

    Args:
        name: of the split.
        split: is read several times.
        features: that its examples must have.
        most: examples that are read; None of a longer split beyond them is.
        findings: are added to.
    """
    limit = None if len(split) <= most else most
    count = min(len(split), most)
    rows: Rows | None = None
    with findings.trying(f"batches of {name} must give its examples"):
        batches = list(split.batches(_SIZES[0], limit=limit))
        if not _check_examples(name, batches, features, findings):
            return None
        rows = [row for batch in batches for row in fingerprints(batch)]
        findings.expect(
            len(rows) == count,
            f"batches of {name} must give each of its examples once",
            f"give {len(rows)} where len says {count}",
        )
        _check_mixed(name, batches, findings)
    if rows is not None:
        _check_sizes(name, split, rows, limit, findings)
        _check_limits(name, split, rows, findings)
        _check_own_memory(name, split, findings)
        _check_refusals(name, split, findings)
    return rows


def _check_examples(
    name: str, batches: Sequence[Any], features: Images | Features, findings: Findings
) -> bool:
    """Whether every batch is of the kind that the features say."""
    if not findings.expect(batches, f"batches of {name} must give its examples", "give none"):
        return False
    for batch in batches:
        tensors: list[Any] = [*batch.inputs, batch.targets] if isinstance(batch, Batch) else [None]
        if not findings.expect(
            all(isinstance(tensor, torch.Tensor) for tensor in tensors),
            f"batches of {name} must give a Batch of tensors",
            f"give {batch!r:.80}",
        ):
            return False
        expected = _expected(features, batch)
        got = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
        if not findings.expect(
            got == expected,
            f"examples of {name} must have the shapes and types that features say",
            f"a batch has {_listed(got)} where they are {_listed(expected)}",
        ):
            return False
        _check_values(name, batch, features, findings)
    return True


def _listed(tensors: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> str:
    return ", ".join(f"{shape} {str(dtype).removeprefix('torch.')}" for shape, dtype in tensors)


def _expected(features: Images | Features, batch: Batch) -> list[tuple[tuple[int, ...], torch.dtype]]:
    count = len(batch.targets)
    if isinstance(features, Images):
        sides = tuple(batch.inputs[0].shape[2:]) if batch.inputs and batch.inputs[0].dim() == 4 else (0, 0)
        return [((count, features.channels, *sides), torch.float32), ((count,), torch.int64)]
    return [
        ((count, features.dense_width), torch.float32),
        ((count, features.ids_width), torch.int64),
        ((count,), torch.float32),
    ]


def _check_values(name: str, batch: Batch, features: Images | Features, findings: Findings) -> None:
    numbers = batch.inputs[0]
    findings.expect(numbers.isfinite().all(), f"inputs of {name} must be finite", "some are NaN or infinite")
    low, high = float(batch.targets.min()), float(batch.targets.max())
    if isinstance(features, Images):
        findings.expect(
            low >= 0 and high < features.classes,
            f"targets of {name} must be from 0 to {features.classes - 1}, as features say",
            f"are from {low:g} to {high:g}",
        )
        return
    findings.expect(
        set(batch.targets.unique().tolist()) <= {0.0, 1.0},
        f"targets of {name} must be 0 or 1",
        f"are {low:g} to {high:g}",
    )
    rows = [one.rows for one in features.categorical for _ in range(one.values)]
    for at, most in enumerate(rows):
        lowest, highest = int(batch.inputs[1][:, at].min()), int(batch.inputs[1][:, at].max())
        findings.expect(
            lowest >= -1 and highest < most,
            f"ids of {name} must be rows of their tables, or -1",
            f"column {at} has {lowest} to {highest} for a table of {most} rows",
        )


def _check_mixed(name: str, batches: Sequence[Batch], findings: Findings) -> None:
    """Searches score, and normalisation is calibrated, on the first examples: they must stand for all."""
    targets = torch.cat([batch.targets for batch in batches])
    _, counts = targets.unique(return_counts=True)
    if len(targets) < 2 * _MIXED or float(counts.max()) > 0.8 * len(targets):
        return
    seen = len(targets[:_MIXED].unique())
    findings.expect(
        seen > 1,
        f"examples of {name} must come in a mixed order",
        f"the first {_MIXED} have one target where all have {len(counts)}",
    )


def _check_sizes(name: str, split: Split, rows: Rows, limit: int | None, findings: Findings) -> None:
    """Whatever the batch size, and however often: the same examples in the same order."""
    for size in (*_SIZES, len(rows), len(rows) + 3):
        with findings.trying(f"batches of {name} must take any size"):
            scramble(size)
            batches = list(split.batches(size, limit=limit))
            found = [row for batch in batches for row in fingerprints(batch)]
            findings.expect(
                found == rows,
                f"batches of {name} must give the same examples in the same order, whatever their size",
                f"at size {size} they are others, or in another order ({len(found)} and {len(rows)})",
            )
            lengths = [len(batch.targets) for batch in batches]
            findings.expect(
                all(length == size for length in lengths[:-1]) and 0 < lengths[-1] <= size,
                f"batches of {name} must have the size asked for, but for the last",
                f"at size {size} they have {lengths[:4]} to {lengths[-1:]}",
            )


def _check_limits(name: str, split: Split, rows: Rows, findings: Findings) -> None:
    for size, limit in ((4, 1), (4, 6), (7, len(rows))):
        with findings.trying(f"batches of {name} must take a limit"):
            found = [row for batch in split.batches(size, limit=limit) for row in fingerprints(batch)]
            findings.expect(
                found == rows[:limit],
                f"batches of {name} must stop at the limit, and give the first examples",
                f"at a limit of {limit} they give {len(found)}",
            )


def _check_own_memory(name: str, split: Split, findings: Findings) -> None:
    with findings.trying(f"batches of {name} must be tensors that can be written to"):
        batch = next(iter(split.batches(8)))
        before = fingerprints(batch)
        for tensor in (*batch.inputs, batch.targets):
            tensor.zero_()
        findings.expect(
            fingerprints(next(iter(split.batches(8)))) == before,
            f"batches of {name} must share no memory with the split",
            "what is written to a batch is in the next one",
        )


def _check_refusals(name: str, split: Split, findings: Findings) -> None:
    for asked in ({"size": 0}, {"size": 4, "limit": 0}):
        spelled = ", ".join(f"{key}={value}" for key, value in asked.items())
        with findings.refusing(DataError, f"{name}.batches({spelled})"):
            next(iter(split.batches(**asked)))
