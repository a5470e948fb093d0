"""One Ray Tune run: candidates as trials on reused evaluator actors."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import ray
from ray import tune
from ray.actor import ActorHandle

from manynet.records.ledger import Ledger
from manynet.search.evaluator import Evaluator, Prepare, Provenance
from manynet.search.gate import Gate
from manynet.search.searcher import ArchitectureSearcher
from manynet.storage import absolute


def fit(
    searcher: ArchitectureSearcher,
    prepare: Prepare,
    ledger: Ledger,
    provenance: Provenance,
    folder: str | Path,
    evaluators: int,
    callbacks: Sequence[tune.Callback],
) -> list[BaseException]:
    """Evaluate the searcher's proposals until it has no more; returns the errors of evaluators that died.

    Args:
        searcher: proposes candidates and takes their results.
        prepare: called once in each evaluator's process; returns the evaluation function.
        ledger: where evaluators write each record before they report it.
        provenance: determines a score besides the architecture.
        folder: local path or filesystem address; Tune's own state goes to ``search`` in it.
        evaluators: candidates evaluated in parallel.
        callbacks: Tune callbacks, called for every trial after the searcher.
    """
    gate = _gate(min(evaluators, searcher.evaluations - len(searcher.done)))
    trainable = tune.with_parameters(
        Evaluator, prepare=prepare, ledger=ledger, provenance=provenance, gate=gate
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, _resources(evaluators)),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=evaluators,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.trial_id),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=absolute(folder),
            callbacks=list(callbacks),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    # Tune prints its settings at any verbosity; progress goes to stderr.
    try:
        with redirect_stdout(io.StringIO()):
            return list(tuner.fit().errors)
    finally:
        # Tune keeps a trainable's arguments for as long as the driver lives.
        ray.kill(gate)


def quiet() -> None:
    """Turn off Tune's own loggers and warnings: the ledger holds all results, and they cost more than trials."""
    # Tune reads both only from the environment. Its loggers would repeat the ledger, and evaluators must
    # resolve relative paths as the driver does.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # If Tune cannot save its own state, nothing is lost: a search resumes from the ledger, which reports a full disk.
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
    # Without its loggers Tune warns that each trial has no metrics. The ledger has them.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    logging.getLogger("ray.tune.tune").setLevel(logging.WARNING)


def _gate(evaluators: int) -> ActorHandle[Gate]:
    # All CPUs, not the free ones: workers of the previous step may not have released theirs yet.
    cpus = int(ray.cluster_resources().get("CPU", 1))
    return ray.remote(num_cpus=0)(Gate).remote(max(1, min(evaluators, cpus)))  # type: ignore[return-value]


def _resources(evaluators: int) -> dict[str, float]:
    share = ray.cluster_resources().get("GPU", 0.0) / evaluators
    return {"cpu": 1, "gpu": 1 if share >= 1 else round(share - 5e-5, 4)} if share else {"cpu": 1}
