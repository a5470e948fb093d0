"""What a run tells while it goes on: its status, its named actor, TensorBoard, metrics, and a report that is refreshed."""

import asyncio
import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from hasty import DEVICE
from ray import tune

import manynet as mn
from manynet.records.conditions import parse_conditions, parse_objectives
from manynet.report import live
from manynet.report.content import ReportContent
from manynet.search.monitor import EVENTS, Monitor
from manynet.search.monitor_callback import MonitorCallback
from manynet.search.monitored import MonitorError, monitored
from manynet.search.tally import Result, SearchPlan, SearchTally
from manynet.storage import StorageError
from manynet.telemetry import metrics
from manynet.telemetry import search_status as status
from manynet.telemetry.search_status import Member, StatusError

OBJECTIVES = parse_objectives(["accuracy:max", "macs:min"])


def plan(study: str = "s", constraints: Any = (), evaluations: int = 10) -> SearchPlan:
    return SearchPlan(study, "toy", OBJECTIVES, parse_conditions(constraints), evaluations, evaluators=2)


def result(accuracy: float, macs: float, at: float, seconds: float = 1.0) -> Result:
    return Result({"width": int(macs)}, {"accuracy": accuracy, "macs": macs}, seconds, at)


# ---------------------------------------------------------------- the tally


def test_rates_are_those_of_the_last_minute() -> None:
    tally = SearchTally(plan(), [], at=0.0)
    assert tally.status(0.0, "searching").seconds_left is None
    for at in (1.0, 2.0, 3.0, 4.0):
        tally.add(result(0.5 + at / 100, at, at))
    early = tally.status(8.0, "searching")
    assert early.per_second == pytest.approx(0.5), "4 in 8 seconds, not in a minute"
    assert early.idle_share == pytest.approx(1 - 4 / 16)
    assert early.seconds_left == pytest.approx(12)
    late = tally.status(62.5, "searching")
    assert late.per_second == pytest.approx(2 / 60)
    assert tally.status(500.0, "searching").per_second == 0
    assert tally.status(500.0, "searching").seconds_left is None


def test_rates_do_not_depend_on_the_order_in_which_results_come() -> None:
    tally = SearchTally(plan(), [], at=0.0)
    for at in (70.0, 5.0, 69.0, 4.0):
        tally.add(result(0.5, at, at))
    assert tally.status(71.0, "searching").per_second == pytest.approx(2 / 60)


def test_failures_are_no_evaluations_and_take_time() -> None:
    tally = SearchTally(plan(), [], at=0.0)
    tally.add(Result({"width": 1}, {}, 4.0, 1.0))
    told = tally.status(4.0, "searching")
    assert (told.done, told.failed, told.per_second) == (0, 1, 0)
    assert told.idle_share == pytest.approx(0.5)
    assert "1 failed" in told.line


def test_front_and_hypervolume_are_those_of_the_report() -> None:
    values = [(0.5, 10), (0.9, 40), (0.7, 20), (0.6, 30), (0.95, 90), (0.4, 5)]
    members = [
        Member(architecture={"width": m}, metrics={"accuracy": a, "macs": float(m)}) for a, m in values
    ]
    tally = SearchTally(plan(constraints=["macs <= 50"]), members[:2], at=0.0)
    for number, (accuracy, macs) in enumerate(values[2:]):
        tally.add(result(accuracy, macs, at=float(number)))
    told = tally.status(10.0, "ended")
    assert [member.metrics["macs"] for member in told.front] == [40, 20, 10, 5]
    assert told.done == 6

    class Row:
        def __init__(self, member: Member) -> None:
            self.metrics = member.metrics

    rows: Any = [Row(member) for member in members]
    report = ReportContent("t", OBJECTIVES, "accuracy", rows, parse_conditions(["macs <= 50"]))
    assert [value for _, value in told.hypervolumes] == pytest.approx(list(report.curve))
    assert told.hypervolume == pytest.approx(report.curve[-1])


def test_a_long_curve_is_thinned_and_ends_with_the_last() -> None:
    tally = SearchTally(plan(evaluations=1000), [], at=0.0)
    for number in range(500):
        tally.add(result(number / 500, 1.0 + number, at=1.0))
    told = tally.status(2.0, "searching")
    assert len(told.hypervolumes) == 60
    assert told.hypervolumes[0][0] == 1 and told.hypervolumes[-1][0] == 500
    assert len(told.front) == 200


def test_the_status_file_is_read_back_or_refused(tmp_path: Path) -> None:
    assert status.read(str(tmp_path)) is None
    told = SearchTally(plan(), [], at=0.0).status(1.0, "searching")
    status.write(str(tmp_path), told)
    assert status.read(str(tmp_path)) == told
    (tmp_path / status.FILE).write_text('{"study": 1}')
    with pytest.raises(StatusError, match="must hold a search's status"):
        status.read(str(tmp_path))


# ---------------------------------------------------------------- the report


def test_a_report_is_written_again_until_the_block_ends() -> None:
    written = threading.Semaphore(0)
    with live.refreshed(written.release, seconds=0.01):
        assert written.acquire(timeout=30) and written.acquire(timeout=30)
    after = written._value
    time.sleep(0.1)
    assert written._value == after


def test_a_report_that_cannot_be_written_ends_no_run(caplog: pytest.LogCaptureFixture) -> None:
    tried = threading.Event()

    def write() -> None:
        tried.set()
        raise StorageError("the disk is full")

    with live.refreshed(write, seconds=0.01):
        assert tried.wait(30)
    assert caplog.text.count("the report is not refreshed any more: the disk is full") == 1


# ---------------------------------------------------------------- the monitor


class Counted:
    """What a monitor exports, kept."""

    def __init__(self, plan: SearchPlan) -> None:
        self.candidates = 0
        self.shown: list[status.SearchStatus] = []

    def count(self, result: Result) -> None:
        self.candidates += bool(result.metrics)

    def show(self, now: status.SearchStatus) -> None:
        self.shown.append(now)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    """What the monitors of a test export."""
    made: list[Counted] = []

    def export(plan: SearchPlan) -> Counted:
        made.append(Counted(plan))
        return made[-1]

    monkeypatch.setattr("manynet.search.monitor.SearchMetrics", export)
    return made


def trial(accuracy: float, width: int = 1) -> Any:
    """One of Tune's, which has ended."""
    return type("Trial", (), {"config": {"width": width}, "last_result": {"accuracy": accuracy}})


def last_event(folder: Path, name: str) -> Any:
    """The last point of a curve in a search's TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / EVENTS))
    accumulator.Reload()
    return accumulator.Scalars(name)[-1]


def test_batches_that_come_after_the_end_are_told(tmp_path: Path, counted: list[Counted]) -> None:
    results = [result(0.5 + number / 10, 1.0 + number, at=time.time()) for number in range(4)]

    async def search() -> None:
        monitor = Monitor(plan(str(tmp_path)), [])
        ending = asyncio.create_task(monitor.end("ended", 2, results[3:]))
        await asyncio.wait([ending], timeout=0.2)
        await monitor.note(results[2:3])
        await asyncio.wait([ending], timeout=0.2)
        await monitor.note(results[:2])
        await ending

    asyncio.run(search())
    told = status.read(str(tmp_path))
    assert told is not None and (told.state, told.done) == ("ended", 4)
    assert last_event(tmp_path, "best/accuracy").value == pytest.approx(0.8)
    assert last_event(tmp_path, "front size").step == 4
    (exported,) = counted
    assert (exported.candidates, exported.shown[-1]) == (4, told)


@pytest.mark.usefixtures("counted")
def test_a_batch_that_never_comes_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("manynet.search.monitor.SECONDS_FOR_BATCHES", 0.05)

    async def search() -> None:
        monitor = Monitor(plan(str(tmp_path)), [])
        await monitor.note([result(0.5, 1.0, at=time.time())])
        await monitor.end("stopped", 3, [result(0.6, 2.0, at=time.time())])

    asyncio.run(search())
    told = status.read(str(tmp_path))
    assert told is not None and (told.state, told.done) == ("stopped", 2)
    assert "incomplete: 2 of 3 batches did not arrive" in capsys.readouterr().out


@pytest.mark.usefixtures("counted")
def test_a_status_that_takes_long_to_write_is_not_written_over_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_go_on = threading.Event(), threading.Event()
    write = status.write

    def slow(folder: str, now: status.SearchStatus) -> None:
        if now.state == "searching":
            begun.set()
            assert may_go_on.wait(30)
        write(folder, now)

    monkeypatch.setattr(status, "write", slow)

    async def search() -> None:
        monitor = Monitor(plan(str(tmp_path)), [])
        assert await asyncio.to_thread(begun.wait, 30)
        ending = asyncio.create_task(monitor.end("ended", 0, [result(0.5, 1.0, at=time.time())]))
        await asyncio.wait([ending], timeout=0.5)
        may_go_on.set()
        await ending

    asyncio.run(search())
    told = status.read(str(tmp_path))
    assert told is not None and (told.state, told.done) == ("ended", 1)


def test_results_are_sent_in_batches_and_the_rest_is_kept_for_the_end() -> None:
    batches: list[Sequence[Result]] = []
    callback = MonitorCallback(batches.append, ["accuracy"])
    for width in (1, 2, 3):
        callback.on_trial_complete(0, [], trial(0.5, width))
    assert [one.architecture["width"] for batch in batches for one in batch] == [1]
    assert [one.architecture["width"] for one in callback.rest] == [2, 3]
    assert callback.sent == 1


# ---------------------------------------------------------------- a run


class Net(mn.Supernet):
    def __init__(self) -> None:
        super().__init__()
        self.layer = mn.elastic.Linear(64, 32)
        self.head = mn.elastic.Linear(32, 10)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        hidden = self.layer(x.flatten(1), out_features=arch["width"]).relu()
        return self.head(hidden, in_features=arch["width"])


space = mn.SearchSpace(
    "watched", {"width": tune.choice(list(range(2, 33, 2)))}, Net, mn.tasks.Classification(10), (1, 8, 8)
)


class Seen:
    """What an onlooker sees of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics: set[str] = set()
        self.pages: list[str] = []
        self.answers: list[dict[str, Any]] = []
        self.actors: set[str] = set()

    @property
    def counts(self) -> list[int]:
        """Evaluations that the pages told of."""
        return [int(n) for page in self.pages for n in re.findall(r"evaluations</dt><dd>(\d+)", page)]

    @contextmanager
    def looking(self) -> Iterator[None]:
        ended = threading.Event()
        thread = threading.Thread(target=self._look, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _look(self, ended: threading.Event) -> None:
        while not ended.wait(0.3):
            self.metrics |= exported()
            page = self.folder / "report.html"
            if page.exists():
                self.pages.append(re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.DOTALL))
            names = {one["name"] for one in ray.util.list_named_actors(all_namespaces=True)}
            self.actors |= names
            if f"{status.PREFIX}{self.folder}" in names:
                self._ask()

    def _ask(self) -> None:
        try:
            actor: Any = ray.get_actor(f"{status.PREFIX}{self.folder}", status.NAMESPACE)
            self.answers.append(ray.get(actor.status.remote(), timeout=30))
        except (ValueError, ray.exceptions.RayError):
            return  # it ended meanwhile


def exported() -> set[str]:
    """Names of the metrics that this node's agent exports to Prometheus."""
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return set(re.findall(r"^(ray_manynet_\w+)\{", answer.read().decode(), flags=re.MULTILINE))


@pytest.fixture(scope="module")
def seen(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("watched") / "run"
    onlooker = Seen(folder)
    with pytest.MonkeyPatch.context() as patch, onlooker.looking():
        patch.setattr("manynet.studies.study.SECONDS_BETWEEN", 1.0)
        patch.setattr(live, "SHARE_OF_TIME", 0.5)
        study = mn.Study(folder, f"{__file__}:space", data="digits")
        study.train(steps=200, evaluate_every=50, batch_size=32)
        objectives = ["accuracy:max", f"latency@{DEVICE}:min"]
        study.search(objectives=objectives, evaluations=14, evaluators=2, sampler="random")
        deadline = time.monotonic() + 60
        while not {one.exported for one in metrics.ALL} <= onlooker.metrics or not max(
            onlooker.counts, default=0
        ):
            assert time.monotonic() < deadline, {one.exported for one in metrics.ALL} - onlooker.metrics
            time.sleep(0.3)
    study.report()
    return onlooker


def test_every_declared_metric_is_exported(seen: Seen) -> None:
    assert seen.metrics == {one.exported for one in metrics.ALL}


def test_a_search_has_a_named_actor_that_answers(seen: Seen) -> None:
    assert f"{status.PREFIX}{seen.folder}" in seen.actors
    told = [status.SearchStatus(**answer) for answer in seen.answers]
    assert told and all(one.state == "searching" for one in told)
    assert [one.done for one in told] == sorted(one.done for one in told)
    names = {one["name"] for one in ray.util.list_named_actors(all_namespaces=True)}
    assert f"{status.PREFIX}{seen.folder}" not in names, "it ends with the search"


def test_the_status_file_tells_the_end(seen: Seen) -> None:
    told = status.read(str(seen.folder))
    assert told is not None
    assert (told.state, told.done, told.evaluations, told.failed) == ("ended", 14, 14, 0)
    columns = {"accuracy", "loss", f"latency@{DEVICE}", "macs", "parameters"}
    assert told.front and all(set(member.metrics) == columns for member in told.front)
    assert all(set(member.architecture) == {"width"} for member in told.front)


def test_tensorboard_shows_the_search_and_the_training(seen: Seen) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def shown(folder: Path) -> EventAccumulator:
        accumulator = EventAccumulator(str(folder))
        accumulator.Reload()
        return accumulator

    search = shown(seen.folder / EVENTS)
    told = status.read(str(seen.folder))
    assert told is not None
    last = search.Scalars("hypervolume")[-1]
    assert (last.step, last.value) == (14, pytest.approx(told.hypervolume))
    assert search.Scalars("front size")[-1].value == len(told.front)
    assert search.Scalars("best/accuracy")[-1].value == pytest.approx(told.front[0].metrics["accuracy"])
    assert {"loss", "learning_rate"} <= set(shown(seen.folder / "supernet" / "tensorboard").Tags()["scalars"])


def test_the_report_is_refreshed_while_the_run_goes_on(seen: Seen) -> None:
    counts = seen.counts
    assert 'http-equiv="refresh"' in seen.pages[-1] and "goes on" in seen.pages[-1]
    assert counts == sorted(counts) and counts[0] == 0 < counts[-1]
    final = (seen.folder / "report.html").read_text()
    assert 'http-equiv="refresh"' not in final


@pytest.mark.usefixtures("ray_cluster")
def test_a_study_is_searched_by_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manynet.search.monitored.PATIENCE", 0.0)
    one = plan(str(tmp_path))
    with monitored(one, ["accuracy"], []) as callback:
        callback.on_trial_complete(0, [], trial(0.5))
        with pytest.raises(MonitorError, match="is being searched by another job"), monitored(one, [], []):
            pass
    told = json.loads((tmp_path / status.FILE).read_text())
    assert (told["done"], told["state"]) == (1, "ended")
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt), monitored(one, [], []):
        raise KeyboardInterrupt
    assert json.loads((tmp_path / status.FILE).read_text())["state"] == "stopped"


@pytest.mark.usefixtures("ray_cluster")
def test_a_search_goes_on_without_its_monitor(tmp_path: Path) -> None:
    with monitored(plan(str(tmp_path)), ["accuracy"], []) as callback:
        callback.on_trial_complete(0, [], trial(0.5))
        ray.kill(ray.get_actor(f"{status.PREFIX}{tmp_path}", status.NAMESPACE))
        time.sleep(0.6)
        start = time.monotonic()
        callback.on_trial_complete(0, [], trial(0.6))
        callback.on_trial_complete(0, [], trial(0.7))
    assert time.monotonic() - start < 5
