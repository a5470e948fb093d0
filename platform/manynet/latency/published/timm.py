"""timm's published inference benchmarks and ImageNet results (github.com/huggingface/pytorch-image-models).

A folder of delimited text: ``benchmark-infer-<precision>-<layout>-pt<version>-<cu<version> or
cpu>-<device>.csv``, with ``-dynamo`` at the end for torch.compile, and ``results-imagenet.csv``. A
row's time is that of a step of the whole batch, at a batch that differs from row to row. So the latency of an
example is the time of a step divided by its batch, which reflects throughput more than latency; each measurement
keeps step and batch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from manynet.latency.published.files import columns, described, licences_beside, read_matching
from manynet.latency.published.latencies import (
    PublishedError,
    PublishedNet,
    PublishedSet,
    RowCollector,
    is_positive,
    options,
    published_measurement,
)

_RESULTS = "results-imagenet.csv"
_FILES = re.compile(r"benchmark-infer-.*\.csv|" + re.escape(_RESULTS))
_NAME = re.compile(
    r"benchmark-infer-(?P<precision>fp32|amp|amp_bf16|bf16|fp16)-(?P<layout>nchw|nhwc)"
    r"-pt(?P<torch>\d+)-(?P<cuda>cu\d+|cpu)-(?P<device>[A-Za-z0-9_.]+)(?P<dynamo>-dynamo)?\.csv"
)
_PRECISIONS = {"fp32": "float32"}
_NUMBERS = ("infer_img_size", "infer_batch_size", "infer_step_time", "param_count")
_MACS = "infer_gmacs"
_KEYS = ["model", "img_size"]


class _Setting(NamedTuple):
    """Parsed file name: Manynet's name for the device, hardware, version and precision."""

    device: str
    hardware: str
    version: str
    precision: str


def read_timm(folder: str) -> PublishedSet:
    """Read the folder; files with other names, such as those of training, are ignored.

    A device becomes ``<device>/<precision>-<layout>-pt<version>-<cuda>``, with ``-dynamo``. An architecture
    is a model's name, without a tag, with its image size. Its accuracy is the best top-1 published for that
    name and size, whatever it was pre-trained on; the record's details name that tag. Parameters and
    multiply-adds are rounded as published, to 10 000 and 10 million, and taken from the row with most
    multiply-adds: some of timm's versions did not count the products inside attention, others merged a
    network's branches first.

    Raises:
        PublishedError: for a folder or file of another format.
        manynet.data.base.DataError: for a file that cannot be read.
    """
    contents = read_matching(folder, _FILES)
    if _RESULTS not in contents or len(contents) < 2:
        missing = "benchmark-infer-*.csv" if _RESULTS in contents else _RESULTS
        raise PublishedError(f"a folder of timm's results must hold {missing}, but {folder} does not")
    best = _best(contents[_RESULTS])
    rows = {_setting(name): _rows(content, name) for name, content in contents.items() if name != _RESULTS}
    collector = RowCollector()
    for setting, table in rows.items():
        _gather(collector, setting, table)
    costs = _costs(list(rows.values()))
    devices = collector.devices()
    nets = [_net(arch, times, best, costs) for arch, times in collector.architectures()]
    return PublishedSet(
        name="timm",
        source=described("timm's inference benchmarks and ImageNet results", contents),
        licence="Apache-2.0",
        licences=licences_beside(folder),
        metric="accuracy",
        choices=options([net.architecture for net in nets]),
        devices=devices,
        nets=nets,
        left_out=collector.left_out,
    )


def _setting(name: str) -> _Setting:
    match = _NAME.fullmatch(name)
    if match is None:
        raise PublishedError(
            "timm's benchmarks must be named benchmark-infer-<precision>-<nchw or nhwc>-pt<version>"
            f"-<cu<version> or cpu>-<device>.csv, but got {name}"
        )
    # Some files omit the prefix of a card's four digits.
    label = f"rtx{match['device']}" if match["device"].isdigit() else match["device"]
    software = f"pt{match['torch']}-{match['cuda']}"
    tool = f"{match['precision']}-{match['layout']}-{software}"
    return _Setting(
        f"{label}/{tool}{match['dynamo'] or ''}",
        f"{label}, {name.removesuffix('.csv')}, as published by timm",
        f"{software}{', torch.compile' if match['dynamo'] else ''}",
        _PRECISIONS.get(match["precision"], match["precision"]),
    )


def _rows(content: bytes, name: str) -> pd.DataFrame:
    """Columns model, img_size, batch, milliseconds, parameters and macs of a file."""
    # One of timm's files counts no multiply-adds.
    numbers = _NUMBERS + ((_MACS,) if _MACS.encode() in content.partition(b"\n")[0] else ())
    table = columns(content, name, ("model",), numbers)
    return pd.DataFrame(
        {
            "model": table["model"].str.partition(".")[0],
            "img_size": table["infer_img_size"],
            "batch": table["infer_batch_size"],
            "milliseconds": table["infer_step_time"],
            "parameters": (table["param_count"] * 1e6).round(),
            "macs": (table[_MACS] * 1e9).round() if _MACS in table else np.nan,
        }
    )


def _gather(collector: RowCollector, setting: _Setting, table: pd.DataFrame) -> None:
    for row in table.to_dict("records"):
        if not (row["model"] and is_positive(row["batch"]) and is_positive(row["img_size"])):
            collector.skip(setting.device)
            continue
        collector.add(
            {"model": row["model"], "img_size": int(row["img_size"])},
            published_measurement(*setting, row["milliseconds"], int(row["batch"])),
        )


def _best(content: bytes) -> dict[tuple[str, int], tuple[float, str]]:
    """Best top-1, as a share, and the full name that has it, by model and image size."""
    table = columns(content, _RESULTS, ("model",), ("img_size", "top1")).dropna()
    if not table["top1"].between(0, 100).all():
        raise PublishedError(f"top1 must be 0 to 100, but {_RESULTS} has {table['top1'].max():g}")
    best: dict[tuple[str, int], tuple[float, str]] = {}
    for row in table.to_dict("records"):
        key = row["model"].partition(".")[0], int(row["img_size"])
        # Published with three decimals: this rounding only removes errors of the division.
        best[key] = max(best.get(key, (0.0, "")), (round(row["top1"] / 100, 8), row["model"]))
    return best


def _costs(tables: list[pd.DataFrame]) -> dict[tuple[str, int], dict[str, float]]:
    """Parameters and multiply-adds by model and image size, those of the row with most multiply-adds."""
    rows = pd.concat(tables).sort_values("macs", kind="stable", na_position="first").dropna(subset=_KEYS)
    last = rows.drop_duplicates(_KEYS, keep="last")
    return {
        (row["model"], int(row["img_size"])): {
            column: row[column] for column in ("parameters", "macs") if is_positive(row[column])
        }
        for row in last.to_dict("records")
    }


def _net(
    arch: Mapping[str, Any],
    times: list[Any],
    best: Mapping[tuple[str, int], tuple[float, str]],
    costs: Mapping[tuple[str, int], Mapping[str, float]],
) -> PublishedNet:
    key = arch["model"], arch["img_size"]
    if key not in best:
        return PublishedNet(arch, costs[key], times, {})
    accuracy, tagged = best[key]
    return PublishedNet(arch, {"accuracy": accuracy, **costs[key]}, times, {"accuracy_of": tagged})
