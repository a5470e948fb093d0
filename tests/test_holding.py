"""One process at a time goes on with a study, wherever its folder is; a holder that died frees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from manynet.studies import holding
from manynet.studies.holding import HOLDER, Holder, exclusive, held
from manynet.studies.on_record import StudyError
from manynet.studies.study import Study

HOLD = """
import sys
from manynet.studies.holding import held

with held(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other(folder: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a study."""
    command = [sys.executable, "-c", HOLD, folder]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def folder(place: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(holding, "SECONDS_BETWEEN", 0.3)
    return place


def test_the_second_process_is_told_who_holds_the_study(folder: str) -> None:
    with other(folder) as process:
        with (
            pytest.raises(StudyError, match=rf"must be free, but process {process.pid} on .*, since .*UTC"),
            held(folder),
        ):
            pytest.fail("two hold it")
        process.send_signal(signal.SIGKILL)
        process.wait()
        with held(folder):
            pass


def test_who_ends_frees_it(folder: str) -> None:
    with other(folder) as process:
        process.communicate("")
        with held(folder):
            pass
    with pytest.raises(RuntimeError, match="mine"), held(folder):
        raise RuntimeError("mine")
    with held(folder), held(folder):
        pass


def test_a_step_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    study = Study(tmp_path / "run", "search_spaces.vit:tiny")
    with other(study.folder) as process:
        with pytest.raises(StudyError, match=f"process {process.pid} on"):
            study.train(steps=1, workers=0)
        assert {path.name for path in (tmp_path / "run").iterdir()} == {HOLDER, holding.LOCK}
        process.communicate("")
    assert not (tmp_path / "run").exists(), "nothing was done there"


def test_a_method_holds_what_it_works_on(tmp_path: Path) -> None:
    class Work:
        folder = str(tmp_path / "study")

        @exclusive
        def done(self, count: int) -> int:
            assert json.loads((tmp_path / "study" / HOLDER).read_text())["process"] == os.getpid()
            return 0 if not count else 1 + self.done(count - 1)

    assert Work().done(2) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"process": 1}'])
def test_a_damaged_holder_holds_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / HOLDER).write_bytes(content)
    with held(str(tmp_path)):
        assert json.loads((tmp_path / HOLDER).read_text())["process"] == os.getpid()


class Elsewhere:
    """A holder on another machine, for a folder without locks: seen in its file only."""

    def __init__(self, folder: str, beats: bool) -> None:
        self.holder, self.beats = Holder.this().model_copy(update={"place": "elsewhere"}), beats
        holding._claim(folder, self.holder)

    def seen(self, folder: str) -> Holder:
        if self.beats:
            self.holder = self.holder.model_copy(update={"beats": self.holder.beats + 1})
        return self.holder


@pytest.mark.parametrize("beats", [True, False])
def test_a_holder_on_another_machine_lives_while_it_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beats: bool
) -> None:
    monkeypatch.setattr(holding, "SECONDS_BETWEEN", 0.03)
    monkeypatch.setattr(holding, "SECONDS_SILENT", 0.3)
    elsewhere = Elsewhere(str(tmp_path), beats)
    monkeypatch.setattr(holding, "_holder", elsewhere.seen)
    assert holding._lives(str(tmp_path), elsewhere.holder) == beats


def test_of_two_that_claim_at_once_one_has_it(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "SECONDS_BETWEEN", 0.3)
    folder = f"s3://studies/raced{s3.options}"
    claim = holding._claim

    def outrun(address: str, holder: Holder) -> None:
        claim(address, holder)
        claim(address, Holder.this())

    monkeypatch.setattr(holding, "_claim", outrun)
    with pytest.raises(StudyError, match="must be free"), held(folder):
        pytest.fail("two hold it")
