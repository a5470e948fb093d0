"""`manynet examples`: what comes with Manynet, listed and copied."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from manynet.cli import app
from manynet.cli.examples import ExampleError, about, available, copy, matching

ROOT = Path(__file__).parent.parent


def test_all_examples_and_cluster_files_are_listed_with_a_sentence() -> None:
    files = [file for folder in ("examples", "clusters") for file in (ROOT / folder).rglob("*")]
    there = {str(file.relative_to(ROOT)) for file in files if file.is_file() and file.suffix != ".pyc"}
    assert set(available()) == there | {"constraints.txt"}
    listed = CliRunner().invoke(app, ["examples"], env={"COLUMNS": "200"}, catch_exceptions=False).stdout
    for path in available():
        assert path in listed
        assert 5 < len(about(path)) < 110 and "--" not in about(path), path


def test_copies_stand_as_in_the_repository_and_keep_their_mode(tmp_path: Path) -> None:
    copied = copy(["vit-digits", "clusters/jobs", "vit-digits.yaml"], tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in copied} == {
        "examples/vit-digits.yaml",
        *(path for path in available() if path.startswith("clusters/jobs/")),
    }
    for path in copied:
        assert path.read_bytes() == (ROOT / path.relative_to(tmp_path)).read_bytes()
        assert not path.is_symlink()
    assert os.access(tmp_path / "clusters/jobs/vit.sh", os.X_OK)


def test_nothing_is_overwritten_and_then_nothing_is_copied(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "vit-digits.yaml").write_text("mine")
    with pytest.raises(ExampleError, match=r"nothing is overwritten, but .*vit-digits.yaml exists"):
        copy(["nasrec-flights", "vit-digits"], tmp_path)
    assert (tmp_path / "examples" / "vit-digits.yaml").read_text() == "mine"
    assert len(list(tmp_path.rglob("*.yaml"))) == 1


def test_an_unknown_name_is_one_line_with_what_is_near() -> None:
    with pytest.raises(ExampleError, match=r"but got 'vit-digit'; vit-digits is near$"):
        matching("vit-digit", available())
