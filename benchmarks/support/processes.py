"""Work in a fresh process, and a local Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

import ray

P = ParamSpec("P")
T = TypeVar("T")


def in_own_process(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """What a function of a module returns in a fresh process, with memory and a Ray of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments, **options).result()


@contextmanager
def local_ray(cpus: int) -> Iterator[None]:
    """A Ray of this machine alone, with so many CPUs and no dashboard; the one of this process where it has one."""
    if ray.is_initialized():
        yield
        return
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def in_this_process(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """The same for quick runs, in which starting a process would take longest."""
    return work(*arguments, **options)
