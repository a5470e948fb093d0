"""The command line: what it teaches, and that what a user gets wrong is one line."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


Manynet = Callable[..., subprocess.CompletedProcess[str]]


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "manynet", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_help_teaches(manynet: Manynet) -> None:
    text = started("--help").stdout
    assert all(command in text for command in ("run", "resume", "best", "report", "devices"))
    assert "experiment.yaml" in text
    assert "--set" in manynet("run", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.yaml"], "an experiment must be a readable YAML file"),
        (["run", "examples/vit-digits.yaml", "--set", "train.stpes=1"], "train.stpes is not a key"),
        (["resume", "nowhere"], "a study's folder must hold experiment.yaml"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, manynet: Manynet
) -> None:
    study = ["--set", f"study={tmp_path / 'run'}"] if arguments[0] == "run" else []
    refused_in_one_line(manynet(*arguments, *study), message)
    assert not (tmp_path / "run").exists()


def test_a_process_that_is_refused_ends_with_its_line() -> None:
    refused_in_one_line(started("resume", "nowhere"), "a study's folder must hold experiment.yaml")


def refused_in_one_line(ran: subprocess.CompletedProcess[str], message: str) -> None:
    assert ran.returncode == 1
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("Error:")]
    assert message in line
    assert "Traceback" not in ran.stderr


def test_devices_lists_what_can_be_measured_here() -> None:
    ran = started("devices")
    assert ran.returncode == 0
    assert "host/torch" in ran.stdout and "ready" in ran.stdout
