"""A study from end to end: its folder, its steps called again, killed and resumed, and what it refuses."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hasty import DEVICE
from ray import tune
from typer.testing import CliRunner

import manynet as mn
from manynet import references
from manynet.cli import app
from manynet.cli.watching.study_folder import read_study
from manynet.config.experiment import parse_experiment, read_experiment
from manynet.errors import ManynetError
from manynet.records.formatting import show
from manynet.records.ledger import Ledger
from manynet.studies.study import StudyError

ROOT = Path(__file__).parent.parent
FAST: dict[str, Any] = {"batch_size": 32, "augment": "none", "learning_rate": 3e-3}
TRAIN = {**FAST, "workers": 0, "steps": 60, "evaluate_every": 60, "checkpoint_every": 20}
SEARCH = {"objectives": ["accuracy:max", f"latency@{DEVICE}:min"], "evaluations": 6, "evaluators": 1}
FINALISTS = {
    **FAST,
    "workers": 0,
    "count": 2,
    "steps": 10,
    "anchors": 3,
    "anchor_steps": 10,
    "evaluate_every": 10,
}


class Net(mn.Supernet):
    def __init__(self) -> None:
        super().__init__()
        self.stem = mn.elastic.Conv2d(1, 16, 3, padding=1)
        self.norm = mn.elastic.BatchNorm2d(16)
        self.head = mn.elastic.Linear(16 * 64, 10)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        x = self.norm(self.stem(x, out_channels=arch["width"])).relu()
        return self.head(x.permute(0, 2, 3, 1).flatten(1))


space = mn.SearchSpace(
    "study-conv",
    {"width": tune.choice([2, 3, 4, 6, 8, 10, 12, 16])},
    Net,
    mn.tasks.Classification(10),
    (1, 8, 8),
)
other = mn.SearchSpace("other", {"width": tune.choice([2, 3])}, Net, mn.tasks.Classification(10), (1, 8, 8))
narrow = mn.SearchSpace("narrow", {"width": tune.choice([2, 3])}, Net, mn.tasks.Classification(5), (1, 8, 8))


@pytest.fixture(scope="module")
def study(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> mn.Study:
    made = mn.Study(tmp_path_factory.mktemp("study") / "run", f"{__file__}:space", data="digits")
    made.train(**TRAIN)
    made.search(**SEARCH)
    made.finalists(**FINALISTS)
    made.report()
    return made


def test_the_folder_holds_what_a_study_promises(study: mn.Study) -> None:
    folder = Path(study.folder)
    assert {"experiment.yaml", "supernet", "search", "ledger", "finalists", "report.html"} <= set(
        os.listdir(folder)
    )
    finalists = [one for one in (folder / "finalists").iterdir() if one.is_dir()]
    assert len(finalists) == 2
    assert all(
        {file.name for file in finalist.iterdir()}
        == {"arch.json", "weights.safetensors", "model.onnx", "model.pt2"}
        for finalist in finalists
    )


def test_the_folder_is_seen_as_done_with_its_winners(study: mn.Study) -> None:
    seen = read_study(study.folder)
    assert (seen.step, list(seen.steps)) == ("done", ["train", "search", "finalists"])
    assert [one.metrics for one in seen.winners] == [one.metrics for one in study.winners()]


def test_the_ledger_says_what_was_evaluated(study: mn.Study) -> None:
    records = study.ledger.read()
    evaluations = [r for r in records if r.kind == "evaluation"]
    assert len({study.space.key(r.architecture) for r in evaluations}) == len(evaluations) == 6
    assert all(
        {"accuracy", "loss", "macs", "parameters", f"latency@{DEVICE}"} == set(r.metrics) for r in evaluations
    )
    assert [r.kind for r in records].count("anchor") == 3
    finalists = study.winners()
    assert len(finalists) == 2
    assert all("test_accuracy" in r.metrics and r.measurements for r in finalists)
    assert not any("test_accuracy" in r.metrics for r in evaluations)


def test_scores_in_the_ledger_are_those_of_the_trained_supernet(study: mn.Study) -> None:
    from manynet.config.settings import SearchSettings
    from manynet.search.scoring import calibration_batches
    from manynet.space.evaluation import score

    settings = SearchSettings()
    batches = calibration_batches(study.data, settings.calibration_batches, settings.batch_size)
    network = study.supernet()
    for record in [r for r in study.ledger.read() if r.kind == "evaluation"][:2]:
        subnet = mn.extract(network, record.architecture, space.example(record.architecture))
        again = score(subnet, space, study.data.validation, batch_size=256, calibration=batches)
        assert again["accuracy"] == pytest.approx(record.metrics["accuracy"])
        assert again["loss"] == pytest.approx(record.metrics["loss"], abs=1e-5)


def test_a_finalist_loads_and_scores_what_its_record_says(study: mn.Study) -> None:
    from manynet.space.evaluation import score

    record = study.winners()[0]
    subnet = mn.Subnet.load(Path(study.folder) / record.details["folder"], space)
    found = score(subnet, study.space, study.data.test, batch_size=64)
    assert found["accuracy"] == pytest.approx(record.metrics["test_accuracy"])
    about = json.loads((Path(study.folder) / record.details["folder"] / "arch.json").read_text())
    assert about["preprocessing"]["mean"] == list(study.data.preprocessing()["mean"])


def test_training_scores_and_hands_over_with_renewed_statistics(study: mn.Study) -> None:
    from manynet.search.scoring import calibration_batches
    from manynet.space.evaluation import calibrated, score

    batches = calibration_batches(study.data, 8, 256)
    *_, last = (Path(study.folder) / "supernet" / "curves.jsonl").read_text().splitlines()
    told = json.loads(last)
    for name, arch in (("largest", space.largest), ("smallest", space.smallest)):
        subnet = mn.extract(study.supernet(), arch, space.example(arch))
        again = score(subnet, space, study.data.validation, batch_size=256, calibration=batches)
        assert told[f"{name}/accuracy"] == pytest.approx(again["accuracy"])
        assert told[f"{name}/loss"] == pytest.approx(again["loss"], abs=1e-5)
    for record in study.winners():
        subnet = mn.Subnet.load(Path(study.folder) / record.details["folder"], space)
        kept, renewed = (one.network.norm for one in (subnet, calibrated(subnet, space, batches)))
        torch.testing.assert_close(kept.running_mean, renewed.running_mean)
        torch.testing.assert_close(kept.running_var, renewed.running_var)


def test_best_reads_the_ledger(study: mn.Study) -> None:
    best = study.best("accuracy")
    assert best.metrics["accuracy"] == max(
        r.metrics["accuracy"] for r in study.ledger.read() if r.kind != "anchor"
    )
    bound = sorted(r.metrics["parameters"] for r in study.ledger.read())[2]
    assert study.best("accuracy", where=f"parameters <= {bound}").metrics["parameters"] <= bound
    assert study.best("macs").metrics["macs"] == min(r.metrics["macs"] for r in study.ledger.read())
    assert study.best("test_accuracy").kind == "finalist"
    assert study.best() == best
    with pytest.raises(StudyError, match="a column must be one of .*, but got 'speed'"):
        study.best("speed")
    with pytest.raises(StudyError, match="no subnet .* meets 'parameters <= 1'"):
        study.best("accuracy", where="parameters <= 1")


def test_best_is_printed_by_the_name_of_its_folder_with_units(study: mn.Study) -> None:
    ran = CliRunner().invoke(app, ["best", study.folder, "--by", "test_accuracy"])
    assert ran.exit_code == 0, ran.output
    folder = Path(study.best("test_accuracy").details["folder"]).name
    assert ran.output.split("\n")[0].strip() == f"finalist {folder}"
    assert f"latency@{DEVICE} (ms)" in ran.output


def test_nothing_is_best_before_anything_is_evaluated(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="the study has evaluated no subnet yet"):
        mn.Study(tmp_path / "run", f"{__file__}:space").best()


def test_the_front_and_what_it_chose_are_printed(study: mn.Study) -> None:
    found = study.found()
    ran = CliRunner().invoke(app, ["front", study.folder, "--choice", "width"])
    assert ran.exit_code == 0
    assert f"{len(found.front)} of 6 evaluated subnets are on the front" in ran.stdout
    for record in found.front:
        assert show("accuracy", record.metrics["accuracy"]) in ran.stdout
    shares = [int(share) for share in re.findall(r"(\d+)%", ran.stdout.partition("width")[2])]
    assert len(shares) == 6 and sum(shares) == pytest.approx(100, abs=3)
    assert all(str(record.architecture["width"]) in ran.stdout for record in found.records)


def test_what_front_cannot_show_is_one_clear_line(study: mn.Study, tmp_path: Path) -> None:
    for folder, choice, message in (
        (study.folder, "kernel", r"a choice must be part of a key, such as \(width\), but got 'kernel'"),
        (begun(tmp_path), "width", "a front needs evaluated subnets .*, but got none of 0"),
    ):
        ran = CliRunner().invoke(app, ["front", folder, "--choice", choice])
        assert isinstance(ran.exception, ManynetError)
        assert re.match(message, str(ran.exception)) and "\n" not in str(ran.exception)


def begun(folder: Path) -> str:
    text = f"study: {folder}/begun\nspace: {__file__}:space\ntrain: {{steps: 1}}\n"
    return mn.Study.begin(parse_experiment(text, "x.yaml")).folder


def test_a_step_called_again_does_nothing(study: mn.Study) -> None:
    before = _files(study)
    again = mn.Study(study.folder, space, data="digits")
    again.train(**TRAIN)
    again.search(**SEARCH)
    again.finalists(**FINALISTS)
    assert _files(study) == before


def test_a_step_called_with_other_arguments_says_so_and_stops(study: mn.Study) -> None:
    before = _files(study)
    again = mn.Study.open(study.folder)
    with pytest.raises(StudyError, match="train of .* was begun with steps=60, but got 70"):
        again.train(**(TRAIN | {"steps": 70}))
    with pytest.raises(
        StudyError,
        match="search of .* was begun with sampler='nsga2', but got 'tpe'; sampler decides the result",
    ):
        again.search(**(SEARCH | {"sampler": "tpe"}))
    assert _files(study) == before


def test_a_folder_of_another_space_or_data_is_refused(study: mn.Study) -> None:
    before = _files(study)
    with pytest.raises(StudyError, match="holds a study of another space"):
        mn.Study(study.folder, other, data="digits")
    with pytest.raises(StudyError, match="holds a study of data 'digits', but got 'idx:x'"):
        mn.Study(study.folder, space, data="idx:x")
    assert _files(study) == before


def test_a_missing_evaluation_alone_is_done_again(study: mn.Study, tmp_path: Path) -> None:
    records = study.ledger.read()
    lost = next(r for r in records if r.kind == "evaluation")
    folder = tmp_path / "run"
    shutil.copytree(study.folder, folder)
    for file in (folder / "ledger").iterdir():
        file.unlink()
    ledger = Ledger(folder / "ledger")
    for record in records:
        if record.key != lost.key:
            ledger.write(record)
    mn.Study.open(folder).search(**SEARCH)
    after = {r.key: r for r in ledger.read()}
    kept = {r.key: r.created for r in records if r.key != lost.key}
    assert {key: after[key].created for key in kept} == kept
    assert len([r for r in after.values() if r.kind == "evaluation"]) == 6


def test_a_damaged_weights_file_is_one_clear_line(study: mn.Study, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(study.folder, folder)
    weights = folder / "supernet" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ManynetError, match="weights must be as they were written"):
        mn.Study.open(folder).supernet()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.train(stpes=3), "train.stpes is not a key"),
        (lambda s: s.train(strategy="trainers.sandwich:Toast"), "names nothing"),
        (lambda s: s.train(strategy="trainers.finetune:FineTune"), "trains a supernet"),
        (lambda s: s.train(batch_size=9, workers=2), "batch_size must be a multiple of workers"),
        (lambda s: s.search(), "the supernet of .* must be trained first|train of .* must have run"),
        (lambda s: s.finalists(), "finalists needs search"),
        (lambda s: s.supernet(), "train of .* must have run"),
    ],
)
def test_what_a_new_study_cannot_do_is_one_clear_line(tmp_path: Path, call: Any, message: str) -> None:
    made = mn.Study(tmp_path / "run", space, data="digits")
    with pytest.raises(ManynetError, match=message) as caught:
        call(made)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "nsga3"}, "sampler must be one of"),
        ({"objectives": ["speed:max"]}, "speed"),
        ({"objectives": ["accuracy:up"]}, "accuracy:up"),
        ({"constraints": ["parameters < few"]}, "few"),
        ({"constraints": ["parameters <= 1"]}, "parameters must be within"),
        ({"constraints": ["accuracy >= 2"]}, "from 0 to 1"),
        ({"constraints": ["latency@host/torch <= 1e-6"]}, "cannot be met: the smallest subnet takes"),
        ({"objectives": ["latency@moon/torch:min"]}, "moon/torch"),
        ({"objectives": ["latency@host/abacus:min"]}, "abacus"),
        (
            {"objectives": ["latency@host/torch?threads=2&batch=8:min"]},
            "must be spelled 'host/torch.batch=8&threads=2'",
        ),
    ],
)
def test_a_search_that_cannot_work_is_one_clear_line(
    study: mn.Study, tmp_path: Path, changes: Any, message: str
) -> None:
    folder = _trained_only(study, tmp_path / "run")
    with pytest.raises(ManynetError, match=message) as caught:
        mn.Study.open(folder).search(**(SEARCH | changes))
    assert "\n" not in str(caught.value)


def test_labels_that_the_task_does_not_have_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(
        ManynetError, match="digits does not fit space 'narrow': labels must be 0 to 4, but got 9"
    ):
        mn.Study(tmp_path, narrow).data  # noqa: B018


def test_a_folder_without_a_study_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="a study's folder must hold experiment.yaml"):
        mn.Study.open(tmp_path)


def test_a_killed_driver_loses_no_finished_evaluation(
    study: mn.Study,
    tmp_path: Path,
    joining: dict[str, str],
    when_free: Callable[[], None],
    manynet: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    folder = _trained_only(study, tmp_path / "run")
    search = SEARCH | {"evaluations": 8, "evaluators": 1}
    script = f"import manynet as mn\nmn.Study.open({str(folder)!r}).search(**{search!r})\n"
    driver = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env=joining, start_new_session=True
    )
    ledger = Ledger(folder / "ledger")
    deadline = time.monotonic() + 240
    while len(ledger.read()) < 3 and time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    when_free()
    before = {r.key: r.created for r in ledger.read()}
    assert 3 <= len(before) < 8
    resumed = manynet("resume", str(folder), cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    after = {r.key: r.created for r in ledger.read()}
    assert {key: after[key] for key in before} == before
    assert len(after) == 8


def test_every_presets_domains_run_in_a_stock_tuner(ray_cluster: None, tmp_path: Path) -> None:
    from ray.tune.search.optuna import OptunaSearch

    presets = [
        f"vit:{name}" for name in ("tiny", "autoformer_t", "autoformer_s", "autoformer_b", "deit_scaling")
    ]
    presets += ["nasrec:tiny", "nasrec:full", "dmasking:tiny", "dmasking:fbnetv2"]
    presets += ["pit:tiny", "pit:imagenet"]
    found: dict[str, mn.SearchSpace] = {
        preset: references.load(f"search_spaces.{preset}") for preset in presets
    }
    # All of them at once: a run of Tune's for each takes a minute in all.
    for algorithm in (None, OptunaSearch(metric=presets[0], mode="min", seed=0)):
        results = tune.Tuner(
            tune.with_resources(_macs_of(presets), {"cpu": 0.5}),
            param_space={preset: space.domains for preset, space in found.items()},
            tune_config=tune.TuneConfig(
                num_samples=2,
                search_alg=algorithm,
                metric=presets[0],
                mode="min",
                max_concurrent_trials=1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        ).fit()
        assert not results.errors and len(results) == 2
        for result in results:
            for preset, space in found.items():
                arch = space.canonical(result.config[preset])
                assert mn.cost(space, arch).macs == result.metrics[preset]


def _macs_of(presets: list[str]) -> Any:
    def evaluate(config: dict[str, Any]) -> dict[str, float]:
        import manynet as mn
        from manynet import references

        costs = {}
        for preset in presets:
            space = references.load(f"search_spaces.{preset}")
            costs[preset] = mn.cost(space, space.canonical(config[preset])).macs
        return costs

    return evaluate


def _files(study: mn.Study) -> dict[str, float]:
    return {str(f): f.stat().st_mtime for f in Path(study.folder).rglob("*") if f.is_file()}


def _trained_only(study: mn.Study, folder: Path) -> Path:
    """A copy of a study as it was between training and search."""
    shutil.copytree(study.folder, folder, ignore=shutil.ignore_patterns("ledger", "finalists", "subnets"))
    experiment = (folder / "experiment.yaml").read_text()
    head = experiment[: experiment.index("search:")]
    (folder / "experiment.yaml").write_text(f"{head}space_digest: {space.digest}\n")
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["space=search_spaces.vit:huge"], "names nothing"),
        (
            ["space=manynet.studies.study:Study"],
            "must give a SearchSpace when called without arguments, but raised",
        ),
        (["data=cifar"], "data must be one of"),
        (["search.sampler=nope"], "sampler must be one of"),
        (["search.constraints=[parameters <= 3]"], "parameters must be within"),
        (["finalists.where=speed > 3"], "speed"),
        (["finalists.strategy=trainers.sandwich:Sandwich"], "trains a subnet"),
    ],
)
def test_an_experiment_that_cannot_work_leaves_nothing_behind(
    ray_cluster: None, tmp_path: Path, changes: list[str], message: str
) -> None:
    folder = tmp_path / "run"
    experiment = ROOT / "examples" / "vit-digits.yaml"
    with pytest.raises(ManynetError, match=message) as caught:
        mn.Study.begin(read_experiment(experiment, [*changes, f"study={folder}"]))
    assert "\n" not in str(caught.value)
    assert not folder.exists()
