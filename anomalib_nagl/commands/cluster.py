"""Dask as the engine of jobs: workers on this machine or on those of a cluster, behind ``concurrent.futures``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

LOCAL = "local:"
HELP = "Dask scheduler (tcp://HOST:8786) whose workers do it, or local:N for N workers here"
_PATIENCE = 10  # seconds to reach a scheduler


class Cluster(NamedTuple):
    """Workers that a client talks to, and how many jobs they perform at once."""

    client: Any
    size: int

    @contextmanager
    def factory(self, at_once: int, setup: Callable[[], None] | None = None) -> Iterator[Executor]:
        """An executor for ``evaluation.executors.run_jobs``; ``setup`` is called once in every worker process.

        A job whose worker dies is given to another; an executor breaks after that happened several times to one job.
        """
        del at_once  # the scheduler knows how many it has
        inner = self.client.get_executor(pure=False)
        try:
            yield _Workers(inner, os.getcwd(), setup)
        finally:
            inner.shutdown(wait=False)


@contextmanager
def connected(scheduler: str) -> Iterator[Cluster]:
    """The workers of an address, or ``local:N``; ValueError where there are none, or Dask is not installed."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ValueError(
            f"found no {error.name or 'distributed'} here, expected Dask for --scheduler: pip install "
            "'anomalib-nagl[cluster]'"
        ) from error
    if scheduler.startswith(LOCAL):
        here = LocalCluster(
            n_workers=_count(scheduler), threads_per_worker=1, memory_limit=0, dashboard_address=None,
            silence_logs=50,  # a worker that dies is started again, and the job given to another
        )  # fmt: skip
        with here, Client(here) as client:
            yield Cluster(client, _count(scheduler))
        return
    try:
        client = Client(scheduler, timeout=_PATIENCE)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"found no Dask scheduler at {scheduler} ({' '.join(str(error).split())}), expected one that runs, or "
            "local:N: start one with `dask scheduler`"
        ) from error
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise ValueError(
                f"found a Dask scheduler without workers at {scheduler}, expected at least one: start `dask worker "
                f"{scheduler}`"
            )
        yield Cluster(client, threads)


def _count(scheduler: str) -> int:
    text = scheduler.removeprefix(LOCAL)
    if not text.isdigit() or not int(text):
        raise ValueError(f"found {scheduler!r}, expected local:N with a number of workers, such as local:2")
    return int(text)


class _Workers(Executor):
    """An executor of Dask whose lost workers are told as those of a pool of processes are."""

    def __init__(self, inner: Executor, folder: str, setup: Callable[[], None] | None) -> None:
        self._inner, self._folder, self._setup = inner, folder, setup

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand a job to the scheduler; BrokenExecutor where that is gone."""
        outer: Future[Any] = Future()
        try:
            inner = self._inner.submit(at_worker, self._folder, self._setup, fn, *args, **kwargs)
        except Exception as error:
            raise BrokenExecutor(str(error)) from error
        inner.add_done_callback(lambda done: _hand_on(done, outer))
        return outer


def _hand_on(done: Future[Any], outer: Future[Any]) -> None:
    if done.cancelled():
        outer.set_exception(BrokenExecutor("the scheduler is gone"))
        return
    error = done.exception()
    if error is None:
        outer.set_result(done.result())
    elif isinstance(error, CancelledError) or type(error).__name__ in ("KilledWorker", "CommClosedError"):
        outer.set_exception(BrokenExecutor(str(error)))
    else:
        outer.set_exception(error)


def at_worker(folder: str, setup: Callable[[], None] | None, work: Callable[..., Any], *arguments: Any) -> Any:
    """Perform a job in the folder of the command, where its relative paths lead; ValueError where there is none."""
    if os.getcwd() != folder:
        if not Path(folder).is_dir():
            raise ValueError(
                f"found no folder {folder} on a worker, expected that of the command on every machine: mount it there"
            )
        os.chdir(folder)
    if setup is not None:
        _once(setup)
    return work(*arguments)


@cache
def _once(setup: Callable[[], None]) -> None:
    setup()
