"""A study that goes on with more: evaluations, finalists and anchors are added, and nothing is done again."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import tune
from typer.testing import CliRunner

import manynet as mn
from manynet.cli import app
from manynet.config.experiment import Experiment
from manynet.config.settings import SearchSettings, TrainSettings
from manynet.records.ledger import Record
from manynet.studies.made_with import made_with
from manynet.studies.on_record import StudyError, recorded
from manynet.training.runs import Trained

FAST: dict[str, Any] = {"workers": 0, "batch_size": 32, "augment": "none", "learning_rate": 3e-3}
FINALISTS = {**FAST, "count": 1, "steps": 2, "anchors": 3, "anchor_steps": 2}


class Net(mn.Supernet):
    def __init__(self) -> None:
        super().__init__()
        self.stem = mn.elastic.Linear(64, 32)
        self.head = mn.elastic.Linear(32, 10)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        x = self.stem(x.flatten(1), out_features=arch["width"]).relu()
        return self.head(x, in_features=arch["width"])


space = mn.SearchSpace(
    "extending", {"width": tune.randint(2, 33)}, Net, mn.tasks.Classification(10), (1, 8, 8)
)


@pytest.fixture(scope="module")
def study(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> mn.Study:
    made = mn.Study(tmp_path_factory.mktemp("extending") / "run", f"{__file__}:space", data="digits")
    made.train(**FAST, steps=4)
    made.search(objectives=["accuracy:max", "macs:min"], evaluations=5, evaluators=1)
    made.finalists(**FINALISTS)
    return made


@pytest.fixture
def copy(study: mn.Study, tmp_path: Path) -> str:
    shutil.copytree(study.folder, tmp_path / "run")
    return str(tmp_path / "run")


def made(study: mn.Study) -> dict[str, str]:
    """When each record was made, by its key."""
    return {record.key: record.created for record in study.ledger.read()}


def weights(folder: str) -> dict[str, float]:
    """When each network was trained."""
    files = [file for file in Path(folder).rglob("weights.safetensors") if "finalists" not in file.parts]
    return {str(file.relative_to(folder)): os.stat(file).st_mtime for file in files}


def test_a_study_is_extended_and_nothing_is_done_again(study: mn.Study, copy: str) -> None:
    before, trained = made(study), weights(copy)
    changes = ("search.evaluations=8", "search.evaluators=2", "finalists.anchors=5", "finalists.count=2")
    ran = CliRunner().invoke(app, ["resume", copy, *(word for c in changes for word in ("--set", c))])
    assert ran.exit_code == 0, ran.exception
    extended = mn.Study.open(copy)
    after = made(extended)
    assert {key: after[key] for key in before} == before
    kinds = [record.kind for record in extended.ledger.read()]
    assert (kinds.count("evaluation"), kinds.count("anchor")) == (8, 5)
    # What was handed over stays, also where the longer search put something else on the front.
    assert 2 <= kinds.count("finalist") <= 3
    assert {file: time for file, time in weights(copy).items() if file in trained} == trained
    assert extended.experiment.search is not None and extended.experiment.search.evaluations == 8
    ranking = extended.ranking()
    assert ranking is not None and ranking.count == 5
    page = (Path(copy) / "report.html").read_text()
    assert re.search(r"<td>evaluators</td><td>1 for 5, 2 for 3</td>", page)
    assert "<td>sampler</td><td>nsga2</td>" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.steps=9", "train of .* begun with steps=4, but got 9; steps decides the result: use another"),
        (
            "search.seed=3",
            "search of .* begun with seed=0, but got 3; .* or change only evaluations, evaluators",
        ),
        ("search.batch_size=3", "batch_size decides the score of each candidate, and so the result"),
        ("finalists.where=macs <= 9", "finalists of .* begun with where='', but got 'macs <= 9'"),
        ("study=elsewhere", "study of a study that has begun cannot be changed"),
        ("data=flights", "holds a study of data 'digits', but got 'flights'"),
        ("search.evaluation=9", "search.evaluation is not a key"),
        ("search.evaluations=0", "search.evaluations: .*greater than 0, but got 0"),
    ],
)
def test_what_decides_a_result_is_refused_in_one_line(
    copy: str, change: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such as what joins a cluster: it comes later.
    monkeypatch.setattr(
        "manynet.studies.study.check_step", lambda *_: pytest.fail("slower checks came first")
    )
    before = (Path(copy) / "experiment.yaml").read_text()
    ran = CliRunner().invoke(app, ["resume", copy, "--set", change])
    assert isinstance(ran.exception, mn.ManynetError) and "\n" not in str(ran.exception)
    assert re.search(message, str(ran.exception))
    assert (Path(copy) / "experiment.yaml").read_text() == before


def test_a_swept_setting_is_not_changed_for_all(tmp_path: Path) -> None:
    text = "study: x\nspace: search_spaces.vit:tiny\nsweep: {search.evaluations: [3, 4]}\ntrain: {}\nsearch: {}\n"
    (tmp_path / "experiment.yaml").write_text(text)
    with pytest.raises(StudyError, match="search.evaluations is swept"):
        recorded(tmp_path, ["search.evaluations=5"])
    changed = recorded(tmp_path, ["search.evaluators=5"]).search
    assert changed is not None and changed.evaluators == 5


def test_settings_that_changed_show_what_was_made_with_each() -> None:
    def record(evaluators: int) -> Record:
        details = {"made_with": {"evaluators": evaluators, "evaluations": 3}}
        return Record("k", "evaluation", "s", "w", {}, "d", "p", {}, details=details)

    starts = [{"step": 0, "workers": 1}, {"step": 20, "workers": 2}, {"step": 40, "workers": 2}]
    trained = Trained("w", "d", [], 1.0, made_with=starts)
    experiment = Experiment(study="s", space="x", train=TrainSettings(workers=2), search=SearchSettings())
    settings = made_with(experiment, trained, [record(2), record(2), record(3)])
    assert settings["train"]["workers"] == "1 from step 0, 2 from step 20"
    assert settings["search"]["evaluators"] == "2 for 2, 3 for 1"
    assert settings["search"]["evaluations"] == "200" and settings["search"]["constraints"] == "none"
