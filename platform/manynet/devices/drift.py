"""Whether a device measures as it did before: the time of one reference subnet, taken again and again."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class DriftRules:
    """When a device counts as drifted, and what then.

    Attributes:
        tolerance: share by which the reference's time may differ from its first.
        interval_seconds: from one measurement of the reference to the next.
        again_seconds: the same while it is too far off.
        patience_seconds: how long the only device of a kind stays set aside before it goes on all the same.
    """

    tolerance: float = 0.2
    interval_seconds: float = 60.0
    again_seconds: float = 10.0
    patience_seconds: float = 60.0


@dataclass
class Drift:
    """Decides when the reference is due, and whether a device is fit to measure. Times are of a monotonic clock.

    Attributes:
        rules: what it decides by.
        first: the reference's time that all later ones are held against, ms; None before there is one.
        now: how far its latest time is from that, as a share.
        checked: when that was, s.
        unfit_since: since when it has been too far off, s; None while it is fit.
    """

    rules: DriftRules = DriftRules()
    first: float | None = None
    now: float = 0.0
    checked: float = -math.inf
    unfit_since: float | None = None

    @property
    def fit(self) -> bool:
        """Whether the latest time was near the first."""
        return self.unfit_since is None

    def due(self, at: float) -> bool:
        """Whether the reference should be measured again."""
        return at - self.checked >= (self.rules.interval_seconds if self.fit else self.rules.again_seconds)

    def note(self, milliseconds: float, at: float) -> None:
        """Judge a new time of the reference; the first one is what later ones are held against."""
        if self.first is None:
            self.first = milliseconds
        self.now, self.checked = milliseconds / self.first - 1, at
        if abs(self.now) <= self.rules.tolerance:
            self.unfit_since = None
        elif self.unfit_since is None:
            self.unfit_since = at

    def aside(self, at: float, alone: bool) -> bool:
        """Whether the device must wait until its reference is near again.

        One that is ``alone``, with no other of its kind in service, waits for so long and then goes on: its
        measurements tell the drift, and a search that stopped for it would help nobody.
        """
        if self.unfit_since is None:
            return False
        return not alone or at - self.unfit_since < self.rules.patience_seconds

    def __str__(self) -> str:
        assert self.first is not None
        return (
            f"the reference subnet takes {self.first * (1 + self.now):.3g} ms, and took {self.first:.3g} ms"
        )
