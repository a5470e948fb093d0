"""Boards that a user declares: devices reached by a command, in the YAML file that MANYNET_DEVICES names."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator

from manynet.devices.errors import DeviceError
from manynet.errors import InvalidValue

VARIABLE = "MANYNET_DEVICES"
NEEDED = ("{model}", "{threads}")
PLACEHOLDERS = ("{model}", "{batch}", "{threads}")


class Board(BaseModel):
    """One board: how a model is run on it, and what it is.

    Attributes:
        command: a program and its arguments, with placeholders; no shell reads it.
        hardware: the board and its runtime in a line, kept with every measurement.
        timeout_seconds: of one call of the command.
        calls: calls behind a measurement; each prints the milliseconds of one run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str
    hardware: str = Field(min_length=1)
    timeout_seconds: PositiveFloat = 60.0
    calls: int = Field(3, ge=2, le=100)

    @field_validator("command")
    @classmethod
    def _check_command(cls, command: str) -> str:
        """Hold the template to what its words may be.

        ``{threads}`` is needed, since a record that says 4 threads must be of 4.
        """
        shlex.split(command)
        if missing := [word for word in NEEDED if word not in command]:
            raise ValueError(
                f"a command must have {' and '.join(NEEDED)}, and {', '.join(missing)} is missing"
            )
        if wrong := [word for word in re.findall(r"\{\w*\}", command) if word not in PLACEHOLDERS]:
            raise ValueError(f"placeholders must be among {', '.join(PLACEHOLDERS)}, and {wrong[0]} is not")
        return command

    def words(self, model: Path, batch: int, threads: int) -> list[str]:
        """The command's program and arguments, placeholders filled in after it was split: a path stays one word."""
        values = {"{model}": str(model), "{batch}": str(batch), "{threads}": str(threads)}
        words = shlex.split(self.command)
        for placeholder, value in values.items():
            words = [word.replace(placeholder, value) for word in words]
        return words


def declaration() -> Path | None:
    """The file that declares boards, as an absolute path, or None where ``MANYNET_DEVICES`` is not set."""
    given = os.environ.get(VARIABLE)
    return Path(given).absolute() if given else None


def boards() -> dict[str, Board]:
    """The declared boards by their labels; none where no file is named.

    Raises:
        DeviceError: if the file cannot be read, or declares a board wrongly.
    """
    path = declaration()
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DeviceError(f"{VARIABLE} must name a YAML file of boards, but got {reason}") from None
    if not isinstance(content, dict):
        raise DeviceError(f"{path} must hold boards by their labels, but got {content!r:.80}")
    return {_label(label, path): _board(label, entry, path) for label, entry in content.items()}


def _label(label: object, path: Path) -> str:
    if not isinstance(label, str) or not re.fullmatch(r"[A-Za-z0-9_.-]+", label):
        raise DeviceError(
            f"a board's label must be of letters, digits, '_', '.', '-', but got {label!r} in {path}"
        )
    return label


def _board(label: object, entry: object, path: Path) -> Board:
    try:
        return Board.model_validate(entry)
    except ValidationError as error:
        takes = f"a board takes {', '.join(Board.model_fields)}"
        raise DeviceError(InvalidValue.first(error, str(label)).line(takes, of=f" of {path}")) from None
