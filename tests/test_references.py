"""Names of spaces and strategies: found, loaded, and refused in one line."""

import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from manynet import references
from manynet.references import UnknownNameError
from manynet.search_spaces import vit

SCRIPT = """
from pathlib import Path
from ray import tune
import manynet as mn

class Net(mn.Supernet):
    def __init__(self):
        super().__init__()
        self.head = mn.elastic.Linear(64, 10)
    def forward(self, x, arch):
        return self.head(x.flatten(1)[:, :arch["width"]], in_features=arch["width"])

space = mn.SearchSpace("mine", {"width": tune.choice([8, 64])}, Net, mn.tasks.Classification(10), (1, 8, 8))
print(mn.references.find(space))
study = mn.Study(Path(__file__).parent / "run", space)
print("past the study")
"""


def test_a_preset_is_found_and_loaded_by_its_name() -> None:
    assert references.find(vit.tiny) == "manynet.search_spaces.vit:tiny"
    assert references.load("search_spaces.vit:tiny") is vit.tiny


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("search_spaces.vit", "a reference must be module:name"),
        ("search_spaces.nowhere:x", "there is no manynet.search_spaces.nowhere"),
        ("nowhere.at.all:x", "there is no nowhere"),
        ("search_spaces.vit:gigantic", "names nothing: manynet.search_spaces.vit has .*tiny"),
        ("missing.py:space", "a script's path must lead to a Python file"),
        (":tiny", "a reference must be module:name"),
    ],
)
def test_a_wrong_name_is_one_clear_line(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        references.load(name)


def test_a_space_in_a_script_is_found_again_without_running_the_study(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    found, past = ran.stdout.splitlines()
    assert (found, past) == (f"{script}:space", "past the study")
    loaded = references.load(found)
    assert loaded.name == "mine"
    assert loaded.sample(0)


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder, first on the path; nothing that is imported from it stays."""
    before = set(sys.modules)
    # Python prefers a package with an __init__.py, as a checkout's root holds them, wherever it is on the path.
    checkout = Path(__file__).parent.parent
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry).resolve() != checkout])
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in references.CONTENT:
            del sys.modules[name]


@pytest.mark.parametrize("initialised", [True, False], ids=["package", "namespace"])
def test_a_users_folder_neither_hides_manynets_nor_is_hidden(in_folder: Path, initialised: bool) -> None:
    own = in_folder / "trainers"
    own.mkdir()
    if initialised:
        (own / "__init__.py").touch()
    (own / "mine.py").write_text("class Mine: ...\n")
    assert references.load("trainers.mine:Mine").__module__ == "trainers.mine"
    assert references.load("trainers.sandwich:Sandwich").__module__ == "manynet.trainers.sandwich"
    assert references.canonical("trainers.mine:Mine") == "trainers.mine:Mine"
    assert references.canonical("trainers.sandwich:Sandwich") == "manynet.trainers.sandwich:Sandwich"


def test_a_users_module_comes_first_and_manynets_keeps_its_full_name(in_folder: Path) -> None:
    (in_folder / "trainers").mkdir()
    (in_folder / "trainers" / "sandwich.py").write_text("class Sandwich: ...\n")
    assert references.load("trainers.sandwich:Sandwich").__module__ == "trainers.sandwich"
    assert references.load("manynet.trainers.sandwich:Sandwich").__module__ == "manynet.trainers.sandwich"


def test_no_file_is_imported_under_two_names(in_folder: Path) -> None:
    # A checkout's root, and the working directory of a job, hold the content's folders.
    shutil.copytree(Path(vit.__file__).parent, in_folder / "search_spaces")
    assert references.load("search_spaces.vit:tiny") is vit.tiny
    with pytest.raises(ImportError, match="import manynet.search_spaces"):
        importlib.import_module("search_spaces.vit")


def test_a_value_that_no_module_holds_is_not_found() -> None:
    assert references.find(object()) is None


@pytest.mark.parametrize("first", ["aaa_user", "nets_declared", "zzz_user"])
def test_a_value_has_the_name_of_the_module_that_assigns_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    (tmp_path / "nets_declared.py").write_text("class It: pass\nspace = It()\n")
    (tmp_path / "aaa_user.py").write_text("from nets_declared import space\n")
    (tmp_path / "zzz_user.py").write_text("from nets_declared import *\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = ("aaa_user", "nets_declared", "zzz_user")
    for name in (first, *names):
        importlib.import_module(name)
    try:
        found = references.find(sys.modules["nets_declared"].space)
    finally:
        for name in names:
            sys.modules.pop(name)
    assert found == "nets_declared:space"


BESIDE = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
import manynet as mn
import beside_helper
from ray import tune

@dataclass
class Sizes:
    widths: tuple[int, ...] = (8, 64)

class Net(mn.Supernet):
    def __init__(self) -> None:
        super().__init__()
        self.head = mn.elastic.Linear(64, 10)
    def forward(self, x, arch):
        x = beside_helper.flat(x)
        return self.head(x[:, :arch["width"]], in_features=arch["width"])

print("read as", __name__ == "__main__")
space = mn.SearchSpace("mine", {"width": tune.choice(list(Sizes().widths))}, Net, mn.tasks.Classification(10), (1, 8, 8))
"""


def test_a_script_is_a_module_beside_its_siblings_and_its_code_goes_to_workers(tmp_path: Path) -> None:
    own, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    own.mkdir()
    elsewhere.mkdir()
    (own / "mine.py").write_text(BESIDE)
    (own / "beside_helper.py").write_text("def flat(x):\n    return x.flatten(1)\n")
    pickled = tmp_path / "space.pickle"
    reads = (
        "import pathlib, ray.cloudpickle, manynet.references as r\n"
        f"space = r.load({str(own / 'mine.py')!r} + ':space')\n"
        f"assert r.load('../own/mine.py:space') is space\n"
        f"pathlib.Path({str(pickled)!r}).write_bytes(ray.cloudpickle.dumps(space))\n"
    )
    gets = (
        "import pathlib, pickle, sys\n"
        f"space = pickle.loads(pathlib.Path({str(pickled)!r}).read_bytes())\n"
        "import manynet as mn\n"
        "print(mn.cost(space, space.largest).parameters)\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", script], cwd=elsewhere, capture_output=True, text=True, check=True
        )
        for script in (reads, gets)
    ]
    assert [one.stdout.split() for one in said] == [["read", "as", "False"], ["650"]]
