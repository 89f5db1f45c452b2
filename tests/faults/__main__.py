"""``make faults``: the whole campaign; prints tried, answered, refused and wrong, and writes ``docs/faults.md``."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from faults import bits, catalogue
from faults.case import ANSWERED, REFUSED, WRONG, Case, Verdict, World, judge
from faults.page import write_page
from faults.world import build, in_room, world


def main() -> int:
    """Run every case, or those whose kind or name holds one of the words; 1 if one of them went wrong."""
    words = sys.argv[1:]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        made = Path(temporary) / "world"
        made.mkdir()
        with _silent():
            build(made)
            shared = in_room(world(made, made), Path(temporary) / "room")
            sizes = {target.kind: _size(target, shared) for target in bits.TARGETS}
        cases = [*catalogue.cases(), *bits.all_of_them(sizes)]
        chosen = [case for case in cases if not words or any(word in str(case) for word in words)]
        counts, wrong = run(chosen, shared)
    for case, verdict in wrong:
        print(f"wrong: {case}: expected {case.expected}: {verdict.words}")
    total = sum(counts.values(), Counter())
    tried, seconds = sum(total.values()), time.monotonic() - start
    outcomes = ", ".join(f"{outcome} {total[outcome]}" for outcome in (ANSWERED, REFUSED, WRONG))
    print(f"tried {tried}, {outcomes}, in {seconds / 60:.0f} minutes")
    if not words:
        write_page(counts, wrong, seconds)
    return int(bool(wrong))


def run(cases: Iterable[Case], shared: World) -> tuple[dict[str, Counter[str]], list[tuple[Case, Verdict]]]:
    """Judge cases; counts of outcomes by kind, and those that went wrong."""
    counts: dict[str, Counter[str]] = {}
    wrong = []
    for case in cases:
        with _silent():
            verdict = judge(case, in_room(shared, shared.room))
        counts.setdefault(case.kind, Counter())[verdict.outcome] += 1
        if verdict.outcome == WRONG:
            wrong.append((case, verdict))
            print(f"wrong: {case}: {verdict.words[:300]}", flush=True)
    return counts, wrong


@contextlib.contextmanager
def _silent() -> contextlib.AbstractContextManager[None]:  # type: ignore[misc]
    """What entry points print is not the campaign's."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        yield


def _size(target: bits.Target, shared: World) -> int:
    return target.place(replace(in_room(shared, shared.room))).stat().st_size


if __name__ == "__main__":
    sys.exit(main())
