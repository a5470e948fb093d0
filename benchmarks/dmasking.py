"""What choices that stay undecided cost a training step: channel masks and drawn resolutions against convention.

Seven inverted residual blocks, batch 16, images of 32 x 32, one thread, CPU seconds. A step is forward, loss, backward,
clip and optimizer of the weights, by the product's own learner in every way; what teaches the options' logits is shown
apart. Conventions are separate blocks and separate projections for channels (``support/conventional.py``), and FBNetV2's
weighted sum (arXiv 2004.05565) for resolutions. With one option nothing is undecided.

Bytes are those of the storages that autograd saves for one backward pass, each counted once, without parameters. Every
point is a process of its own; those of one curve take turns, a step at a time.

    python benchmarks/dmasking.py

Writes ``dmasking.json`` and ``dmasking.html`` in ``benchmarks/output``.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import mean, median
from typing import Any, Protocol, Self

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from ray import tune
from support.conventional import (
    Conventional,
    GumbelSoftmax,
    SeparateBlocks,
    SeparateProjections,
    take_shared,
)
from support.frame import Option, at_most, run, show
from support.memory import SavedBytes
from support.timing import cpu_seconds
from torch import nn

import manynet as mn
from manynet.config.settings import TrainSettings
from manynet.data import Batch
from manynet.learning.learner import Learner
from manynet.learning.strategy import Step
from manynet.report.figures import FINALIST, FRONT, GRID, THIRD, layout
from manynet.runtime.malloc import keep_freed_memory
from manynet.search_spaces import dmasking
from manynet.search_spaces.dmasking import Stage
from manynet.trainers.differentiable import Differentiable

BARS = {
    # Masks and both conventions must be one function.
    "largest_difference": at_most(1e-4),
    # Of the most options over one.
    "time_of_channels": at_most(1.05),
    "saved_of_channels": at_most(1.01),
    "time_of_resolutions": at_most(1.2),
    "saved_of_resolutions": at_most(1.1),
    # Of a step.
    "expected_cost": at_most(0.03),
}
PIXELS, CLASSES, STEM, HEAD, EXPANSION = 32, 10, 16, 192, 3
WIDTHS = ((32, 2, 1), (48, 3, 2), (96, 2, 2))
"""Largest channels, blocks and stride of each stage."""
OPTIONS = (
    Option("--channels", (1, 2, 4, 8, 16), "options of each block", quick=(1, 2)),
    Option("--resolutions", (1, 2, 3, 4), "options of the input", quick=(1, 2)),
    Option("--batch", 16, quick=2),
    Option("--steps", 50, "of a point, at most", quick=1),
    Option("--saving-steps", 24, "that saved bytes are counted in, where resolutions are drawn", quick=2),
    Option("--costs", ("channels", "all", "fbnetv2"), "spaces of the expected cost", quick=("channels",)),
)
RESOLUTIONS = ((32,), (32, 24), (32, 28, 24), (32, 28, 24, 20))
EVERY = 4
NEVER = 10**9
SETTINGS = TrainSettings(steps=10**6, warmup=0, ema=0, precision="float32")
NAMES = {
    "blocks": "separate blocks",
    "projections": "separate projections",
    "masked": "masked (this platform)",
    "summed": "weighted sum",
    "drawn": "drawn (this platform)",
}
COLOURS = {"blocks": FINALIST, "projections": THIRD, "masked": FRONT, "summed": FINALIST, "drawn": FRONT}
COSTS = {
    "channels": "16 channel options of 7 blocks",
    "all": "all choices of 7 blocks",
    "fbnetv2": "all choices of fbnetv2, at 32 x 32",
}
Curve = Sequence[Mapping[str, float]]


def main(given: Namespace) -> dict[str, float]:
    """Measure, print tables and write the picture."""
    torch.manual_seed(0)
    difference = max(largest_difference(options, given.batch) for options in (1, 4))

    # Steps a point: fewer where a step is long, and as many as the bar asks for where steps differ.
    def channel_curve(way: str, steps: int) -> Curve:
        return curve(way, given.channels, min(given.steps, steps), median, given)

    channels = {
        "blocks": channel_curve("blocks", 5),
        "projections": channel_curve("projections", 10),
        "masked": channel_curve("masked", 40),
    }
    resolutions: dict[str, Curve] = {
        way: curve(way, given.resolutions, given.steps, mean, given) for way in ("summed", "drawn")
    }
    costs = {name: shares(name, given) for name in given.costs}
    show_curves(f"channel options, batch {given.batch}", channels)
    show_curves(f"input resolutions, batch {given.batch}", resolutions)
    show_costs(costs)
    found = {"channels": channels, "resolutions": resolutions, "expected_cost": costs}
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "dmasking.json").write_text(json.dumps(found, indent=2))
    picture(channels, resolutions).write_html(
        given.output / "dmasking.html", include_plotlyjs=True, config={"displayModeBar": False}
    )
    return {"largest_difference": difference, **compared(channels, resolutions, costs)}


class Point(Protocol):
    """Measures one way of one number of options, a request at a time."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def ask(self, request: str) -> float: ...


def point(way: str, options: int, given: Namespace) -> Point:
    """A point of its own process, or in a quick run of this one, where starting processes would take longest."""
    return Here(way, options, given) if given.quick else Apart(way, options, given)


class Here:
    """A point of this process."""

    def __init__(self, way: str, options: int, given: Namespace) -> None:
        self._answers = answers(way, options, given)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """There is nothing to end."""

    def ask(self, request: str) -> float:
        return self._answers[request]()


class Apart:
    """A point of a process of its own."""

    def __init__(self, way: str, options: int, given: Namespace) -> None:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, way, options, given), daemon=True)
        self._process.start()
        # Or the end of the process would not end the connection.
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        self._process.join()

    def ask(self, request: str) -> float:
        self._connection.send(request)
        return float(self._connection.recv())


def curve(
    way: str,
    numbers: Sequence[int],
    steps: int,
    average: Callable[[Sequence[float]], float],
    given: Namespace,
) -> list[dict[str, float]]:
    """Seconds and bytes of a step at each number of options; the processes take turns."""
    with ExitStack() as stack:
        points = [stack.enter_context(point(way, number, given)) for number in numbers]
        rows = [{"options": float(number)} for number in numbers]
        # The first two warm the processes up as well.
        turns = {
            "saved": 1,
            "saved_updating": 1,
            "step": steps,
            "updating_step": max(min(steps, 3), steps // 4),
        }
        for request, times in turns.items():
            taken = [[one.ask(request) for one in points] for _ in range(times)]
            for row, seconds in zip(rows, zip(*taken, strict=True), strict=True):
                row[request] = average(seconds)
    return rows


def shares(name: str, given: Namespace) -> dict[str, float]:
    """What the expected cost takes, in seconds, beside a step of the same network."""
    with point(name, max(given.channels), given) as one:
        one.ask("step")
        requests = ("expected", "expected_backward", "step")
        taken = [[one.ask(request) for request in requests] for _ in range(min(given.steps, 10))]
    return {
        request: median(seconds) for request, seconds in zip(requests, zip(*taken, strict=True), strict=True)
    }


def serve(connection: Connection, way: str, options: int, given: Namespace) -> None:
    """Answer requests until the other end is closed."""
    answered = answers(way, options, given)
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        connection.send(answered[request]())


def answers(way: str, options: int, given: Namespace) -> dict[str, Callable[[], float]]:
    """What a point measures, by request."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # As the platform's own training does.
    keep_freed_memory()
    batch, steps = examples(given.batch), given.saving_steps
    learner = learning(way, options, batch)
    return {
        "step": lambda: step_seconds(learner, batch, every=NEVER),
        "updating_step": lambda: step_seconds(learner, batch, every=1),
        "saved": lambda: saved_bytes(learner, batch, every=NEVER, steps=steps),
        "saved_updating": lambda: saved_bytes(learner, batch, every=1, steps=steps),
        "expected": lambda: expected_seconds(learner, backward=False),
        "expected_backward": lambda: expected_seconds(learner, backward=True),
    }


def learning(way: str, options: int, batch: Batch) -> Learner:
    """What trains one point's network; it holds out ``batch``."""
    if way in ("blocks", "projections"):
        network: nn.Module = conventional_network(way, options)
        conventional = GumbelSoftmax(sum(blocks for _, blocks, _ in WIDTHS), options, NEVER)
        return Learner(network, channel_space(1), conventional, SETTINGS, held=lambda number: batch)
    space = {
        "masked": lambda: channel_space(options),
        "channels": lambda: channel_space(options),
        "summed": lambda: resolution_space(RESOLUTIONS[options - 1]),
        "drawn": lambda: resolution_space(RESOLUTIONS[options - 1]),
        "all": lambda: seven_blocks(options, expansions=(EXPANSION / 2, EXPANSION), kernels=(3, 5)),
        "fbnetv2": lambda: narrowed(dmasking.fbnetv2, {"resolution": (PIXELS,)}, dmasking.fbnetv2.soft),
    }[way]()
    drawn = "resolution" if way == "drawn" else ""
    strategy = Differentiable(space.read(space.smallest).macs, warmup=0, every=NEVER, drawn=drawn)
    return Learner(space.build(), space, strategy, SETTINGS, held=lambda number: batch)


def conventional_network(way: str, options: int) -> Conventional:
    kind = SeparateBlocks if way == "blocks" else SeparateProjections
    return Conventional(kind, stages(options), STEM, HEAD, CLASSES)


def stages(options: int, expansions: Sequence[float] = (EXPANSION,)) -> tuple[Stage, ...]:
    """Stages with so many channel options, evenly spaced up to the largest."""
    return tuple(
        Stage([widest * part // options for part in range(1, options + 1)], blocks, stride, expansions)
        for widest, blocks, stride in WIDTHS
    )


def seven_blocks(
    options: int,
    expansions: Sequence[float] = (EXPANSION,),
    kernels: Sequence[int] = (3,),
    resolution: Sequence[int] = (PIXELS,),
) -> mn.SearchSpace:
    """The space of this benchmark, with every choice undecided."""
    return dmasking.space(
        "seven-blocks",
        resolution=resolution,
        stages=stages(options, expansions),
        stem=STEM,
        stem_stride=1,
        kernels=kernels,
        head=HEAD,
        classes=CLASSES,
    )


def channel_space(options: int) -> mn.SearchSpace:
    """Only channels are undecided, and where there is one option not even they."""
    space = seven_blocks(options)
    channels = [key for key in space.domains if key.endswith(".channels")] if options > 1 else []
    # A resolution of one option: a space without undecided choices is not for differentiable search.
    return narrowed(space, plain(space), [*channels, "resolution"])


def resolution_space(options: Sequence[int]) -> mn.SearchSpace:
    """Only the resolution of the input is undecided."""
    space = seven_blocks(1, resolution=options)
    return narrowed(space, plain(space), ["resolution"])


def plain(space: mn.SearchSpace) -> dict[str, Sequence[Any]]:
    """One option of each choice that the conventional networks do not have."""
    decided = {"excite": "none", "activation": "relu", "operator": "inverted_residual"}
    return {key: (decided[choice],) for key in space.domains if (choice := key.rpartition(".")[2]) in decided}


def narrowed(
    space: mn.SearchSpace, options: Mapping[str, Sequence[Any]], soft: Sequence[str] | Mapping[str, Any]
) -> mn.SearchSpace:
    """A space with these options alone of some choices, of which ``soft`` may stay undecided."""
    domains = dict(space.domains) | {key: tune.choice(list(values)) for key, values in options.items()}
    return mn.SearchSpace(
        f"narrowed-{space.name}",
        domains,
        space.build,
        space.task,
        lambda arch: (3, arch["resolution"], arch["resolution"]),
        soft=list(soft),
    )


@torch.no_grad()
def largest_difference(options: int, batch: int) -> float:
    """Of logits, between masks and both conventions on the same weights: they must be one function.

    The last block alone is undecided, the others take their largest option: after an undecided block the platform
    masks hidden channels too, which follow from a block's input there and are always the largest in the conventions.
    """
    space, (images,) = channel_space(options), examples(batch).inputs
    shared = space.build()
    assert isinstance(shared, dmasking.DMasking)
    keys = [key for key in space.soft if options > 1 and key.endswith(".channels")]
    weights = {key: torch.eye(options)[-1] for key in keys}
    weights |= {key: torch.rand(options).softmax(0) for key in keys[-1:]}
    expected = shared(images, arch=space.soften(space.largest, weights))
    differences = []
    for way in ("blocks", "projections"):
        network = conventional_network(way, options)
        take_shared(network, shared)
        found = network(images, list(weights.values()) or [torch.ones(1)] * len(network.blocks))
        differences.append(float((found - expected).abs().max()))
    return max(differences)


def examples(count: int) -> Batch:
    """A made batch."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        (torch.randn(count, 3, PIXELS, PIXELS, generator=generator),),
        torch.randint(0, CLASSES, (count,), generator=generator),
    )


def step_seconds(learner: Learner, batch: Batch, every: int) -> float:
    """CPU seconds of one step; with ``every`` of 1, of one that teaches the logits too."""
    learner.strategy.every = every  # type: ignore[attr-defined]
    return cpu_seconds(lambda: learner.train_on(batch))


def saved_bytes(learner: Learner, batch: Batch, every: int, steps: int) -> float:
    """Bytes saved for the backward pass that needs most, in steps that warm the process up as well."""
    learner.strategy.every = every  # type: ignore[attr-defined]
    saved = SavedBytes(learner.network)
    with saved.counted():
        for _ in range(steps if getattr(learner.strategy, "drawn", ()) else 2):
            learner.train_on(batch)
    return saved.most


def expected_seconds(learner: Learner, backward: bool, times: int = 20) -> float:
    """CPU seconds of the expected cost, and of its backward pass to the logits."""
    strategy, step = learner.strategy, step_of(learner)
    assert isinstance(strategy, Differentiable)
    logits = list(strategy.logits.values())

    def expected() -> None:
        for _ in range(times):
            cost = strategy.expected_cost(step)
            if backward:
                torch.autograd.grad(cost, logits, allow_unused=True)

    return cpu_seconds(expected) / times


def step_of(learner: Learner) -> Step:
    """The step that a learner is at, of one worker; the expected cost asks for no examples."""
    settings = learner.settings
    return Step(
        space=learner.space,
        number=learner.step,
        total=settings.steps,
        random=np.random.default_rng((settings.seed, learner.step)),
        label_smoothing=0.0,
        autocast=nullcontext,
        average=lambda tensors: None,
        held=no_examples,
    )


def no_examples(number: int) -> Batch:
    """Must not be called."""
    raise AssertionError(f"the expected cost must need no examples, but asked for batch {number}")


def amortised(row: Mapping[str, float]) -> float:
    """Seconds a step for the logits, which learn every few steps."""
    return (row["updating_step"] - row["step"]) / EVERY


def compared(
    channels: Mapping[str, Curve], resolutions: Mapping[str, Curve], costs: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Most options over one, and the largest share of the expected cost in a step."""
    figures = {}
    for way, rows in {**channels, **resolutions}.items():
        what = "of_channels" if way in channels else "of_resolutions"
        suffix = "" if way in ("masked", "drawn") else f"_{NAMES[way].replace(' ', '_')}"
        figures[f"time_{what}{suffix}"] = rows[-1]["step"] / rows[0]["step"]
        figures[f"saved_{what}{suffix}"] = rows[-1]["saved"] / rows[0]["saved"]
    return {**figures, "expected_cost": max(cost["expected"] / cost["step"] for cost in costs.values())}


def show_curves(what: str, curves: Mapping[str, Curve]) -> None:
    """Print a table, a row a point."""
    table: list[Sequence[str] | None] = []
    for way, rows in curves.items():
        first = rows[0]
        for row in rows:
            # Of one option there is nothing to learn.
            learnt = (f"{amortised(row):.3f}", f"{row['saved_updating'] / 1e6:.1f}")
            table.append(
                (
                    NAMES[way] if row is first else "",
                    f"{row['options']:.0f}",
                    f"{row['step']:.3f}",
                    f"{row['step'] / first['step']:.3f}",
                    f"{row['saved'] / 1e6:.1f}",
                    f"{row['saved'] / first['saved']:.3f}",
                    *(learnt if row is not first else ("", "")),
                )
            )
        table.append(None)
    columns = ("way", "options", "step, CPU s", "x", "saved, MB", "x", "logits, CPU s a step")
    show(f"Seven blocks, undecided {what}", (*columns, "their pass saves, MB"), table)


def show_costs(costs: Mapping[str, Mapping[str, float]]) -> None:
    """Print what the expected cost takes of a step."""
    rows = []
    for name, cost in costs.items():
        parts = [(cost[part], cost[part] / cost["step"]) for part in ("expected", "expected_backward")]
        cells = [text for seconds, share in parts for text in (f"{1e3 * seconds:.2f}", f"{share:.2%}")]
        rows.append((COSTS[name], f"{cost['step']:.3f}", *cells))
    columns = ("undecided", "step, CPU s", "forward, CPU ms", "of a step")
    show("The expected cost", (*columns, "forward and backward, CPU ms", "of a step"), rows)


def picture(channels: Mapping[str, Curve], resolutions: Mapping[str, Curve]) -> go.Figure:
    """Time and bytes of a step, as multiples of the network with nothing undecided."""
    figure = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=2 * ("<b>Time of a step</b>", "<b>Bytes saved for the backward pass</b>"),
        horizontal_spacing=0.08,
        vertical_spacing=0.16,
    )
    for row, curves in enumerate((channels, resolutions), start=1):
        for column, quantity in enumerate(("step", "saved"), start=1):
            for way, points in curves.items():
                trace = line(way, points, quantity).update(
                    legend="legend" if row == 1 else "legend2", showlegend=column == 1, legendgroup=way
                )
                figure.add_trace(trace, row=row, col=column)
    style_axes(figure)
    return figure


def line(way: str, points: Curve, quantity: str) -> go.Scatter:
    """One way's multiples of its first point, the last of them in writing."""
    multiples = [point[quantity] / points[0][quantity] for point in points]
    return go.Scatter(
        x=[point["options"] for point in points],
        y=multiples,
        text=[""] * (len(points) - 1) + [f"{multiples[-1]:.2f} x"],
        textposition="top center",
        textfont={"color": COLOURS[way]},
        name=NAMES[way],
        mode="lines+markers+text",
        line={"color": COLOURS[way], "width": 2.5},
        marker={"size": 8},
        hovertemplate="%{x}: %{y:.2f} x<extra></extra>",
    )


def style_axes(figure: go.Figure) -> None:
    """Doubling scales for channels, even ones for resolutions, and room for both legends."""
    figure.update_layout(**layout(800, titles=True) | {"margin": {"l": 80, "r": 30, "t": 60, "b": 60}})
    legend = {"orientation": "v", "yref": "paper", "x": 0.01, "xanchor": "left", "yanchor": "top"}
    figure.update_layout(legend={**legend, "y": 0.99}, legend2={**legend, "y": 0.41})
    doubling = {"type": "log", "tickvals": [1, 2, 4, 8, 16], "gridcolor": GRID}
    figure.update_xaxes(row=1, title="channel options of each block", range=[-0.06, 1.29], **doubling)
    figure.update_yaxes(row=1, ticksuffix=" x", range=[-0.06, 1.33], **doubling)
    figure.update_xaxes(row=2, title="input resolutions", dtick=1, range=[0.85, 4.2], gridcolor=GRID)
    figure.update_yaxes(row=2, ticksuffix=" x", range=[0, 3.7], dtick=1, gridcolor=GRID)
    figure.update_yaxes(col=1, title="multiple of one option")


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
