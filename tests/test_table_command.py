"""The command that measures a table of latency, on a real device actor."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from hasty import DEVICE

from manynet import references
from manynet.latency.table import LatencyTable
from manynet.space.search_space import SearchSpace

SPACE = """
from ray import tune

import manynet as mn


class Net(mn.Supernet):
    def __init__(self):
        super().__init__()
        self.expand = mn.elastic.Linear(64, 4096)
        self.head = mn.elastic.Linear(4096, 2)

    def forward(self, x, arch):
        return self.head(self.expand(x, out_features=arch["hidden"]))


space = mn.SearchSpace(
    "pair", {"hidden": tune.choice([64, 4096])}, Net, mn.tasks.Classification(num_classes=2), (64,)
)
"""


def test_a_table_is_measured_on_a_device_and_told_how_far_it_agrees(
    ray_cluster: None, tmp_path: Path, manynet: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "nets.py").write_text(SPACE)
    command = ["table", "nets.py:space", "table.json", "--device", f"{DEVICE}?threads=1", "--subnets", "2"]
    ran = manynet(*command, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "table.json: 4 operations measured, 0 interpolated" in ran.stdout
    assert "sums: median absolute error" in ran.stdout and "Kendall tau" in ran.stdout
    assert "measure: 3 of 6" in ran.stderr and "check: 10 of 10" in ran.stderr
    table = LatencyTable.read(tmp_path / "table.json")
    assert table.device == DEVICE and "version" in table.tool
    space = references.load_one(SearchSpace, f"{tmp_path / 'nets.py'}:space")
    assert table.milliseconds(space, space.largest) > table.milliseconds(space, space.smallest)


def test_a_device_of_several_examples_is_refused_before_anything_starts(
    tmp_path: Path, manynet: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "elsewhere.py").write_text(SPACE)
    command = ["table", "elsewhere:space", "table.json", "--device", "host/torch?batch=8"]
    ran = manynet(*command, cwd=tmp_path)
    assert ran.returncode == 1 and not (tmp_path / "table.json").exists()
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("Error:")]
    assert "a table holds times at batch 1, but got batch 8 in 'host/torch?batch=8'" in line
