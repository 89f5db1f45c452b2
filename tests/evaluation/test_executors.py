"""Jobs through executors: results, errors in words, and processes that are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from anomalib_nagl.evaluation.executors import KILLED, InThisProcess, run_jobs

KILLERS = (3, 6)  # apart: one that dies takes the other down before it began


def square(job: int) -> int:
    if job == 7:
        raise ValueError("seven\nis odd")
    return job * job


def square_or_die(job: tuple[Path, int]) -> int:
    """Note that a job is performed; some kill their process."""
    folder, number = job
    with (folder / str(number)).open("a") as file:
        file.write("x")
    if number in KILLERS:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def pool(at_once: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(at_once, get_context("spawn"))


@pytest.mark.parametrize("factory", [lambda at_once: InThisProcess(), ThreadPoolExecutor, pool])
def test_any_executor_will_do(factory) -> None:
    outcomes = {outcome.job: outcome for outcome in run_jobs(square, range(9), factory, 3)}
    assert [outcomes[job].value for job in (0, 1, 2, 3, 4, 5, 6, 8)] == [0, 1, 4, 9, 16, 25, 36, 64]
    assert {job for job, outcome in outcomes.items() if outcome.error} == {7}
    assert outcomes[7].error.startswith("ValueError: seven\nis odd (square, line ")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on Windows")
def test_a_killed_process_costs_its_job_alone(tmp_path: Path) -> None:
    sizes = []

    @contextmanager
    def factory(at_once: int) -> Iterator[Executor]:
        sizes.append(at_once)
        with pool(at_once) as executor:
            yield executor

    jobs = [(tmp_path, number) for number in range(8)]
    outcomes = {outcome.job[1]: outcome for outcome in run_jobs(square_or_die, jobs, factory, 2)}
    assert {number: outcome.error for number, outcome in outcomes.items() if outcome.error} == dict.fromkeys(
        KILLERS, KILLED
    )
    assert all(outcome.value == number**2 for number, outcome in outcomes.items() if number not in KILLERS)
    assert all(len((tmp_path / str(number)).read_text()) >= 2 for number in KILLERS)  # each had a second chance
    assert sizes[0] == 2
    assert 1 in sizes


def test_nobody_is_left_when_the_reader_stops() -> None:
    from anomalib_nagl.evaluation.executors import local

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    outcomes = run_jobs(square, range(100), local(2, Path(os.devnull)), 2)
    assert next(outcomes).error is None
    outcomes.close()
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert not [child for child in left if "spawn_main" in " ".join(child.cmdline())]
