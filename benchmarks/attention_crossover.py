"""From how many tokens on is linear-angular attention worth it: multiply-adds and latency on each local tool.

The block is the platform's own: qkv, attention, and output projection, of width 192 and 3 heads, linear-angular with its
default constant and branch. It is extracted, and measured as a device would be: by the device's own tool and timing, one
image, one thread. Both kinds take turns, and each counts at its calmest turn. Tokens form square grids.

    python benchmarks/attention_crossover.py [--tokens 49 196] [--studies RUN ...]

Writes ``attention_crossover.json`` and ``attention_crossover.html`` in ``benchmarks/output``; with studies (folders, also
of a sweep) the page shows what their fronts chose for each block. ``--measured FILE`` draws an earlier run's JSON again.
A crossover is where the ratio of both kinds comes to 1 for good, between points on a straight line of logarithms.
"""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune
from support.attention_page import KINDS, FrontMix, write_page
from support.frame import Option, at_most, run, show
from torch import nn

import manynet as mn
from manynet import elastic
from manynet.devices import DeviceName
from manynet.devices.tools import tool_of
from manynet.report.choices import mixes
from manynet.studies.study import Study, recorded
from manynet.studies.sweep import Sweep

WIDTH, HEADS, HEAD_DIM = 192, 3, 64
MACS = "multiply-adds"
OPTIONS = (
    Option("--tokens", (49, 100, 196, 324, 576, 1024, 2304), "squares, at least two", quick=(4, 9)),
    Option(
        "--tools",
        ("host/torch", "host/torch.compile", "host/onnxruntime", "host/openvino"),
        "that measure, where this machine has them",
        quick=("host/torch",),
    ),
    Option("--turns", 2, "of each kind of attention", quick=1),
    Option("--studies", (), "folders of studies or sweeps", kind=str),
    Option("--measured", "", "an earlier run's JSON, drawn again"),
)
BARS = {"slowest_ratio_1024": at_most(1.0), "slowest_ratio_2304": at_most(0.5)}
Curves = dict[str, dict[str, dict[int, float]]]
"""By what is counted or the tool that measures, and the kind of attention: multiply-adds or ms, by tokens."""


class Block(mn.Supernet):
    """One attention block, of either kind."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = elastic.Attention(WIDTH, HEADS, HEAD_DIM, kinds=KINDS)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        """Mix tokens ``(B, N, width)``."""
        mixed: torch.Tensor = self.attention(x, kind=arch["attention"])
        return mixed


def main(given: Namespace) -> dict[str, Any]:
    """Measure, or read what was measured, and write the page."""
    studies = [front_mix(study) for folder in given.studies for study in opened(folder)]
    if given.measured:
        curves = read(Path(given.measured))
    else:
        torch.manual_seed(0)
        tokens = checked(given.tokens)
        space = block_space(tokens)
        curves = {MACS: counted(space)} | measured(space, tokens, given)
    crossovers = {name: crossover(kinds) for name, kinds in curves.items()}
    show_curves(curves, crossovers)
    for one in studies:
        show_mix(one)
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "attention_crossover.json").write_text(json.dumps(curves, indent=1))
    write_page(given.output / "attention_crossover.html", curves, crossovers, studies)
    return {**dict.fromkeys(BARS), **slowest(curves), "crossovers": crossovers}


def checked(tokens: Sequence[int]) -> list[int]:
    """From the fewest.

    Raises:
        SystemExit: when they are not at least two squares.
    """
    wrong = [count for count in tokens if count < 1 or math.isqrt(count) ** 2 != count]
    if wrong or len(set(tokens)) < 2:
        raise SystemExit(f"tokens must be two squares or more, but got {wrong[0] if wrong else tokens}")
    return sorted(set(tokens))


def block_space(tokens: Sequence[int]) -> mn.SearchSpace:
    """Both kinds of attention at every square number of tokens from the fewest to the most."""
    squares = [side**2 for side in range(math.isqrt(min(tokens)), math.isqrt(max(tokens)) + 1)]
    return mn.SearchSpace(
        "attention-block",
        {"tokens": tune.choice(squares), "attention": tune.choice(list(KINDS))},
        Block,
        mn.tasks.Classification(WIDTH),
        input_shape=lambda arch: (arch["tokens"], WIDTH),
    )


def counted(space: mn.SearchSpace) -> dict[str, dict[int, float]]:
    """Multiply-adds at every square."""
    squares = space.domains["tokens"].categories  # type: ignore[union-attr]
    return {
        kind: {
            tokens: float(mn.cost(space, {"tokens": tokens, "attention": kind}).macs) for tokens in squares
        }
        for kind in KINDS
    }


def measured(space: mn.SearchSpace, tokens: Sequence[int], given: Namespace) -> Curves:
    """Milliseconds on every tool that this machine has."""
    network = space.build().eval()
    found: Curves = {}
    for tool in given.tools:
        name = DeviceName.parse(tool)
        if missing := tool_of(name).missing(name):
            print(f"{tool} is left out: {missing}")
            continue
        rows = {count: timed(name, space, network, count, given.turns) for count in tokens}
        found[tool] = {kind: {count: row[kind] for count, row in rows.items()} for kind in KINDS}
    return found


def timed(
    name: DeviceName, space: mn.SearchSpace, network: nn.Module, tokens: int, turns: int
) -> dict[str, float]:
    """Milliseconds of the extracted blocks of both kinds."""
    # Each is another graph of one code, and Dynamo keeps only so many.
    torch.compiler.reset()
    runs = {}
    for kind in KINDS:
        arch = {"tokens": tokens, "attention": kind}
        example = space.example(arch, 1)
        runs[kind] = tool_of(name).prepare(mn.extract(network, arch, example), example, name)
    taken = [{kind: run().milliseconds for kind, run in runs.items()} for _ in range(turns)]
    return {kind: min(turn[kind] for turn in taken) for kind in KINDS}


def ratios(kinds: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Linear-angular over softmax, by tokens."""
    softmax, angular = (kinds[kind] for kind in KINDS)
    return {tokens: angular[tokens] / softmax[tokens] for tokens in softmax}


def crossover(kinds: Mapping[str, Mapping[int, float]]) -> float | None:
    """Tokens from which on linear-angular attention takes less; None where that is not between the points."""
    tokens, logs = list(ratios(kinds)), np.log(list(ratios(kinds).values()))
    more = np.flatnonzero(logs >= 0)
    if not len(more) or more[-1] == len(logs) - 1:
        return None
    last, after = more[-1], more[-1] + 1
    between = np.interp(0, [logs[after], logs[last]], np.log([tokens[after], tokens[last]]))
    return round(float(np.exp(between)), 1)


def slowest(curves: Curves) -> dict[str, float]:
    """The largest ratio of any tool, by tokens."""
    found = [ratios(kinds) for name, kinds in curves.items() if name != MACS]
    every = dict.fromkeys(tokens for one in found for tokens in one)
    return {f"slowest_ratio_{tokens}": max(one[tokens] for one in found) for tokens in every}


def opened(folder: str) -> list[Study]:
    """The study of a folder, or the studies of a sweep."""
    if recorded(folder).sweep:
        return [study for _, study in Sweep.open(folder).studies()]
    return [Study.open(folder)]


def front_mix(study: Study) -> FrontMix:
    """What a study's front chose for the attention of each block.

    Raises:
        SystemExit: when there is no front, or no such choice.
    """
    content = study.found()
    found = [mix for mix in mixes(content.front, content.records) if mix.name == "attention"]
    if not found or not content.front:
        raise SystemExit(f"a study must have a front with a choice of attention, but got {study.folder}")
    sizes = {tokens_of(record.architecture) for record in content.front}
    return FrontMix(sorted(sizes), len(content.front), found[0])


def tokens_of(arch: Mapping[str, Any]) -> int:
    """Tokens of a vision transformer, the class token too."""
    return int((arch["resolution"] // arch["patch_size"]) ** 2 + 1)


def read(file: Path) -> Curves:
    """What an earlier run wrote; JSON has no whole numbers as keys."""
    return {
        name: {kind: {int(tokens): value for tokens, value in row.items()} for kind, row in kinds.items()}
        for name, kinds in json.loads(file.read_text()).items()
    }


def show_curves(curves: Curves, crossovers: Mapping[str, float | None]) -> None:
    """Print softmax, linear-angular and their ratio: a column for each tool, a row for each number of tokens."""
    last = list(curves)[-1]
    rows: list[Sequence[str] | None] = [
        (str(tokens), *(cell(name, kinds, tokens) for name, kinds in curves.items()))
        for tokens in curves[last][KINDS[0]]
    ]
    ends = [told(curves[name], found) for name, found in crossovers.items()]
    title = "softmax / linear-angular, and their ratio; latency in ms"
    show(title, ("tokens", *curves), [*rows, None, ("crossover", *ends)])


def cell(name: str, kinds: Mapping[str, Mapping[int, float]], tokens: int) -> str:
    pair = [kinds[kind][tokens] for kind in KINDS]
    both = " / ".join(f"{value / 1e6:.1f} M" if name == MACS else f"{value:.3g}" for value in pair)
    return f"{both}  {pair[1] / pair[0]:.2f}x"


def told(kinds: Mapping[str, Mapping[int, float]], found: float | None) -> str:
    """A crossover for people."""
    by_tokens = ratios(kinds)
    if found is not None:
        return f"{found:.0f} tokens"
    few, many = min(by_tokens), max(by_tokens)
    return f"below {few}" if by_tokens[many] < 1 else f"above {many}"


def show_mix(one: FrontMix) -> None:
    """Print what a front chose, a row a block."""
    rows = [
        (key.rpartition(".")[0], *(f"{share:.0%}" for share in one.mix.shares(key))) for key in one.mix.counts
    ]
    show(f"{one.title}: attention on the front", ("block", *one.mix.columns), rows)


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
