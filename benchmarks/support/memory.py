"""Peak memory of a process, and bytes that autograd saves for backward passes."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


def peak_megabytes() -> float:
    """Largest resident memory of this process so far (Linux).

    Not getrusage's figure, which begins at that of the process that started this one.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


class SavedBytes:
    """Counts the bytes that autograd saves for backward passes, each storage once, a network's parameters left out.

    Attributes:
        most: held at any one time.
    """

    def __init__(self, network: nn.Module) -> None:
        self.most = 0
        self._parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        self._uses: Counter[int] = Counter()
        self._now = 0

    def counted(self) -> torch.autograd.graph.saved_tensors_hooks:
        """A context in which what is saved counts."""
        return torch.autograd.graph.saved_tensors_hooks(self._save, lambda saved: saved.tensor)

    def _save(self, tensor: torch.Tensor) -> _Saved:
        # Detached, because a graph that holds its own output is freed only when garbage is collected.
        saved, storage = _Saved(tensor.detach()), tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self._parameters:
            weakref.finalize(saved, self._free, place, size)
            self._uses[place] += 1
            self._now += size * (self._uses[place] == 1)
            self.most = max(self.most, self._now)
        return saved

    def _free(self, place: int, size: int) -> None:
        self._uses[place] -= 1
        self._now -= size * (self._uses[place] == 0)


@dataclass(frozen=True, eq=False)
class _Saved:
    tensor: torch.Tensor
