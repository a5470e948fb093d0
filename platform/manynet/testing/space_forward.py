"""The contract of a supernet's forward pass: pure, repeatable, and of the shape that its task takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from manynet.space.search_space import SearchSpace
from manynet.space.tasks import Classification, ClickThrough
from manynet.testing.findings import Findings, generators
from manynet.testing.space_choices import Archs

TOLERANCE = 1e-4
_BATCH = 3


def check_forward(space: SearchSpace, network: nn.Module, archs: Archs, findings: Findings) -> bool:
    """Run every architecture on the supernet; whether all ran.

    Args:
        space: of the network.
        network: a supernet in evaluation mode.
        archs: what it is to run.
        findings: are added to.
    """
    before, state, ran = _attributes(network), _content(network), True
    outputs: list[torch.Tensor | None] = []
    for arch in archs:
        given = dict(arch.canonical)
        output = None
        with findings.trying("forward must run every canonical architecture"), torch.no_grad():
            inputs = space.example(given, batch=_BATCH)
            drawn = generators()
            output = network(*inputs, arch=given)
            findings.expect(
                generators() == drawn,
                "forward must draw nothing in evaluation mode",
                f"does for {arch.canonical}",
            )
            findings.expect(
                given == arch.canonical, "forward must leave arch as it is", f"changed {arch.canonical}"
            )
            if _check_output(space, output, arch.canonical, findings):
                _check_pure(space, network, arch.canonical, inputs, output, findings)
                _check_dropped(network, arch.valid, arch.canonical, inputs, output, findings)
        outputs.append(output)
        ran = ran and isinstance(output, torch.Tensor)
    if ran:
        _check_again(space, network, archs, outputs, findings)
    after = _attributes(network)
    changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    findings.expect(
        not changed, "forward must set nothing on the network", f"set {', '.join(sorted(changed)[:3])}"
    )
    now = _content(network)
    changed = [
        key
        for key in state.keys() | now.keys()
        if key not in now or key not in state or not torch.equal(state[key], now[key])
    ]
    findings.expect(
        not changed,
        "forward must leave weights and statistics as they are in evaluation mode",
        f"changed {', '.join(sorted(changed)[:3])}",
    )
    return ran


def gap(left: torch.Tensor, right: torch.Tensor) -> float:
    """Largest difference, as a share of the largest value or of 1."""
    if left.shape != right.shape:
        return float("inf")
    return float((left - right).abs().max() / right.abs().max().clamp(min=1.0))


def _check_output(space: SearchSpace, output: Any, arch: Mapping[str, Any], findings: Findings) -> bool:
    task = space.task
    rule = "forward must give a tensor, batch first"
    if not findings.expect(
        isinstance(output, torch.Tensor) and output.dim() >= 1 and len(output) == _BATCH,
        rule,
        f"gives {tuple(output.shape) if isinstance(output, torch.Tensor) else output!r:.80} for a batch of {_BATCH}",
    ):
        return False
    shape = {Classification: (_BATCH, getattr(task, "num_classes", 0)), ClickThrough: (_BATCH,)}.get(
        type(task)
    )
    findings.expect(
        shape is None or tuple(output.shape) == shape,
        f"outputs must have the shape that {type(task).__name__} takes",
        f"have {tuple(output.shape)} where it takes {shape}",
    )
    return findings.expect(output.isfinite().all(), "outputs must be finite", f"are not for {dict(arch)}")


def _check_pure(
    space: SearchSpace,
    network: nn.Module,
    arch: Mapping[str, Any],
    inputs: tuple[torch.Tensor, ...],
    output: torch.Tensor,
    findings: Findings,
) -> None:
    again = network(*inputs, arch=dict(arch))
    findings.expect(
        torch.equal(again, output),
        "forward must give the same for the same inputs",
        f"differs by {gap(again, output):.2g} for {dict(arch)}",
    )
    alone = network(*(x[:1] for x in inputs), arch=dict(arch))
    findings.expect(
        gap(alone, output[:1]) <= TOLERANCE,
        "an example's output must not depend on the others of its batch in evaluation mode",
        f"differs by {gap(alone, output[:1]):.2g} for {dict(arch)}",
    )


def _check_dropped(
    network: nn.Module,
    valid: Mapping[str, Any],
    arch: Mapping[str, Any],
    inputs: tuple[torch.Tensor, ...],
    output: torch.Tensor,
    findings: Findings,
) -> None:
    whole = network(*inputs, arch=dict(valid))
    findings.expect(
        gap(whole, output) == 0,
        "architectures of one canonical form must give the same outputs",
        f"{dict(valid)} and {dict(arch)} differ by {gap(whole, output):.2g}",
    )


def _check_again(
    space: SearchSpace,
    network: nn.Module,
    archs: Archs,
    outputs: list[torch.Tensor | None],
    findings: Findings,
) -> None:
    """One architecture must leave no trace in the next."""
    with findings.trying("forward must run one architecture after another"), torch.no_grad():
        for arch, output in zip(reversed(archs), reversed(outputs), strict=True):
            assert output is not None
            again = network(*space.example(arch.canonical, batch=_BATCH), arch=dict(arch.canonical))
            findings.expect(
                torch.equal(again, output),
                "what an architecture gives must not depend on those that ran before it",
                f"differs by {gap(again, output):.2g} for {arch.canonical}",
            )


def _content(network: nn.Module) -> dict[str, torch.Tensor]:
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in tensors}


def _attributes(network: nn.Module) -> dict[str, str]:
    """What stands on each module besides tensors and modules, as text or as the object that it is."""
    found, own = {}, vars(nn.Module())
    for name, module in network.named_modules():
        for key, value in vars(module).items():
            if key == "training" or key not in own:
                found[f"{name}.{key}".lstrip(".")] = _shown(value)
    return found


def _shown(value: Any) -> str:
    plain = (bool, int, float, str, list, tuple, dict, set, type(None))
    return repr(value)[:500] if isinstance(value, plain) else f"object {id(value)}"
