"""A study: the steps from a space to exported winners, in order, and the folder they live in."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from torch import nn

from manynet import references
from manynet.config.experiment import Experiment, parse_experiment, takes, variants
from manynet.config.settings import FinalistsSettings, SearchSettings, Settings, TrainSettings
from manynet.data import Data
from manynet.data.own import is_spelled, recorded_name
from manynet.errors import ManynetError
from manynet.latency import sources
from manynet.records.conditions import (
    Condition,
    Objective,
    check_columns,
    latency_devices,
    parse_conditions,
)
from manynet.records.ledger import Kind, Ledger, Record
from manynet.records.rank_correlation import FEWEST, RankingQuality, kendall
from manynet.records.selection import anchors, winners
from manynet.report import ReportContent, write_report
from manynet.report.live import SECONDS_BETWEEN, refreshed
from manynet.runtime.modules import find_again, located
from manynet.runtime.ray_session import connect
from manynet.search.runs import check, provenance, search, wanted
from manynet.space.fitting import fit_together
from manynet.space.search_space import SearchSpace, described
from manynet.space.subnet import cost
from manynet.storage import absolute, basename, check_writable, exists, join, read_bytes, write_bytes
from manynet.studies import devices as study_devices
from manynet.studies.baseline import fit_baseline
from manynet.studies.finalists import TEST, Handover, anchor_settings, winner_settings
from manynet.studies.transfer.comparison import Transfer
from manynet.studies.transfer.runs import transfer_search
from manynet.studies.transfer.runs import write as write_transfer
from manynet.telemetry import finalists_file as watching_winners
from manynet.telemetry.search_status import Member
from manynet.training import runs as training
from manynet.training.runs import Trained

logger = logging.getLogger(__name__)
S = TypeVar("S", bound=Settings)
EXPERIMENT = "experiment.yaml"
FILES = ("arch.json", "weights.safetensors", "model.onnx", "model.pt2")


class StudyError(ManynetError):
    """A study's folder holds something else, or a step before this one is missing."""


class Study:
    """A supernet's training, its search and its winners, in one folder that any step can be resumed from.

    A step called again with the same arguments goes on where it was, or does nothing; with others it
    says so and stops.

    Args:
        folder: local, or any filesystem address that pyarrow opens and all nodes reach.
        space: the search space, or where it is found: ``module:name``.
        data: ``"digits"``, ``"idx:PATH"``, ``"images:PATH"``, ``"parquet:ADDRESS"``, ``"module:name"`` of a user's own,
            or the data itself.

    Raises:
        StudyError: when the folder holds a study of another space or other data.
        StorageError: when the address cannot be read; the first step says so when it cannot be written.
    """

    def __init__(self, folder: str | Path, space: SearchSpace | str, data: str | Data = "digits") -> None:
        references.stop_if_reading_script()
        self.folder = absolute(folder)
        self._declared = references.load_one(SearchSpace, space) if isinstance(space, str) else space
        self._data = data
        self._result: Trained | None = None
        found = space if isinstance(space, str) else references.find(space)
        name = recorded_name(data)
        self.ledger = Ledger(join(self.folder, "ledger"))
        asked = Experiment(study=self.folder, space=found or "", data=name, space_digest=self.space.digest)
        self.experiment = self._recorded(asked)

    @classmethod
    def open(cls, folder: str | Path) -> Study:
        """The study that a folder holds.

        Raises:
            StudyError: when it holds none, or its space or data cannot be found again.
        """
        experiment = recorded(folder)
        if experiment.sweep:
            raise StudyError(
                f"{folder} holds several studies; name one of them: {', '.join(variants(experiment))}"
            )
        if not experiment.space:
            raise StudyError(
                f"{folder} cannot be resumed by name: its space was made where no module or script holds it"
            )
        find_again(experiment.modules)
        if not is_spelled(experiment.data):
            raise StudyError(
                f"{folder} cannot be resumed by name: its data {experiment.data!r} were made where no module or "
                f"script holds them; call Study(folder, space, data) with the data themselves"
            )
        return cls(folder, experiment.space, experiment.data)

    @classmethod
    def begin(cls, experiment: Experiment) -> Study:
        """The study of an experiment, with all its steps on record and checked before the first runs.

        Raises:
            ManynetError: when a step cannot be done, or the folder cannot be written.
        """
        study = cls(experiment.study, experiment.space, experiment.data)
        study.data  # noqa: B018  (loading checks it)
        for name, settings in experiment.steps.items():
            study._check_same(name, settings)
            study._check(name, settings)
        check_writable(study.folder)
        for name, settings in experiment.steps.items():
            study._begin(name, settings)
        return study

    def run(self) -> None:
        """Run every step on record, in order, and write the report; finished steps are not repeated."""
        logger.info(
            "%s: %d choices, %.3g combinations", self.space.name, len(self.space.domains), self.space.size
        )
        for name, settings in self.experiment.steps.items():
            logger.info("%s", name)
            getattr(self, name)(**settings.model_dump())
        self.report()

    @property
    def space(self) -> SearchSpace:
        """The search space, made for the data's features where its network depends on them."""
        return self._declared if self._declared.features is None else self._fitted[0]

    @property
    def data(self) -> Data:
        """The data set, converted to what the space takes."""
        return self._fitted[1]

    @takes(TrainSettings)
    def train(self, settings: TrainSettings) -> None:
        """Train the supernet; arguments are the fields of :class:`manynet.config.settings.TrainSettings`."""
        self._begin("train", settings)
        if self._is_trained():
            return
        check_writable(self.folder)
        connect(self._device_names(), self.folder)
        with self._report_refreshed():
            trained = training.train_supernet(self.space, self.data, settings, self._supernet_folder)
        if trained.found is not None:
            price = cost(self.space, trained.found)
            logger.info(
                "train: found %s multiply-adds, %s parameters: %s",
                f"{price.macs:,}",
                f"{price.parameters:,}",
                described(trained.found),
            )

    @takes(SearchSettings)
    def search(self, settings: SearchSettings) -> None:
        """Search the trained supernet; arguments are the fields of :class:`manynet.config.settings.SearchSettings`."""
        trained = self._trained()
        self._begin("search", settings)
        if len(self._evaluations()) >= settings.evaluations:
            return
        check_writable(self.folder)
        asked = self._device_names(settings)
        devices = study_devices.opened(self.space, asked, settings, self.folder, self._evaluations())
        with devices as latency, self._report_refreshed():
            study_devices.check_limits(latency, self._wanted(settings)[1])
            search(
                self.space,
                training.load_weights(trained.weights),
                self.data,
                settings,
                self.ledger,
                self.folder,
                weights_digest=trained.digest,
                measure=latency if latency.names else None,
                lease=latency.pool.lease,
                first=[] if trained.found is None else [trained.found],
            )

    @takes(FinalistsSettings)
    def finalists(self, settings: FinalistsSettings) -> None:
        """Fine-tune and export winners, and train anchors alone to judge the ranking.

        Arguments are the fields of :class:`manynet.config.settings.FinalistsSettings`. The test split is used
        here, once for each winner, and nowhere else.
        """
        records = self._evaluations()
        if not records:
            raise StudyError("finalists needs search to have run, but the ledger holds no evaluation of it")
        self._begin("finalists", settings)
        objectives, conditions = self._wanted(self._settings("search", SearchSettings))
        conditions = conditions + (parse_conditions(settings.where) if settings.where else [])
        chosen = winners(records, objectives, conditions, settings.count)
        if not chosen:
            raise StudyError(f"no evaluated subnet meets {' and '.join(map(str, conditions))!r}")
        handover = self._handover(settings)
        alone = anchors(records, self.space.task.metric, settings.anchors)
        anchoring = handover.anchor_jobs(alone)
        winning = handover.finalist_jobs(chosen, self._trained().weights)
        done = self.ledger.keys()
        if {job.key for job in [*anchoring, *winning]} <= done:
            self._tell_winners()
            return
        check_writable(self.folder)
        searched = self._settings("search", SearchSettings)
        asked = self._device_names(searched)
        devices = study_devices.opened(self.space, asked, searched, self.folder, records, sources.served)
        with devices as latency, self._report_refreshed():
            trained = training.train_subnets(
                [*anchoring, *winning], self.space, self.data, join(self.folder, "subnets")
            )
            for job in (job for job in anchoring if job.key not in done):
                subnet = training.load_subnet(self.space, job.arch, trained[job.key])
                self.ledger.write(handover.anchor(subnet))
            for job in (job for job in winning if job.key not in done):
                subnet = training.load_subnet(self.space, job.arch, trained[job.key])
                measured = latency.measured(subnet, self.space.example(job.arch, batch=1))
                self.ledger.write(handover.finalist(subnet, measured, self.folder))
        self._tell_winners()

    def transfer(self, source: str, targets: Sequence[str] = (), subnets: int = 200) -> Transfer:
        """Whether the front found for one device holds on others; see :class:`manynet.studies.transfer.comparison.Transfer`.

        Measures what the search did not, and writes ``transfer.json`` and ``transfer.html``. Every measurement is
        in the ledger at once: stopped and called again, it goes on.

        Args:
            source: device the front was found for, with its tool: ``host/torch``. It may be new to the search.
            targets: other devices; by default those that the search measured.
            subnets: how many are measured at most: the front, then others evenly spaced by rank of latency.

        Raises:
            StudyError: the search has not run.
            TransferError: devices are no different ones, or too few subnets could be measured.
            DeviceError: a name is misspelt, or its device cannot be had.
        """
        records = self._evaluations()
        if not records:
            raise StudyError("transfer needs search to have run, but the ledger holds no evaluation of it")
        metric = self.space.task.metric
        devices = partial(study_devices.measuring, self.space, self.supernet())
        found = transfer_search(records, source, targets, metric, subnets, self.ledger, devices)
        facts = {"space": self.space.name, "data": self.data.name, "evaluated": f"{len(records):,}"}
        write_transfer(self.folder, found, basename(self.folder), facts)
        return found

    def supernet(self) -> nn.Module:
        """The supernet with its trained weights, on the CPU and in evaluation mode.

        Raises:
            StudyError: when it is not trained yet.
        """
        network = self.space.build()
        network.load_state_dict(training.load_weights(self._trained().weights))
        return network.eval()

    def best(self, column: str | None = None, where: str = "") -> Record:
        """The best evaluated subnet or finalist: smallest of any column that is no metric to be made large.

        Args:
            column: a column of the ledger: ``accuracy``, ``test_accuracy``, ``macs``, ``latency@host/torch``...;
                None is the task's metric.
            where: conditions joined by ``and``, e.g. ``"latency@host/torch <= 5 and parameters <= 2e5"``.

        Raises:
            StudyError: when no subnet has the column, or none meets the conditions.
        """
        task = self.space.task
        column = task.metric if column is None else column
        conditions = parse_conditions(where) if where else []
        subnets = ("evaluation", "finalist")
        records = [r for r in self.ledger.read() if r.kind in subnets and r.space == self.space.digest]
        columns = list(dict.fromkeys(name for record in records for name in record.metrics))
        for name in [column, *(condition.column for condition in conditions)]:
            if name not in columns:
                raise StudyError(f"a column must be one of ({', '.join(columns)}), but got {name!r}")
        fit_for = [r for r in records if column in r.metrics and all(c.holds(r.metrics) for c in conditions)]
        if not fit_for:
            raise StudyError(f"no subnet of {self.folder} meets {where!r}")
        sign = 1 if task.columns.get(column.removeprefix(TEST), False) else -1
        return max(fit_for, key=lambda record: sign * record.metrics[column])

    def ranking(self) -> RankingQuality | None:
        """Agreement of shared-weight scores with anchors trained alone; None with fewer than three anchors."""
        pairs = self._pairs()
        if len(pairs) < FEWEST:
            return None
        return kendall([shared for shared, _ in pairs], [alone for _, alone in pairs])

    def found(self) -> ReportContent:
        """What the search found so far: its evaluations, objectives and constraints, and the front of them."""
        objectives, conditions = self._wanted(self.experiment.search or SearchSettings())
        return ReportContent(
            title=basename(self.folder),
            metric=self.space.task.metric,
            objectives=objectives,
            conditions=conditions,
            records=self._evaluations(),
            facts={
                "space": self.space.name,
                "data": self.data.name,
                "objectives": ", ".join(map(str, objectives)),
            },
        )

    def report(self) -> str:
        """Write ``report.html``, one page that opens offline; returns its address."""
        content = self._content()
        baseline = self.baseline() if content.finalists else None
        write_report(self._report, replace(content, baseline=baseline))
        return self._report

    def winners(self) -> list[Record]:
        """The finalists on disk, the best by the task's metric on the test split first."""
        column = TEST + self.space.task.metric
        return sorted(self._of_step("finalist"), key=lambda r: r.metrics.get(column, -math.inf), reverse=True)

    def baseline(self) -> tuple[str, float] | None:
        """Name of a plain model fitted on the same split, and the task's metric of it on the test split.

        None for large data, on which it would take too long.
        """
        return fit_baseline(self.data, self.space.task)

    def _content(self) -> ReportContent:
        """What there is to report now, but for the baseline."""
        finalists = self.winners()
        return replace(
            self.found(),
            finalists=finalists,
            anchors=self._pairs(),
            ranking=self.ranking(),
            curves=training.curves(self._supernet_folder),
            links={r.key: [f"{r.details['folder']}/{name}" for name in FILES] for r in finalists},
        )

    @contextmanager
    def _report_refreshed(self) -> Iterator[None]:
        """The report is written every now and then while a step runs."""

        def write() -> None:
            write_report(self._report, replace(self._content(), refresh=SECONDS_BETWEEN))

        with refreshed(write, SECONDS_BETWEEN):
            yield

    @property
    def _report(self) -> str:
        return join(self.folder, "report.html")

    def _tell_winners(self) -> None:
        told = [Member(architecture=dict(r.architecture), metrics=dict(r.metrics)) for r in self.winners()]
        if watching_winners.read(self.folder) != told:
            watching_winners.write(self.folder, told)

    @cached_property
    def _fitted(self) -> tuple[SearchSpace, Data]:
        return fit_together(self._declared, self._data)

    @property
    def _supernet_folder(self) -> str:
        return join(self.folder, "supernet")

    def _recorded(self, asked: Experiment) -> Experiment:
        if not exists(join(self.folder, EXPERIMENT)):
            return asked
        found = recorded(self.folder)
        if found.sweep:
            raise StudyError(f"{self.folder} holds several studies; use another folder")
        if found.space_digest != asked.space_digest:
            raise StudyError(
                f"{self.folder} holds a study of another space, {found.space!r} (digest {found.space_digest}), "
                f"but got {self.space.name!r} (digest {asked.space_digest})"
            )
        if found.data != asked.data:
            raise StudyError(f"{self.folder} holds a study of data {found.data!r}, but got {asked.data!r}")
        return found

    def _begin(self, step: str, settings: Settings) -> None:
        """Check a step's arguments, then put them on record."""
        self._check_same(step, settings)
        self._check(step, settings)
        if getattr(self.experiment, step) != settings:
            changed = self.experiment.model_copy(update={step: settings})
            self.experiment = changed.model_copy(update={"modules": located(changed) or None})
            write_bytes(join(self.folder, EXPERIMENT), self.experiment.to_yaml().encode())

    def _check_same(self, step: str, settings: Settings) -> None:
        before: Settings | None = getattr(self.experiment, step)
        if before is None:
            return
        old, new = (one.model_dump(exclude=set(one.aside)) for one in (before, settings))
        changed = next((name for name in new if new[name] != old[name]), None)
        if changed is None:
            return
        raise StudyError(
            f"{step} of {self.folder} was begun with {changed}={old[changed]!r}, but got {new[changed]!r}; "
            f"use another folder for other arguments"
        )

    def _check(self, step: str, settings: Settings) -> None:
        if isinstance(settings, FinalistsSettings):
            self._check_finalists(settings)
        elif isinstance(settings, TrainSettings):
            training.check(settings, "supernet")
        elif isinstance(settings, SearchSettings):
            check(self.space, settings)
            study_devices.check(self.space, self._device_names(settings), settings, self.folder)

    def _check_finalists(self, settings: FinalistsSettings) -> None:
        training.check(winner_settings(settings), "subnet")
        training.check(anchor_settings(settings), "subnet")
        check_columns(parse_conditions(settings.where) if settings.where else [], self.space.task.columns)
        if not self.experiment.space:
            raise StudyError(
                "finalists needs a space that can be found again: bind it to a name in a module or script, "
                f"but {self.space.name!r} is bound to none"
            )

    def _device_names(self, settings: SearchSettings | None = None) -> list[str]:
        settings = settings or self.experiment.search
        if settings is None:
            return []
        objectives, conditions = self._wanted(settings)
        return latency_devices([*objectives, *conditions])

    def _wanted(self, settings: SearchSettings) -> tuple[list[Objective], list[Condition]]:
        return wanted(settings, self.space.task)

    def _settings(self, step: str, model: type[S]) -> S:
        settings = getattr(self.experiment, step)
        if settings is None:
            raise StudyError(f"{step} of {self.folder} must have run")
        assert isinstance(settings, model)
        return settings

    def _is_trained(self) -> bool:
        if self.experiment.train is None:
            return False
        return self._result is not None or training.is_finished(self._supernet_folder)

    def _trained(self) -> Trained:
        settings = self._settings("train", TrainSettings)
        if not self._is_trained():
            raise StudyError(f"the supernet of {self.folder} must be trained first")
        if self._result is None:
            # Once: it reads all weights to see that they are whole, which takes its time on an object store.
            self._result = training.train_supernet(self.space, self.data, settings, self._supernet_folder)
        return self._result

    def _evaluations(self) -> list[Record]:
        if self.experiment.search is None or not self._is_trained():
            return []
        made = provenance(self.space, self._trained().digest, self.data, self.experiment.search).made
        return [record for record in self.ledger.read() if made(record)]

    def _handover(self, settings: FinalistsSettings) -> Handover:
        return Handover(self.space, self.experiment.space, self.data, self._trained().digest, settings)

    def _of_step(self, kind: Kind) -> list[Record]:
        settings = self.experiment.finalists
        if settings is None or not self._is_trained():
            return []
        handover = self._handover(settings)
        return [
            r for r in self.ledger.read() if r.kind == kind and r.key == handover.key(kind, r.architecture)
        ]

    def _pairs(self) -> list[tuple[float, float]]:
        """(shared, alone) of each anchor: the task's metric on the validation split."""
        metric = self.space.task.metric
        shared = {self.space.key(r.architecture): r.metrics[metric] for r in self._evaluations()}
        alone = {self.space.key(r.architecture): r.metrics[metric] for r in self._of_step("anchor")}
        return [(shared[key], value) for key, value in alone.items() if key in shared]


def recorded(folder: str | Path) -> Experiment:
    """The experiment that a folder holds, of a study or of a sweep.

    Raises:
        StudyError: when it holds none.
    """
    address = join(folder, EXPERIMENT)
    if not exists(address):
        raise StudyError(f"a study's folder must hold {EXPERIMENT}, but got {str(folder)!r}")
    return parse_experiment(read_bytes(address).decode(), address)
