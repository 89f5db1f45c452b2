"""Jobs through any ``concurrent.futures.Executor``; one that is killed takes no other with it.

A factory gets the number of jobs to perform at a time and returns an executor as a context. ``local`` is the one that
an evaluation uses unless ``evaluate`` is handed another, such as one of a cluster whose machines share the folder.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

Job = TypeVar("Job")
Factory = Callable[[int], AbstractContextManager[Executor]]
KILLED = "its process was killed (out of memory?)"
# Loggers that would say the same for every job, and the least that they may say.
_NOISY = {
    "lightning.pytorch": logging.WARNING,
    "lightning.fabric": logging.WARNING,
    "lightning_fabric": logging.WARNING,
    "anomalib": logging.WARNING,
    "timm": logging.ERROR,
    "anomalib_nagl": logging.WARNING,
    "anomalib_nagl.plugin.reference_adapter": logging.ERROR,  # that a head is untrained, of those never asked
}


class Outcome(NamedTuple, Generic[Job]):
    """What came of a job: the value that it returned, or an error in words."""

    job: Job
    value: Any
    error: str | None = None


def run_jobs(work: Callable[[Job], Any], jobs: Iterable[Job], factory: Factory, at_once: int) -> Iterator[Outcome[Job]]:
    """Perform jobs, so many at a time, and tell of each as it ends.

    When a process is killed, its executor is lost. The jobs that were under way are performed again, each alone in a
    new executor; the one whose process is killed then too has failed.
    """
    waiting = _Waiting(jobs)
    while waiting:
        for job in (yield from _perform(work, waiting, factory, at_once)):
            alone = _Waiting([job])
            if (yield from _perform(work, alone, factory, 1)) or alone:
                yield Outcome(job, None, KILLED)


class _Waiting(Generic[Job]):
    """Jobs in order, of which only the ``first`` is known before it is taken."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._rest = iter(jobs)
        self.first: list[Job] = []
        self.take()

    def __bool__(self) -> bool:
        return bool(self.first)

    def take(self) -> None:
        """Go on to the next."""
        self.first = list(islice(self._rest, 1))


def _perform(
    work: Callable[[Job], Any], waiting: _Waiting[Job], factory: Factory, at_once: int
) -> Generator[Outcome[Job], None, list[Job]]:
    """Perform jobs until none waits; returns those under way when a process was killed, the others still wait."""
    running: dict[Future[tuple[Any, str | None]], Job] = {}
    with factory(at_once) as executor:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running[executor.submit(_attempt, work, waiting.first[0])] = waiting.first[0]
                    waiting.take()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    outcome = Outcome(running[future], *future.result())
                    del running[future]
                    yield outcome
        except BrokenExecutor:
            return list(running.values())
    return []


def _attempt(work: Callable[[Job], Any], job: Job) -> tuple[Any, str | None]:
    try:
        return work(job), None
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return None, f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"


class InThisProcess(Executor):
    """Performs each job when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Perform a job; what it raises is raised here."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def local(processes: int, log: Path) -> Factory:
    """Processes on this machine, which log into a file; one is this process itself."""

    @contextmanager
    def factory(at_once: int) -> Iterator[Executor]:
        if processes == 1:
            quiet()
            yield InThisProcess()
            return
        before = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(min(at_once, processes), context, _start, (log,)) as executor:
            try:
                yield executor
            except BaseException:  # interrupted: nobody waits for what is under way
                for process in set(multiprocessing.active_children()) - before:
                    process.terminate()
                raise

    return factory


def _start(log: Path) -> None:
    """Prepare a process for jobs, and let it end with the one that started it."""
    with log.open("a", encoding="utf-8") as file:  # the terminal shows the parent's progress
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare()


def prepare() -> None:
    """Prepare a process for jobs, of which others perform more at the same time."""
    import torch

    quiet()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # the pipe of a pool stays open when its owner is killed: without this it would be waited for ever


def quiet() -> None:
    """Leave the terminal to the progress of the evaluation."""
    import anomalib.engine  # noqa: F401  # Lightning sets its own level when it is imported

    for name, level in _NOISY.items():
        logging.getLogger(name).setLevel(level)
