"""What devices can be had here: what ``manynet devices`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import ray

from manynet.devices.errors import DeviceError
from manynet.devices.name import DeviceName
from manynet.devices.placement import HOST, PREFIX, default_devices, offered
from manynet.devices.pool import DevicePool
from manynet.devices.tools import described, tool_of


class Listing(NamedTuple):
    """One device: its name, ``ready`` or ``unavailable``, where it was found, and its hardware or what is wrong."""

    name: str
    status: str
    found: str
    detail: str


def list_devices(tools: Sequence[str] = ()) -> list[Listing]:
    """This host's devices, then those the connected cluster offers as ``device:<name>`` resources.

    Devices of the cluster are started once to ask them. Without a connection only the host's are listed.

    Args:
        tools: of a user's own, each ``module:name``, to list for this host too.

    Raises:
        DeviceError: if one of these is misspelt.
    """
    connected = offered() if ray.is_initialized() else []
    own = [str(DeviceName.parse(f"{HOST}/{tool}")) for tool in tools]
    hosts = [_on_this_host(name) for name in [*default_devices(), *own] if name not in connected]
    with ThreadPoolExecutor() as threads:  # an actor takes seconds to start
        return hosts + list(threads.map(_in_cluster, connected))


def _on_this_host(name: str) -> Listing:
    parsed = DeviceName.parse(name)
    try:
        hardware, version = described(tool_of(parsed), parsed)
    except DeviceError as error:
        reason = str(error).removeprefix(f"{parsed.base} cannot be used: ")
        return Listing(name, "unavailable", "this host", reason)
    return Listing(name, "ready", "this host", f"{hardware}, {parsed.tool} {version}")


def _in_cluster(name: str) -> Listing:
    found = f"Ray resource {PREFIX}{name}"
    try:
        with DevicePool([name]) as pool:
            described = pool.descriptions[str(DeviceName.parse(name))]
    except DeviceError as error:
        return Listing(name, "unavailable", found, str(error))
    tool = DeviceName.parse(name).tool
    return Listing(name, "ready", found, f"{described.fingerprint}, {tool} {described.tool_version}")
