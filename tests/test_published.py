"""Imports of published latencies: what they become, the tables that are exact, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune
from torch import Tensor
from typer.testing import CliRunner

import manynet as mn
from manynet.cli import app
from manynet.data.base import DataError
from manynet.devices import DeviceName, Measurement
from manynet.latency.published import Imported, PublishedError, import_published
from manynet.latency.table import LatencyTable
from manynet.records.ledger import Ledger, Record

# --- made-up sets in the published formats, with known truth

LAYERS = 22
OPERATORS = ["k3_e1", "k5_e6", "skip"]
NETS = 90
HAT_COLUMNS = (
    "encoder_embed_dim,encoder_layer_num,encoder_ffn_embed_dim_avg,encoder_self_attention_heads_avg,"
    "decoder_embed_dim,decoder_layer_num,decoder_ffn_embed_dim_avg,decoder_self_attention_heads_avg,"
    "decoder_ende_attention_heads_avg,decoder_arbitrary_ende_attn_avg,"
    "latency_mean_encoder,latency_mean_decoder,latency_std_encoder,latency_std_decoder"
)
TIMM_COLUMNS = (
    "model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,param_count,infer_gmacs"
)


def truth() -> np.ndarray[Any, Any]:
    """(layers, operators) ms; a skip is free."""
    times = np.random.default_rng(1).uniform(0.1, 2, (LAYERS, len(OPERATORS)))
    times[:, 2] = 0
    return times


def fbnet_arrays(nets: int = NETS) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    arch = rng.integers(0, len(OPERATORS), (nets, LAYERS)).astype(np.int8)
    sums = truth()[np.arange(LAYERS), arch].sum(axis=1)
    return {
        "arch": arch,
        "ops": np.array(OPERATORS),
        "latency_ms/phone": sums + 3.0,
        "latency_ms/card_64": 64 * (sums + 1.0),
        "latency_ms/essential_ph_1": np.round(sums + 5),
        "latency_ms/overlap": sums - 5.0,
    }


def write_fbnet(path: Path, **changes: Any) -> str:
    arrays: dict[str, Any] = fbnet_arrays() | {
        key.replace("__", "/"): value for key, value in changes.items()
    }
    np.savez(path / "nets.npz", **{key: value for key, value in arrays.items() if value is not None})
    return f"fbnet:{path / 'nets.npz'}"


def hat_row(heads: float, encoder: float | str, decoder: float, deviation: float = 0.3) -> str:
    choices = [512, 6, 2048.0, heads, 640, 4, 1706.6666666666667, 2.5, 4.0, 1.3333333333333333]
    return ",".join(map(str, [*choices, encoder, decoder, deviation, 0.4]))


def write_hat(path: Path, **files: list[str]) -> str:
    rows = {
        "wmt_cpu_board_all": [hat_row(2.0, 1.0, 9.0), hat_row(8.0, 2.0, 18.0)],
        "wmt_gpu_card_all": [hat_row(8.0, 1.5, 3.5), hat_row(8.0, 7.0, 7.0), hat_row(4.0, "", 1.0)],
    } | files
    for name, lines in rows.items():
        (path / f"{name}.csv.gz").write_bytes(gzip.compress("\n".join([HAT_COLUMNS, *lines]).encode()))
    (path / "LICENSE.txt").write_text("Made up; anyone may use it.\n")
    return f"hat:{path}"


def write_timm(path: Path, **files: str) -> str:
    content = {
        "results-imagenet": (
            "model,img_size,top1,top5\n"
            "neta.best,224,80.123,95\nneta.older,224,75.5,90\nneta.best,288,81.0,95\nnetb,160,60.0,80\n"
        ),
        "benchmark-infer-amp-nchw-pt291-cu128-4090-dynamo": (
            f"{TIMM_COLUMNS}\nneta,224,1000.0,256.0,256,5.29,1.09\nneta,288,500.0,20.0,10,5.29,1.8\n"
            "netb,160,,,,1.0,0.2\nnetc,224,10.0,100.0,1,7.5,\n"
        ),
        "benchmark-infer-fp32-nchw-pt221-cpu-i9_10940x": (
            "model,infer_samples_per_sec,infer_step_time,infer_batch_size,infer_img_size,param_count\n"
            "neta,250,4.0,1,224,2.08\nnetb,0,0.0,1,160,1.0\nnetb,100,10.0,1,160,1.0\n"
        ),
        "benchmark-train-amp-nchw-pt112-cu113-rtx3090": "model,train_step_time\nneta,1.0\n",
    } | files
    for name, text in content.items():
        (path / f"{name}.csv").write_text(text)
    return f"timm:{path}"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def records(folder: Path) -> list[Record]:
    return Ledger(folder / "ledger").read()


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "published.json").read_text())
    return found


def summary(imported: Imported, device: str) -> Any:
    return next(one for one in imported.devices if one.device == device)


# --- FBNet


def test_every_net_of_fbnet_is_one_record_with_all_its_latencies(tmp_path: Path, out: Path) -> None:
    imported = import_published(write_fbnet(tmp_path), out)
    arrays, found = fbnet_arrays(), {tuple(one.architecture.values()): one for one in records(out)}
    assert imported.nets == len(found) == NETS and len(list((out / "ledger").iterdir())) == 1
    for net, row in enumerate(arrays["arch"]):
        one = found[tuple(OPERATORS[index] for index in row)]
        assert list(one.architecture) == [f"layer{layer}.operator" for layer in range(LAYERS)]
        assert one.metrics["latency@phone/fbnet"] == arrays["latency_ms/phone"][net]
        # A batch's time is kept as published; the metric is that of one example.
        assert one.metrics["latency@card/fbnet-batch64"] * 64 == pytest.approx(
            arrays["latency_ms/card_64"][net]
        )
        measured = {values["device"]: Measurement.from_dict(values) for values in one.measurements}
        assert measured["card/fbnet-batch64"].milliseconds == arrays["latency_ms/card_64"][net]
        assert measured["card/fbnet-batch64"].batch == 64 and measured["phone/fbnet"].batch == 1
        assert {one.source for one in measured.values()} == {"table"}
    assert len({one.space for one in found.values()}) == 1
    assert {(one.kind, one.weights, one.data) for one in found.values()} == {("evaluation", "", "published")}


def test_a_phone_whose_name_ends_like_a_batch_keeps_its_name(tmp_path: Path, out: Path) -> None:
    import_published(write_fbnet(tmp_path), out)
    names = ["phone/fbnet", "card/fbnet-batch64", "essential_ph_1/fbnet", "overlap/fbnet"]
    assert facts(out)["devices"] == names and facts(out)["metric"] is None
    assert (
        facts(out)["source"].startswith("latencies of FBNet's space")
        and str(tmp_path) not in facts(out)["source"]
    )
    assert [str(DeviceName.parse(name)) for name in names] == names


class Chain(mn.Supernet):
    def forward(self, x: Tensor, arch: Mapping[str, Any]) -> Tensor:
        return x * sum(OPERATORS.index(arch[f"layer{layer}.operator"]) for layer in range(LAYERS))


def chain() -> mn.SearchSpace:
    domains = {f"layer{layer}.operator": tune.choice(OPERATORS) for layer in range(LAYERS)}
    return mn.SearchSpace("chain", domains, Chain, mn.tasks.Classification(num_classes=2), (2,))


@pytest.mark.parametrize(("device", "constant"), [("phone/fbnet", 3.0), ("card/fbnet-batch64", 1.0)])
def test_the_table_of_an_additive_device_gives_the_published_figures(
    tmp_path: Path, out: Path, device: str, constant: float
) -> None:
    import_published(write_fbnet(tmp_path), out)
    table, space = LatencyTable.read(out / "tables" / f"{device}.json"), chain()
    assert f"{table.device}/{table.tool}" == device
    for one in records(out):
        published = one.metrics[f"latency@{device}"]
        assert table.milliseconds(space, one.architecture) == pytest.approx(published, rel=1e-9)
    # Truth, not only what was fitted: of nets that were never published, and of each row.
    arch = space.sample(seed=5)
    by_hand = sum(truth()[layer, OPERATORS.index(str(name))] for layer, name in enumerate(arch.values()))
    assert table.milliseconds(space, arch) == pytest.approx(by_hand + constant)
    assert table.network == pytest.approx(constant) and min(table.measured.values()) == 0
    assert table.measured["layer3.operator=k5_e6"] == pytest.approx(truth()[3, 1])
    assert list(table.measured)[:3] == [f"layer0.operator={name}" for name in OPERATORS]


def test_only_exact_sums_become_tables(tmp_path: Path, out: Path) -> None:
    imported = import_published(write_fbnet(tmp_path), out)
    assert sorted(path.name for path in (out / "tables").iterdir()) == ["card", "phone"]
    rounded = summary(imported, "essential_ph_1/fbnet").additivity
    assert rounded.table is None and rounded.verdict.startswith("no: off by ")
    sums = fbnet_arrays()["latency_ms/essential_ph_1"]
    # Rounding to whole ms moves no figure by more than half; a fit only comes closer.
    assert 1e-3 < rounded.largest <= 1 / sums.min() and rounded.mean < 0.5 / sums.min()
    # An exact sum, but no way to share out its constant leaves every time at 0 or more.
    negative = summary(imported, "overlap/fbnet").additivity
    assert negative.table is None and negative.verdict == "exactly, but with -5 ms beside all choices"


def test_as_many_nets_as_unknown_times_prove_nothing(tmp_path: Path, out: Path) -> None:
    unknowns = LAYERS * (len(OPERATORS) - 1) + 1
    few = {key: value if key == "ops" else value[:unknowns] for key, value in fbnet_arrays().items()}
    few["latency_ms/phone"] = np.random.default_rng(2).uniform(1, 2, unknowns)
    imported = import_published(write_fbnet(tmp_path, **few), out)
    assert {one.additivity.verdict for one in imported.devices if one.additivity} == {
        "45 nets cannot tell 45 times"
    }
    assert not (out / "tables").exists()


def test_bad_times_and_repeated_nets_are_left_out_and_counted(tmp_path: Path, out: Path) -> None:
    arrays = fbnet_arrays()
    arrays["latency_ms/phone"][:4] = [0, np.nan, -1, np.inf]
    arrays["arch"][9] = arrays["arch"][8]
    imported = import_published(write_fbnet(tmp_path, **arrays), out)
    assert summary(imported, "phone/fbnet").nets == NETS - 5
    assert facts(out)["left_out"]["phone/fbnet"] == {"without a positive time": 4, "repeated": 1}
    assert facts(out)["left_out"]["card/fbnet-batch64"] == {"repeated": 1}
    assert sum("latency@phone/fbnet" in one.metrics for one in records(out)) == NETS - 5


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["MANYNET_TEST_TRAP"],)


def test_nothing_in_a_file_of_arrays_is_unpickled(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANYNET_TEST_TRAP", str(tmp_path / "sprung"))
    source = write_fbnet(tmp_path, arch=np.array([Trap()], dtype=object))
    with pytest.raises(PublishedError, match="nets.npz must be an npz with .*Object arrays cannot be loaded"):
        import_published(source, out)
    assert not (tmp_path / "sprung").exists()


# --- HAT


def test_hat_gives_encoder_and_decoder_together_with_their_spread(tmp_path: Path, out: Path) -> None:
    imported = import_published(write_hat(tmp_path), out)
    board, card = "board/hat-wmt", "card/hat-wmt"
    found = {one.architecture["encoder_self_attention_heads_avg"]: one for one in records(out)}
    assert found[2.0].metrics == {f"latency@{board}": 10.0}
    assert found[8.0].metrics == {f"latency@{board}": 20.0, f"latency@{card}": 5.0}
    architecture = found[2.0].architecture
    assert architecture["encoder_embed_dim"] == 512 and isinstance(architecture["encoder_embed_dim"], int)
    assert architecture["decoder_ffn_embed_dim_avg"] == 1706.6666666666667
    measured = Measurement.from_dict(found[2.0].measurements[0])
    # sqrt(0.3^2 + 0.4^2) = 0.5 ms of 10; the quartiles of a normal distribution are 1.349 of it apart.
    assert measured.spread == pytest.approx(0.06745) and not measured.steady
    assert Measurement.from_dict(found[8.0].measurements[0]).steady
    assert facts(out)["left_out"] == {card: {"repeated": 1, "without a positive time": 1}}
    assert [one.nets for one in imported.devices] == [2, 1]
    assert (out / "LICENSE.txt").read_text() == "Made up; anyone may use it.\n" and not (
        out / "tables"
    ).exists()


# --- timm


def test_timm_gives_ms_an_example_accuracy_and_cost(tmp_path: Path, out: Path) -> None:
    import_published(write_timm(tmp_path), out)
    found = {(one.architecture["model"], one.architecture["img_size"]): one for one in records(out)}
    card, processor = "latency@rtx4090/amp-nchw-pt291-cu128-dynamo", "latency@i9_10940x/fp32-nchw-pt221-cpu"
    # Cost is that of the row which counts most multiply-adds.
    assert found["neta", 224].metrics == {
        "accuracy": 0.80123,
        "parameters": 5_290_000,
        "macs": 1_090_000_000,
        card: 1.0,
        processor: 4.0,
    }
    assert found["neta", 224].details == {"accuracy_of": "neta.best"}
    assert found["neta", 288].metrics[card] == 2.0 and found["neta", 288].metrics["accuracy"] == 0.81
    assert found["netb", 160].metrics == {
        "accuracy": 0.6,
        "parameters": 1e6,
        "macs": 2e8,
        processor: 10.0,
    }
    assert found["netc", 224].metrics == {"parameters": 7_500_000, card: 100.0}
    measured = {one["device"]: Measurement.from_dict(one) for one in found["neta", 224].measurements}
    first = measured[card.removeprefix("latency@")]
    assert (first.milliseconds, first.batch, first.precision) == (256.0, 256, "amp")
    assert first.tool_version == "pt291-cu128, torch.compile"
    assert measured[processor.removeprefix("latency@")].precision == "float32"
    assert {reason for counts in facts(out)["left_out"].values() for reason in counts} == {
        "without a positive time"
    }
    assert (
        facts(out)["metric"] == "accuracy"
        and facts(out)["nets"] == 4
        and facts(out)["licence"] == "Apache-2.0"
    )


def test_another_set_is_another_space(tmp_path: Path, out: Path) -> None:
    import_published(write_timm(tmp_path), out)
    other = tmp_path / "other"
    other.mkdir()
    import_published(
        write_timm(other, **{"results-imagenet": "model,img_size,top1\nnetb,160,60.0\n"}), tmp_path / "same"
    )
    import_published(write_hat(other), tmp_path / "hat")
    spaces = [{one.space for one in records(folder)} for folder in (out, tmp_path / "same", tmp_path / "hat")]
    assert spaces[0] == spaces[1] != spaces[2] and all(len(space) == 1 for space in spaces)


# --- what is refused

CARD = "benchmark-infer-amp-nchw-pt291-cu128-4090-dynamo"
BAD: list[tuple[Callable[[Path], str], str]] = [
    (lambda at: "nas:x", "source must be fbnet:PATH, hat:FOLDER or timm:FOLDER, but got 'nas:x'"),
    (lambda at: "fbnet:", "source must be fbnet:PATH.*, but got 'fbnet:'"),
    (
        lambda at: write_fbnet(at, arch=None),
        "must be an npz with the arrays arch, ops and .*, but lacks 'arch'",
    ),
    (lambda at: write_fbnet(at, ops=None), "but lacks 'ops'"),
    (
        lambda at: write_fbnet(at, **{key: None for key in fbnet_arrays() if "/" in key}),
        "but lacks 'latency_ms/<device>'",
    ),
    (
        lambda at: write_fbnet(at, latency_ms__phone=np.ones(7)),
        r"latency_ms/phone must be numbers \(90,\), one a net of arch, but is float64 \(7,\)",
    ),
    (
        lambda at: write_fbnet(at, arch=np.ones(NETS, int)),
        r"arch must be .* \(nets, layers\), but .* \(90,\)",
    ),
    (lambda at: write_fbnet(at, ops=np.array(["a", "a"])), "ops must be distinct texts"),
    (
        lambda at: write_fbnet(at, ops=np.array(["a", "b"])),
        "arch must hold 0 to 1, indices of ops, but got 2 at net 0, layer ",
    ),
    (
        lambda at: write_fbnet(at, latency_ms__my__phone=np.ones(NETS)),
        "devices must be named by .*'my/phone'",
    ),
    (
        lambda at: write_fbnet(at, latency_ms__phone=np.zeros(NETS)),
        "times must be positive, but none of the 90 of phone/fbnet is",
    ),
    (lambda at: write_hat(at).replace("hat:", "timm:"), "must hold results-imagenet.csv, but .* does not"),
    (lambda at: write_timm(at).replace("timm:", "hat:"), "must hold <task>_<cpu or gpu>_<device>_all.csv"),
    (lambda at: f"hat:{at / 'nowhere'}", "source must be a folder that can be read, but got .*nowhere"),
    (
        lambda at: write_hat(at, wmt_gpu_card_all=["1,2"]),
        "times must be positive, but none of the 1 of card/hat-wmt is",
    ),
    (
        lambda at: write_timm(at, **{CARD: "model,infer_img_size\nneta,224\n"}),
        f"{CARD}.csv must have the columns .*, but lacks 'infer_batch_size'",
    ),
    (
        lambda at: write_timm(at, **{CARD: ""}),
        f"{CARD}.csv must be delimited text with a header, but it is not",
    ),
    (
        lambda at: write_timm(at, **{"benchmark-infer-card": "model\n"}),
        "must be named benchmark-infer-<precision>.*, but got benchmark-infer-card.csv",
    ),
    (
        lambda at: write_timm(at, **{"results-imagenet": "model,img_size,top1\nneta,224,801.23\n"}),
        "top1 must be 0 to 100, but results-imagenet.csv has 801.23",
    ),
]


@pytest.mark.parametrize(("source", "message"), BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, out: Path, source: Callable[[Path], str], message: str
) -> None:
    with pytest.raises(PublishedError, match=message) as caught:
        import_published(source(tmp_path), out)
    assert "\n" not in str(caught.value) and not out.exists()


@pytest.mark.parametrize(
    "damage", [lambda content: content[:2000], lambda content: b"arch,ops\n", lambda content: b""]
)
def test_a_damaged_file_of_arrays_is_refused(
    tmp_path: Path, out: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = Path(write_fbnet(tmp_path).removeprefix("fbnet:"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PublishedError, match="nets.npz must be an npz with .*, but it is not"):
        import_published(f"fbnet:{path}", out)


def test_a_file_that_is_not_there_is_named(tmp_path: Path, out: Path) -> None:
    with pytest.raises(DataError, match="files must be readable, but .*gone.npz is not"):
        import_published(f"fbnet:{tmp_path / 'gone.npz'}", out)


def test_a_folder_in_use_is_left_as_it_is(tmp_path: Path, out: Path) -> None:
    source = write_hat(tmp_path)
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(PublishedError, match="the output must be a new folder, but .*out holds notes.txt"):
        import_published(source, out)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    with pytest.raises(PublishedError, match="the output must be a new folder, but .* is a file"):
        import_published(source, out / "notes.txt")


def test_the_command_tells_what_was_imported(tmp_path: Path, out: Path) -> None:
    source = write_timm(tmp_path)
    result = CliRunner().invoke(app, ["import", source, str(out)], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    assert "rtx4090/amp-nchw-pt291-cu128-dynamo" in result.output
    assert "4 architectures, 3 of them with accuracy" in result.output
    assert "left out of i9_10940x/fp32-nchw-pt221-cpu: 1 without a positive time" in result.output
