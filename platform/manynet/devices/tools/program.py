"""Run a program that prints milliseconds, with a time-out and one clear error for each way it can fail."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from manynet.devices.errors import MeasurementError


def printed_milliseconds(words: Sequence[str], folder: Path, timeout_seconds: float) -> float:
    """Run a program without a shell and read the milliseconds on the last line of its output.

    Args:
        words: the program and its arguments.
        folder: where it runs.
        timeout_seconds: after that it is killed, with all that it started.

    Raises:
        MeasurementError: if it cannot be started, does not end, fails, or prints anything but a time.
    """
    try:
        process = subprocess.Popen(
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise MeasurementError(f"the command must start, but got {error.strerror}: {words[0]}") from None
    with process:
        output, errors = _output(process, timeout_seconds)
    if process.returncode:
        said = _last_line(errors) or "nothing on its standard error"
        raise MeasurementError(f"the command must exit with 0, but got {process.returncode}: {said}")
    return _milliseconds(_last_line(output))


def _output(process: subprocess.Popen[str], timeout_seconds: float) -> tuple[str, str]:
    try:
        return process.communicate(timeout=timeout_seconds)
    except BaseException as error:
        # Its whole session: a script's own children, such as ssh, would live on and keep the board busy.
        os.killpg(process.pid, signal.SIGKILL)
        if isinstance(error, subprocess.TimeoutExpired):
            rule = f"the command must end within {timeout_seconds:g} s, but got no end"
            raise MeasurementError(rule) from None
        raise


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _milliseconds(line: str) -> float:
    if not line:
        raise MeasurementError("the command must print milliseconds on its last line, but got no output")
    try:
        milliseconds = float(line)
    except ValueError:
        rule = "the command must print milliseconds, a number alone, on its last line"
        raise MeasurementError(f"{rule}, but got {line!r}") from None
    if not 0 < milliseconds < math.inf:
        raise MeasurementError(f"the command must print milliseconds more than 0, but got {line}")
    return milliseconds
