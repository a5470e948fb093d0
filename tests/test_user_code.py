"""The code of a user's space: tried and kept before training, and not run again to read a study or to go on with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import tune

import manynet as mn
from manynet.space.search_space import SearchSpace
from manynet.studies import facts, kept_code
from manynet.studies.findings import Findings
from manynet.studies.study import Study, StudyError

# What goes wrong when it is run twice, or as anything but itself.
SCRIPT = """
from __future__ import annotations

import argparse
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import manynet as mn
from ray import tune

import beside

runs = Path("runs.txt")
runs.write_text(runs.read_text() + "run\\n" if runs.exists() else "run\\n")
shutil.rmtree("study", ignore_errors=True)
parser = argparse.ArgumentParser()
parser.add_argument("--evaluations", type=int, required=True)
lock = threading.Lock()


@dataclass
class Sizes:
    widths: tuple[int, ...] = (4, 8, 16)


class Net(mn.Supernet):
    def __init__(self) -> None:
        super().__init__()
        self.stem = mn.elastic.Conv2d(1, 16, kernel_size=3, padding=1)
        self.head = mn.elastic.Linear(16, 10)

    def forward(self, x, arch):
        width = arch["width"]
        return self.head(beside.pooled(self.stem(x, out_channels=width)), in_features=width)


if __name__ == "__main__":
    asked = parser.parse_args()
    space = mn.SearchSpace(
        "guarded", {"width": tune.choice(list(Sizes().widths))}, Net, mn.tasks.Classification(10), (1, 8, 8)
    )
    study = mn.Study("study", space, data="digits")
    study.train(steps=4, batch_size=16, workers=0)
    study.search(objectives=["accuracy:max", "parameters:min"], evaluations=asked.evaluations, evaluators=1)
    study.finalists(count=1, steps=3, anchors=0, batch_size=16, workers=0)
    study.report()
"""


@pytest.fixture(scope="module")
def made(joining: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of a script, without the script."""
    folder = tmp_path_factory.mktemp("user") / "home"
    folder.mkdir()
    (folder / "mine.py").write_text(SCRIPT)
    (folder / "beside.py").write_text("def pooled(x):\n    return x.relu().mean((2, 3))\n")
    command = [sys.executable, "mine.py", "--evaluations", "2"]
    ran = subprocess.run(command, check=False, cwd=folder, env=joining, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (folder / "runs.txt").read_text() == "run\n"
    study = folder.parent / "moved"
    (folder / "study").rename(study)
    shutil.rmtree(folder)
    return study


def test_reading_needs_no_code_of_the_user(
    made: Path, manynet: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("the code was loaded")

    monkeypatch.setattr(kept_code, "load", refuse)
    (made / "report.html").unlink()
    for command in (["best", str(made), "--by", "accuracy"], ["front", str(made)], ["report", str(made)]):
        ran = manynet(*command)
        assert ran.returncode == 0, ran.stderr
    assert "logistic regression" in (made / "report.html").read_text()
    found = Findings.open(made)
    assert len(found.evaluations()) == 2
    assert found.best("parameters").architecture == min(
        (record.architecture for record in found.evaluations()), key=lambda arch: arch["width"]
    )
    (finalist,) = found.finalists()
    assert finalist.details["folder"].startswith("finalists/")


def test_what_is_kept_goes_on_elsewhere(made: Path, joining: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "manynet", "resume", str(made), "--set", "search.evaluations=3"]
    ran = subprocess.run(
        [*command, "--set", "finalists.count=2"],
        check=False,
        cwd=tmp_path,
        env=joining,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    found = Findings.open(made)
    assert len(found.evaluations()) == 3 and len(found.finalists()) == 2
    assert not (tmp_path / "study").exists()


def test_a_finalist_loads_with_the_space_alone(made: Path) -> None:
    folder = made / Findings.open(made).finalists()[0].details["folder"]
    with pytest.raises(mn.ManynetError, match=r"names code that is not Manynet's, .*mine.py:space"):
        mn.Subnet.load(folder)
    space = kept_code.load(str(made))
    assert space is not None
    assert mn.Subnet.load(folder, space)(*space.example(space.largest)).shape == (2, 10)


class Small(mn.Supernet):
    def __init__(self) -> None:
        super().__init__()
        self.head = mn.elastic.Linear(64, 10)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return self.head(x.flatten(1)[:, : arch["width"]])


def small(**changes: Any) -> SearchSpace:
    arguments: dict[str, Any] = {
        "name": "small",
        "domains": {"width": tune.choice([8, 16])},
        "supernet": Small,
        "task": mn.tasks.Classification(10),
        "input_shape": (1, 8, 8),
    }
    return SearchSpace(**(arguments | changes))


def test_a_space_that_cannot_be_kept_is_refused_before_training(tmp_path: Path) -> None:
    file = (tmp_path / "open").open("w")
    study = Study(tmp_path / "run", small(supernet=lambda: Small().requires_grad_(not file.closed)))
    with pytest.raises(
        StudyError, match="space 'small' must be pickled, to be sent to workers and kept, but raised"
    ):
        study.train(steps=1, workers=0)
    assert not (tmp_path / "run" / "supernet").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80", "space.pickle must hold the study's space, but raised"),
        (b"", "space.pickle must hold the study's space, but raised EOFError"),
        (b"I7\n.", "space.pickle must hold the study's space, but holds 7"),
    ],
)
def test_a_damaged_kept_space_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / kept_code.KEPT).write_bytes(content)
    with pytest.raises(StudyError, match=message) as caught:
        kept_code.load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_study_whose_space_is_lost_says_so(tmp_path: Path) -> None:
    Study(tmp_path, small())._keep_facts()
    (tmp_path / kept_code.KEPT).unlink()
    (tmp_path / "experiment.yaml").write_text("study: here\nspace: ''\n")
    with pytest.raises(
        StudyError, match="its space was made where no module holds it, and space.pickle, .* is not there"
    ):
        Study.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "{",
            "facts.json must hold a study's facts, but .*; delete it, and `manynet resume` writes it again",
        ),
        ("[]", "facts.json must hold a study's facts"),
        ("{}", "facts.json must hold a study's facts, but space: field required"),
    ],
)
def test_damaged_facts_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / facts.FACTS).write_text(content)
    with pytest.raises(StudyError, match=message):
        facts.read(str(tmp_path))


def test_a_study_of_an_earlier_version_is_told_how_to_be_read(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("study: here\nspace: search_spaces.vit:tiny\n")
    with pytest.raises(StudyError, match="must hold facts.json, .* `manynet resume .*` writes it"):
        Findings.open(tmp_path)


def test_facts_are_those_of_the_space_and_the_data(tmp_path: Path) -> None:
    study = Study(tmp_path, "search_spaces.vit:tiny")
    study._keep_facts()
    kept = json.loads((tmp_path / facts.FACTS).read_text())
    assert kept["space_digest"] == study.space.digest and kept["data_digest"] == study.data.digest
    assert kept["metric"] == "accuracy" and kept["columns"] == {"accuracy": True, "loss": False}
    assert not (tmp_path / kept_code.KEPT).exists(), "a module is imported again"


def test_a_changed_data_set_takes_no_baseline_over(tmp_path: Path) -> None:
    study = Study(tmp_path, "search_spaces.vit:tiny")
    facts.write(str(tmp_path), study._facts.model_copy(update={"baseline": ("plain", 0.5)}))
    assert Study(tmp_path, "search_spaces.vit:tiny")._facts.baseline == ("plain", 0.5)
    other = study._facts.model_copy(update={"baseline": ("plain", 0.5), "data_digest": "another"})
    facts.write(str(tmp_path), other)
    assert Study(tmp_path, "search_spaces.vit:tiny")._facts.baseline is None
