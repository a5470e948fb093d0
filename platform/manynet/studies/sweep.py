"""A sweep: studies that differ in a few values of one experiment file, in one folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from manynet.config.experiment import Experiment, variants
from manynet.report import write_sweep_report
from manynet.runtime.modules import located
from manynet.storage import absolute, basename, exists, join
from manynet.studies import on_record
from manynet.studies.alone import TEST
from manynet.studies.findings import Findings
from manynet.studies.on_record import EXPERIMENT, StudyError
from manynet.studies.study import Study

logger = logging.getLogger(__name__)


class Sweep:
    """Studies run one after another; each can also be resumed, read and reported by itself.

    Args:
        experiment: one with a ``sweep``.

    Raises:
        ExperimentError, SettingsError: for a key or a value that an experiment does not take.
        StudyError: when the folder holds another sweep.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.folder = absolute(experiment.study)
        self.experiment = experiment.model_copy(update={"study": self.folder})
        self.variants = variants(self.experiment)
        if exists(join(self.folder, EXPERIMENT)):
            self._check_same(on_record.read(self.folder))

    @classmethod
    def begin(cls, experiment: Experiment) -> Sweep:
        """The sweep of an experiment, with every study on record and checked before the first runs."""
        sweep = cls(experiment)
        for variant in sweep.variants.values():
            Study.begin(variant)
        kept = sweep.experiment.model_copy(update={"modules": located(experiment) or None})
        on_record.write(sweep.folder, kept)
        return sweep

    @classmethod
    def open(cls, folder: str | Path) -> Sweep:
        """The sweep that a folder holds.

        Raises:
            StudyError: when it holds none.
        """
        experiment = on_record.read(folder)
        if not experiment.sweep:
            raise StudyError(f"{folder} holds one study, not several")
        return cls(experiment)

    def run(self) -> None:
        """Run every study to its report, then write that of all; finished steps are not repeated."""
        for number, (name, study) in enumerate(self.studies(), 1):
            logger.info("study %d of %d: %s", number, len(self.variants), name)
            study.run()
        self.report()

    def studies(self) -> Iterator[tuple[str, Study]]:
        """Each study by the name of its folder, opened only when its turn comes: data is large."""
        for name, variant in self.variants.items():
            yield name, Study.begin(variant)

    def findings(self) -> Iterator[tuple[str, Findings]]:
        """What each study found, by the name of its folder."""
        for name, variant in self.variants.items():
            yield name, Findings.open(variant.study)

    def report(self) -> str:
        """Write ``report.html`` with the finalists of all studies; returns its address."""
        finalists, metric = {}, ""
        for name, found in self.findings():
            finalists[name] = found.finalists()
            metric = TEST + found.facts.metric
        swept = self.experiment.sweep or {}
        facts = {key: getattr(self.experiment, key) for key in ("space", "data") if key not in swept}
        facts |= {key: ", ".join(map(str, values)) for key, values in swept.items()}
        address = join(self.folder, "report.html")
        write_sweep_report(address, basename(self.folder), metric, finalists, facts)
        return address

    def _check_same(self, before: Experiment) -> None:
        for name, settings in self.experiment.steps.items():
            on_record.check_same(self.folder, getattr(before, name), settings)
        if before.fixed != self.experiment.fixed:
            raise StudyError(
                f"{self.folder} holds another experiment; use another folder, or resume what it holds"
            )
