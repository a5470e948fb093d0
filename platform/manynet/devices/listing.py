"""What devices can be had here: what ``manynet devices`` prints."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import ray

from manynet.devices.errors import DeviceError
from manynet.devices.name import DeviceName
from manynet.devices.placement import PREFIX, default_devices, offered
from manynet.devices.pool import DevicePool
from manynet.devices.tools import tool_of


class Listing(NamedTuple):
    """One device: its name, ``ready`` or ``unavailable``, where it was found, and its hardware or what is wrong."""

    name: str
    status: str
    found: str
    detail: str


def list_devices() -> list[Listing]:
    """This host's devices, then those the connected cluster offers as ``device:<name>`` resources.

    Devices of the cluster are started once to ask them. Without a connection only the host's are listed.
    """
    connected = offered() if ray.is_initialized() else []
    hosts = [_on_this_host(name) for name in default_devices() if name not in connected]
    with ThreadPoolExecutor() as threads:  # an actor takes seconds to start
        return hosts + list(threads.map(_in_cluster, connected))


def _on_this_host(name: str) -> Listing:
    parsed = DeviceName.parse(name)
    tool = tool_of(parsed)
    if reason := tool.missing(parsed):
        return Listing(name, "unavailable", "this host", reason)
    return Listing(name, "ready", "this host", f"{tool.hardware()}, {parsed.tool} {tool.version()}")


def _in_cluster(name: str) -> Listing:
    found = f"Ray resource {PREFIX}{name}"
    try:
        with DevicePool([name]) as pool:
            described = pool.descriptions[str(DeviceName.parse(name))]
    except DeviceError as error:
        return Listing(name, "unavailable", found, str(error))
    tool = DeviceName.parse(name).tool
    return Listing(name, "ready", found, f"{described.fingerprint}, {tool} {described.tool_version}")
