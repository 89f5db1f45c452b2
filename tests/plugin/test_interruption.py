"""What an interrupted training says; tests/faults interrupts a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_nagl.plugin.interruption import resume_hint


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        (["/bin/anomalib", "train", "--config", "a b.yaml"], "anomalib train --config 'a b.yaml' --ckpt_path LAST"),
        (
            ["cli.py", "train", "--ckpt_path", "old.ckpt", "--seed", "1"],
            "anomalib-nagl train --seed 1 --ckpt_path LAST",
        ),
        (["anomalib", "train", "--ckpt_path=old.ckpt"], "anomalib train --ckpt_path LAST"),
        (["my_program.py"], "fit(..., ckpt_path='LAST')"),
        ([], "fit(..., ckpt_path='LAST')"),
    ],
)
def test_the_line_goes_on_from_the_last_epoch(called: list[str], expected: str, tmp_path: Path) -> None:
    assert "begins anew" in resume_hint(tmp_path, called)
    last = tmp_path / "last.ckpt"
    last.touch()
    assert expected.replace("LAST", str(last)) in resume_hint(tmp_path, called)
