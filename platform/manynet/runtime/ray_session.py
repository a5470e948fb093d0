"""The Ray that a study runs on: the one it is in, the one it is told of, or a local one of its own."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import ray

from manynet.devices import resources
from manynet.errors import ManynetError
from manynet.runtime import nodes

ADDRESS = "RAY_ADDRESS"
TOKEN = "the token (RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token)"
_SECONDS = 10.0


class ClusterError(ManynetError, RuntimeError):
    """A cluster cannot be joined: nobody answers, the token is refused, or it runs another Ray or Python."""


def connect(device_names: Iterable[str] = (), folder: str | None = None) -> None:
    """Connect to Ray unless connected: to ``RAY_ADDRESS`` where it is set, else to a new local Ray.

    Args:
        device_names: devices that a new local Ray offers as custom resources.
        folder: of a study, which all nodes of a cluster are then asked to reach; see :mod:`manynet.runtime.nodes`.

    Raises:
        ClusterError: the cluster cannot be joined.
        NodesError: a node cannot do what the study needs.
    """
    joined = not ray.is_initialized() and bool(os.environ.get(ADDRESS))
    if joined:
        join(os.environ[ADDRESS])
    elif not ray.is_initialized():
        _start(device_names)
    # A Ray of one node that this process did not join is its own.
    if folder is not None and (joined or len(ray.nodes()) > 1):
        nodes.check(folder)


def _start(device_names: Iterable[str]) -> None:
    ray.init(
        address="local",
        resources=resources(device_names),
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_source_roots())}},
        logging_level=logging.WARNING,
        log_to_driver=False,
    )


def join(address: str) -> None:
    """Connect to the cluster at ``address``, as Ray takes it: ``host:port``.

    Raises:
        ClusterError: it cannot be joined.
    """
    if address.startswith("http"):
        raise ClusterError(
            f"{ADDRESS} must be host:port of a cluster that this machine is part of, but got {address}: "
            f"a dashboard takes jobs (`manynet submit`)"
        )
    check_listens(address, f"{ADDRESS} must be where a cluster answers, but at {address}")
    try:
        ray.init(address, logging_level=logging.WARNING)
    except (ConnectionError, ray.exceptions.AuthenticationError):
        raise ClusterError(f"the cluster at {address} must accept {TOKEN}, but did not") from None
    except RuntimeError as error:
        raise ClusterError(
            f"the cluster at {address} could not be joined: {' '.join(str(error).split())}"
        ) from None


def check_listens(address: str, rule: str) -> None:
    """Connect to the port of ``host:port`` or ``ray://host:port``; other addresses pass.

    Where nobody listens, Ray takes minutes, ends the process, or says the same as of a refused token.

    Raises:
        ClusterError: ``rule`` and why, where nobody listens.
    """
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        if place.port is not None:
            socket.create_connection((place.hostname, place.port), _SECONDS).close()
    except (OSError, ValueError) as error:
        raise ClusterError(f"{rule}: {error}") from None


def _source_roots() -> list[str]:
    """Where this process finds modules besides installed packages: workers look there too."""
    roots = [str(Path(entry or ".").resolve()) for entry in sys.path]
    return [root for root in dict.fromkeys(roots) if Path(root).is_dir() and not installed(Path(root))]


def installed(path: Path) -> bool:
    """Whether a resolved path is part of the Python installation."""
    return any(path.is_relative_to(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix))
