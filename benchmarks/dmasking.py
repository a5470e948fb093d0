"""What choices that stay undecided cost a training step: channel masks and drawn resolutions against convention.

Seven inverted residual blocks, batch 16, images of 32 x 32, one thread, CPU seconds. A step is forward, loss, backward,
clip and optimizer of the weights, by the product's own learner in every way; what teaches the options' logits is shown
apart. Conventions are separate blocks and separate projections for channels (``dmasking_baselines.py``), and FBNetV2's
weighted sum (arXiv 2004.05565) for resolutions. With one option nothing is undecided.

Bytes are those of the storages that autograd saves for one backward pass, each counted once, without parameters. Every
point is a process of its own; those of one curve take turns, a step at a time.

    python benchmarks/dmasking.py

Writes ``dmasking.json`` and ``dmasking.html`` in ``benchmarks/output``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import mean, median
from typing import Any, Self

import plotly.graph_objects as go
import torch
from dmasking_baselines import (
    Conventional,
    GumbelSoftmax,
    SeparateBlocks,
    SeparateProjections,
    take_shared,
)
from plotly.subplots import make_subplots
from ray import tune
from rich.console import Console
from rich.table import Table
from torch import nn

import manynet as mn
from manynet.config.settings import TrainSettings
from manynet.data import Batch
from manynet.learning.learner import Learner
from manynet.report.figures import FINALIST, FRONT, GRID, THIRD, layout
from manynet.runtime.malloc import keep_freed_memory
from manynet.search_spaces import dmasking
from manynet.search_spaces.dmasking import Stage
from manynet.trainers.differentiable import Differentiable

BARS = {
    "time_16_channels": 1.05,
    "saved_16_channels": 1.01,
    "time_4_resolutions": 1.2,
    "saved_4_resolutions": 1.1,
    "expected_cost": 0.03,
}
BATCH, PIXELS, CLASSES, STEM, HEAD, EXPANSION = 16, 32, 10, 16, 192, 3
WIDTHS = ((32, 2, 1), (48, 3, 2), (96, 2, 2))
"""Largest channels, blocks and stride of each stage."""
CHANNELS = (1, 2, 4, 8, 16)
RESOLUTIONS = ((32,), (32, 24), (32, 28, 24), (32, 28, 24, 20))
EVERY = 4
NEVER = 10**9
SETTINGS = TrainSettings(steps=10**6, warmup=0, ema=0, precision="float32")
OUTPUT = Path(__file__).parent / "output"
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


def main() -> None:
    """Measure, print tables, then one JSON line."""
    if sys.argv[1:]:
        serve(sys.argv[1], int(sys.argv[2]))
        return
    torch.manual_seed(0)
    differences = {options: largest_difference(options) for options in (1, 4)}
    # Steps a point: fewer where a step is long, and as many as the bar asks for where steps differ.
    channels = {
        "blocks": curve("blocks", CHANNELS, 5, median),
        "projections": curve("projections", CHANNELS, 10, median),
        "masked": curve("masked", CHANNELS, 40, median),
    }
    numbers = [len(options) for options in RESOLUTIONS]
    resolutions = {way: curve(way, numbers, 50, mean) for way in ("summed", "drawn")}
    costs = {name: shares(name) for name in COSTS}
    print("largest difference of logits between the ways, on the same weights:", differences)
    show_curves("channel options", channels)
    show_curves("input resolutions", resolutions)
    show_costs(costs)
    write(channels, resolutions, costs)
    figures = compared(channels, resolutions, costs)
    passed = all(figures[name] <= bar for name, bar in BARS.items())
    print(json.dumps({"benchmark": "dmasking", "figures": figures, "bars": BARS, "pass": passed}))


class Point:
    """A process that measures one way of one number of options, a request at a time."""

    def __init__(self, way: str, options: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, way, str(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def ask(self, request: str) -> float:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a point must answer {request!r}, but its process ended")
        return float(answer)


def curve(
    way: str, numbers: Sequence[int], steps: int, average: Callable[[Sequence[float]], float]
) -> list[dict[str, float]]:
    """Seconds and bytes of a step at each number of options; the processes take turns."""
    with ExitStack() as stack:
        points = [stack.enter_context(Point(way, number)) for number in numbers]
        rows = [{"options": float(number)} for number in numbers]
        # The first two warm the processes up as well.
        turns = {"saved": 1, "saved_updating": 1, "step": steps, "updating_step": max(3, steps // 4)}
        for request, times in turns.items():
            taken = [[point.ask(request) for point in points] for _ in range(times)]
            for row, seconds in zip(rows, zip(*taken, strict=True), strict=True):
                row[request] = average(seconds)
    return rows


def shares(name: str) -> dict[str, float]:
    """What the expected cost takes, in seconds, beside a step of the same network."""
    with Point(name, max(CHANNELS)) as point:
        point.ask("step")
        requests = ("expected", "expected_backward", "step")
        taken = [[point.ask(request) for request in requests] for _ in range(10)]
    return {
        request: median(seconds) for request, seconds in zip(requests, zip(*taken, strict=True), strict=True)
    }


def serve(way: str, options: int) -> None:
    """Answer the requests that arrive on standard input, one a line."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # As the platform's own training does.
    keep_freed_memory()
    learner, batch = learning(way, options), examples()
    answers: dict[str, Callable[[], float]] = {
        "step": lambda: step_seconds(learner, batch, every=NEVER),
        "updating_step": lambda: step_seconds(learner, batch, every=1),
        "saved": lambda: saved_bytes(learner, batch, every=NEVER),
        "saved_updating": lambda: saved_bytes(learner, batch, every=1),
        "expected": lambda: expected_seconds(learner, backward=False),
        "expected_backward": lambda: expected_seconds(learner, backward=True),
    }
    for line in sys.stdin:
        print(answers[line.strip()](), flush=True)


def learning(way: str, options: int) -> Learner:
    """What trains one point's network."""
    batch = examples()
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
def largest_difference(options: int) -> float:
    """Of logits, between masks and both conventions on the same weights: they must be one function.

    The last block alone is undecided, the others take their largest option: after an undecided block the platform
    masks hidden channels too, which follow from a block's input there and are always the largest in the conventions.
    """
    space, (images,) = channel_space(options), examples().inputs
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


def examples() -> Batch:
    """A made batch."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        (torch.randn(BATCH, 3, PIXELS, PIXELS, generator=generator),),
        torch.randint(0, CLASSES, (BATCH,), generator=generator),
    )


def step_seconds(learner: Learner, batch: Batch, every: int) -> float:
    """CPU seconds of one step; with ``every`` of 1, of one that teaches the logits too."""
    learner.strategy.every = every  # type: ignore[attr-defined]
    start = time.process_time()
    learner.train_on(batch)
    return time.process_time() - start


def saved_bytes(learner: Learner, batch: Batch, every: int, steps: int = 24) -> float:
    """Bytes saved for the backward pass that needs most, in steps that warm the process up as well."""
    learner.strategy.every = every  # type: ignore[attr-defined]
    saved = Saved(learner.network)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        for _ in range(steps if getattr(learner.strategy, "drawn", ()) else 2):
            learner.train_on(batch)
    return saved.most


class Saved:
    """Counts the bytes that autograd saves, each storage once, parameters left out.

    Attributes:
        most: of the passes so far.
    """

    def __init__(self, network: nn.Module) -> None:
        self._parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        self._sizes: dict[int, int] = {}
        self._backward = False
        self.most = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._backward:
            # The first tensor of another forward pass: what the last one saved is free by now.
            self._sizes, self._backward = {}, False
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._parameters:
            self._sizes[storage.data_ptr()] = storage.nbytes()
            self.most = max(self.most, sum(self._sizes.values()))
        return tensor

    def unpack(self, tensor: torch.Tensor) -> torch.Tensor:
        self._backward = True
        return tensor


def expected_seconds(learner: Learner, backward: bool, times: int = 20) -> float:
    """CPU seconds of the expected cost, and of its backward pass to the logits."""
    strategy, step = learner.strategy, learner._step()
    assert isinstance(strategy, Differentiable)
    logits = list(strategy.logits.values())
    start = time.process_time()
    for _ in range(times):
        cost = strategy.expected_cost(step)
        if backward:
            torch.autograd.grad(cost, logits, allow_unused=True)
    return (time.process_time() - start) / times


def amortised(row: Mapping[str, float]) -> float:
    """Seconds a step for the logits, which learn every few steps."""
    return (row["updating_step"] - row["step"]) / EVERY


def compared(
    channels: Mapping[str, Curve], resolutions: Mapping[str, Curve], costs: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Most options over one, and the largest share of the expected cost in a step."""
    figures = {}
    for way, rows in {**channels, **resolutions}.items():
        what = "16_channels" if way in channels else "4_resolutions"
        suffix = "" if way in ("masked", "drawn") else f"_{NAMES[way].replace(' ', '_')}"
        figures[f"time_{what}{suffix}"] = round(rows[-1]["step"] / rows[0]["step"], 4)
        figures[f"saved_{what}{suffix}"] = round(rows[-1]["saved"] / rows[0]["saved"], 4)
    share = max(cost["expected"] / cost["step"] for cost in costs.values())
    return {**figures, "expected_cost": round(share, 4)}


def show_curves(what: str, curves: Mapping[str, Curve]) -> None:
    """Print a table, a row a point."""
    table = Table(
        "way", what, "step, CPU s", "x", "saved, MB", "x", "logits, CPU s a step", "their pass saves, MB",
        title=f"Undecided {what}, seven blocks, batch {BATCH}",
    )  # fmt: skip
    for way, rows in curves.items():
        first = rows[0]
        for row in rows:
            table.add_row(
                NAMES[way] if row is first else "",
                f"{row['options']:.0f}",
                f"{row['step']:.3f}",
                f"{row['step'] / first['step']:.3f}",
                f"{row['saved'] / 1e6:.1f}",
                f"{row['saved'] / first['saved']:.3f}",
                # Of one option there is nothing to learn.
                f"{amortised(row):.3f}" if row is not first else "",
                f"{row['saved_updating'] / 1e6:.1f}" if row is not first else "",
            )
        table.add_section()
    Console(width=120).print(table)


def show_costs(costs: Mapping[str, Mapping[str, float]]) -> None:
    """Print what the expected cost takes of a step."""
    table = Table(
        "undecided", "step, CPU s", "forward, CPU ms", "of a step", "forward and backward, CPU ms", "of a step",
        title="The expected cost",
    )  # fmt: skip
    for name, cost in costs.items():
        parts = [(cost[part], cost[part] / cost["step"]) for part in ("expected", "expected_backward")]
        cells = [text for seconds, share in parts for text in (f"{1e3 * seconds:.2f}", f"{share:.2%}")]
        table.add_row(COSTS[name], f"{cost['step']:.3f}", *cells)
    Console(width=120).print(table)


def write(
    channels: Mapping[str, Curve], resolutions: Mapping[str, Curve], costs: Mapping[str, Mapping[str, float]]
) -> None:
    """Every figure as JSON, and the curves as a picture."""
    OUTPUT.mkdir(exist_ok=True)
    found = {"channels": channels, "resolutions": resolutions, "expected_cost": costs}
    (OUTPUT / "dmasking.json").write_text(json.dumps(found, indent=2))
    picture(channels, resolutions).write_html(
        OUTPUT / "dmasking.html", include_plotlyjs=True, config={"displayModeBar": False}
    )


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
    doubling = {"type": "log", "tickvals": list(CHANNELS), "gridcolor": GRID}
    figure.update_xaxes(row=1, title="channel options of each block", range=[-0.06, 1.29], **doubling)
    figure.update_yaxes(row=1, ticksuffix=" x", range=[-0.06, 1.33], **doubling)
    figure.update_xaxes(row=2, title="input resolutions", dtick=1, range=[0.85, 4.2], gridcolor=GRID)
    figure.update_yaxes(row=2, ticksuffix=" x", range=[0, 3.7], dtick=1, gridcolor=GRID)
    figure.update_yaxes(col=1, title="multiple of one option")


if __name__ == "__main__":
    main()
