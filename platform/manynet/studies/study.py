"""A study: the steps from a space to exported winners, in order, and the folder they live in."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from torch import nn

from manynet import references
from manynet.config.experiment import Experiment, takes, variants
from manynet.config.settings import FinalistsSettings, SearchSettings, Settings, TrainSettings
from manynet.data import Data
from manynet.data.own import is_spelled, recorded_name
from manynet.latency import sources
from manynet.records.conditions import parse_conditions
from manynet.records.ledger import Ledger, Record
from manynet.records.rank_correlation import RankingQuality
from manynet.report import ReportContent
from manynet.report.live import SECONDS_BETWEEN, refreshed
from manynet.runtime.modules import located
from manynet.runtime.ray_session import connect
from manynet.search.protocol import parse_goals
from manynet.search.runs import search
from manynet.space.domains import combinations
from manynet.space.fitting import fit_together
from manynet.space.search_space import SearchSpace, described
from manynet.space.subnet import cost
from manynet.storage import absolute, basename, check_writable, join
from manynet.studies import devices, facts, kept_code, on_record
from manynet.studies.alone import SubnetTrainer
from manynet.studies.facts import Facts
from manynet.studies.finalists import Exporter, Finalists
from manynet.studies.findings import SUPERNET, Findings, write_page
from manynet.studies.holding import exclusive, held
from manynet.studies.on_record import StudyError, recorded
from manynet.studies.step_checks import check_step
from manynet.studies.transfer import runs as transfers
from manynet.studies.transfer.comparison import Transfer
from manynet.telemetry import finalists_file
from manynet.telemetry.search_status import Member
from manynet.training import runs as training
from manynet.training.runs import Trained

__all__ = ["Study", "StudyError", "recorded"]
logger = logging.getLogger(__name__)
S = TypeVar("S", bound=Settings)


class Study:
    """A supernet's training, its search and its finalists, in one folder that any step can be resumed from.

    A step called again goes on where it was, or does nothing. More evaluations, finalists or anchors are added
    to what there is. Other settings that decide a result are refused.

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
        self._declared = references.make(SearchSpace, space) if isinstance(space, str) else space
        self._data = data
        self._result: Trained | None = None
        found = references.canonical(space) if isinstance(space, str) else references.find(space)
        self._kept_by_value = not kept_code.is_importable(found)
        name = recorded_name(data)
        self.ledger = Ledger(join(self.folder, "ledger"))
        asked = Experiment(study=self.folder, space=found or "", data=name, space_digest=self.space.digest)
        self.experiment = on_record.kept(self.folder, asked)

    @classmethod
    def open(cls, folder: str | Path) -> Study:
        """The study that a folder holds.

        Raises:
            StudyError: when it holds none, or its space or data cannot be found again.
        """
        return cls._resumed(folder, recorded(folder))

    @classmethod
    def begin(cls, experiment: Experiment, folder: str | Path | None = None) -> Study:
        """The study of an experiment, with all its steps on record and checked before the first runs.

        Args:
            experiment: what is asked for.
            folder: of a study that is resumed, which may have been moved; None begins one where the experiment says.

        Raises:
            ManynetError: when a step cannot be done, or the folder cannot be written.
        """
        if folder is None:
            study = cls(experiment.study, experiment.space, experiment.data)
        else:
            study = cls._resumed(folder, experiment)
        with held(study.folder):
            training.check_packages(study.data)
            # What is refused at once comes before what takes seconds.
            for name, settings in experiment.steps.items():
                study._check_same(name, settings)
            for settings in experiment.steps.values():
                study._check(settings)
            check_writable(study.folder)
            study._keep_facts()
            for name, settings in experiment.steps.items():
                study._put_on_record(name, settings)
        return study

    @exclusive
    def run(self) -> None:
        """Run every step on record, in order, and write the report; finished steps are not repeated."""
        domains = self.space.domains
        logger.info("%s: %d choices, %s", self.space.name, len(domains), combinations(domains))
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
    @exclusive
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
    @exclusive
    def search(self, settings: SearchSettings) -> None:
        """Search the trained supernet; arguments are the fields of :class:`manynet.config.settings.SearchSettings`.

        ``evaluations`` counts those that there are: more than before extends the search.
        """
        trained = self._trained()
        self._begin("search", settings)
        findings = self._findings
        records = findings.evaluations()
        if len(records) >= settings.evaluations:
            return
        check_writable(self.folder)
        opened = devices.opened(self.space, findings.goals.devices, settings, self.folder, records)
        with opened as latency, self._report_refreshed():
            devices.check_limits(latency, findings.goals.conditions)
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
    @exclusive
    def finalists(self, settings: FinalistsSettings) -> None:
        """Fine-tune and export winners, and train anchors alone to judge the ranking.

        Arguments are the fields of :class:`manynet.config.settings.FinalistsSettings`. What is on record stays:
        more finalists or anchors are added to it.

        Raises:
            StudyError: the search has not run, or no evaluated subnet meets the conditions.
        """
        records = self._searched("finalists")
        self._begin("finalists", settings)
        findings, searched = self._findings, self._settings("search", SearchSettings)
        selection = findings.selection
        assert selection is not None
        done = self.ledger.keys()
        chosen = selection.chosen(records, findings.goals, self.space.task.metric, done)
        if not any(alone.kind == "finalist" for alone in chosen):
            conditions = [*findings.goals.conditions, *parse_conditions(settings.where)]
            raise StudyError(f"no evaluated subnet meets {' and '.join(map(str, conditions))!r}")
        supernet = self._trained().digest
        trainer = SubnetTrainer(self.space, self.data, self.ledger, join(self.folder, "subnets"), supernet)
        if trainer.missing(chosen):
            check_writable(self.folder)
            names = findings.goals.devices
            opened = devices.opened(self.space, names, searched, self.folder, records, sources.served)
            with opened as latency, self._report_refreshed():
                exporter = Exporter(trainer, self.experiment.space, self.folder)
                Finalists(trainer, settings).run(chosen, latency.measured, exporter)
        winners = [Member(architecture=r.architecture, metrics=r.metrics) for r in self.winners()]
        finalists_file.write(self.folder, winners)

    @exclusive
    def transfer(self, source: str, targets: Sequence[str] = (), subnets: int = 200) -> Transfer:
        """Whether the front found for one device holds on others; see
        :class:`manynet.studies.transfer.comparison.Transfer`.

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
        records = self._searched("transfer")
        metric = self.space.task.metric
        measuring = partial(devices.measuring, self.space, self.supernet())
        found = transfers.transfer_search(records, source, targets, metric, subnets, self.ledger, measuring)
        facts = {"space": self.space.name, "data": self.data.name, "evaluated": f"{len(records):,}"}
        transfers.write(self.folder, found, basename(self.folder), facts)
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
        """The best evaluated subnet or finalist; see :meth:`manynet.studies.findings.Findings.best`."""
        return self._findings.best(column, where)

    def ranking(self) -> RankingQuality | None:
        """Agreement of shared-weight scores with anchors trained alone; None with fewer than three anchors."""
        return self._findings.ranking()

    def found(self) -> ReportContent:
        """What the search found so far: its evaluations, objectives and constraints, and the front of them."""
        return self._findings.search_content()

    def winners(self) -> list[Record]:
        """The finalists on disk, the best by the task's metric on the test split first."""
        return self._findings.finalists()

    def baseline(self) -> tuple[str, float] | None:
        """Name of a plain model fitted on the same split, and the task's metric of it on the test split.

        None for large data, on which it would take too long.
        """
        # scikit-learn takes a second to import, and only this step needs it.
        from manynet.studies.baseline import fit_baseline

        return fit_baseline(self.data, self.space.task)

    def report(self) -> str:
        """Write ``report.html``, one page that opens offline; returns its address."""
        findings = self._findings
        if findings.finalists() and self._facts.baseline is None:
            self._facts = self._facts.model_copy(update={"baseline": self.baseline()})
            facts.write(self.folder, self._facts)
        return write_page(self._findings)

    @classmethod
    def _resumed(cls, folder: str | Path, experiment: Experiment) -> Study:
        if experiment.sweep:
            raise StudyError(
                f"{folder} holds several studies; name one of them: {', '.join(variants(experiment))}"
            )
        space = kept_code.load(absolute(folder)) or experiment.space
        if not space:
            raise StudyError(
                f"{folder} cannot be resumed: its space was made where no module holds it, and {kept_code.KEPT}, where "
                f"it was kept, is not there"
            )
        if not is_spelled(experiment.data):
            raise StudyError(
                f"{folder} cannot be resumed by name: its data {experiment.data!r} were made where no module or "
                f"script holds them; call Study(folder, space, data) with the data themselves"
            )
        return cls(folder, space, experiment.data)

    @property
    def _findings(self) -> Findings:
        trained = self._trained() if self._is_trained() else None
        return Findings(self.folder, self._facts, self.experiment, trained)

    @cached_property
    def _facts(self) -> Facts:
        made, kept = Facts.of(self.space, self.data), facts.read(self.folder)
        # What a plain model scores is kept as long as the data are the same.
        return made if kept is None else made.model_copy(update={"baseline": kept.baseline_of(made)})

    @property
    def _supernet_folder(self) -> str:
        return join(self.folder, SUPERNET)

    @cached_property
    def _fitted(self) -> tuple[SearchSpace, Data]:
        return fit_together(self._declared, self._data)

    @contextmanager
    def _report_refreshed(self) -> Iterator[None]:
        """The report is written every now and then while a step runs."""

        def write() -> None:
            write_page(self._findings, SECONDS_BETWEEN)

        with refreshed(write, SECONDS_BETWEEN):
            yield

    def _begin(self, step: str, settings: Settings) -> None:
        """Check a step's settings, then put them on record."""
        self._check_same(step, settings)
        self._check(settings)
        self._keep_facts()
        self._put_on_record(step, settings)

    def _keep_facts(self) -> None:
        """What reading the study and going on with it need, before anything is trained."""
        if self._kept_by_value:
            kept_code.keep(self.folder, self._declared)
        if facts.read(self.folder) != self._facts:
            facts.write(self.folder, self._facts)

    def _put_on_record(self, step: str, settings: Settings) -> None:
        if getattr(self.experiment, step) != settings:
            changed = self.experiment.model_copy(update={step: settings})
            self.experiment = changed.model_copy(update={"modules": located(changed) or None})
            on_record.write(self.folder, self.experiment)

    def _check_same(self, step: str, settings: Settings) -> None:
        on_record.check_same(self.folder, getattr(self.experiment, step), settings)

    def _check(self, settings: Settings) -> None:
        check_step(settings, self.space, self.folder)

    def _device_names(self) -> list[str]:
        settings = self.experiment.search
        return parse_goals(settings, self.space.task).devices if settings is not None else []

    def _settings(self, step: str, model: type[S]) -> S:
        settings = getattr(self.experiment, step)
        if settings is None:
            raise StudyError(f"{step} of {self.folder} must have run")
        assert isinstance(settings, model)
        return settings

    def _searched(self, step: str) -> list[Record]:
        """The search's evaluations, which a step needs."""
        records = self._findings.evaluations()
        if not records:
            raise StudyError(f"{step} needs search to have run, but the ledger holds no evaluation of it")
        return records

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
