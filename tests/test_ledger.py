"""The ledger: one record a key, whatever happens to its writers."""

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from manynet.records.ledger import SCHEMA, Ledger, LedgerError, Record, TornFileWarning, record_key
from manynet.storage import StorageError, exists, join, locate, read_bytes, write_bytes

MAKE = """
import sys
from manynet.records.ledger import Ledger, Record, record_key
from manynet.storage import StorageError, exists, join, locate, read_bytes, write_bytes

def make(number):
    architecture = {"width": number}
    key = record_key("evaluation", "space", "weights", architecture, "data", "protocol")
    return Record(key, "evaluation", "space", "weights", architecture, "data", "protocol", {"accuracy": 0.5})

ledger = Ledger(sys.argv[1])
"""


def record(width: int = 16, **changes: Any) -> Record:
    architecture = {"width": width, "block.attention": "linear-angular", "bias": True, "rate": 0.1}
    key = record_key("evaluation", "space", "weights", architecture, "data", "protocol")
    made = Record(
        key=key,
        kind="evaluation",
        space="space",
        weights="weights",
        architecture=architecture,
        data="data",
        protocol="protocol",
        metrics={"accuracy": 0.9, "parameters": 1e5, "latency@host/torch?batch=8": 1.25},
        measurements=[{"device": "host/torch?batch=8", "milliseconds": 1.25, "steady": True}],
        created=f"2026-01-01T00:00:{width % 60:02d}.000000+00:00",
        details={"seconds": 2.5, "folder": None},
    )
    return dataclasses.replace(made, **changes)


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKE + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def ledger(place: str) -> Ledger:
    return Ledger(join(place, "study", "ledger"))


def contents(ledger: Ledger) -> dict[str, bytes]:
    """What each file of a ledger holds."""
    filesystem, folder = locate(ledger.address)
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(folder))
    return {
        info.base_name: read_bytes(join(ledger.address, info.base_name)) for info in found if info.is_file
    }


def files(ledger: Ledger) -> list[str]:
    return sorted(contents(ledger))


def test_a_record_reads_back_as_it_was(ledger: Ledger) -> None:
    ledger.write(record())
    (found,) = ledger.read()
    assert found == record()
    assert list(found.architecture) == list(record().architecture)
    assert [type(value) for value in found.architecture.values()] == [int, str, bool, float]
    assert files(ledger) == [f"{record().key}.parquet"]


def test_records_come_oldest_first(ledger: Ledger) -> None:
    for width in (3, 1, 2):
        ledger.write(record(width))
    assert [one.architecture["width"] for one in ledger.read()] == [1, 2, 3]
    assert ledger.keys() == {record(width).key for width in (1, 2, 3)}


def test_a_new_ledger_is_empty_and_reading_makes_no_folder(ledger: Ledger) -> None:
    assert ledger.read() == [] and ledger.keys() == set() and ledger.compact() == 0
    assert not exists(ledger.address)


def test_every_file_has_the_one_schema(ledger: Ledger) -> None:
    ledger.write(record())
    ledger.write(record(32, metrics={"loss": 1.0}, details={}, measurements=[]))
    for content in contents(ledger).values():
        assert pq.read_schema(pa.BufferReader(content)).equals(SCHEMA)
    # Readers of other tools see every column too.
    filesystem, folder = locate(ledger.address)
    assert pq.read_table(folder, filesystem=filesystem).num_rows == 2


def test_the_key_says_what_a_repeat_would_repeat() -> None:
    parts: dict[str, Any] = {
        "kind": "evaluation",
        "space": "s",
        "weights": "w",
        "architecture": {"a": 1, "b": 2},
        "data": "d",
        "protocol": "p",
    }
    key = record_key(**parts)
    assert len(key) == 16 and set(key) <= set("0123456789abcdef")
    assert record_key(**parts | {"architecture": {"b": 2, "a": np.int64(1)}}) == key
    changed = {
        "kind": "anchor",
        "space": "",
        "weights": "",
        "architecture": {"a": 1},
        "data": "",
        "protocol": "",
    }
    assert len({key, *(record_key(**parts | {name: value}) for name, value in changed.items())}) == 7


def test_numpy_numbers_are_numbers(ledger: Ledger) -> None:
    ledger.write(record(metrics={"accuracy": np.float32(0.5), "macs": np.int64(7)}))
    assert ledger.read()[0].metrics == {"accuracy": 0.5, "macs": 7}


def test_what_json_cannot_hold_is_refused_before_anything_is_written(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="details must be JSON, but got .*object is not JSON"):
        ledger.write(record(details={"object": object()}))
    with pytest.raises(
        LedgerError, match="kind must be one of evaluation, anchor, finalist, measurement, but got 'guess'"
    ):
        record(kind="guess")
    assert not exists(ledger.address)


def test_a_key_written_again_replaces_its_record(ledger: Ledger) -> None:
    ledger.write(record())
    ledger.write(record(metrics={"accuracy": 0.1}))
    assert [one.metrics["accuracy"] for one in ledger.read()] == [0.1]
    assert len(files(ledger)) == 1


def test_compaction_keeps_every_record_in_one_file(ledger: Ledger) -> None:
    for width in range(5):
        ledger.write(record(width))
    before = ledger.read()
    assert ledger.compact() == 5
    (name,) = files(ledger)
    assert name.startswith("compacted-") and ledger.read() == before
    assert ledger.compact() == 1
    ledger.write(record(9))
    assert ledger.compact() == 2
    assert len(files(ledger)) == 1 and len(ledger.read()) == 6


def test_many_records_are_written_as_one_file(ledger: Ledger) -> None:
    many = [record(width) for width in range(5)]
    ledger.write_all(many)
    assert len(files(ledger)) == 1 and ledger.read() == many
    ledger.write_all([])
    ledger.write(record(7))
    later = record(3, metrics={"accuracy": 0.2}, created="2026-02-01T00:00:00.000000+00:00")
    ledger.write_all([later])
    assert len(files(ledger)) == 3 and later in ledger.read() and len(ledger.read()) == 6
    assert ledger.compact() == 3
    assert len(files(ledger)) == 1 and later in ledger.read() and len(ledger.read()) == 6


def test_of_many_records_all_are_written_or_none(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="details must be JSON"):
        ledger.write_all([record(1), record(2, details={"object": object()})])
    assert not exists(ledger.address)


def test_a_kill_within_compaction_leaves_no_record_twice(ledger: Ledger) -> None:
    for width in range(3):
        ledger.write(record(width))
    singles = contents(ledger)
    ledger.compact()
    for name, content in singles.items():
        write_bytes(join(ledger.address, name), content)
    assert [one.architecture["width"] for one in ledger.read()] == [0, 1, 2]
    # The merged file keeps its name: compacting again must not delete it with the singles.
    assert ledger.compact() == 4
    assert len(files(ledger)) == 1 and len(ledger.read()) == 3


def test_the_newest_record_of_a_key_wins_over_a_compacted_one(ledger: Ledger) -> None:
    ledger.write(record(1))
    ledger.write(record(2))
    ledger.compact()
    later = record(1, metrics={"accuracy": 0.2}, created="2026-02-01T00:00:00.000000+00:00")
    ledger.write(later)
    assert later in ledger.read() and len(ledger.read()) == 2
    ledger.compact()
    assert later in ledger.read() and len(ledger.read()) == 2


def damage_cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def damage_empty(content: bytes) -> bytes:
    return b""


def damage_bits(content: bytes) -> bytes:
    place = content.index(b"linear-angular") if b"linear-angular" in content else 300
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [damage_cut, damage_empty, damage_bits])
def test_a_torn_file_is_set_aside_and_the_rest_is_read(ledger: Ledger, damage: Any) -> None:
    for width in range(3):
        ledger.write(record(width))
    name = f"{record(1).key}.parquet"
    torn = damage(contents(ledger)[name])
    write_bytes(join(ledger.address, name), torn)
    with pytest.warns(TornFileWarning, match=rf"{name} is torn .* set aside"):
        found = ledger.read()
    assert [one.architecture["width"] for one in found] == [0, 2]
    assert contents(ledger)[f"{name}.torn"] == torn and name not in files(ledger)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(ledger.read()) == 2
        ledger.write(record(1))
        assert len(ledger.read()) == 3


def test_a_file_that_is_read_while_it_is_written_is_not_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, whole, reads = Ledger(tmp_path), Ledger._content, []
    ledger.write(record())

    def first_half_first(self: Ledger, info: Any) -> Any:
        reads.append(info)
        content = whole(self, info)
        return content[: content.size // 2] if len(reads) == 1 else content

    monkeypatch.setattr(Ledger, "_content", first_half_first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ledger.read() == [record()]


def test_a_second_torn_file_of_a_name_does_not_replace_the_first(ledger: Ledger) -> None:
    ledger.write(record())
    for content in (b"first", b"second"):
        write_bytes(join(ledger.address, f"{record().key}.parquet"), content)
        with pytest.warns(TornFileWarning):
            assert ledger.read() == []
    assert set(contents(ledger).values()) == {b"first", b"second"}


def test_a_torn_file_does_not_stop_compaction(ledger: Ledger) -> None:
    for width in range(3):
        ledger.write(record(width))
    write_bytes(join(ledger.address, f"{record(1).key}.parquet"), b"PAR1")
    with pytest.warns(TornFileWarning):
        assert ledger.compact() == 2
    assert len(ledger.read()) == 2


def test_foreign_parquet_is_an_error_and_stays(ledger: Ledger) -> None:
    ledger.write(record())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1]}), sink)
    write_bytes(join(ledger.address, "mine.parquet"), sink.getvalue().to_pybytes())
    with pytest.raises(LedgerError, match=r"must have the columns key, kind, .* but '.*mine.parquet' has x"):
        ledger.read()
    assert "mine.parquet" in files(ledger)


def test_other_files_are_left_alone(ledger: Ledger) -> None:
    ledger.write(record())
    temporary = f"{record(5).key}.parquet.0123.tmp"
    write_bytes(join(ledger.address, temporary), b"half a rec")
    write_bytes(join(ledger.address, "notes.txt"), b"mine")
    write_bytes(join(ledger.address, "folder.parquet", "inside"), b"mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(ledger.read()) == 1
        ledger.write(record(6))
        ledger.compact()
    assert {temporary, "notes.txt"} <= set(files(ledger)) and len(ledger.read()) == 2


def test_writers_a_reader_a_compactor_and_a_kill_at_once(ledger: Ledger) -> None:
    # An object store takes ten times as long for each.
    most = 40 if ledger.address.startswith("s3:") else 100
    finite = start(f"for number in range({most // 2}): ledger.write(make(number))", ledger.address)
    script = f"""
import time
for number in range({most // 4}, 10**9):
    ledger.write(make(number))
    print(number, flush=True)
    time.sleep(0.02)  # so that the reader keeps up
"""
    endless = start(script, ledger.address)
    assert endless.stdout is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for line in endless.stdout:
            assert int(line) in {one.architecture["width"] for one in ledger.read()}
            ledger.compact()
            if int(line) >= most:
                break
        os.kill(endless.pid, signal.SIGKILL)
        reported = max([most, *map(int, endless.stdout)])
        assert [finite.wait(), endless.wait()] == [0, -signal.SIGKILL]
        found = {one.architecture["width"] for one in ledger.read()}
    # Whatever was reported is there; at most the one in flight is there without having been reported.
    assert set(range(reported + 1)) <= found <= set(range(reported + 2))


def test_pickles_as_an_absolute_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Ledger("here")
    relative.write(record())
    copy = pickle.loads(pickle.dumps(relative))
    monkeypatch.chdir("/")
    assert copy.address == str(tmp_path / "here") and len(copy.read()) == 1


def test_a_filesystem_address(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    ledger = Ledger(folder.as_uri())
    ledger.write(record())
    assert Ledger(folder).read() == ledger.read() == [record()]


def test_a_file_is_not_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(LedgerError, match="must be a folder that can be read"):
        Ledger(path).read()
    with pytest.raises(StorageError, match="must be a folder that can be written"):
        Ledger(path).write(record())
