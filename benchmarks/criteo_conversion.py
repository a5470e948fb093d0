"""What conversion of a raw log costs: a million rows in Criteo's format, in CPU seconds of all threads.

Beside it, what only reading the same file costs: by pyarrow, and by Polars and DuckDB where they are installed
(they are no requirements). Every figure is of a process of its own, without its imports. A matrix product on
one thread tells how fast the machine is.

    python benchmarks/criteo_conversion.py [--rows 1000000]
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import torch
from support.frame import Option, at_least, at_most, run, show
from support.memory import peak_megabytes
from support.processes import in_own_process, in_this_process
from support.timing import matmul_seconds

from manynet.data.clicks.raw import criteo
from manynet.data.clicks.raw.convert import convert

OPTIONS = (Option("--rows", 1_000_000, quick=5000),)
BARS = {"conversion": at_least(150_000), "peak_mb": at_most(1000)}
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
    import polars  # type: ignore[import-not-found,unused-ignore]

    polars.read_csv(path, separator="\t", has_header=False, quote_char=None)


def read_duckdb(path: Path) -> None:
    """DuckDB's reader, which finds out the columns' types."""
    import duckdb  # type: ignore[import-not-found,unused-ignore]

    duckdb.sql(f"create table log as select * from read_csv('{path}', delim='\t', header=false, quote='')")


def convert_log(path: Path) -> None:
    """All of a conversion: reading, hashing, splitting, writing."""
    convert(f"criteo:{path}", str(path.parent / "converted"))


def measure(work: Callable[[Path], None], path: Path) -> tuple[float, float, float]:
    """CPU seconds, wall seconds, and the largest resident memory of the process in MB."""
    cpu, wall = time.process_time(), time.perf_counter()
    work(path)
    return time.process_time() - cpu, time.perf_counter() - wall, peak_megabytes()


def main(given: Namespace) -> dict[str, float]:
    """Measure each work in a process of its own, so that each has its own largest memory."""
    apart = in_this_process if given.quick else in_own_process
    works: dict[str, Callable[[Path], None]] = {"conversion": convert_log, "pyarrow reads": read_pyarrow}
    optional = {"polars": read_polars, "duckdb": read_duckdb}
    works |= {f"{name} reads": work for name, work in optional.items() if find_spec(name)}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        apart(generate, log, given.rows)
        found = {name: apart(measure, work, log) for name, work in works.items()}
        size = log.stat().st_size
    torch.set_num_threads(1)
    matmul_ms = 1e3 * matmul_seconds(20)
    rows = [
        (name, f"{given.rows / cpu:,.0f}", f"{cpu:.2f}", f"{wall:.2f}", f"{peak:.0f}")
        for name, (cpu, wall, peak) in found.items()
    ]
    absent = [(f"{name} reads", "not installed", "", "", "") for name in optional if not find_spec(name)]
    columns = ("", "rows a CPU second", "CPU s", "wall s", "peak MB")
    show(f"{given.rows:,} rows, {size / 1e6:.0f} MB", columns, [*rows, *absent])
    print(f"matrix product of 1024 x 1024 in float32 on one thread: {matmul_ms:.1f} ms")
    figures = {name: given.rows / cpu for name, (cpu, _, _) in found.items()}
    return {**figures, "peak_mb": found["conversion"][2], "matmul_ms": matmul_ms}


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
