"""The contract suites: over all that ships, and over plug-ins that are made to break one rule each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest
import torch
from ray import tune
from torch import nn
from torch.nn import functional as F

import manynet as mn
from manynet import samplers, trainers
from manynet.data import Images, digits
from manynet.data.features import Categorical, Features
from manynet.data.images.in_memory import MemorySplit
from manynet.devices.timing import Timing, time_run
from manynet.devices.tools.in_process import InProcessTool
from manynet.devices.tools.torch_eager import TorchEager
from manynet.search_spaces import nasrec
from manynet.space.evaluation import fit
from manynet.testing import (
    check_data,
    check_sampler,
    check_space,
    check_strategy,
    check_task,
    check_tool,
    require,
)
from manynet.trainers.single_path import SinglePath

FEATURES = Features(("a", "b"), tuple(Categorical(f"c{n}", 20, values=1 + n % 2) for n in range(5)))
FEW = {"evolution": {"population_size": 8, "sample_size": 4}, "nsga2": {"population_size": 6}}
OPTIONS: dict[str, dict[str, Any]] = {
    "differentiable:Differentiable": {"target": 1000.0, "warmup": 0.0, "every": 1}
}


def said(findings: list[str], text: str) -> None:
    """One of the findings says so, and all are sentences."""
    assert any(text in finding for finding in findings), findings
    for finding in findings:
        assert finding[0] == finding[0].upper() and finding.endswith(".") and "\n" not in finding


# ---------------------------------------------------------------- all of ours


@pytest.mark.parametrize("name", ["vit:tiny", "pit:tiny", "dmasking:tiny"])
def test_spaces_keep_their_contract(name: str) -> None:
    # One of them in a new process too, which takes as long as all else.
    require(check_space(f"manynet.search_spaces.{name}", samples=2, fresh_process=name == "vit:tiny"))


def test_click_spaces_keep_their_contract() -> None:
    require(check_space(nasrec.tiny.fitted(FEATURES), samples=2))


@pytest.mark.parametrize(
    "name",
    ["sandwich:Sandwich", "single_path:SinglePath", "finetune:FineTune", "differentiable:Differentiable"],
)
def test_strategies_keep_their_contract(name: str) -> None:
    require(check_strategy(f"manynet.trainers.{name}", options=OPTIONS.get(name)))


def test_every_module_of_trainers_has_its_strategy_checked() -> None:
    here = {path.stem for path in Path(trainers.__file__).parent.glob("*.py")}
    # Castling and any-connection training need spaces of their own, and have test files of their own.
    apart = {"__init__", "cost_terms", "castling", "any_connection"}
    assert here - apart == {"sandwich", "single_path", "finetune", "differentiable"}


@pytest.mark.parametrize("name", sorted(samplers.__all__))
def test_samplers_keep_their_contract(name: str) -> None:
    require(check_sampler(name, FEW.get(name), trials=25))


def test_tasks_keep_their_contract() -> None:
    require(check_task(mn.tasks.Classification(10)))
    require(check_task("manynet.space.tasks:ClickThrough"))


@pytest.mark.parametrize("name", ["digits", "flights", "flights_by_time"])
def test_data_sets_keep_their_contract(name: str) -> None:
    require(check_data(name, most=512))


def test_torch_keeps_its_contract() -> None:
    require(check_tool("host/torch"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch.compile"])
def test_runtimes_keep_their_contract(name: str) -> None:
    findings = check_tool(f"host/{name}")
    if findings and "must be usable on this machine" in findings[0]:
        pytest.skip(findings[0])
    require(findings)


def test_findings_fail_a_test_and_none_do_not() -> None:
    require([])
    with pytest.raises(AssertionError, match="must keep its contract.*\nOne is wrong."):
        require(["One is wrong."])


CHECKS = [check_space, check_strategy, check_sampler, check_task, check_data, check_tool]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("thing", ["no.such.module:thing", "json:dumps", 3, None, object])
def test_what_is_no_plug_in_is_a_finding(check: Callable[[Any], list[str]], thing: Any) -> None:
    findings = check(thing)
    assert findings
    said(findings, "")


# ---------------------------------------------------------------- spaces


class Net(mn.Supernet):
    """A small network, to be broken by a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = mn.elastic.Conv2d(1, 8, 3, padding=1)
        self.head = mn.elastic.Linear(8, 10)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        x = self.stem(x, out_channels=arch["width"]).relu()
        return self.head(x.mean((2, 3)), in_features=arch["width"])


class Mutating(Net):
    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        self.last = arch["width"]
        return super().forward(x, arch)


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        self.calls += 1
        return super().forward(x, arch) + self.calls


class Noisy(Net):
    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return super().forward(x + torch.randn_like(x), arch)


class AcrossTheBatch(Net):
    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return super().forward(x - x.mean(0, keepdim=True), arch)


class Unused(Net):
    def __init__(self) -> None:
        super().__init__()
        self.spare = mn.elastic.Linear(8, 8)


class TooWide(Net):
    def __init__(self) -> None:
        super().__init__()
        self.stem = mn.elastic.Conv2d(1, 16, 3, padding=1)


class Greedy(Net):
    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        outputs = super().forward(x, arch)
        if isinstance(arch, dict):
            arch["seen"] = True
        return outputs


class NineClasses(Net):
    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return super().forward(x, arch)[:, :9]


class Outside(Net):
    """Computes with a tensor that is in no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = [torch.randn(10)]

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return super().forward(x, arch) + self.shift[0].to(x.device)


def space_of(network: Callable[[], nn.Module], **changed: Any) -> mn.SearchSpace:
    task = mn.tasks.Classification(10)
    given = {"task": task, "input_shape": (1, 6, 6), "domains": {"width": tune.choice([4, 8])}, **changed}
    return mn.SearchSpace("own", supernet=network, **given)


_SHARED = Net()


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (Mutating, "Forward must set nothing on the network, but set last"),
        (
            Counting,
            "Forward must leave weights and statistics as they are in evaluation mode, but changed calls",
        ),
        (Noisy, "Forward must draw nothing in evaluation mode"),
        (AcrossTheBatch, "An example's output must not depend on the others of its batch"),
        (Unused, "Every weight must be of some architecture, but spare.weight (8, 8) is used by none"),
        (TooWide, "but stem.weight (16, 1, 3, 3) is used by none: at most (8, 1, 3, 3) of it"),
        (Greedy, "Forward must leave arch as it is"),
        (NineClasses, "Outputs must have the shape that Classification takes, but have (3, 9)"),
        (Outside, "A subnet that is saved and loaded must give the same outputs"),
        (lambda: _SHARED, "Supernet must make a network of its own at each call"),
        (lambda: 1 / 0, "Supernet must make a network without arguments, but raised ZeroDivisionError"),
    ],
)
def test_a_faulty_network_is_told_of(network: Callable[[], nn.Module], text: str) -> None:
    said(check_space(space_of(network), samples=2, fresh_process=False), text)


class Opaque:
    """Has neither attributes that can be listed nor a ``__repr__`` of its own."""

    __slots__ = ("content",)


class Bare(mn.tasks.Classification):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        vars(self)["held"] = Opaque()

    __repr__ = object.__repr__


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"repair": lambda arch: {**arch, "width": 5}}, "A repaired value must be of its domain"),
        (
            {"repair": lambda arch: {**arch, "width": 12 - arch["width"]}},
            "Repair must leave a valid architecture",
        ),
        (
            {"sample": lambda rng: {"width": random.choice([4, 8])}},
            "Sample must draw from its generator alone",
        ),
        ({"sample": lambda rng: {"width": 5}}, "Sample must draw an architecture of the space"),
        (
            {"domains": {"width": tune.choice([4, 8]), "widht": tune.choice([4, 8])}},
            "Every choice must be read by the network of some architecture, but 'widht' was read by none",
        ),
    ],
)
def test_faulty_choices_are_told_of(changed: dict[str, Any], text: str) -> None:
    said(check_space(space_of(Net, **changed), samples=6, fresh_process=False), text)


# ---------------------------------------------------------------- strategies


def backward(
    network: nn.Module, batch: mn.Batch, step: mn.Step, arch: Any, scale: float = 1.0
) -> dict[str, Any]:
    outputs = network(*fit(batch.inputs, step.space, arch), arch=arch)
    loss = step.space.task.loss(outputs, batch.targets)
    (scale * loss).backward()
    return {"loss": loss.detach()}


class Uphill(mn.Strategy):
    def backward(self, network: nn.Module, batch: mn.Batch, step: mn.Step) -> dict[str, torch.Tensor]:
        return backward(network, batch, step, step.space.largest, -1.0)


class Global(mn.Strategy):
    def backward(self, network: nn.Module, batch: mn.Batch, step: mn.Step) -> dict[str, torch.Tensor]:
        return backward(network, batch, step, {"width": random.choice([4, 6, 8]), "hidden": 8})


class Forgetful(mn.Strategy):
    """Has a state that no checkpoint holds."""

    def __init__(self) -> None:
        self.calls = 0

    def backward(self, network: nn.Module, batch: mn.Batch, step: mn.Step) -> dict[str, torch.Tensor]:
        self.calls += 1
        return backward(network, batch, step, step.space.largest, 1.0 + self.calls)


class Unpicklable(mn.Strategy):
    def backward(self, network: nn.Module, batch: mn.Batch, step: mn.Step) -> dict[str, torch.Tensor]:
        return backward(network, batch, step, step.space.largest)

    def state_dict(self) -> dict[str, Any]:
        return {"path": Path("here")}


class Attached(mn.Strategy):
    def backward(self, network: nn.Module, batch: mn.Batch, step: mn.Step) -> dict[str, torch.Tensor]:
        outputs = network(*fit(batch.inputs, step.space, step.space.largest), arch=step.space.largest)
        loss = step.space.task.loss(outputs, batch.targets)
        loss.backward()
        return {"loss": loss}


class OutOfSpace(mn.Strategy):
    def backward(self, network: nn.Module, batch: mn.Batch, step: mn.Step) -> dict[str, torch.Tensor]:
        return backward(network, batch, step, {"width": 5, "hidden": 8})


class Summed(mn.Strategy):
    def backward(self, network: nn.Module, batch: mn.Batch, step: mn.Step) -> dict[str, torch.Tensor]:
        return backward(network, batch, step, step.space.largest, float(len(batch.targets)))


class Stepping(mn.Strategy):
    def backward(self, network: nn.Module, batch: mn.Batch, step: mn.Step) -> dict[str, torch.Tensor]:
        logged = backward(network, batch, step, step.space.largest)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(0.9)
        return logged


class Abstract(mn.Strategy):
    pass


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (Uphill, "A small step against the gradients must lower the loss"),
        (Global, "Draws must derive from Step.random alone"),
        (Forgetful, "A run that is stopped and resumed must end as one that is not"),
        (Unpicklable, "State_dict must be tensors and plain values"),
        (Attached, "What is logged must be detached scalar tensors, but loss is"),
        (OutOfSpace, "A strategy must train architectures of the space"),
        (Summed, "The mean of two workers' gradients must be the gradient of their examples together"),
        (Stepping, "Backward must leave the weights to the optimizer"),
        (Abstract, "A strategy must define every abstract method, but lacks backward"),
    ],
)
def test_a_faulty_strategy_is_told_of(strategy: type[mn.Strategy], text: str) -> None:
    said(check_strategy(strategy), text)


def test_a_strategy_that_the_space_does_not_suit_says_so() -> None:
    clicks = replace(DIGITS, features=FEATURES)
    said(check_strategy(SinglePath, data=clicks), "classification takes images")


# ---------------------------------------------------------------- samplers


class Sampler(optuna.samplers.RandomSampler):
    """A random sampler with one fault."""

    def __init__(self, seed: int | None, fault: str) -> None:
        super().__init__(seed)
        self.fault, self.count = fault, 0

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        done = study.get_trials(deepcopy=False)
        if self.fault == "failed" and any(one.state == optuna.trial.TrialState.FAIL for one in done):
            raise KeyError("values")
        if self.fault == "infinite" and done:
            int(sum(sum(one.values) for one in done if one.values))
        if self.fault == "same":
            return optuna.samplers.RandomSampler(0).sample_independent(
                study, trial, param_name, param_distribution
            )
        return super().sample_independent(study, trial, param_name, param_distribution)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda seed, _: optuna.samplers.RandomSampler(), "The same seed must give the same proposals"),
        (lambda seed, _: optuna.samplers.RandomSampler(0), "Another seed must give other proposals"),
        (lambda seed, _: Sampler(seed, "same"), "Proposals must not all be the same"),
        (lambda seed, _: Sampler(seed, "failed"), "A sampler must go on after failed trials"),
        (lambda seed, _: Sampler(seed, "infinite"), "A sampler must go on under constraints"),
        (lambda seed, _: optuna.samplers.CmaEsSampler if seed < 0 else "x", "must be one of Optuna's"),
        (lambda seed: None, "A sampler must be made from a seed, objectives and its options"),
    ],
)
def test_a_faulty_sampler_is_told_of(make: Any, text: str) -> None:
    said(check_sampler(make, trials=15), text)


# ---------------------------------------------------------------- tasks


class LossSum(mn.tasks.Classification):
    def loss(
        self, outputs: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing, reduction="sum")


class Detached(mn.tasks.Classification):
    def loss(
        self, outputs: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        return super().loss(outputs.detach(), targets, label_smoothing)


class ByBatch(mn.tasks.Classification):
    def rows(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows = super().rows(outputs, targets)
        return rows.mean(0, keepdim=True).expand_as(rows)


class Missing(mn.tasks.Classification):
    def metrics(self, rows: torch.Tensor) -> dict[str, float]:
        return {"accuracy": float(rows[:, 0].mean())}


class Ordered(mn.tasks.Classification):
    def metrics(self, rows: torch.Tensor) -> dict[str, float]:
        return {**super().metrics(rows), "accuracy": float(rows[0, 0])}


class Inverted(mn.tasks.Classification):
    def metrics(self, rows: torch.Tensor) -> dict[str, float]:
        return {"accuracy": 1 - float(rows[:, 0].mean()), "loss": float(rows[:, 1].mean())}


class Downwards(mn.tasks.Classification):
    metric = "loss"


class Percent(mn.tasks.Classification):
    def metrics(self, rows: torch.Tensor) -> dict[str, float]:
        return {"accuracy": 100 * float(rows[:, 0].mean()), "loss": float(rows[:, 1].mean())}


class Taken(mn.tasks.Classification):
    columns: ClassVar[Any] = {"accuracy": True, "macs": False}


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (LossSum, "Loss must be the mean over a batch"),
        (Detached, "Loss must have a gradient at the outputs, but was detached"),
        (ByBatch, "Rows of an example must not depend on the batch"),
        (Missing, "Metrics must give a value for each of columns and no other, but gives accuracy"),
        (Ordered, "Metrics must not depend on the order of the rows"),
        (Inverted, "A metric must be better the nearer outputs are to the targets"),
        (Downwards, "The main metric must be one of which higher is better"),
        (Percent, "Metrics must be within ranges"),
        (Taken, "Columns must be words that no other column has, but one is 'macs'"),
        (Bare, "the task.held must have a content that can be digested"),
    ],
)
def test_a_faulty_task_is_told_of(task: type[mn.tasks.Classification], text: str) -> None:
    said(check_task(task(5)), text)


# ---------------------------------------------------------------- data


DIGITS = digits()


def part(of: mn.Split, count: int = 90, kind: type[MemorySplit] = MemorySplit) -> MemorySplit:
    assert isinstance(of, MemorySplit)
    return kind(of.images[:count], of.labels[:count], of.normalisation)


def small(kind: type[MemorySplit] = MemorySplit, **changed: Any) -> mn.Data:
    parts = {name: part(getattr(DIGITS, name), kind=kind) for name in ("train", "validation", "test")}
    return replace(DIGITS, **{**parts, **changed})


class Lossy(MemorySplit):
    def batches(self, size: int, limit: int | None = None) -> Iterator[mn.Batch]:
        return (batch for batch in super().batches(size, limit) if len(batch.targets) == size)


class Unlimited(MemorySplit):
    def batches(self, size: int, limit: int | None = None) -> Iterator[mn.Batch]:
        return super().batches(size)


class Shuffled(MemorySplit):
    def batches(self, size: int, limit: int | None = None) -> Iterator[mn.Batch]:
        rows = torch.randperm(len(self))[:limit].numpy()
        return (self.take(rows[at : at + size]) for at in range(0, len(rows), size))


class Double(MemorySplit):
    def take(self, rows: Any) -> mn.Batch:
        batch = super().take(rows)
        return mn.Batch((batch.inputs[0].double(),), batch.targets)


class View(MemorySplit):
    def take(self, rows: Any) -> mn.Batch:
        if "made" not in self.__dict__:
            object.__setattr__(self, "made", super().take(np.arange(len(self))))
        whole: mn.Batch = self.made  # type: ignore[attr-defined]
        cut = slice(int(rows[0]), int(rows[-1]) + 1)
        return mn.Batch((whole.inputs[0][cut],), whole.targets[cut])


class Restarting(MemorySplit):
    def stream(
        self, size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[mn.Batch]:
        return super().stream(size, seed=seed, rank=rank, world=world)


class AllTheSame(MemorySplit):
    """Every worker gets the first one's part."""

    def stream(
        self, size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[mn.Batch]:
        super().stream(size, seed=seed, start=start, rank=rank, world=world)
        return super().stream(size, seed=seed, start=start, rank=0, world=world)


class Ending(MemorySplit):
    def stream(
        self, size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[mn.Batch]:
        whole = super().stream(size, seed=seed, start=start, rank=rank, world=world)
        return (next(whole) for _ in range(len(self) // size))


class Overlapping(MemorySplit):
    def divided(self, share: float, *, seed: int) -> tuple[mn.Split, mn.Split]:
        return super().divided(share, seed=seed)[0], self


class Locked(MemorySplit):
    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle a lock")


def ordered(of: mn.Split) -> MemorySplit:
    assert isinstance(of, MemorySplit)
    rows = np.argsort(of.labels, kind="stable")
    return MemorySplit(of.images[rows], of.labels[rows], of.normalisation)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: small(Lossy),
            "Batches of train must give each of its examples once, but give 64 where len says 90",
        ),
        (lambda: small(Unlimited), "must stop at the limit"),
        (lambda: small(Shuffled), "must give the same examples in the same order"),
        (lambda: small(Double), "must have the shapes and types that features say"),
        (lambda: small(View), "must share no memory with the split"),
        (lambda: small(Restarting), "Stream of train must go on at start"),
        (lambda: small(AllTheSame), "Stream of train must give workers equal parts"),
        (lambda: small(Ending), "Stream of train must give batches of the size asked for, without end"),
        (lambda: small(Overlapping), "The parts of divided train must hold each of its examples once"),
        (lambda: small(Locked), "Train must pickle, to be sent to workers, but raised TypeError"),
        (lambda: small(test=small().train), "Test and train must have no example in common, but 90 of 90"),
        (lambda: small(train=ordered(DIGITS.train)), "Examples of train must come in a mixed order"),
        (lambda: small(features=Images(5, 1, (0.5,), (0.5,))), "must be from 0 to 4, as features say"),
        (lambda: small(digest="mine"), "Digest must be 16 hexadecimal digits"),
        (lambda: small(digest=f"{random.getrandbits(64):016x}"), "Loaded again, the digest must be the same"),
        (lambda: small(test=[1, 2]), "Test must be a Split, but is [1, 2]"),
        (lambda: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_faulty_data_are_told_of(make: Callable[[], mn.Data], text: str) -> None:
    said(check_data(make, fresh_process=False), text)


def test_sound_data_of_ones_own_are_not_told_of() -> None:
    require(check_data(small))


# ---------------------------------------------------------------- tools


class Own(InProcessTool):
    """A sound tool, to be broken by a subclass."""

    def version(self) -> str:
        return "1.0"

    def loaded(self, subnet: nn.Module, example: tuple[torch.Tensor, ...], name: Any) -> Callable[[], Any]:
        return TorchEager().loaded(subnet, example, name)


class Silent(Own):
    def loaded(self, subnet: nn.Module, example: tuple[torch.Tensor, ...], name: Any) -> Callable[[], Any]:
        run = super().loaded(subnet, example, name)

        def without_outputs() -> None:
            run()

        return without_outputs


class Constant(Own):
    def prepare(
        self, subnet: nn.Module, example: tuple[torch.Tensor, ...], name: Any
    ) -> Callable[[], Timing]:
        super().prepare(subnet, example, name)
        return lambda: Timing(1e-3, 0.0, 5, True)


class Seconds(Own):
    def prepare(
        self, subnet: nn.Module, example: tuple[torch.Tensor, ...], name: Any
    ) -> Callable[[], Timing]:
        timed = super().prepare(subnet, example, name)
        return lambda: replace(found := timed(), milliseconds=found.milliseconds / 1e5)


class OneExample(Own):
    def loaded(self, subnet: nn.Module, example: tuple[torch.Tensor, ...], name: Any) -> Callable[[], Any]:
        return super().loaded(subnet, example, replace(name, batch=1))

    def outputs(self, *of: Any) -> None:
        """Nothing: what is run is seen all the same."""


class Unlike(Own):
    def loaded(self, subnet: nn.Module, example: tuple[torch.Tensor, ...], name: Any) -> Callable[[], Any]:
        run = super().loaded(subnet, example, name)
        return lambda: run() + 1


class Casting(Own):
    def loaded(self, subnet: nn.Module, example: tuple[torch.Tensor, ...], name: Any) -> Callable[[], Any]:
        subnet.double().float().train()
        return super().loaded(subnet, example, name)


class Raising(Own):
    def prepare(
        self, subnet: nn.Module, example: tuple[torch.Tensor, ...], name: Any
    ) -> Callable[[], Timing]:
        run = self.loaded(subnet, example, name)
        run()
        return lambda: time_run(run)


class Swallowing(Own):
    def prepare(
        self, subnet: nn.Module, example: tuple[torch.Tensor, ...], name: Any
    ) -> Callable[[], Timing]:
        try:
            return super().prepare(subnet, example, name)
        except mn.ManynetError:
            return lambda: Timing(1.0, 0.0, 5, True)


class Keeping(Own):
    files: ClassVar[list[Any]] = []

    def prepare(
        self, subnet: nn.Module, example: tuple[torch.Tensor, ...], name: Any
    ) -> Callable[[], Timing]:
        self.files.append(open("/dev/null"))  # noqa: SIM115
        return super().prepare(subnet, example, name)


class Number(Own):
    def prepare(self, subnet: nn.Module, example: tuple[torch.Tensor, ...], name: Any) -> Callable[[], Any]:
        return lambda: 3.0


class Commas(Own):
    def version(self) -> str:
        return "1,0"


class Absent(Own):
    def missing(self, name: Any) -> str | None:
        return "the runtime is not installed"


class Lax(Own):
    def check(self, name: Any) -> None:
        pass


@dataclass
class Needy(Own):
    path: str


@pytest.mark.parametrize(
    ("tool", "text"),
    [
        (Constant, "A network of ten thousand times the multiply-adds must take longer"),
        (Seconds, "Times must be in milliseconds"),
        (
            OneExample,
            "must run, export or trace the network on the whole batch, but called it with batches of 1",
        ),
        (Silent, "a run must give its outputs, a tensor or array, but gave None"),
        (Unlike, "Outputs must be PyTorch's to 0.001 in float32, but differ by"),
        (Casting, "Prepare must leave the network and its example as they are"),
        (
            Raising,
            "Prepare of a network that fails must raise MeasurementError, but raised ZeroDivisionError",
        ),
        (Swallowing, "Prepare of a network that fails must raise MeasurementError, but raised nothing"),
        (Keeping, "What a network held must be released with it, but open files grow"),
        (Number, "What prepare returns must give a Timing, but gives 3.0"),
        (Commas, "Version must have no comma"),
        (Absent, "must be usable on this machine to be checked, but the runtime is not installed"),
        (
            Lax,
            "Check of precision bf16, which is none of precisions, must raise DeviceError, but raised nothing",
        ),
        (Needy, "must take no arguments and give one, but raised TypeError"),
        (mn.Tool, "Can't instantiate abstract class Tool"),
    ],
)
def test_a_faulty_tool_is_told_of(tool: Any, text: str) -> None:
    said(check_tool(tool), text)
