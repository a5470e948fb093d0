"""Comparisons of rankings: what their files say, and one run whole and again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import manynet as mn
from manynet.config.ranking import read_rank_settings
from manynet.records.rank_correlation import Correlation, RankingQuality, kendall
from manynet.search_spaces import nasrec, vit
from manynet.space.evaluation import score
from manynet.studies.ranking import RankingStudy, Row, anchors, order, verdict
from manynet.training.runs import load_weights

TEXT = """
study: {folder}
data: digits
spaces: {{vit: "search_spaces.vit:tiny"}}
strategies:
  Single path: {{strategy: "trainers.single_path:SinglePath"}}
  sandwich: {{}}
train: {{workers: 0, steps: 3, batch_size: 8, evaluate_every: 3, checkpoint_every: 3}}
anchors: {{workers: 0, count: 3, steps: 2, batch_size: 8, evaluate_every: 2, checkpoint_every: 2}}
score: {{finetune_steps: 2, batch_size: 32, validation_examples: 64}}
"""


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    text = TEXT.format(folder=folder / "study")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "rank.yaml").write_text(text)
    return folder / "rank.yaml"


def test_strategies_share_what_train_says(tmp_path: Path) -> None:
    settings = read_rank_settings(written(tmp_path), ["train.steps=4"])
    assert {name: s.strategy.partition(":")[2] for name, s in settings.strategies.items()} == {
        "Single path": "SinglePath",
        "sandwich": "Sandwich",
    }
    assert all(s.steps == 4 and s.batch_size == 8 for s in settings.strategies.values())
    assert settings.anchors.count == 3 and settings.anchors.strategy.endswith("FineTune")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("data: digits", "dta: digits", "rank.dta is not a key; rank takes study, data"),
        ("sandwich: {}", "sandwich: {stpes: 1}", "train.stpes is not a key"),
        ("sandwich: {}", "sandwich: 3", "strategies.sandwich must be a mapping, but got 3"),
        ("sandwich: {}", "single-path: {}", "must differ in letters and digits"),
        ("count: 3", "count: 2", "anchors.count: input should be greater than or equal to 3, but got 2"),
        ("finetune_steps: 2", "finetune_steps: -1", "score.finetune_steps: .* but got -1"),
        ("vit:tiny", "vit:tny", "names nothing"),
        (
            "vit:tiny",
            "vit:DEIT_TINY",
            "must name a SearchSpace, or a function or class that gives one, but names",
        ),
        ("data: digits", "data: flights", "does not fit space"),
        ("trainers.single_path:SinglePath", "trainers.finetune:FineTune", "trains a subnet"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(mn.ManynetError, match=message) as raised:
        RankingStudy(read_rank_settings(written(tmp_path, (old, new))))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "study").exists()


def test_a_space_without_a_head_cannot_be_fine_tuned(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from ray import tune\nimport manynet as mn\n"
        "class Net(mn.Supernet):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.last = mn.elastic.Linear(64, 10)\n"
        "    def forward(self, x, arch):\n"
        "        return self.last(x.flatten(1)[:, :arch['inputs']])\n"
        "space = mn.SearchSpace('own', {'inputs': tune.choice([16, 32, 64])}, Net,\n"
        "    mn.tasks.Classification(10), (1, 8, 8))\n"
    )
    file = written(tmp_path, ("search_spaces.vit:tiny", f"{tmp_path}/own.py:space"))
    with pytest.raises(mn.ManynetError, match=r"whose last layer is named head, .* has \(last\)"):
        RankingStudy(read_rank_settings(file))


def test_anchors_are_different_and_follow_the_prior() -> None:
    found = anchors(nasrec.tiny, 5, seed=1)
    assert len({nasrec.tiny.key(arch) for arch in found}) == 5
    assert found == anchors(nasrec.tiny, 5, seed=1) != anchors(nasrec.tiny, 5, seed=2)


def test_more_anchors_than_there_are_architectures_are_refused() -> None:
    from ray import tune

    class Net(mn.Supernet):
        def __init__(self) -> None:
            super().__init__()
            self.head = mn.elastic.Linear(4, 2)

        def forward(self, x, arch):  # type: ignore[no-untyped-def]
            return self.head(x[:, : arch["inputs"]])

    space = mn.SearchSpace("few", {"inputs": tune.choice([1, 2])}, Net, mn.tasks.Classification(2), (4,))
    with pytest.raises(mn.ManynetError, match="at most what 'few' has, but got 3 and found 2"):
        anchors(space, 3, seed=0)


def test_a_comparison_runs_and_started_again_does_nothing(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read_rank_settings(
        written(tmp_path, ('  Single path: {strategy: "trainers.single_path:SinglePath"}\n', ""))
    )
    study = RankingStudy(settings)
    rows = study.run()
    assert [(row.strategy, row.finetuned) for row in rows] == [("sandwich", False), ("sandwich", True)]
    for row in rows:
        assert row.tau == kendall(row.shared, row.alone)
        assert row.alone == rows[0].alone
    assert rows[0].shared != rows[1].shared
    # What was scored is the supernet's own path.
    space, data = vit.tiny, study.data
    network = space.build().eval()
    network.load_state_dict(load_weights(f"{settings.study}/vit/sandwich/weights.safetensors"))
    arch = study.subjects[0].anchors[1]
    own = score(
        mn.extract(network, arch, space.example(arch)), space, data.validation, batch_size=32, limit=64
    )
    assert rows[0].shared[1] == pytest.approx(own["accuracy"])
    content = json.loads((tmp_path / "study" / "ranking.json").read_text())
    assert [entry["shared"] for entry in content] == [list(row.shared) for row in rows]
    monkeypatch.setattr("manynet.training.runs._run", lambda work: pytest.fail("trained again"))
    assert RankingStudy(settings).run() == rows


def row(strategy: str, low: float, tau: float, high: float, space: str = "s", finetuned: bool = False) -> Row:
    quality = RankingQuality(tau, low, high, 16)
    return Row(space, strategy, finetuned, quality, Correlation(0, 0, 0), (), ())


def test_the_verdict_says_what_the_anchors_can_tell() -> None:
    near = [row("a", 0.4, 0.6, 0.8), row("b", 0.3, 0.5, 0.7)]
    assert verdict(near).endswith("with 16 anchors its interval overlaps all the others")
    assert "s, a, not fine-tuned has the highest tau" in verdict(near)
    assert "from 1 of 2 other ways" in verdict([*near, row("c", 0.0, 0.1, 0.3)])


def test_the_order_is_counted_over_pairs_that_differ_in_one_thing() -> None:
    rows = [
        row("a", 0.2, 0.4, 0.6),
        row("a", 0.3, 0.5, 0.7, finetuned=True),
        row("b", 0.4, 0.6, 0.8),
        row("b", 0.0, 0.1, 0.2, finetuned=True),
    ]
    assert order(rows) == (
        "pairs that differ in one thing: a over other strategies in 1 of 2, fine-tuning over none in 1 of 2; "
        "intervals are disjoint in 1 of the 4"
    )
    other = row("a", 0.0, 0.1, 0.15, space="t")
    assert "s over other spaces in 1 of 1" in order([*rows, other])
    assert "intervals are disjoint in 2 of the 5" in order([*rows, other])
