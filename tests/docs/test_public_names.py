"""What others build on: public names, their signatures and our commands' options change on purpose only."""

from __future__ import annotations

from support.public_names import SNAPSHOT, text


def test_public_names_are_those_of_the_snapshot() -> None:
    """To change one: ``PYTHONPATH=tests python -m support.public_names``, and say so in the changelog."""
    assert text().splitlines() == SNAPSHOT.read_text(encoding="utf-8").splitlines()
