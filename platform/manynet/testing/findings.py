"""What a check finds: sentences, one for each rule that is broken."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

from manynet import references

T = TypeVar("T")


class Findings:
    """Collects sentences; a rule that is broken many times gives one, of its first case."""

    def __init__(self) -> None:
        self._sentences: dict[str, str] = {}

    def expect(self, holds: object, rule: str, got: str) -> bool:
        """Note ``"<rule>, but <got>."`` unless the rule holds; whether it does."""
        if not holds:
            text = " ".join(f"{rule}, but {got}".split())
            self._sentences.setdefault(rule, f"{text[0].upper()}{text[1:].rstrip('.')}.")
        return bool(holds)

    @contextmanager
    def trying(self, rule: str) -> Iterator[None]:
        """An error in the block is a finding under ``rule``, and ends the block."""
        try:
            yield
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may fail in any way
            self.expect(False, rule, f"raised {one_line(error)}")

    @contextmanager
    def refusing(self, error: type[Exception], rule: str) -> Iterator[None]:
        """The block must raise ``error``; no error, or another one, is a finding."""
        try:
            yield
        except error:
            return
        except (Exception, SystemExit) as other:  # noqa: BLE001 - a plug-in may fail in any way
            self.expect(False, f"{rule} must raise {error.__name__}", f"raised {one_line(other)}")
        else:
            self.expect(False, f"{rule} must raise {error.__name__}", "raised nothing")

    @property
    def sentences(self) -> list[str]:
        """All findings, in the order they were made."""
        return list(self._sentences.values())

    def __bool__(self) -> bool:
        return bool(self._sentences)


def require(findings: Sequence[str]) -> None:
    """Fail a test that has findings.

    Raises:
        AssertionError: with all of them, a line each.
    """
    if findings:
        raise AssertionError("\n".join(["the plug-in must keep its contract, but:", *findings]))


def one_line(error: BaseException) -> str:
    """An error's type and text in one line, of 300 characters at most."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def resolved(kind: type[T], thing: Any, findings: Findings) -> T | None:
    """The ``kind`` that ``thing`` is, makes when called, or names; None with a finding."""
    name = kind.__name__
    if isinstance(thing, str):
        with findings.trying(f"{thing!r} must give a {name}"):
            return references.make(kind, thing)
        return None
    if not isinstance(thing, kind) and callable(thing):
        with findings.trying(f"what makes the {name} must take no arguments and give one"):
            thing = thing()
    findings.expect(isinstance(thing, kind), f"the plug-in must be a {name}", f"is {thing!r:.80}")
    return thing if isinstance(thing, kind) else None


@contextmanager
def isolated(seed: int = 0) -> Iterator[None]:
    """Seed every generator, and leave them, PyTorch's threads and its modes as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    threads, grad, dtype = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    scramble(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)


def scramble(seed: int) -> None:
    """Seed the global generators, which a plug-in must not depend on."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def generators() -> tuple[Any, ...]:
    """State of the global generators, comparable."""
    kind, keys, *rest = np.random.get_state()
    return (
        random.getstate(),
        kind,
        np.asarray(keys).tobytes(),
        tuple(rest),
        torch.get_rng_state().numpy().tobytes(),
    )
