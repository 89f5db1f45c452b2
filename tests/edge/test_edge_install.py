"""What a box installs and runs: the distribution without torch, and the two examples of thirty lines."""

from __future__ import annotations

import runpy
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from support.environments import Environments, execute, make_environment
from support.exported import by_torch, make_model, picture, pixels
from support.places import ROOT

pytestmark = pytest.mark.slow  # they use an export of both kinds, or make environments

COMMANDS = (
    "__init__", "edge", "edge_app", "edge_bank", "edge_check", "edge_images", "edge_merge", "edge_watch", "inspect",
    "inspection", "parser",
)  # fmt: skip
RUN = """
import contextlib, io, json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "anomalib", "lightning"}:
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Block())
import anomalib_nagl, numpy
from anomalib_nagl import NaglEdge
from anomalib_nagl.cli import run
found = NaglEdge(MODEL).predict(numpy.zeros((40, 50, 3), numpy.uint8))
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
    codes = [run([name]) for name in ("train", "evaluate", "references", "--help")]
facts = anomalib_nagl.__file__, anomalib_nagl.__version__, found.map.shape, codes, out.getvalue(), err.getvalue()
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of both kinds and an image."""
    folder = tmp_path_factory.mktemp("install")
    model = make_model("gabor", (128, 128))
    model.to_openvino(folder)
    model.to_onnx(folder)
    image = picture((300, 260), 41, defect=True)
    Image.fromarray(pixels(image)).save(folder / "part.png")
    (folder / "expected").write_text(f"{float(by_torch(model, image[None]).score[0]):.3f}")
    return folder


def test_the_box_installs_no_torch(folder: Path, environments: Environments) -> None:
    wheel = environments.wheel("edge")
    assert wheel.name.startswith("anomalib_nagl_edge-")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        required = [line for line in archive.read(metadata).decode().splitlines() if line.startswith("Requires-Dist")]
    rooms = [path for room in ("io", "bank", "edge") for path in (ROOT / "anomalib_nagl" / room).rglob("*")]
    rooms = [path for path in rooms if path.is_file() and "__pycache__" not in path.parts]
    own = {path.relative_to(ROOT).as_posix() for path in rooms}
    shared = (
        "__init__.py",
        "cli.py",
        "py.typed",
        *(f"commands/{name}.py" for name in COMMANDS),
    )
    assert names == own | {f"anomalib_nagl/{name}" for name in shared}
    plain = [line.split(";")[0].split()[1] for line in required if "extra ==" not in line]
    assert [name.split(">")[0] for name in plain] == ["numpy", "openvino"]
    environment = environments["edge"]
    model = folder / "weights/openvino/model.xml"
    file, version, shape, codes, out, err = environment.report(RUN.replace("MODEL", repr(str(model))))
    assert Path(file).parent == environment.package
    assert version == "0.1.0"
    assert shape == [128, 128]
    assert codes == [2, 2, 2, 0]
    assert err.count("needs anomalib-nagl: pip install anomalib-nagl") == err.count("\n") == 3
    assert "predict with an exported model" in out


CONFLICT = """
import json
from anomalib_nagl.io.distributions import conflict
print(json.dumps(conflict()))
"""


def test_both_distributions_in_one_environment_are_told(environments: Environments, tmp_path: Path) -> None:
    """They overwrite each other's files, and removing one takes files of the other."""
    for kind in ("edge", "wheel"):
        assert environments[kind].report(CONFLICT) is None
    for first, second in (("edge", "editable"), ("wheel", "edge")):
        both = make_environment(tmp_path / first, environments.requirement(first))
        both.install(*environments.requirement(second))
        assert "pip uninstall anomalib-nagl anomalib-nagl-edge" in both.report(CONFLICT)
        script = execute([str(both.python.with_name("anomalib-nagl")), "edge", "--help"], cwd=tmp_path)
        assert script.returncode == 0, script.stderr
        (line,) = script.stderr.splitlines()
        assert line.startswith(f"anomalib-nagl: found anomalib-nagl and anomalib-nagl-edge in {both.site}, expected")


@pytest.mark.parametrize(
    ("example", "needs", "model"),
    [
        ("edge_openvino.py", "openvino", "weights/openvino/model.xml"),
        ("edge_onnxruntime.py", "onnxruntime", "weights/onnx/model.onnx"),
    ],
)
def test_examples_print_torchs_score(
    example: str, needs: str, model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(needs, reason=f"{needs} is not installed")
    main = runpy.run_path(str(ROOT / "examples" / example))["main"]
    main(str(folder / model), str(folder / "part.png"))
    printed = capsys.readouterr().out
    assert "part.png: " in printed
    score = float(printed.split("score ")[1].split(",")[0])
    assert score == pytest.approx(float((folder / "expected").read_text()), abs=2e-3)
