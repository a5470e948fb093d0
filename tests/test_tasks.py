"""What batches mean: losses against the formula, metrics against scikit-learn, and data that does not fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ray import tune
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn
from torch.nn import functional as F

import manynet as mn
from manynet.config.settings import SearchSettings
from manynet.data import Categorical, DataError, Features, Images
from manynet.errors import ManynetError
from manynet.records.conditions import ConditionError, parse_conditions
from manynet.search.checks import SearchError, check_reachable
from manynet.search.protocol import parse_goals
from manynet.space.tasks import Classification, ClickThrough, Task

CLICKS = ClickThrough()
IMAGES = Images(classes=10, channels=1, mean=(0.5,), std=(0.5,))
FEATURES = Features(("price",), (Categorical("shop", 5),))
# Few distinct values, so that ties are common, and some that a sigmoid in float32 rounds to 0 or 1.
LOGITS = st.sampled_from([-200.0, -30.0, -1.5, -0.25, 0.0, 0.25, 1.5, 30.0, 200.0])


@st.composite
def examples(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels `(N,)`, of both labels."""
    pairs = draw(st.lists(st.tuples(LOGITS, st.booleans()), max_size=60))
    pairs += [(draw(LOGITS), False), (draw(LOGITS), True)]
    logits, labels = zip(*pairs, strict=True)
    return torch.tensor(logits), torch.tensor(labels, dtype=torch.float32)


class Net(mn.Supernet):
    """Dense features and one table, for clicks."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.hidden = mn.elastic.Linear(5, 8)
        self.out = mn.elastic.Linear(8, 1)

    def forward(self, dense: torch.Tensor, ids: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        x = torch.cat([dense, self.table(ids).flatten(1)], 1)
        return self.out(self.hidden(x, out_features=arch["width"]).relu()).squeeze(1)


def click_space() -> mn.SearchSpace:
    shapes = {"dense": (1,), "ids": ((1,), torch.int64)}
    return mn.SearchSpace("clicks", {"width": tune.choice([2, 4, 8])}, Net, CLICKS, shapes)


def rows_in_parts(task: Task, outputs: torch.Tensor, targets: torch.Tensor, size: int) -> torch.Tensor:
    parts = zip(outputs.split(size), targets.split(size), strict=True)
    return torch.cat([task.rows(*part) for part in parts])


@given(examples(), st.integers(1, 70))
def test_click_metrics_are_exact_however_the_split_is_cut(
    given: tuple[torch.Tensor, torch.Tensor], size: int
) -> None:
    logits, labels = given
    found = CLICKS.metrics(rows_in_parts(CLICKS, logits, labels, size))
    assert found == CLICKS.metrics(CLICKS.rows(logits, labels))
    assert found["auc"] == roc_auc_score(labels, logits)
    # Exact also where the probability of the label rounds to 0.
    side = (logits * (1 - 2 * labels)).double().numpy()
    assert found["log_loss"] == pytest.approx(np.logaddexp(0, side).mean(), rel=1e-12)
    assert set(found) == set(CLICKS.columns)


def test_ties_count_half_and_wrong_order_counts_nothing() -> None:
    labels = torch.tensor([1.0, 0.0])
    auc = [CLICKS.metrics(CLICKS.rows(torch.tensor([1.0, other]), labels))["auc"] for other in (0, 1, 2)]
    assert auc == [1.0, 0.5, 0.0]


def test_log_loss_is_scikit_learns_where_that_is_exact() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(500), torch.randint(2, (500,)).float()
    found = CLICKS.metrics(CLICKS.rows(logits, labels))["log_loss"]
    assert found == pytest.approx(log_loss(labels, logits.double().sigmoid()), rel=1e-12)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_split_of_one_class_is_one_clear_line(label: float) -> None:
    rows = CLICKS.rows(torch.zeros(3), torch.full((3,), label))
    with pytest.raises(DataError, match=f"both labels, but {3 * int(label)} of the 3 scored are clicked"):
        CLICKS.metrics(rows)


def test_a_diverged_network_has_no_metrics_rather_than_an_error() -> None:
    rows = CLICKS.rows(torch.tensor([0.5, math.nan]), torch.tensor([0.0, 1.0]))
    assert all(math.isnan(value) for value in CLICKS.metrics(rows).values())


def test_click_loss_smooths_towards_a_half() -> None:
    logits, labels = torch.tensor([0.3, -2.0, 4.0]), torch.tensor([1.0, 0.0, 0.0])
    plain = F.binary_cross_entropy(logits.sigmoid(), labels)
    assert CLICKS.loss(logits, labels) == pytest.approx(float(plain), rel=1e-6)
    smooth = torch.tensor([0.9, 0.1, 0.1])
    expected = F.binary_cross_entropy(logits.sigmoid(), smooth)
    assert CLICKS.loss(logits, labels, 0.2) == pytest.approx(float(expected), rel=1e-6)
    assert CLICKS.label_smoothing == 0.0 < Classification(3).label_smoothing


def test_distillation_is_least_where_the_teacher_is() -> None:
    teacher = torch.tensor([0.3, -2.0, 4.0])
    student = teacher.clone().requires_grad_()
    CLICKS.distillation(student, teacher).backward()
    assert student.grad is not None and student.grad.abs().max() < 1e-7
    other = CLICKS.distillation(teacher + 0.5, teacher)
    assert other > CLICKS.distillation(teacher, teacher)
    assert other == pytest.approx(float(F.binary_cross_entropy((teacher + 0.5).sigmoid(), teacher.sigmoid())))


def test_distillation_of_classes_is_least_where_the_teacher_is() -> None:
    teacher = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    student = teacher.clone().requires_grad_()
    task = Classification(3)
    task.distillation(student, teacher).backward()
    assert student.grad is not None and student.grad.abs().max() < 1e-7
    outputs = teacher + torch.tensor([0.5, 0.0, -0.5])
    other = task.distillation(outputs, teacher)
    assert other > task.distillation(teacher, teacher)
    expected = -(teacher.softmax(1) * outputs.log_softmax(1)).sum(1).mean()
    assert other == pytest.approx(float(expected))


@pytest.mark.parametrize("task", [Classification(3), CLICKS])
def test_a_task_says_what_its_metrics_are(task: Task) -> None:
    assert task.columns[task.metric] is True
    assert set(task.ranges) <= set(task.columns)
    assert not any(higher for name, higher in task.columns.items() if name.endswith("loss"))


def test_tasks_refuse_data_they_cannot_learn() -> None:
    Classification(10).check(IMAGES)
    CLICKS.check(FEATURES)
    with pytest.raises(ValueError, match="labels must be 0 to 8, but got 9"):
        Classification(9).check(IMAGES)
    with pytest.raises(ValueError, match="classification takes images, but got click-through data"):
        Classification(10).check(FEATURES)
    with pytest.raises(ValueError, match="takes dense and categorical features, but got images"):
        CLICKS.check(IMAGES)


# What users ask of a task's columns


def test_objectives_follow_the_task() -> None:
    default = parse_goals(SearchSettings(), CLICKS)
    assert [str(o) for o in default.objectives] == ["auc:max", "latency@host/torch:min"]
    assert str(parse_goals(SearchSettings(), Classification(3)).objectives[0]) == "accuracy:max"
    asked = SearchSettings(objectives=["log_loss:min", "macs:min"], constraints=["auc >= 0.7"])
    goals = parse_goals(asked, CLICKS)
    assert [str(one) for one in (*goals.objectives, *goals.conditions)] == [
        *("log_loss:min", "macs:min", "auc >= 0.7")
    ]
    assert goals.columns == ["log_loss", "macs", "auc"]
    with pytest.raises(ConditionError, match="columns are auc, log_loss, macs, parameters and latency"):
        parse_goals(SearchSettings(objectives=["accuracy:max"]), CLICKS)


@pytest.mark.parametrize("bound", ["auc >= 70", "auc >= -0.1"])
def test_a_bound_outside_a_metrics_range_is_refused(bound: str) -> None:
    with pytest.raises(SearchError, match=f"a bound on auc must be from 0 to 1, but got '{bound}'") as caught:
        check_reachable(click_space(), parse_conditions(bound))
    assert isinstance(caught.value, ManynetError)
    check_reachable(click_space(), parse_conditions("auc >= 0.7 and log_loss <= 0.5"))
