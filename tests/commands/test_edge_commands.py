"""The edge commands, and the edge package in a process that has no torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.commands import nagl
from support.environments import ROOT
from support.exported import defect_mask, picture, pixels

from anomalib_nagl.edge import NaglEdge
from anomalib_nagl.io import image_files
from anomalib_nagl.io.panel import SIDE

BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "anomalib", "lightning", "pandas", "skimage"}:
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Block())
"""


def run_blocked(code: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program on a machine that looks as if it had no torch."""
    command = [sys.executable, "-c", BLOCKED + code, *map(str, arguments)]
    path = {"PYTHONPATH": str(ROOT), "ANOMALIB_NAGL_AUTOLOAD": "0"}
    done = subprocess.run(command, cwd=cwd, env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_box_needs_numpy_and_openvino_only(box: Path, tmp_path: Path) -> None:
    code = """
from importlib.abc import MetaPathFinder
import numpy as np
sys.meta_path.insert(0, type("NoPillow", (), {"find_spec": lambda s, n, p=None, t=None:
    (_ for _ in ()).throw(ImportError(n)) if n.partition(".")[0] in ("PIL", "rich", "safetensors") else None})())
from anomalib_nagl.edge import NaglEdge
detector = NaglEdge(sys.argv[1])
image = np.random.default_rng(0).integers(0, 255, (90, 80, 3), dtype=np.uint8)
before = detector.predict(image).map
mask = np.zeros((90, 80)); mask[20:50, 20:50] = 1
detector.add_abnormal(image, mask, name="new")
detector.save("pack.safetensors")
changed = abs(before - detector.predict(image).map).max() > 1e-3
print(changed, [m for m in ("torch", "PIL", "anomalib") if m in sys.modules])
"""
    assert run_blocked(code, box, cwd=tmp_path).stdout.split("\n")[0] == "True []"


def test_commands_without_torch(box: Path, tmp_path: Path) -> None:
    """A missed defect is added by a command; the next prediction has it."""
    folder = tmp_path / "new"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(pixels(picture((120, 100), 71 + i, True))).save(folder / f"{i}.png")
    mask = defect_mask((120, 100), 71).numpy()
    Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    command = "import anomalib_nagl.cli as c; sys.argv[0] = 'anomalib-nagl'; c.main()"
    run_blocked(command, "edge", "predict", box, folder, "--out", "before", cwd=tmp_path)
    arguments = ("--image", folder / "0.png", "--mask", "mask.png", "--name", "scratch")
    run_blocked(command, "edge", "add-defect", box, *arguments, cwd=tmp_path)
    run_blocked(command, "edge", "predict", box, folder / "0.png", folder, "--out", "after", cwd=tmp_path)
    before, after = (
        pd.read_csv(tmp_path / name / "predictions.csv")["score"].to_numpy() for name in ("before", "after")
    )
    assert len(before) == 3
    assert len(after) == 4
    assert np.abs(before - after[1:]).max() > 1e-4
    overlays = sorted(path.name for path in (tmp_path / "after").glob("*.png"))
    assert overlays == ["0.png", "0_2.png", "1.png", "2.png"]
    assert Image.open(tmp_path / "after/1.png").height > SIDE


@pytest.mark.parametrize("requests", [1, 3])
def test_every_image_is_decoded_once(requests: int, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are computed at once, each overlay shows its own image."""
    decoded: list[str] = []
    decode = image_files.decode_image
    monkeypatch.setattr(image_files, "decode_image", lambda path: decoded.append(Path(path).name) or decode(path))
    (parts := tmp_path / "parts").mkdir()
    for i in range(7):
        Image.fromarray(np.full((60, 50, 3), 30 * i, np.uint8)).save(parts / f"{i}.png")
    assert nagl("edge", "predict", box, parts, "--out", tmp_path / "out", "--requests", requests) == 0
    assert decoded == [f"{i}.png" for i in range(7)]
    for i in range(7):
        drawn = np.asarray(Image.open(tmp_path / f"out/{i}.png"))
        assert (drawn == 30 * i).all(axis=2).mean() > 0.1  # the panel of the image itself


def test_commands_report_bad_input(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nagl("edge", "list", box) == 0
    assert "abnormal 0" in capsys.readouterr().out
    (empty := tmp_path / "empty").mkdir()
    (broken := tmp_path / "broken.xml").write_text("<net>")
    out = ("--out", tmp_path / "x")
    for arguments, message in (
        (["predict", box, tmp_path / "no.png", *out], "found nothing at"),
        (["predict", box, empty, *out], "found no images in"),
        (["predict", tmp_path / "no.xml", box, *out], "found nothing at .*no.xml, expected the model.xml"),
        (["predict", box, box, "--out", box], "found a file at .*model.xml, expected a folder"),
        (["predict", box, *out], "required: IMAGES"),
        (["predict", box, empty, "--ot", "x"], "no option '--ot', expected one of --help, --out, .*mean '--out'"),
        (["predict", box, empty, "--requests=many", *out], "invalid int value: 'many'"),
        (["predict", box, empty, "--precision", "f8", *out], "invalid choice: 'f8'"),
        (["predct", box, empty], "no command 'predct', expected one of predict, .*mean 'predict'"),
        ([], "found no command, expected one of predict, watch, merge, diff, list"),
        (["list", box, "more"], "found more, expected no more arguments"),
        (["remove", box, "--name", "nobody"], "no reference named"),
        (["add-defect", box, "--image", box, "--name", "n"], "cannot be read as an image"),
        (["list", tmp_path], "found a folder at"),
        (["list", box.with_suffix(".bin")], "found another file at .*model.bin"),
        (["list", broken], "found no broken.json"),
    ):
        assert nagl("edge", *arguments) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(f"anomalib-nagl edge: .*{message}.*\n", error), error
    assert not (tmp_path / "x/predictions.csv").exists()
    assert nagl("edge", "predict", box, box, *out) == 3
    assert re.search("^anomalib-nagl edge: 1 of 1 images failed.*cannot be read as an image", capsys.readouterr().err)
    assert nagl("edge", "remove", str(box), "--name", "abnormal 0") == 0
    assert len(NaglEdge(box).references) == 1
