"""Base classes of user-facing errors; the command line prints each as one line."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from pydantic import ValidationError

_LONGEST_VALUE = 200


class ManynetError(Exception):
    """Error that the user can fix: the message states the rule, then the offending value."""


class OutOfService(ManynetError):
    """Fatal error: a resource that all work needs is gone, so the next candidate would fail too."""


class InvalidValue(NamedTuple):
    """A value that fails pydantic's validation.

    Attributes:
        key: dotted path of the value; empty for the whole input.
        kind: pydantic's error type.
        rule: pydantic's message.
        value: the offending value.
    """

    key: str
    kind: str
    rule: str
    value: Any

    @classmethod
    def first(cls, error: ValidationError, within: str = "") -> Self:
        """First error. Unknown keys come first: a misspelt key is also reported as a missing one.

        Args:
            error: raised by pydantic.
            within: key of the input, prefixed to the error's.
        """
        first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
        key = ".".join([within] * bool(within) + [str(part) for part in first["loc"]])
        return cls(key, first["type"], first["msg"], first["input"])

    def line(self, takes: str = "", of: str = "") -> str:
        """Key, rule and value in one line.

        Args:
            takes: sentence on the allowed keys, shown for an unknown one.
            of: text appended to the key.
        """
        key = self.key + of
        if self.kind == "extra_forbidden" and takes:
            return f"{key} is not a key; {takes}"
        rule = f"{self.rule[0].lower()}{self.rule[1:]}"
        value = "" if self.kind == "missing" else f", but got {_shortened(self.value)}"
        return f"{key}: {rule}{value}" if key else f"{rule}{value}"


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its type's name if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def typed_line(error: BaseException) -> str:
    """Type of an error and the first line of its message: exporters explain themselves over pages."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0].strip()}" if text else type(error).__name__


def located_line(error: BaseException, outside: str = "") -> str:
    """Type and message of an error in one line, with the file and line that raised it.

    Args:
        error: was raised.
        outside: a file that is not told of: the one that caught it.
    """
    said = " ".join(str(error).split())
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    told = [(file, line) for file, line in frames if file != outside and not file.startswith("<frozen")]
    place = f" ({told[-1][0]}, line {told[-1][1]})" if told else ""
    return f"{type(error).__name__}{': ' * bool(said)}{said}{place}"


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
