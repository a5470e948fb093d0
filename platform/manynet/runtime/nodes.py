"""Checks the packages and the storage access of all cluster nodes before a study starts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from manynet.errors import ManynetError
from manynet.storage import is_uri, join, locate, write_bytes

PACKAGES = ("ray", "torch", "numpy", "optuna", "pyarrow", "manynet")
"""Packages that evaluators, training workers and devices need. Devices check for their tools themselves."""
SECONDS = 120.0
"""Default timeout: a node may first have to unpack a job's files and start a process."""


class NodesError(ManynetError, RuntimeError):
    """A node lacks a package, has another version of one, does not reach the study's folder, or does not answer."""


class Node(NamedTuple):
    """A node of the cluster."""

    id: str
    host: str

    @property
    def name(self) -> str:
        """Name for messages; several nodes may be on one host."""
        return f"{self.host}/{self.id[:8]}"


class Answer(TypedDict):
    """A process' report: plain values, since the sender may not have manynet installed."""

    versions: dict[str, str]
    read: str
    failure: str


def check(folder: str, seconds: float = SECONDS) -> None:
    """Check the versions of all nodes of the connected cluster, and that they can read a file in ``folder``.

    Nodes that join later are not checked.

    Args:
        folder: of the study.
        seconds: timeout of the nodes' answers.

    Raises:
        NodesError: in one line that names the node, and compares it with this one.
        StorageError: the folder cannot be written from here.
    """
    # Its content tells this folder from one of the same name on another machine.
    address, content = join(folder, f"reached-{uuid.uuid4().hex[:8]}"), uuid.uuid4().hex
    write_bytes(address, content.encode())
    try:
        question = _question(PACKAGES, address if is_uri(address) else Path(address).as_uri())
        here, deadline = question(), time.monotonic() + seconds
        for node, answer in [(node, _ask(question, node)) for node in _alive_nodes()]:
            _compare(node.name, _wait_for(node, answer, deadline, seconds), here, content, folder)
    finally:
        filesystem, path = locate(address)
        filesystem.delete_file(path)


def _question(packages: Sequence[str], uri: str) -> Callable[[], Answer]:
    """Function that every node and this process run."""

    # Nested, so that it is pickled by value: a node may not have manynet to import it from.
    def answer() -> Answer:
        import hashlib
        import platform
        from importlib import metadata, util
        from pathlib import Path

        def version(package: str) -> str:
            spec = util.find_spec(package)
            if spec is None:
                return "none"
            if package == "manynet":
                # Its version is not enough: sources shipped with a job have none.
                root, digest = Path(next(iter(spec.submodule_search_locations or []))), hashlib.sha256()
                for file in sorted(root.rglob("*.py")):
                    digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
                return f"sources {digest.hexdigest()[:8]}"
            try:
                # Builds for other processors are the same version: 2.13.0+cpu is 2.13.0.
                return metadata.version(package).partition("+")[0]
            except metadata.PackageNotFoundError:
                return "an unknown version"

        versions = {"Python": platform.python_version().rpartition(".")[0]}
        versions |= {package: version(package) for package in packages}
        read = failure = ""
        try:
            from pyarrow.fs import FileSystem

            filesystem, path = FileSystem.from_uri(uri)
            with filesystem.open_input_file(path) as stream:
                read = stream.read().decode()
        except Exception as error:  # noqa: BLE001 - any error is reported
            failure = f"{type(error).__name__}: {error}"
        return {"versions": versions, "read": read, "failure": failure}

    return answer


def _ask(question: Callable[[], Answer], node: Node) -> ray.ObjectRef[Answer]:
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    answer: ray.ObjectRef[Answer] = (
        ray.remote(num_cpus=0, max_retries=0)(question).options(scheduling_strategy=strategy).remote()
    )
    return answer


def _wait_for(node: Node, answer: ray.ObjectRef[Answer], deadline: float, seconds: float) -> Answer:
    try:
        return ray.get(answer, timeout=max(0.0, deadline - time.monotonic()))
    except GetTimeoutError:
        raise NodesError(
            f"every node must answer within {seconds:g} s, but node {node.name} did not: "
            f"it is overloaded, or its processes cannot start"
        ) from None
    except RayError as error:
        reason = type(error).__name__ if node in _alive_nodes() else "it died"
        raise NodesError(f"every node must answer, but node {node.name} did not: {reason}") from None


def _compare(name: str, there: Answer, here: Answer, content: str, folder: str) -> None:
    for package, version in here["versions"].items():
        got = there["versions"][package]
        if got == "none":
            raise NodesError(
                f"every node must have {package} ({version} here), but node {name} lacks it: install it there, "
                f"or ship it with the job"
            )
        if got != version:
            raise NodesError(
                f"every node must have the same {package} ({version} here), but node {name} has {got}"
            )
    if there["read"] != content:
        raise NodesError(
            f"every node must reach the study's folder {folder}, but node {name} does not: use a shared path "
            f"or an object store ({there['failure'] or 'another file is there'})"
        )


def _alive_nodes() -> list[Node]:
    return [Node(node["NodeID"], node["NodeManagerHostname"]) for node in ray.nodes() if node["Alive"]]
