"""The contract of a task: what a batch means."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from manynet.data import Categorical, Features, Images
from manynet.records.conditions import COST, LATENCY
from manynet.space.identity import content_of
from manynet.space.tasks import Task
from manynet.testing.findings import Findings, isolated, resolved

_SIZES = (1, 7, 64)
_COUNT = 101
_CLASSES = 5


def check_task(
    task: Task | str | Any,
    outputs: torch.Tensor | None = None,
    targets: torch.Tensor | None = None,
    perfect: torch.Tensor | None = None,
) -> list[str]:
    """What is wrong with a task: its loss, its metrics and what it says of them.

    Args:
        task: the task, what makes it without arguments, or its ``module:name``.
        outputs: of a network, ``(N, ...)``; by default class logits, or logits of a click, as the task takes.
        targets: of the examples, ``(N, ...)``; needed with ``outputs``.
        perfect: outputs of a network that is always right; needed with ``outputs`` to compare metrics.

    Returns:
        Sentences; none where the task keeps its contract.
    """
    findings = Findings()
    with isolated():
        found = resolved(Task, task, findings)  # type: ignore[type-abstract]
        if found is None:
            return findings.sentences
        _check_names(found, findings)
        if outputs is None or targets is None:
            outputs, targets, perfect = _examples(found)
        _check_loss(found, outputs, targets, findings)
        _check_distillation(found, outputs, findings)
        rows = _check_rows(found, outputs, targets, findings)
        if rows is not None:
            _check_metrics(found, rows, findings)
            _check_quality(found, outputs, targets, perfect, findings)
        _check_identity(found, findings)
    return findings.sentences


def _examples(task: Task) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random outputs, targets, and outputs that are right, in the form that the task's data have."""
    drawn = torch.Generator().manual_seed(0)
    if _takes(task, Features(("price",), (Categorical("shop", 5),))):
        targets = torch.randint(2, (_COUNT,), generator=drawn).float()
        return torch.randn(_COUNT, generator=drawn), targets, 20 * targets - 10
    classes = int(getattr(task, "num_classes", _CLASSES))
    labels = torch.randint(classes, (_COUNT,), generator=drawn)
    right = 20 * torch.nn.functional.one_hot(labels, classes).float()
    return torch.randn(_COUNT, classes, generator=drawn), labels, right


def _takes(task: Task, features: Images | Features) -> bool:
    try:
        task.check(features)
    except Exception:  # noqa: BLE001 - whatever it is, it does not take them
        return False
    return True


def _check_names(task: Task, findings: Findings) -> None:
    with findings.trying("metric and columns must name the task's metrics"):
        columns, metric = dict(task.columns), task.metric
        findings.expect(
            metric in columns, "metric must be one of columns", f"is {metric!r} of {', '.join(columns)}"
        )
        findings.expect(
            columns.get(metric, True) is True,
            "the main metric must be one of which higher is better",
            f"columns says {columns.get(metric)!r} of {metric!r}",
        )
        for name, higher in columns.items():
            findings.expect(
                isinstance(higher, bool), "columns must say True or False", f"says {higher!r} of {name!r}"
            )
            taken = name in COST or name.startswith((LATENCY, "test_"))
            plain = name and not taken and not any(letter.isspace() or letter in ",/" for letter in name)
            findings.expect(plain, "columns must be words that no other column has", f"one is {name!r}")
        outside = set(task.ranges) - columns.keys()
        findings.expect(not outside, "ranges must be of columns", f"also has {', '.join(sorted(outside))}")
        smoothing = task.label_smoothing
        findings.expect(0 <= smoothing < 1, "label_smoothing must be from 0 to below 1", f"is {smoothing!r}")


def _check_loss(task: Task, outputs: torch.Tensor, targets: torch.Tensor, findings: Findings) -> None:
    def loss(rows: slice | torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        return task.loss(outputs[rows], targets[rows], smoothing)

    with findings.trying("loss must take a batch of outputs and targets"):
        student = outputs.clone().requires_grad_()
        _check_differentiable("loss", task.loss(student, targets), student, findings)
        for smoothing in (0.0, 0.1):
            value = loss(slice(None), smoothing)
            findings.expect(
                _is_finite_scalar(value),
                "loss must be a finite scalar",
                f"is {value!r:.80} at smoothing {smoothing}",
            )
        half = len(targets) // 2
        parts = float(loss(slice(half)) + loss(slice(half, 2 * half))) / 2
        whole = float(loss(slice(2 * half)))
        findings.expect(
            math.isclose(parts, whole, rel_tol=1e-3, abs_tol=1e-5),
            "loss must be the mean over a batch, so that workers can share one",
            f"is {whole:.6g} for {2 * half} examples and on average {parts:.6g} for their halves",
        )


def _check_distillation(task: Task, outputs: torch.Tensor, findings: Findings) -> None:
    with findings.trying("distillation must take a batch of outputs and a teacher's"):
        teacher = outputs.flip(0)
        student = outputs.clone().requires_grad_()
        loss = task.distillation(student, teacher)
        if not _check_differentiable("distillation", loss, student, findings):
            return
        own, other = float(task.distillation(teacher, teacher)), float(loss.detach())
        findings.expect(
            own <= other + 1e-6,
            "distillation must be least where the outputs are the teacher's",
            f"is {own:.6g} there and {other:.6g} elsewhere",
        )


def _check_differentiable(name: str, loss: Any, student: torch.Tensor, findings: Findings) -> bool:
    if not findings.expect(_is_finite_scalar(loss), f"{name} must be a finite scalar", f"is {loss!r:.80}"):
        return False
    rule = f"{name} must have a gradient at the outputs"
    if not findings.expect(loss.requires_grad, rule, "was detached from them"):
        return False
    (slope,) = torch.autograd.grad(loss, student, allow_unused=True)
    reached = slope is not None and bool(slope.isfinite().all()) and float(slope.abs().max()) > 0
    return findings.expect(reached, rule, "its gradient is zero or not finite")


def _is_finite_scalar(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 0 and bool(value.isfinite())


def _rows(task: Task, outputs: torch.Tensor, targets: torch.Tensor, size: int) -> torch.Tensor:
    # As a search scores: in inference mode, and joined.
    with torch.inference_mode():
        pairs = zip(outputs.split(size), targets.split(size), strict=True)
        return torch.cat([task.rows(*pair) for pair in pairs])


def _check_rows(
    task: Task, outputs: torch.Tensor, targets: torch.Tensor, findings: Findings
) -> torch.Tensor | None:
    with findings.trying("rows must take any batch of outputs and targets"):
        before = outputs.clone(), targets.clone()
        whole = _rows(task, outputs, targets, len(targets))
        rule = "rows must be a tensor (B, k)"
        if not findings.expect(
            whole.dim() == 2 and len(whole) == len(targets),
            rule,
            f"has shape {tuple(whole.shape)} for B {len(targets)}",
        ):
            return None
        for size in _SIZES:
            parts = _rows(task, outputs, targets, size)
            findings.expect(
                parts.shape == whole.shape and torch.allclose(parts, whole, 1e-5, 1e-6, equal_nan=True),
                "rows of an example must not depend on the batch that it is in",
                f"those of batches of {size} are others than those of all {len(targets)} together",
            )
        same = all(torch.equal(a, b) for a, b in zip(before, (outputs, targets), strict=True))
        findings.expect(same, "rows must leave outputs and targets as they are", "changed them")
        return whole
    return None


def _check_metrics(task: Task, rows: torch.Tensor, findings: Findings) -> None:
    with findings.trying("metrics must take the rows of a split"):
        found = task.metrics(rows)
        findings.expect(
            isinstance(found, dict) and set(found) == set(task.columns),
            "metrics must give a value for each of columns and no other",
            f"gives {', '.join(map(str, found)) or 'none'} for {', '.join(task.columns)}",
        )
        for name, value in found.items():
            findings.expect(
                isinstance(value, float) and math.isfinite(value),
                "metrics must be finite floats",
                f"{name} is {value!r:.80}",
            )
            low, high = task.ranges.get(name, (-math.inf, math.inf))
            findings.expect(low <= value <= high, "metrics must be within ranges", f"{name} is {value!r}")
        mixed = task.metrics(rows[torch.randperm(len(rows))])
        again = {name: value for name, value in found.items() if not _close(value, mixed.get(name, math.nan))}
        findings.expect(
            not again,
            "metrics must not depend on the order of the rows, which several workers join",
            f"{', '.join(again)} does",
        )


def _close(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-9)


def _check_quality(
    task: Task,
    outputs: torch.Tensor,
    targets: torch.Tensor,
    perfect: torch.Tensor | None,
    findings: Findings,
) -> None:
    with findings.trying("metrics of a diverged network must be numbers, or NaN"):
        task.metrics(_rows(task, torch.full_like(outputs, math.nan), targets, 64))
    if perfect is None:
        return
    with findings.trying("metrics must tell a network that is right from one that is not"):
        some = 0.5 * perfect + 0.5 * outputs * perfect.abs().mean()
        ranked: Sequence[dict[str, float]] = [
            task.metrics(_rows(task, one, targets, 64)) for one in (-perfect, outputs, some, perfect)
        ]
        for name, higher in task.columns.items():
            values = [one[name] if higher else -one[name] for one in ranked]
            findings.expect(
                all(a <= b for a, b in pairwise(values)) and values[1] < values[3],
                "a metric must be better the nearer outputs are to the targets, in the direction that columns says",
                f"{name} is {', '.join(f'{one[name]:.4g}' for one in ranked)} from always wrong to always right",
            )
        losses = [float(task.loss(one, targets)) for one in (outputs, perfect)]
        findings.expect(
            losses[1] < losses[0],
            "loss must be less where outputs are right",
            f"is {losses[1]:.4g} there and {losses[0]:.4g} for random ones",
        )


def _check_identity(task: Task, findings: Findings) -> None:
    with findings.trying("a task must pickle, for evaluators"):
        copies = (pickle.loads(pickle.dumps(task)), copy.deepcopy(task))
        findings.expect(
            all(content_of(one, "the task") == content_of(task, "the task") for one in copies),
            "a copy must have the same content, which is part of a space's digest",
            f"it is {content_of(task, 'the task')!r:.120}",
        )
