"""Digests come from declared content alone: equal in every process, different where the content differs."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune
from torch import nn

import manynet as mn
from manynet.space.domains import SpaceError
from manynet.space.identity import content_of, digest


class Kind(Enum):
    PLAIN = 1


class Own(mn.tasks.Classification):
    """A task as users write them, without a ``__repr__``."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(num_classes=10)
        vars(self).update(parts)

    __repr__ = object.__repr__


@dataclass
class Held:
    """Its ``__repr__`` shows the address of what it holds."""

    inner: Any = field(default_factory=lambda: Own())


def weigh(x: float) -> float:
    return x


def scaled(by: float) -> Any:
    def scale(x: float) -> float:
        return x * by

    return scale


CONTENTS: dict[str, Any] = {
    "nothing": {},
    "number": {"rate": 0.5},
    "numpy": {"rate": np.float32(0.25)},
    "text": {"rate": "0.5"},
    "names": {"names": {"b", "a", "c", "longer", "names"}},
    "fewer names": {"names": {"b", "a"}},
    "mapping": {"table": {"x": 1, "y": {"a", "b"}}},
    "list": {"rates": [1, 2, 3]},
    "other list": {"rates": [1, 3, 2]},
    "array": {"prior": np.arange(5)},
    "other array": {"prior": np.arange(6)},
    "objects": {"prior": np.array([{"a", "b"}, None], dtype=object)},
    "tensor": {"prior": torch.arange(5.0)},
    "half tensor": {"prior": torch.arange(5.0).bfloat16()},
    "scalar": {"prior": torch.tensor(1.5)},
    "module": {"criterion": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))},
    "other module": {"criterion": nn.CrossEntropyLoss(weight=torch.tensor([2.0, 1.0]))},
    "enum": {"kind": Kind.PLAIN},
    "kinds": {"dtype": torch.float16, "device": torch.device("cpu"), "type": Own},
    "function": {"weigh": weigh},
    "closure": {"weigh": scaled(2.0)},
    "other closure": {"weigh": scaled(3.0)},
    "partial": {"weigh": functools.partial(weigh, 3)},
    "method": {"weigh": Own(rate=1).loss},
    "nested": {"inner": Own(rate=1)},
    "other nested": {"inner": Own(rate=2)},
    "dataclass": {"held": Held()},
    "bytes": {"magic": b"abc"},
}


def space(task: mn.tasks.Task, options: Any = (4, 8)) -> mn.SearchSpace:
    domains = {"width": tune.choice([4, 8]), "operator": tune.choice(options)}
    return mn.SearchSpace("own", domains, lambda: nn.Linear(1, 1), task, (1,))


def report() -> list[str]:
    """Every digest, and what seeds draw of a set."""
    made = space(Own(), {"conv", "skip", "pool", "attention"})
    draws = [made.draw(np.random.default_rng(seed))["operator"] for seed in range(8)]
    return [*(space(Own(**content)).digest for content in CONTENTS.values()), made.digest, *draws]


@pytest.mark.parametrize("seed", ["1", "2"])
def test_digests_and_draws_are_the_same_in_every_process(seed: str) -> None:
    script = "import test_identity; print(*test_identity.report(), sep='\\n')"
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == report()


def test_other_content_has_another_digest() -> None:
    digests = {name: digest(content_of(Own(**content), "it")) for name, content in CONTENTS.items()}
    assert len(set(digests.values())) == len(digests)


def test_a_main_program_and_its_module_are_one() -> None:
    kind = type("Own", (Own,), {"__module__": "__main__", "__qualname__": "Own"})
    assert content_of(kind(rate=1), "it") == content_of(Own(rate=1), "it")


def test_a_repr_of_its_own_says_what_a_task_is() -> None:
    assert content_of(mn.tasks.Classification(10), "it") == "Classification(num_classes=10)"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"weigh": lambda x: x},
            "the task of 'own'.weigh must be a function with a name, .*, but got a lambda",
        ),
        (
            {"parts": [1, {"lock": threading.Lock()}]},
            r"the task of 'own'.parts\[1\]\['lock'\] must have a content",
        ),
    ],
)
def test_what_cannot_be_digested_is_refused_at_declaration_by_name(
    part: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpaceError, match=message):
        space(Own(**part))


def test_content_that_holds_itself_is_refused() -> None:
    rates: list[Any] = [1]
    rates.append(rates)
    with pytest.raises(SpaceError, match="must have a content that can be digested, but it holds itself"):
        space(Own(rates=rates))
