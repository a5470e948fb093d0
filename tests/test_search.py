"""The search over real Ray Tune, Optuna and Parquet; toy evaluations where the score is beside the point."""

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from manynet import data, elastic
from manynet.config.settings import SearchSettings
from manynet.devices import DeviceLostError
from manynet.records.conditions import parse_conditions, parse_objectives
from manynet.records.ledger import Ledger, Record
from manynet.samplers import loading
from manynet.search.checks import SearchError, check_reachable
from manynet.search.distributions import DomainError, complete, distributions
from manynet.search.evaluator import Prepare, Provenance
from manynet.search.outcome import Evaluation
from manynet.search.progress import Progress
from manynet.search.protocol import parse_goals, protocol
from manynet.search.runs import run, search
from manynet.search.scoring import calibration_batches
from manynet.search.searcher import ArchitectureSearcher, Phase
from manynet.space import tasks
from manynet.space.evaluation import score
from manynet.space.search_space import SearchSpace, Supernet
from manynet.space.subnet import extract

PROVENANCE = Provenance("space", "weights", "data", "protocol")


def toy_space(widths: int = 64) -> SearchSpace:
    """Two layers; ``middle`` matters to deep nets only. Local, so that workers get it by value."""

    class Net(Supernet):
        def __init__(self) -> None:
            super().__init__()
            self.stem = elastic.Linear(4, widths)
            self.middle = elastic.Linear(widths, 8)
            self.head = elastic.Linear(max(8, widths), 2)

        def forward(self, x: torch.Tensor, arch: Any) -> torch.Tensor:
            x = self.stem(x, out_features=arch["width"]).relu()
            if arch["deep"]:
                x = self.middle(x, out_features=arch["middle"]).relu()
            return self.head(x)  # type: ignore[no-any-return]

    domains = {
        "deep": tune.choice([False, True]),
        "width": tune.randint(1, widths + 1),
        "middle": tune.choice([2, 8]),
    }
    return SearchSpace("toy", domains, Net, tasks.Classification(2), (4,))


def settings(**given: Any) -> SearchSettings:
    given = {"objectives": ["accuracy:max", "macs:min"], "sampler_options": {"population_size": 6}, **given}
    return SearchSettings(**given)


def toy_metrics(arch: Any) -> dict[str, float]:
    width = float(arch["width"])
    return {"accuracy": 1 - 1 / (1 + width), "loss": 1.0, "macs": width, "parameters": width}


def noted(folder: Path, seconds: float = 0.0, fails: Callable[[Any], bool] = lambda arch: False) -> Prepare:
    """An evaluation that leaves a line in ``folder`` whenever it is called."""

    def prepare() -> Callable[[Any], Evaluation]:
        def evaluate(arch: Any) -> Evaluation:
            with open(folder / "evaluated.txt", "a") as file:
                file.write(json.dumps([os.getpid(), arch]) + "\n")
            time.sleep(seconds)
            if fails(arch):
                raise ValueError("not this one")
            return Evaluation(toy_metrics(arch))

        return evaluate

    return prepare


def notes(folder: Path) -> list[tuple[int, str]]:
    lines = [json.loads(line) for line in (folder / "evaluated.txt").read_text().splitlines()]
    return [(pid, json.dumps(arch, sort_keys=True)) for pid, arch in lines]


# The searcher, without Ray


def searcher(
    space: SearchSpace, evaluations: int = 20, sampler: str = "random", **given: Any
) -> ArchitectureSearcher:
    objectives = parse_objectives(["accuracy:max", "macs:min"])
    conditions = parse_conditions(given.pop("constraints", []))
    return ArchitectureSearcher(
        space,
        objectives,
        conditions,
        loading.load(sampler, {}, 0, objectives),
        PROVENANCE,
        evaluations=evaluations,
        seed=0,
        **given,
    )


def trials(one: ArchitectureSearcher) -> list[optuna.trial.FrozenTrial]:
    return one._study.trials


def finish(one: ArchitectureSearcher, limit: int = 200) -> list[dict[str, Any]]:
    """Evaluate whatever is proposed, one at a time, until the searcher is finished."""
    seen: list[dict[str, Any]] = []
    for index in range(limit):
        arch = one.suggest(str(index))
        if arch == "FINISHED":
            return seen
        assert isinstance(arch, dict)
        seen.append(arch)
        one.on_trial_complete(str(index), toy_metrics(arch))
    raise AssertionError("never finished")


def test_proposes_distinct_canonical_architectures_and_the_anchors_first() -> None:
    space = toy_space()
    seen = finish(searcher(space, 30))
    assert len(seen) == 30 == len({PROVENANCE.key(arch) for arch in seen})
    assert seen[:2] == [space.largest, space.smallest]
    assert all(space.canonical(arch) == arch for arch in seen)
    assert any("middle" not in arch for arch in seen)


def test_architectures_that_were_named_come_before_all_others() -> None:
    space = toy_space()
    named = [space.sample(5), space.sample(6)]
    assert finish(searcher(space, 4, first=named)) == [*named, space.largest, space.smallest]
    assert finish(searcher(space, 1, first=named)) == named[:1]


def test_known_architectures_are_answered_without_a_trial() -> None:
    one = searcher(toy_space(2), 6)
    seen = finish(one)
    # 2 shallow and 4 deep ones: to find the last, the first must have been proposed again.
    assert len(seen) == 6
    complete_trials = [trial for trial in trials(one) if trial.state.name == "COMPLETE"]
    assert len(complete_trials) > 6
    for trial in complete_trials:
        assert trial.values == pytest.approx([1 - 1 / (1 + trial.params["width"]), trial.params["width"]])


def test_pending_architectures_are_not_proposed_again() -> None:
    one = searcher(toy_space(2), 20)
    pending = [one.suggest(str(index)) for index in range(6)]
    assert len({json.dumps(arch) for arch in pending}) == 6
    # All six are pending: there is nothing to propose, but the search is not over either.
    assert one.suggest("6") is None and one.phase is Phase.WAITING
    for index, arch in enumerate(pending):
        assert isinstance(arch, dict)
        one.on_trial_complete(str(index), toy_metrics(arch))
    assert one.suggest("7") == "FINISHED"
    assert one.phase is Phase.EXHAUSTED


def test_a_share_ends_a_tune_run_and_not_the_search() -> None:
    one = searcher(toy_space(), 5)
    one.share(3)
    first = [one.suggest(str(index)) for index in range(3)]
    assert one.suggest("waits") is None, "results of the share are still to come"
    for index, arch in enumerate(first):
        assert isinstance(arch, dict)
        assert one.phase is Phase.WAITING
        one.on_trial_complete(str(index), toy_metrics(arch))
    assert one.suggest("ends") == "FINISHED" and one.phase is Phase.PAUSED
    one.share(3)
    assert len(finish(one)) == 2
    assert one.phase is Phase.COMPLETE and len(one.done) == 5


def test_stops_asking_when_the_last_are_pending() -> None:
    one = searcher(toy_space(), 2)
    first, second = one.suggest("0"), one.suggest("1")
    assert isinstance(first, dict) and isinstance(second, dict)
    assert one.suggest("2") is None
    one.on_trial_complete("0", toy_metrics(first))
    one.on_trial_complete("1", None, error=True)
    assert isinstance(one.suggest("3"), dict), "a failed one does not count"


@pytest.mark.parametrize(
    "result", [{"failure": "ValueError: no"}, {"accuracy": math.nan, "macs": 1}, {"macs": 1}, None]
)
def test_failures_are_told_noted_and_not_repeated(result: dict[str, Any] | None) -> None:
    one = searcher(toy_space(2), 6)
    bad = one.suggest("bad")
    one.on_trial_complete("bad", result, error=result is None)
    assert trials(one)[0].state.name == "FAIL"
    assert len(one.failures) == 1
    seen = finish(one)
    assert bad not in seen and len(seen) == 5


@pytest.mark.parametrize("sampler", ["evolution", "nsga2", "random", "tpe"])
def test_too_dear_architectures_take_no_trial(sampler: str) -> None:
    space = toy_space()
    one = searcher(space, 25, sampler, constraints=["parameters <= 150"])
    seen = finish(one)
    assert len(seen) == 25 and one.too_dear > 0
    assert all(space.read(arch).parameters <= 150 for arch in seen)
    assert space.largest not in seen and space.smallest in seen
    infeasible = [trial for trial in trials(one) if any(v > 0 for v in trial.constraints.values())]
    assert len(infeasible) == one.too_dear
    assert all(trial.values[0] == -math.inf and trial.values[1] > 0 for trial in infeasible)


def test_constraints_on_scores_are_known_before_values() -> None:
    one = searcher(toy_space(), 20, constraints=["accuracy >= 0.9"])
    finish(one)
    for trial in trials(one):
        assert trial.constraints == {"accuracy >= 0.9": pytest.approx((0.9 - trial.values[0]) / 0.9)}


@pytest.mark.parametrize("sampler", ["evolution", "nsga2", "random", "tpe"])
def test_records_prime_the_sampler_and_count(sampler: str) -> None:
    space = toy_space()
    earlier = [space.sample(seed) for seed in range(12)]
    records = [PROVENANCE.record(arch, Evaluation(toy_metrics(arch))) for arch in earlier]
    distinct = len({record.key for record in records})
    one = searcher(space, 20, sampler, records=records)
    assert len(trials(one)) == 12 and all(
        trial.params.keys() == space.domains.keys() for trial in trials(one)
    )
    seen = finish(one)
    assert len(seen) == 20 - distinct
    assert not {PROVENANCE.key(arch) for arch in seen} & {record.key for record in records}


def test_no_trial_is_left_running() -> None:
    one, number = searcher(toy_space(2), 50), 0
    while isinstance(arch := one.suggest(str(number)), dict):
        failed = arch["width"] == 2
        one.on_trial_complete(str(number), {"failure": "ValueError: no"} if failed else toy_metrics(arch))
        number += 1
    states = [trial.state for trial in trials(one)]
    assert all(state.is_finished() for state in states)
    # What had failed was proposed again.
    assert [state.name for state in states].count("FAIL") > len(one.failures) > 0


def test_gives_up_when_the_first_all_fail() -> None:
    one = searcher(toy_space(), 20)
    for index in range(5):
        assert isinstance(one.suggest(str(index)), dict)
        one.on_trial_complete(str(index), {"failure": "ValueError: no"})
    assert one.suggest("5") == "FINISHED" and one.phase is Phase.HOPELESS


def test_gives_up_at_once_when_what_all_need_is_gone() -> None:
    one = searcher(toy_space(), 20)
    assert isinstance(one.suggest("0"), dict)
    one.on_trial_complete("0", {"failure": "DeviceLostError: gone", "hopeless": True})
    assert one.suggest("1") == "FINISHED" and one.phase is Phase.HOPELESS


# What is refused before anything runs


@pytest.mark.parametrize(
    "constraint, message",
    [
        ("parameters <= 3", "a bound on parameters must be within the space's 9 to "),
        ("macs >= 1e9", "a bound on macs must be within the space's 6 to "),
        ("macs == 1", "a bound on macs must be within"),
        ("accuracy >= 75", "a bound on accuracy must be from 0 to 1, but got 'accuracy >= 75'"),
        ("latency@host/torch <= 0", "a bound on latency must be above 0 ms"),
    ],
)
def test_bounds_out_of_reach_are_refused(constraint: str, message: str) -> None:
    with pytest.raises(SearchError) as error:
        check_reachable(toy_space(), parse_conditions(constraint))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_bounds_within_reach_are_not() -> None:
    texts = "parameters <= 1e9 and parameters >= 100 and macs == 100 and accuracy >= 0.5 and loss <= 2"
    check_reachable(toy_space(), parse_conditions(texts))


def test_a_latency_needs_a_device() -> None:
    wanted = settings(objectives=["latency@host/torch:min"])
    with pytest.raises(SearchError, match="needs a device that measures, but got none for 'host/torch'"):
        search(toy_space(), {}, data.digits(), wanted, Ledger("none"), "none", weights_digest="w")


def test_the_protocol_names_what_decides_a_record() -> None:
    def of(**changes: Any) -> str:
        return protocol(settings(**changes), parse_goals(settings(**changes), toy_space().task))

    plain = of()
    assert of(evaluations=7, evaluators=3, sampler="random", seed=1, trackers=["wandb"]) == plain
    decides = {"batch_size": 3, "calibration_batches": 3, "finetune_steps": 3, "validation_examples": 3}
    assert len({plain, *(of(**{name: value}) for name, value in decides.items())}) == 1 + len(decides)
    measured = of(objectives=["latency@b:min"], constraints=["latency@a <= 3"])
    assert measured == plain + " latency@a latency@b"


# Domains


def test_distributions_keep_bounds_steps_scales_and_types() -> None:
    given = distributions(
        {
            "choice": tune.choice(["a", 1, 0.5, True]),
            "randint": tune.randint(1, 5),
            "qrandint": tune.qrandint(3, 13, 4),
            "qrandint1": tune.qrandint(3, 13, 1),
            "lograndint": tune.lograndint(1, 100),
            "uniform": tune.uniform(0.0, 1.0),
            "quniform": tune.quniform(0.2, 0.8, 0.2),
            "loguniform": tune.loguniform(1e-3, 1.0),
        }
    )
    integers, floats = optuna.distributions.IntDistribution, optuna.distributions.FloatDistribution
    assert given == {
        "choice": optuna.distributions.CategoricalDistribution(["a", 1, 0.5, True]),
        "randint": integers(1, 4),
        "qrandint": integers(4, 12, step=4),
        "qrandint1": integers(3, 12),
        "lograndint": integers(1, 99, log=True),
        "uniform": floats(0.0, 1.0),
        "quniform": floats(0.2, 0.8, step=0.2),
        "loguniform": floats(1e-3, 1.0, log=True),
    }


def test_a_domain_without_bounds_is_refused() -> None:
    with pytest.raises(DomainError, match="domain of 'x' must be choice, .* but got Float with _?Normal"):
        distributions({"x": tune.randn(0, 1)})


def test_what_does_not_matter_is_filled_in_at_random() -> None:
    space = distributions(toy_space().domains)
    filled = [complete({"deep": False, "width": 3}, space, seed) for seed in range(20)]
    assert all(one["deep"] is False and one["width"] == 3 for one in filled)
    assert {one["middle"] for one in filled} == {2, 8}
    assert complete({}, space, "key") == complete({}, space, "key")


# With Ray


@pytest.mark.usefixtures("ray_cluster")
def test_a_search_of_trained_weights(tmp_path: Path) -> None:
    digits, measured = data.digits(), []

    class Latency:
        def __init__(self, milliseconds: float) -> None:
            self.milliseconds = milliseconds

        def to_dict(self) -> dict[str, Any]:
            return {"device": "host/torch", "milliseconds": self.milliseconds}

    def measure(subnet: Any, example: Any) -> dict[str, Latency]:
        measured.append(subnet)
        assert subnet(*example).shape == (1, 10)
        return {"host/torch": Latency(float(subnet.arch["width"]))}

    space, network = conv_space(), conv_space().build()
    wanted = settings(
        objectives=["accuracy:max", "latency@host/torch:min"],
        constraints=["macs <= 9000"],
        evaluations=4,
        evaluators=1,
        validation_examples=100,
        calibration_batches=2,
        batch_size=64,
    )
    ledger = Ledger(tmp_path / "ledger")

    def searched() -> list[Record]:
        weights = network.state_dict()
        return search(space, weights, digits, wanted, ledger, tmp_path, weights_digest="w", measure=measure)

    records = searched()
    assert len(records) == 4 == len({record.key for record in records})
    batches = calibration_batches(digits, 2, 64)
    for record in records:
        arch = record.architecture
        subnet = extract(network.eval(), arch, space.example(arch, 1))
        alone = score(subnet, space, digits.validation, batch_size=64, calibration=batches, limit=100)
        cost = space.read(arch)
        assert record.metrics == {
            "accuracy": pytest.approx(alone["accuracy"]),
            "loss": pytest.approx(alone["loss"], rel=1e-5),
            "macs": cost.macs,
            "parameters": cost.parameters,
            "latency@host/torch": arch["width"],
        }
        assert cost.macs <= 9000
        assert record.measurements == [{"device": "host/torch", "milliseconds": arch["width"]}]
        assert (record.space, record.weights, record.data) == (space.digest, "w", digits.digest)
    assert searched() == records, "done already: nothing is evaluated again"
    assert not list((tmp_path / "search").rglob("checkpoint_*"))


def conv_space() -> SearchSpace:
    class Net(Supernet):
        def __init__(self) -> None:
            super().__init__()
            self.stem = elastic.Conv2d(1, 16, kernel_size=3, padding=1)
            self.norm = elastic.BatchNorm2d(16)
            self.head = elastic.Linear(16, 10)

        def forward(self, x: torch.Tensor, arch: Any) -> torch.Tensor:
            width = arch["width"]
            x = self.norm(self.stem(x, out_channels=width), width).relu()
            return self.head(x.mean((2, 3)), in_features=width)  # type: ignore[no-any-return]

    return SearchSpace("conv", {"width": tune.randint(4, 17)}, Net, tasks.Classification(10), (1, 8, 8))


@pytest.mark.usefixtures("ray_cluster")
def test_a_search_outlives_failures_and_ends_with_the_space(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="manynet")
    space = toy_space(4)  # 4 shallow and 8 deep architectures
    fails = [lambda arch: arch["width"] == 3][0]
    ledger = Ledger(tmp_path / "ledger")
    records = run(space, settings(evaluations=12), ledger, noted(tmp_path, 0.02, fails), PROVENANCE, tmp_path)
    assert len(records) == 9 == len(ledger.read())
    archs = [arch for _, arch in notes(tmp_path)]
    assert len(archs) == 12 == len(set(archs))
    assert len({pid for pid, _ in notes(tmp_path)}) == 2, "both evaluators worked, and were kept"
    assert "search ended after 9 of 12 evaluations" in caplog.text
    assert len(re.findall(r"ValueError: not this one \(.*test_search.py, line \d+\)", caplog.text)) == 3
    said = caplog.text + "".join(capfd.readouterr())
    assert "TERMINATED" in said, "each finished candidate has printed the table"
    assert "Traceback" not in said and "TypeError" not in said


@pytest.mark.usefixtures("ray_cluster")
def test_a_long_search_is_several_tune_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("manynet.search.runs.CANDIDATES_A_RUN", 7)
    caplog.set_level(logging.INFO, logger="manynet")
    ledger = Ledger(tmp_path / "ledger")
    records = run(toy_space(), settings(evaluations=16), ledger, noted(tmp_path), PROVENANCE, tmp_path)
    assert len(records) == 16
    assert len(notes(tmp_path)) == 16, "no run repeats what another did"
    assert len({pid for pid, _ in notes(tmp_path)}) > 2, "each run has evaluators of its own"
    assert len(list((tmp_path / "ledger").glob("*.parquet"))) == 1, "and leaves the ledger compacted"
    assert re.search(
        r"\| Trial name .*\| accuracy +\| macs +\|", re.sub(r" +", " ", caplog.text).replace("|", " |")
    )


def test_a_search_without_evaluators_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("manynet.search.progress.PATIENCE_SECONDS", 0.0)
    one = searcher(toy_space())
    progress = Progress(one, parse_objectives(["accuracy:max"]), [], ["width"])
    for iteration in range(3):
        progress.on_step_begin(iteration, [])
    assert caplog.text.count("no evaluator has started") == 1
    begun = Progress(one, parse_objectives(["accuracy:max"]), [], ["width"])
    begun.on_trial_start(0, [], None)
    begun.on_step_begin(1, [])
    assert caplog.text.count("no evaluator has started") == 1


@pytest.mark.usefixtures("ray_cluster")
def test_a_search_ends_when_everything_fails(tmp_path: Path) -> None:
    def prepare() -> Any:
        raise RuntimeError("weights do not fit")

    with pytest.raises(
        SearchError, match="must succeed, but 5 failed, the last with RuntimeError: weights do"
    ):
        run(
            toy_space(),
            settings(evaluations=50, evaluators=1),
            Ledger(tmp_path),
            prepare,
            PROVENANCE,
            tmp_path,
        )


@pytest.mark.usefixtures("ray_cluster")
def test_a_search_ends_when_its_device_is_lost_and_keeps_what_it_has(tmp_path: Path) -> None:
    def prepare() -> Any:
        def evaluate(arch: Any) -> Evaluation:
            if len(Ledger(tmp_path / "ledger").keys()) >= 3:
                raise DeviceLostError("device pi/torch must be served, but its actors are lost")
            return Evaluation(toy_metrics(arch))

        return evaluate

    ledger, some = Ledger(tmp_path / "ledger"), settings(evaluations=50, evaluators=1)
    with pytest.raises(SearchError, match="but 1 failed, the last with DeviceLostError: device pi/torch"):
        run(toy_space(), some, ledger, prepare, PROVENANCE, tmp_path)
    assert len(ledger.read()) == 3


SCRIPT = """
import os
import sys
from pathlib import Path
import ray
from test_search import PROVENANCE, Ledger, noted, run, settings, toy_space
folder = Path(sys.argv[1])
# Its evaluators import this file too.
ray.init(log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}})
run(toy_space(), settings(evaluations=24), Ledger(folder / "ledger"), noted(folder, 0.2), PROVENANCE, folder)
"""


@pytest.fixture
def killed(tmp_path: Path, joining: dict[str, str], when_free: Callable[[], None]) -> Path:
    """A folder whose search was killed half-way."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]])
    command, environment = [sys.executable, str(script), str(tmp_path)], {**joining, "PYTHONPATH": path}
    with subprocess.Popen(command, env=environment) as process:
        ledger, deadline = tmp_path / "ledger", time.monotonic() + 120
        while len(list(ledger.glob("*.parquet"))) < 6:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    when_free()
    return tmp_path


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_search_goes_on_with_what_is_missing(killed: Path) -> None:
    ledger = Ledger(killed / "ledger")
    finished = {json.dumps(dict(r.architecture), sort_keys=True) for r in ledger.read()}
    assert 6 <= len(finished) < 24
    begun = len(notes(killed))
    assert begun - len(finished) <= 2, "at most the evaluations in flight are lost"
    records = run(
        toy_space(), settings(evaluations=24, evaluators=1), ledger, noted(killed), PROVENANCE, killed
    )
    assert len(records) == 24 == len({record.key for record in records})
    again = [arch for _, arch in notes(killed)[begun:]]
    assert len(again) == len(set(again)) == 24 - len(finished)
    assert not finished & set(again)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("algorithm", [None, "optuna"])
def test_a_stock_tuner_runs_on_a_space(tmp_path: Path, algorithm: str | None) -> None:
    space = toy_space()

    def evaluate(config: dict[str, Any]) -> dict[str, float]:
        arch = space.canonical(config)
        return {"width": arch["width"], "size": len(arch)}  # type: ignore[dict-item]

    tuner = tune.Tuner(
        evaluate,
        param_space=space.domains,
        tune_config=tune.TuneConfig(
            metric="width",
            mode="max",
            num_samples=3,
            search_alg=OptunaSearch() if algorithm else None,
            max_concurrent_trials=2 if algorithm else None,
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    assert results.num_terminated == 3 and not results.errors
    assert all(
        1 <= result.metrics["width"] <= 64 for result in map(results.__getitem__, range(3)) if result.metrics
    )
