"""Tests whether latency is exactly a sum over operators and layers, and fits the times of the sum.

Such sums are how FBNet (arXiv 1812.03443) and ProxylessNAS (arXiv 1812.00332) model latency, and some
published latencies are exactly such sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from manynet.devices import DeviceName
from manynet.latency.published.latencies import Choice, options
from manynet.latency.table import LatencyTable

# Relative tolerance, coarser than the rounding of published figures.
EXACT = 1e-6

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Additivity:
    """How well a sum over choices fits a device's latency.

    Attributes:
        largest: largest relative error of the best sum, over all nets; NaN for too few nets.
        mean: mean of the same.
        table: the sum's times, where it is exact and no time is negative; else None.
        verdict: the same as text.
    """

    largest: float
    mean: float
    table: LatencyTable | None
    verdict: str


def additivity(
    device: str, architectures: Sequence[Mapping[str, Choice]], milliseconds: Sequence[float]
) -> Additivity:
    """Fit a time for each option of each choice by least squares.

    Constants can be moved between choices without changing a sum. Here the fastest option of every choice takes
    0 ms and the table's ``network`` the rest: if any such form has no negative time, this one has none.

    Args:
        device: its name.
        architectures: with the same keys; options that no net has get no row.
        milliseconds: of one example, one a net.
    """
    times = np.array(milliseconds)
    names, onehot = _one_hot(architectures)
    keys = [name.partition("=")[0] for name in names]
    # One column a choice is redundant; the constant is in the sums of all others already.
    unknowns = len(names) - len(set(keys)) + 1
    fitted, _, rank, _ = linalg.lstsq(onehot, times, cond=1e-10)
    if rank < unknowns or len(times) <= unknowns:
        return Additivity(np.nan, np.nan, None, f"{len(times):,} nets cannot tell {unknowns:,} times")
    rows, network = _shifted(keys, fitted, EXACT * times.min())
    errors = np.abs(onehot @ rows + network - times) / times
    largest, mean = float(errors.max()), float(errors.mean())
    if largest > EXACT:
        return Additivity(largest, mean, None, f"no: off by {mean:.1%} on average, {largest:.1%} at most")
    if network < 0:
        return Additivity(largest, mean, None, f"exactly, but with {network:.3g} ms beside all choices")
    name = DeviceName.parse(device)
    measured = dict(zip(names, rows.tolist(), strict=True))
    table = LatencyTable(
        device=name.device, tool=name.tool, unit="ms", rows="choices", measured=measured, network=network
    )
    return Additivity(largest, mean, table, "exactly")


def _one_hot(architectures: Sequence[Mapping[str, Choice]]) -> tuple[list[str], Floats]:
    """Names ``key=option`` of all options, and their indicator matrix ``(nets, names)``."""
    names = [f"{key}={value}" for key, values in options(architectures).items() for value in values]
    places = {name: place for place, name in enumerate(names)}
    onehot = np.zeros((len(architectures), len(names)))
    for row, arch in zip(onehot, architectures, strict=True):
        row[[places[f"{key}={value}"] for key, value in arch.items()]] = 1.0
    return names, onehot


def _shifted(keys: Sequence[str], fitted: Floats, negligible: float) -> tuple[Floats, float]:
    """Times shifted to a minimum of 0 within each choice, and the remaining constant, both in ms."""
    rows, network = fitted.copy(), 0.0
    for key in dict.fromkeys(keys):
        own = np.array([other == key for other in keys])
        network += float(fitted[own].min())
        rows[own] -= fitted[own].min()
    # Zeros that least squares leaves as tiny numbers are set to 0: the table is read by people.
    rows = np.array([float(f"{time:.12g}") for time in np.where(rows < negligible / len(keys), 0.0, rows)])
    return rows, 0.0 if abs(network) < negligible else float(f"{network:.12g}")
