"""How much of a search waits for devices, with and without prediction.

The same random search of ``vit:tiny`` on digits, two evaluators, under ``latency@host/onnxruntime``, whose export takes
seconds: once with every latency measured, once with predictions where the predictor is sure. Printed are the share of the
evaluators' time that they waited for a latency, how many latencies were measured, how far predictions of subnets that
were measured by the other search are off, and evaluations a minute. There are no bars.

    python benchmarks/prediction_share.py [--evaluations 80] [--device host/onnxruntime]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence

from support.frame import Option, run, show
from support.processes import local_ray

from manynet.config.settings import SearchSettings
from manynet.records.ledger import Ledger, Record
from manynet.search.runs import search
from manynet.search_spaces.vit import tiny
from manynet.space.fitting import fit_together
from manynet.studies.devices import opened

OPTIONS = (
    Option("--evaluations", 80, quick=2),
    Option("--evaluators", 2, quick=1),
    Option("--ways", ("measured", "predicted"), quick=("predicted",)),
    Option("--device", "host/onnxruntime", quick="host/torch"),
)


def main(given: Namespace) -> dict[str, float | None]:
    """Search by measured latency, then by predicted."""
    names = {"measured": given.device, "predicted": f"{given.device}?source=predicted"}
    with local_ray(2):
        found = {way: searched(names[way], given) for way in given.ways}
    column = f"latency@{given.device}"
    figures: dict[str, float | None] = {}
    rows = []
    for way, (records, seconds) in found.items():
        measured = sum(column in record.metrics for record in records)
        per_minute = 60 * len(records) / seconds
        rows.append((way, f"{waiting(records):.0%}", f"{measured} of {len(records)}", f"{per_minute:.1f}"))
        figures |= {f"waiting_{way}": waiting(records), f"per_minute_{way}": per_minute}
        figures[f"measured_{way}"] = measured
    show(given.device, ("latencies", "waiting", "measured", "evaluations/min"), rows)
    measured_records, predicted_records = (found.get(way, ([], 0.0))[0] for way in names)
    off = errors(measured_records, predicted_records, column, f"latency@{names['predicted']}")
    if off:
        print(f"{len(off)} predictions are of subnets that the other search measured")
    # Few evaluations leave the predictor unsure of all.
    return {**figures, "error": statistics.median(off) if off else None}


def searched(name: str, given: Namespace) -> tuple[list[Record], float]:
    """The records of a search by the latency of this name, and its wall time in seconds."""
    settings = SearchSettings(
        objectives=["accuracy:max", f"latency@{name}:min"],
        sampler="random",
        evaluations=given.evaluations,
        evaluators=given.evaluators,
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


def waiting(records: Sequence[Record]) -> float:
    """Share of the evaluators' time that they waited for a latency."""
    spent = sum(record.details["seconds"] for record in records)
    return float(sum(record.details["device_seconds"] for record in records) / spent)


def errors(
    measured: Sequence[Record], predicted: Sequence[Record], column: str, forecast: str
) -> list[float]:
    """By what share predictions are off, of subnets that the other search measured."""
    truth = {tiny.key(record.architecture): record.metrics[column] for record in measured}
    unmeasured = {
        tiny.key(record.architecture): record for record in predicted if column not in record.metrics
    }
    return [
        abs(record.metrics[forecast] / truth[key] - 1) for key, record in unmeasured.items() if key in truth
    ]


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS)
