"""Where a device's actor runs: on a node that offers its Ray resource, or on the driver's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from manynet.devices.errors import DeviceError
from manynet.devices.name import DeviceName
from manynet.devices.tools import NAMES
from manynet.devices.tools.boards import VARIABLE, boards, declaration

HOST = "host"
PREFIX = "device:"
SLIVER = 0.001  # enough to be placed; many names can share one offered resource


def resources(names: Iterable[str]) -> dict[str, float]:
    """The custom resources a local Ray should offer for ``names``: ``{"device:host/torch": 1.0}``.

    Only ``host`` devices are a local machine's to offer; other names are left out.

    Raises:
        DeviceError: if a name is misspelt.
    """
    parsed = [DeviceName.parse(name) for name in names]
    return {PREFIX + name.base: 1.0 for name in parsed if name.device == HOST}


def offered() -> list[str]:
    """The devices that the connected cluster offers as resources ``device:<name>``, sorted."""
    total: dict[str, float] = ray.cluster_resources()
    return sorted(key.removeprefix(PREFIX) for key in total if key.startswith(PREFIX))


def default_devices() -> list[str]:
    """This host with every tool, its GPU, and the boards that are declared here.

    Raises:
        DeviceError: if boards are declared wrongly.
    """
    declared = [f"{label}/command" for label in boards()]
    return list(dict.fromkeys([*(f"{HOST}/{tool}" for tool in NAMES), "cuda/torch", *declared]))


def actor_options(name: DeviceName) -> dict[str, Any]:
    """Ray options that place the actor of ``name``.

    Raises:
        DeviceError: if no node offers ``name``, with what can be had.
    """
    offers = offered()
    for offer in (str(name), name.base):
        if offer in offers:
            return {"resources": {PREFIX + offer: SLIVER}}
    if name.base in default_devices():
        node = ray.get_runtime_context().get_node_id()
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False), **_declared(name)}
    can_be_had = ", ".join(sorted({*default_devices(), *offers}))
    raise DeviceError(f"device must be one of {can_be_had}, but got '{name}'")


def _declared(name: DeviceName) -> dict[str, Any]:
    # A Ray that was started elsewhere would not know this process's environment.
    path = declaration() if name.tool == "command" else None
    return {"runtime_env": {"env_vars": {VARIABLE: str(path)}}} if path else {}
