"""Checks that the lowest versions which pyproject.toml takes fit together; needs uv, and installs nothing.

make lower-bounds
"""

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PYTHON = "3.11"


def lowest() -> Iterator[str]:
    """``name==version`` for the lower bound of every dependency, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        for requirement in map(Requirement, group):
            (bound,) = [each.version for each in requirement.specifier if each.operator in (">=", "==")]
            yield f"{requirement.name}=={bound}"


def main() -> int:
    """Resolve; what conflicts is told by uv."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(lowest()))
        file.flush()
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--all-extras", "pyproject.toml"]
        command += ["--python-version", PYTHON, "--constraint", file.name]
        return subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
