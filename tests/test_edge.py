"""The box: an exported model without torch, whose references change, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from environments import ROOT
from exported import backbone, by_torch, defect_mask, make_model, picture, pixels, reference_set
from PIL import Image
from safetensors.numpy import load_file

from anomalib_nagl import Nagl
from anomalib_nagl.edge import EdgeError, NaglEdge
from anomalib_nagl.edge.cli import main as edge_command
from anomalib_nagl.edge.mining import most_deviating_patches
from anomalib_nagl.edge.pictures import as_picture, content_hash
from anomalib_nagl.references import content_hash as torch_hash

SIZE = (224, 224)
PICTURE = (210, 260)  # of references


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Nagl:
    return make_model(backbone("vit", tmp_path_factory.mktemp("backbone")), SIZE)


@pytest.fixture(scope="module")
def exported(model: Nagl, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model.set_references(reference_set(1, 1))
    return model.to_openvino(tmp_path_factory.mktemp("exported"))


@pytest.fixture
def box(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder that may be spoilt."""
    shutil.copytree(exported.parent, tmp_path / "box")
    return tmp_path / "box/model.xml"


def assert_like_torch(detector: NaglEdge, model: Nagl, tolerance: float = 1e-5) -> None:
    """As good as a model that was given the same references anew, which is what an export bakes."""
    for seed in (70, 71, 73):
        image = picture((300, 190), seed, seed % 2 == 1)
        expected, found = by_torch(model, image[None]), detector.predict(pixels(image))
        assert found.score == pytest.approx(float(expected.score[0]), abs=tolerance)
        assert np.abs(found.map - expected.map[0, 0]).max() < tolerance
        assert found.label == bool(expected.label[0])


def add(detector: NaglEdge, kind: str, index: int) -> None:
    """Show the picture that ``reference_set`` holds at this place."""
    if kind == "normal":
        detector.add_normal(pixels(picture(PICTURE, 10 + index)), name=f"normal {index}")
    else:
        drawn, mask = picture(PICTURE, 20 + index, defect=True), defect_mask(PICTURE, 20 + index)
        detector.add_abnormal(pixels(drawn), mask.numpy(), name=f"abnormal {index}")


def test_changed_references_are_as_good_as_an_export(model: Nagl, exported: Path, tmp_path: Path) -> None:
    """Both kinds added and removed, down to one kind alone, then saved and loaded by another detector."""
    detector = NaglEdge(exported)
    assert [(one.kind, one.name) for one in detector.references] == [("normal", "normal 0"), ("abnormal", "abnormal 0")]
    scores = []
    for normal, abnormal, change in (
        (1, 1, lambda: None),
        (1, 2, lambda: add(detector, "abnormal", 1)),
        (1, 3, lambda: add(detector, "abnormal", 2)),
        (2, 3, lambda: add(detector, "normal", 1)),
        (2, 2, lambda: detector.remove("abnormal 2")),
        (2, 0, lambda: [detector.remove(f"abnormal {i}") for i in (0, 1)]),
        (2, 1, lambda: add(detector, "abnormal", 0)),
        (0, 1, lambda: [detector.remove(f"normal {i}") for i in (0, 1)]),
    ):
        change()
        model.set_references(reference_set(normal, abnormal))
        assert_like_torch(detector, model)
        scores.append(detector.predict(pixels(picture(PICTURE, 71, True))).score)
    assert len({round(score, 6) for score in scores}) > 4
    detector.save(tmp_path / "part.safetensors")
    other = NaglEdge(exported)
    other.load(tmp_path / "part.safetensors")
    assert_like_torch(other, model)
    assert_like_torch(NaglEdge(exported, references=tmp_path / "part.safetensors"), model)
    assert [one.sha256 for one in other.references] == [torch_hash(picture(PICTURE, 20, defect=True))]
    assert "residual_proxies" in load_file(tmp_path / "part.safetensors")  # the library reads it too


@pytest.mark.parametrize(("variant", "kinds"), [("paper", (2, 2)), ("paper", (0, 2)), ("corrected", (2, 0))])
def test_other_exports_learn_as_well(variant: str, kinds: tuple[int, int], tmp_path: Path) -> None:
    """The published behaviour, and a model exported without any defect, or without any normal picture."""
    model = make_model("gabor", (128, 192), variant, *kinds)
    detector = NaglEdge(model.to_openvino(tmp_path))
    assert_like_torch(
        detector, model, 3e-4
    )  # filters on blank patches: rounding is magnified, by torch and OpenVINO differently
    add(detector, "abnormal", kinds[1])
    model.set_references(reference_set(kinds[0], kinds[1] + 1))
    assert_like_torch(detector, model, 3e-4)
    for i in range(kinds[1] + 1) if kinds[0] else ():
        detector.remove(f"abnormal {i}")
    model.set_references(reference_set(kinds[0], 0 if kinds[0] else kinds[1] + 1))
    assert_like_torch(detector, model, 3e-4)


def test_it_equals_the_file_exported_with_those_references(tmp_path: Path) -> None:
    model = make_model("gabor", (128, 128))
    detector = NaglEdge(model.to_openvino(tmp_path / "before"))
    add(detector, "abnormal", 1)
    add(detector, "normal", 1)
    model.set_references(reference_set(2, 2))
    path = model.to_openvino(tmp_path / "after")
    plain = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for seed in (70, 71):
        image = picture((300, 190), seed, seed % 2 == 1)
        found, expected = detector.predict(pixels(image)), plain(image[None].numpy())
        assert found.score == pytest.approx(float(expected["pred_score"][0]), abs=1e-5)
        assert np.abs(found.map - expected["anomaly_map"][0, 0]).max() < 1e-5


def test_baked_and_changeable_are_the_same(exported: Path) -> None:
    """Any OpenVINO program sees one input and constants; the box starts from those very numbers."""
    graph = openvino.Core().read_model(exported)
    assert [port.any_name for port in graph.inputs] == ["input"]
    image = picture((190, 210), 80)
    plain = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image[None].numpy())
    found = NaglEdge(exported).predict(pixels(image))
    assert float(plain["pred_score"][0]) == pytest.approx(found.score, abs=1e-6)


def test_thresholds_are_those_of_torch(model: Nagl, exported: Path, tmp_path: Path) -> None:
    model.set_references(reference_set(1, 1))
    detector, processor = NaglEdge(exported), model.post_processor
    before = detector.thresholds
    assert before == pytest.approx((float(processor.image_threshold), float(processor.pixel_threshold)))
    try:
        processor._image_threshold.add_(0.01)
        detector.set_thresholds(image=before.image + 0.01)
        assert_like_torch(detector, model)
        detector.save(tmp_path / "moved.safetensors")
        again = NaglEdge(exported, references=tmp_path / "moved.safetensors").thresholds
        assert again == pytest.approx((before.image + 0.01, before.pixel))
    finally:
        processor._image_threshold.sub_(0.01)


def test_without_a_mask_the_most_deviating_patches_count(exported: Path) -> None:
    detector = NaglEdge(exported)
    detector.add_abnormal(pixels(picture(PICTURE, 21, defect=True)), name="scratch")
    marked = detector.references[-1].marks
    assert 1 <= marked.sum() < marked.size / 2
    bank = np.eye(3, dtype=np.float32)
    tokens = np.array([[1, 0, 0], [1, 0.1, 0], [1, 0.2, 0], [-1, 0, 0.1], [-1, 0.2, 0]], np.float32)
    assert most_deviating_patches(tokens, bank).tolist() == [0, 0, 0, 1, 1]
    assert most_deviating_patches(np.ones((4, 3), np.float32), bank).sum() == 4  # nothing stands out
    for name in ("normal 0",):
        detector.remove(name)
    with pytest.raises(EdgeError, match="without a mask and no normal reference"):
        detector.add_abnormal(pixels(picture(PICTURE, 22, defect=True)), name="other")


def test_pictures_come_as_arrays_or_files(exported: Path, tmp_path: Path) -> None:
    detector, image = NaglEdge(exported), picture((150, 140), 81)
    Image.fromarray(pixels(image)).save(tmp_path / "part.png")
    scores = [
        detector.predict(source).score
        for source in (pixels(image), image.permute(1, 2, 0).numpy(), tmp_path / "part.png", str(tmp_path / "part.png"))
    ]
    assert np.ptp(scores) == 0
    assert content_hash(as_picture(pixels(image))) == torch_hash(image)


def test_many_pictures_come_back_in_order(exported: Path) -> None:
    images = [pixels(picture((150 + i, 140), 90 + i, i % 2 == 1)) for i in range(7)]
    alone = NaglEdge(exported)
    together = list(NaglEdge(exported, requests=3).predict_all(images))
    assert [p.score for p in together] == pytest.approx([alone.predict(i).score for i in images], abs=1e-5)


# --- safety ---------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))


def other_signature(key: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        manifest = path.with_name("model.json")
        content = json.loads(manifest.read_text())
        content["signature"][key] = {"grid": [8, 8]}.get(key, "another")
        manifest.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        *[(name, spoil, name) for name in ("model.xml", "model.bin", "references.xml", "references.bin")
          for spoil in (cut, flip, Path.unlink)],
        ("references.safetensors", cut, "truncated or edited"),
        ("references.safetensors", flip, "truncated or edited"),
        ("references.safetensors", Path.unlink, "found no reference pack"),
        ("model.json", cut, "cannot be read"),
        ("model.json", Path.unlink, r"found no model\.json"),
        ("references.safetensors", other_signature("backbone"), "another model: .*backbone"),
        ("references.safetensors", other_signature("head"), "another model: .*head"),
        ("references.safetensors", other_signature("grid"), "another model: .*grid"),
    ],
)  # fmt: skip
def test_spoilt_files_are_refused_by_name(box: Path, name: str, spoil: Callable[[Path], None], message: str) -> None:
    spoil(box.with_name(name))
    with pytest.raises(EdgeError, match=f"(?s){message}"):
        NaglEdge(box)


def test_a_pack_of_another_head_changes_nothing(exported: Path, tmp_path: Path) -> None:
    other = make_model("gabor", (128, 128))
    foreign = other.to_openvino(tmp_path).with_name("references.safetensors")
    detector = NaglEdge(exported)
    with pytest.raises(EdgeError, match=r"backbone .* instead of"):
        detector.load(foreign)
    assert len(detector.references) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.remove("nobody"), "no reference named 'nobody', expected one of 'normal 0'"),
        (lambda d: add(d, "abnormal", 0), "already, expected another name"),
        (lambda d: d.add_abnormal(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9)), "x"), "empty mask"),
        (lambda d: d.add_abnormal(np.zeros((9, 9, 3), np.uint8), np.ones((9, 8)), "x"), r"mask of size \(9, 8\)"),
        (lambda d: d.add_normal(np.zeros((9, 9), np.uint8)), r"shape \(9, 9\), expected RGB"),
        (lambda d: d.predict(np.full((9, 9, 3), 200.0)), "divide by 255"),
        (lambda d: d.predict(np.full((9, 9, 3), np.nan)), "divide by 255"),
        (lambda d: d.predict(np.zeros((9, 9, 3), np.int64)), "type int64"),
        (lambda d: d.predict("nowhere.png"), r"nowhere\.png"),
        (lambda d: [d.remove("normal 0"), d.remove("abnormal 0")], "no references, expected at least one"),
    ],
)
def test_bad_input_says_what_to_do_and_changes_nothing(
    exported: Path, change: Callable[[NaglEdge], object], message: str
) -> None:
    detector = NaglEdge(exported)
    with pytest.raises(EdgeError, match=message):
        change(detector)
    assert "abnormal 0" in {one.name for one in detector.references}


def test_a_failed_write_leaves_the_old_pack(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector, pack = NaglEdge(exported), tmp_path / "pack.safetensors"
    detector.save(pack)
    before = pack.read_bytes()
    add(detector, "abnormal", 1)

    def fail(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        detector.save(pack)
    assert pack.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["pack.safetensors"]


def test_threads_never_see_a_mix(exported: Path) -> None:
    """Four threads predict, by themselves and through the queue, while references come and go."""
    detector, image = NaglEdge(exported, requests=3), pixels(picture((100, 120), 71, True))
    extra = picture(PICTURE, 11), picture(PICTURE, 21, defect=True)

    def change() -> Iterator[None]:
        detector.add_normal(pixels(extra[0]), name="more")
        yield
        detector.add_abnormal(pixels(extra[1]), defect_mask(PICTURE, 21).numpy(), name="defect")
        yield
        detector.remove("more")
        yield
        detector.remove("defect")
        yield

    allowed = []
    for _ in change():
        found = detector.predict(image)
        allowed.append((found.score, found.map))
    assert min(abs(a[0] - b[0]) for i, a in enumerate(allowed) for b in allowed[:i]) > 1e-4
    wrong: list[float] = []
    counts = [0] * len(allowed)
    stop = threading.Event()

    def check(score: float, heat: np.ndarray) -> None:
        same = [abs(score - s) < 1e-5 and np.abs(heat - m).max() < 1e-5 for s, m in allowed]
        if any(same):
            counts[same.index(True)] += 1
        else:
            wrong.append(score)

    def hammer(queued: bool) -> None:
        while not stop.is_set():
            found = detector.predict_all([image] * 4) if queued else [detector.predict(image)]
            for one in found:
                check(one.score, one.map)

    threads = [threading.Thread(target=hammer, args=(i == 0,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        for _ in change():
            pass
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(counts) > 20
    assert sum(count > 0 for count in counts) >= 2


# --- without torch --------------------------------------------------------------------------------------------------

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
    before, after = (np.genfromtxt(tmp_path / name / "predictions.csv", delimiter=",", names=True, dtype=None,
                                   encoding="utf-8") for name in ("before", "after"))  # fmt: skip
    assert len(before) == 3
    assert len(after) == 4
    assert np.abs(before["score"] - after["score"][1:]).max() > 1e-4
    overlays = sorted(path.name for path in (tmp_path / "after").glob("*.png"))
    assert overlays == ["0.png", "0_2.png", "1.png", "2.png"]
    assert Image.open(tmp_path / "after/1.png").size == (100, 120)


def test_commands_report_bad_input(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edge_command(["list", str(box)]) == 0
    assert "abnormal 0" in capsys.readouterr().out
    for arguments, message in (
        (["predict", str(box), str(tmp_path / "no.png"), "--out", "x"], "found nothing at"),
        (["predict", str(tmp_path / "no.xml"), str(box.parent), "--out", "x"], "found no pictures"),
        (["remove", str(box), "--name", "nobody"], "no reference named"),
        (["list", str(tmp_path / "no.xml")], r"found no no.json"),
    ):
        assert edge_command(arguments) == 2
        assert message in capsys.readouterr().err
    assert edge_command(["remove", str(box), "--name", "abnormal 0"]) == 0
    assert len(NaglEdge(box).references) == 1


def test_the_export_without_labels(tmp_path: Path) -> None:
    model = make_model("gabor", (128, 128))
    model.post_processor.enable_thresholding = False
    found = NaglEdge(model.to_openvino(tmp_path)).predict(pixels(picture((100, 90), 5)))
    assert found.label is None
    assert found.mask is None
    with torch.inference_mode():
        assert found.score == pytest.approx(float(model(picture((100, 90), 5)[None]).pred_score), abs=1e-5)
