"""From `ray job submit` to the first evaluated candidate, on a warm local head, supernet trained already; and its parts.

A head with token authentication is started. A first job trains the supernet, so the head has what goes with a job;
a second one searches it. Every part is between two moments that somebody noted: Ray's records of jobs and tasks, the
start of the driver's process, and the ledger. There are no bars.

    python benchmarks/time_to_first_candidate.py [--repeats 1]

A quick run has one job, which trains and searches.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from support.frame import Option, run, show

ROOT = Path(__file__).parent.parent
RAY = Path(sys.executable).parent / "ray"
OPTIONS = (
    Option("--repeats", 1),
    Option("--steps", 20, "of training", quick=1),
    Option("--evaluations", 4, quick=1),
    Option("--evaluators", 2, quick=1),
)
PARTS = {
    "submitted": "`ray job submit`: its imports, the check of what is uploaded",
    "driver": "Ray starts the job's process",
    "asked": "the process imports, checks the study, joins the cluster",
    "answered": "every node is asked",
    "measuring": "devices are opened",
    "evaluators": "weights are read, evaluators start",
    "evaluated": "the first evaluation, its latency measured",
}


@contextmanager
def head(folder: Path) -> Iterator[str]:
    """The dashboard's address of a local head that lets in who has the token."""
    (folder / "token").write_text(secrets.token_hex(32))
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"}
    sockets = [socket.socket() for _ in range(6)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    names: tuple[str, ...] = ("port", "dashboard-port", "ray-client-server-port")
    names += ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
    options = [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    command = [str(RAY), "start", "--head", "--block", "--num-cpus=4", f"--temp-dir={folder}/t", *options]
    with (folder / "head.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        while "block forever" not in (folder / "head.log").read_text():
            assert process.poll() is None, (folder / "head.log").read_text()
            time.sleep(0.2)
        try:
            os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{ports[1]}"
            yield os.environ["RAY_API_SERVER_ADDRESS"]
        finally:
            process.terminate()


def submit(folder: Path, file: str, job: str) -> subprocess.Popen[bytes]:
    """Start `ray job submit` of an experiment file."""
    modules = {"py_modules": [str(ROOT / "platform/manynet")]}
    shipped = ["--working-dir", str(folder), "--runtime-env-json", json.dumps(modules)]
    command = [
        str(RAY),
        "job",
        "submit",
        "--submission-id",
        job,
        *shipped,
        "--",
        "python",
        "-m",
        "manynet",
        "run",
        file,
    ]
    with (folder.parent / f"{job}.log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def process_start(pid: int) -> float:
    """When a process of this machine started, in seconds since 1970 (Linux)."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    up = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - (up - ticks / os.sysconf("SC_CLK_TCK"))


def moments(address: str, folder: Path, study: Path, job: str) -> dict[str, float]:
    """When a submission began and when each of its parts ended, in seconds since 1970."""
    # Not above: Ray reads its environment, with the token, when it is imported.
    from ray.job_submission import JobSubmissionClient
    from ray.util.state import list_tasks

    from manynet.records.ledger import Ledger

    began = time.time()
    submitting, client, driver = submit(folder, "search.yaml", job), JobSubmissionClient(address), None
    while driver is None:
        assert submitting.poll() is None, (folder.parent / f"{job}.log").read_text()
        time.sleep(0.1)
        driver = next((one.driver_info for one in client.list_jobs() if one.submission_id == job), None)
    started = process_start(int(driver.pid))
    assert submitting.wait() == 0, (folder.parent / f"{job}.log").read_text()
    tasks: list[Any] = list_tasks(address, filters=[("job_id", "=", driver.id)], limit=10_000, detail=True)
    asked = min((task for task in tasks if task.name == "answer"), key=lambda task: task.creation_time_ms)
    records = [record for record in Ledger(study / "ledger").read() if record.kind == "evaluation"]
    submitted = client.get_job_info(job).start_time
    assert submitted is not None
    return {
        "began": began,
        "submitted": submitted / 1e3,
        "driver": started,
        "asked": asked.creation_time_ms / 1e3,
        "answered": asked.end_time_ms / 1e3,
        "measuring": min(task.end_time_ms for task in tasks if task.name.endswith(".describe")) / 1e3,
        "evaluators": min(task.end_time_ms for task in tasks if task.name.endswith(".__ray_ready__")) / 1e3,
        "evaluated": min(datetime.fromisoformat(record.created).timestamp() for record in records),
    }


def measure(address: str, folder: Path, number: int, given: Namespace) -> dict[str, float]:
    """Seconds that each part took: of a study that is trained, then searched."""
    study = folder.parent / f"study{number}"
    experiment: dict[str, object] = {
        "study": str(study),
        "space": "search_spaces.vit:tiny",
        "data": "digits",
        "train": {"steps": given.steps, "workers": 0, "evaluate_every": given.steps},
    }
    search = {"evaluations": given.evaluations, "evaluators": given.evaluators}
    for file, content in {"train": experiment, "search": {**experiment, "search": search}}.items():
        (folder / f"{file}.yaml").write_text(yaml.safe_dump(content))
    if not given.quick:
        assert submit(folder, "train.yaml", f"train{number}").wait() == 0, "training must succeed"
    found = list(moments(address, folder, study, f"search{number}").values())
    return {name: end - start for name, (start, end) in zip(PARTS, pairwise(found), strict=True)}


def main(given: Namespace) -> dict[str, float]:
    """Submit, and read the moments."""
    # Short: the names of sockets are in it.
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as temporary, head(Path(temporary)) as address:
        (folder := Path(temporary) / "own").mkdir()
        runs = [measure(address, folder, number, given) for number in range(given.repeats)]
    figures = {f"{name}_s": statistics.median(one[name] for one in runs) for name in PARTS}
    figures["first_candidate_s"] = statistics.median(sum(one.values()) for one in runs)
    rows = [(what, f"{figures[f'{name}_s']:.1f}") for name, what in PARTS.items()]
    whole = ("all", f"{figures['first_candidate_s']:.1f}")
    show("From `ray job submit` to the first candidate", ("part", "s"), [*rows, None, whole])
    return figures


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS)
