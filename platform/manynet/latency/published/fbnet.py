"""Latencies of FBNet's nets, as measured for HELP (arXiv 2106.08630; the space is that of arXiv 1812.03443).

One file of arrays (npz): ``arch`` (nets, layers), the index of each layer's operator; ``ops`` (operators,),
their names; ``latency_ms/<device>`` (nets,), milliseconds of a run. A number that ends a device's name, as in
``titan_rtx_32``, is its batch where it is one of HELP's (1, 32, 64, 256): the milliseconds are then of the
whole batch.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manynet.devices import DeviceName
from manynet.errors import first_line
from manynet.latency.published.files import described, licences_beside, read_file
from manynet.latency.published.latencies import (
    PublishedError,
    PublishedNet,
    PublishedSet,
    RowCollector,
    published_measurement,
)

_LATENCY = "latency_ms/"
_BATCH = re.compile(r"(?P<device>.+)_(?P<batch>1|32|64|256)")
# This phone's name ends like a batch.
_PHONE = "essential_ph_1"
# Errors of NumPy and zipfile for a damaged file or another format.
_UNREADABLE = (
    *(ValueError, OSError, EOFError, AttributeError, TypeError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)
_HARDWARE = "{}, as published by HELP (arXiv 2106.08630)"


def read_fbnet(address: str) -> PublishedSet:
    """Read the file of arrays.

    Keys are ``layer0.operator`` and so on; options are the file's own names. A device becomes
    ``<device>/fbnet``, or ``<device>/fbnet-batch32`` where its name gives a batch.

    Raises:
        PublishedError: for a file that is not of this format; it names what is missing or inconsistent.
        manynet.data.base.DataError: for a file that cannot be read.
    """
    name = PurePosixPath(address).name
    content = read_file(address)
    arrays = _arrays(content, name)
    names = [str(operator) for operator in arrays["ops"]]
    layers = [f"layer{layer}.operator" for layer in range(arrays["arch"].shape[1])]
    collector = _gathered(arrays, names, layers)
    return PublishedSet(
        name="fbnet",
        source=described(
            "latencies of FBNet's space as measured for HELP (arXiv 2106.08630)", {name: content}
        ),
        licence="MIT",
        licences=licences_beside(address),
        metric=None,
        choices={layer: names for layer in layers},
        devices=collector.devices(),
        nets=[PublishedNet(arch, {}, times, {}) for arch, times in collector.architectures()],
        left_out=collector.left_out,
        by_layer=True,
    )


def device_of(name: str) -> tuple[str, int]:
    """Manynet's name for one of HELP's devices, and its batch.

    Raises:
        PublishedError: for a name that holds more than letters, digits, ``_``, ``.`` and ``-``.
    """
    match = _BATCH.fullmatch(name)
    label, batch = (name, 1) if match is None or name == _PHONE else (match["device"], int(match["batch"]))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise PublishedError(f"devices must be named by letters, digits, '_', '.' and '-', but got {name!r}")
    device = f"{label}/fbnet" if label == name else f"{label}/fbnet-batch{batch}"
    return str(DeviceName.parse(device)), batch


def _gathered(arrays: Mapping[str, NDArray[Any]], names: list[str], layers: list[str]) -> RowCollector:
    architectures = [
        dict(zip(layers, (names[index] for index in row), strict=True)) for row in arrays["arch"].tolist()
    ]
    collector = RowCollector()
    for key, times in arrays.items():
        if not key.startswith(_LATENCY):
            continue
        label = key.removeprefix(_LATENCY)
        device, batch = device_of(label)
        hardware = _HARDWARE.format(label)
        for architecture, milliseconds in zip(architectures, times.astype(float).tolist(), strict=True):
            measured = published_measurement(
                device, hardware, "not published", "not published", milliseconds, batch
            )
            collector.add(architecture, measured)
    return collector


def _arrays(content: bytes, name: str) -> dict[str, NDArray[Any]]:
    rule = f"{name} must be an npz with the arrays arch, ops and {_LATENCY}<device>"
    try:
        # Without pickle a damaged or hostile file can hold arrays and nothing else.
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except _UNREADABLE as error:
        raise PublishedError(f"{rule}, but it is not: {first_line(error)}") from None
    for key in ("arch", "ops"):
        if key not in arrays:
            raise PublishedError(f"{rule}, but lacks {key!r}")
    if not any(key.startswith(_LATENCY) for key in arrays):
        raise PublishedError(f"{rule}, but lacks {_LATENCY + '<device>'!r}")
    _check(arrays, name)
    return arrays


def _check(arrays: Mapping[str, NDArray[Any]], name: str) -> None:
    arch, ops = arrays["arch"], arrays["ops"]
    if arch.ndim != 2 or not arch.size or arch.dtype.kind not in "iu":
        raise PublishedError(f"arch must be whole numbers (nets, layers), but {name} has {_form(arch)}")
    if ops.ndim != 1 or ops.dtype.kind != "U" or len(set(ops.tolist())) < len(ops):
        raise PublishedError(f"ops must be distinct texts (operators,), but {name} has {_form(ops)}")
    for key, times in arrays.items():
        if key.startswith(_LATENCY) and (times.shape != arch.shape[:1] or times.dtype.kind not in "fiu"):
            raise PublishedError(
                f"{key} must be numbers ({len(arch)},), one a net of arch, but is {_form(times)}"
            )
    wrong = np.argwhere((arch < 0) | (arch >= len(ops)))
    if len(wrong):
        net, layer = wrong[0].tolist()
        raise PublishedError(
            f"arch must hold 0 to {len(ops) - 1}, indices of ops, "
            f"but got {arch[net, layer]} at net {net}, layer {layer}"
        )


def _form(array: NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape}"
