"""Which settings each part of a study was made with: those on record, and those that changed on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from manynet.config.experiment import Experiment
from manynet.config.settings import Settings
from manynet.records.ledger import Record
from manynet.training.runs import Trained


def made_with(
    experiment: Experiment, trained: Trained | None, records: Sequence[Record]
) -> dict[str, dict[str, str]]:
    """By step, the value of each setting, as text.

    A setting that had several values shows what was made with each: ``2 for 80, 3 for 120``.

    Args:
        experiment: on record.
        trained: the supernet; None until it is trained.
        records: evaluations, anchors and finalists.
    """
    starts = trained.made_with if trained is not None else ()
    changed = {
        "train": _by_step(starts),
        "search": _by_count(r for r in records if r.kind == "evaluation"),
        "finalists": _by_count(r for r in records if r.kind in ("anchor", "finalist")),
    }
    return {step: _texts(settings, changed[step]) for step, settings in experiment.steps.items()}


def _texts(settings: Settings, changed: Mapping[str, str]) -> dict[str, str]:
    return {name: changed.get(name, _text(value)) for name, value in settings.model_dump(mode="json").items()}


def _by_step(starts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Settings that differed between starts of a training, with the step that each began at."""
    names = [name for name in (starts[0] if starts else {}) if name != "step"]
    texts = {}
    for name in names:
        # What was trained between two starts, the second of which went back, counts for the second.
        values = [(start["step"], start.get(name)) for start in starts]
        changes = [v for at, v in enumerate(values) if not at or v[1] != values[at - 1][1]]
        if len(changes) > 1:
            texts[name] = ", ".join(f"{_text(value)} from step {step}" for step, value in changes)
    return texts


def _by_count(records: Iterable[Record]) -> dict[str, str]:
    """Settings that differed between records, with how many were made with each value."""
    made = [record.details.get("made_with", {}) for record in records]
    texts = {}
    for name in dict.fromkeys(name for one in made for name in one):
        counts = Counter(_text(one[name]) for one in made if name in one)
        if len(counts) > 1:
            texts[name] = ", ".join(f"{value} for {count}" for value, count in counts.items())
    return texts


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in value.items()) or "none"
    return "none" if value in (None, "") else str(value)
