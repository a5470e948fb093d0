"""Imports published latencies into a ledger and latency tables."""

from __future__ import annotations

from pathlib import Path

from manynet.latency.published.fbnet import read_fbnet
from manynet.latency.published.folder import Imported, check_folder, write_set
from manynet.latency.published.hat import read_hat
from manynet.latency.published.latencies import PublishedError, PublishedSet
from manynet.latency.published.timm import read_timm

__all__ = ["Imported", "PublishedError", "import_published"]

_SOURCES = "fbnet:PATH, hat:FOLDER or timm:FOLDER"


def import_published(source: str, folder: str | Path) -> Imported:
    """Convert a published set of latencies to a folder for ``manynet transfer``.

    The folder gets ``ledger/`` (a record an architecture), ``tables/<device>.json`` (for each device whose
    latency is exactly a sum over choices), the licence files beside the source, and, last,
    ``published.json``.

    Args:
        source: ``fbnet:PATH``, ``hat:FOLDER`` or ``timm:FOLDER``; the modules of these names document the formats.
        folder: output, new or empty; a local path or pyarrow address.

    Returns:
        A summary of imported and skipped rows.

    Raises:
        PublishedError: for another source, a file of another format, a device without any valid time, or a
            folder that is not empty.
        manynet.data.base.DataError: for a file that cannot be read.
    """
    check_folder(folder)
    published = _read(source)
    return write_set(published, folder)


def _read(source: str) -> PublishedSet:
    kind, _, address = source.partition(":")
    if address and kind == "fbnet":
        return read_fbnet(address)
    if address and kind == "hat":
        return read_hat(address)
    if address and kind == "timm":
        return read_timm(address)
    raise PublishedError(f"source must be {_SOURCES}, but got {source!r}")
