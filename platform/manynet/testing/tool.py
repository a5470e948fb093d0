"""The contract of a deployment tool: what it says of itself, and how it measures a network."""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from manynet import references
from manynet.devices import DeviceError, DeviceName, MeasurementError, Timing, Tool
from manynet.devices.lease import Lease
from manynet.devices.name import PRECISIONS
from manynet.devices.placement import HOST
from manynet.devices.timing import hastily
from manynet.devices.tools import tool_of
from manynet.testing.findings import Findings, isolated, resolved
from manynet.testing.tool_networks import LARGE_MACS, Broken, Clicks, inputs_of, large, networks

_TOLERANCE = {"float32": 1e-3, "bf16": 0.1}
_FASTEST = 1e12
"""Multiply-adds a second of one processor thread, which none does."""
_SHARE = 0.1
"""Of the usual time of a measurement."""


def check_tool(tool: Tool | str | Any, device: str = "host") -> list[str]:
    """What is wrong with a deployment tool: it measures small networks, in this process, without Ray.

    Args:
        tool: the tool, what makes it without arguments, its ``module:name``, or a device's name such as
            ``host/torch``.
        device: label of the device to measure on, where ``tool`` names none.

    Returns:
        Sentences; none where the tool keeps its contract. A tool that cannot be used on this machine says so, and
        is not checked further.
    """
    findings = Findings()
    with isolated():
        found = _resolved(tool, device, findings)
        if found is None:
            return findings.sentences
        made, name = found
        if not _check_said(made, name, findings):
            return findings.sentences
        _check_settings(made, name, findings)
        with hastily(_SHARE):
            _check_measures(made, name, findings)
    return findings.sentences


def _resolved(tool: Any, device: str, findings: Findings) -> tuple[Tool, DeviceName] | None:
    if isinstance(tool, str) and "/" in tool:
        with findings.trying(f"{tool!r} must name a device and its tool"):
            name = DeviceName.parse(tool)
            return tool_of(name), name
        return None
    made = resolved(Tool, tool, findings)  # type: ignore[type-abstract]
    if made is None:
        return None
    reference = tool if isinstance(tool, str) else references.find(type(made)) or type(made).__name__
    with findings.trying("the tool's module:name must fit a device's name"):
        return made, DeviceName.parse(f"{device}/{reference}")
    return None


def _check_said(tool: Tool, name: DeviceName, findings: Findings) -> bool:
    """Whether what it says of itself holds, and it can be used here."""
    with findings.trying("a tool must say its settings"):
        known = isinstance(tool.precisions, tuple) and set(tool.precisions) <= set(PRECISIONS)
        findings.expect(
            known and tool.precisions,
            f"precisions must be some of {PRECISIONS}",
            f"are {tool.precisions!r:.80}",
        )
        for flag in ("takes_gpus", "takes_boards"):
            value = getattr(tool, flag)
            findings.expect(isinstance(value, bool), f"{flag} must be True or False", f"is {value!r:.80}")
        limit = tool.limit_seconds
        findings.expect(
            isinstance(limit, int | float) and 0 < limit < math.inf,
            "limit_seconds must be above 0",
            f"is {limit!r}",
        )
    with findings.trying("missing must say why the tool cannot be used, or None"):
        reason = tool.missing(name)
        if reason is not None:
            rule = f"{name} must be usable on this machine to be checked"
            findings.expect(False, rule, f"{reason}")
            return False
    if findings:
        return False
    for what in ("version", "hardware"):
        with findings.trying(f"{what} must be a line"):
            said = getattr(tool, what)()
            plain = isinstance(said, str) and said.strip() and "\n" not in said
            findings.expect(plain, f"{what} must be a line", f"is {said!r:.80}")
            if what == "version":
                findings.expect("," not in str(said), "version must have no comma", f"is {said!r:.80}")
                findings.expect(said == tool.version(), "version must not change", "two calls differ")
    with findings.trying("lease must give the lease to hold"):
        lease = tool.lease(Lease())
        findings.expect(isinstance(lease, Lease), "lease must give a Lease", f"gives {lease!r:.80}")
    return not findings


def _check_settings(tool: Tool, name: DeviceName, findings: Findings) -> None:
    with findings.trying(f"check must take {name}"):
        tool.check(name)
    for precision in PRECISIONS:
        if precision not in tool.precisions:
            with findings.refusing(
                DeviceError, f"check of precision {precision}, which is none of precisions,"
            ):
                tool.check(replace(name, precision=precision))
    if not tool.takes_gpus:
        with findings.refusing(DeviceError, "check of a GPU's label, without takes_gpus,"):
            tool.check(replace(name, device="cuda"))


def _check_measures(tool: Tool, name: DeviceName, findings: Findings) -> None:
    images, clicks = networks()
    cases = [(images, name), (clicks, name), (clicks, replace(name, batch=3, threads=2))]
    if "bf16" in tool.precisions:
        cases.append((images, replace(name, precision="bf16")))
    held, small = [], math.inf
    for network, one in cases:
        Clicks.batches.clear()
        frames = _compiled_frames()
        small = min(small, _measured(tool, network, one, findings))
        gc.collect()
        held.append(_held())
        if one.batch > 1 and not findings and _compiled_frames() == frames:
            _check_called(one.batch, findings)
    with findings.refusing(MeasurementError, "prepare of a network that fails"):
        tool.prepare(broken := Broken().eval(), inputs_of(broken), name)()
    if not findings:
        _check_follows(tool, name, small, findings)
        _check_released([*held, _held()], findings)


def _measured(tool: Tool, network: nn.Module, name: DeviceName, findings: Findings) -> float:
    """Milliseconds of a network, which stays as it is, as all else does."""
    example, milliseconds = inputs_of(network), math.inf
    before, modes = _state(network, example), _modes()
    with findings.trying(f"prepare must take a network of {len(example)} inputs on {name}"):
        timed = tool.prepare(network, example, name)
        for _ in range(2):
            milliseconds = _timed(timed, name, findings)
        outputs = tool.outputs(network, example, name)
        if outputs is not None:
            _check_outputs(network, example, name, outputs, findings)
    same = _state(network, example) == before
    rule = "prepare must leave the network and its example as they are"
    findings.expect(same, rule, f"changed those of {len(example)} inputs on {name}")
    findings.expect(
        _modes() == modes, "prepare must leave PyTorch's modes as they are", f"changed them on {name}"
    )
    return milliseconds


def _modes() -> tuple[object, ...]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()


def _compiled_frames() -> int:
    """Frames that PyTorch's own compiler read: of these, no call is seen."""
    utils = sys.modules.get("torch._dynamo.utils")
    return 0 if utils is None else int(utils.counters["frames"]["total"])


def _check_called(batch: int, findings: Findings) -> None:
    """The network that is run must be the one that was given, on the whole batch."""
    rule = "prepare must run, export or trace the network on the whole batch"
    if findings.expect(Clicks.batches, rule, "never called it"):
        called = ", ".join(map(str, sorted(Clicks.batches)))
        findings.expect(
            batch in Clicks.batches, rule, f"called it with batches of {called} where {batch} was asked for"
        )


def _state(network: nn.Module, example: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    tensors = [*network.state_dict().values(), *example]
    flags = [module.training for module in network.modules()]
    slopes = [parameter.requires_grad for parameter in network.parameters()]
    contents = [(str(t.dtype), str(t.device), t.float().numpy().tobytes()) for t in tensors]
    return contents, flags, slopes, [name for name, _ in network.named_modules()]


def _timed(timed: Callable[[], Timing], name: DeviceName, findings: Findings) -> float:
    started = time.perf_counter()
    timing = timed()
    took = (time.perf_counter() - started) * 1e3
    rule = "what prepare returns must give a Timing"
    if not findings.expect(isinstance(timing, Timing), rule, f"gives {timing!r:.80} on {name}"):
        return math.inf
    milliseconds = timing.milliseconds
    rule = "milliseconds of a run must be more than 0"
    plain = isinstance(milliseconds, int | float) and 0 < milliseconds < math.inf
    if not findings.expect(plain, rule, f"are {milliseconds!r} on {name}"):
        return math.inf
    sound = timing.count >= 1 and timing.spread >= 0 and isinstance(timing.steady, bool)
    rule = "a Timing must have a count of at least 1, a spread of at least 0, and steady, True or False"
    findings.expect(sound, rule, f"is {timing!r:.160}")
    # A board is timed elsewhere, before or after: only what runs here is in this process's time.
    rule = "milliseconds must be those of one run"
    got = f"are {milliseconds:.4g} where all runs together took {took:.4g} on {name}"
    findings.expect(name.device != HOST or milliseconds <= 1.2 * took + 1, rule, got)
    return float(milliseconds)


def _check_outputs(
    network: nn.Module,
    example: tuple[torch.Tensor, ...],
    name: DeviceName,
    outputs: Any,
    findings: Findings,
) -> None:
    rule = "outputs must be a tuple of tensors"
    whole = isinstance(outputs, tuple) and all(isinstance(one, torch.Tensor) for one in outputs)
    if not findings.expect(whole and outputs, rule, f"are {outputs!r:.80}"):
        return
    with torch.no_grad():
        expected = network(*(x.repeat(name.batch, *[1] * (x.dim() - 1)) for x in example))
    rule = f"outputs must be PyTorch's to {_TOLERANCE[name.precision]} in {name.precision}"
    if findings.expect(
        outputs[0].shape == expected.shape,
        rule,
        f"have shape {tuple(outputs[0].shape)} where PyTorch's have {tuple(expected.shape)} on {name}",
    ):
        gap = float((outputs[0].float() - expected).abs().max() / expected.abs().max())
        findings.expect(
            gap <= _TOLERANCE[name.precision], rule, f"differ by {gap:.2g} of the largest on {name}"
        )


def _check_follows(tool: Tool, name: DeviceName, small: float, findings: Findings) -> None:
    """A network of far more work must take longer, and as long as any processor would need."""
    with findings.trying("a tool must measure a larger network, also after one that failed"):
        network = large()
        most = tool.prepare(network, inputs_of(network), name)().milliseconds
        got = f"takes {most:.4g} ms, and the small one {small:.4g} ms"
        findings.expect(
            most > 2 * small, "a network of ten thousand times the multiply-adds must take longer", got
        )
        least = LARGE_MACS / _FASTEST * 1e3
        got = f"{LARGE_MACS:.3g} multiply-adds in one thread take {most:.4g}, where no processor needs less than {least:.2g}"
        findings.expect(name.device != HOST or most >= least, "times must be in milliseconds", got)


def _check_released(held: Sequence[dict[str, int]], findings: Findings) -> None:
    """A search measures thousands of networks in one process: nothing may stay of each."""
    for what, counts in {key: [one[key] for one in held] for key in held[0]}.items():
        grows = all(a < b for a, b in pairwise(counts))
        got = f"{what} grow from {counts[0]} to {counts[-1]} over {len(counts)} networks"
        findings.expect(not grows, "what a network held must be released with it", got)


def _held() -> dict[str, int]:
    """What this process holds; nothing where the system does not tell."""
    found = {"threads": threading.active_count()}
    if os.path.isdir("/proc/self/fd"):
        found["open files"] = len(os.listdir("/proc/self/fd"))
        found["threads of the process"] = len(os.listdir("/proc/self/task"))
        found["processes"] = sum(len(_children(task)) for task in os.listdir("/proc/self/task"))
    return found


def _children(task: str) -> list[str]:
    try:
        with open(f"/proc/self/task/{task}/children") as file:
            return file.read().split()
    except OSError:
        return []
