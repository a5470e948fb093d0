"""A disk without room: one clear line, and nothing that was finished is lost."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import manynet as mn
from manynet.errors import ManynetError
from manynet.storage import StorageError, write_bytes
from manynet.training import checkpoints as checkpoint

FAST: dict[str, Any] = {"batch_size": 16, "augment": "none", "learning_rate": 3e-3}
TRAIN = {**FAST, "strategy": "trainers.single_path:SinglePath", "steps": 6, "evaluate_every": 3}
SEARCH = {"objectives": ["accuracy:max", "macs:min"], "evaluations": 16, "evaluators": 2}


class Disk:
    """A file system of 24 MiB."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / "filler"

    def fill(self, left: int) -> None:
        """Leave so many bytes."""
        free = os.statvfs(self.folder)
        with open(self._filler, "wb", buffering=0) as file:
            file.write(bytes(free.f_bavail * free.f_frsize - left))

    def make_room(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("only who may mount can have a small disk")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_what_does_not_fit_leaves_nothing_and_is_one_line(disk: Disk) -> None:
    disk.fill(left=100_000)
    with pytest.raises(StorageError, match=r"^/.*/a must have room, but its disk is full: .*$"):
        write_bytes(disk.folder / "a", bytes(200_000))
    assert [path.name for path in disk.folder.iterdir()] == ["filler"]
    with pytest.raises(StorageError, match=r"^/.*/state.pt must have room, but its disk is full: .*$"):
        checkpoint.save(f"{disk.folder}/run/x-step-1", {"weights": torch.zeros(100_000)}, {})
    assert checkpoint.find(str(disk.folder)) == []


def test_a_file_that_may_not_grow_is_one_line(tmp_path: Path) -> None:
    script = f"""
import resource
from manynet.storage import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes({str(tmp_path / "a")!r}, bytes(10_000))
except Exception as error:
    print(type(error).__name__, error)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = ran.stdout.splitlines()
    assert line.startswith("StorageError") and "must be a file that can be written" in line
    assert list(tmp_path.iterdir()) == []


def test_a_search_ends_at_once_and_goes_on_when_there_is_room(ray_cluster: None, disk: Disk) -> None:
    study = mn.Study(disk.folder / "run", "search_spaces.vit:tiny")
    study.train(**TRAIN)

    def fill_after_the_first() -> None:
        # Not by bytes that are left: Tune's own files take them where evaluators are slow.
        while not list((disk.folder / "run" / "ledger").glob("*.parquet")):
            time.sleep(0.02)
        with suppress(OSError):
            disk.fill(left=2_000)

    filling = threading.Thread(target=fill_after_the_first, daemon=True)
    filling.start()
    with pytest.raises(ManynetError, match=r"^.*must have room, but its disk is full: .*$") as raised:
        study.search(**SEARCH)
    filling.join()
    # What each evaluator had at hand, not one failure a candidate.
    assert "but 1 failed" in str(raised.value) or "but 2 failed" in str(raised.value)
    before = study.ledger.read()
    assert 0 < len(before) < 16
    disk.make_room()
    study.search(**SEARCH)
    after = {record.key: record for record in study.ledger.read()}
    assert len(after) == 16 and all(after[record.key] == record for record in before)
    disk.fill(left=1000)
    with pytest.raises(StorageError, match=r"^/.*/report.html must have room, but its disk is full: .*$"):
        study.report()


def test_training_ends_in_one_line_and_goes_on_when_there_is_room(ray_cluster: None, disk: Disk) -> None:
    study = mn.Study(disk.folder / "run", "search_spaces.vit:tiny")
    settings = TRAIN | {"checkpoint_every": 1}
    disk.fill(left=8_000_000)
    # A checkpoint, or what Ray Train keeps beside them: whichever finds no room first.
    with pytest.raises(StorageError, match=r"^/.* must have room, but its disk is full: .*$"):
        study.train(**settings)
    disk.make_room()
    study.train(**settings)
    assert study.supernet() is not None
