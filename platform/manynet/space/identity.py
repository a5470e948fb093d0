"""Digests of declared content: the same in every process, whatever memory addresses and hash seeds are."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn

from manynet.space.domains import SpaceError

_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


def digest(content: Any) -> str:
    """Digest of JSON values, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def content_of(value: object, what: str) -> Any:
    """What decides how an object behaves, as JSON values: its ``repr`` if it has one of its own, else its parts.

    Classes and functions count by their name, without their module: a script's is ``__main__`` while it runs.

    Args:
        value: an object of a user's own.
        what: its name in messages.

    Raises:
        SpaceError: for something whose content cannot be told, such as an open file or a lambda.
    """
    return _Describer().of(value, what)


class _Describer:
    """Describes nested values, each object once: one that holds itself would not end."""

    def __init__(self) -> None:
        self._inside: list[int] = []

    def of(self, value: Any, what: str) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if id(value) in self._inside:
            raise SpaceError(f"{what} must have a content that can be digested, but it holds itself")
        self._inside.append(id(value))
        try:
            return self._known(value, what)
        finally:
            self._inside.pop()

    def _known(self, value: Any, what: str) -> Any:
        if isinstance(value, np.ndarray) and value.dtype == object:
            value = value.tolist()
        if isinstance(value, bytes | np.ndarray | torch.Tensor):
            return _of_numbers(value)
        if isinstance(value, Enum):
            return [type(value).__qualname__, value.name]
        if isinstance(value, Mapping):
            pairs = [[self.of(k, what), self.of(v, f"{what}[{k!r:.40}]")] for k, v in value.items()]
            return ["mapping", *sorted(pairs, key=json.dumps)]
        if isinstance(value, AbstractSet):
            return ["set", *sorted((self.of(one, what) for one in value), key=json.dumps)]
        if isinstance(value, Sequence):
            return ["sequence", *(self.of(one, f"{what}[{place}]") for place, one in enumerate(value))]
        if isinstance(value, functools.partial):
            return ["partial", *(self.of(part, what) for part in (value.func, value.args, value.keywords))]
        if isinstance(value, MethodType):
            return [value.__func__.__qualname__, self.of(value.__self__, what)]
        if isinstance(value, type | FunctionType | BuiltinFunctionType):
            return self._of_named(value, what)
        return self._of_object(value, what)

    def _of_named(self, value: Any, what: str) -> Any:
        if "<lambda>" in value.__qualname__:
            raise SpaceError(
                f"{what} must be a function with a name, by which it is digested, but got a lambda"
            )
        captured = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        return ["name", value.__qualname__, *(self.of(one, what) for one in captured)]

    def _of_object(self, value: Any, what: str) -> Any:
        kind = type(value)
        if isinstance(value, torch.dtype | torch.device):
            return str(value)
        if isinstance(value, nn.Module):
            return [kind.__qualname__, repr(value), self.of(value.state_dict(), what)]
        written = repr(value)
        if not _ADDRESS.search(written):
            return written
        if hasattr(value, "__dict__"):
            parts = vars(value)
        elif dataclasses.is_dataclass(value):
            parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        else:
            raise SpaceError(
                f"{what} must have a content that can be digested, or a __repr__ that tells it, but is a "
                f"{kind.__qualname__}"
            )
        return [kind.__qualname__, {name: self.of(part, f"{what}.{name}") for name, part in parts.items()}]


def _of_numbers(value: bytes | np.ndarray[Any, Any] | torch.Tensor) -> list[Any]:
    if isinstance(value, bytes):
        return ["bytes", hashlib.sha256(value).hexdigest()]
    kind, shape = str(value.dtype), list(value.shape)
    if isinstance(value, torch.Tensor):
        # As bytes: NumPy has no bfloat16.
        value = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return ["numbers", kind, shape, hashlib.sha256(value.tobytes()).hexdigest()]
