"""Source categories made of others: turned, or damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anomalib.data import MVTecAD
from anomalib.data.utils import LabelName
from PIL import Image

from anomalib_nagl.evaluation.extra_sources import extra_source
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.plugin.datasets import samples
from anomalib_nagl.plugin.sources import category_pool, check_masks


@pytest.fixture
def source(tmp_path: Path) -> MVTecAD:
    generator = np.random.default_rng(0)
    for kind, count in (("train/good", 3), ("test/good", 2), ("test/scratch", 2), ("test/hole", 1)):
        folder = tmp_path / "data/part" / kind
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(generator.integers(0, 255, (48, 64, 3), np.uint8)).save(folder / f"{i}.png")
            if kind.endswith(("scratch", "hole")):
                mask = np.zeros((48, 64), np.uint8)
                mask[4 * i : 9, 20:30] = 255
                masks = tmp_path / "data/part" / kind.replace("test", "ground_truth")
                masks.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(masks / f"{i}_mask.png")
    found = MVTecAD(root=tmp_path / "data", category="part")
    found.setup()
    return found


def pixels(path: str | None) -> np.ndarray:
    assert path is not None
    return np.asarray(Image.open(path))


def test_a_turned_category_is_the_same_turned(source: MVTecAD, tmp_path: Path) -> None:
    made = extra_source(source, "part", "turn90", tmp_path / "made")
    for label in (LabelName.NORMAL, LabelName.ABNORMAL):
        before, after = samples(source.test_data, label), samples(made.test_data, label)
        assert sorted(one.defect_type for one in before) == sorted(one.defect_type for one in after)
        turned = {pixels(one.image).tobytes(): one for one in after}
        for one in before:
            other = turned[np.rot90(pixels(one.image)).tobytes()]
            if one.mask:
                assert np.array_equal(np.rot90(pixels(one.mask)) > 0, pixels(other.mask) > 0)
    assert len(samples(made.train_data, LabelName.NORMAL)) == 3
    stamp = sorted(path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*.png"))
    extra_source(source, "part", "turn90", tmp_path / "made")
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*.png")) == stamp


@pytest.mark.parametrize("kind", ["cut_paste", "perlin"])
def test_a_damaged_category_has_a_defect_for_each_normal_image(source: MVTecAD, tmp_path: Path, kind: str) -> None:
    made = extra_source(source, "part", kind, tmp_path / "made")
    defects = samples(made.test_data, LabelName.ABNORMAL)
    assert [one.defect_type for one in defects] == ["synthetic"] * 3
    check_masks([category_pool(made, published=False)])
    for one, normal in zip(defects, samples(source.train_data, LabelName.NORMAL), strict=True):
        changed = (pixels(one.image) != pixels(normal.image)).any(axis=-1)
        marked = pixels(one.mask) > 0
        assert 0 < marked.mean() < 0.5
        assert changed[marked].mean() > 0.5
        assert pixels(one.image).shape == (48, 64, 3)


def test_other_kinds_are_refused(source: MVTecAD, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found extra source 'mirror', expected one of turn90, turn180, turn270"):
        extra_source(source, "part", "mirror", tmp_path)
    heads = {"nagl": {"extra_sources": ["turn90", "mirror"]}}
    with pytest.raises(ValueError, match=r"found 'mirror' in heads.nagl.extra_sources"):
        Settings(data=".", domains={"a": ["x"], "b": ["y"]}, heads=heads)
