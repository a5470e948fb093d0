"""Shared fixtures: one Ray session for all tests that need one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent

# pytest's own `pythonpath` reaches only this process; Ray's workers read the variable.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT / "platform"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ["RAY_TRAIN_V2_ENABLED"] = "1"


# On as many cores as Ray's workers use, threads would wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray with room for two workers, two evaluators and a device."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=400 * 2**20,
        resources={"device:host/torch": 1, "device:host/onnxruntime": 1},
        # Short runs, too, are to be seen in the metrics.
        _system_config={"metrics_report_interval_ms": 500},
    )
    yield
    ray.shutdown()
