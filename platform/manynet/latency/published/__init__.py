"""Published latencies, imported: what others measured becomes a ledger and tables of latency."""

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
    """Turn a published set of latencies into a folder that ``manynet transfer`` reads.

    The folder gets ``ledger/`` (a record an architecture), ``tables/<device>.json`` (for each device whose
    latency is exactly a sum over choices), the licence files that lie beside the source, and, last,
    ``published.json``.

    Args:
        source: ``fbnet:PATH``, ``hat:FOLDER`` or ``timm:FOLDER``; modules of these names say what is there.
        folder: to write: new or empty; a local path or pyarrow address.

    Returns:
        What was imported, and what was left out.

    Raises:
        PublishedError: for another source, a file that is not of its format, a device without one good time,
            or a folder that holds something.
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
