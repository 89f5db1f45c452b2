"""Jobs over several processes, each with a pipe of its own, so that one that dies takes nothing with it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, cast

from anomalib_nagl.evaluation.settings import Settings

ITEM, END, ERROR = "item", "end", "error"
LOG = "log.txt"
# Loggers that would say the same for every head and unit, and the least that they may say.
_NOISY = {
    "lightning.pytorch": logging.WARNING,
    "lightning.fabric": logging.WARNING,
    "lightning_fabric": logging.WARNING,
    "anomalib": logging.WARNING,
    "timm": logging.ERROR,
    "anomalib_nagl": logging.WARNING,
    "anomalib_nagl.plugin.reference_adapter": logging.ERROR,  # the naive rule has no head that could be trained
}


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

    quiet()
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
    waiting, processes = jobs[::-1], []
    busy: dict[Connection, Any] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < settings.processes:
                process, pipe = _start(settings)
                processes.append(process)
                pipe.send(waiting[-1])
                busy[pipe] = waiting.pop()
            for ready in cast(list[Connection], wait(list(busy))):
                try:
                    kind, content = ready.recv()
                except (EOFError, ConnectionError):
                    yield Message(busy.pop(ready), ERROR, "its process was killed (out of memory?)")
                    continue  # another one is started above
                yield Message(busy[ready], kind, content)
                if kind == ITEM:
                    continue
                del busy[ready]
                with suppress(ConnectionError):  # it died just now: another one gets the job
                    if waiting:
                        ready.send(waiting[-1])
                        busy[ready] = waiting.pop()
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _start(settings: Settings) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, settings), daemon=True)
    process.start()
    there.close()  # else nobody would notice that its other copy was closed
    return process, here


def _serve(pipe: Connection, settings: Settings) -> None:
    """Perform jobs from a pipe until its other end is closed."""
    import torch

    from anomalib_nagl.evaluation.scoring import Bench
    from anomalib_nagl.evaluation.units import perform

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the parent takes care
    with (Path(settings.out) / LOG).open("a", encoding="utf-8") as log:  # the terminal shows the parent's progress
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    quiet()
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


def quiet() -> None:
    """Leave the terminal to the progress of the evaluation."""
    import anomalib.engine  # noqa: F401  # Lightning sets its own level when it is imported

    for name, level in _NOISY.items():
        logging.getLogger(name).setLevel(level)


def _words(error: Exception) -> str:
    """An error and where it was raised, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
