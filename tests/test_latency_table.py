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
from manynet.devices import MeasurementError
from manynet.elastic.count import Expectation
from manynet.elastic.recorder import Recorder
from manynet.latency.operations import LatencyTableError, Operation, calls, every_operation
from manynet.latency.table import LatencyTable
from manynet.latency.table_timing import measure_table, single_operation, time_on_cpu
from manynet.search_spaces import dmasking, nasrec, pit, vit

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
        str(Operation(layer.form(use.geometry), tuple(use.sizes.items()), use.input))  # type: ignore[operator, arg-type]
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


class Silent(elastic.Elastic):
    """A layer that costs something, and does not say on which input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_empty(x.shape) if self.note({}, x.numel()) else x


class Untold(mn.Supernet):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Silent()

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        output: torch.Tensor = self.layer(x) * arch["scale"]
        return output


def test_layers_that_do_not_tell_their_input_are_refused(table: LatencyTable) -> None:
    task = mn.tasks.Classification(num_classes=3)
    space = mn.SearchSpace("untold", {"scale": tune.choice([1, 2])}, Untold, task, (3,))
    with pytest.raises(
        LatencyTableError, match="must note the shape of their input to be in a table, but got Silent"
    ):
        table.milliseconds(space, space.smallest)
    with pytest.raises(LatencyTableError, match="but got Silent"):
        measure_table(space, by_rows, "made", "up")


def test_a_table_for_another_space_names_what_it_lacks(table: LatencyTable) -> None:
    table.check(SPACE)
    with pytest.raises(LatencyTableError, match="the table of made must hold all .*, but lacks 'PatchEmbedd"):
        table.check(vit.tiny)
    with pytest.raises(LatencyTableError, match="but lacks 'Conv2d stride 2x2 weight 8x1x3x3 on 1x1x28x28'"):
        table.check(dmasking.tiny)


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
    table.check(space)
    for row, message in (
        ({"block1=tanh": 1.0}, "rows of a table for 'blocks' must be of its choices, but got 'block1=tanh'"),
        ({"block3=relu": 1.0}, "rows of a table for 'blocks' must be of its choices, but got 'block3=relu'"),
    ):
        with pytest.raises(LatencyTableError, match=message):
            table.model_copy(update={"measured": {**times, **row}}).check(space)
    with pytest.raises(LatencyTableError, match="lacks 'block1=identity'"):
        less.check(space)


def by_rows(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    """A device on which a layer takes 0.01 ms a row of its weights, and a network 0.005 ms a layer more."""
    with Recorder() as recorder, torch.no_grad():
        network(*inputs)
    uses = [use for found in recorder.uses.values() for use in found]
    layers = sum(0.01 * int(use.sizes["weight"][0]) for use in uses)
    return layers if len(uses) == 1 else layers + 0.005 * len(uses)


def test_every_operation_is_timed_and_the_rest_is_fitted() -> None:
    table = measure_table(SPACE, by_rows, "made", "up", points=100, subnets=6)
    assert set(table.measured) == set(map(str, operations())) and not table.interpolated
    assert table.call == pytest.approx(0.005, rel=1e-4)
    assert table.factor == pytest.approx(1, abs=1e-5) and table.network == pytest.approx(0, abs=1e-5)
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
    assert (table.factor, table.call, table.network) == (1, 0, 0)


VIT = vit.space(
    "mini-vit",
    resolution=(8, 16, 32),
    patch_size=(4, 8),
    depth=(1, 2),
    width=(8, 12, 16),
    heads=(1, 2),
    mlp_ratio=(1, 2),
    head_dim=4,
    channels=1,
    classes=10,
)
PIT = pit.space(
    "mini-pit",
    resolution=(16, 24),
    patch_size=(8,),
    stride=(4, 8),
    width=(8, 16),
    head_dim=(2, 4),
    stages=(pit.Stage((1, 2), (1, 2)), pit.Stage((1,), (2,))),
    mlp_ratio=(2,),
    channels=1,
    classes=10,
)
NASREC = nasrec.space("mini-nasrec", nasrec.tiny.features, blocks=2, widths=(8, 16), tokens=(4, 8))


def by_macs(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    """A device that takes 1 ns a multiply-add, 0.001 ms a call, and 0.02 ms to start."""
    with Recorder() as recorder, torch.no_grad():
        network(*inputs)
    counted = [use for uses in recorder.uses.values() for use in uses if use.input]
    return 0.02 + 0.001 * len(counted) + 1e-6 * recorder.macs  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize("space", [VIT, PIT, NASREC], ids=lambda space: space.name)
def test_an_operation_alone_is_the_call_it_stands_for(space: mn.SearchSpace) -> None:
    found = every_operation(space, samples=20)
    for wanted, call in found.items():
        network, inputs = single_operation(call, wanted)
        with Recorder() as recorder, torch.no_grad():
            network(*inputs)
        ((layer, (use,)),) = recorder.uses.items()
        assert isinstance(layer, elastic.Elastic) and use.input is not None
        ran = Operation(layer.form(call.geometry), tuple(use.sizes.items()), use.input)  # type: ignore[arg-type]
        assert str(ran) == str(wanted)
    assert any("Attention" in one.form for one in found)


@pytest.mark.parametrize("space", [VIT, PIT], ids=lambda space: space.name)
def test_sums_hold_all_multiply_adds_of_a_transformer_and_its_one_start(space: mn.SearchSpace) -> None:
    table = measure_table(space, by_macs, "made", "up", points=1000)
    assert table.call == pytest.approx(-0.02, rel=1e-2) and table.network == pytest.approx(0.02, rel=1e-2)
    for arch in map(space.sample, range(50, 60)):
        count = len(list(calls(space, arch)))
        expected = 0.02 + 0.001 * count + 1e-6 * mn.cost(space, arch).macs
        assert table.milliseconds(space, arch) == pytest.approx(expected, rel=1e-3)


def test_an_operation_met_later_lies_between_measured_ones_or_is_refused() -> None:
    table = measure_table(VIT, by_macs, "made", "up", points=1000, subnets=0)
    arch = VIT.canonical({**VIT.largest, "width": 12, "resolution": 16})
    less = {name: time for name, time in table.measured.items() if "12" not in name and "x16x16" not in name}
    assert len(less) < len(table.measured)
    fewer = table.model_copy(update={"measured": less})
    assert fewer.milliseconds(VIT, arch) == pytest.approx(table.milliseconds(VIT, arch), rel=0.03)
    assert fewer.milliseconds(VIT, VIT.largest) == table.milliseconds(VIT, VIT.largest)
    narrow = {name: time for name, time in table.measured.items() if not name.endswith("x16")}
    with pytest.raises(LatencyTableError, match="lacks 'LayerNorm weight 16 bias 16 on 1x17x16'"):
        table.model_copy(update={"measured": narrow}).milliseconds(VIT, {**arch, "width": 16})


def test_attention_over_other_tokens_notes_how_many_and_what_they_hold() -> None:
    query, key, value = (torch.randn(1, 2, n, d) for n, d in ((5, 4), (7, 4), (7, 6)))
    expected = nn.functional.scaled_dot_product_attention(query, key, value)
    with Recorder() as recorder:
        assert torch.equal(elastic.scaled_dot_product_attention(query, key, value), expected)
    ((layer, (use,)),) = recorder.uses.items()
    assert recorder.macs == 2 * 5 * 7 * (4 + 6) and isinstance(layer, elastic.Elastic)
    assert layer.form(use.geometry) == "ScaledDotProductAttention +2 keys +2 features"
    inputs, _ = layer.example((2, 5, 4), use.geometry)
    assert [tuple(x.shape) for x in inputs] == [tuple(x.shape) for x in (query, key, value)]


@pytest.mark.parametrize("time", [0.0, float("nan"), float("inf"), -1.0])
def test_a_device_that_tells_no_time_is_refused(time: float) -> None:
    with pytest.raises(
        LatencyTableError, match=f"milliseconds must be more than 0, but got {time:g} for 'Lay"
    ):
        measure_table(VIT, lambda network, inputs: time, "made", "up")


def test_an_operation_that_a_device_cannot_run_is_named() -> None:
    def broken(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
        raise MeasurementError("no rule")

    with pytest.raises(LatencyTableError, match="must measure all of a table, but not 'Lay.*': no rule"):
        measure_table(VIT, broken, "made", "up")


class Pair(mn.Supernet):
    """Two linear layers, the second of which costs next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = elastic.Linear(64, 65536)
        self.head = elastic.Linear(65536, 2)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        output: torch.Tensor = self.head(self.expand(x, out_features=arch["hidden"]))
        return output


def test_real_times_grow_with_what_is_computed() -> None:
    domains = {"hidden": tune.choice([64, 65536])}
    space = mn.SearchSpace("pair", domains, Pair, mn.tasks.Classification(num_classes=2), (64,))
    told: list[tuple[int, int]] = []
    table = measure_table(
        space, time_on_cpu, "made", "up", subnets=1, progress=lambda *state: told.append(state)
    )
    assert told == [(done, 5) for done in range(6)]
    small, large = (table.milliseconds(space, {"hidden": hidden}) for hidden in (64, 65536))
    assert 0 < 2 * small < large
