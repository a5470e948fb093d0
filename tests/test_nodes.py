"""What a cluster's nodes are asked before a study starts: each difference is one line that names node and package."""

import json
import os
import re
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from manynet.runtime.ray_session import ClusterError, connect, join

NODE = r"node \S+/[0-9a-f]{8}"
HERE = re.escape(metadata.version("optuna"))


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What :mod:`cluster_nodes` says of each difference."""
    script, folder = Path(__file__).parent / "cluster_nodes.py", tmp_path_factory.mktemp("nodes")
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    ran = subprocess.run(
        [sys.executable, script, folder],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: dict[str, str | None] = json.loads((folder / "said.json").read_text())
    return found


def test_nodes_that_are_alike_pass_and_nothing_is_left_in_the_folder(said: dict[str, str | None]) -> None:
    assert said["none"] is None
    assert said["left behind"] == ""


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ("lacks", rf"every node must have optuna \({HERE} here\), but {NODE} lacks it: .*"),
        ("another version", rf"every node must have the same optuna \({HERE} here\), but {NODE} has 4.1.0"),
        ("own folder", rf"every node must reach the study's folder /proc/self/cwd/study, but {NODE} does .*"),
        (
            "cannot start",
            rf"every node must answer within 5 s, but {NODE} did not: .* processes cannot start",
        ),
        ("dies", rf"every node must answer, but {NODE} did not: it died"),
        (
            "another ray",
            r"the cluster at \S+ could not be joined: Version mismatch: .* Ray: 2.9.0 Python: .*",
        ),
    ],
)
def test_a_difference_is_one_line(said: dict[str, str | None], difference: str, message: str) -> None:
    # Without DOTALL: a second line would not match.
    assert re.fullmatch(message, said[difference] or "")


def test_a_node_that_dies_is_not_waited_for(said: dict[str, str | None]) -> None:
    assert said["dies in time"] == "True"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:8265", "must be host:port of a cluster .*`manynet submit`"),
        ("127.0.0.1:{free}", "must be where a cluster answers, but at .* refused"),
    ],
)
def test_an_address_where_no_cluster_is(address: str, message: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        free = taken.getsockname()[1]
    with pytest.raises(ClusterError, match=message):
        join(address.format(free=free))


@pytest.mark.parametrize("name", ["manynet.py", "manynet/__init__.py"])
def test_a_module_that_would_hide_manynet_is_refused_before_anything_starts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ClusterError, match=f"^{tmp_path / name} would hide Manynet from Ray's processes: rename"
    ):
        connect()
