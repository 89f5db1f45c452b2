"""A program in C++ that reads a baked model gives the answers of Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from PIL import Image
from support.exported import make_model, picture, pixels, teach
from support.places import ROOT

from anomalib_nagl import NaglEdge

pytestmark = pytest.mark.slow  # the program is compiled

SIZES = [(210, 260), (128, 128), (37, 41), (300, 190), (257, 512)]
TOOLS = ("cmake", "c++")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled against the OpenVINO of this environment."""
    if missing := [name for name in TOOLS if shutil.which(name) is None]:
        pytest.skip(f"not found here: {', '.join(missing)}")
    config = Path(ov.__file__).parent / "cmake"
    if not config.is_dir():
        pytest.skip("this OpenVINO has no files for CMake")
    build = tmp_path_factory.mktemp("cpp")
    source = ["-S", str(ROOT / "examples/cpp"), "-B", str(build), f"-DOpenVINO_DIR={config}"]
    for command in (["cmake", *source], ["cmake", "--build", str(build)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "inspect"


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> NaglEdge:
    """An exported model that was taught a normal image and a defect."""
    folder = tmp_path_factory.mktemp("taught")
    make_model("builtin", (128, 128)).to_openvino(folder)
    detector = NaglEdge(folder / "weights/openvino/model.xml")
    teach(detector, "normal", 1)
    teach(detector, "abnormal", 1)
    return detector


def read_pfm(path: Path) -> np.ndarray:
    kind, sides, order, values = path.read_bytes().split(b"\n", 3)
    assert (kind, order) == (b"Pf", b"-1.0")
    width, height = map(int, sides.split())
    return np.frombuffer(values, "<f4").reshape(height, width)[::-1]


def test_a_program_in_cpp_gives_the_answers_of_python(program: Path, taught: NaglEdge, tmp_path: Path) -> None:
    baked = taught.bake(tmp_path / "taught.xml")
    with_png = "WITH_PNG" in (program.parent / "CMakeFiles/inspect.dir/flags.make").read_text()
    suffixes = [".png", ".ppm"] if with_png else [".ppm"]
    paths = []
    for index, size in enumerate(SIZES):
        paths.append(tmp_path / f"part{index}{suffixes[index % len(suffixes)]}")
        Image.fromarray(pixels(picture(size, 80 + index, defect=index % 2 == 0))).save(paths[-1])
    command = [str(program), str(baked), str(tmp_path / "out"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == list(map(str, paths))
    model = ov.Core().compile_model(baked, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for path, (_, verdict, score) in zip(paths, lines, strict=True):
        image = np.asarray(Image.open(path))
        by_file = model(image.astype(np.float32).transpose(2, 0, 1)[None] / 255)
        by_box = taught.predict(image)
        heat = read_pfm(tmp_path / f"out/{path.stem}.pfm")
        mask = np.asarray(Image.open(tmp_path / f"out/{path.stem}.pgm")) > 0
        for expected, expected_map in (
            (by_file["pred_score"][0], by_file["anomaly_map"][0, 0]),
            (by_box.score, by_box.map),
        ):
            assert float(score) == pytest.approx(float(expected), abs=1e-4)
            assert np.abs(heat - expected_map).max() < 1e-4
        assert verdict == ("defective" if by_box.label else "good")
        assert np.array_equal(mask, by_file["pred_mask"][0, 0])
        # The box resizes by other sums: a pixel at the very threshold may fall on either side.
        assert (np.abs(by_box.map[mask != by_box.mask] - 0.5) < 1e-4).all()
        assert mask.any() or not by_box.label
    assert len({line[1] for line in lines}) == 2


def test_a_wrong_image_costs_no_other(program: Path, taught: NaglEdge, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"P6 no image")
    Image.fromarray(pixels(picture((50, 60), 1))).save(tmp_path / "part.ppm")
    command = [str(program), str(taught.bake(tmp_path / "taught.xml")), str(tmp_path / "out"), "no.png", "part.ppm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 3
    assert "found another header in no.png" in done.stderr
    assert done.stdout.startswith("part.ppm\t")
