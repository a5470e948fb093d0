"""The verdict of a transfer study, in two sentences."""

from __future__ import annotations

from collections.abc import Sequence

from manynet.records.rank_correlation import FEWEST_CONVINCING, RankingQuality
from manynet.studies.transfer.comparison import Loss, Transfer

# tau 0.8 is nine pairs of ten in the same order, 0.5 is three of four.
KEPT, LITTLE = 0.8, 0.5
NAMED = 3


def reading(transfer: Transfer) -> str:
    """Two sentences: whether the order holds, and what is lost at equal latency; the second only with a metric.

    The ends of tau's interval decide: the order is kept if the lower end is at least 0.8, and little of it is kept
    if the upper end is below 0.5.
    """
    first = _order(transfer)
    return first if transfer.metric is None else f"{first} {_losses(transfer, transfer.metric)}"


def verdict(tau: RankingQuality | None) -> str:
    """Phrase for what an interval supports; a list of devices follows it."""
    if tau is None or tau.count < FEWEST_CONVINCING:
        return "has too few members to compare its order on"
    if tau.low >= KEPT:
        return "keeps its order on"
    if tau.low > 0 and tau.high < LITTLE:
        return "keeps little of its order on"
    if tau.low > 0:
        return f"keeps {'part' if tau.high < KEPT else 'at least part'} of its order on"
    return "reverses its order on" if tau.high < 0 else "shows no order that is distinct from chance on"


def points(metric: str, value: float | None) -> str:
    """A difference in the metric as text; in points if the metric is a share."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} points" if metric.endswith("accuracy") else f"{value:.4f}"


def _order(transfer: Transfer) -> str:
    # Without a metric there is no front, and a small front has no reliable order: then all subnets are judged.
    judged = [target.front_tau for target in transfer.targets]
    of_front = any(tau is not None and tau.count >= FEWEST_CONVINCING for tau in judged)
    taus = judged if of_front else [target.tau for target in transfer.targets]
    groups: dict[str, list[tuple[str, RankingQuality | None]]] = {}
    for target, tau in zip(transfer.targets, taus, strict=True):
        groups.setdefault(verdict(tau), []).append((target.device, tau))
    subject = "The front found on" if of_front else "The set of subnets measured on"
    phrases = [f"{phrase} {_devices(members)}" for phrase, members in groups.items()]
    return f"{subject} {transfer.source} {'; '.join(phrases)}."


def _devices(members: Sequence[tuple[str, RankingQuality | None]]) -> str:
    known = [tau.tau for _, tau in members if tau is not None and tau.count >= FEWEST_CONVINCING]
    if not known:
        # With too few members, tau means nothing and is left out.
        return _joined([name for name, _ in members]) if len(members) <= NAMED else f"{len(members)} devices"
    if len(members) <= NAMED:
        return _joined([f"{name} (tau {tau:.2f})" for (name, _), tau in zip(members, known, strict=True)])
    ends = dict.fromkeys([f"{min(known):.2f}", f"{max(known):.2f}"])
    return f"{len(members)} devices (tau {' to '.join(ends)})"


def _losses(transfer: Transfer, metric: str) -> str:
    compared = [(t.device, t.loss) for t in transfer.targets if t.loss and t.loss.reached]
    front = f"the front found on {transfer.source}"
    if not compared:
        return f"No loss is known: {front} is slower than every member of each device's own front."
    if not any(loss.largest for _, loss in compared):
        names = [name for name, _ in compared]
        costs = f"nothing on {_joined(names) if len(names) <= NAMED else f'{len(names)} devices'}"
    elif len(compared) > NAMED:
        ordered = sorted(compared, key=lambda pair: _mean(pair[1]))
        (best, least), (worst, most) = ordered[0], ordered[-1]
        costs = (
            f"from {points(metric, least.mean)} ({best}) to {points(metric, most.mean)} ({worst}) of {metric} "
            f"on average over {len(compared)} devices"
        )
    else:
        costs = _joined([_cost(name, loss, metric) for name, loss in compared])
    return f"At equal latency {front} costs {costs}, against the front found for the device itself."


def _cost(device: str, loss: Loss, metric: str) -> str:
    if not loss.largest:
        return f"nothing on {device}"
    return f"{points(metric, loss.mean)} of {metric} on {device} ({points(metric, loss.largest)} at most)"


def _mean(loss: Loss) -> float:
    return loss.mean or 0.0


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
