"""The Ray that a study runs on: the one it is in, the one it is told of, or a local one of its own."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import ray

from manynet.devices import resources


def connect(device_names: Iterable[str] = ()) -> None:
    """Connect to Ray unless connected: to ``RAY_ADDRESS`` where it is set, else to a new local Ray.

    Args:
        device_names: devices that a new local Ray offers as custom resources.
    """
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
        return
    ray.init(
        address="local",
        resources=resources(device_names),
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_source_roots())}},
        logging_level=logging.WARNING,
        log_to_driver=False,
    )


def _source_roots() -> list[str]:
    """Where this process finds modules besides installed packages: workers look there too."""
    roots = [str(Path(entry or ".").resolve()) for entry in sys.path]
    installed = (str(Path(sys.prefix).resolve()), str(Path(sys.base_prefix).resolve()))
    return [root for root in dict.fromkeys(roots) if Path(root).is_dir() and not root.startswith(installed)]
