"""``docs/faults.md``: the numbers of the last run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from support.places import ROOT

from faults import bits
from faults.case import ANSWERED, REFUSED, WRONG, Case, Verdict

HEAD = """# Faults

A campaign of bad and hostile inputs stands in `tests/faults`: files, arrays, banks, manifests, folders, heads,
checkpoints, turned bits, kills, full disks and interrupts, as rows of an input, an entry point and what is expected.
Each has to end in an *answer* that is defined, or in a *refusal*: one sentence that says what was found and expected,
with status 2 or 3 and no traceback from a command. All else is *wrong*: a foreign exception, a program that hangs, an
answer that changed without a word.

`make faults` runs all of it; a sample of {quick} cases, always the same, is part of `make test`.
"""
TAIL = """
The last run, of {date}, took {minutes} minutes. Of the bits of a file, one of so many was turned: {every}.
Where nothing in a file is checked against a sum (heads, checkpoints, cells), another answer counts as one: it
cannot be told.
"""


def write_page(counts: Mapping[str, Counter[str]], wrong: Sequence[tuple[Case, Verdict]], seconds: float) -> None:
    """Write the page anew."""
    from faults import catalogue

    quick = sum(case.quick for case in catalogue.cases()) + sum(target.sample for target in bits.TARGETS)
    columns = (ANSWERED, REFUSED, WRONG)
    total = sum(counts.values(), Counter())
    rows = [*sorted(counts.items()), ("all", total)]
    lines = [f"| {kind} | {sum(n.values())} | {' | '.join(str(n[column]) for column in columns)} |" for kind, n in rows]
    table = "\n".join(["| kind | tried | answered | refused | wrong |", "|---|---|---|---|---|", *lines])
    every = ", ".join(f"{target.kind.removeprefix('bits of ')} {target.every}" for target in bits.TARGETS)
    text = HEAD.format(quick=quick) + "\n" + table + "\n"
    text += TAIL.format(date=time.strftime("%Y-%m-%d"), minutes=max(1, round(seconds / 60)), every=every)
    if wrong:
        text += "\nStill wrong:\n\n" + "".join(f"- {case}\n" for case, _ in wrong)
    (ROOT / "docs/faults.md").write_text(text)
