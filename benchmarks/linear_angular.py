"""What a block of linear-angular attention takes, against the same block of softmax attention.

The block is the platform's own: qkv, attention, and output projection, of width 192 and 3 heads. 8 images, one thread,
CPU seconds (GPU: 64 images in bf16, wall time of synchronised runs, against flash attention). All ways take turns, and
each counts at the faster of eager and ``torch.compile``, at its median. ``grouped`` is the released block's own order of
operations: a grouped convolution, and products of transposed views.

    python benchmarks/linear_angular.py [--device cuda] [--turns 15]

The ratios are those of the default constant and convolution.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from manynet import elastic
from manynet.devices.tools.torch_compile import compiled
from manynet.elastic.angular_attention import BRANCHES, CONSTANTS

BARS = {196: 1.1, 576: 0.75, 1024: 0.5, 2304: 0.3}
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


def main() -> None:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--turns", type=int, default=15, help="at the fewest tokens; fewer where they are more"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    found = {tokens: measured(tokens, device, given.turns) for tokens in BARS}
    show(found, str(device))
    figures = {f"ratio_{tokens}": round(ratio(seconds, default()), 3) for tokens, seconds in found.items()}
    bars = {f"ratio_{tokens}": bar for tokens, bar in BARS.items()}
    every = {
        name: {str(tokens): round(ratio(seconds, name), 3) for tokens, seconds in found.items()}
        for name in next(iter(found.values()))
    }
    passed = device.type != "cpu" or all(figures[name] <= bar for name, bar in bars.items())
    line = {"benchmark": "linear_angular", "device": str(device), "default": default(), "figures": figures}
    print(json.dumps({**line, "ratios": every, "bars": bars, "pass": passed}))


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


def measured(tokens: int, device: torch.device, turns: int) -> Seconds:
    """Seconds of every way, at so many tokens."""
    torch.compiler.reset()
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    x = torch.randn(64 if on_gpu else 8, tokens, WIDTH, device=device, dtype=dtype)
    ways = {name: block.to(device, dtype).eval() for name, block in blocks().items()}
    with torch.inference_mode():
        same(ways, x)
    runs: dict[tuple[str, str], Callable[..., Any]] = {}
    for name, block in ways.items():
        # As the tool of that name: one graph, for this number of tokens alone.
        runs |= {(name, "eager"): block, (name, "compiled"): compiled(block, (x,))}
    taken: dict[tuple[str, str], list[float]] = {run: [] for run in runs}
    with torch.inference_mode():
        for turn in range(2 + max(3, turns * min(BARS) // tokens)):
            for run, network in runs.items():
                start = clock(device)
                network(x)
                # The first turns compile and warm up.
                if turn > 1:
                    taken[run].append(clock(device) - start)
    return {
        name: {how: statistics.median(taken[name, how]) for how in ("eager", "compiled")} for name in ways
    }


def same(ways: Mapping[str, nn.Module], x: torch.Tensor) -> None:
    """Two texts of one formula must agree."""
    one, other = ways["grouped"](x), ways["released, taps"](x)
    torch.testing.assert_close(one, other, atol=1e-4 if x.dtype == torch.float32 else 5e-2, rtol=1e-2)


def clock(device: torch.device) -> float:
    """CPU seconds of this process, or wall seconds once the GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def ratio(seconds: Seconds, name: str) -> float:
    """Of a way to softmax attention, each at the faster of eager and compiled."""
    return min(seconds[name].values()) / min(seconds["softmax"].values())


def show(found: Mapping[int, Seconds], device: str) -> None:
    """Print milliseconds, eager and compiled, and the ratio, of each way at each number of tokens."""
    title = f"milliseconds eager / compiled, and ratio to softmax; {device}"
    table = Table("block", *(f"{tokens} tokens" for tokens in found), title=title)
    for name in next(iter(found.values())):
        cells: list[Any] = [
            f"{1e3 * seconds[name]['eager']:.2f} / {1e3 * seconds[name]['compiled']:.2f}  "
            f"{ratio(seconds, name):.2f}x"
            for seconds in found.values()
        ]
        table.add_row(f"{name} (default)" if name == default() else name, *cells)
    table.add_row("bar", *(f"{BARS[tokens]:g}x" for tokens in found))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
