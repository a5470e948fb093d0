"""What a comparison of rankings takes, as an experiment file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from manynet.config.experiment import ExperimentError, read_mapping
from manynet.config.settings import Recipe, Reference, SearchSettings, Settings, TrainSettings


class AnchorsSettings(Recipe):
    """How the anchors are drawn and trained alone."""

    strategy: Reference = Field("manynet.trainers.finetune:FineTune", description="how an anchor is trained")
    count: PositiveInt = Field(
        16, ge=3, description="architectures trained alone, drawn from the space's prior"
    )


class ScoreSettings(Settings):
    """How anchors are scored with shared weights; see :class:`SearchSettings` for the same names."""

    batch_size: PositiveInt = Field(512, description="examples a forward pass")
    calibration_batches: int = Field(8, ge=0, description="training batches that renew batch-norm statistics")
    validation_examples: PositiveInt = Field(
        10_000_000, description="examples of the validation split, at most"
    )
    finetune_steps: int = Field(0, ge=0, description="steps of the last layer; 0 compares without them only")
    finetune_learning_rate: float = Field(0.04, gt=0, description="of those steps")

    def search(self, finetuned: bool) -> SearchSettings:
        """The settings of an evaluation, with or without fine-tuning."""
        given = self.model_dump()
        return SearchSettings(**{**given, "finetune_steps": self.finetune_steps if finetuned else 0})


class RankSettings(Settings):
    """A comparison: where it lives, and what is compared on what."""

    study: str = Field(description="folder of the comparison, or a filesystem address")
    data: str = Field(description="as in an experiment file")
    spaces: dict[str, str] = Field(min_length=1, description="a name for each space, and module:name")
    strategies: dict[str, TrainSettings] = Field(
        min_length=1, description="a name for each, and what differs from train"
    )
    anchors: AnchorsSettings = Field(description="how anchors are trained alone")
    score: ScoreSettings = Field(description="how anchors are scored with shared weights")


def read_rank_settings(path: Path, changes: Sequence[str] = ()) -> RankSettings:
    """Read the file of a comparison; its ``train`` holds what all ``strategies`` have in common.

    Raises:
        ExperimentError, SettingsError: in one line that names the key, the value and what is allowed.
    """
    content = read_mapping(path, changes)
    common = _mapping(content.pop("train", {}), "train")
    strategies = _mapping(content.get("strategies", {}), "strategies")
    content["strategies"] = {
        str(name): TrainSettings.checked({**common, **_mapping(own, f"strategies.{name}")})
        for name, own in strategies.items()
    }
    for name, model in (("anchors", AnchorsSettings), ("score", ScoreSettings)):
        content[name] = model.checked(_mapping(content.get(name, {}), name))
    settings: RankSettings = RankSettings.checked(content)
    return settings


def _mapping(value: Any, key: str) -> dict[str, Any]:
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise ExperimentError(f"{key} must be a mapping, but got {value!r}")
    return value
