"""Tables of latency: what they hold, what a space costs by them, measuring one, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune
from torch import nn

import manynet as mn
from manynet import elastic
from manynet.elastic.count import Expectation
from manynet.elastic.recorder import Recorder
from manynet.latency_table import LatencyTable
from manynet.operations import LatencyTableError, Operation, calls
from manynet.table_timing import measure_table
from search_spaces import dmasking, vit

SPACE = dmasking.space(
    "mini",
    resolution=(6, 8),
    stages=(
        dmasking.Stage((4, 8), 1, 1, (1.0, 2.0)),
        dmasking.Stage((4, 8, 12), 2, 2, (1.5, 3.0)),
    ),
    stem=4,
    stem_stride=1,
    head=16,
    channels=1,
    classes=10,
)


def even() -> dict[str, torch.Tensor]:
    return {key: torch.full([len(o)], 1 / len(o)).requires_grad_() for key, o in SPACE.soft.items()}


def operations() -> list[Operation]:
    undecided = SPACE.soften(SPACE.largest, even())
    return sorted({one for call in calls(SPACE, undecided) for one in call.operations if one is not None})


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    """Times that differ from operation to operation."""
    rng = np.random.default_rng(0)
    times = {str(one): float(rng.uniform(0.1, 1)) for one in operations()}
    return LatencyTable(
        device="made",
        tool="up",
        unit="ms",
        rows="operations",
        measured=times,
        network=0.5,
        call=0.01,
    )


@pytest.mark.parametrize("seed", range(6))
def test_time_at_one_hot_weights_is_that_of_the_decided_architecture(table: LatencyTable, seed: int) -> None:
    arch = SPACE.draw(np.random.default_rng(seed))
    weights = {key: torch.eye(len(options))[options.index(arch[key])] for key, options in SPACE.soft.items()}
    expected = table.milliseconds(SPACE, arch)
    assert float(Expectation(table.count(SPACE, SPACE.soften({}, weights)))(weights)) == pytest.approx(
        expected
    )
    assert table.milliseconds(SPACE, SPACE.canonical(arch)) == pytest.approx(expected)


def test_a_decided_architecture_takes_the_sum_of_what_it_runs(table: LatencyTable) -> None:
    subnet = mn.extract(SPACE.build().eval(), SPACE.smallest, SPACE.example(SPACE.smallest, 1))
    with torch.no_grad(), Recorder() as recorder:
        subnet(*SPACE.example(SPACE.smallest, 1))
    names = [
        str(Operation(layer.form(), tuple(use.sizes.items()), use.input))  # type: ignore[operator, arg-type]
        for layer, uses in recorder.uses.items()
        for use in uses
    ]
    besides = 0.5 + len(names) * 0.01
    assert "Conv2d stride 1x1 weight 4x1x3x3 on 1x1x6x6" in names
    assert table.milliseconds(SPACE, SPACE.smallest) == pytest.approx(
        sum(table.measured[name] for name in names) + besides
    )


def test_expected_time_is_the_mean_of_gumbel_draws(table: LatencyTable) -> None:
    rng = np.random.default_rng(1)
    logits = {key: rng.normal(size=len(options)) for key, options in SPACE.soft.items()}
    weights = {key: torch.tensor(logit).softmax(0).float() for key, logit in logits.items()}
    expected = float(Expectation(table.count(SPACE, SPACE.soften({}, weights)))(weights))
    drawn = [
        {
            key: options[int((logits[key] + rng.gumbel(size=len(options))).argmax())]
            for key, options in SPACE.soft.items()
        }
        for _ in range(400)
    ]
    times = [table.milliseconds(SPACE, arch) for arch in drawn]
    assert abs(expected - np.mean(times)) < 4 * np.std(times) / 20


def test_slopes_of_the_time_reach_every_choice_that_matters_and_no_other(table: LatencyTable) -> None:
    weights = even()
    expected = Expectation(table.count(SPACE, SPACE.soften({}, weights)))
    slopes = torch.autograd.grad(expected(weights), list(weights.values()), allow_unused=True)
    for key, slope in zip(weights, slopes, strict=True):
        # Activations run outside elastic layers, so a table has no time for them.
        matters = not key.endswith("activation") and len(SPACE.soft[key]) > 1
        assert matters == (slope is not None and float((slope - slope.mean()).abs().max()) > 0), key


def test_a_table_is_read_as_it_was_written(table: LatencyTable, tmp_path: Path) -> None:
    table.write(tmp_path / "folder" / "table.json")
    assert LatencyTable.read(tmp_path / "folder" / "table.json") == table
    content = json.loads((tmp_path / "folder" / "table.json").read_text())
    assert {"device": "made", "unit": "ms", "rows": "operations"}.items() <= content.items()


def test_an_operation_that_the_table_lacks_is_named(table: LatencyTable) -> None:
    name = "Conv2d stride 1x1 weight 4x1x3x3 on 1x1x6x6"
    less = table.model_copy(update={"measured": {k: v for k, v in table.measured.items() if k != name}})
    with pytest.raises(
        mn.ManynetError, match=f"of made must hold all that the space runs, but lacks '{name}'"
    ):
        less.count(SPACE, SPACE.soften({}, even()))
    assert less.milliseconds(SPACE, SPACE.largest) > 0


def changed(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(measured={"a": -0.1}), "measured.a is wrong: .* greater than or equal to 0, got '-0.1'"),
        (changed(measured={"a": float("nan")}), "measured.a is wrong: .* finite number, got 'nan'"),
        (changed(measured={"a": float("inf")}), "measured.a is wrong: .* finite number, got 'inf'"),
        (changed(measured={"a": 0}), "an operation must take more than 0 ms, but got 0 for 'a'"),
        (changed(interpolated={"a": 0.0}), "an operation must take more than 0 ms, but got 0 for 'a'"),
        (changed(measured={"a": "fast"}), "measured.a is wrong: .* valid number, got 'fast'"),
        (changed(measured={}), "measured is wrong: .* at least 1 item"),
        (changed(unit="s"), "unit is wrong: .*'ms', got 's'"),
        (changed(rows="blocks"), "rows is wrong: .*'operations' or 'choices', got 'blocks'"),
        (changed(energy={}), "energy is wrong: .* not permitted"),
        (lambda content: content.pop("device"), "device is wrong: Field required"),
    ],
)
def test_damaged_tables_are_refused(
    table: LatencyTable, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = table.model_dump()
    change(content)
    (tmp_path / "table.json").write_text(json.dumps(content))
    with pytest.raises(
        LatencyTableError, match=f"table.json must be a table of latency, but .*{message}"
    ) as error:
        LatencyTable.read(tmp_path / "table.json")
    assert "\n" not in str(error.value)


def test_a_file_that_is_cut_off_or_missing_is_refused(table: LatencyTable, tmp_path: Path) -> None:
    table.write(tmp_path / "table.json")
    whole = (tmp_path / "table.json").read_bytes()
    (tmp_path / "table.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LatencyTableError, match="must be a table of latency, but it is wrong: Invalid JSON"):
        LatencyTable.read(tmp_path / "table.json")
    with pytest.raises(mn.ManynetError, match="must be a file that can be read"):
        LatencyTable.read(tmp_path / "none.json")


def test_layers_that_do_not_tell_their_input_are_refused(table: LatencyTable) -> None:
    with pytest.raises(
        LatencyTableError, match="must note the shape of their input to be in a table, but got PatchEmbedding"
    ):
        table.milliseconds(vit.tiny, vit.tiny.smallest)


class Blocks(mn.Supernet):
    """Two blocks with a choice of operators, as tables by block and operator describe them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        operators = {"identity": lambda y: y, "relu": torch.relu}
        for key in ("block1", "block2"):
            x = elastic.choose(operators, arch[key], x)
        output: torch.Tensor = self.head(x)
        return output


def test_a_published_table_by_block_and_operator() -> None:
    options = ["identity", "relu"]
    space = mn.SearchSpace(
        "blocks",
        {key: tune.choice(options) for key in ("block1", "block2")},
        Blocks,
        mn.tasks.Classification(num_classes=2),
        (3,),
        soft=("block1", "block2"),
    )
    times = {"block1=identity": 0.0, "block1=relu": 2.0, "block2=identity": 1.0, "block2=relu": 5.0}
    table = LatencyTable(
        device="phone", tool="paper", unit="ms", rows="choices", measured=times, network=10.0
    )
    arch = {"block1": "relu", "block2": "identity"}
    weights = {"block1": torch.tensor([0.5, 0.5]), "block2": torch.tensor([0.25, 0.75])}
    assert table.milliseconds(space, arch) == 13
    assert float(Expectation(table.count(space, space.soften({}, weights)))(weights)) == pytest.approx(15)
    less = table.model_copy(update={"measured": {"block1=relu": 2.0}})
    with pytest.raises(
        LatencyTableError, match="of phone must hold all that the space runs, but lacks 'block1=identity'"
    ):
        less.count(space, space.soften({}, weights))
    with pytest.raises(
        LatencyTableError, match="rows of a table for 'mini' must be of its choices, but got 'block1'"
    ):
        table.milliseconds(SPACE, SPACE.largest)


def by_rows(run: Callable[[], object]) -> float:
    """A device on which a layer takes 0.01 ms a row of its weights, and a network 0.005 ms a layer more."""
    with Recorder() as recorder:
        run()
    uses = [use for found in recorder.uses.values() for use in found]
    layers = sum(0.01 * int(use.sizes["weight"][0]) for use in uses)
    return layers if len(uses) == 1 else layers + 0.005 * len(uses)


def test_every_operation_is_timed_and_the_rest_is_fitted() -> None:
    table = measure_table(SPACE, by_rows, "made", "up", points=100, subnets=6)
    assert set(table.measured) == set(map(str, operations())) and not table.interpolated
    assert table.call == pytest.approx(0.005) and table.network == 0
    name = "Conv2d depthwise stride 2x2 weight 12x1x5x5 on 1x12x8x8"
    assert table.measured[name] == pytest.approx(0.12)


def test_large_families_are_interpolated() -> None:
    table = measure_table(SPACE, by_rows, "made", "up", points=8, subnets=0)
    assert {*table.measured, *table.interpolated} == set(map(str, operations()))
    assert not table.measured.keys() & table.interpolated.keys() and table.interpolated
    for name, time in table.interpolated.items():
        rows = int(name.split("weight ")[1].split("x")[0].split()[0])
        # Normalisations and depthwise layers have one number of channels: there it is exact.
        exact = name.startswith(("Batch", "Conv2d depthwise"))
        assert time == pytest.approx(0.01 * rows, rel=1e-6, abs=0 if exact else 0.05), name
    assert table.call == 0
