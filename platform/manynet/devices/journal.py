"""How the devices of a study are: a small JSON file in its folder, for people and for the next run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from manynet.storage import read_json, write_bytes


class Status(NamedTuple):
    """What one actor of a device did and how it is.

    Attributes:
        device: canonical name.
        actor: host, Ray node and process.
        node: id of the Ray node.
        fingerprint: hardware and software, one line.
        state: ``starting``, ``in service``, ``set aside``, ``lost`` or ``ended``.
        why: it is set aside or lost, or measures in spite of drift; else empty.
        measured: networks it measured.
        unsteady: how many of them had too wide a spread.
        refused: networks it could not measure.
        deaths: how often its process died.
        drift: of its reference when last measured, as a share.
    """

    device: str
    actor: str
    node: str
    fingerprint: str
    state: str
    why: str
    measured: int
    unsteady: int
    refused: int
    deaths: int
    drift: float

    @property
    def ended(self) -> Status:
        """The same, once its service is no more: what went wrong stays."""
        at_work = self.state in ("starting", "in service")
        return self._replace(state="ended") if at_work else self


class Journal(NamedTuple):
    """The file's content.

    Attributes:
        devices: one status an actor.
        references: milliseconds of the reference subnet when it was first measured, by device name.
    """

    devices: Sequence[Status] = ()
    references: Mapping[str, float] = {}

    @classmethod
    def read(cls, address: str) -> Journal:
        """What the file says; nothing where there is none.

        Raises:
            StorageError: it cannot be read.
        """
        content = read_json(address) or {}
        devices = [Status(**entry) for entry in content.get("devices", [])]
        return cls(devices, content.get("references", {}))

    def write(self, address: str) -> None:
        """Write the file whole, or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        devices = [status._asdict() for status in self.devices]
        content = {"references": dict(self.references), "devices": devices}
        write_bytes(address, json.dumps(content, indent=1).encode())
