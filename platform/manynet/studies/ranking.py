"""Ranking quality of training strategies: anchors trained alone against their scores in each supernet."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import cast

import ray
import torch

from manynet import references
from manynet.config.experiment import ExperimentError
from manynet.config.ranking import RankSettings
from manynet.config.settings import SearchSettings, TrainSettings
from manynet.data import Data
from manynet.records.ledger import Ledger
from manynet.records.rank_correlation import Correlation, RankingQuality, kendall, pearson
from manynet.runtime.ray_session import connect
from manynet.search import checks
from manynet.search.evaluator import Provenance
from manynet.search.outcome import Evaluation
from manynet.search.protocol import parse_goals, provenance
from manynet.search.scoring import Scoring
from manynet.space.fitting import fit_together
from manynet.space.search_space import Architecture, SearchSpace
from manynet.space.subnet import Subnet
from manynet.storage import absolute, join, write_bytes
from manynet.studies.alone import Alone, SubnetTrainer
from manynet.training import runs as training

logger = logging.getLogger(__name__)
_MOST_DRAWS = 1000


@dataclass(frozen=True)
class Row:
    """One way to rank, and how well it does.

    Attributes:
        space, strategy: as the settings name them.
        finetuned: whether each candidate's last layer learnt before it was scored.
        tau: Kendall's, between scores with shared weights and alone.
        pearson: of the same scores.
        shared, alone: the scores, by anchor.
    """

    space: str
    strategy: str
    finetuned: bool
    tau: RankingQuality
    pearson: Correlation
    shared: tuple[float, ...]
    alone: tuple[float, ...]


@dataclass(frozen=True)
class Subject:
    """A space with its anchors."""

    name: str
    space: SearchSpace
    anchors: Sequence[Architecture]


class RankingStudy:
    """Trains anchors alone and a supernet for every strategy, and compares their rankings, in one folder.

    Whatever was finished before an interruption is taken from the folder.

    Args:
        settings: of the comparison.

    Raises:
        ManynetError: when anything asked for cannot be done; before anything is trained.
    """

    def __init__(self, settings: RankSettings) -> None:
        self.settings = settings
        self.folder = absolute(settings.study)
        self.ledger = Ledger(join(self.folder, "ledger"))
        self.anchors = settings.anchors.training()
        loaded: str | Data = settings.data
        self.subjects = []
        for name, place in settings.spaces.items():
            space, loaded = fit_together(references.make(SearchSpace, place), loaded)
            self.subjects.append(
                Subject(name, space, anchors(space, settings.anchors.count, self.anchors.seed))
            )
        assert isinstance(loaded, Data)
        self.data = loaded
        self._check()

    def run(self) -> list[Row]:
        """Do what is missing; one row for each space, strategy, and use of fine-tuning.

        Also writes ``ranking.json``, with all scores.
        """
        connect()
        rows = []
        for subject in self.subjects:
            alone = self._alone(subject)
            for strategy, settings in self.settings.strategies.items():
                for finetuned, shared in self._shared(subject, strategy, settings):
                    quality, linear = kendall(shared, alone), pearson(shared, alone)
                    rows.append(
                        Row(subject.name, strategy, finetuned, quality, linear, tuple(shared), tuple(alone))
                    )
                    logger.info("%s, %s, %s: %s", subject.name, strategy, _tuned(finetuned), quality)
        write_bytes(
            join(self.folder, "ranking.json"), json.dumps([asdict(r) for r in rows], indent=1).encode()
        )
        return rows

    def _check(self) -> None:
        training.check_packages(self.data)
        training.check(self.anchors, "subnet")
        for subject in self.subjects:
            for finetuned in self._finetuning():
                scoring = self._scoring(finetuned, subject.space)
                checks.check(subject.space, scoring, parse_goals(scoring, subject.space.task))
        for settings in self.settings.strategies.values():
            training.check(settings, "supernet")
        places = [_slug(name) for name in (*self.settings.spaces, *self.settings.strategies)]
        if "" in places or len(set(places)) < len(places):
            raise ExperimentError(
                f"names of spaces and strategies must differ in letters and digits, but got {', '.join(places)}"
            )

    def _finetuning(self) -> tuple[bool, ...]:
        return (False, True) if self.settings.score.finetune_steps else (False,)

    def _scoring(self, finetuned: bool, space: SearchSpace) -> SearchSettings:
        # The one objective is for the protocol: nothing is measured, so there must be no latency in it.
        settings = self.settings.score.search(finetuned)
        return settings.model_copy(update={"objectives": [f"{space.task.metric}:max"]})

    def _alone(self, subject: Subject) -> list[float]:
        """What each anchor reaches alone, on the validation split."""
        logger.info("%s: %d anchors alone", subject.name, len(subject.anchors))
        folder = join(self.folder, _slug(subject.name), "anchors")
        trainer = SubnetTrainer(subject.space, self.data, self.ledger, folder)

        def judge(subnet: Subnet) -> Evaluation:
            return Evaluation(trainer.validation(subnet, self.settings.score.batch_size))

        anchors = [Alone("anchor", arch, self.anchors) for arch in subject.anchors]
        records = trainer.records(anchors, {"anchor": judge})
        return [record.metrics[subject.space.task.metric] for record in records]

    def _shared(
        self, subject: Subject, strategy: str, settings: TrainSettings
    ) -> Iterator[tuple[bool, list[float]]]:
        """The anchors' scores with one supernet's weights, without and with fine-tuning."""
        logger.info("%s, %s: supernet", subject.name, strategy)
        space = subject.space
        folder = join(self.folder, _slug(subject.name), _slug(strategy))
        trained = training.train_supernet(space, self.data, settings, folder)
        weights = ray.put(cast(Mapping[str, torch.Tensor], training.load_weights(trained.weights)))
        tasks, made = [], []
        for finetuned in self._finetuning():
            scoring = Scoring(space, weights, self.data, self._scoring(finetuned, space))
            goals = parse_goals(scoring.settings, space.task)
            made.append(provenance(space.digest, trained.digest, self.data.digest, scoring.settings, goals))
            tasks.append(_evaluate.remote([scoring], made[-1], self.ledger, subject.anchors))
        ray.get(tasks)
        found = {record.key: record for record in self.ledger.read()}
        for finetuned, scored in zip(self._finetuning(), made, strict=True):
            yield (
                finetuned,
                [found[scored.key(arch)].metrics[space.task.metric] for arch in subject.anchors],
            )


@ray.remote(num_cpus=1)
def _evaluate(
    scoring: list[Scoring], provenance: Provenance, ledger: Ledger, archs: Sequence[Architecture]
) -> None:
    """Score what the ledger lacks; ``scoring`` is in a list so that Ray leaves its reference to weights alone."""
    done = ledger.keys()
    missing = [arch for arch in archs if provenance.key(arch) not in done]
    if missing:
        evaluate = scoring[0]()
        for arch in missing:
            ledger.write(provenance.record(arch, evaluate(arch)))


def anchors(space: SearchSpace, number: int, seed: int) -> list[Architecture]:
    """Different architectures, drawn from the space's prior.

    Raises:
        ExperimentError: when the space has too few.
    """
    found: dict[str, Architecture] = {}
    for draw in count():
        arch = space.sample(seed * _MOST_DRAWS + draw)
        found.setdefault(space.key(arch), arch)
        if len(found) == number:
            return list(found.values())
        if draw == _MOST_DRAWS + number:
            raise ExperimentError(
                f"anchors.count must be at most what {space.name!r} has, but got {number} and found {len(found)}"
            )
    raise AssertionError


def verdict(rows: Sequence[Row]) -> str:
    """One sentence: which way ranks best, and how many others its interval excludes."""
    best = max(rows, key=lambda row: row.tau.tau)
    level = [row for row in rows if row is not best and row.tau.high >= best.tau.low]
    name = f"{best.space}, {best.strategy}, {_tuned(best.finetuned)}"
    if len(level) == len(rows) - 1:
        return f"{name} has the highest tau, but with {best.tau.count} anchors its interval overlaps all the others"
    return (
        f"{name} has the highest tau; with {best.tau.count} anchors it is distinct from {len(rows) - 1 - len(level)} "
        f"of {len(rows) - 1} other ways"
    )


def order(rows: Sequence[Row]) -> str:
    """One sentence: how often the first strategy, the first space, and fine-tuning rank best, all else being equal."""
    first = rows[0]
    claims = {
        f"{first.strategy} over other strategies": [
            (a, b) for a, b in _differing(rows, "strategy") if a.strategy == first.strategy
        ],
        f"{first.space} over other spaces": [
            (a, b) for a, b in _differing(rows, "space") if a.space == first.space
        ],
        "fine-tuning over none": [(a, b) for a, b in _differing(rows, "finetuned") if a.finetuned],
    }
    distinct = sum(a.tau.low > b.tau.high for pairs in claims.values() for a, b in pairs)
    counts = [
        f"{claim} in {sum(a.tau.tau > b.tau.tau for a, b in pairs)} of {len(pairs)}"
        for claim, pairs in claims.items()
        if pairs
    ]
    total = sum(map(len, claims.values()))
    return f"pairs that differ in one thing: {', '.join(counts)}; intervals are disjoint in {distinct} of the {total}"


def _differing(rows: Sequence[Row], thing: str) -> list[tuple[Row, Row]]:
    """Pairs of rows that differ in one of space, strategy and fine-tuning alone, both ways round."""
    others = {"space", "strategy", "finetuned"} - {thing}
    return [
        (a, b)
        for a in rows
        for b in rows
        if getattr(a, thing) != getattr(b, thing)
        and all(getattr(a, other) == getattr(b, other) for other in others)
    ]


def _tuned(finetuned: bool) -> str:
    return "fine-tuned" if finetuned else "not fine-tuned"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
