"""What a reference gives in another process: identities must be equal there, or nothing is found again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

SECONDS = 300.0


def answer(expression: str, reference: str, kind: str) -> Any:
    """The JSON value of ``expression`` over ``it``, what ``reference`` gives in a new process of another hash seed.

    Args:
        expression: Python.
        reference: ``module:name``.
        kind: ``module:name`` of the class of what it gives.

    Raises:
        RuntimeError: when the process fails, with the last line that it said.
    """
    code = (
        "import json; from manynet import references; "
        f"it = references.make(references.load({kind!r}), {reference!r}); "
        f"print('\\n' + json.dumps({expression}))"
    )
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if ran.returncode:
        said = [line for line in ran.stderr.splitlines() if line.strip()] or ["nothing"]
        raise RuntimeError(f"a new process said {said[-1].strip()}")
    return json.loads(ran.stdout.splitlines()[-1])
