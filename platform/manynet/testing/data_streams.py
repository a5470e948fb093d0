"""The contract of a split's stream, which training draws from, and of its division in two."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from manynet.data import DataError, Split
from manynet.testing.examples import Rows, fingerprints
from manynet.testing.findings import Findings, scramble

_SIZE = 8
_MOST = 1024


def _drawn(
    split: Split, count: int, *, seed: int = 3, start: int = 0, rank: int = 0, world: int = 1
) -> list[Rows]:
    """The examples of each of the first batches of a stream."""
    stream = split.stream(_SIZE, seed=seed, start=start, rank=rank, world=world)
    return [fingerprints(batch) for batch in islice(stream, count)]


def check_stream(name: str, split: Split, rows: Rows, findings: Findings) -> None:
    """Hold ``stream`` to what it promises.

    Args:
        name: of the split.
        split: is read several times.
        rows: its examples, all or the first.
        findings: are added to.
    """
    epoch = -(-len(split) // _SIZE)
    # Past the end of an epoch where that is near enough.
    count = epoch + 5 if len(split) <= _MOST else 24
    with findings.trying(f"stream of {name} must give batches without end"):
        whole = _drawn(split, count)
        if not findings.expect(
            len(whole) == count and all(len(batch) == _SIZE for batch in whole),
            f"stream of {name} must give batches of the size asked for, without end",
            f"gives {[len(batch) for batch in whole][-4:]} at the end of {len(whole)} batches of {_SIZE}",
        ):
            return
        _check_seed(name, split, whole, findings)
        _check_start(name, split, whole, epoch, findings)
        _check_ranks(name, split, whole, findings)
        if len(rows) == len(split) <= 8 * _MOST:
            _check_epochs(name, split, rows, findings)
    _check_refusals(name, split, findings)


def _check_seed(name: str, split: Split, whole: list[Rows], findings: Findings) -> None:
    scramble(5)
    findings.expect(
        _drawn(split, len(whole)) == whole,
        f"stream of {name} must be the same for the same seed, whatever the global generators are at",
        "two streams differ",
    )
    if len(split) > 2 * _SIZE:
        other = _drawn(split, len(whole), seed=4)
        findings.expect(
            other != whole, f"stream of {name} must differ by the seed", "two seeds give the same"
        )
    first, second = (split.stream(_SIZE, seed=seed) for seed in (3, 4))
    side_by_side = [(fingerprints(next(first)), next(second))[0] for _ in whole]
    findings.expect(
        side_by_side == whole,
        f"streams of {name} that run side by side must not disturb each other",
        "one is another than alone",
    )


def _check_start(name: str, split: Split, whole: list[Rows], epoch: int, findings: Findings) -> None:
    for start in sorted({1, 5, min(epoch + 1, len(whole) - 2)}):
        findings.expect(
            _drawn(split, len(whole) - start, start=start) == whole[start:],
            f"stream of {name} must go on at start as if it had not been stopped",
            f"from batch {start} on it is another",
        )


def _check_ranks(name: str, split: Split, whole: list[Rows], findings: Findings) -> None:
    for world in (2, 4):
        parts = [_drawn(split, len(whole), rank=rank, world=world) for rank in range(world)]
        joined = [[row for part in batch for row in part] for batch in zip(*parts, strict=True)]
        findings.expect(
            joined == whole,
            f"stream of {name} must give workers equal parts, in the order of their ranks, of what one would get",
            f"{world} workers together get something else",
        )


def _check_epochs(name: str, split: Split, rows: Rows, findings: Findings) -> None:
    length = len(rows)
    drawn = [row for batch in _drawn(split, -(-2 * length // _SIZE)) for row in batch]
    for number in (0, 1):
        epoch = drawn[number * length : (number + 1) * length]
        lost = sum((Counter(rows) - Counter(epoch)).values())
        findings.expect(
            not lost,
            f"an epoch of stream of {name} must hold every example once",
            f"epoch {number} lacks {lost} of {length}, or has others twice",
        )
    if len(set(rows)) > 8:
        findings.expect(
            drawn[:length] != drawn[length:],
            f"epochs of stream of {name} must be mixed anew",
            "two are the same",
        )


def _check_refusals(name: str, split: Split, findings: Findings) -> None:
    wrong = (
        {"size": 9, "world": 2},
        {"size": 0},
        {"size": 8, "rank": 2, "world": 2},
        {"size": 8, "start": -1},
    )
    for asked in wrong:
        spelled = ", ".join(f"{key}={value}" for key, value in asked.items())
        with findings.refusing(DataError, f"{name}.stream({spelled})"):
            next(split.stream(**{"seed": 0, **asked}))


def check_division(name: str, split: Split, rows: Rows, findings: Findings) -> None:
    """Hold ``divided`` to what it promises; arguments as :func:`check_stream`."""
    if len(rows) < len(split) or len(split) > 8 * _MOST:
        return
    share = 0.3
    with findings.trying(f"divided of {name} must give two splits"):
        parts = split.divided(share, seed=1)
        read = [[row for batch in part.batches(64) for row in fingerprints(batch)] for part in parts]
        findings.expect(
            Counter(read[0] + read[1]) == Counter(rows),
            f"the parts of divided {name} must hold each of its examples once",
            f"hold {len(read[0])} and {len(read[1])} of {len(rows)}, some lost or in both",
        )
        room = 5 * (share * (1 - share) / len(rows)) ** 0.5
        findings.expect(
            abs(len(read[0]) / len(rows) - share) <= room + 1 / len(rows),
            f"the first part of divided {name} must have about the share asked for",
            f"has {len(read[0])} of {len(rows)} for {share}",
        )
        scramble(6)
        again = [row for batch in split.divided(share, seed=1)[0].batches(64) for row in fingerprints(batch)]
        findings.expect(
            again == read[0], f"divided of {name} must be the same for the same seed", "two divisions differ"
        )
        for part, of in zip(parts, read, strict=True):
            if of:
                stream = {row for batch in _drawn(part, 4) for row in batch}
                findings.expect(
                    stream <= set(of),
                    f"a part of divided {name} must stream its own examples",
                    "streams others",
                )
    for wrong in (0.0, 1.0):
        with findings.refusing(DataError, f"{name}.divided({wrong})"):
            split.divided(wrong, seed=0)
