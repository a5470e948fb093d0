"""How fast click-through data larger than memory can be read: rows a CPU-second, by Arrow and by Ray Data.

Both give training batches of 512 of the shape of Criteo (13 dense features, 26 ids) from the same Parquet files:
the same tensors. Arrow is `manynet.data.clicks.streamed`: row groups in random order, rows mixed in a window of eight of
them. Ray Data is read_parquet, a task that puts columns together, and iter_batches with a shuffle buffer of the
same size; and once more in the order of the files, which is no way to train but shows what mixing costs it. CPU
time is that of all processes, Ray's own included.

    python benchmarks/click_streaming.py
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from rich.console import Console
from rich.table import Table

from manynet.data import Batch, Categorical, Features
from manynet.data.clicks.in_memory import Clicks
from manynet.data.clicks.streamed import WINDOW, StreamedClicks, find_clicks

BAR = 2.0
ROWS, FILES, GROUP, BATCH = 500_000, 4, 2**14, 512
DENSE, CATEGORICAL = 13, 26
ROUNDS, EPOCHS = 3, 4
FEATURES = Features(
    tuple(f"I{at}" for at in range(DENSE)),
    tuple(
        Categorical(f"C{at}", int(rows)) for at, rows in enumerate(np.geomspace(10, 1_000_000, CATEGORICAL))
    ),
)


def main() -> None:
    """Measure in turns, print a table, then one JSON line."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        readers = {
            "Arrow, mixed": lambda: arrow(folder),
            "Ray Data, in order": lambda: ray_data(folder, None),
            "Ray Data, mixed": lambda: ray_data(folder, WINDOW),
        }
        found: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(1 + ROUNDS):
            for name, read in readers.items():
                found[name].append(rows_per_second(read()))
    show({name: statistics.median(values[1:]) for name, values in found.items()})


def write(folder: Path) -> None:
    """Files as conversion writes them: many small ids, few large ones."""
    random = np.random.default_rng(0)
    for file in range(FILES):
        count = ROWS // FILES
        columns: dict[str, Any] = {"label": random.integers(2, size=count).astype(np.uint8)}
        for name in FEATURES.dense:
            columns[name] = np.log1p(random.lognormal(size=count).round(1)).astype(np.float32)
        for feature in FEATURES.categorical:
            columns[feature.name] = (feature.rows * random.power(0.3, count)).astype(np.int32)
        pq.write_table(pa.table(columns), folder / f"part-{file:05}.parquet", row_group_size=GROUP)


def arrow(folder: str) -> Iterator[Batch]:
    """Batches of some epochs."""
    split = StreamedClicks(find_clicks(folder, FEATURES))
    return islice(split.stream(BATCH, seed=0), EPOCHS * ROWS // BATCH)


def ray_data(folder: str, buffer: int | None) -> Iterator[Batch]:
    """Batches of some epochs."""
    # One run of them all: starting one costs more than an epoch.
    files = [str(path) for path in sorted(Path(folder).iterdir())] * EPOCHS
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
    before, rows = cpu_seconds(), 0
    for batch in batches:
        dense, ids = batch.inputs
        assert dense.shape[1] == DENSE and ids.shape[1] == CATEGORICAL and ids.dtype == torch.int64
        rows += len(batch.targets)
    time.sleep(0.2)  # what workers still have to tidy up
    # A process that ended meanwhile is left out, which can only flatter Ray.
    return rows / sum(seconds - before.get(pid, 0.0) for pid, seconds in cpu_seconds().items())


def cpu_seconds() -> dict[int, float]:
    """Of this process and of all it started, by their numbers."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            parents[int(entry.name)] = int(fields[1])
            seconds[int(entry.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return {pid: spent for pid, spent in seconds.items() if _is_ours(pid, parents)}


def _is_ours(pid: int, parents: dict[int, int]) -> bool:
    while pid not in (os.getpid(), 0):
        pid = parents.get(pid, 0)
    return pid != 0


def show(rates: dict[str, float]) -> None:
    """Print the table and the line for scripts."""
    ratio = rates["Arrow, mixed"] / rates["Ray Data, mixed"]
    table = Table(
        "reader", "rows a CPU-second", title=f"batches of {BATCH}, {DENSE} + {CATEGORICAL} features"
    )
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}")
    console = Console()
    console.print(table)
    console.print(f"Arrow / Ray Data, both mixed: {ratio:.1f} (bar {BAR})")
    figures = {"ratio": round(ratio, 2), **{name: round(rate) for name, rate in rates.items()}}
    print(
        json.dumps(
            {"benchmark": "click_streaming", "figures": figures, "bars": {"ratio": BAR}, "pass": ratio >= BAR}
        )
    )


if __name__ == "__main__":
    main()
