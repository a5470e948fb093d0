"""Networks that a tool is checked with."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

LARGE_MACS = 3 * 32 * 32 * 9 * 128 + 2 * 32 * 32 * 9 * 128 * 128


class Images(nn.Module):
    """A convolution, a normalisation with statistics, and a head: input ``(B, 3, 8, 8)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        nn.init.uniform_(self.norm.running_mean, -1, 1)  # type: ignore[arg-type]
        nn.init.uniform_(self.norm.running_var, 0.5, 2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]


class Clicks(nn.Module):
    """Dense numbers and ids: inputs float32 ``(B, 6)`` and int64 ``(B, 2)``, output ``(B,)``.

    Attributes:
        batches: that any network of this class was called with, but by a compiler that reads Python itself.
    """

    batches: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 3)
        self.hidden = nn.Linear(12, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        if not torch.compiler.is_dynamo_compiling():
            Clicks.batches.add(int(dense.shape[0]))
        x = torch.cat([dense, self.table(ids).flatten(1)], 1)
        return self.out(self.hidden(x).relu()).squeeze(1)  # type: ignore[no-any-return]


class Large(nn.Module):
    """Three wide convolutions of :data:`LARGE_MACS` multiply-adds: input ``(B, 3, 32, 32)``."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 128, 128, 128)
        self.layers = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))  # type: ignore[no-any-return]


class Broken(nn.Module):
    """Fails whenever it is called: input ``(B, 6)``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        raise ZeroDivisionError("this network is made to fail")


def networks() -> list[nn.Module]:
    """Small networks of one and of two inputs, in evaluation mode."""
    torch.manual_seed(0)
    return [Images().eval(), Clicks().eval()]


def large() -> nn.Module:
    """A network of much work."""
    return Large().eval()


def inputs_of(network: nn.Module) -> tuple[Tensor, ...]:
    """An example ``(1, ...)`` for one of the networks here."""
    drawn = torch.Generator().manual_seed(0)
    if isinstance(network, Clicks):
        return torch.randn(1, 6, generator=drawn), torch.tensor([[3, 5]])
    shape = {Images: (3, 8, 8), Large: (3, 32, 32)}.get(type(network), (6,))
    return (torch.randn(1, *shape, generator=drawn),)
