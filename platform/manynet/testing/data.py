"""The contract of a data set."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from ray import cloudpickle

from manynet import references
from manynet.data import Batch, Data, Features, Images, Split, load
from manynet.data.own import SPLITS, is_reference, is_spelled
from manynet.testing.data_splits import check_split
from manynet.testing.data_streams import check_division, check_stream
from manynet.testing.examples import Rows, fingerprints
from manynet.testing.findings import Findings, isolated, resolved, scramble
from manynet.testing.fresh_process import answer

_FEW = 256


def check_data(data: Data | str | Any, fresh_process: bool = True, most: int = 4096) -> list[str]:
    """What is wrong with a data set: its splits, orders, streams, and what it says of its examples.

    Args:
        data: the data, what makes them without arguments, their ``module:name``, or a name as a study takes it.
        fresh_process: whether ``module:name`` is also loaded in a new process, which takes seconds.
        most: examples of a split that are read at once; of longer ones the first are checked.

    Returns:
        Sentences; none where the data set keeps its contract.
    """
    findings = Findings()
    with isolated():
        found = _loaded(data, findings)
        if found is None or not _check_kinds(found, findings):
            return findings.sentences
        rows: dict[str, Rows] = {}
        for name in SPLITS:
            read = check_split(name, getattr(found, name), found.features, most, findings)
            if read is not None:
                rows[name] = read
        if len(rows) < len(SPLITS):
            return findings.sentences
        _check_shapes(found, findings)
        _check_disjoint(rows, findings)
        check_stream("train", found.train, rows["train"], findings)
        check_division("train", found.train, rows["train"], findings)
        _check_again(data, found, findings, fresh_process)
        _check_travels(found, findings)
        _check_described(found, findings)
    return findings.sentences


def _loaded(data: Data | str | Any, findings: Findings) -> Data | None:
    if isinstance(data, str) and is_spelled(data) and not is_reference(data):
        with findings.trying(f"{data!r} must be a data set"):
            return load(data)
        return None
    return resolved(Data, data, findings)


def _check_kinds(data: Data, findings: Findings) -> bool:
    """Whether its parts are of the right kinds; without them nothing else can be asked."""
    for name in SPLITS:
        split: Any = getattr(data, name, None)
        if findings.expect(isinstance(split, Split), f"{name} must be a Split", f"is {split!r:.80}"):
            with findings.trying(f"len of {name} must be its number of examples"):
                findings.expect(len(split) > 0, f"{name} must hold at least one example", "is empty")
    features = getattr(data, "features", None)
    findings.expect(
        isinstance(features, Images | Features),
        "features must be Images or Features",
        f"are {features!r:.80}",
    )
    digest = getattr(data, "digest", None)
    rule = "digest must be 16 hexadecimal digits, which tell one content from another"
    plain = isinstance(digest, str) and len(digest) == 16 and not set(digest) - set("0123456789abcdef")
    findings.expect(plain, rule, f"is {digest!r:.80}")
    called = getattr(data, "name", None)
    line = isinstance(called, str) and called.strip() and "\n" not in called
    findings.expect(line, "name must be a line", f"is {called!r:.80}")
    if isinstance(features, Images):
        _check_images(features, findings)
    return not findings


def _check_images(features: Images, findings: Findings) -> None:
    with findings.trying("features must say mean and std of each channel"):
        lengths = len(features.mean), len(features.std)
        findings.expect(
            lengths == (features.channels,) * 2,
            "features must have a mean and a std for each channel",
            f"there are {lengths[0]} and {lengths[1]} for {features.channels} channels",
        )
        findings.expect(all(std > 0 for std in features.std), "std must be above 0", f"is {features.std}")
        findings.expect(features.classes > 1, "there must be 2 classes or more", f"got {features.classes}")


def _check_shapes(data: Data, findings: Findings) -> None:
    with findings.trying("the first batch of each split must be read"):
        shapes = {name: _shape(next(iter(getattr(data, name).batches(2)))) for name in SPLITS}
        findings.expect(
            len(set(shapes.values())) == 1,
            "examples of all splits must have the same shapes",
            "; ".join(f"{name} has {shape}" for name, shape in shapes.items()),
        )


def _shape(batch: Batch) -> str:
    return ", ".join(f"{tuple(x.shape[1:])} {x.dtype}" for x in (*batch.inputs, batch.targets))


def _check_disjoint(rows: Mapping[str, Rows], findings: Findings) -> None:
    """Examples may be alike; but those of one split may not be another's more often than its own."""
    for one, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        own, theirs = rows[one], set(rows[other])
        shared = sum(row in theirs for row in own)
        repeated = max(_repeated(own), _repeated(rows[other]))
        findings.expect(
            shared / len(own) <= 3 * repeated,
            f"{one} and {other} must have no example in common",
            f"{shared} of {len(own)} examples of {one} are in {other} too",
        )


def _repeated(rows: Rows) -> float:
    """Share of the rows that are in a split more than once."""
    counts: dict[bytes, int] = {}
    for row in rows:
        counts[row] = counts.get(row, 0) + 1
    return sum(count for count in counts.values() if count > 1) / len(rows)


def _check_again(data: Data | str | Any, found: Data, findings: Findings, fresh: bool) -> None:
    """Loaded again, perhaps in another process, it must be the same: evaluations are found by its digest."""
    if not isinstance(data, Data):
        with findings.trying("the data set must load again"):
            scramble(1)
            again = _loaded(data, findings)
            if again is not None:
                _expect_same(found.digest, again.digest, "loaded again", findings)
                same = _head(found.train) == _head(again.train)
                findings.expect(
                    same, "loaded again, the data must be the same", "the first examples of train are others"
                )
    reference = data if isinstance(data, str) and is_reference(data) else references.find(found)
    if fresh and reference is not None and is_reference(reference):
        with findings.trying("the data set must load in a new process"):
            digest = answer("it.digest", reference, "manynet.data:Data")
            _expect_same(found.digest, digest, "in another process", findings)


def _expect_same(first: str, second: str, where: str, findings: Findings) -> None:
    findings.expect(first == second, f"{where}, the digest must be the same", f"is {second} after {first}")


def _head(split: Split) -> Rows:
    return [row for batch in split.batches(64, limit=_FEW) for row in fingerprints(batch)]


def _check_travels(data: Data, findings: Findings) -> None:
    for name in SPLITS:
        split: Split = getattr(data, name)
        with findings.trying(f"{name} must pickle, to be sent to workers"):
            copied = pickle.loads(cloudpickle.dumps(split))
            streams = [islice(one.stream(8, seed=0), 3) for one in (split, copied)]
            drawn = [[row for batch in stream for row in fingerprints(batch)] for stream in streams]
            same = _head(copied) == _head(split) and drawn[0] == drawn[1]
            findings.expect(same, f"{name} must be the same after pickling", "gives other examples")
    with findings.trying("the data set must pickle, to be sent to workers"):
        pickle.loads(cloudpickle.dumps(data))


def _check_described(data: Data, findings: Findings) -> None:
    with findings.trying("preprocessing must be values that JSON can hold"):
        json.dumps(data.preprocessing())
    if isinstance(data.features, Images):
        inputs = torch.cat([batch.inputs[0] for batch in data.train.batches(64, limit=_FEW)])
        mean, std = float(inputs.mean()), float(inputs.std())
        findings.expect(
            abs(mean) < 5 and std < 20,
            "images must be normalised",
            f"those of train have a mean of {mean:.3g} and a standard deviation of {std:.3g}",
        )
