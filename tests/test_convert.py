"""Conversion of raw click-through logs: values, splits, and what bad input says."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manynet.data.base import DataError
from manynet.data.clicks.raw import avazu, criteo, kdd, output
from manynet.data.clicks.raw import convert as driver
from manynet.data.clicks.raw.convert import convert
from manynet.data.clicks.raw.delimited import TextPiece
from manynet.data.clicks.raw.layout import Columns, Dialect
from manynet.data.clicks.raw.stratify import Stratifier
from manynet.data.clicks.schema import read_schema
from manynet.data.hashing import hash_texts, text_ids
from manynet.data.raw_files import RawFile
from manynet.telemetry.progress_bar import reading_bar

SPLITS = ("train", "validation", "test")
TEXT = "label\tprice\tcolour\n"


# --- what conversion should do, row by row


def slow_hash(text: bytes) -> int:
    whole = 2**64
    state = len(text) * 0x9E3779B97F4A7C15 % whole
    for at in range(0, len(text), 8):
        state ^= int.from_bytes(text[at : at + 8].ljust(8, b"\0"), "little")
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % whole
        state = (state ^ state >> 27) * 0x94D049BB133111EB % whole
        state ^= state >> 31
    return state


def slow_id(text: str, rows: int) -> int:
    return slow_hash(text.encode()) % (rows - 1) + 1 if text else 0


def slow_log(text: str) -> float:
    return float(np.float32(math.log(max(float(text or 0), 0) + 1)))


def rows_of(folder: Path | str, split: str) -> list[tuple[Any, ...]]:
    """Rows of a split in order; lists as tuples."""
    files = sorted(Path(folder, split).glob("part-*.parquet"))
    columns = pa.concat_tables([pq.read_table(file) for file in files]).to_pydict().values()
    return [tuple(tuple(v) if isinstance(v, list) else v for v in row) for row in zip(*columns, strict=True)]


def all_rows(folder: Path | str) -> list[tuple[Any, ...]]:
    return sorted(row for split in SPLITS for row in rows_of(folder, split))


# --- logs to convert


def criteo_row(rng: random.Random, label: int) -> list[str]:
    numbers = ["" if rng.random() < 0.2 else str(rng.randint(-3, 2000)) for _ in range(13)]
    texts = ["" if rng.random() < 0.2 else f"{rng.getrandbits(32):08x}" for _ in range(26)]
    return [str(label), *numbers, *texts]


def criteo_rows(count: int = 120) -> list[list[str]]:
    rng = random.Random(0)
    return [criteo_row(rng, int(number % 4 == 0)) for number in range(count)]


def lines_of(rows: Sequence[Sequence[str]], separator: str = "\t") -> str:
    return "".join(separator.join(row) + "\n" for row in rows)


def write(path: Path, text: str | bytes) -> Path:
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def small_rows(count: int = 60) -> list[tuple[int, str, str]]:
    """Label, number of the row and a text."""
    return [(int(number % 3 == 0), str(number), f"c{number % 7}") for number in range(count)]


def small_log(folder: Path, text: str, extra: str = "", name: str = "log.tsv") -> str:
    """A log with columns label, price and colour, and the source that declares it."""
    write(folder / name, text)
    declaration = f"files: {name}\nlabel: label\ndense: [price]\ncategorical:\n  colour: 50\n{extra}"
    return f"schema:{write(folder / 'log.yaml', declaration)}"


def small_text(count: int = 60) -> str:
    return TEXT + "".join(f"{label}\t{price}\t{colour}\n" for label, price, colour in small_rows(count))


# --- hashing


HASHES = ["0x9ee448ff0b64d69b", "0xfb761138e1e0a78c", "0x9cd9778d978911a9", "0x0"]


def test_hashes_never_change() -> None:
    texts = pa.array([b"68fd1e64", b"a", b"longer than a word", b""], pa.binary())
    assert [hex(h) for h in hash_texts(texts).tolist()] == HASHES
    assert text_ids(texts, 1001).tolist() == [int(h, 16) % 1000 + 1 if int(h, 16) else 0 for h in HASHES]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | st.binary(max_size=40) | st.binary(min_size=8, max_size=8)), st.integers(0, 3))
def test_hashes_are_those_of_the_definition(values: list[bytes | None], start: int) -> None:
    texts = pa.array(values, pa.binary())[start:]
    assert hash_texts(texts).tolist() == [slow_hash(value or b"") for value in values[start:]]


def test_a_large_table_is_filled_evenly() -> None:
    texts = pa.array([str(number).encode() for number in range(20_000)], pa.binary())
    counts = np.bincount(text_ids(texts, 101), minlength=101)
    # 200 a row, with a standard deviation of 14.
    assert counts[0] == 0 and counts[1:].min() > 130 and counts[1:].max() < 270


# --- formats


def test_criteo_values(tmp_path: Path) -> None:
    rows = criteo_rows()
    schema = convert(f"criteo:{write(tmp_path / 'day', lines_of(rows))}", str(tmp_path / "out"))
    sizes = list(criteo.TABLES.values())
    assert len(sizes) == 26 and sizes[2] == 10131227 and sizes[-1] == 142573
    wanted = [
        (
            int(row[0]),
            *map(slow_log, row[1:14]),
            *(slow_id(text, size) for text, size in zip(row[14:], sizes, strict=True)),
        )
        for row in rows
    ]
    assert all_rows(tmp_path / "out") == sorted(wanted)
    assert schema == read_schema(tmp_path / "out")
    assert schema.features.dense == tuple(f"I{n}" for n in range(1, 14))
    assert [f.name for f in schema.features.categorical] == [f"C{n}" for n in range(1, 27)]
    assert [f.rows for f in schema.features.categorical] == sizes
    assert (schema.rows, schema.files) == ({"train": 96, "validation": 12, "test": 12}, ("day",))
    assert schema.positives == {"train": 24, "validation": 3, "test": 3}
    kinds = pq.read_schema(tmp_path / "out/train/part-00000.parquet")
    assert [kinds.field(name).type for name in ("label", "I1", "C1")] == [
        pa.uint8(),
        pa.float32(),
        pa.int32(),
    ]
    assert kinds.names == ["label", *criteo.DENSE, *criteo.TABLES]


def test_how_a_text_is_stored_and_cut_does_not_matter(tmp_path: Path) -> None:
    text = lines_of(criteo_rows())
    halves = text.encode()[:9000], text.encode()[9000:]
    stored: dict[str, bytes] = {
        "plain": text.encode(),
        "crlf": text.replace("\n", "\r\n").encode(),
        "bom": b"\xef\xbb\xbf" + text.encode(),
        "end": text.rstrip("\n").encode(),
        "blank": text.replace("\n", "\n\n\r\n").encode(),
        # A file can be compressed without saying so, and in parts.
        "packed": b"".join(map(gzip.compress, halves)),
    }
    digests = set()
    for (name, content), size in zip(stored.items(), (2**21, 1, 77, 1000, 256, 300), strict=True):
        (tmp_path / name).write_bytes(content)
        digests.add(convert(f"criteo:{tmp_path / name}", f"{tmp_path}/out-{name}", piece_bytes=size).digest)
        for split in SPLITS:
            assert rows_of(f"{tmp_path}/out-{name}", split) == rows_of(f"{tmp_path}/out-plain", split)
    assert len(digests) == 1
    other = write(tmp_path / "other.gz", text.replace("\t1999\t", "\t1998\t"))
    assert text.count("\t1999\t") and convert(f"criteo:{other}", f"{tmp_path}/out").digest not in digests


def avazu_text(rows: list[dict[str, str]], order: Sequence[str]) -> str:
    return lines_of([order, *([row[name] for name in order] for row in rows)], ",")


def test_avazu_values_from_files_whose_headers_differ(tmp_path: Path) -> None:
    rng = random.Random(1)
    names = ["click", *avazu.TABLES]
    rows = [
        {name: str(rng.randint(0, 10**7)) for name in names} | {"click": str(number % 2), "app_id": ""}
        for number in range(80)
    ]
    raw = ["id", "click", *names[2:]]
    (tmp_path / "logs").mkdir()
    write(tmp_path / "logs/a.csv", avazu_text(rows[:30], raw))
    write(tmp_path / "logs/b.csv.gz", avazu_text(rows[30:50], raw[::-1]).replace("\n", "\r\n"))
    write(tmp_path / "logs/c.csv", "more," + avazu_text(rows[50:], raw).replace("\n", "\n,")[:-1])
    write(tmp_path / "logs/_SUCCESS", "")
    schema = convert(f"avazu:{tmp_path}/logs", f"{tmp_path}/out", piece_bytes=500)
    wanted = [
        (int(row["click"]), *(slow_id(row[name], size) for name, size in avazu.TABLES.items()))
        for row in rows
    ]
    assert all_rows(tmp_path / "out") == sorted(wanted)
    assert len(avazu.TABLES) == 23 and schema.features.dense == () and schema.label == "click"
    assert schema.files == ("a.csv", "b.csv.gz", "c.csv")
    globbed = convert(f"avazu:{tmp_path}/lo*/?.csv*", f"{tmp_path}/globbed")
    assert globbed.digest == schema.digest


def test_an_avazu_header_without_a_column(tmp_path: Path) -> None:
    names = [name for name in ("click", *avazu.TABLES) if name != "device_ip"]
    write(tmp_path / "a.csv", avazu_text([dict.fromkeys(names, "1")], names))
    with pytest.raises(DataError, match=r"'device_ip' once, but that of .*a\.csv names it not at all"):
        convert(f"avazu:{tmp_path}/a.csv", f"{tmp_path}/out")


def kdd_folder(folder: Path, users: str = "1\t1\t5\n2\t2\t3\n\t1\t1\n3\t\t6\n") -> list[list[str]]:
    rng = random.Random(2)
    rows = []
    for number in range(60):
        row = [str(number % 3), *(str(rng.randint(0, 9)) for _ in range(11))]
        row[7:11] = [str(number), str(number % 5), str(number % 4 or ""), str(number % 2)]
        row[11] = ["", "1", "2", "3", "77"][number % 5]
        rows.append(row)
    write(folder / "training.txt.gz", lines_of(rows))
    write(folder / "userid_profile.txt", users)
    return rows


def test_kdd_values_with_users_and_tokens(tmp_path: Path) -> None:
    rows = kdd_folder(tmp_path)
    tokens = {str(n): [f"t{n}-{m}" for m in range(n)] for n in range(40)}
    for number, (name, _, _) in enumerate(kdd.TOKENS):
        text = "".join(f"{key}\t{'|'.join(values)}\n" for key, values in reversed(tokens.items()))
        # Where a key is there twice, the first holds.
        text += "".join(f"{key}\tt{key}-{more}\n" for more in "abc" for key in tokens) + "\tnone\n"
        write(tmp_path / (name + ".gz" * (number % 2)), text)
    users = {"1": ("1", "5"), "2": ("2", "3"), "3": ("", "6")}

    def expected(row: list[str]) -> tuple[Any, ...]:
        texts = [row[2], row[3], row[4], *row[7:12]]
        ids = [slow_id(text, size) for text, size in zip(texts, kdd.TABLES.values(), strict=True)]
        gender, age = users.get(row[11], ("", ""))
        return (
            int(row[0] != "0"),
            *map(slow_log, (row[1], row[5], row[6])),
            *ids,
            slow_id(gender, 4),
            slow_id(age, 8),
        )

    schema = convert(f"kdd:{tmp_path}", f"{tmp_path}/out")
    assert all_rows(tmp_path / "out") == sorted(map(expected, rows))
    names = [
        "displayURL",
        "adID",
        "advertiserID",
        "queryID",
        "keywordID",
        "titleID",
        "descriptionID",
        "userID",
        "gender",
        "age",
    ]
    sizes = [26274, 641708, 14848, 22122011, 1188090, 3735797, 2934102, 20004011, 4, 8]
    assert [(f.name, f.rows) for f in schema.features.categorical] == list(zip(names, sizes, strict=True))
    assert schema.features.dense == ("impression", "depth", "position") and schema.label == "click"

    def with_tokens(row: list[str]) -> tuple[Any, ...]:
        lists = ([slow_id(t, kdd.TOKEN_ROWS) for t in tokens.get(key, [])[:16]] for key in row[7:11])
        return (*expected(row), *map(tuple, lists))

    more = convert(f"kdd:{tmp_path}", f"{tmp_path}/tokens", tokens=True, piece_bytes=100)
    assert all_rows(tmp_path / "tokens") == sorted(map(with_tokens, rows))
    assert [f.values for f in more.features.categorical[-5:]] == [1, 16, 16, 16, 16]


@pytest.mark.parametrize("name", ["training.txt", "userid_profile.txt", "titleid_tokensid.txt"])
def test_a_kdd_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    kdd_folder(tmp_path)
    for tokens, *_ in kdd.TOKENS:
        write(tmp_path / tokens, "1\t2\n")
    for file in tmp_path.glob(f"{name}*"):
        file.unlink()
    with pytest.raises(DataError, match=rf"must hold {name} or {name}\.gz, but .* does not"):
        convert(f"kdd:{tmp_path}", f"{tmp_path}/out", tokens=True)


def test_bad_rows_of_a_profile_stop_or_are_counted(tmp_path: Path) -> None:
    kdd_folder(tmp_path, users="1\t1\t5\n2\t2\n3\t1\t6\n")
    with pytest.raises(DataError, match=r"userid_profile\.txt:2: a row must have 3 columns, but has 2$"):
        convert(f"kdd:{tmp_path}", f"{tmp_path}/out")
    schema = convert(f"kdd:{tmp_path}", f"{tmp_path}/out", skip_bad=True)
    assert schema.dropped == {"columns": 1} and sum(schema.rows.values()) == 60
    write(tmp_path / "userid_profile.txt", "1\n2\n")
    schema = convert(f"kdd:{tmp_path}", f"{tmp_path}/none", skip_bad=True)
    assert schema.dropped == {"columns": 2} and {row[-2:] for row in all_rows(tmp_path / "none")} == {(0, 0)}


# --- logs of one's own


def declared(folder: Path, files: str, separator: str = "") -> str:
    text = f"""
files: {files}
label: clicked
dense: [price, distance]
categorical:
  carrier: 100
  code: {{rows: 30}}
  tags: {{rows: 1000, values: 3{separator}}}
"""
    return f"schema:{write(folder / f'{files[-7:]}.yaml', text)}"


TAGS = [["a", "b", "c", "d"], [], ["b"], ["x y", "", "é"], ["", ""], [f"{'long' * 9}"]]
OWN = [
    (
        number % 2 == 0,
        number / 7 if number % 5 else None,
        number * 3,
        f"Ünited {number % 9}",
        number - 4,
        TAGS[number % 6],
    )
    for number in range(90)
]


def own_values(row: tuple[Any, ...]) -> tuple[Any, ...]:
    clicked, price, distance, carrier, code, tags = row
    ids = tuple(slow_id(tag, 1000) for tag in tags if tag)[:3]
    dense = slow_log("" if price is None else str(price)), slow_log(str(distance))
    return (int(clicked), *dense, slow_id(carrier, 100), slow_id(str(code), 30), ids)


def test_one_log_as_csv_and_as_parquet(tmp_path: Path) -> None:
    header = "unused,tags,code,price,distance,clicked,carrier\n"
    rows = [
        f'"a ""quoted"", value",{"|".join(tags)},{code},{"" if price is None else price},'
        f'{distance},{clicked:d},"{carrier}"\n'
        for clicked, price, distance, carrier, code, tags in OWN
    ]
    write(tmp_path / "log-1.csv", header + "".join(rows[:50]))
    write(tmp_path / "log-2.csv", (header + "".join(rows[50:])).replace("\n", "\r\n"))
    text = convert(declared(tmp_path, "log-?.csv", ', separator: "|"'), f"{tmp_path}/text", piece_bytes=200)
    assert all_rows(tmp_path / "text") == sorted(map(own_values, OWN))
    columns = list(zip(*OWN, strict=True))
    kinds = [pa.bool_(), pa.float64(), pa.int16(), pa.dictionary(pa.int8(), pa.string()), pa.int64()]
    arrays = [
        pa.array(values, kind) for values, kind in zip(columns, [*kinds, pa.list_(pa.string())], strict=False)
    ]
    names = ["clicked", "price", "distance", "carrier", "code", "tags"]
    table = pa.table(arrays, names=names).append_column("unused", pa.array(range(90)))
    pq.write_table(table.slice(0, 40), tmp_path / "a.parquet", row_group_size=7)
    pq.write_table(table.slice(40).select(names[::-1]), tmp_path / "b.parquet")
    parquet = convert(declared(tmp_path, "?.parquet"), f"{tmp_path}/parquet", piece_bytes=3 * 256)
    assert parquet.digest == text.digest
    for split in SPLITS:
        assert rows_of(tmp_path / "text", split) == rows_of(tmp_path / "parquet", split)
    assert [f.values for f in parquet.features.categorical] == [1, 1, 3]


def test_every_kind_of_parquet_text_has_the_same_ids(tmp_path: Path) -> None:
    values = [None, "", "a", "1234", "4"]
    kinds = [
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
        pa.string_view(),
        pa.binary_view(),
    ]
    columns = {f"c{at}": pa.array(values * 20).cast(kind) for at, kind in enumerate(kinds)}
    numbers = pa.array([None, None, None, 1234, 4] * 20, pa.uint16())
    table = pa.table({"label": [0, 0, 1, 1, 0] * 20, **columns, "number": numbers})
    tags = pa.array([None, [], ["a"], ["1234", None], [None, "4"]] * 20)
    more = {"tags": tags, "wide": tags.cast(pa.large_list(pa.large_string())), "ints": [[7, None]] * 100}
    table = pa.table({**dict(zip(table.column_names, table.columns, strict=True)), **more})
    pq.write_table(table, tmp_path / "a.parquet")
    single = "".join(f"  {name}: 500\n" for name in (*columns, "number"))
    multi = "".join(f"  {name}: {{rows: 500, values: 2}}\n" for name in more)
    write(tmp_path / "a.yaml", f"files: a.parquet\nlabel: label\ncategorical:\n{single}{multi}")
    convert(f"schema:{tmp_path}/a.yaml", f"{tmp_path}/out")
    a, b, c = (slow_id(text, 500) for text in ("a", "1234", "4"))
    seven = (slow_id("7", 500),)
    wanted = [
        *((0, *[0] * 7, (), (), seven) for _ in range(40)),
        *((1, *[a] * 6, 0, (a,), (a,), seven) for _ in range(20)),
        *((1, *[b] * 7, (b,), (b,), seven) for _ in range(20)),
        *((0, *[c] * 7, (c,), (c,), seven) for _ in range(20)),
    ]
    assert all_rows(tmp_path / "out") == sorted(wanted)


def test_columns_without_a_header_and_a_separator_of_their_own(tmp_path: Path) -> None:
    rows = [(label, colour, price) for label, price, colour in small_rows()]
    write(tmp_path / "log.txt", lines_of([tuple(map(str, row)) for row in rows], ";"))
    source = small_log(tmp_path, small_text())
    text = (tmp_path / "log.yaml").read_text().replace("log.tsv", "log.txt")
    write(tmp_path / "own.yaml", text + 'columns: [label, colour, price]\nseparator: ";"\n')
    digest = convert(source, f"{tmp_path}/out-0").digest
    assert convert(f"schema:{tmp_path}/own.yaml", f"{tmp_path}/out-1").digest == digest
    assert convert(small_log(tmp_path, "\ufeff" + small_text()), f"{tmp_path}/out-2").digest == digest
    with pytest.raises(DataError, match=r"separator is required, for '\.txt' does not imply one as \.csv"):
        convert(f"schema:{write(tmp_path / 'no.yaml', text)}", f"{tmp_path}/out")


GOOD = {"files": "log.tsv", "label": "label", "dense": ["price"], "categorical": {"colour": 50}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"colour": 3},
            r"colour is not a key; there are files, separator, columns, label, dense, categorical",
        ),
        ({"label": None}, r"label: input should be a valid string, but got None"),
        (
            {"categorical": {"colour": 0}},
            r"categorical\.colour\.rows: .* greater than or equal to 2, but got 0",
        ),
        ({"categorical": {"colour": 1}}, r"greater than or equal to 2, but got 1"),
        ({"categorical": {"colour": 2**31}}, r"less than 2147483648"),
        ({"categorical": {"colour": {"row": 3}}}, r"categorical\.colour\.rows is required|row is not a key"),
        (
            {"categorical": {"colour": {"rows": 9, "value": 3}}},
            r"colour\.value is not a key; there are rows, values",
        ),
        ({"categorical": {"colour": {"rows": 9, "values": 0}}}, r"greater than or equal to 1, but got 0"),
        (
            {"categorical": {"colour": {"rows": 9, "separator": "|"}}},
            r"separator must come with values above 1",
        ),
        ({"categorical": {"colour": {"rows": 9, "values": 2}}}, r"colour\.separator must be .*, but got ''"),
        ({"categorical": {"price": 9}}, r"a feature must be named once, but 'price' is there twice"),
        ({"dense": ["price", "price"]}, r"a feature must be named once, but 'price' is there twice"),
        ({"dense": ["label"]}, r"the label must not be a feature, but 'label' is both"),
        ({"label": "colour2", "dense": ["label"]}, r"no feature can be named 'label'"),
        ({"dense": [], "categorical": {}}, r"there must be at least one feature"),
        ({"columns": ["label", "colour"]}, r"columns must hold the label and all features, but not 'price'"),
        (
            {"columns": ["label", "colour", "price", "price"]},
            r"columns must differ, but 'price' is there twice",
        ),
        ({"separator": "||"}, r"separator: .*, but got '\|\|'"),
        ({"separator": '"'}, r"separator: .*, but got '\"'"),
        ({"files": "nothing-*.tsv"}, r"but nothing is at .*nothing-\*\.tsv"),
    ],
)
def test_a_declaration_that_is_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    small_log(tmp_path, small_text())
    path = write(tmp_path / "log.yaml", json.dumps(GOOD | change))
    with pytest.raises(DataError, match=message) as raised:
        convert(f"schema:{path}", f"{tmp_path}/out")
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "readable YAML file"),
        ("- a", "must be a mapping of files, "),
        ("a: 1", "files is required|a is not a key"),
    ],
)
def test_a_declaration_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        convert(f"schema:{write(tmp_path / 'log.yaml', text)}", f"{tmp_path}/out")
    with pytest.raises(DataError, match="readable YAML file, but got '.*none.yaml'"):
        convert(f"schema:{tmp_path}/none.yaml", f"{tmp_path}/out")


# --- splits


def places(folder: Path | str) -> dict[str, list[int]]:
    """Row numbers of each split, in its order: the small log's prices count rows."""
    return {split: [round(math.expm1(row[1])) for row in rows_of(folder, split)] for split in SPLITS}


def every(found: dict[str, list[int]]) -> list[int]:
    return sorted(itertools.chain(*found.values()))


def test_each_class_is_split_eight_to_one_to_one(tmp_path: Path) -> None:
    source = small_log(tmp_path, small_text(334))
    schema = convert(source, f"{tmp_path}/out", seed=3)
    found = places(tmp_path / "out")
    assert schema.rows == {split: len(rows) for split, rows in found.items()}
    assert every(found) == list(range(334))
    for rows in found.values():
        assert rows == sorted(rows)
    for label in (0, 1):
        of_class = [number for number in range(334) if (number % 3 == 0) == label]
        for at in range(0, len(of_class) - 9, 10):
            ten = set(of_class[at : at + 10])
            assert [len(ten & set(found[split])) for split in SPLITS] == [8, 1, 1]
        for split in ("validation", "test"):
            assert 0 <= len(set(of_class) & set(found[split])) - len(of_class) // 10 <= 1
    # Which of a ten is drawn differs from ten to ten, and from class to class.
    assert len({number // 3 % 10 for number in found["test"] if number % 3 == 0}) > 3


def test_any_two_of_a_ten_are_drawn_alike() -> None:
    _, validation, test = Stratifier(0).deal(np.zeros(90_000, np.uint8))
    pairs = Counter(zip((validation % 10).tolist(), (test % 10).tolist(), strict=True))
    # 100 each, with a standard deviation of 10.
    assert len(pairs) == 90 and min(pairs.values()) > 55 and max(pairs.values()) < 145


def test_the_seed_draws_the_splits(tmp_path: Path) -> None:
    source = small_log(tmp_path, small_text(200))
    schemas = [convert(source, f"{tmp_path}/{at}", seed=seed) for at, seed in enumerate((0, 0, 1))]
    first, again, other = (places(tmp_path / str(at)) for at in range(3))
    assert first == again and first["test"] != other["test"] and first["validation"] != other["validation"]
    assert every(first) == sorted(every(other))
    assert schemas[0] == schemas[1] and schemas[0].digest != schemas[2].digest and schemas[2].seed == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 1), max_size=80), st.lists(st.integers(0, 80), max_size=5))
def test_dealing_does_not_depend_on_cuts(labels: list[int], cuts: list[int]) -> None:
    whole, parts = Stratifier(5), Stratifier(5)
    array = np.array(labels, np.uint8)
    dealt: list[list[int]] = [[], [], []]
    bounds = sorted({0, len(labels), *(cut for cut in cuts if cut < len(labels))})
    for start, end in itertools.pairwise(bounds):
        for rows, more in zip(dealt, parts.deal(array[start:end]), strict=True):
            rows += (start + more).tolist()
    assert dealt == [rows.tolist() for rows in whole.deal(array)]


def test_tables_are_capped(tmp_path: Path) -> None:
    rows = criteo_rows()
    day = write(tmp_path / "day", lines_of(rows))
    schema = convert(f"criteo:{day}", f"{tmp_path}/out", table_rows=1000)
    sizes = [min(size, 1000) for size in criteo.TABLES.values()]
    assert [f.rows for f in schema.features.categorical] == sizes and 4 in sizes and 1000 in sizes
    found = sorted(row[14:] for row in all_rows(tmp_path / "out"))
    assert found == sorted(tuple(map(slow_id, row[14:], sizes)) for row in rows)
    with pytest.raises(DataError, match=r"table_rows must be at least 2 .*, but got 1"):
        convert(f"criteo:{day}", f"{tmp_path}/other", table_rows=1)


def test_row_groups_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "GROUP_ROWS", 64)
    monkeypatch.setattr(output, "FILE_GROUPS", 2)
    schema = convert(small_log(tmp_path, small_text(500)), f"{tmp_path}/out", piece_bytes=150)
    files = sorted((tmp_path / "out/train").iterdir())
    assert [file.name for file in files] == [f"part-{n:05d}.parquet" for n in range(4)]
    metadata = [pq.read_metadata(file) for file in files]
    groups = [[m.row_group(g).num_rows for g in range(m.num_row_groups)] for m in metadata]
    assert groups == [[64, 64], [64, 64], [64, 64], [schema.rows["train"] - 6 * 64]]
    found = places(tmp_path / "out")
    assert every(found) == list(range(500)) and found["train"] == sorted(found["train"])


# --- bad rows


def damaged(replaced: dict[int, str], text: str) -> tuple[str, str]:
    """A text with some lines replaced, counted from 1; and the text without them."""
    lines = text.splitlines(keepends=True)
    clean = "".join(line for number, line in enumerate(lines, start=1) if number not in replaced)
    return "".join(replaced.get(number, line) for number, line in enumerate(lines, start=1)), clean


BAD = {
    "short": ("0\t1\n", "columns", "a row must have 3 columns, but has 2"),
    "long": ("0\t1\ta\tb\n", "columns", "a row must have 3 columns, but has 4"),
    "dense": ("0\t1x\ta\n", "number", "price must be a finite number, but is '1x'"),
    "spaces": ("0\t \ta\n", "number", "price must be a finite number, but is ' '"),
    "infinite": ("0\tinf\ta\n", "number", "price must be a finite number, but is 'inf'"),
    "nan": ("0\tNaN\ta\n", "number", "price must be a finite number, but is 'NaN'"),
    "large": ("0\t1e999\ta\n", "number", "price must be a finite number, but is '1e999'"),
    "hex": ("0\t0x10\ta\n", "number", "price must be a finite number, but is '0x10'"),
    "bytes": ("0\t\ud800\ta\n", "number", "price must be a finite number"),
    "label": ("2\t1\ta\n", "label", "label must be 0 or 1, but is '2'"),
    "minus": ("-1\t1\ta\n", "label", "label must be 0 or 1, but is '-1'"),
    "half": ("0.5\t1\ta\n", "label", "label must be 0 or 1, but is '0.5'"),
    "word": ("yes\t1\ta\n", "label", "label must be 0 or 1, but is 'yes'"),
    "none": ("\t1\ta\n", "label", "label must be 0 or 1, but is missing"),
    "open": ('0\t1\t"a\n', "quotes", "quotes must enclose a whole value on one line"),
    "inside": ('0\t1\ta"b"\n', "quotes", "quotes must enclose a whole value on one line"),
    "after": ('0\t1\t"a"b\n', "quotes", "quotes must enclose a whole value on one line"),
    "return": ("0\t1\ta\rb\n", "line end", "a carriage return must only end a line, but one is inside"),
    "returns": (
        "0\t1\ta\r0\t1\tb\n",
        "line end",
        "a carriage return must only end a line, but one is inside",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_stops_or_is_left_out(tmp_path: Path, kind: str) -> None:
    line, reason, message = BAD[kind]
    bad, clean = damaged({5: line, 40: line}, small_text())
    for folder in ("bad", "clean"):
        (tmp_path / folder).mkdir()
    source = small_log(tmp_path / "bad", "")
    (tmp_path / "bad/log.tsv").write_bytes(bad.encode(errors="surrogatepass"))
    with pytest.raises(DataError) as raised:
        convert(source, f"{tmp_path}/out")
    assert f"{tmp_path}/bad/log.tsv:5: {message}" in str(raised.value) and "log.tsv:40:" in str(raised.value)
    assert "2 of the first 60 are not" in str(raised.value)
    with pytest.raises(DataError, match="must hold schema.json"):
        read_schema(tmp_path / "out")
    wanted = convert(small_log(tmp_path / "clean", clean), f"{tmp_path}/wanted")
    for size in (2**20, 50):
        schema = convert(source, f"{tmp_path}/out-{size}", skip_bad=True, piece_bytes=size)
        assert schema.digest == wanted.digest and schema.rows == wanted.rows
        assert schema.dropped == {reason: 2} == read_schema(f"{tmp_path}/out-{size}").dropped
    assert f"left out: 2 bad rows ({reason} 2)" in schema.summary and "left out" not in wanted.summary


def test_bad_rows_of_all_kinds_are_counted_each_once(tmp_path: Path) -> None:
    kinds = ["short", "long", "dense", "label", "open", "return", "none"]
    both = {50: "7\tx\ta\n", 51: '5\t"\n'}
    bad, clean = damaged({10 + at: BAD[kind][0] for at, kind in enumerate(kinds)} | both, small_text())
    # Blank lines are no rows, but are counted as lines.
    bad = bad.replace("\n", "\n\n", 4)
    source = small_log(tmp_path, bad)
    schema = convert(source, f"{tmp_path}/skipped", skip_bad=True, piece_bytes=120)
    assert schema.dropped == {"columns": 2, "label": 3, "line end": 1, "number": 1, "quotes": 2}
    assert sum(schema.rows.values()) == 60 - 9
    with pytest.raises(DataError) as raised:
        convert(source, f"{tmp_path}/out")
    shown = [line.strip().split(":")[1] for line in str(raised.value).splitlines()[1:]]
    assert shown == ["14", "15", "16", "17", "18"] and "9 of the first 60 are not" in str(raised.value)
    write(tmp_path / "log.tsv", clean)
    assert convert(source, f"{tmp_path}/out").digest == schema.digest


def test_a_bad_row_far_into_a_packed_criteo_log(tmp_path: Path) -> None:
    rows = criteo_rows()
    # Criteo's logs have no quoting: a quote is a character like any other.
    rows[3][20] = '"a'
    text, clean = damaged({77: "1\t2\t3\n"}, lines_of(rows))
    source = f"criteo:{write(tmp_path / 'day.gz', text)}"
    with pytest.raises(DataError, match=r"day\.gz:77: a row must have 40 columns, but has 3$"):
        convert(source, f"{tmp_path}/out", piece_bytes=400)
    schema = convert(source, f"{tmp_path}/out", skip_bad=True, piece_bytes=400)
    assert schema.digest == convert(f"criteo:{write(tmp_path / 'day', clean)}", f"{tmp_path}/clean").digest
    assert slow_id('"a', criteo.TABLES["C7"]) in [row[20] for row in all_rows(tmp_path / "out")]


@pytest.mark.parametrize("clicks", ["-1", "0.5", "x", "", "inf"])
def test_kdd_labels_are_counts(tmp_path: Path, clicks: str) -> None:
    rows = kdd_folder(tmp_path)
    rows[8][0] = clicks
    write(tmp_path / "training.txt.gz", lines_of(rows))
    with pytest.raises(DataError, match=r"training\.txt\.gz:9: click must be a count, but is .*$"):
        convert(f"kdd:{tmp_path}", f"{tmp_path}/out")
    assert convert(f"kdd:{tmp_path}", f"{tmp_path}/out", skip_bad=True).dropped == {"label": 1}


def small_parquet(folder: Path, label: Sequence[Any], price: pa.Array) -> str:
    table = pa.table({"label": label, "price": price, "colour": [c for _, _, c in small_rows(len(label))]})
    pq.write_table(table, folder / "log.parquet", row_group_size=9)
    text = "files: log.parquet\nlabel: label\ndense: [price]\ncategorical:\n  colour: 50\n"
    return f"schema:{write(folder / 'log.yaml', text)}"


def test_bad_rows_of_parquet(tmp_path: Path) -> None:
    label: list[float | None] = [float(row[0]) for row in small_rows()]
    price = [float(row[1]) for row in small_rows()]
    label[9], label[10], label[30], price[20], price[30] = 2.0, None, -1.0, math.inf, math.nan
    source = small_parquet(tmp_path, label, pa.array(price))
    with pytest.raises(DataError) as raised:
        convert(source, f"{tmp_path}/out")
    assert [line.split(".parquet: ")[1] for line in str(raised.value).splitlines()[1:]] == [
        "row 10: label must be 0 or 1, but is '2.0'",
        "row 11: label must be 0 or 1, but is missing",
        "row 21: price must be a finite number, but is 'inf'",
        "row 31: label must be 0 or 1, but is '-1.0'",
    ]
    schema = convert(source, f"{tmp_path}/out", skip_bad=True, piece_bytes=4 * 256)
    assert schema.dropped == {"label": 3, "number": 1}
    assert every(places(tmp_path / "out")) == [n for n in range(60) if n not in (9, 10, 20, 30)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, r"log.parquet must have one column 'label', but has price, colour"),
        ({"price": "colour"}, r"column 'price' must hold numbers, but in .* it holds string"),
        ({"colour": "price"}, r"column 'colour' must hold texts or integers, but in .* it holds double"),
        ({"label": "colour"}, r"column 'label' must hold numbers, but in .* it holds string"),
    ],
)
def test_parquet_columns_that_do_not_match(
    tmp_path: Path, change: dict[str, str | None], message: str
) -> None:
    source = small_parquet(tmp_path, [row[0] for row in small_rows()], pa.array([1.5] * 60))
    table = pq.read_table(tmp_path / "log.parquet")
    taken = {name: name for name in table.column_names} | change
    pq.write_table(
        pa.table({name: table.column(other) for name, other in taken.items() if other}),
        tmp_path / "log.parquet",
    )
    with pytest.raises(DataError, match=message):
        convert(source, f"{tmp_path}/out")


def test_a_list_must_be_declared_as_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [0, 1], "a": [["x"], []]}), tmp_path / "a.parquet")
    for table, rule in (("9", "texts or integers"), ("{rows: 9, values: 2}", None)):
        write(tmp_path / "a.yaml", f"files: a.parquet\nlabel: label\ncategorical: {{a: {table}}}\n")
        with pytest.raises(DataError, match=f"must hold {rule}, but" if rule else "split must hold"):
            convert(f"schema:{tmp_path}/a.yaml", f"{tmp_path}/{bool(rule)}")


# --- what is read carefully is what is read at once


def piece(text: str, quoted: bool, header: tuple[str, ...]) -> TextPiece:
    file = RawFile(None, "log", 0)
    return TextPiece(file, 1, text.encode(), header, Dialect(",", quoted=quoted), 0)


@settings(max_examples=120, deadline=None)
@given(st.text("0123456789+-.eEnaif \t", max_size=8) | st.floats().map(str) | st.integers().map(str))
def test_numbers_are_the_same_beside_a_bad_one(text: str) -> None:
    columns = Columns(dense=("a",), texts=("b",))
    alone, faults = piece(f"{text},x\n", False, ("a", "b")).read(columns)
    beside, more = piece(f"bad,x\n{text},x\n", False, ("a", "b")).read(columns)
    assert alone.to_pydict() == beside.to_pydict() and faults.total + 1 == more.total
    try:
        number = float(text) if text else None
    except ValueError:
        number = math.nan
    assert faults.total == (number is not None and not math.isfinite(number))
    assert faults.total or alone.column("a").to_pylist() == [number]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text('a1,"\r', max_size=8), min_size=1, max_size=6), st.booleans())
def test_lines_are_the_same_alone(lines: list[str], quoted: bool) -> None:
    columns = Columns(texts=("a", "b"))
    text = "".join(line + "\n" for line in lines)
    together, faults = piece(text, quoted, ("a", "b")).read(columns)
    alone = [piece(line + "\n", quoted, ("a", "b")).read(columns) for line in lines]
    assert together.to_pylist() == [row for table, _ in alone for row in table.to_pylist()]
    assert faults.counts == sum((found.counts for _, found in alone), start=type(faults.counts)())
    if not quoted:
        rows = [line.removesuffix("\r").split(",") for line in lines if line.strip("\r") or "\r\r" in line]
        good = [row for row in rows if len(row) == 2 and "\r" not in "".join(row)]
        assert [[v.decode() for v in row.values()] for row in together.to_pylist()] == good


# --- files that are not there, empty or damaged


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"files must hold at least one row, but .*log\.tsv is empty"),
        (TEXT.encode(), r"files must hold at least one row, but .*log\.tsv holds none"),
        (b"\n\n\r\n", r"'label' once, but that of .*log\.tsv names it not at all"),
        (TEXT.encode() + b"\n\r\n", r"files must hold at least one row, but .*log\.tsv holds none"),
        (b"label\tprice\tlabel\tcolour\n", r"'label' once, but that of .*log\.tsv names it more than once"),
        (b"\xff\n", r"the first line must name the columns, but that of .*log\.tsv does not"),
        (gzip.compress(small_text().encode())[:-20], r"files must be readable, but .*log\.tsv is not"),
        (gzip.compress(b"")[:10] + b"nonsense" * 9, r"files must be readable, but .*log\.tsv is not"),
    ],
)
def test_a_text_that_is_empty_or_damaged(tmp_path: Path, content: bytes, message: str) -> None:
    source = small_log(tmp_path, "")
    (tmp_path / "log.tsv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        convert(source, f"{tmp_path}/out")
    with pytest.raises(DataError, match="must hold schema.json"):
        read_schema(tmp_path / "out")


@pytest.mark.parametrize(("rows", "message"), [(0, "holds none"), (None, "Parquet files must be readable")])
def test_a_parquet_file_that_is_empty_or_damaged(tmp_path: Path, rows: int | None, message: str) -> None:
    source = small_parquet(tmp_path, [], pa.array([], pa.float64()))
    if rows is None:
        write(tmp_path / "log.parquet", (tmp_path / "log.parquet").read_bytes()[:-30])
    else:
        table = pa.table(
            {"label": pa.array([], pa.int8()), "price": pa.array([], pa.int8()), "colour": [""][:0]}
        )
        pq.write_table(table.set_column(2, "colour", pa.array([], pa.string())), tmp_path / "log.parquet")
    with pytest.raises(DataError, match=message):
        convert(source, f"{tmp_path}/out")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("criteo:none", "a pattern, but nothing is at none"),
        ("criteo:no*", "a pattern, but nothing is at no"),
        ("criteo", "source must be criteo:PATH, avazu:PATH, kdd:FOLDER or schema:FILE, but got 'criteo'"),
        ("day:1", "source must be criteo:PATH, .* but got 'day:1'"),
        ("criteo:nowhere://1", "input must be files that can be read, but got 'nowhere://1'"),
    ],
)
def test_a_source_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        convert(source, "out")
    assert not list(tmp_path.iterdir())


def test_arguments_that_are_not_allowed(tmp_path: Path) -> None:
    source = small_log(tmp_path, small_text())
    with pytest.raises(DataError, match="seed must be at least 0, but got -1"):
        convert(source, f"{tmp_path}/out", seed=-1)
    with pytest.raises(DataError, match="piece_bytes must be at least 1, but got 0"):
        convert(source, f"{tmp_path}/out", piece_bytes=0)
    with pytest.raises(DataError, match="tokens are only joined to kdd:FOLDER, but got 'schema:"):
        convert(source, f"{tmp_path}/out", tokens=True)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("0" * 40, "all 40 rows have label 0"),
        ("1" * 40, "all 40 rows have label 1"),
        ("01", "split must hold at least"),
        ("0" * 39 + "1", r"all 4 of validation have label 0 \(1 of 40 rows have label 1\)"),
        ("1" * 39 + "0", r"all 4 of validation have label 1 \(39 of 40 rows have label 1\)"),
    ],
)
def test_labels_that_cannot_be_learned(tmp_path: Path, labels: str, message: str) -> None:
    source = small_log(tmp_path, TEXT + "".join(f"{label}\t1\ta\n" for label in labels))
    with pytest.raises(DataError, match=message):
        convert(source, f"{tmp_path}/out")
    assert not (tmp_path / "out/schema.json").exists()


# --- the folder that is written


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError])
def test_an_interrupted_conversion_is_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    source = small_log(tmp_path, small_text())
    whole = convert(source, f"{tmp_path}/whole")

    def interrupt(*_: Any) -> None:
        raise error

    monkeypatch.setattr(output, "GROUP_ROWS", 16)
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(driver, "write_schema", interrupt)
        convert(source, f"{tmp_path}/out", seed=4)
    write(tmp_path / "out/schema.json.0af3.tmp", "{")
    write(tmp_path / "out/train/part-00009.parquet", "")
    with pytest.raises(DataError, match=r"must hold schema\.json, but .*/out does not: convert it"):
        read_schema(tmp_path / "out")
    monkeypatch.undo()
    assert convert(source, f"{tmp_path}/out") == whole
    assert all_rows(tmp_path / "out") == all_rows(tmp_path / "whole")
    names = {
        str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()
    }
    assert names == {"schema.json", *(f"{split}/part-00000.parquet" for split in SPLITS)}


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    source = small_log(tmp_path, small_text())
    schema = convert(source, f"{tmp_path}/out")
    with pytest.raises(DataError, match=r"must be a new folder, but .*/out holds a converted data set"):
        convert(source, f"{tmp_path}/out", seed=1)
    assert read_schema(tmp_path / "out") == schema
    with pytest.raises(DataError, match=r"must be a new folder, but .* holds .*log\.(tsv|yaml)"):
        convert(source, str(tmp_path))
    (tmp_path / "mine/train").mkdir(parents=True)
    write(tmp_path / "mine/train/part-a.parquet", "mine")
    with pytest.raises(DataError, match=r"holds .*part-a\.parquet"):
        convert(source, f"{tmp_path}/mine")
    assert (tmp_path / "mine/train/part-a.parquet").read_text() == "mine"
    with pytest.raises(DataError, match=r"must be a folder, but .*log\.tsv is a file"):
        convert(source, f"{tmp_path}/log.tsv")
    with pytest.raises(DataError, match="must be a folder that can be written, but .*log.tsv/out is not"):
        convert(source, f"{tmp_path}/log.tsv/out")


def test_addresses(tmp_path: Path) -> None:
    day = write(tmp_path / "day 1", lines_of(criteo_rows()))
    there = convert(f"criteo:{day.as_uri()}", (tmp_path / "an out").as_uri() + "/")
    assert read_schema((tmp_path / "an out").as_uri()) == there == read_schema(f"{tmp_path}/an out/")
    assert len(all_rows(tmp_path / "an out")) == 120


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda schema: [], "it is something else"),
        (lambda schema: schema | {"version": 2}, "in version 1, but it is version 2"),
        (lambda schema: {"version": 1}, "source: field required"),
        (lambda schema: schema | {"rows": 3}, "rows: input should be a valid dictionary"),
    ],
)
def test_a_schema_that_is_damaged(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    convert(small_log(tmp_path, small_text()), f"{tmp_path}/out")
    file = tmp_path / "out/schema.json"
    schema = json.loads(file.read_text())
    assert schema["version"] == 1 and len(schema["digest"]) == 16 and int(schema["digest"], 16)
    write(file, json.dumps(change(schema)))
    with pytest.raises(DataError, match=rf"schema\.json must be as conversion writes it.*{message}"):
        read_schema(tmp_path / "out")
    write(file, "{")
    with pytest.raises(DataError, match="it is something else"):
        read_schema(tmp_path / "out")


def test_progress_is_only_for_terminals(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small_log(tmp_path, small_text())
    convert(source, f"{tmp_path}/quiet", bar=reading_bar)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    convert(source, f"{tmp_path}/shown", bar=reading_bar)
    shown = capfd.readouterr()
    assert "converting" in shown.err and not shown.out


def test_progress_counts_the_bytes_of_all_files(tmp_path: Path) -> None:
    shown: list[int] = []
    sizes: list[int] = []

    @contextmanager
    def bar(title: str, size: int) -> Iterator[Callable[[int], None]]:
        sizes.append(size)
        yield shown.append

    text = lines_of(criteo_rows())
    for name in ("a", "b.gz"):
        write(tmp_path / name, text)
    total = (tmp_path / "a").stat().st_size + (tmp_path / "b.gz").stat().st_size
    convert(f"criteo:{tmp_path}", f"{tmp_path}/out", piece_bytes=3000, bar=bar)
    assert shown == sorted(shown) and len(set(shown)) > 5 and sizes == [total] and shown[-1] == total
