"""Data sets: what is read, how it is split, in which order it comes, and what bad input says."""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from manynet import data as data_module
from manynet.data import Batch, Data, DataError, Images, Split, digits, from_arrays, load
from manynet.data.images.augment import augment
from manynet.testing import check_data

RNG = np.random.default_rng(0)


def take(batches: Iterable[Batch], count: int) -> list[Batch]:
    return list(islice(batches, count))


def same(left: Iterable[Batch], right: Iterable[Batch]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return all(torch.equal(a.inputs[0], b.inputs[0]) and torch.equal(a.targets, b.targets) for a, b in pairs)


def images_of(data: Data) -> Images:
    assert isinstance(data.features, Images)
    return data.features


def pixels_of(split: Split, data: Data) -> np.ndarray[Any, Any]:
    """All images of a split as uint8 `(N, C, H, W)`, through the public way."""
    (batch,) = split.batches(len(split))
    measured = images_of(data)
    mean, std = (torch.tensor(x).reshape(-1, 1, 1) for x in (measured.mean, measured.std))
    return np.asarray(((batch.inputs[0] * std + mean) * 255).round().to(torch.uint8).numpy())


def check_order(split: Split, whole: list[Batch]) -> None:
    """Ranks partition the joint batches of 8 of seed 3, and a start drops some; over more than an epoch."""
    assert len(whole) * 8 > len(split)
    ranks = [take(split.stream(8, seed=3, rank=rank, world=2), len(whole)) for rank in (0, 1)]
    joined = [
        Batch((torch.cat([a.inputs[0], b.inputs[0]]),), torch.cat([a.targets, b.targets]))
        for a, b in zip(*ranks, strict=True)
    ]
    assert same(whole, joined)
    assert same(whole[5:], take(split.stream(8, seed=3, start=5), len(whole) - 5))


# --- digits, and what every split in memory promises


def test_digits_are_what_scikit_learn_has() -> None:
    data = load("digits", seed=1)
    assert (data.name, images_of(data).classes, images_of(data).channels) == ("digits", 10, 1)
    assert [len(data.train), len(data.validation), len(data.test)] == [1437, 180, 180]
    (batch,) = data.train.batches(len(data.train))
    assert batch.inputs[0].shape == (1437, 1, 8, 8) and batch.inputs[0].dtype == torch.float32
    assert batch.targets.dtype == torch.int64
    assert abs(float(batch.inputs[0].mean())) < 1e-5 and abs(float(batch.inputs[0].std()) - 1) < 1e-3
    assert pixels_of(data.train, data).max() == 255


def test_splits_are_disjoint_stratified_and_drawn_by_the_seed() -> None:
    data = digits(seed=0)
    parts = [pixels_of(split, data) for split in (data.train, data.validation, data.test)]
    rows = [{image.tobytes() for image in part} for part in parts]
    assert len(rows[0] | rows[1] | rows[2]) == 1797 and sum(map(len, rows)) == 1797
    for split in (data.validation, data.test):
        counts = torch.bincount(torch.cat([b.targets for b in split.batches(64)]), minlength=10)
        assert counts.min() >= 17 and counts.max() <= 19
    assert np.array_equal(parts[0], pixels_of(digits(seed=0).train, data))
    assert not np.array_equal(parts[0], pixels_of(digits(seed=1).train, data))
    assert len({digits(seed=0).digest, digits(seed=1).digest, digits(channels=3).digest}) == 3
    assert digits(seed=0).digest == data.digest


def test_a_split_feeds_scikit_learn() -> None:
    data = digits()
    (train,), (validation,) = data.train.batches(5000), data.validation.batches(5000)
    model = LogisticRegression(max_iter=200).fit(train.inputs[0].flatten(1).numpy(), train.targets.numpy())
    assert model.score(validation.inputs[0].flatten(1).numpy(), validation.targets.numpy()) > 0.9


def test_batches_keep_their_order_and_limit() -> None:
    split = digits().validation
    sizes = [len(batch.targets) for batch in split.batches(50)]
    assert sizes == [50, 50, 50, 30]
    assert same(split.batches(50), split.batches(50))
    assert [len(batch.targets) for batch in split.batches(50, limit=70)] == [50, 20]
    assert len(next(split.batches(50)).targets.unique()) > 7, "batches mix classes"


def test_memory_streams_partition_and_resume() -> None:
    split = digits().validation
    check_order(split, take(split.stream(8, seed=3), 25))
    assert same(take(split.stream(8, seed=3), 60)[57:], take(split.stream(8, seed=3, start=57), 3))
    epoch = torch.cat([batch.inputs[0] for batch in take(split.stream(60, seed=0), 3)])
    assert len(torch.unique(epoch, dim=0)) == len(split), "an epoch holds every example once"
    assert not same(take(split.stream(60, seed=0), 3), take(split.stream(60, seed=1), 3))
    assert len(next(split.stream(400, seed=0)).targets) == 400, "a batch may be larger than an epoch"


def test_a_split_travels() -> None:
    split = digits().validation
    copy = pickle.loads(pickle.dumps(split))
    assert same(take(split.stream(32, seed=0), 3), take(copy.stream(32, seed=0), 3))
    assert len(pickle.dumps(split)) < 1.2 * len(split) * 72, "uint8 pixels, not floats"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda s: s.stream(9, seed=0, world=2), "multiple of the 2 workers, but got 9"),
        (lambda s: s.stream(0, seed=0), "multiple of the 1 workers, but got 0"),
        (lambda s: s.stream(8, seed=0, rank=2, world=2), "rank must be in 0..world-1, but got rank 2"),
        (lambda s: s.stream(8, seed=0, start=-1), "start must be at least 0, but got -1"),
        (lambda s: s.batches(0), "batch size must be at least 1, but got 0"),
        (lambda s: s.batches(8, limit=0), "limit must be at least 1 example, but got 0"),
    ],
)
def test_wrong_sizes_are_refused_at_the_call(call: Callable[[Split], object], text: str) -> None:
    with pytest.raises(DataError, match=text):
        call(digits().validation)


# --- load


@pytest.mark.parametrize(
    ("spec", "options", "text"),
    [
        (
            "foo",
            {},
            "data must be one of (digits, flights, flights_by_time) or idx:PATH, images:PATH, parquet:ADDRESS, but got 'foo'",
        ),
        ("load", {}, "but got 'load'"),
        ("idx:", {}, "but got 'idx:'"),
        ("idx:/no/where", {}, "idx:PATH must be a folder of idx files, but got '/no/where'"),
        ("images:/no/where", {}, "images:PATH must be a folder of class folders, but got '/no/where'"),
        ("parquet:/no/where", {}, "parquet:ADDRESS must be a file or folder, but got '/no/where'"),
        (
            "parquet:what://no/where",
            {},
            "parquet:ADDRESS must be a file or folder, but got 'what://no/where'",
        ),
        ("digits", {"channels": 2}, "channels must be 1 (grey) or 3 (RGB), but got 2"),
        ("digits", {"image_size": 0}, "image_size must be at least 1 pixel, but got 0"),
    ],
)
def test_unknown_data_is_one_clear_line(spec: str, options: dict[str, int], text: str) -> None:
    with pytest.raises(DataError) as caught:
        load(spec, **options)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_named_sets_are_attributes_of_the_package() -> None:
    assert data_module.digits is digits and callable(data_module.augment)


# --- idx


def idx(array: np.ndarray[Any, Any]) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def write_idx(
    folder: Path, part: str, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], suffix: str = ""
) -> None:
    for name, array in (
        (f"{part}-images-idx{images.ndim}-ubyte", images),
        (f"{part}-labels-idx1-ubyte", labels),
    ):
        content = idx(array)
        (folder / (name + suffix)).write_bytes(gzip.compress(content) if suffix else content)


GREY = RNG.integers(0, 256, (60, 5, 4), dtype=np.uint8)
LABELS = np.arange(60) % 3


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_gzip_or_plain(tmp_path: Path, suffix: str) -> None:
    write_idx(tmp_path, "train", GREY, LABELS, suffix)
    data = load(f"idx:{tmp_path}")
    assert [len(data.train), len(data.validation), len(data.test)] == [48, 6, 6]
    assert (images_of(data).classes, images_of(data).channels) == (3, 1)
    images = np.concatenate([pixels_of(split, data) for split in (data.train, data.validation, data.test)])
    assert {image.tobytes() for image in images} == {image.tobytes() for image in GREY}
    write_idx(tmp_path, "t10k", GREY[:7] // 2, LABELS[:7], suffix)
    given = load(f"idx:{tmp_path}")
    assert [len(given.train), len(given.validation), len(given.test)] == [54, 6, 7]
    assert {i.tobytes() for i in pixels_of(given.test, given)} == {i.tobytes() for i in GREY[:7] // 2}
    assert given.digest != data.digest


def test_idx_colour_and_grey_become_each_other(tmp_path: Path) -> None:
    colour = RNG.integers(0, 256, (20, 5, 4, 3), dtype=np.uint8)
    write_idx(tmp_path, "train", colour, LABELS[:20])
    data = load(f"idx:{tmp_path}")
    assert images_of(data).channels == 3 == len(images_of(data).mean) and pixels_of(data.train, data).shape[
        1:
    ] == (3, 5, 4)
    grey = load(f"idx:{tmp_path}", channels=1)
    expected = {np.asarray(Image.fromarray(image).convert("L")).tobytes() for image in colour}
    images = np.concatenate([pixels_of(split, grey) for split in (grey.train, grey.validation, grey.test)])
    assert {image.tobytes() for image in images} == expected, "grey as Pillow makes it"
    threefold = digits(channels=3)
    assert (
        images_of(threefold).channels == 3 and np.ptp(pixels_of(threefold.test, threefold), axis=1).max() == 0
    )


def test_idx_stays_native_unless_larger_than_image_size(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", GREY, LABELS)
    assert next(load(f"idx:{tmp_path}", image_size=32).train.batches(2)).inputs[0].shape == (2, 1, 5, 4)
    assert next(load(f"idx:{tmp_path}", image_size=3).train.batches(2)).inputs[0].shape == (2, 1, 3, 3)


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        (
            "train-images-idx3-ubyte",
            b"\0\0\x08\x01" + bytes(100),
            "magic number must be 0x00000803 or 0x00000804",
        ),
        ("train-images-idx3-ubyte", b"", "magic number"),
        ("train-images-idx3-ubyte", idx(GREY)[:-1], "must give 1216 bytes, but .* has 1215"),
        ("train-images-idx3-ubyte", idx(GREY) + b"x", "must give 1216 bytes, but .* has 1217"),
        ("train-images-idx3-ubyte", idx(GREY)[:9], "idx sizes .* but .* has 9"),
        ("train-images-idx3-ubyte", idx(GREY[:59]), "one label an image, but .* 59 images .* 60 labels"),
        ("train-images-idx3-ubyte", idx(GREY[:, :0]), "at least one pixel"),
        ("train-images-idx3-ubyte", idx(GREY.reshape(60, 2, 5, 2)), "1 or 3 channels, last, but .* has 2"),
        ("train-labels-idx1-ubyte", idx(GREY), "magic number must be 0x00000801"),
        ("train-labels-idx1-ubyte", None, "must hold train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(GREY))[:-20], "must be whole, but .*ubyte.gz"),
        ("train-images-idx3-ubyte.gz", b"not gzip", "must be whole, but .*ubyte.gz"),
        ("t10k-images-idx3-ubyte", idx(GREY), "must hold t10k-labels"),
    ],
)
def test_damaged_idx_names_the_file(tmp_path: Path, file: str, content: bytes | None, text: str) -> None:
    write_idx(tmp_path, "train", GREY, LABELS)
    if file.endswith(".gz"):
        (tmp_path / file.removesuffix(".gz")).unlink()
    (tmp_path / file).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=text) as caught:
        load(f"idx:{tmp_path}")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_too_few_examples_for_three_splits(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", GREY[:3], LABELS[:3])
    with pytest.raises(DataError, match="validation is empty .3 examples in all"):
        load(f"idx:{tmp_path}")


# --- image folders


def write_images(
    root: Path, count: int, size: tuple[int, int] = (6, 6), classes: str = "ab", mode: str = "RGB"
) -> None:
    for kind in classes:
        (root / kind).mkdir(parents=True)
        for number in range(count):
            shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
            pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / kind / f"{number:03}.png")


def test_image_folder_is_read_split_and_labelled(tmp_path: Path) -> None:
    write_images(tmp_path, 30)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    data = load(f"images:{tmp_path}")
    assert [len(data.train), len(data.validation), len(data.test)] == [48, 6, 6]
    assert (images_of(data).classes, images_of(data).channels) == (2, 3)
    (validation,) = data.validation.batches(100)
    assert torch.bincount(validation.targets).tolist() == [3, 3]
    of_b = {np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes() for path in (tmp_path / "b").iterdir()}
    for image, label in zip(pixels_of(data.validation, data), validation.targets, strict=True):
        assert (image.tobytes() in of_b) == bool(label)
    assert load(f"images:{tmp_path}").digest == data.digest
    assert load(f"images:{tmp_path}", seed=1).digest != data.digest
    assert load(f"images:{tmp_path}", channels=1).digest != data.digest
    Image.new("RGB", (6, 6)).save(tmp_path / "a" / "000.png")
    assert load(f"images:{tmp_path}").digest != data.digest


def test_given_image_splits_are_kept(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 10)
    write_images(tmp_path / "val", 2)
    write_images(tmp_path / "test", 1, classes="b")
    data = load(f"images:{tmp_path}")
    assert [len(data.train), len(data.validation), len(data.test)] == [20, 4, 1]
    assert next(data.test.batches(9)).targets.tolist() == [1]
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    data = load(f"images:{tmp_path}")
    assert [len(data.train), len(data.validation), len(data.test)] == [18, 2, 1]


def test_grey_images_stay_grey_and_sizes_are_brought_together(tmp_path: Path) -> None:
    write_images(tmp_path, 10, mode="L")
    assert images_of(load(f"images:{tmp_path}")).channels == 1
    assert images_of(load(f"images:{tmp_path}", channels=3)).channels == 3
    Image.new("L", (30, 20)).save(tmp_path / "a" / "wide.png")
    assert next(load(f"images:{tmp_path}").train.batches(2)).inputs[0].shape == (2, 1, 6, 6), (
        "the median side"
    )
    assert next(load(f"images:{tmp_path}", image_size=9).train.batches(2)).inputs[0].shape == (2, 1, 9, 9)


def test_other_sizes_cover_the_square_and_are_cut_to_the_centre(tmp_path: Path) -> None:
    write_images(tmp_path, 10, size=(4, 4))
    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, 4:12] = 200
    for number in range(30):
        Image.fromarray(wide).save(tmp_path / "b" / f"wide{number}.png")
    data = load(f"images:{tmp_path}", image_size=4)
    images = pixels_of(data.train, data)
    assert sum(bool((image[:, :, 1:3] == 200).all() and image.min() > 150) for image in images) > 10


def test_jpegs_and_transparency_are_read(tmp_path: Path) -> None:
    for kind in "ab":
        (tmp_path / kind).mkdir()
        for number in range(10):
            Image.new("RGB", (64, 48), (200, 10, 10)).save(tmp_path / kind / f"{number}.JPG")
    Image.new("RGBA", (64, 48), (200, 10, 10, 128)).save(tmp_path / "a" / "clear.png")
    data = load(f"images:{tmp_path}", image_size=16)
    assert pixels_of(data.train, data).shape[1:] == (3, 16, 16)
    assert abs(pixels_of(data.train, data).astype(int) - np.array([200, 10, 10]).reshape(3, 1, 1)).max() < 5


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_images_stand_as_every_viewer_shows_them(tmp_path: Path, kind: str) -> None:
    # How an image is stored for each orientation that EXIF knows, by the operation that turns it back.
    turned = {
        1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4,
    }  # fmt: skip
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(16):
            pixels = np.zeros((64, 32, 3), np.uint8)
            pixels[:32, :, 0], pixels[:, :16, 1] = 255, 255
            image, exif = Image.fromarray(pixels), Image.Exif()
            orientation = 1 + number % 8
            exif[274] = orientation
            if (operation := turned[orientation]) is not None:
                image = image.transpose(Image.Transpose(operation))
            options = {"lossless": True} if kind == "webp" else {}
            image.save(tmp_path / label / f"{number}.{kind}", exif=exif, **options)
    data = load(f"images:{tmp_path}")
    images = pixels_of(data.train, data)
    assert images.shape[1:] == (3, 64, 32) and len(images) == 26
    assert all(image[0, :30].min() > 200 and image[0, 34:].max() < 50 for image in images)
    assert all(image[1, :, :14].min() > 200 and image[1, :, 18:].max() < 50 for image in images)


def bad_header(root: Path) -> Path:
    (root / "a" / "005.png").write_bytes(b"not a picture")
    return root / "a" / "005.png"


def cut_short(root: Path) -> Path:
    path = root / "a" / "005.png"
    path.write_bytes(path.read_bytes()[:80])
    return path


def sixteen_bits(root: Path) -> Path:
    Image.fromarray(np.zeros((6, 6), dtype=np.uint16)).save(root / "a" / "005.png")
    return root / "a" / "005.png"


def empty_class(root: Path) -> Path:
    (root / "c").mkdir()
    return root / "c"


def unknown_class(root: Path) -> Path:
    for kind in "ab":
        (root / "train").mkdir(exist_ok=True)
        (root / kind).rename(root / "train" / kind)
    write_images(root / "test", 1, classes="z")
    return root / "test"


def no_classes(root: Path) -> Path:
    (root / "train").mkdir()
    return root / "train"


@pytest.mark.parametrize(
    ("damage", "text", "memory"),
    [
        (bad_header, "images must be readable", 2**30),
        (bad_header, "images must be readable", 10),
        (cut_short, "images must be readable", 2**30),
        (sixteen_bits, "images must have 8 bits a channel", 2**30),
        (empty_class, "each class must have images", 2**30),
        (unknown_class, "classes must be among those of train, but .* has 'z'", 2**30),
        (no_classes, "one folder a class", 2**30),
    ],
)
def test_damaged_image_folder_names_the_file(
    tmp_path: Path, damage: Callable[[Path], Path], text: str, memory: int
) -> None:
    write_images(tmp_path, 10)
    named = damage(tmp_path)
    with pytest.raises(DataError, match=text) as caught:
        load(f"images:{tmp_path}", memory=memory)
    assert str(named) in str(caught.value) and "\n" not in str(caught.value)


# --- Parquet

SQUARES = [RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8) for _ in range(60)]


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def encoded(count: int = 60, first: int = 0, **columns: Any) -> pa.Table:
    rows = range(first, first + count)
    defaults = {"image": [png(SQUARES[row]) for row in rows], "label": [row % 3 for row in rows]}
    return pa.table({**defaults, **columns})


def all_images(data: Data) -> set[bytes]:
    splits = (data.train, data.validation, data.test)
    return {image.tobytes() for split in splits for image in pixels_of(split, data)}


def fixed_tensor() -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(SQUARES))


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("image", lambda: pa.array([png(image) for image in SQUARES])),
        ("img", lambda: pa.array([{"bytes": png(image), "path": "x.png"} for image in SQUARES])),
        ("image", lambda: pa.array([image.tolist() for image in SQUARES])),
        ("pixels", fixed_tensor),
        (
            "image",
            lambda: pa.FixedSizeListArray.from_arrays(
                pa.FixedSizeListArray.from_arrays(
                    pa.FixedSizeListArray.from_arrays(pa.array(np.stack(SQUARES).ravel()), 3), 6
                ),
                6,
            ),
        ),
    ],
    ids=["bytes", "struct", "lists", "tensor", "fixed"],
)
def test_parquet_images_in_every_spelling(tmp_path: Path, name: str, column: Callable[[], pa.Array]) -> None:
    table = pa.table({name: column(), "fine_label": pa.array(LABELS, pa.int16()), "other": ["x"] * 60})
    pq.write_table(table, tmp_path / "all.parquet", row_group_size=16)
    data = load(f"parquet:{tmp_path}")
    assert [len(data.train), len(data.validation), len(data.test)] == [48, 6, 6]
    assert (images_of(data).classes, images_of(data).channels) == (3, 3)
    assert all_images(data) == {image.transpose(2, 0, 1).tobytes() for image in SQUARES}
    assert load(f"parquet:{tmp_path / 'all.parquet'}").digest == data.digest
    assert images_of(load(f"parquet:file://{tmp_path}", channels=1)).channels == 1


def test_parquet_grey_arrays(tmp_path: Path) -> None:
    table = pa.table({"image": [image[..., 0].tolist() for image in SQUARES], "label": LABELS})
    pq.write_table(table, tmp_path / "all.parquet")
    data = load(f"parquet:{tmp_path}")
    assert images_of(data).channels == 1 and all_images(data) == {
        image[..., 0].tobytes() for image in SQUARES
    }


def test_parquet_splits_by_file_name(tmp_path: Path) -> None:
    pq.write_table(encoded(40), tmp_path / "train-00000-of-00001.parquet")
    pq.write_table(encoded(12, 40), tmp_path / "validation-00000-of-00001.parquet")
    data = load(f"parquet:{tmp_path}")
    assert [len(data.train), len(data.validation), len(data.test)] == [36, 12, 4]
    pq.write_table(encoded(8, 52), tmp_path / "test.parquet")
    data = load(f"parquet:{tmp_path}")
    assert [len(data.train), len(data.validation), len(data.test)] == [40, 12, 8]
    held = {image.transpose(2, 0, 1).tobytes() for image in SQUARES[52:]}
    assert {image.tobytes() for image in pixels_of(data.test, data)} == held
    pq.write_table(encoded(8), tmp_path / "extra.parquet")
    with pytest.raises(DataError, match="all files or none must be named for a split .*extra.parquet"):
        load(f"parquet:{tmp_path}")


def test_parquet_splits_by_column(tmp_path: Path) -> None:
    names = ["train"] * 40 + ["val"] * 12 + ["test"] * 8
    pq.write_table(encoded(split=names), tmp_path / "all.parquet", row_group_size=7)
    data = load(f"parquet:{tmp_path}")
    assert [len(data.train), len(data.validation), len(data.test)] == [40, 12, 8]
    pq.write_table(encoded(split=["train"] * 59 + ["dev"]), tmp_path / "all.parquet")
    with pytest.raises(DataError, match="split must be one of .* but .* 'dev'"):
        load(f"parquet:{tmp_path}")
    pq.write_table(encoded(split=["test"] * 60), tmp_path / "all.parquet")
    with pytest.raises(DataError, match=r"rows of the train split, but .* \['test'\]"):
        load(f"parquet:{tmp_path}")


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (lambda: encoded(label=[-1] + [0] * 59), "labels must be at least 0, but row 0 of .* has -1"),
        (lambda: encoded(label=[None] + [0] * 59), "every row must have a label, but .* has 1 without"),
        (lambda: encoded(label=[0.5] * 60), "'label' must hold integers, but .* has double"),
        (lambda: encoded(label=["cat"] * 60), "'label' must hold integers, but .* has string"),
        (lambda: encoded(image=[None] * 60), "image"),
        (
            lambda: encoded(image=["x.png"] * 60),
            "encoded bytes or arrays of whole numbers, but .* has string",
        ),
        (lambda: encoded(image=[b"junk"] * 60), "images must be readable, but row 0 of .*all.parquet is not"),
        (
            lambda: encoded(image=[png(SQUARES[0])] * 41 + [png(SQUARES[0])[:80]] * 19),
            "images must be readable, but row 41 of .*all.parquet is not",
        ),
        (lambda: encoded(image=[[[0.5]]] * 60), "arrays of whole numbers, but .* has double"),
        (lambda: encoded(image=[[[300]]] * 60), "pixels must be in 0..255, but .* has 300..300"),
        (lambda: encoded(image=[[1, 2]] * 60), "arrays of pixels must be .* but .* has \\(2,"),
        (lambda: encoded(image=[[[1], [2]]] * 59 + [[[1]]]), "arrays of pixels must have one shape"),
        (lambda: encoded(image=[{"path": "x"}] * 60), "structs must have a field bytes"),
        (
            lambda: encoded().rename_columns(["photo", "label"]),
            "image column must be one of .* has .photo, label.",
        ),
        (
            lambda: encoded().rename_columns(["image", "kind"]),
            "label column must be one of .* has .image, kind.",
        ),
        (lambda: encoded().slice(0, 0), "must hold rows"),
        (lambda: encoded(3), "validation is empty .3 examples in all"),
    ],
)
def test_damaged_parquet_says_where(tmp_path: Path, table: Callable[[], pa.Table], text: str) -> None:
    pq.write_table(table(), tmp_path / "all.parquet")
    with pytest.raises(DataError, match=text) as caught:
        load(f"parquet:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_files_that_are_not_parquet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold .parquet files, but .* holds none"):
        load(f"parquet:{tmp_path}")
    (tmp_path / "all.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="Parquet files must be readable, but .*all.parquet is not"):
        load(f"parquet:{tmp_path}")
    content = io.BytesIO()
    pq.write_table(encoded(), content)
    damaged = bytearray(content.getvalue())
    damaged[4:2000] = bytes(1996)
    (tmp_path / "all.parquet").write_bytes(damaged)
    with pytest.raises(DataError, match="all.parquet"):
        load(f"parquet:{tmp_path}")


def test_parquet_files_must_agree(tmp_path: Path) -> None:
    pq.write_table(encoded(30), tmp_path / "one.parquet")
    pq.write_table(encoded(30, 30).rename_columns(["img", "label"]), tmp_path / "two.parquet")
    with pytest.raises(DataError, match="columns of .*one.parquet, but .*two.parquet"):
        load(f"parquet:{tmp_path}")


# --- streams through Ray Data


def test_a_streamed_folder_gives_the_batches_of_one_in_memory(tmp_path: Path, ray_cluster: None) -> None:
    write_images(tmp_path, 30)
    Image.new("RGB", (20, 10)).save(tmp_path / "a" / "wide.png")
    held, streamed = load(f"images:{tmp_path}"), load(f"images:{tmp_path}", memory=1000)
    assert type(held.train) is not type(streamed.train)
    assert held.features == streamed.features
    assert same(held.validation.batches(4), streamed.validation.batches(4))
    assert [len(batch.targets) for batch in streamed.train.batches(8, limit=20)] == [8, 8, 4]
    check_order(streamed.train, take(held.train.stream(8, seed=3), 8))
    for ours, theirs in zip(
        streamed.train.divided(0.3, seed=1), held.train.divided(0.3, seed=1), strict=True
    ):
        assert 0 < len(ours) == len(theirs) < len(held.train)
        assert same(ours.batches(4), theirs.batches(4))


def test_streamed_parquet_keeps_the_contract(tmp_path: Path, ray_cluster: None) -> None:
    for part in range(3):
        pq.write_table(encoded(20, 20 * part), tmp_path / f"part{part}.parquet", row_group_size=7)
    held, streamed = load(f"parquet:{tmp_path}"), load(f"parquet:{tmp_path}", memory=1000)
    assert type(held.train) is not type(streamed.train)
    for name in ("train", "validation", "test"):
        ours, theirs = (pixels_of(getattr(data, name), data) for data in (held, streamed))
        assert sorted(image.tobytes() for image in ours) == sorted(image.tobytes() for image in theirs)
    whole = take(streamed.train.stream(8, seed=3), 8)
    epoch = torch.cat([batch.inputs[0] for batch in whole[:6]])
    assert len(torch.unique(epoch, dim=0)) == 48, "an epoch holds every example once"
    check_order(streamed.train, whole)


def test_streamed_digests_follow_content_and_seed(tmp_path: Path) -> None:
    write_images(tmp_path / "folder", 10)
    pq.write_table(encoded(), tmp_path / "all.parquet")
    for spec in (f"images:{tmp_path / 'folder'}", f"parquet:{tmp_path / 'all.parquet'}"):
        found = [load(spec, memory=100, **o).digest for o in ({}, {"seed": 1}, {"channels": 1})]
        assert len(set(found)) == 3 and load(spec, memory=100).digest == found[0]
    before = load(f"images:{tmp_path / 'folder'}", memory=100).digest
    write_images(tmp_path / "folder", 10, classes="c")
    assert load(f"images:{tmp_path / 'folder'}", memory=100).digest != before


def test_workers_that_hold_every_cpu_still_get_data(tmp_path: Path, ray_cluster: None) -> None:
    import ray

    write_images(tmp_path, 30)
    split = load(f"images:{tmp_path}", memory=1000).train

    @ray.remote(num_cpus=2)
    class Worker:
        def labels(self, split: Split, rank: int) -> list[list[int]]:
            return [b.targets.tolist() for b in take(split.stream(8, seed=0, rank=rank, world=2), 9)]

    workers = [Worker.remote() for _ in range(2)]  # type: ignore[attr-defined]
    parts = ray.get([worker.labels.remote(split, rank) for rank, worker in enumerate(workers)], timeout=120)
    for worker in workers:
        ray.kill(worker)
    held = load(f"images:{tmp_path}").train
    whole = [batch.targets.tolist() for batch in take(held.stream(8, seed=0), 9)]
    assert [left + right for left, right in zip(*parts, strict=True)] == whole


def test_an_image_damaged_after_loading_is_named(tmp_path: Path, ray_cluster: None) -> None:
    write_images(tmp_path, 10)
    split = load(f"images:{tmp_path}", memory=100).train
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(DataError, match="images must be readable, but .*/a/00..png is not") as caught:
        take(split.stream(4, seed=0), 8)
    assert "\n" not in str(caught.value)


# --- augmentation


def images_batch(count: int = 16, side: int = 16) -> Batch:
    return Batch((torch.rand(count, 3, side, side),), torch.arange(count))


def test_none_and_unknown_kinds() -> None:
    batch = images_batch()
    assert augment(batch, "none", seed=0, step=0) is batch
    with pytest.raises(
        DataError, match=r"augment must be one of \(none, shift, shift\+flip\), but got 'crop'"
    ):
        augment(batch, "crop", seed=0, step=0)


@pytest.mark.parametrize("kind", ["shift", "shift+flip"])
def test_workers_draw_what_one_would(kind: str) -> None:
    batch = images_batch()
    whole = augment(batch, kind, seed=1, step=7)
    halves = [
        augment(
            Batch((batch.inputs[0][8 * rank : 8 * rank + 8],), batch.targets[8 * rank : 8 * rank + 8]),
            kind,
            seed=1,
            step=7,
            rank=rank,
            world=2,
        )
        for rank in (0, 1)
    ]
    assert torch.equal(whole.inputs[0], torch.cat([half.inputs[0] for half in halves]))
    assert torch.equal(whole.targets, batch.targets)
    assert not torch.equal(whole.inputs[0], augment(batch, kind, seed=1, step=8).inputs[0])
    assert not torch.equal(whole.inputs[0], augment(batch, kind, seed=2, step=7).inputs[0])


def test_every_image_is_a_shift_within_reach() -> None:
    batch = images_batch(count=200)
    shifted = augment(batch, "shift+flip", seed=0, step=0).inputs[0]
    padded = torch.nn.functional.pad(batch.inputs[0], (2, 2, 2, 2), mode="reflect")
    flips, found = 0, set()
    for before, after in zip(padded, shifted, strict=True):
        matches = [
            (y, x, flip)
            for y in range(5)
            for x in range(5)
            for flip in (False, True)
            if torch.equal(after.flip(2) if flip else after, before[:, y : y + 16, x : x + 16])
        ]
        assert len(matches) == 1
        found.add(matches[0][:2])
        flips += matches[0][2]
    assert len(found) == 25 and 60 < flips < 140


@pytest.mark.parametrize("side", [1, 2, 8])
def test_small_sides_and_inputs_that_are_no_images(side: int) -> None:
    batch = Batch((torch.rand(8, 1, side, side), torch.rand(8, 5)), torch.arange(8))
    moved = augment(batch, "shift", seed=0, step=0)
    assert torch.equal(moved.inputs[1], batch.inputs[1])
    assert torch.equal(moved.inputs[0], batch.inputs[0]) == (side == 1)


OWN_IMAGES = np.random.default_rng(0).integers(0, 256, (100, 3, 4, 4), dtype=np.uint8)
OWN_LABELS = np.arange(100) % 5


def test_arrays_of_ones_own_keep_the_contract_of_a_data_set() -> None:
    made = from_arrays("own", OWN_IMAGES, OWN_LABELS)
    assert check_data(made) == []
    assert [len(one) for one in (made.train, made.validation, made.test)] == [80, 10, 10]
    assert made.features.classes == 5  # type: ignore[union-attr]
    assert (
        made.digest
        == from_arrays("own", OWN_IMAGES, OWN_LABELS).digest
        != from_arrays("own", OWN_IMAGES, OWN_LABELS, seed=1).digest
    )


def test_arrays_may_say_the_part_of_each_image() -> None:
    parts = ["test"] * 30 + ["train"] * 70
    made = from_arrays("own", OWN_IMAGES, OWN_LABELS, parts=parts)
    assert [len(one) for one in (made.train, made.validation, made.test)] == [63, 7, 30]
    # In grey levels again, as the rows of the test split are shuffled.
    batch = next(made.test.batches(30))
    std = torch.tensor(made.features.std).reshape(3, 1, 1)  # type: ignore[union-attr]
    mean = torch.tensor(made.features.mean).reshape(3, 1, 1)  # type: ignore[union-attr]
    levels = (255 * (batch.inputs[0] * std + mean)).round().to(torch.uint8).numpy()
    assert sorted(map(bytes, levels)) == sorted(map(bytes, OWN_IMAGES[:30]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": OWN_IMAGES / 255}, "images must be uint8 of shape .*, but got float64 of shape"),
        ({"images": OWN_IMAGES[:, :2]}, r"but got uint8 of shape \(100, 2, 4, 4\)"),
        ({"images": OWN_IMAGES.transpose(0, 2, 3, 1)}, r"but got uint8 of shape \(100, 4, 4, 3\)"),
        ({"labels": OWN_LABELS[1:]}, r"one for each of 100 images, but got int64 of shape \(99,\)"),
        ({"labels": OWN_LABELS / 2}, "labels must be whole numbers from 0, .* but got float64"),
        ({"labels": OWN_LABELS - 1}, "but got int64 of shape .* from -1"),
        ({"parts": ["train"] * 99}, "for each of 100 images, but got 99"),
        ({"parts": ["train"] * 99 + ["valid"]}, "must be one of train, validation, test .* but got 'valid'"),
        ({"parts": ["test"] * 100}, "each split must hold at least one example, but train is empty"),
        ({"images": OWN_IMAGES[:0], "labels": OWN_LABELS[:0]}, "each split must hold at least one example"),
    ],
)
def test_arrays_that_are_no_data_set_are_one_clear_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        from_arrays("own", **({"images": OWN_IMAGES, "labels": OWN_LABELS} | changes))
    assert "\n" not in str(caught.value)
