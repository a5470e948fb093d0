"""TorchRec's installation: the versions for this PyTorch, and a check that they load.

TorchRec requires any ``fbgemm-gpu``, which is a CUDA build for the newest PyTorch. So both are installed
without their dependencies; ``python -m manynet.learning.torchrec_setup`` prints them for pip.
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
"""Version of TorchRec and fbgemm for PyTorch 2.13, which the extra ``recsys`` pins."""
EXTRA = ("tensordict", "torchmetrics", "pyre_extensions", "tqdm")
"""TorchRec's imports: the extra ``recsys``."""


def requirements() -> list[str]:
    """Packages for ``pip install --no-deps``: TorchRec, and the fbgemm build for this PyTorch."""
    fbgemm = "fbgemm-gpu" if torch.version.cuda else "fbgemm-gpu-cpu"
    return [f"torchrec=={VERSION}", f"{fbgemm}=={VERSION}"]


def check_installed() -> None:
    """Check that embedding tables can be trained. Loads fbgemm but not TorchRec, which takes seconds.

    Raises:
        TrainingError: in one line that ends with the commands to run.
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
