"""The one family of errors a user can cause; the command line prints them as one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from pydantic import ValidationError

_LONGEST_VALUE = 200


class ManynetError(Exception):
    """Something the user can put right: the message gives the rule, then what was got."""


class OutOfService(ManynetError):
    """Something that all further work needs is gone: trying the next candidate would not help."""


class InvalidValue(NamedTuple):
    """A value that pydantic refuses.

    Attributes:
        key: dotted path of the value; empty for the whole input.
        kind: pydantic's type of error.
        rule: pydantic's sentence.
        value: what was given.
    """

    key: str
    kind: str
    rule: str
    value: Any

    @classmethod
    def first(cls, error: ValidationError, within: str = "") -> Self:
        """The first refused value, or the first unknown key: a misspelt key is also one that is missing.

        Args:
            error: pydantic's.
            within: key that holds the input.
        """
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        key = ".".join([within] * bool(within) + [str(part) for part in first["loc"]])
        return cls(key, first["type"], first["msg"], first["input"])

    def line(self, takes: str = "", of: str = "") -> str:
        """Key, rule and value in one line.

        Args:
            takes: which keys are allowed, for an unknown one.
            of: follows the key.
        """
        key = self.key + of
        if self.kind == "extra_forbidden" and takes:
            return f"{key} is not a key; {takes}"
        rule = f"{self.rule[0].lower()}{self.rule[1:]}"
        value = "" if self.kind == "missing" else f", but got {_shortened(self.value)}"
        return f"{key}: {rule}{value}" if key else f"{rule}{value}"


def first_line(error: BaseException) -> str:
    """First line of what an error says; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
