"""Experiment files: what they say, and what is refused before anything starts."""

from pathlib import Path

import pytest

from manynet.config.experiment import Experiment, parse_experiment, read_experiment
from manynet.config.ranking import read_rank_settings
from manynet.errors import ManynetError

ROOT = Path(__file__).parent.parent
TEXT = """
study: runs/x
space: search_spaces.vit:tiny
train: {steps: 10, learning_rate: 1e-3}
search:
"""


def test_sections_hold_the_arguments_of_their_steps() -> None:
    experiment = parse_experiment(TEXT, "x.yaml")
    assert experiment.train is not None and experiment.train.steps == 10
    assert experiment.train.learning_rate == 1e-3
    assert list(experiment.steps) == ["train", "search"]
    assert experiment.data == "digits"


def test_changes_replace_values_by_dotted_keys() -> None:
    experiment = parse_experiment(
        TEXT, "x.yaml", ["train.steps=5", "data=idx:a b", "search.objectives=[macs:min]"]
    )
    assert experiment.train is not None and experiment.train.steps == 5
    assert experiment.data == "idx:a b"
    assert experiment.search is not None and experiment.search.objectives == ["macs:min"]


def test_what_is_written_reads_back() -> None:
    experiment = parse_experiment(TEXT, "x.yaml")
    assert parse_experiment(experiment.to_yaml(), "y.yaml") == experiment


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda file: file.name)
def test_every_example_is_valid(file: Path) -> None:
    if file.stem.endswith("-ranking"):
        assert read_rank_settings(file).strategies
    else:
        steps = list(read_experiment(file).steps)
        assert len(steps) >= 2 and steps == ["train", "search", "finalists"][: len(steps)]


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (
            TEXT,
            ["stpes=3"],
            "stpes is not a key of an experiment; it takes study, space, data, train, search, finalists",
        ),
        (TEXT, ["train.stpes=3"], "train.stpes is not a key; train takes strategy"),
        (TEXT, ["train.steps=0"], "train.steps: input should be greater than 0, but got 0"),
        (TEXT, ["train.steps=many"], "train.steps: input should be a valid integer.*but got 'many'"),
        (TEXT, ["train.warmup=1.5"], "train.warmup: input should be less than 1, but got 1.5"),
        (
            TEXT,
            ["train.augment=flip"],
            "train.augment: input should be 'none', 'shift' or 'shift.flip', but got 'flip'",
        ),
        (TEXT, ["search.objectives=[]"], "search.objectives: list should have at least 1 item"),
        (TEXT, ["train"], "a change must be KEY=VALUE, but got 'train'"),
        (TEXT, ["space.name=x"], "space.name cannot be set"),
        ("study: x\ntrain: 3\nspace: a:b", [], "train must be a mapping of strategy"),
        ("study: x", [], "space: field required"),
        ("study: x\nspace: a:b\nsearch:", [], "search needs train"),
        ("study: x\nspace: a:b\ntrain:\nfinalists:", [], "finalists needs search"),
        ("[1, 2]", [], "x.yaml must be a mapping of keys to values"),
        ("study: [", [], "x.yaml must be YAML"),
        ("study: 3\nspace: a:b", [], "study: input should be a valid string, but got 3"),
    ],
)
def test_what_is_wrong_is_one_clear_line(text: str, changes: list[str], message: str) -> None:
    with pytest.raises(ManynetError, match=message) as caught:
        parse_experiment(text, "x.yaml", changes)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ManynetError, match="an experiment must be a readable YAML file"):
        read_experiment(tmp_path / "none.yaml")


def test_an_experiment_says_what_each_key_is_for() -> None:
    assert all(field.description for field in Experiment.model_fields.values())
