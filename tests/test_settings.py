"""What each setting decides: from its role follow identities, digests and what may change."""

import pytest
from pydantic import ValidationError

from manynet.config.ranking import AnchorsSettings
from manynet.config.settings import (
    FinalistsSettings,
    Recipe,
    Role,
    SearchSettings,
    Settings,
    SettingsError,
    TrainSettings,
)
from manynet.studies.alone import Alone

MAY_CHANGE = {
    TrainSettings: {"workers", "threads", "evaluate_every", "checkpoint_every"},
    SearchSettings: {"evaluations", "evaluators", "trackers"},
    FinalistsSettings: {"workers", "threads", "evaluate_every", "checkpoint_every", "count", "anchors"},
}


@pytest.mark.parametrize("model", MAY_CHANGE, ids=lambda model: model.__name__)
def test_what_may_change_is_said_at_the_setting(model: type[Settings]) -> None:
    assert set(model.adjustable()) == MAY_CHANGE[model]
    assert model().fixed.keys() == model.model_fields.keys() - MAY_CHANGE[model]


def test_a_setting_without_a_role_decides_the_result() -> None:
    class New(Settings):
        depth: int = 3

    assert New.role("depth") is Role.RESULT and New.role("depth").fixed and New().fixed == {"depth": 3}


def test_a_subnet_is_trained_again_when_its_result_would_differ_and_only_then() -> None:
    def protocol(**changes: object) -> str:
        return Alone("anchor", {"width": 3}, TrainSettings(**changes)).protocol  # type: ignore[arg-type]

    same = {"workers": 2, "threads": 2, "evaluate_every": 7, "checkpoint_every": 7}
    assert protocol(**same) == protocol()
    assert protocol(seed=1) != protocol() != protocol(learning_rate=0.1)


def test_a_recipe_is_what_finalists_and_anchors_have_in_common() -> None:
    settings = FinalistsSettings(steps=7, learning_rate=0.3, anchor_steps=9, ema=0.5, count=2)
    assert (settings.finalist.steps, settings.finalist.learning_rate) == (7, 0.3)
    assert (settings.anchor.steps, settings.anchor.learning_rate) == (9, 1e-3)
    assert settings.finalist.ema == settings.anchor.ema == 0.5
    assert type(settings.anchor) is TrainSettings and not isinstance(settings, TrainSettings)
    assert AnchorsSettings().training().strategy == settings.strategy
    assert Recipe.model_fields.keys() == TrainSettings.model_fields.keys()


def test_references_have_one_spelling() -> None:
    short = TrainSettings(strategy="trainers.sandwich:Sandwich")
    assert short == TrainSettings() and short.strategy == "manynet.trainers.sandwich:Sandwich"
    assert SearchSettings(sampler="tpe").sampler == "tpe"


def test_settings_are_frozen_and_refuse_unknown_keys() -> None:
    with pytest.raises(ValidationError):
        TrainSettings().steps = 3
    with pytest.raises(SettingsError, match="train.stpes is not a key; train takes strategy, "):
        TrainSettings.checked({"stpes": 3})
