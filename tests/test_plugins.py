"""Plug-ins in a user's folder outside the repository: checked, run, killed, and resumed from elsewhere."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import yaml

import manynet as mn
from manynet import references
from manynet.config.experiment import parse_experiment
from manynet.data import DataError, load
from manynet.data.own import is_reference
from manynet.devices import DeviceError, DeviceName
from manynet.devices.placement import places
from manynet.devices.tools import tool_of
from manynet.errors import ManynetError
from manynet.records.conditions import parse_conditions, parse_objective
from manynet.records.ledger import Ledger
from manynet.references import UnknownNameError
from manynet.runtime.modules import ModuleMissingError, find_again, located, named
from manynet.studies.on_record import recorded
from manynet.studies.study import StudyError
from manynet.testing import check_data, check_strategy, check_tool, require

ROOT = Path(__file__).parent.parent
DATA = """
from dataclasses import replace

import manynet as mn
from manynet.data import digits


def few():
    # A third of scikit-learn's digits, under a name and an identity of their own.
    whole = digits()
    parts = {name: getattr(whole, name).divided(0.3, seed=1)[0] for name in ("train", "validation", "test")}
    return replace(whole, name="few digits", digest="00000000000000fe", **parts)


made = few()
grey = replace(made, train=[1, 2])
number = 3


def needs(path):
    return made


def broken():
    raise ZeroDivisionError("no data today")
"""
TOOL = """
import os
from pathlib import Path

import torch

from manynet.devices import InProcessTool


class Plain(InProcessTool):
    def version(self):
        return "1"

    def loaded(self, subnet, example, name):
        torch.set_num_threads(name.threads)
        inputs = [x.repeat(name.batch, *[1] * (x.dim() - 1)) for x in example]

        def run():
            with torch.no_grad():
                return subnet(*inputs)

        return run


class Half(InProcessTool):
    def version(self):
        return "1"


class Away(Plain):
    def missing(self, name):
        return "the board is not plugged in"


class Board(Plain):
    takes_boards = True


one = Plain()
"""
TRAINER = """
import manynet as mn
from manynet.space.evaluation import fit


class Largest(mn.Strategy):
    def backward(self, network, batch, step):
        arch = step.space.largest
        loss = step.space.task.loss(network(*fit(batch.inputs, step.space, arch), arch=arch), batch.targets)
        loss.backward()
        return {"loss": loss.detach()}
"""
SPACE = (
    (ROOT / "examples" / "tiny_conv.py")
    .read_text()
    .split("study = ")[0]
    .replace("[8, 16, 32, 64]", "list(range(4, 64, 4))")
)
MODULES = {"own_space": SPACE, "own_data": DATA, "own_tool": TOOL, "own_trainer": TRAINER}
DEVICE = "host/own_tool:Plain"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder of modules, on the path of this process."""
    home = tmp_path / "home"
    home.mkdir()
    for name, text in MODULES.items():
        (home / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(home))
    importlib.invalidate_caches()
    yield home
    for name in MODULES:
        sys.modules.pop(name, None)


# ---------------------------------------------------------------- names


def test_data_are_loaded_by_name_from_a_factory_or_an_instance(folder: Path) -> None:
    assert load("own_data:few").name == "few digits"
    assert load("own_data:made") is references.load("own_data:made")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_nowhere:few", "names no module: there is no own_nowhere"),
        ("own_data:many", "names nothing: own_data has"),
        ("own_data:number", "must name a Data, or a function or class that gives one, but names 3"),
        ("own_data:needs", "must give a Data when called without arguments, but raised TypeError"),
        ("own_data:broken", r"raised ZeroDivisionError: no data today \(.*own_data.py, line \d+\)"),
        ("own_data:grey", r"train of 'own_data:grey' must be a Split, but got \[1, 2\]"),
        ("own_data:digits", None),
        ("own_broken:few", r"cannot be imported: NameError: name 'nothing' is not defined"),
        ("digit", "data must be one of .*; a data set of one's own is module:name"),
    ],
)
def test_data_that_cannot_be_loaded_are_one_clear_line(folder: Path, name: str, message: str | None) -> None:
    (folder / "own_broken.py").write_text("nothing\n")
    if message is None:
        assert load(name).name == "digits"
        return
    with pytest.raises((UnknownNameError, DataError), match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_what_is_a_reference_and_what_a_spelled_kind() -> None:
    assert all(map(is_reference, ("my_data:flowers", "a.b.c:flowers", "here/my_data.py:flowers")))
    spelled = (
        "idx:flowers",
        "images:x",
        "parquet:s3://b/x:y",
        "digits",
        "my_data:",
        ":flowers",
        "s3://b/x:y",
    )
    assert not any(map(is_reference, spelled))


def test_data_that_do_not_fit_the_space_are_refused_before_training(folder: Path, tmp_path: Path) -> None:
    (folder / "own_colour.py").write_text(
        "from manynet.data import digits\n\ndef colour():\n    return digits(channels=3)\n"
    )
    with pytest.raises(DataError, match=r"input must have shape \(1, 8, 8\), but got \(3, 8, 8\)"):
        mn.Study(tmp_path / "run", "own_space:space", data="own_colour:colour").data  # noqa: B018


def test_a_study_on_an_object_is_opened_by_the_name_that_holds_it(folder: Path, tmp_path: Path) -> None:
    held = references.load("own_data:made")
    study = mn.Study(tmp_path / "held", "own_space:space", data=held)
    assert study.experiment.data == "own_data:made"
    assert mn.Study(tmp_path / "digits", "own_space:space", data=load("digits")).experiment.data == "digits"
    loose = references.load("own_data:few")()
    begun = parse_experiment(
        f"study: {tmp_path}/loose\nspace: own_space:space\ntrain: {{steps: 1}}\n", "x.yaml"
    )
    made = mn.Study(tmp_path / "loose", "own_space:space", data=loose)
    made._begin("train", begun.steps["train"])
    with pytest.raises(
        StudyError, match="its data 'few digits' were made where no module or script holds them"
    ):
        mn.Study.open(tmp_path / "loose")


@pytest.mark.parametrize("tool", ["own_tool:Plain", "a.b:Tool_2"])
def test_a_tools_name_is_a_devices_everywhere(tool: str) -> None:
    name = DeviceName.parse(f"pi/{tool}?threads=2&batch=8")
    assert (name.device, name.tool, str(name)) == ("pi", tool, f"pi/{tool}?batch=8&threads=2")
    assert name.has_own_tool and DeviceName.parse(str(name)) == name
    assert parse_objective(f"{name.column}:min").column == name.column
    assert parse_conditions(f"{name.column} <= 5")[0].column == name.column


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("host/own_tool:Fast", "names nothing: own_tool has"),
        ("host/own_nowhere:Fast", "there is no own_nowhere"),
        ("host/own_tool:Half", "Can't instantiate abstract class Half"),
        ("host/own_tool:torch", "must name a Tool, or a function or class that gives one"),
        ("host/own_tool:Path", "must give a Tool, but gave"),
        ("host/own_tool:Plain?precision=bf16", "must be one of float32, but got 'bf16'"),
        ("cuda/own_tool:Plain", "measures on processors"),
    ],
)
def test_a_tool_that_cannot_be_is_one_clear_line(folder: Path, name: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message) as caught:
        tool_of(DeviceName.parse(name))
    assert "\n" not in str(caught.value)


def test_a_tool_is_found_as_a_class_an_instance_and_by_the_label_it_serves(
    folder: Path, ray_cluster: None
) -> None:
    home = ray.get_runtime_context().get_node_id()
    assert tool_of(DeviceName.parse("host/own_tool:one")) is references.load("own_tool:one")
    assert [place.node for place in places(DeviceName.parse(DEVICE), home)] == [home]
    assert [place.node for place in places(DeviceName.parse("pi/own_tool:Board"), home)] == [home]
    with pytest.raises(
        DeviceError, match="device must be one of .* or host/module:name, but got 'pi/own_tool:Plain'"
    ):
        places(DeviceName.parse("pi/own_tool:Plain"), home)


def test_a_tool_that_cannot_run_here_is_refused_before_training(
    folder: Path, tmp_path: Path, ray_cluster: None
) -> None:
    text = f"""
study: {tmp_path}/run
space: own_space:space
train: {{steps: 1}}
search: {{objectives: ["accuracy:max", "latency@host/own_tool:Away:min"]}}
"""
    with pytest.raises(ManynetError, match="host/own_tool:Away cannot be used: the board is not plugged in"):
        mn.Study.begin(parse_experiment(text, "x.yaml"))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- what fails

FAILING = {
    "own_syntax": ("def space(:\n", "SyntaxError: "),
    "own_raising": ("1 / 0\n", r"ZeroDivisionError: division by zero \(.*own_raising.py, line 1\)"),
    "own_needy": ("import own_dependency\n", "ModuleNotFoundError: No module named 'own_dependency'"),
    "own_ending": ("import sys\nsys.exit(4)\n", "SystemExit: 4"),
    "own_encoded": ("# coding: utf-8\nx = '\udcff'\n", "SyntaxError: "),
}


@pytest.fixture(params=FAILING)
def failing(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """Name of a module that cannot be imported, and what is said of it."""
    text, said = FAILING[request.param]
    (tmp_path / f"{request.param}.py").write_bytes(text.encode("utf-8", "surrogateescape"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return request.param, f"^'{request.param}:it' cannot be imported: {said}"


@pytest.mark.parametrize("key", ["space", "data", "train.strategy", "search.sampler"])
def test_a_module_that_fails_is_one_clear_line_wherever_it_is_named(
    key: str, failing: tuple[str, str], tmp_path: Path, ray_cluster: None
) -> None:
    module, said = failing
    text = f"""
study: {tmp_path}/run
space: search_spaces.vit:tiny
train: {{steps: 1}}
search: {{objectives: ["accuracy:max"]}}
"""
    with pytest.raises(ManynetError, match=said) as caught:
        mn.Study.begin(parse_experiment(text, "x.yaml", [f"{key}={module}:it"]))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


OWN = """
import manynet as mn
from manynet.search_spaces.vit import tiny
from manynet.trainers.single_path import SinglePath


def given():
    return tiny


class Raising(SinglePath):
    def __init__(self):
        raise RuntimeError("no luck\\ntoday")


def none(seed, objectives):
    return None


def raising(seed, objectives):
    raise KeyError("no luck")


here = none(0, [])
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of plug-ins."""
    (tmp_path / "own_plug_ins.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_plug_ins"
    sys.modules.pop("own_plug_ins", None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "train.strategy=own_plug_ins:Raising",
            "own_plug_ins:Raising could not be made: RuntimeError: no luck$",
        ),
        (
            "search.sampler=own_plug_ins:none",
            "'own_plug_ins:none' must give a sampler of Optuna's, but gave None",
        ),
        (
            "search.sampler=own_plug_ins:raising",
            "'own_plug_ins:raising' could not be made: KeyError: 'no luck'",
        ),
        ("search.sampler=own_plug_ins:here", "must name a function .* that gives a sampler, but names None"),
        ("space=./own_plug_ins:given", "a reference must be module:name or script.py:name, but got './own"),
        ("space=.own_plug_ins:given", "a reference must be module:name or script.py:name, but got '.own"),
    ],
)
def test_a_plug_in_that_cannot_be_made_is_one_clear_line(
    change: str, said: str, own: str, tmp_path: Path, ray_cluster: None
) -> None:
    text = f"""
study: {tmp_path}/run
space: {own}:given
train: {{steps: 1}}
search: {{objectives: ["accuracy:max"]}}
"""
    with pytest.raises(ManynetError, match=said) as caught:
        mn.Study.begin(parse_experiment(text, "x.yaml", [change]))
    assert "\n" not in str(caught.value)


def test_a_space_may_be_given_by_a_function(own: str, tmp_path: Path) -> None:
    study = mn.Study(tmp_path / "run", f"{own}:given")
    assert study.space.name == "vit-tiny" and study.experiment.space == f"{own}:given"


# ---------------------------------------------------------------- modules


EXPERIMENT = {
    "study": "run",
    "space": "own_space:space",
    "data": "own_data:few",
    "train": {"strategy": "own_trainer:Largest", "steps": 8, "batch_size": 32, "evaluate_every": 8},
    "search": {
        "objectives": ["accuracy:max", f"latency@{DEVICE}:min"],
        "evaluations": 8,
        "evaluators": 1,
        "validation_examples": 32,
        "calibration_batches": 1,
    },
}


def test_every_module_that_an_experiment_names_is_shipped_and_recorded(folder: Path) -> None:
    experiment = parse_experiment(yaml.safe_dump(EXPERIMENT), "x.yaml")
    assert named(experiment) == ["manynet", "own_space", "own_data", "own_trainer", "own_tool"]
    assert located(experiment) == dict.fromkeys(
        ["own_space", "own_data", "own_trainer", "own_tool"], str(folder)
    )


def test_modules_are_found_where_they_were_or_missed_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_elsewhere.py").touch()
    find_again({"own_elsewhere": str(tmp_path), "json": "/nowhere"})
    assert sys.path[-1] == str(tmp_path)
    with pytest.raises(
        ModuleMissingError, match="module own_gone, which must be in this folder, on PYTHONPATH, or in"
    ):
        find_again({"own_gone": str(tmp_path)})


@pytest.mark.parametrize("path", [[], [str(ROOT)]], ids=["elsewhere", "checkout"])
def test_a_users_package_named_as_manynets_is_found_before_its_names_are_read(
    path: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "own_trainer.py").write_text(TRAINER)
    if path:
        # Python prefers a package with this file to one without, wherever they are on the path.
        (tmp_path / "trainers" / "__init__.py").touch()
    installed = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *installed])
    own, ours = "trainers.own_trainer:Largest", "manynet.trainers.finetune:FineTune"
    given = f"""
study: {tmp_path}/run
space: search_spaces.vit:tiny
train: {{strategy: {own}, steps: 1}}
search: {{evaluations: 1}}
finalists: {{strategy: trainers.finetune:FineTune}}
"""
    mn.Study.begin(parse_experiment(given, "x.yaml"))
    # As in another process, in another folder.
    monkeypatch.setattr(sys, "path", [*path, *installed])
    for name in ("trainers", "trainers.own_trainer"):
        sys.modules.pop(name, None)
    found = recorded(tmp_path / "run", ["search.evaluations=2"])
    assert found.train is not None and found.finalists is not None
    assert (found.train.strategy, found.finalists.strategy) == (own, ours)
    mn.Study.begin(found, tmp_path / "run")
    for name in ("trainers", "trainers.own_trainer"):
        sys.modules.pop(name, None)


def test_plug_ins_are_checked_run_killed_and_resumed_from_elsewhere(
    folder: Path, tmp_path: Path, joining: dict[str, str], when_free: Callable[[], None]
) -> None:
    require(check_data("own_data:few", fresh_process=False))
    require(check_strategy("own_trainer:Largest"))
    require(check_tool("own_tool:Plain"))
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    command = [sys.executable, "-m", "manynet"]
    log = tmp_path / "log"
    with log.open("w") as stream:
        driver = subprocess.Popen(
            [*command, "run", "experiment.yaml"], cwd=folder, env=joining, stdout=stream, stderr=stream
        )
    ledger, deadline = Ledger(folder / "run" / "ledger"), time.monotonic() + 500
    while len(ledger.read()) < 2 and time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.2)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    when_free()
    before = {record.key: record.created for record in ledger.read()}
    assert 2 <= len(before) < 8, log.read_text()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # On a Ray of its own: nodes of a cluster know nothing of the folder where the modules were.
    own = {name: value for name, value in joining.items() if name != "RAY_ADDRESS"}
    resumed = subprocess.run(
        [*command, "resume", str(folder / "run")],
        cwd=elsewhere,
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    after = {record.key: record for record in ledger.read()}
    assert {key: after[key].created for key in before} == before
    assert len(after) == 8
    assert all(f"latency@{DEVICE}" in record.metrics for record in after.values())
    assert yaml.safe_load((folder / "run" / "experiment.yaml").read_text())["data"] == "own_data:few"


def test_what_the_page_on_plug_ins_shows_keeps_its_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "plug-ins.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (flowers,) = (block for block in blocks if "def flowers" in block)
    (largest,) = (block for block in blocks if "class Largest" in block)
    (tmp_path / "shown_data.py").write_text(flowers)
    (tmp_path / "shown_trainer.py").write_text(largest)
    images = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "flowers.npz", images=images, labels=np.arange(60) % 3)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    require(check_data("shown_data:flowers", fresh_process=False))
    require(check_strategy("shown_trainer:Largest"))
