"""Checkpoints with a manifest: incomplete ones are ignored, damaged ones are reported.

A checkpoint is a folder ``<root>/<run>/<job>-step-<n>`` with the state and a manifest of its digest and
size. The manifest is written last: a folder without one is an interrupted write and is ignored. A file
that differs from its manifest was damaged later, which is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, cast

import pyarrow as pa
import torch
from pyarrow import fs

from manynet.learning.strategy import TrainingError
from manynet.storage import basename, exists, join, locate, open_output, read_json, write_bytes

MANIFEST = "manifest.json"
STATE = "state.pt"
KEPT = 2
"""Checkpoints of a job that stay: the newest, and one for the case that it is damaged."""
_CHUNK = 2**22


class CheckpointError(TrainingError):
    """A checkpoint on disk is damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """A written checkpoint.

    Attributes:
        folder: address of its folder.
        job: name of the training job.
        step: optimizer steps done.
        manifest: ``identity`` of the training, and ``sha256`` and ``bytes`` of the state; None if the
            manifest cannot be read.
    """

    folder: str
    job: str
    step: int
    manifest: dict[str, Any] | None

    def verify(self) -> None:
        """Check the state against the manifest; reads the whole file.

        Raises:
            CheckpointError: naming the damaged file and the remedy.
        """
        if self.manifest is None:
            raise self._damaged(MANIFEST, "it cannot be read")
        try:
            digest, size = _digest(join(self.folder, STATE))
        except FileNotFoundError:
            raise self._damaged(STATE, "it is missing") from None
        if size != self.manifest["bytes"]:
            raise self._damaged(STATE, f"it has {size} bytes of {self.manifest['bytes']}")
        if digest != self.manifest["sha256"]:
            raise self._damaged(STATE, "its sha256 differs")

    def load(self) -> dict[str, Any]:
        """Load the state to the CPU; only tensors and plain values are unpickled."""
        filesystem, path = locate(join(self.folder, STATE))
        with filesystem.open_input_file(path) as stream:
            return cast(dict[str, Any], torch.load(stream, map_location="cpu", weights_only=True))

    def _damaged(self, file: str, problem: str) -> CheckpointError:
        return CheckpointError(
            f"a checkpoint must be as it was written, but of {join(self.folder, file)} {problem}; "
            f"delete the folder {self.folder} to go on from the checkpoint before it"
        )


def save(folder: str, state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Write a checkpoint folder; it counts only once its manifest is written.

    Raises:
        StorageError: it cannot be written.
    """
    with open_output(join(folder, STATE)) as stream:
        hashed = _HashingStream(stream)
        try:
            torch.save(dict(state), cast(IO[bytes], hashed))
        except RuntimeError:
            # PyTorch reports that writing failed, not why.
            if hashed.error is not None:
                raise hashed.error from None
            raise
    manifest = {"identity": dict(identity), "sha256": hashed.digest.hexdigest(), "bytes": hashed.size}
    write_bytes(join(folder, MANIFEST), json.dumps(manifest, indent=1).encode())


def find(root: str, job: str | None = None) -> list[Checkpoint]:
    """All finished checkpoints under ``root`` (of one job), newest first."""
    checkpoints = [
        Checkpoint(join(run, name), name.rpartition("-step-")[0], int(name.rpartition("-step-")[2]), manifest)
        for run in _folders(root)
        for name, manifest in _manifests(run)
        if job is None or name.rpartition("-step-")[0] == job
    ]
    # Of two runs at the same step the later is the newer: run names sort by time.
    return sorted(checkpoints, key=lambda checkpoint: (checkpoint.step, checkpoint.folder), reverse=True)


def folder_name(job: str, step: int) -> str:
    """Name of a checkpoint's folder."""
    return f"{job}-step-{step:08d}"


def prune(root: str, keep: int) -> None:
    """Delete all runs' folders but the newest ``keep`` checkpoints of each job."""
    checkpoints = find(root)
    jobs = {c.job for c in checkpoints}
    kept = {c.folder for job in jobs for c in [c for c in checkpoints if c.job == job][:keep]}
    for run in _folders(root):
        folders = _folders(run)
        if kept.isdisjoint(folders):
            _delete(run)
            continue
        for folder in folders:
            if folder not in kept:
                _delete(folder)


class _HashingStream:
    def __init__(self, stream: pa.NativeFile) -> None:
        self.stream, self.digest, self.size = stream, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        try:
            self.stream.write(data)
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        self.stream.flush()


def _digest(address: str) -> tuple[str, int]:
    filesystem, path = locate(address)
    digest, size = hashlib.sha256(), 0
    with filesystem.open_input_stream(path) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _manifests(run: str) -> list[tuple[str, dict[str, Any] | None]]:
    manifests = []
    for folder in _folders(run):
        name = basename(folder)
        if name.rpartition("-step-")[2].isdecimal() and exists(join(folder, MANIFEST)):
            manifests.append((name, read_json(join(folder, MANIFEST))))
    return manifests


def _folders(address: str) -> list[str]:
    filesystem, path = locate(address)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(join(address, info.base_name) for info in infos if info.type == fs.FileType.Directory)


def _delete(address: str) -> None:
    filesystem, path = locate(address)
    filesystem.delete_dir(path)
