"""Command that measures a latency table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from torch import Tensor, nn

CHECKED = 10


def table(
    space: Annotated[
        str, typer.Argument(help="Space, `module:name` or `script.py:name`.", show_default=False)
    ],
    file: Annotated[
        str, typer.Argument(help="JSON file to write, or its filesystem address.", show_default=False)
    ],
    device: Annotated[str, typer.Option(help="Device, as `manynet devices` lists them.")] = "host/torch",
    points: Annotated[
        int,
        typer.Option(
            min=2, help="Operations to measure of each family (those that differ in free sizes alone)."
        ),
    ] = 16,
    subnets: Annotated[int, typer.Option(min=0, help="Whole subnets to fit the sums to.")] = 20,
    data: Annotated[
        str, typer.Option(help="Data set that gives the space's features, for click-through models.")
    ] = "",
) -> None:
    """Measure a latency table: milliseconds of a space's operations on a device, at batch 1.

    The latency of an architecture is then a sum, looked up in a few milliseconds. Tools that convert each operation
    first take a second or more for each. At the end, ten further subnets are measured as a whole and compared with
    their sums.

    Example: `manynet table search_spaces.vit:tiny laptop.json --device "host/torch?threads=2"`
    """
    from manynet.devices import DevicePool
    from manynet.latency.table_fit import agreement
    from manynet.latency.table_timing import device_name, measure_subnets, measure_table
    from manynet.references import load_one
    from manynet.runtime.ray_session import connect
    from manynet.space.fitting import fit_together
    from manynet.space.search_space import SearchSpace
    from manynet.storage import locate
    from manynet.telemetry.progress_bar import logged_bar

    name = device_name(device)
    locate(file)
    loaded = load_one(SearchSpace, space)
    if data:
        loaded, _ = fit_together(loaded, data)
    connect([device])
    with DevicePool([device]) as pool:
        description = pool.descriptions[name]

        def measure(network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
            return pool.measure(network, inputs)[name].milliseconds

        with logged_bar("measure") as progress:
            tool = f"version {description.tool_version} on {description.fingerprint}"
            latency_table = measure_table(
                loaded, measure, name, tool, points=points, subnets=subnets, progress=progress
            )
        latency_table.write(file)
        with logged_bar("check") as progress:
            whole_subnets = measure_subnets(loaded, measure, range(subnets, subnets + CHECKED), progress)
    count = (
        f"{len(latency_table.measured)} operations measured, {len(latency_table.interpolated)} interpolated"
    )
    Console().print(f"{file}: {count}", markup=False, highlight=False, soft_wrap=True)
    Console().print(
        f"sums: {agreement(latency_table, loaded, whole_subnets)}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
