"""Command that runs an experiment file on a cluster, as a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def submit(
    file: Annotated[
        Path,
        typer.Argument(help="Experiment file (YAML), in the working directory.", show_default=False),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one of the file's values; may be repeated."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="The cluster's dashboard, http://host:port. [default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or port 8265 here]",
        ),
    ] = None,
    cpus: Annotated[
        float, typer.Option(help="CPUs reserved for the job's own process; with 0 it runs on the head node.")
    ] = 0,
    wait: Annotated[bool, typer.Option(help="Print the job's log until it ends.")] = True,
    check: Annotated[
        bool, typer.Option("--check", help="Check the file, the address and the token, and submit nothing.")
    ] = False,
) -> None:
    """Run an experiment file on a cluster, as a Ray job.

    It ships the working directory, without files in `.gitignore`, and Manynet: a space of your own need only be a
    module here. `study` must be a folder or an address that all nodes reach. The token is read from Ray's
    variables: `RAY_AUTH_TOKEN_PATH` or `RAY_AUTH_TOKEN`, with `RAY_AUTH_MODE=token`.

    Example: `manynet submit study.yaml --address http://127.0.0.1:8265 --set study=s3://bucket/mine`
    """
    from manynet.config.experiment import read_experiment, variants
    from manynet.runtime import jobs

    experiment = read_experiment(file, changes or [])
    variants(experiment)
    client = jobs.connect(address)
    if check:
        return
    job = jobs.submit(client, experiment, file, changes or [], cpus)
    console = Console(stderr=True)
    console.print(f"job {job} is submitted to {client.get_address()}", soft_wrap=True, highlight=False)
    if not wait:
        console.print(f"`ray job logs --follow {job}` follows it", soft_wrap=True, highlight=False)
        return
    try:
        jobs.follow(client, job)
    except KeyboardInterrupt:
        console.print(f"job {job} goes on; `ray job stop {job}` ends it", soft_wrap=True, highlight=False)
        raise typer.Exit(130) from None
