"""What a block of linear-angular attention takes, against the same block of softmax attention.

The block is the platform's own: qkv, attention, and output projection, of width 192 and 3 heads. 8 images, one thread,
CPU seconds (GPU: 64 images in bf16, wall time of synchronised runs, against flash attention). All ways take turns, and
each counts at the faster of eager and ``torch.compile``, at its median. ``grouped`` is the released block's own order of
operations: a grouped convolution, and products of transposed views.

    python benchmarks/linear_angular.py [--device cuda] [--turns 15]

The ratios are those of the default constant and convolution. On a GPU there are no bars.
"""

from __future__ import annotations

import itertools
import math
import statistics
from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from support.frame import Option, at_most, run, show
from support.timing import Work, clock_of, in_turns
from torch import nn
from torch.nn import functional as F

from manynet import elastic
from manynet.devices.tools.torch_compile import compiled
from manynet.elastic.angular_attention import BRANCHES, CONSTANTS

OPTIONS = (
    Option("--device", "cpu"),
    Option("--tokens", (196, 576, 1024, 2304), "squares", quick=(16,)),
    Option("--turns", 15, "at the fewest tokens; fewer where they are more", quick=1),
)
BARS = {
    "ratio_196": at_most(1.1),
    "ratio_576": at_most(0.75),
    "ratio_1024": at_most(0.5),
    "ratio_2304": at_most(0.3),
}
WIDTH, HEADS, HEAD_DIM = 192, 3, 64
Seconds = dict[str, dict[str, float]]
"""By the block's name, of it eager and compiled."""


class Grouped(nn.Module):
    """The block with the operations of the released one, on another block's weights."""

    def __init__(self, block: elastic.Attention) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix tokens ``(B, N, width)``."""
        taps = self.block.angular.branch
        assert isinstance(taps, nn.Module)
        parts = self.block.qkv(x).unflatten(2, (HEADS, 3, HEAD_DIM)).permute(3, 0, 2, 1, 4)
        query, key, value = parts.unbind(0)
        query, key = (part / part.norm(dim=-1, keepdim=True) for part in (query, key))
        added = F.conv2d(value, taps.weight[:, None, :, None], padding=(4, 0), groups=HEADS)
        mixed = 0.5 * value + query @ (key.transpose(2, 3) @ value) / math.pi
        mixed = mixed / mixed.norm(dim=-1, keepdim=True) + added
        output: torch.Tensor = self.block.proj(mixed.transpose(1, 2).reshape(x.shape))
        return output


def main(given: Namespace) -> dict[str, Any]:
    """Measure every way at each number of tokens."""
    torch.set_num_threads(1)
    found = {tokens: measured(tokens, given) for tokens in given.tokens}
    names = list(next(iter(found.values())))
    show(
        f"milliseconds eager / compiled, and ratio to softmax; {given.device}",
        ("block", *(f"{tokens} tokens" for tokens in found)),
        [
            (f"{name} (default)" if name == default() else name, *(cell(one, name) for one in found.values()))
            for name in names
        ],
    )
    ratios = {name: {tokens: ratio(one, name) for tokens, one in found.items()} for name in names}
    judged = ratios[default()] if given.device == "cpu" else {}
    figures = {f"ratio_{tokens}": value for tokens, value in judged.items()}
    return {**dict.fromkeys(BARS), **figures, "default": default(), "ratios": ratios}


def blocks() -> dict[str, nn.Module]:
    """All ways; the first is softmax attention."""
    torch.manual_seed(0)
    found: dict[str, nn.Module] = {"softmax": elastic.Attention(WIDTH, HEADS, HEAD_DIM)}
    for constant, branch in itertools.product(CONSTANTS, BRANCHES):
        options = {"constant": constant, "branch": branch}
        found[f"{constant}, {branch}"] = elastic.Attention(
            WIDTH, HEADS, HEAD_DIM, kinds=("linear-angular",), angular=options
        )
    released = found["released, taps"]
    assert isinstance(released, elastic.Attention)
    return found | {"grouped": Grouped(released)}


def default() -> str:
    """The name of what a layer is when nothing is said."""
    layer = elastic.LinearAngularAttention(1, 1)
    branch = {"TokenTaps": "taps", "TokenGrid": "grid"}.get(type(layer.branch).__name__, "none")
    return f"{layer.products.constant}, {branch}"


def measured(tokens: int, given: Namespace) -> Seconds:
    """Seconds of every way, at so many tokens."""
    torch.compiler.reset()
    device = torch.device(given.device)
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    x = torch.randn(64 if on_gpu else 8, tokens, WIDTH, device=device, dtype=dtype)
    ways = {name: block.to(device, dtype).eval() for name, block in blocks().items()}
    with torch.inference_mode():
        same(ways, x)
    runs: dict[tuple[str, str], Work] = {}
    for name, block in ways.items():
        runs[name, "eager"] = partial(block, x)
        # To compile takes seconds a way: a quick run compiles the first alone.
        if name == "softmax" or not given.quick:
            # As the tool of that name: one graph, for this number of tokens alone.
            runs[name, "compiled"] = partial(compiled(block, (x,)), x)
    rounds = given.turns if given.quick else max(3, given.turns * min(given.tokens) // tokens)
    with torch.inference_mode():
        # The first turns compile and warm up.
        taken = in_turns(runs, rounds, warm_up=2, clock=clock_of(device))
    seconds: Seconds = {name: {} for name in ways}
    for (name, how), times in taken.items():
        seconds[name][how] = statistics.median(times)
    return seconds


def same(ways: Mapping[str, nn.Module], x: torch.Tensor) -> None:
    """Two texts of one formula must agree."""
    one, other = ways["grouped"](x), ways["released, taps"](x)
    torch.testing.assert_close(one, other, atol=1e-4 if x.dtype == torch.float32 else 5e-2, rtol=1e-2)


def ratio(seconds: Seconds, name: str) -> float:
    """Of a way to softmax attention, each at the faster of eager and compiled."""
    return min(seconds[name].values()) / min(seconds["softmax"].values())


def cell(seconds: Seconds, name: str) -> str:
    """Milliseconds of a way, and its ratio."""
    return f"{' / '.join(f'{1e3 * one:.2f}' for one in seconds[name].values())}  {ratio(seconds, name):.2f}x"


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
