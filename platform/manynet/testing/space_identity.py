"""The contract of a space's identity: the same in every process, or nothing it found is found again."""

from __future__ import annotations

import pickle
from typing import Any

from ray import cloudpickle

from manynet import references
from manynet.space.search_space import SearchSpace
from manynet.testing.findings import Findings
from manynet.testing.fresh_process import answer

_SEEDS = 3


def check_identity(space: SearchSpace, given: Any, fresh_process: bool, findings: Findings) -> None:
    """Compare digest and keys after pickling, when made again, and in a new process.

    Args:
        space: as it was resolved.
        given: what the check was given.
        fresh_process: whether a new process is started, for a space that a module holds.
        findings: are added to.
    """
    with findings.trying("a space must have a digest"):
        own = _identity(space)
        with findings.trying("a space must pickle, to be sent to workers"):
            copied = pickle.loads(cloudpickle.dumps(space))
            findings.expect(
                _identity(copied) == own,
                "a space must be the same after pickling",
                "has another digest or keys",
            )
        if callable(given) and not isinstance(given, SearchSpace):
            findings.expect(
                _identity(given()) == own,
                "a space that is made again must be the same",
                "has another digest or keys",
            )
        reference = given if isinstance(given, str) else references.find(space)
        if fresh_process and reference is not None:
            with findings.trying("a space must load in a new process"):
                keys = f"[it.digest, *[it.key(it.sample(seed)) for seed in range({_SEEDS})]]"
                found = answer(keys, reference, "manynet.space.search_space:SearchSpace")
                findings.expect(
                    found == own,
                    "digest and keys must be the same in every process",
                    f"are {found[:2]} in another, and here {own[:2]}",
                )


def _identity(space: SearchSpace) -> list[str]:
    return [space.digest, *(space.key(space.sample(seed)) for seed in range(_SEEDS))]
