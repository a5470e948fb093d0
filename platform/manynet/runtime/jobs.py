"""An experiment as a job of a Ray cluster: what is shipped with it, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import aiohttp
import ray
import requests
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from manynet.config.experiment import Experiment
from manynet.errors import ManynetError
from manynet.runtime.modules import OURS, named
from manynet.runtime.ray_session import TOKEN, installed
from manynet.storage import absolute, locate

logger = logging.getLogger(__name__)

DASHBOARD = "http://127.0.0.1:8265"
"""Where jobs go when no address is given: Ray's default, on this machine."""
_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_POLL_SECONDS = 0.5
_QUIET_SECONDS = 10.0
"""A job that waits longer than this is told of."""


class JobError(ManynetError, RuntimeError):
    """A job cannot be submitted, was ended before it began, was stopped, or failed."""


def connect(address: str | None = None) -> JobSubmissionClient:
    """A client of the cluster whose dashboard is at ``address``, which has let it in.

    Args:
        address: ``http://host:port``; by default ``RAY_API_SERVER_ADDRESS``, ``RAY_ADDRESS`` or :data:`DASHBOARD`.

    Raises:
        JobError: nobody answers there, the token is missing or wrong, or the cluster runs another Ray.
    """
    _quiet()
    given = [address, *map(os.environ.get, _ADDRESSES), DASHBOARD]
    address = next(filter(None, given))
    # Ray would take the variable even where an address is given.
    os.environ[_ADDRESSES[0]] = address
    with _explained(address):
        client = JobSubmissionClient(address)
        there = client._do_request("GET", "/api/version").json()["ray_version"]
    if there != ray.__version__:
        raise JobError(
            f"the cluster must run the Ray that Manynet was made for, {ray.__version__}, "
            f"but the one at {address} runs {there}"
        )
    return client


def submit(
    client: JobSubmissionClient, experiment: Experiment, file: Path, changes: Sequence[str], cpus: float = 0
) -> str:
    """Submit ``manynet run`` of an experiment file; returns the job's id.

    The working directory is shipped, and the packages that :func:`runtime_env` names.

    Args:
        client: of the cluster.
        experiment: what the file holds with the changes made.
        file: the experiment file, in the working directory.
        changes: ``KEY=VALUE``.
        cpus: kept for the job's own process; with none it runs on the head.

    Raises:
        JobError: as :func:`connect`; the file is elsewhere, or what is shipped is too large.
    """
    try:
        inside = file.resolve().relative_to(Path.cwd())
    except ValueError:
        raise JobError(
            f"an experiment file must be in the working directory, which is shipped, but got {file}"
        ) from None
    # A key in an address is refused: a job's command is on the dashboard.
    locate(experiment.study)
    # A folder on this machine would be another one in the job, whose working directory is a copy.
    study = f"study={absolute(experiment.study)}"
    settings = [part for change in [*changes, study] for part in ("--set", change)]
    command = ["python", "-m", "manynet", "run", str(inside), *settings]
    with _explained(client.get_address()):
        return str(
            client.submit_job(
                entrypoint=shlex.join(command),
                runtime_env=runtime_env(experiment),
                entrypoint_num_cpus=cpus or None,
            )
        )


def runtime_env(experiment: Experiment) -> dict[str, Any]:
    """What makes this directory's modules, Manynet and all that an experiment names importable on every node.

    Manynet is always shipped: what runs there is what read the file here. So are its spaces and trainers, and any
    other module of the experiment (of its space, data, strategies, sampler or tools) that is neither in the working
    directory nor installed.
    """
    shipped = [str(path) for name in named(experiment) if (path := _shipped(name)) is not None]
    written = Path(absolute(experiment.study))
    here = written.is_relative_to(Path.cwd()) and written != Path.cwd()
    excludes = [f"/{written.relative_to(Path.cwd())}"] if here else []
    return {"working_dir": ".", "py_modules": shipped, "excludes": excludes}


def follow(client: JobSubmissionClient, job: str) -> None:
    """Print a job's log as it grows, until it ends well.

    Raises:
        JobError: in one line, when it ends otherwise, or the cluster is lost.
    """
    with _explained(client.get_address()):
        info = _begun(client, job)
        if info.status is not JobStatus.PENDING and not _ended_early(info):
            asyncio.run(_print_log(client, job))
        info = client.get_job_info(job)
    why = " ".join((info.message or "").split())
    if _ended_early(info):
        raise JobError(f"job {job} was ended before it began: {why}")
    if info.status is JobStatus.STOPPED:
        raise JobError(f"job {job} was stopped")
    if info.status is not JobStatus.SUCCEEDED:
        raise JobError(f"job {job} failed: {_last_error(info.message or '')}")


def _quiet() -> None:
    # They tell of every file that is left out and of every connection; a package that is too large is still told of.
    for name in (
        "_private.runtime_env.packaging",
        "dashboard.modules.dashboard_sdk",
        "dashboard.modules.job.sdk",
    ):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env.working_dir").setLevel(logging.ERROR)


def _begun(client: JobSubmissionClient, job: str) -> JobDetails:
    """Wait until a job runs or will not."""
    start, told = time.monotonic(), False
    while (info := client.get_job_info(job)).status is JobStatus.PENDING:
        if not told and time.monotonic() - start > _QUIET_SECONDS:
            logger.info("job %s waits: %s", job, info.message)
            told = True
        time.sleep(_POLL_SECONDS)
    return info


def _ended_early(info: JobDetails) -> bool:
    return info.status.is_terminal() and info.driver_node_id is None


async def _print_log(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def _last_error(message: str) -> str:
    """The line of a job's last log that says what went wrong."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(" ")[0]]
    return (errors or lines or ["it left no message"])[-1].removeprefix("Error: ")


def _shipped(name: str) -> Path | None:
    """Where a module is that nodes would not find; None for one in the working directory or of other makers."""
    spec = util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    path = Path(next(iter(spec.submodule_search_locations or [spec.origin]))).resolve()
    if path.parent == Path.cwd() or (name != OURS and installed(path)):
        return None
    return path


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """What a cluster's dashboard refuses, in one line that holds no secret."""
    try:
        yield
    except AuthenticationError as error:
        what = "needs a token" if "required" in str(error) else "refused the token"
        raise JobError(f"the cluster at {address} {what}: it must be given {TOKEN}") from None
    except (ConnectionError, requests.ConnectionError, aiohttp.ClientError):
        raise JobError(f"a cluster's dashboard must answer, but none does at {address}") from None
    except (RayError, RuntimeError, ValueError, requests.RequestException) as error:
        raise JobError(
            f"the cluster at {address} refused the job: {_first(str(error).splitlines())}"
        ) from None


def _first(lines: Iterable[str]) -> str:
    return next((line.strip() for line in lines if line.strip()), "it gave no reason")
