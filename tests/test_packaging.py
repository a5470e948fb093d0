"""The wheel: what is in it, and that it works where no checkout is near, in a folder with names like ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = f"manynet-{PROJECT['version']}"
PARTS = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt")
FOLDERS = ("platform", "search_spaces", "trainers", "examples", "clusters")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def _ran(*command: object, **options: Any) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=600, **options
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def _built(kind: str, source: Path, to: Path) -> Path:
    to.mkdir()
    _ran(sys.executable, "-c", BUILD, f"build_{kind}", to, cwd=source)
    (built,) = to.iterdir()
    return built


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built, so that a build finds and leaves nothing here."""
    copy = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PARTS:
        shutil.copy(ROOT / name, copy)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return _built("wheel", tree, tmp_path_factory.mktemp("built") / "wheel")


def _names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def _files(folder: str) -> set[str]:
    """Files of a folder at the top, by their path in it."""
    found = {file for file in (ROOT / folder).rglob("*") if file.is_file() and file.suffix != ".pyc"}
    return {str(file.relative_to(ROOT)) for file in found}


# --- what is in it


def test_a_wheel_takes_one_top_level_name(wheel: Path) -> None:
    assert {name.split("/")[0] for name in _names(wheel)} == {"manynet", f"{NAME}.dist-info"}


def test_a_wheel_holds_all_that_the_folders_at_the_top_hold(wheel: Path) -> None:
    names = _names(wheel)
    assert {f"manynet/{name}" for folder in ("search_spaces", "trainers") for name in _files(folder)} <= names
    shipped = {"constraints.txt", *_files("examples"), *_files("clusters")}
    assert {f"manynet/cli/example-files/{name}" for name in shipped} == {
        n for n in names if "/example-files/" in n
    }
    assert "manynet/py.typed" in names
    assert not [name for name in names if "tests/" in name or "test_" in name or name.endswith(".pyc")]


def test_a_wheel_says_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        metadata = content.read(f"{NAME}.dist-info/METADATA").decode()
        licence = content.read(f"{NAME}.dist-info/licenses/LICENSE").decode()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "Version 2.0, January 2004" in licence and "END OF TERMS AND CONDITIONS" in licence


def test_a_source_distribution_makes_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(_built("sdist", tree, tmp_path / "sdist")) as content:
        assert not [entry.name for entry in content if entry.issym() or entry.islnk()]
        content.extractall(tmp_path, filter="data")
    assert _names(_built("wheel", tmp_path / NAME, tmp_path / "wheel")) == _names(wheel)


# --- what it asks for


def _requirements() -> list[Requirement]:
    groups = (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    return [Requirement(text) for group in groups for text in group]


@pytest.mark.parametrize("requirement", _requirements(), ids=lambda requirement: requirement.name)
def test_dependencies_are_ranges_around_the_tested_version(requirement: Requirement) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    operators = {each.operator for each in requirement.specifier}
    assert ">=" in operators or requirement.name == "torchmetrics"
    assert requirement.specifier.contains(tested[requirement.name.lower()])


def test_constraints_hold_for_any_build() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert not [line for line in pins if "+" in line or "@" in line or "fbgemm" in line]


# --- where no checkout is near

OWN = {
    "trainers/__init__.py": "",
    "trainers/mine.py": "from manynet.trainers.sandwich import Sandwich\n\n\nclass Mine(Sandwich): ...\n",
    "search_spaces/mine.py": "from manynet.search_spaces.vit import tiny as space\n",
    "clusters/__init__.py": "mine = True\n",
}
NAMES = """
import sys
import clusters
import manynet
from manynet import references

print(manynet.__file__)
for name in sys.argv[1:]:
    references.load(name)
    print(references.canonical(name))
print(clusters.mine)
files = [module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
ours = [file for file in files if file.startswith(manynet.__path__[0])]
print(len(ours) == len(set(ours)))
"""
SHRUNK = {
    "study": "run",
    "train.strategy": "trainers.mine:Mine",
    "train.steps": 2,
    "train.workers": 0,
    "train.evaluate_every": 2,
    "search.evaluations": 2,
    "search.objectives": '["accuracy:max"]',
    "search.evaluators": 1,
    "search.validation_examples": 32,
}


class Installed:
    """The wheel in a folder of its own, and a user's folder with packages named like ours."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.site, self.own = folder / "site", folder / "own"
        _ran(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", self.site, wheel)
        for name, text in OWN.items():
            (self.own / name).parent.mkdir(parents=True, exist_ok=True)
            (self.own / name).write_text(text)

    def python(self, *arguments: object) -> str:
        """Run Python in the user's folder; what this process imports from is not there."""
        environment = {**os.environ, "PYTHONPATH": str(self.site), "COLUMNS": "200"}
        return _ran(sys.executable, *arguments, cwd=self.own, env=environment)

    def manynet(self, *arguments: object) -> str:
        """Run a command of Manynet's, as the installed script does."""
        return self.python("-m", "manynet", *arguments)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, installed."""
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


def test_a_users_packages_and_manynets_are_found_each_once(installed: Installed) -> None:
    names = {
        "trainers.mine:Mine": "trainers.mine:Mine",
        "search_spaces.mine:space": "search_spaces.mine:space",
        "trainers.sandwich:Sandwich": "manynet.trainers.sandwich:Sandwich",
        "search_spaces.vit:tiny": "manynet.search_spaces.vit:tiny",
    }
    first, *others = installed.python("-c", NAMES, *names).splitlines()
    assert first == str(installed.site / "manynet" / "__init__.py")
    assert others == [*names.values(), "True", "True"]


def test_an_example_of_the_wheel_runs_with_a_users_trainer(installed: Installed) -> None:
    assert "examples/vit-digits.yaml" in installed.manynet("examples")
    installed.manynet("examples", "vit-digits", "clusters/jobs", "--to", "copied")
    assert os.access(installed.own / "copied" / "clusters" / "jobs" / "vit.sh", os.X_OK)
    example = installed.own / "copied" / "examples" / "vit-digits.yaml"
    example.write_text(example.read_text().partition("finalists:")[0])
    changes = [part for key, value in SHRUNK.items() for part in ("--set", f"{key}={value}")]
    installed.manynet("run", example, *changes)
    assert (installed.own / "run" / "report.html").is_file()
    assert (installed.own / "run" / "supernet" / "result.json").is_file()
    assert "trainers.mine:Mine" in (installed.own / "run" / "experiment.yaml").read_text()
