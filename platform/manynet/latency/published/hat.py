"""Latencies of transformers for translation, as measured for HAT (arXiv 2005.14187).

A folder of delimited text, a file for each task and device, such as ``wmt14ende_cpu_raspberrypi_all.csv``.
Choices are those of HAT's predictors: for choices of each layer, only the mean over layers is published. Latency is that of translating one sentence: encoder and decoder together.
"""

from __future__ import annotations

import math
import re
from typing import Any

from manynet.latency.published.files import columns, described, licences_beside, read_matching
from manynet.latency.published.latencies import (
    Choice,
    PublishedError,
    PublishedNet,
    PublishedSet,
    RowCollector,
    is_positive,
    options,
    published_measurement,
)

_FILE = re.compile(r"(?P<task>[A-Za-z0-9]+)_(?:cpu|gpu)_(?P<device>[A-Za-z0-9.-]+)_all\.csv")
_WHOLE = ("encoder_embed_dim", "encoder_layer_num", "decoder_embed_dim", "decoder_layer_num")
_MEANS = (
    "encoder_ffn_embed_dim_avg",
    "encoder_self_attention_heads_avg",
    "decoder_ffn_embed_dim_avg",
    "decoder_self_attention_heads_avg",
    "decoder_ende_attention_heads_avg",
    "decoder_arbitrary_ende_attn_avg",
)
_TIMES = ("latency_mean_encoder", "latency_mean_decoder", "latency_std_encoder", "latency_std_decoder")


def read_hat(folder: str) -> PublishedSet:
    """Read the folder; files with other names are ignored.

    A device becomes ``<device>/hat-<task>``: tasks differ in vocabulary and length, so that their times do
    not compare. Deviations of encoder and decoder are assumed to be independent. Nets that are the same in all
    published choices count as one: the first row is kept.

    Raises:
        PublishedError: for a folder or file of another format.
        manynet.data.base.DataError: for a file that cannot be read.
    """
    contents = read_matching(folder, _FILE)
    if not contents:
        raise PublishedError(
            f"a folder of HAT must hold <task>_<cpu or gpu>_<device>_all.csv, but {folder} does not"
        )
    collector = RowCollector()
    for name, content in contents.items():
        match = _FILE.fullmatch(name)
        assert match is not None
        _gather(
            collector, columns(content, name, (), (*_WHOLE, *_MEANS, *_TIMES)), match["device"], match["task"]
        )
    devices = collector.devices()
    nets = [PublishedNet(arch, {}, times, {}) for arch, times in collector.architectures()]
    return PublishedSet(
        name="hat",
        source=described("latencies of HAT's transformers (arXiv 2005.14187)", contents),
        licence="BSD-2-Clause and MIT",
        licences=licences_beside(folder),
        metric=None,
        choices=options([net.architecture for net in nets]),
        devices=devices,
        nets=nets,
        left_out=collector.left_out,
    )


def _gather(collector: RowCollector, rows: Any, label: str, task: str) -> None:
    device = f"{label}/hat-{task}"
    hardware = f"{label}, {task}, as published by HAT (arXiv 2005.14187)"
    for row in rows.to_dict("records"):
        architecture = _architecture(row)
        parts = [row["latency_mean_encoder"], row["latency_mean_decoder"]]
        # An invalid part may not show in the sum.
        if architecture is None or not all(map(is_positive, parts)):
            collector.skip(device)
            continue
        deviation = math.hypot(row["latency_std_encoder"], row["latency_std_decoder"])
        collector.add(
            architecture,
            published_measurement(
                device, hardware, "not published", "float32", sum(parts), deviation=deviation
            ),
        )


def _architecture(row: dict[str, float]) -> dict[str, Choice] | None:
    """The choices of a row, in the order of the file; None where one is missing."""
    values = [row[key] for key in (*_WHOLE, *_MEANS)]
    if not all(map(math.isfinite, values)):
        return None
    return {**{key: int(row[key]) for key in _WHOLE}, **{key: row[key] for key in _MEANS}}
