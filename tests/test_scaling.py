"""Scaling strategies: factors, the architectures nearest to them, and one comparison, stopped and again."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from ray import tune
from typer.testing import CliRunner

import manynet as mn
from manynet.cli import app
from manynet.config.settings import TrainSettings
from manynet.records.ledger import Record
from manynet.search_spaces import pit, vit
from manynet.studies import alone
from manynet.studies import scaling as scaling_study
from manynet.studies.scaling import Comparison, Contender, ScalingStudy
from manynet.studies.scaling_factors import Family, ScalingError, factors, nearest

VIT = Family(vit.tiny, vit.scales, vit.tiny_default)
PIT = Family(pit.tiny, pit.scales, pit.tiny_default)
BUDGET = mn.cost(pit.tiny, pit.tiny_default).macs


def transformer(depth: int, width: int, **others: int) -> dict[str, Any]:
    """An architecture of ``vit.tiny`` whose blocks are alike."""
    every = {"heads": 4, "mlp_ratio": 4, "resolution": 16, "patch_size": 4} | others
    arch = {"depth": depth, "width": width, **{key: every[key] for key in ("resolution", "patch_size")}}
    for block, key in itertools.product(range(depth), ("heads", "mlp_ratio")):
        arch[f"block{block}.{key}"] = every[key]
    return arch


def family(widths: Any, width: int = 100, scales: Any = None) -> Family:
    """A family of single layers of 16 multiply-adds a unit of width."""

    class Net(mn.Supernet):
        def __init__(self) -> None:
            super().__init__()
            self.layer = mn.elastic.Linear(16, 400)

        def forward(self, x, arch):  # type: ignore[no-untyped-def]
            return self.layer(x.flatten(1), out_features=int(arch["width"]))

    space = mn.SearchSpace(
        "layers", {"width": widths}, Net, mn.tasks.Classification(num_classes=10), (1, 4, 4)
    )
    return Family(space, scales or layer_scales, {"width": width})


def layer_scales(arch: Mapping[str, Any]) -> dict[str, float]:
    return {"depth": 1, "width": arch["width"], "resolution": 4, "patch": 1}


def test_the_defaults_have_the_published_proportions_and_nearly_one_budget() -> None:
    for name, default in (("vit", VIT), ("pit", PIT)):
        assert default.space.canonical(default.default) == default.default, name
    assert mn.cost(vit.tiny, vit.tiny_default).macs == pytest.approx(BUDGET, rel=0.1)
    assert vit.tiny_default["width"] / vit.tiny_default["depth"] == 192 / 12
    assert pit.pit_ti["stage0.heads"] * pit.pit_ti["head_dim"] == pit.pit_ti["width"]


def test_quantities_are_means_over_blocks_and_numbers_for_stages() -> None:
    arch = transformer(2, 32) | {"block0.heads": 1, "block1.mlp_ratio": 1}
    assert vit.scales(arch) == {
        "depth": 2,
        "width": 32,
        "resolution": 16,
        "patch": 4,
        "heads": 2.5,
        "mlp_ratio": 2.5,
    }
    assert vit.scales(vit.DEIT_TINY)["heads"] == 3
    found = PIT.quantities(pit.tiny_default)
    assert found["depth"] == (1, 2, 1) and found["patch"] == (8, 4) and found["heads"] == (2, 4, 8)


def test_factors_are_what_quantities_grew_by() -> None:
    found = factors(VIT, transformer(4, 32, heads=2, resolution=24, patch_size=8))
    expected = {
        "depth": 4 / 3,
        "width": 2 / 3,
        "resolution": 1.5,
        "patch": 2,
        "heads": 0.5,
        "mlp_ratio": 1,
    }
    assert found == pytest.approx(expected)
    staged = factors(PIT, pit.tiny_default | {"stage1.depth": 3, "stage2.depth": 2, "stride": 8})
    assert staged["depth"] == 6 / 4 and staged["patch"] == pytest.approx(16 / 12)


@pytest.mark.parametrize(
    "same",
    [
        VIT,
        PIT,
        Family(vit.deit_scaling, vit.scales, vit.DEIT_TINY),
        Family(pit.imagenet, pit.scales, pit.pit_xs),
    ],
    ids=lambda same: same.space.name,
)
def test_factors_of_one_leave_the_default(same: Family) -> None:
    strategy = factors(same, same.default)
    assert set(strategy.values()) == {1.0}
    found = nearest(same, strategy)
    assert found.arch == same.default and found.distance == 0 and found.macs == found.budget


def test_a_deeper_and_narrower_strategy_gives_that_at_equal_macs() -> None:
    strategy = factors(VIT, transformer(4, 32))
    found = nearest(PIT, {name: strategy[name] for name in ("depth", "width")})
    depths = [found.arch[f"stage{stage}.depth"] for stage in range(3)]
    assert sum(depths) > 4 and found.arch["width"] == 16
    assert all(deep >= before for deep, before in zip(depths, (1, 2, 1), strict=True))
    assert found.macs == mn.cost(pit.tiny, found.arch).macs == pytest.approx(BUDGET, rel=0.03)
    wider = nearest(PIT, {"depth": 0.5, "width": 1.4})
    assert wider.arch["width"] == 32 and sum(wider.arch[f"stage{stage}.depth"] for stage in range(3)) < 4


@pytest.mark.parametrize(
    ("strategy", "share"),
    [
        ({"depth": 1.5, "width": 0.67}, 1.0),
        ({"patch": 2.0, "heads": 2.0, "width": 1.3}, 1.0),
        ({"resolution": 1.5, "depth": 1.5, "heads": 2.0}, 0.4),
    ],
)
def test_nothing_that_meets_the_budget_is_nearer(strategy: dict[str, float], share: float) -> None:
    stages = tuple(pit.Stage(depth, (2, 4)) for depth in ((1, 2), (1, 2), (1,)))
    space = pit.space(
        "few",
        resolution=(16, 24),
        patch_size=(8,),
        stride=(4, 8),
        width=(16, 24),
        head_dim=(8,),
        stages=stages,
        mlp_ratio=(4,),
        channels=1,
        classes=10,
    )
    default = {**pit.tiny_default, "head_dim": 8, "stage2.heads": 4}
    few = Family(space, pit.scales, default)
    budget = round(share * mn.cost(space, default).macs)
    wanted = {
        name: [part * strategy.get(name, 1) for part in parts]
        for name, parts in few.quantities(default).items()
    }
    distances = []
    for values in itertools.product(*(domain.categories for domain in space.domains.values())):
        arch = dict(zip(space.domains, values, strict=True))
        if abs(mn.cost(space, arch).macs / budget - 1) <= 0.03:
            has = few.quantities(arch)
            distances.append(
                sum(
                    fmean(math.log(a / b) ** 2 for a, b in zip(has[name], wanted[name], strict=True))
                    for name in wanted
                )
            )
    found = nearest(few, strategy, budget)
    assert found.tolerance == 0.03 and len(distances) > 1
    assert found.distance == pytest.approx(min(distances), abs=1e-9)


def test_beyond_the_last_option_is_the_last_option() -> None:
    most = nearest(PIT, {"depth": 100, "width": 100}, mn.cost(pit.tiny, pit.tiny.largest).macs)
    assert [most.arch[f"stage{stage}.depth"] for stage in range(3)] == [2, 3, 2] and most.arch["width"] == 32
    least = nearest(family(tune.choice([50, 100, 200])), {"width": 0.001}, 800)
    assert least.arch == {"width": 50}


def test_the_budget_is_widened_only_where_nothing_is_inside() -> None:
    layers = family(tune.choice([100, 104, 200]))
    assert nearest(layers, {"width": 2}, 1650).arch == {"width": 104}
    assert nearest(layers, {"width": 2}, 1650).tolerance == 0.03
    assert nearest(layers, {"width": 2}, 1735).tolerance == 0.05
    wide = nearest(layers, {"width": 2}, 1800)
    assert wide.tolerance == 0.1 and wide.arch == {"width": 104}


@pytest.mark.parametrize(
    ("domain", "value"),
    [(tune.randint(90, 111), 107), (tune.qrandint(90, 110, 5), 105), (tune.quniform(90, 110, 5), 105)],
)
def test_ranges_are_listed_by_their_step(domain: Any, value: int) -> None:
    assert nearest(family(domain), {"width": 1.07}, 16 * value).arch["width"] == value


@pytest.mark.parametrize(
    ("strategy", "macs", "message"),
    [
        (
            {},
            10**9,
            r"macs must be from 44,592 to 6,271,104, which 'pit-tiny' reaches, but got 1,000,000,000",
        ),
        ({}, 10, "macs must be from 44,592 to 6,271,104"),
        ({"dpeth": 2}, None, r"must be one of \(width, resolution, patch.*\), but got 'dpeth'"),
        ({"depth": 0}, None, "a factor must be a number above 0, but got depth 0"),
        ({"depth": math.nan}, None, "a factor must be a number above 0, but got depth nan"),
    ],
)
def test_what_cannot_be_scaled_is_one_line(
    strategy: dict[str, float], macs: int | None, message: str
) -> None:
    with pytest.raises(ScalingError, match=message) as raised:
        nearest(PIT, strategy, macs)
    assert "\n" not in str(raised.value)


def test_a_budget_between_architectures_is_one_line() -> None:
    with pytest.raises(
        ScalingError, match=r"within 10% .* but got 2,300: .* the closest takes 1,600"
    ) as raised:
        nearest(family(tune.choice([100, 200])), {}, 2300)
    assert "\n" not in str(raised.value)
    with pytest.raises(ScalingError, match="choices that can be listed, but width is a number from 50"):
        nearest(family(tune.uniform(50, 200)), {})


def test_a_family_that_lacks_a_quantity_is_one_line() -> None:
    with pytest.raises(
        ScalingError, match="'layers' must give depth, width, resolution, patch, but got width"
    ):
        family(tune.choice([100]), scales=lambda arch: {"width": arch["width"]})
    with pytest.raises(ScalingError, match=r"must give numbers above 0, but got depth \(0,\)"):
        family(tune.choice([100]), scales=lambda arch: {**layer_scales(arch), "depth": 0})
    uneven = family(
        tune.choice([100, 200]), scales=lambda a: {**layer_scales(a), "depth": (1,) * (a["width"] // 100)}
    )
    with pytest.raises(ScalingError, match="must give 1 of depth as of the default, but got 2"):
        nearest(uneven, {"width": 2})


def test_a_family_is_loaded_by_references() -> None:
    loaded = Family.load("search_spaces.pit:tiny", "search_spaces.pit:tiny_default")
    assert loaded == PIT
    with pytest.raises(
        ScalingError, match="by the function scales of its module, but search_spaces.dmasking"
    ):
        Family.load("search_spaces.dmasking:tiny", "search_spaces.pit:tiny_default")
    with pytest.raises(mn.ManynetError, match="must name a dict, but names SearchSpace"):
        Family.load("search_spaces.pit:tiny", "search_spaces.pit:tiny")
    with pytest.raises(mn.ManynetError, match="a choice must be one of"):
        Family.load("search_spaces.pit:tiny", "search_spaces.vit:tiny_default")


def searched(folder: Path, *evaluated: tuple[dict[str, Any], float]) -> mn.Study:
    """A study whose ledger holds evaluations with these accuracies."""
    study = mn.Study(folder, "search_spaces.vit:tiny", "digits")
    (folder / "experiment.yaml").parent.mkdir(exist_ok=True)
    (folder / "experiment.yaml").write_text(study.experiment.to_yaml())
    for number, (arch, accuracy) in enumerate(evaluated):
        metrics = {"accuracy": accuracy, "loss": 1.0, "macs": mn.cost(vit.tiny, arch).macs}
        study.ledger.write(
            Record(str(number), "evaluation", vit.tiny.digest, "w", arch, "d", "p", metrics=metrics)
        )
    return study


NARROW = transformer(4, 48, heads=2) | {"block0.mlp_ratio": 2}
OTHER = transformer(2, 64, heads=2)


def test_the_strategy_is_read_from_the_best_of_the_budget(tmp_path: Path) -> None:
    large, small = transformer(4, 64, resolution=32), transformer(1, 32)
    study = searched(tmp_path, (large, 0.99), (NARROW, 0.9), (OTHER, 0.8), (small, 0.95))
    prepared = ScalingStudy(study, VIT, PIT)
    assert prepared.found.architecture == NARROW
    assert prepared.strategy["depth"] == 4 / 3 and prepared.left_out == ()
    assert prepared.default.arch == pit.tiny_default
    assert prepared.scaled.macs == pytest.approx(prepared.default.macs, rel=0.03)
    for key in ("2", vit.tiny.key(OTHER)):
        assert ScalingStudy(study, VIT, PIT, found=key).found.architecture == OTHER
    resized = ScalingStudy(study, VIT, PIT, macs=2_500_000)
    assert resized.default.macs == pytest.approx(2_500_000, rel=0.03)
    assert resized.scaled.macs == pytest.approx(2_500_000, rel=0.03)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seeds": 1}, "seeds must be at least 2, for a range, but got 1"),
        ({"found": "nothing"}, "found must be the key of an evaluation .* but got 'nothing'"),
        ({"found": "0"}, "the scaled architecture must differ from 'pit-tiny'"),
        (
            {},
            r"within 10% of the default's 1,690,464 multiply-adds, but none of 2 is; give search constraints",
        ),
        ({"found": "1", "macs": 10}, "macs must be from"),
        ({"found": "1", "data": "idx:nowhere"}, "nowhere"),
        ({"found": "1", "recipe": TrainSettings()}, "trains"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    # The first asks for what no choice is near: the default remains the nearest.
    same, large = transformer(3, 48, heads=4), transformer(4, 64, resolution=32)
    study = searched(tmp_path, (same, 0.9), (large, 0.9))
    if not asked:
        study = searched(tmp_path / "far", (transformer(1, 32), 0.9), (large, 0.9))
    with pytest.raises(mn.ManynetError, match=message) as raised:
        ScalingStudy(study, VIT, PIT, **asked)
    assert "\n" not in str(raised.value)


def test_a_comparison_is_stopped_and_goes_on_without_training_again(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = searched(tmp_path / "study", (NARROW, 0.9))
    recipe = TrainSettings(
        strategy="trainers.finetune:FineTune",
        steps=2,
        workers=0,
        batch_size=8,
        evaluate_every=2,
        checkpoint_every=2,
    )
    scored = []

    def stops(*args: Any, **kwargs: Any) -> dict[str, float]:
        scored.append(args)
        if len(scored) == 4:
            raise KeyboardInterrupt
        return score(*args, **kwargs)

    score = alone.score
    with monkeypatch.context() as patched:
        patched.setattr(alone, "score", stops)
        with pytest.raises(KeyboardInterrupt):
            ScalingStudy(study, VIT, PIT, recipe=recipe, seeds=2).run()
    assert len([r for r in study.ledger.read() if r.kind == "anchor"]) == 1
    monkeypatch.setattr("manynet.training.runs._run", lambda work: pytest.fail("trained again"))
    made = ScalingStudy(study, VIT, PIT, recipe=recipe, seeds=2).run()
    assert ScalingStudy(study, VIT, PIT, recipe=recipe, seeds=2).run() == made
    records = {r.key: r for r in study.ledger.read()}
    for side in (made.default, made.scaled):
        assert len(set(side.keys)) == 2
        assert [records[key].metrics["test_accuracy"] for key in side.keys] == list(side.scores)
        assert all(records[key].architecture == side.arch for key in side.keys)
    (entry,) = json.loads((tmp_path / "study" / "scaling.json").read_text())
    assert entry["scaled"]["scores"] == list(made.scaled.scores) and entry["verdict"] == made.verdict
    command = ["scale", study.folder, "--default", "search_spaces.vit:tiny_default"]
    command += ["--onto", "search_spaces.pit:tiny", "--onto-default", "search_spaces.pit:tiny_default"]
    monkeypatch.setattr(scaling_study, "default_recipe", lambda study: recipe)
    shown = CliRunner().invoke(app, [*command, "--seeds", "2"])
    assert shown.exit_code == 0, shown.output
    for text in (f"{made.scaled.macs:,}", str(made.scaled), "mean and range", made.verdict[:30]):
        assert text in " ".join(shown.output.split())
    assert len(json.loads((tmp_path / "study" / "scaling.json").read_text())) == 1


def contender(*scores: float) -> Contender:
    return Contender({}, 1, 1, {}, (), scores)


@pytest.mark.parametrize(
    ("default", "scaled", "message"),
    [
        (
            (0.8, 0.82, 0.81),
            (0.83, 0.84, 0.85),
            "the scaled b is better in every seed (0.8400 [0.8300, 0.8500]",
        ),
        ((0.83, 0.84, 0.85), (0.8, 0.82, 0.81), "the scaled b is worse in every seed"),
        ((0.8, 0.82, 0.83), (0.83, 0.84, 0.85), "no difference can be claimed: the seeds overlap"),
        ((0.8, 0.9, 0.81), (0.83, 0.84, 0.85), "no difference can be claimed"),
    ],
)
def test_the_verdict_claims_nothing_where_seeds_overlap(
    default: tuple[float, ...], scaled: tuple[float, ...], message: str
) -> None:
    made = Comparison(
        source="a",
        target="b",
        data="digits",
        metric="accuracy",
        recipe={},
        before={},
        found={},
        before_macs=1,
        found_macs=1,
        strategy={},
        left_out=(),
        budget=1,
        tolerance=0.03,
        default=contender(*default),
        scaled=contender(*scaled),
    )
    assert made.verdict.startswith(message)
    assert made.verdict.endswith("1 time in 10") is ("every seed" in message)
