"""What the exit status of a command says: one table for all commands, as docs/commands.md has it."""

from __future__ import annotations

DONE = 0
DEFECTIVE = 1  # done, and something is defective: only where that is asked for, with --exit-code
WRONG_CALL = 2  # nothing can be done, or done any further: a line on stderr says why
FAILED_ITEMS = 3  # done but for items that failed, each with its reason
UNEXPECTED = 70  # an error that nobody foresaw; EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # Ctrl-C, 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM

TRACEBACK = "ANOMALIB_NAGL_TRACEBACK"  # variable that shows where an unexpected error arose


def of_items(failed: int, defective: int = 0, tell_defective: bool = False) -> int:
    """Status of work on many items: failed ones count more than defective ones, of which it tells if asked to."""
    if failed:
        return FAILED_ITEMS
    return DEFECTIVE if tell_defective and defective else DONE
