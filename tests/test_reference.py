"""Names of spaces and strategies: found, loaded, and refused in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from manynet import references as reference
from manynet.references import UnknownNameError
from manynet.search_spaces import vit

SCRIPT = """
import sys
from ray import tune
import manynet as mn

class Net(mn.Supernet):
    def __init__(self):
        super().__init__()
        self.head = mn.elastic.Linear(64, 10)
    def forward(self, x, arch):
        return self.head(x.flatten(1)[:, :arch["width"]], in_features=arch["width"])

space = mn.SearchSpace("mine", {"width": tune.choice([8, 64])}, Net, mn.tasks.Classification(10), (1, 8, 8))
print(mn.reference.find(space))
study = mn.Study(sys.argv[1], space)
print("past the study")
"""


def test_a_preset_is_found_and_loaded_by_its_name() -> None:
    assert reference.find(vit.tiny) == "search_spaces.vit:tiny"
    assert reference.load("search_spaces.vit:tiny") is vit.tiny


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("search_spaces.vit", "a reference must be module:name"),
        ("search_spaces.nowhere:x", "there is no search_spaces.nowhere"),
        ("nowhere.at.all:x", "there is no nowhere"),
        ("search_spaces.vit:gigantic", "names nothing: search_spaces.vit has .*tiny"),
        ("missing.py:space", "a script's path must lead to a Python file"),
        (":tiny", "a reference must be module:name"),
    ],
)
def test_a_wrong_name_is_one_clear_line(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        reference.load(name)


def test_a_space_in_a_script_is_found_again_without_running_the_study(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    found, past = ran.stdout.splitlines()
    assert (found, past) == (f"{script}:space", "past the study")
    loaded = reference.load(found)
    assert loaded.name == "mine"
    assert loaded.sample(0)


def test_a_value_that_no_module_holds_is_not_found() -> None:
    assert reference.find(object()) is None
