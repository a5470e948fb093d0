"""How much of a search waits for devices, with and without prediction.

The same random search of ``vit:tiny`` on digits, two evaluators, under ``latency@host/onnxruntime``, whose export takes
seconds: once with every latency measured, once with predictions where the predictor is sure. Printed are the share of the
evaluators' time that they waited for a latency, how many latencies were measured, how far predictions of subnets that
were measured by the other search are off, and evaluations a minute.

    python benchmarks/prediction_share.py [--evaluations 80] [--device host/onnxruntime]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time

import ray
from rich.console import Console
from rich.table import Table

from manynet.config.settings import SearchSettings
from manynet.records.ledger import Ledger, Record
from manynet.search.runs import search
from manynet.search_spaces.vit import tiny
from manynet.space.fitting import fit_together
from manynet.studies.devices import opened


def main() -> None:
    """Search twice, print a table, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=80)
    parser.add_argument("--device", default="host/onnxruntime")
    options = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    names = {"measured": options.device, "predicted": f"{options.device}?source=predicted"}
    found = {way: searched(name, options.evaluations) for way, name in names.items()}
    ray.shutdown()
    report(found, names)


def searched(name: str, evaluations: int) -> tuple[list[Record], float]:
    """The records of a search by the latency of this name, and its wall time in seconds."""
    settings = SearchSettings(
        objectives=["accuracy:max", f"latency@{name}:min"], sampler="random", evaluations=evaluations
    )
    weights = tiny.build().state_dict()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, opened(tiny, [name], settings, folder, []) as latency:
        records = search(
            tiny,
            weights,
            fit_together(tiny, "digits")[1],
            settings,
            Ledger(f"{folder}/ledger"),
            folder,
            weights_digest="random",
            measure=latency,
            lease=latency.pool.lease,
        )
    return records, time.perf_counter() - start


def waiting(records: list[Record]) -> float:
    """Share of the evaluators' time that they waited for a latency."""
    spent = sum(record.details["seconds"] for record in records)
    return float(sum(record.details["device_seconds"] for record in records) / spent)


def report(found: dict[str, tuple[list[Record], float]], names: dict[str, str]) -> None:
    """The table for people, the last line for programs."""
    truth = {
        tiny.key(r.architecture): r.metrics[f"latency@{names['measured']}"] for r in found["measured"][0]
    }
    table = Table("latencies", "waiting", "measured", "evaluations/min")
    figures: dict[str, float] = {}
    for way, (records, seconds) in found.items():
        measured = sum(f"latency@{names['measured']}" in record.metrics for record in records)
        rate = 60 * len(records) / seconds
        table.add_row(way, f"{waiting(records):.0%}", f"{measured} of {len(records)}", f"{rate:.1f}")
        figures |= {f"waiting_{way}": round(waiting(records), 3), f"per_minute_{way}": round(rate, 2)}
        figures[f"measured_{way}"] = measured
    predicted = [r for r in found["predicted"][0] if f"latency@{names['measured']}" not in r.metrics]
    errors = [
        abs(record.metrics[f"latency@{names['predicted']}"] / truth[key] - 1)
        for record in predicted
        if (key := tiny.key(record.architecture)) in truth
    ]
    Console().print(table)
    if errors:
        figures["error"] = round(statistics.median(errors), 4)
        Console().print(
            f"{len(errors)} predictions are of subnets that the other search measured: "
            f"{figures['error']:.1%} off, median"
        )
    print(json.dumps({"benchmark": "prediction_share", "figures": figures, "bars": {}, "pass": True}))


if __name__ == "__main__":
    main()
