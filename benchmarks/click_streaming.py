"""How fast click-through data larger than memory can be read: rows a CPU-second, by Arrow and by Ray Data.

Both give training batches of 512 of the shape of Criteo (13 dense features, 26 ids) from the same Parquet files:
the same tensors. Arrow is `manynet.data.clicks.streamed`: row groups in random order, rows mixed in a window of eight of
them. Ray Data is read_parquet, a task that puts columns together, and iter_batches with a shuffle buffer of the
same size; and once more in the order of the files, which is no way to train but shows what mixing costs it. CPU
time is that of all processes, Ray's own included.

    python benchmarks/click_streaming.py [--rows 500000]
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from support.frame import Option, at_least, run, show
from support.processes import local_ray
from support.timing import process_seconds, seconds_since

from manynet.data import Batch, Categorical, Features
from manynet.data.clicks.in_memory import Clicks
from manynet.data.clicks.streamed import WINDOW, StreamedClicks, find_clicks

FILES, GROUP, BATCH = 4, 2**14, 512
DENSE, CATEGORICAL = 13, 26
OPTIONS = (
    Option("--rows", 500_000, quick=10_000),
    Option("--epochs", 4, quick=1),
    Option("--warm-up", 1, "rounds that do not count", quick=0),
    Option("--rounds", 3, quick=1),
)
BARS = {"ratio": at_least(2.0)}
FEATURES = Features(
    tuple(f"I{at}" for at in range(DENSE)),
    tuple(
        Categorical(f"C{at}", int(rows)) for at, rows in enumerate(np.geomspace(10, 1_000_000, CATEGORICAL))
    ),
)


def main(given: Namespace) -> dict[str, float]:
    """Measure the readers in turns."""
    with local_ray(2), tempfile.TemporaryDirectory() as folder:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        write(Path(folder), given.rows)
        readers: dict[str, Callable[[], Iterator[Batch]]] = {
            "Arrow, mixed": lambda: arrow(folder, given.epochs * given.rows),
            "Ray Data, in order": lambda: ray_data(folder, given.epochs, None),
            "Ray Data, mixed": lambda: ray_data(folder, given.epochs, WINDOW),
        }
        found: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(given.warm_up + given.rounds):
            for name, read in readers.items():
                found[name].append(rows_per_second(read()))
    rates = {name: statistics.median(values[given.warm_up :]) for name, values in found.items()}
    show(
        f"batches of {BATCH}, {DENSE} + {CATEGORICAL} features",
        ("reader", "rows a CPU-second"),
        [(name, f"{rate:,.0f}") for name, rate in rates.items()],
    )
    return {"ratio": rates["Arrow, mixed"] / rates["Ray Data, mixed"], **rates}


def write(folder: Path, rows: int) -> None:
    """Files as conversion writes them: many small ids, few large ones."""
    random = np.random.default_rng(0)
    for file in range(FILES):
        count = rows // FILES
        columns: dict[str, Any] = {"label": random.integers(2, size=count).astype(np.uint8)}
        for name in FEATURES.dense:
            columns[name] = np.log1p(random.lognormal(size=count).round(1)).astype(np.float32)
        for feature in FEATURES.categorical:
            columns[feature.name] = (feature.rows * random.power(0.3, count)).astype(np.int32)
        pq.write_table(pa.table(columns), folder / f"part-{file:05}.parquet", row_group_size=GROUP)


def arrow(folder: str, rows: int) -> Iterator[Batch]:
    """Batches of so many rows."""
    split = StreamedClicks(find_clicks(folder, FEATURES))
    return islice(split.stream(BATCH, seed=0), rows // BATCH)


def ray_data(folder: str, epochs: int, buffer: int | None) -> Iterator[Batch]:
    """Batches of some epochs."""
    # One run of them all: starting one costs more than an epoch.
    files = [str(path) for path in sorted(Path(folder).iterdir())] * epochs
    data = ray.data.read_parquet(files).map_batches(together, batch_format="pyarrow", batch_size=None)
    for batch in data.iter_batches(batch_size=BATCH, local_shuffle_buffer_size=buffer, local_shuffle_seed=0):
        yield Clicks(batch["dense"], batch["ids"], batch["label"]).batch()


def together(table: pa.Table) -> dict[str, Any]:
    """Dense features and ids of a block, each as one array."""
    ids = [table.column(feature.name).to_numpy() for feature in FEATURES.categorical]
    dense = [table.column(name).to_numpy() for name in FEATURES.dense]
    return {"dense": np.stack(dense, 1), "ids": np.stack(ids, 1), "label": table.column("label").to_numpy()}


def rows_per_second(batches: Iterator[Batch]) -> float:
    """Of CPU time."""
    before, rows = process_seconds(), 0
    for batch in batches:
        dense, ids = batch.inputs
        assert dense.shape[1] == DENSE and ids.shape[1] == CATEGORICAL and ids.dtype == torch.int64
        rows += len(batch.targets)
    time.sleep(0.2)  # what workers still have to tidy up
    # A process that ended meanwhile is left out, which can only flatter Ray.
    return rows / seconds_since(before)


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
