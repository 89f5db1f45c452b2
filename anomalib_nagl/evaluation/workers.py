"""Jobs over several processes, each with a pipe of its own, so that one that dies takes nothing with it."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from anomalib_nagl.evaluation.settings import Settings

ITEM, END, ERROR = "item", "end", "error"


class Message(NamedTuple):
    """What came of a job: an ``item`` of its results, its ``end``, or an ``error`` with words."""

    job: Any
    kind: str
    content: Any


def run_jobs(settings: Settings, jobs: Sequence[Any]) -> Iterator[Message]:
    """Perform jobs (``units.perform``) over the processes of the settings; messages come as they happen."""
    if settings.processes == 1 or len(jobs) < 2:
        yield from _in_this_process(settings, jobs)
    else:
        yield from _spread(settings, list(jobs))


def _in_this_process(settings: Settings, jobs: Sequence[Any]) -> Iterator[Message]:
    from anomalib_nagl.evaluation.scoring import Bench
    from anomalib_nagl.evaluation.units import perform

    bench = Bench(settings) if jobs else None
    for job in jobs:
        try:
            for item in perform(bench, job):  # type: ignore[arg-type]
                yield Message(job, ITEM, item)
        except Exception as error:
            yield Message(job, ERROR, _words(error))
        else:
            yield Message(job, END, None)


def _spread(settings: Settings, jobs: list[Any]) -> Iterator[Message]:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    waiting, busy, processes = jobs[::-1], {}, []  # type: ignore[var-annotated]

    def start() -> Connection:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, settings), daemon=True)
        process.start()
        there.close()  # else its end would not be noticed
        processes.append(process)
        return here

    try:
        idle = [start() for _ in range(min(settings.processes, len(jobs)))]
        while waiting or busy:
            while idle and waiting:
                pipe, job = idle.pop(), waiting.pop()
                pipe.send(job)
                busy[pipe] = job
            for ready in wait(list(busy)):
                try:
                    kind, content = ready.recv()  # type: ignore[union-attr]
                except (EOFError, ConnectionError):
                    kind, content = ERROR, "its process was killed (out of memory?)"
                    idle.append(start())
                    yield Message(busy.pop(ready), kind, content)
                    continue
                yield Message(busy[ready], kind, content)
                if kind in (END, ERROR):
                    busy.pop(ready)
                    idle.append(ready)  # type: ignore[arg-type]
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _serve(pipe: Connection, settings: Settings) -> None:
    """Perform jobs from a pipe until its other end is closed."""
    import torch

    from anomalib_nagl.evaluation.scoring import Bench
    from anomalib_nagl.evaluation.units import perform

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the parent takes care
    torch.set_num_threads(1)
    bench = Bench(settings)
    with suppress(EOFError, ConnectionError):
        while True:
            job = pipe.recv()
            try:
                for item in perform(bench, job):
                    pipe.send((ITEM, item))
                pipe.send((END, None))
            except ConnectionError:
                raise
            except Exception as error:
                pipe.send((ERROR, _words(error)))


def _words(error: Exception) -> str:
    """An error and where it was raised, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
