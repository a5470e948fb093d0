"""Transfers scaling factors from one family to another: trains its default and its scaled architecture alike."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from manynet.config.settings import FinalistsSettings, TrainSettings
from manynet.data import Data
from manynet.records.ledger import Record
from manynet.runtime.ray_session import connect
from manynet.search.outcome import Evaluation
from manynet.space.fitting import fit_together
from manynet.space.search_space import Architecture, described
from manynet.space.subnet import Subnet, cost
from manynet.storage import join, read_json, write_bytes
from manynet.studies.alone import TEST, Alone, SubnetTrainer
from manynet.studies.scaling_factors import (
    TOLERANCES,
    Family,
    Quantities,
    Scaled,
    ScalingError,
    factors,
    nearest,
)
from manynet.studies.study import Study
from manynet.training import runs as training

logger = logging.getLogger(__name__)
RESULTS = "scaling.json"


@dataclass(frozen=True)
class Contender:
    """An architecture that was trained alone, once for each seed.

    Attributes:
        arch: the architecture.
        macs, parameters: what it costs.
        quantities: of it, by name.
        keys: of its records in the study's ledger, by seed.
        scores: the task's metric on the test split, by seed.
    """

    arch: Architecture
    macs: int
    parameters: int
    quantities: Quantities
    keys: tuple[str, ...]
    scores: tuple[float, ...]

    def __str__(self) -> str:
        return f"{fmean(self.scores):.4f} [{min(self.scores):.4f}, {max(self.scores):.4f}]"


@dataclass(frozen=True)
class Comparison:
    """What a strategy did for another family.

    Attributes:
        source, target: names of the spaces.
        data: name of the data that the contenders were trained on.
        metric: of the scores.
        recipe: by which each was trained, from random weights.
        before, found: quantities of the source's default and of the architecture that search found there.
        found_macs, before_macs: multiply-adds of the two.
        strategy: factors by quantity, of those that both families have.
        left_out: quantities of the source that the target does not have.
        budget: multiply-adds that the contenders were to take.
        tolerance: share of the budget within which both are.
        default, scaled: the contenders.
    """

    source: str
    target: str
    data: str
    metric: str
    recipe: Mapping[str, Any]
    before: Quantities
    found: Quantities
    before_macs: int
    found_macs: int
    strategy: Mapping[str, float]
    left_out: tuple[str, ...]
    budget: int
    tolerance: float
    default: Contender
    scaled: Contender

    @property
    def widened(self) -> bool:
        """Whether no architecture was as near to the budget as it should be."""
        return self.tolerance > TOLERANCES[0]

    @property
    def verdict(self) -> str:
        """One honest sentence."""
        scaled, default = self.scaled.scores, self.default.scores
        figures = (
            f"{self.scaled} against {self.default} test {self.metric}, mean and range of {len(scaled)} seeds"
        )
        if min(scaled) <= max(default) and min(default) <= max(scaled):
            return f"no difference can be claimed: the seeds overlap ({figures})"
        better = "better" if min(scaled) > max(default) else "worse"
        # Of all ways to deal 2n scores to two sides, two set the sides apart.
        chance = math.comb(2 * len(scaled), len(scaled)) // 2
        return (
            f"the scaled {self.target} is {better} in every seed ({figures}); "
            f"chance alone would set them apart 1 time in {chance}"
        )


class ScalingStudy:
    """Applies what a study found to another family, and trains and compares, in the study's folder.

    Whatever was trained before an interruption is taken from the folder.

    Args:
        study: a searched one, of the family that the strategy is found on.
        source: that family; its default is what the found architecture is compared with.
        target: the family that the strategy is applied to.
        recipe: how both contenders are trained; None is as the study's anchors. Its seed is the first.
        seeds: trainings of each.
        macs: multiply-adds of both contenders; None is what the target's default takes, and else the default
            is itself moved to them, with all factors 1.
        found: key of an evaluation, or of its architecture; None is the best with the multiply-adds of the
            source's default, within 10 %.
        data: that they are trained on; None is the study's.

    Raises:
        ManynetError: when anything asked for cannot be done; before anything is trained.
    """

    def __init__(
        self,
        study: Study,
        source: Family,
        target: Family,
        recipe: TrainSettings | None = None,
        seeds: int = 3,
        macs: int | None = None,
        found: str | None = None,
        data: str | Data | None = None,
    ) -> None:
        if seeds < 2:
            raise ScalingError(f"seeds must be at least 2, for a range, but got {seeds}")
        self.study, self.seeds = study, seeds
        self.source = source = replace(source, space=study.space)
        self.recipe = recipe or default_recipe(study)
        training.check(self.recipe, "subnet")
        space, self.data = fit_together(target.space, study.experiment.data if data is None else data)
        self.target = replace(target, space=space)
        self.found = _found(study, source, found)
        grown, own = factors(source, self.found.architecture), self.target.quantities(target.default)
        self.strategy = {name: factor for name, factor in grown.items() if name in own}
        self.left_out = tuple(name for name in grown if name not in own)
        self.default = nearest(self.target, {}, macs)
        self.scaled = nearest(self.target, self.strategy, self.default.budget)
        if self.scaled.arch == self.default.arch:
            asked = ", ".join(f"{name} {factor:.2f}" for name, factor in self.strategy.items())
            raise ScalingError(
                f"the scaled architecture must differ from {space.name!r}'s default, but nothing with as "
                f"many multiply-adds is nearer to factors of {asked}"
            )

    def run(self) -> Comparison:
        """Train what is missing, and compare; also kept in the study's ``scaling.json``."""
        logger.info("scaled: %s", described(self.scaled.arch))
        connect()
        trainer = SubnetTrainer(
            self.target.space, self.data, self.study.ledger, join(self.study.folder, "scaling")
        )

        def judge(subnet: Subnet) -> Evaluation:
            size = self.recipe.batch_size
            return Evaluation(trainer.validation(subnet, size) | trainer.test(subnet, size))

        contenders = [self._alone(arch, seed) for arch in self._archs for seed in range(self.seeds)]
        records = trainer.records(contenders, {"anchor": judge})
        made = Comparison(
            source=self.source.space.name,
            target=self.target.space.name,
            data=self.data.name,
            metric=self.target.space.task.metric,
            recipe=self.recipe.model_dump(),
            before=self.source.quantities(self.source.default),
            found=self.source.quantities(self.found.architecture),
            before_macs=cost(self.source.space, self.source.default).macs,
            found_macs=cost(self.source.space, self.found.architecture).macs,
            strategy=self.strategy,
            left_out=self.left_out,
            budget=self.scaled.budget,
            tolerance=max(self.default.tolerance, self.scaled.tolerance),
            default=self._contender(self.default, records[: self.seeds]),
            scaled=self._contender(self.scaled, records[self.seeds :]),
        )
        self._keep(made)
        return made

    @property
    def _archs(self) -> tuple[Architecture, Architecture]:
        return self.default.arch, self.scaled.arch

    def _alone(self, arch: Architecture, number: int) -> Alone:
        return Alone("anchor", arch, self.recipe.training(seed=self.recipe.seed + number))

    def _contender(self, scaled: Scaled, records: Sequence[Record]) -> Contender:
        space = self.target.space
        return Contender(
            arch=scaled.arch,
            macs=scaled.macs,
            parameters=cost(space, scaled.arch).parameters,
            quantities=self.target.quantities(scaled.arch),
            keys=tuple(record.key for record in records),
            scores=tuple(record.metrics[TEST + space.task.metric] for record in records),
        )

    def _keep(self, made: Comparison) -> None:
        """Add a comparison to those of the folder; the same one again takes its own place."""
        address = join(self.study.folder, RESULTS)
        new = json.loads(json.dumps(asdict(made) | {"verdict": made.verdict}))
        kept = [entry for entry in read_json(address) or [] if _identity(entry) != _identity(new)]
        write_bytes(address, json.dumps([*kept, new], indent=1).encode())


def default_recipe(study: Study) -> TrainSettings:
    """How the study's anchors are trained alone."""
    return (study.experiment.finalists or FinalistsSettings()).anchor


def _found(study: Study, source: Family, key: str | None) -> Record:
    """The evaluation that the strategy is read from."""
    space, metric = study.space, study.space.task.metric
    records = [r for r in study.ledger.read() if r.kind == "evaluation" and r.space == space.digest]
    if key is not None:
        for record in records:
            if key in (record.key, space.key(record.architecture)):
                return record
        raise ScalingError(
            f"found must be the key of an evaluation or its architecture in {study.folder}, but got {key!r}"
        )
    budget = cost(space, source.default).macs
    inside = [
        r for r in records if metric in r.metrics and abs(r.metrics["macs"] / budget - 1) <= TOLERANCES[-1]
    ]
    if not inside:
        raise ScalingError(
            f"search must have evaluated an architecture within {TOLERANCES[-1]:.0%} of the default's "
            f"{budget:,} multiply-adds, but none of {len(records)} is; give search constraints on macs"
        )
    # Many architectures have the same accuracy on a small validation split; the loss orders them.
    return max(inside, key=lambda r: (r.metrics[metric], -r.metrics.get("loss", 0.0), r.key))


def _identity(entry: Mapping[str, Any]) -> list[Any]:
    """Identity of a comparison."""
    return [entry["strategy"], entry["default"]["keys"], entry["scaled"]["keys"]]
