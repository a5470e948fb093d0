"""Where a device's actors run: on each node that offers its Ray resource, or on the driver's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from manynet.devices.errors import DeviceError
from manynet.devices.name import DeviceName
from manynet.devices.tools import NAMES, tool_of
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


class Place(NamedTuple):
    """A node that can measure for a device name, and the Ray options that put an actor there."""

    node: str
    options: dict[str, Any]


def places(name: DeviceName, home: str) -> list[Place]:
    """All nodes that offer ``name``, or, where none does, ``home`` for what needs no offer.

    Args:
        name: of the device.
        home: id of the driver's node, whose own devices these are.

    Raises:
        DeviceError: if no node offers ``name``, with what can be had.
    """
    keys = (PREFIX + str(name.measured), PREFIX + name.base)
    found = []
    for node in ray.nodes():
        key = next((key for key in keys if key in node["Resources"]), None)
        if node["Alive"] and key is not None:
            found.append(Place(node["NodeID"], {"resources": {key: SLIVER}, **_on(node["NodeID"])}))
    if found:
        return found
    if name.base in default_devices() or (name.has_own_tool and _serves_here(name)):
        return [Place(home, _on(home))]
    can_be_had = ", ".join(sorted({*default_devices(), *offered()}))
    raise DeviceError(f"device must be one of {can_be_had} or host/module:name, but got '{name}'")


def _serves_here(name: DeviceName) -> bool:
    """Whether a user's own tool measures a device of this label on the driver's node."""
    tool = tool_of(name)
    return name.device == HOST or (tool.takes_gpus if name.on_gpu else tool.takes_boards)


def this_node() -> str:
    """Id of the Ray node that this process is on."""
    node: str = ray.get_runtime_context().get_node_id()
    return node


def is_alive(node: str) -> bool:
    """Whether a Ray node is still there."""
    return any(one["NodeID"] == node and one["Alive"] for one in ray.nodes())


def service_options(home: str) -> dict[str, Any]:
    """Ray options that put the device service on the driver's node, in an environment that all its actors inherit."""
    # A Ray that was started elsewhere would not know this process's environment.
    path = declaration()
    return {**_on(home), **({"runtime_env": {"env_vars": {VARIABLE: str(path)}}} if path else {})}


def _on(node: str) -> dict[str, Any]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
