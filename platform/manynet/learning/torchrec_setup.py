"""TorchRec: what to install beside this PyTorch, and whether it is there and loads.

TorchRec requires ``fbgemm-gpu`` in any version, which is a CUDA build for the newest PyTorch. So both are
installed without their dependencies, as ``python -m manynet.learning.torchrec_setup`` lists them for pip.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

import torch

from manynet.learning.strategy import TrainingError

VERSION = "1.8.0"
"""Of TorchRec and fbgemm: the one for PyTorch 2.13, to which the extra ``recsys`` holds."""
EXTRA = ("tensordict", "torchmetrics", "pyre_extensions", "tqdm")
"""What TorchRec imports: the extra ``recsys``."""


def requirements() -> list[str]:
    """What pip installs with ``--no-deps``: TorchRec, and the build of fbgemm that fits this PyTorch."""
    fbgemm = "fbgemm-gpu" if torch.version.cuda else "fbgemm-gpu-cpu"
    return [f"torchrec=={VERSION}", f"{fbgemm}=={VERSION}"]


def check_installed() -> None:
    """Check that embedding tables can be trained here. Loads fbgemm; TorchRec itself takes seconds.

    Raises:
        TrainingError: in one line that ends in the commands to run.
    """
    install = f"pip install --no-deps {' '.join(requirements())}"
    for name in (*EXTRA, "torchrec", "fbgemm_gpu"):
        if find_spec(name) is None:
            first = "pip install 'manynet[recsys]' && " if name in EXTRA else ""
            raise TrainingError(
                f"training embedding tables needs TorchRec, but there is no {name}: {first}{install}"
            )
    try:
        with _silent():
            import_module("fbgemm_gpu")
    except (ImportError, OSError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"training embedding tables needs an fbgemm that loads beside PyTorch {torch.__version__}, but "
            f"{reason}: pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && {install}"
        ) from None


@contextmanager
def _silent() -> Iterator[None]:
    """Keep fbgemm from logging its failure over several lines."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


if __name__ == "__main__":
    print(*requirements(), sep="\n")
