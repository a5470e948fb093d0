"""What conversion of a raw log costs: a million rows in Criteo's format, in CPU seconds of all threads.

Beside it, what only reading the same file costs: by pyarrow, and by Polars and DuckDB where they are installed
(they are no requirements). Every figure is of a process of its own, without its imports. A matrix product on
one thread tells how fast the machine is.

    python benchmarks/criteo_conversion.py [--rows 1000000]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import torch
from rich.console import Console
from rich.table import Table

from manynet.data.clicks.raw import criteo
from manynet.data.clicks.raw.convert import convert

BAR = 150_000
BAR_MB = 1000
NAMES = ["label", *criteo.DENSE, *criteo.TABLES]
MISSING = 0.1


def generate(path: Path, rows: int) -> None:
    """Write a log: log-normal counts, categories as frequent as 1 / rank, a tenth of either missing."""
    random = np.random.default_rng(0)
    columns = [pa.array((random.random(rows) < 0.25).astype(np.uint8))]
    for number, _ in enumerate(criteo.DENSE):
        counts = np.floor(random.lognormal(1.5 + number % 5, 1.5, rows)).astype(np.int64)
        # I2 is the one that can be negative.
        columns.append(pa.array(counts - 3 * (number == 1), mask=random.random(rows) < MISSING))
    for number, size in enumerate(criteo.TABLES.values()):
        rank = np.floor(size ** random.random(rows)).astype(np.uint64)
        columns.append(_texts((rank + np.uint64(number << 24)) * np.uint64(2654435761), random))
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    pa.csv.write_csv(pa.table(columns, names=NAMES), path, options)


def _texts(numbers: np.ndarray, random: np.random.Generator) -> pa.Array:
    """Eight hexadecimal digits a number, or nothing."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    shifts = np.arange(28, -1, -4, dtype=np.uint64)
    written = digits[(numbers[:, None] >> shifts) & np.uint64(15)]
    texts = pa.Array.from_buffers(pa.binary(8), len(numbers), [None, pa.py_buffer(written)])
    missing = pa.array(random.random(len(numbers)) < MISSING)
    return pc.if_else(missing, pa.scalar(None, pa.string()), texts.cast(pa.binary()).cast(pa.string()))


def read_pyarrow(path: Path) -> None:
    """pyarrow's streaming reader, with the columns' types given."""
    kinds = [pa.uint8()] + [pa.float64()] * len(criteo.DENSE) + [pa.binary()] * len(criteo.TABLES)
    with pa.csv.open_csv(
        path,
        pa.csv.ReadOptions(column_names=NAMES),
        pa.csv.ParseOptions(delimiter="\t", quote_char=False),
        pa.csv.ConvertOptions(column_types=dict(zip(NAMES, kinds, strict=True)), null_values=[""]),
    ) as reader:
        for _ in reader:
            pass


def read_polars(path: Path) -> None:
    """Polars' reader, which finds out the columns' types."""
    import polars

    polars.read_csv(path, separator="\t", has_header=False, quote_char=None)


def read_duckdb(path: Path) -> None:
    """DuckDB's reader, which finds out the columns' types."""
    import duckdb

    duckdb.sql(f"create table log as select * from read_csv('{path}', delim='\t', header=false, quote='')")


def convert_log(path: Path) -> None:
    """All of a conversion: reading, hashing, splitting, writing."""
    convert(f"criteo:{path}", str(path.parent / "converted"))


def measure(work: Callable[[Path], None], path: Path) -> tuple[float, float, float]:
    """CPU seconds, wall seconds, and the largest resident memory of the process in MB."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work(path)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall, after.ru_maxrss / 1000


def matmul_ms() -> float:
    """Milliseconds of a 1024 x 1024 float32 matrix product on one thread."""
    torch.set_num_threads(1)
    matrix = torch.randn(1024, 1024)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Measure, print a table, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    works = {"conversion": convert_log, "pyarrow reads": read_pyarrow}
    optional = {"polars": read_polars, "duckdb": read_duckdb}
    works |= {f"{name} reads": work for name, work in optional.items() if find_spec(name)}
    with (
        tempfile.TemporaryDirectory() as folder,
        # A process each, so that each has its own largest memory.
        get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
    ):
        log = Path(folder) / "log"
        pool.apply(generate, (log, rows))
        results = {name: pool.apply(partial(measure, work), (log,)) for name, work in works.items()}
        size = log.stat().st_size
    absent = [name for name in optional if not find_spec(name)]
    matmul = matmul_ms()
    report(rows, size, results, absent, matmul)
    passed = rows / results["conversion"][0] >= BAR and results["conversion"][2] <= BAR_MB
    figures = {name: round(rows / cpu) for name, (cpu, _, _) in results.items()}
    line = {
        "benchmark": "criteo_conversion",
        "figures": figures | {"peak_mb": round(results["conversion"][2]), "matmul_ms": round(matmul, 1)},
        "bars": {"conversion": BAR, "peak_mb": BAR_MB},
        "pass": passed,
    }
    print(json.dumps(line))


def report(
    rows: int, size: int, results: dict[str, tuple[float, float, float]], absent: list[str], matmul: float
) -> None:
    """The table for people."""
    table = Table(
        "", "rows a CPU second", "CPU s", "wall s", "peak MB", title=f"{rows:,} rows, {size / 1e6:.0f} MB"
    )
    for name, (cpu, wall, peak) in results.items():
        table.add_row(name, f"{rows / cpu:,.0f}", f"{cpu:.2f}", f"{wall:.2f}", f"{peak:.0f}")
    for name in absent:
        table.add_row(f"{name} reads", "not installed", "", "", "")
    table.add_row("bar of conversion", f">= {BAR:,}", "", "", f"<= {BAR_MB}")
    console = Console()
    console.print(table)
    console.print(f"matrix product of 1024 x 1024 in float32 on one thread: {matmul:.1f} ms")


if __name__ == "__main__":
    main()
