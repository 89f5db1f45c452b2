"""Rendered images: the same every time, complete, well labelled, and an anomalib datamodule like any other."""

import copy
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from anomalib.data import AnomalibDataModule
from jsonargparse import ArgumentParser
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from anomalib_nagl import DrawnPictures
from anomalib_nagl.rendered import render
from anomalib_nagl.rendered.render import CATEGORIES, DEFECTS, DOMAINS, render_category, render_image

FEW = {"train/good": 2, "test/good": 1, **{f"test/{defect}": 1 for defect in DEFECTS}}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(render, "COUNTS", FEW)


def visible(folder):
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.png")
    }


@pytest.mark.parametrize("category", CATEGORIES)
def test_layout_and_masks(tmp_path, category):
    folder = render_category(tmp_path, category)
    expected = {f"{part}/{index:03}.png" for part, count in FEW.items() for index in range(count)}
    expected |= {f"ground_truth/{defect}/000_mask.png" for defect in DEFECTS}
    assert folder == tmp_path / category
    assert set(hashes(folder)) == expected
    for path in folder.rglob("*.png"):
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == ((192, 192) if path.stem.endswith("_mask") else (192, 192, 3))
    for path in folder.glob("ground_truth/*/*.png"):
        assert set(np.unique(Image.open(path))) == {0, 255}


@pytest.mark.parametrize("kind", ["good", *DEFECTS])
@pytest.mark.parametrize("category", CATEGORIES)
def test_damage_is_marked_in_view_and_small(category, kind):
    for seed in range(2):
        _, damage = render_image(category, kind, np.random.default_rng(seed))
        assert (damage.sum() == 0) if kind == "good" else (8 <= damage.sum() < 0.1 * damage.size)


def test_damage_shows():
    """Inside the mask a scratched plate differs from the intact one in the same light, outside hardly."""
    intact, _ = render_image("plate", "good", np.random.default_rng(3))
    surface = render.objects.plate(rng := np.random.default_rng(3), False)
    render.defects.scratch(surface, np.random.default_rng(4))
    scratched, damage = render.photograph(surface, rng)
    change = np.abs(scratched.astype(float) - intact).mean(axis=2)
    assert change[damage].mean() > 10 * change[~damage].mean()


def test_same_seed_same_bytes(tmp_path):
    first, second, other = (
        render_category(tmp_path / name, "wood", seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert hashes(first) == hashes(second)
    pictures = [value for folder in (first, other) for name, value in hashes(folder).items() if "mask" not in name]
    assert len(set(pictures)) == len(pictures)


def test_same_bytes_in_another_process(tmp_path):
    here = render_category(tmp_path / "here", "brushed", 5)
    code = (
        "import sys; from anomalib_nagl.rendered import render; "
        f"render.COUNTS = {FEW!r}; render.render_category(sys.argv[1], 'brushed', 5)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], env=environment, check=True)
    assert hashes(here) == hashes(tmp_path / "there" / "brushed")


def test_rendering_needs_neither_torch_nor_anomalib():
    code = "import sys, anomalib_nagl.rendered.render; print({'torch', 'anomalib'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_finished_folder_is_kept(tmp_path):
    folder = render_category(tmp_path, "plug")
    (folder / "note.txt").write_text("still here")
    render_category(tmp_path, "plug")
    assert (folder / "note.txt").exists()


@pytest.mark.parametrize("marker", [b"", b"{", b'{"recipe": -1, "seed": 0}', b"\xff"])
def test_folder_with_another_marker_is_drawn_anew(tmp_path, marker):
    folder = render_category(tmp_path, "brushed")
    before = hashes(folder)
    (folder / render.MARKER).write_bytes(marker)
    next(folder.rglob("*.png")).unlink()
    assert hashes(render_category(tmp_path, "brushed")) == before


def test_another_seed_is_drawn_anew(tmp_path):
    before = hashes(render_category(tmp_path, "brushed", 0))
    assert hashes(render_category(tmp_path, "brushed", 1)) != before


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "cloth").mkdir()
    (tmp_path / "cloth" / "mine.png").touch()
    with pytest.raises(FileExistsError, match=r"cloth was not rendered .* Choose another root"):
        render_category(tmp_path, "cloth")
    assert visible(tmp_path) == ["cloth"]
    assert visible(tmp_path / "cloth") == ["mine.png"]


def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    calls = iter(range(100))

    def photograph(surface, rng):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return camera(surface, rng)

    camera = render.photograph
    with monkeypatch.context() as patched:
        patched.setattr(render, "photograph", photograph)
        with pytest.raises(KeyboardInterrupt):
            render_category(tmp_path, "wood")
    assert visible(tmp_path) == []
    assert len(hashes(render_category(tmp_path, "wood"))) == sum(FEW.values()) + len(DEFECTS)


@pytest.mark.parametrize("stale", [False, True])
def test_several_draw_at_once(tmp_path, stale):
    if stale:
        render_category(tmp_path, "brushed", 1)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: render_category(tmp_path, "brushed"), range(4)))
    assert folders == {tmp_path / "brushed"}
    assert visible(tmp_path) == ["brushed"]
    assert hashes(tmp_path / "brushed") == hashes(render_category(tmp_path / "alone", "brushed"))


def test_unknown_category(tmp_path):
    datamodule = DrawnPictures(tmp_path)
    message = r"no rendered category 'bottle'; choose one of cloth, brushed, wood, plate, board, plug"
    with pytest.raises(ValueError, match=message):
        DrawnPictures(tmp_path, category="bottle")
    with pytest.raises(ValueError, match=message):
        render_category(tmp_path, "bottle")
    with pytest.raises(ValueError, match=message):
        datamodule.category = "bottle"
    assert list(tmp_path.iterdir()) == []


def test_every_category_belongs_to_one_domain():
    assert sorted(category for domain in DOMAINS.values() for category in domain) == sorted(CATEGORIES)


def test_datamodule_loads(tmp_path):
    datamodule = DrawnPictures(tmp_path, "board", train_batch_size=2, eval_batch_size=4)
    datamodule.prepare_data()
    datamodule.setup()
    assert sys.modules[type(datamodule.train_data).__module__].CATEGORIES == CATEGORIES
    train = next(iter(datamodule.train_dataloader()))
    assert train.image.shape == (2, 3, 192, 192)
    assert not train.gt_label.any()
    for loader in (datamodule.val_dataloader(), datamodule.test_dataloader(), datamodule.predict_dataloader()):
        batch = next(iter(loader))
        assert batch.image.shape == (4, 3, 192, 192)
        assert batch.gt_label.tolist() == batch.gt_mask.flatten(1).any(1).tolist()
        assert batch.gt_label.sum() == len(DEFECTS)


@pytest.mark.parametrize("stage", [None, TrainerFn.FITTING])
def test_category_changes_at_next_setup(tmp_path, stage):
    datamodule = DrawnPictures(tmp_path, "brushed")
    datamodule.setup(stage)
    other = copy.deepcopy(datamodule)
    other.category = "wood"
    other.setup(stage)
    for module, category in ((datamodule, "brushed"), (other, "wood")):
        for data in (module.train_data, module.val_data, module.test_data):
            assert {tmp_path / category} == {tmp_path / path for path in data.samples["path"].unique()}


@pytest.mark.parametrize(
    "name", ["anomalib_nagl.DrawnPictures", "anomalib_nagl.plugin.rendered_datamodule.DrawnPictures"]
)
def test_command_line_builds_it(tmp_path, name):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    arguments = ["--data", name, "--data.root", str(tmp_path), "--data.category", "wood", "--data.seed", "3"]
    data = parser.instantiate_classes(parser.parse_args(arguments)).data
    assert isinstance(data, DrawnPictures)
    assert (data.root, data.category, data.seed) == (tmp_path, "wood", 3)
