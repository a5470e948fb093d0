"""Where latencies come from: measured, predicted and looked up in one study; what each record and the report say of it."""

import json
from pathlib import Path

import pytest
import torch
from hasty import STEADY as DEVICE
from ray import tune

import manynet as mn
from manynet.config.settings import SearchSettings
from manynet.devices import DeviceError, DeviceName
from manynet.errors import ManynetError
from manynet.latency import sources
from manynet.latency.forecaster import FIRST
from manynet.latency.table import LatencyTable
from manynet.records.ledger import Record
from manynet.studies.devices import told

PREDICTED, LOOKED_UP = f"{DEVICE}?source=predicted", "board/torch?source=table"


class Net(mn.Supernet):
    """A layer that runs some times over: latency is nearly linear in how often."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = mn.elastic.Linear(64, 256)
        self.middle = mn.elastic.Linear(256, 256)
        self.head = mn.elastic.Linear(256, 10)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        x = self.stem(x.flatten(1), out_features=arch["width"])
        for _ in range(arch["times"]):
            x = self.middle(x.relu(), out_features=arch["width"])
        return self.head(x, in_features=arch["width"])  # type: ignore[no-any-return]


space = mn.SearchSpace(
    "repeating",
    {"times": tune.choice(list(range(1, 61))), "width": tune.choice([128, 256])},
    Net,
    mn.tasks.Classification(10),
    (1, 8, 8),
)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published table by choices: 0.5 ms a time."""
    rows = {f"times={n}": 0.5 * n for n in range(1, 61)} | {"width=128": 1.0, "width=256": 2.0}
    table = LatencyTable(device="a board", tool="its own", unit="ms", rows="choices", measured=rows)
    path = tmp_path_factory.mktemp("tables") / "board.json"
    table.write(path)
    return path


@pytest.fixture(scope="module")
def study(ray_cluster: None, board: Path, tmp_path_factory: pytest.TempPathFactory) -> mn.Study:
    made = mn.Study(tmp_path_factory.mktemp("latencies") / "run", f"{__file__}:space", data="digits")
    made.train(steps=1, batch_size=8, workers=0)
    made.search(
        objectives=["accuracy:max", f"latency@{PREDICTED}:min", f"latency@{LOOKED_UP}:min"],
        sampler="random",
        evaluations=FIRST + 12,
        evaluators=1,
        validation_examples=32,
        tables={"board/torch": str(board)},
    )
    made.finalists(count=2, steps=1, anchors=0, workers=0)
    return made


def of(record: Record, name: str) -> dict[str, object]:
    """The measurement of a record under one name."""
    (found,) = [one for one in record.measurements if one["device"] == name]
    return dict(found)


def test_most_are_predicted_with_what_tells_their_worth(study: mn.Study) -> None:
    records = [record for record in study.ledger.read() if record.kind == "evaluation"]
    entries = [of(record, PREDICTED) for record in records]
    predicted = [entry for entry in entries if entry["source"] == "predicted"]
    assert len(predicted) >= 5
    assert all(
        0 < entry["error"] < 1 and -1 <= entry["tau"] <= 1 and entry["count"] >= FIRST for entry in predicted
    )  # type: ignore[operator]
    assert all(entry["spread"] > 0 and entry["actor"] == "" for entry in predicted)  # type: ignore[operator]
    measured = [entry for entry in entries if entry["source"] == "measured"]
    assert len(measured) >= FIRST
    assert all(entry["error"] is None and entry["actor"] for entry in measured)


def test_what_was_measured_for_a_prediction_is_also_there_as_measured(study: mn.Study) -> None:
    for record in study.ledger.read():
        measured = of(record, PREDICTED)["source"] == "measured"
        assert (f"latency@{DEVICE}" in record.metrics) == measured
        if measured:
            assert record.metrics[f"latency@{DEVICE}"] == record.metrics[f"latency@{PREDICTED}"]


def test_a_table_gives_sums(study: mn.Study) -> None:
    for record in study.ledger.read():
        arch = record.architecture
        assert record.metrics[f"latency@{LOOKED_UP}"] == pytest.approx(
            0.5 * arch["times"] + arch["width"] / 128
        )
        entry = of(record, LOOKED_UP)
        assert (entry["source"], entry["fingerprint"], entry["tool"]) == ("table", "a board", "its own")


def test_finalists_are_measured(study: mn.Study) -> None:
    finalists = study.winners()
    assert len(finalists) == 2
    assert all(of(record, PREDICTED)["source"] == "measured" for record in finalists)
    assert all(record.metrics[f"latency@{DEVICE}"] > 0 for record in finalists)


def test_the_report_tells_them_apart(study: mn.Study) -> None:
    page = Path(study.report()).read_text()
    assert "evaluated (predicted)" in page and "evaluated (measured)" in page and "evaluated (table)" in page
    assert "predicted with a cross-validated error of" in page


def test_a_study_tells_how_its_devices_were(study: mn.Study) -> None:
    searching, finishing = told(study.folder)
    assert searching.device == finishing.device == DEVICE
    assert (searching.state, finishing.state) == ("ended", "ended")
    assert searching.measured >= FIRST
    assert finishing.measured == 2
    assert json.loads((Path(study.folder) / "devices.json").read_text())["references"][DEVICE] > 0


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("other/torch?source=table", "search.tables must name the table of other/torch, but got board/torch"),
        ("board/torch?batch=8&source=table", "search.tables must name the table of board/torch\\?batch=8"),
        (
            "other/torch?source=predicted",
            "device must be one of .*, but got 'other/torch\\?source=predicted'",
        ),
    ],
)
def test_a_name_that_nothing_serves_is_refused(name: str, said: str, board: Path) -> None:
    settings = SearchSettings(tables={"board/torch": str(board)})
    with pytest.raises(DeviceError, match=said):
        sources.check(space, [DeviceName.parse(name)], settings)


def test_a_table_is_of_one_example(board: Path) -> None:
    settings = SearchSettings(tables={"board/torch?batch=8": str(board)})
    with pytest.raises(DeviceError, match="holds the times of one example, but got batch=8"):
        sources.tables([DeviceName.parse("board/torch?batch=8&source=table")], settings)


def test_a_table_of_another_space_is_refused(tmp_path: Path) -> None:
    rows = {"depth=1": 0.5}
    LatencyTable(device="a", tool="b", unit="ms", rows="choices", measured=rows).write(tmp_path / "t.json")
    settings = SearchSettings(tables={"board/torch": str(tmp_path / "t.json")})
    with pytest.raises(ManynetError, match="must be of its choices, but got 'depth=1'"):
        sources.check(space, [DeviceName.parse(LOOKED_UP)], settings)
