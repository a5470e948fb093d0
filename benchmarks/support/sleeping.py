"""A search whose evaluations sleep, so that what is measured is the search; and bare Ray Tune beside it."""

from __future__ import annotations

import tempfile

from ray import tune

from manynet.config.settings import SearchSettings
from manynet.records.ledger import Ledger, Record
from manynet.search.evaluator import Provenance
from manynet.search.runs import run
from manynet.search.tune import quiet
from manynet.space.search_space import SearchSpace
from support.trials import Empty, Sleeping


def asleep(
    space: SearchSpace, seconds: float, evaluations: int, evaluators: int, sampler: str
) -> list[Record]:
    """Records of a search with sleeping evaluations, in the order in which they ended."""
    settings = SearchSettings(
        objectives=["accuracy:max", "macs:min"],
        evaluations=evaluations,
        evaluators=evaluators,
        sampler=sampler,
    )
    provenance = Provenance(space.digest, "none", "none", "sleep")
    with tempfile.TemporaryDirectory() as folder:
        records = run(space, settings, Ledger(f"{folder}/ledger"), Sleeping(seconds), provenance, folder)
    assert len(records) == evaluations
    return sorted(records, key=lambda record: record.metrics["ended"])


def bare_tune(space: SearchSpace, trials: int, evaluators: int) -> None:
    """As many empty trials as there would be candidates, as sparingly as Tune can."""
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        tune.Tuner(
            tune.with_resources(Empty, {"cpu": 1}),
            param_space=dict(space.domains),
            tune_config=tune.TuneConfig(
                num_samples=trials, max_concurrent_trials=evaluators, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
