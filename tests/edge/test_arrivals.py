"""Which files of a folder are whole."""

from __future__ import annotations

import os
from pathlib import Path

from anomalib_nagl.edge.arrivals import Arrivals


class Clock:
    """Both clocks, turned by the test."""

    def __init__(self) -> None:
        self.moment = 0.0

    def __call__(self) -> float:
        return self.moment

    def wall(self) -> float:
        return 1_000_000 + self.moment


def put(path: Path, content: str, clock: Clock, age: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (0, clock.wall() - age))


def names(arrivals: Arrivals) -> list[str]:
    return [one.path.name for one in arrivals.whole()]


def test_a_file_that_grows_waits_and_one_that_was_moved_in_does_not(tmp_path: Path) -> None:
    clock = Clock()
    arrivals = Arrivals(tmp_path, 2.0, clock=clock, wall=clock.wall)
    put(tmp_path / "growing.png", "a", clock)
    put(tmp_path / "moved.png", "b", clock, age=60)
    put(tmp_path / "text.txt", "c", clock, age=60)
    put(tmp_path / ".hidden.png", "d", clock, age=60)
    assert names(arrivals) == ["moved.png"]
    clock.moment = 1.9
    put(tmp_path / "growing.png", "ab", clock)
    assert names(arrivals) == ["moved.png"]
    clock.moment = 3.8
    assert names(arrivals) == ["moved.png"]
    clock.moment = 3.9
    assert names(arrivals) == ["moved.png", "growing.png"]
    put(tmp_path / "growing.png", "abc", clock)  # again
    assert names(arrivals) == ["moved.png"]


def test_a_clock_of_another_machine_does_not_matter(tmp_path: Path) -> None:
    clock = Clock()
    arrivals = Arrivals(tmp_path, 2.0, clock=clock, wall=clock.wall)
    put(tmp_path / "tomorrow.png", "a", clock, age=-86_400)
    assert names(arrivals) == []
    clock.moment = 2.0
    assert names(arrivals) == ["tomorrow.png"]


def test_folders_below_are_watched_but_those_of_results(tmp_path: Path) -> None:
    clock = Clock()
    put(tmp_path / "line 1/deep/a.png", "a", clock, age=60)
    put(tmp_path / "out/b.png", "b", clock, age=60)
    (tmp_path / "link.png").symlink_to(tmp_path / "line 1/deep/a.png")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    arrivals = Arrivals(tmp_path, 2.0, [tmp_path / "out"], clock, clock.wall)
    assert names(arrivals) == ["a.png"]
    assert [Path(path).name for path in arrivals.present] == ["a.png"]
