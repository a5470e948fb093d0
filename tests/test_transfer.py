"""The transfer study: losses and correlations of known truth, measuring that is stopped and resumed, real devices."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hasty import DEVICE
from ray import tune
from scipy import stats
from typer.testing import CliRunner

import manynet as mn
from manynet.cli import app
from manynet.devices import DeviceError, Measurement, MeasurementError
from manynet.errors import ManynetError
from manynet.records.ledger import Ledger, Record
from manynet.records.rank_correlation import RankingQuality
from manynet.studies.transfer.comparison import (
    Loss,
    TransferError,
    compare,
    loss_at_equal_latency,
    pareto_front,
)
from manynet.studies.transfer.measuring import chosen, measure_missing, with_measurements
from manynet.studies.transfer.page import transfer_page
from manynet.studies.transfer.runs import comparable, transfer_published, transfer_search
from manynet.studies.transfer.verdict import reading, verdict

A, B, C = "host/torch", "host/onnxruntime", "host/openvino"
NAMES = {"a": A, "b": B, "c": C}


def subnet(number: int, accuracy: float | None = None, **latency: float) -> Record:
    """A record of one subnet; ``a``, ``b``, ``c`` are its latencies on the three devices, ms."""
    columns = {f"latency@{NAMES[name]}": value for name, value in latency.items()}
    metrics = columns | ({} if accuracy is None else {"accuracy": accuracy}) | {"macs": 100.0 + number}
    return Record(
        f"{number:016d}", "evaluation", "space", "weights", {"width": number}, "data", "protocol", metrics
    )


# On A the front is 0, 1, 2, 4; on B it is 3, 1, 2, 5: 0 is slow there, 3 fast, and 5 as good as 4 but faster.
KNOWN = [
    subnet(0, 0.50, a=1.0, b=4.0),
    subnet(1, 0.60, a=2.0, b=2.0),
    subnet(2, 0.70, a=3.0, b=3.0),
    subnet(3, 0.55, a=2.5, b=1.0),
    subnet(4, 0.90, a=4.0, b=8.0),
    subnet(5, 0.86, a=5.0, b=6.0),
]


def test_losses_and_fronts_are_those_by_hand() -> None:
    found = compare(KNOWN, A, [B], "accuracy")
    target = found.targets[0]
    assert [r.architecture["width"] for r in pareto_front(KNOWN, "accuracy", A)] == [0, 1, 2, 4]
    assert [r.architecture["width"] for r in target.own] == [3, 1, 2, 5, 4]
    assert [r.architecture["width"] for r in target.front] == [1, 2, 0, 4]
    # 3 (1 ms) is faster than all of A's front; 1, 2, 4 are in it; 5 (6 ms, 0.86) is matched by 2 (3 ms, 0.70).
    assert target.loss is not None
    assert (target.loss.reached, target.loss.unreached) == (4, 1)
    assert target.loss.largest == pytest.approx(0.16)
    assert target.loss.mean == pytest.approx(0.04)
    a, b = ([r.metrics[f"latency@{name}"] for r in KNOWN] for name in (A, B))
    assert target.tau.tau == pytest.approx(stats.kendalltau(a, b).statistic)
    assert target.tau.low <= target.tau.tau <= target.tau.high
    assert target.front_tau is not None
    assert target.front_tau.tau == pytest.approx(stats.kendalltau([1, 2, 3, 4], [4, 2, 3, 8]).statistic)
    assert found.taus[0][1] == found.taus[1][0] == pytest.approx(target.tau.tau)


def test_a_device_of_the_same_order_loses_nothing() -> None:
    records = [subnet(n, 0.1 * n, a=n, b=10.0 * n) for n in range(1, 8)]
    target = compare(records, A, [B], "accuracy").targets[0]
    assert target.loss == Loss(0.0, 0.0, 7, 0)
    assert target.tau.tau == target.tau.low == 1.0


def test_equal_latency_reaches_and_equal_subnets_are_one_member() -> None:
    records = [
        subnet(0, 0.5, a=1, b=2),
        subnet(1, 0.5, a=1, b=2),
        subnet(2, 0.6, a=2, b=2),
        subnet(3, 0.4, a=3, b=1),
    ]
    target = compare(records, A, [B], "accuracy").targets[0]
    assert [r.architecture["width"] for r in target.front] == [0, 2]
    # 0.6 at 2 ms is both fronts'; 0.4 at 1 ms is out of reach.
    assert target.loss == Loss(0.0, 0.0, 1, 1)
    assert target.front_tau is None


def test_a_front_that_reaches_nothing_has_no_loss() -> None:
    own, other = [subnet(0, 0.5, b=1.0)], [subnet(1, 0.5, b=2.0)]
    assert loss_at_equal_latency(own, other, "accuracy", B) == Loss(None, None, 0, 1)


def test_missing_and_nan_columns_are_left_out_of_their_device_alone() -> None:
    gaps = [subnet(6, 0.99, a=0.5), subnet(7, 0.99, a=0.4, b=math.nan), subnet(8, a=0.1, b=0.1)]
    target = compare([*KNOWN, *gaps], A, [B], "accuracy").targets[0]
    assert target.tau.count == 7
    # 7 beats every other subnet on A, so it is A's front alone; B was not measured on it.
    assert target.absent == 1
    assert target.loss == compare(KNOWN, A, [B], "accuracy").targets[0].loss
    with_c = [*KNOWN, *[subnet(n, 0.5, a=n, c=n) for n in range(10, 14)]]
    taus = compare(with_c, A, [B, C], "accuracy").taus
    assert taus[1][2] is None and taus[2][0] == 1.0


@pytest.mark.parametrize(
    ("source", "targets", "metric", "message"),
    [
        (A, [B, A], "accuracy", "devices of a transfer study must be different, but got 'host/torch' twice"),
        (A, [B, B], "accuracy", "must be different, but got 'host/onnxruntime' twice"),
        (A, [], "accuracy", "at least one device to transfer to, but got none"),
        (
            A,
            [C],
            "accuracy",
            "at least 3 subnets must be measured on both host/torch and host/openvino, but got 0",
        ),
        (A, [B], "auc", "a transfer study of auc needs subnets that have it, but got none"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(
    source: str, targets: Any, metric: str, message: str
) -> None:
    with pytest.raises(TransferError, match=message) as caught:
        compare(KNOWN, source, targets, metric)
    assert "\n" not in str(caught.value)


def test_the_reading_claims_only_what_intervals_support() -> None:
    assert verdict(RankingQuality(0.95, 0.85, 1.0, 9)).startswith("keeps its order")
    assert verdict(RankingQuality(0.95, 0.6, 1.0, 9)).startswith("keeps at least part")
    assert verdict(RankingQuality(0.6, 0.3, 0.7, 9)).startswith("keeps part")
    assert verdict(RankingQuality(0.2, 0.1, 0.3, 9)).startswith("keeps little")
    assert verdict(RankingQuality(0.3, -0.1, 0.6, 9)).startswith("shows no order that is distinct")
    assert verdict(RankingQuality(-0.6, -0.9, -0.1, 9)).startswith("reverses")
    assert verdict(RankingQuality(1.0, 1.0, 1.0, 4)).startswith("has too few members")
    found = compare(KNOWN, A, [B], "accuracy")
    # Four members of the front are too few to speak of an order, so all six subnets are judged.
    assert reading(found) == (
        "The set of subnets measured on host/torch shows no order that is distinct from chance on host/onnxruntime "
        f"(tau {found.targets[0].tau.tau:.2f}). At equal latency the front found on host/torch costs 4.0 points of "
        "accuracy on host/onnxruntime (16.0 points at most), against the front found for the device itself."
    )
    records = [subnet(n, 0.1 * n, a=n, b=n, c=-n) for n in range(1, 8)]
    said = reading(compare(records, A, [B, C], "accuracy"))
    assert (
        "keeps its order on host/onnxruntime (tau 1.00); reverses its order on host/openvino (tau -1.00)"
        in said
    )
    assert "costs nothing on host/onnxruntime" in said
    five = [f"host/torch?threads={n}" for n in range(2, 7)]
    alike = [
        replace(r, metrics=r.metrics | {f"latency@{name}": r.metrics[f"latency@{A}"] for name in five})
        for r in records
    ]
    said = reading(compare(alike, A, five, "accuracy"))
    assert "keeps its order on 5 devices (tau 1.00)" in said and "costs nothing on 5 devices" in said
    assert reading(compare(records, A, [B], None)).count(".") == 2


def test_the_page_shows_every_device_and_fetches_nothing() -> None:
    records = [subnet(n, 0.1 * n, a=n, b=n, c=8 - n) for n in range(1, 8)]
    html = transfer_page(
        "<b>run", compare(records, A, [B, C], "accuracy", ["a note & more"]), {"space": "tiny"}
    )
    assert all(text in html for text in (B, C, "not reached", "a note &amp; more", "&lt;b&gt;run"))
    assert "default-src 'none'" in html and "<b>run" not in html
    plain = transfer_page("run", compare(records, A, [B], None), {})
    assert "only rank correlations are reported" in plain and "mean loss" not in plain


def test_the_front_is_measured_first_and_others_by_rank() -> None:
    records = [subnet(n, 0.5 + (n in (3, 9)) * n / 100, a=n + 1.0) for n in range(20)]
    picked = [record.architecture["width"] for record in chosen(records, A, "accuracy", 6)]
    assert picked[:3] == [0, 3, 9]
    assert picked[3:] == [1, 11, 19]
    assert len(chosen(records, A, "accuracy", 200)) == 20
    # Not measured by the search: multiply-adds stand in.
    assert [r.architecture["width"] for r in chosen(records, C, "accuracy", 6)] == picked


class Stopwatch:
    """Measures by a formula, remembers what it was asked for, and fails or stops where told to."""

    def __init__(self, fails_on: Sequence[str] = (), stops_after: int = 10**9) -> None:
        self.fails_on, self.stops_after = fails_on, stops_after
        self.asked: list[tuple[int, str]] = []

    def __call__(self, arch: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Measurement]:
        if len(self.asked) >= self.stops_after:
            raise KeyboardInterrupt
        (name,) = names
        self.asked.append((arch["width"], name))
        if name in self.fails_on:
            raise MeasurementError(f"{name} could not measure the network: no kernel")
        milliseconds = 1.0 + arch["width"]
        return {name: Measurement(name, "chip", "torch", "1", 1, 1, "float32", milliseconds, 0.1, 9, False)}


def study_of(
    ledger: Ledger, watch: Stopwatch, targets: Sequence[str], subnets: int = 200, source: str = A
) -> Any:
    from contextlib import nullcontext

    records = [r for r in ledger.read() if r.kind == "evaluation"]
    return transfer_search(
        records, source, targets, "accuracy", subnets, ledger, lambda names: nullcontext(watch)
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "ledger")
    for number in range(12):
        made.write(subnet(number, 0.5 + 0.01 * number, a=number + 1.0))
    return made


def test_a_stopped_study_goes_on_without_measuring_twice(ledger: Ledger) -> None:
    first = Stopwatch(stops_after=5)
    with pytest.raises(KeyboardInterrupt):
        study_of(ledger, first, [B])
    assert len([r for r in ledger.read() if r.kind == "measurement"]) == 5
    second = Stopwatch()
    found = study_of(ledger, second, [B])
    assert sorted(first.asked + second.asked) == [(number, B) for number in range(12)]
    assert found.targets[0].tau.count == 12
    again = Stopwatch()
    assert study_of(ledger, again, [B]).to_dict() == found.to_dict()
    assert again.asked == []


def test_measurements_are_records_of_their_own(ledger: Ledger) -> None:
    study_of(ledger, Stopwatch(), [B], subnets=4)
    added = [r for r in ledger.read() if r.kind == "measurement"]
    assert len(added) == 4
    assert all(set(r.metrics) == {f"latency@{B}"} and r.measurements[0]["device"] == B for r in added)
    evaluations = [r for r in ledger.read() if r.kind == "evaluation"]
    assert not any(f"latency@{B}" in r.metrics for r in evaluations)
    merged = with_measurements(evaluations, ledger.read())
    assert [f"latency@{B}" in r.metrics for r in merged].count(True) == 4
    assert all(r.metrics[f"latency@{A}"] == r.architecture["width"] + 1.0 for r in merged)


def test_a_tool_that_fails_is_left_out_and_told(ledger: Ledger) -> None:
    watch = Stopwatch(fails_on=[C])
    found = study_of(ledger, watch, [B, C])
    assert [target.device for target in found.targets] == [B]
    assert watch.asked.count((0, C)) == 1 and len([name for _, name in watch.asked if name == C]) == 10
    notes = "\n".join(found.notes)
    assert "host/openvino could not measure 10 of 10 subnets: host/openvino could not" in notes
    assert "given up after 10 in a row" in notes and "host/openvino is left out" in notes
    assert "12 of 12 measurements on host/onnxruntime were unsteady" in notes
    with pytest.raises(
        TransferError, match="at least 3 subnets must be measured on .* but fewer were; .*no kernel"
    ):
        study_of(ledger, Stopwatch(fails_on=[C]), [C])


def test_a_source_that_the_search_did_not_measure_is_measured(ledger: Ledger) -> None:
    watch = Stopwatch()
    found = study_of(ledger, watch, [A], subnets=5, source=B)
    assert len(watch.asked) == 5 and {name for _, name in watch.asked} == {B}
    assert found.targets[0].tau.count == 5


def test_progress_is_a_line_for_every_tenth(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    records = ledger.read()
    with caplog.at_level("INFO", logger="manynet"):
        measure_missing([*records, *[subnet(n) for n in range(20, 48)]], [B], Stopwatch(), ledger)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"transfer: {4 * n} of 40" for n in range(1, 11)]


@pytest.mark.parametrize(
    ("source", "targets", "subnets", "message"),
    [
        (A, ["host/abacus"], 9, "abacus"),
        (A, ["host/torch?threads=2&batch=8"], 9, "must be spelled 'host/torch.batch=8&threads=2'"),
        (A, ["torch"], 9, "device must be spelled"),
        (A, [B, A], 9, "must be different"),
        (A, [B], 2, "subnets must be at least 3, but got 2"),
        (A, [], 9, "at least one device to transfer to"),
    ],
)
def test_a_study_that_cannot_work_measures_nothing(
    ledger: Ledger, source: str, targets: list[str], subnets: int, message: str
) -> None:
    watch = Stopwatch()
    with pytest.raises(ManynetError, match=message) as caught:
        study_of(ledger, watch, targets, subnets, source)
    assert "\n" not in str(caught.value) and not watch.asked


def published(folder: Path, metric: str | None = "accuracy") -> Path:
    ledger = Ledger(folder / "ledger")
    for record in KNOWN:
        ledger.write(record)
    about = {"name": "boards", "metric": metric, "devices": [A, B, C], "licence": "MIT"}
    (folder / "published.json").write_text(json.dumps(about))
    return folder


def test_a_published_table_is_compared_from_the_command_line(tmp_path: Path) -> None:
    folder = published(tmp_path)
    done = CliRunner().invoke(app, ["transfer", str(folder), "--from", A], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert "16.0 points" in done.output and "1 of 5" in done.output and "Kendall tau among all" in done.output
    kept = json.loads((folder / "transfer.json").read_text())
    assert kept["targets"][0]["loss"]["largest"] == pytest.approx(0.16)
    assert kept["targets"][0]["front"] == [f"{n:016d}" for n in (1, 2, 0, 4)]
    assert "Plotly" in (folder / "transfer.html").read_text()


def test_a_table_without_a_metric_has_correlations_alone(tmp_path: Path) -> None:
    found = transfer_published(published(tmp_path, metric=None), A, [B])
    assert found.targets[0].loss is None and found.targets[0].front == []
    assert comparable(KNOWN, A) == [B]
    assert "only rank correlations are reported" in (tmp_path / "transfer.html").read_text()


def test_a_table_that_is_wrong_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="a device of boards must be one of .*, but got 'moon/torch'"):
        transfer_published(published(tmp_path), "moon/torch")
    with pytest.raises(TransferError, match="at least 3 subnets must be measured on both"):
        transfer_published(tmp_path, A, [C])
    (tmp_path / "published.json").write_text('{"name": "boards", "metric": null}')
    with pytest.raises(TransferError, match="must hold name, metric and devices, but got devices") as caught:
        transfer_published(tmp_path, A)
    assert "\n" not in str(caught.value)


class Net(mn.Supernet):
    def __init__(self) -> None:
        super().__init__()
        self.stem = mn.elastic.Conv2d(1, 16, 3, padding=1)
        self.norm = mn.elastic.BatchNorm2d(16)
        self.head = mn.elastic.Linear(16 * 64, 10)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        x = self.norm(self.stem(x, out_channels=arch["width"])).relu()
        return self.head(x.permute(0, 2, 3, 1).flatten(1))


widths = {"width": tune.choice([2, 3, 4, 6, 8, 10, 12, 16])}
space = mn.SearchSpace("transfer-conv", widths, Net, mn.tasks.Classification(10), (1, 8, 8))


def test_a_study_transfers_on_real_devices_and_resumes(ray_cluster: None, tmp_path: Path) -> None:
    study = mn.Study(tmp_path / "run", f"{__file__}:space", data="digits")
    with pytest.raises(ManynetError, match="transfer needs search to have run"):
        study.transfer(DEVICE, [f"{DEVICE}?batch=4"])
    study.train(workers=0, batch_size=32, augment="none", steps=10, evaluate_every=10, checkpoint_every=10)
    study.search(objectives=["accuracy:max", f"latency@{DEVICE}:min"], evaluations=5, evaluators=1)
    with pytest.raises(DeviceError, match="moon/torch"):
        study.transfer(DEVICE, [f"{DEVICE}?batch=4", "moon/torch"])
    assert not [r for r in study.ledger.read() if r.kind == "measurement"]

    study.transfer(DEVICE, [f"{DEVICE}?batch=4"], subnets=3)
    before = {r.key: r.created for r in study.ledger.read()}
    found = mn.Study.open(study.folder).transfer(DEVICE, [f"{DEVICE}?batch=4"])
    after = {r.key: r.created for r in study.ledger.read()}
    assert len(before) == 5 + 3 and len(after) == 5 + 5
    assert {key: after[key] for key in before} == before
    assert all(r.measurements[-1]["batch"] == 4 for r in found.records)
    assert found.targets[0].tau.count == 5 and found.targets[0].loss is not None

    kept = json.loads((tmp_path / "run" / "transfer.json").read_text())
    assert kept["devices"] == [DEVICE, f"{DEVICE}?batch=4"]
    assert (tmp_path / "run" / "transfer.html").exists()
    # What only has a latency is no subnet that could win.
    assert study.best(f"latency@{DEVICE}").kind == "evaluation" and study.best().kind == "evaluation"
    with pytest.raises(ManynetError, match=f"a column must be one of .*, but got 'latency@{DEVICE}.batch=4'"):
        study.best(f"latency@{DEVICE}?batch=4")
    study.report()
