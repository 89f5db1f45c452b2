"""Images in memory as arrays and as tensors: the same numbers, the same kinds, the same refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype

from anomalib_nagl import EdgeError
from anomalib_nagl.io import arrays
from anomalib_nagl.references import images
from anomalib_nagl.references.reference_set import ReferenceImage

RNG = np.random.default_rng(0)
EVERY_BYTE = np.arange(256, dtype=np.uint8).reshape(16, 16)
EVERY_WORD = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
RGBA = RNG.integers(0, 256, (9, 7, 4), dtype=np.uint8)


def as_tensor(array: np.ndarray) -> Tensor:
    """The same image as people have it in torch."""
    return torch.from_numpy(array if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))


def test_whole_numbers_are_scaled_as_torchvision_and_the_formula_do() -> None:
    expected = to_dtype(torch.from_numpy(EVERY_BYTE), torch.float32, scale=True).numpy()
    assert arrays.as_image(EVERY_BYTE).tobytes() == np.stack([expected] * 3).tobytes()
    assert np.array_equal(arrays.as_image(EVERY_WORD)[0], EVERY_WORD.astype(np.float32) / np.float32(65_535))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (EVERY_BYTE, EVERY_BYTE / 255),
        (EVERY_WORD, EVERY_WORD / 65_535),
        (RGBA[..., :1], RGBA[..., 0] / 255),
        (RGBA[..., :3], RGBA[..., :3] / 255),
        (RGBA, RGBA[..., :3] / 255),
        (RGBA[::-1, ::-2], RGBA[::-1, ::-2, :3] / 255),
        (RGBA / 255, RGBA[..., :3] / 255),
        ((RGBA / 255).astype(np.float32), RGBA[..., :3] / 255),
        ((RGBA / 255).astype(np.float16), (RGBA[..., :3] / 255).astype(np.float16)),
        (RGBA[..., 0] / 255, RGBA[..., 0] / 255),
    ],
)
def test_both_sides_take_the_same_arrays(given: np.ndarray, expected: np.ndarray) -> None:
    found = arrays.as_image(given)
    planes = expected.transpose(2, 0, 1) if expected.ndim == 3 else np.stack([expected] * 3)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.allclose(found, planes, atol=1e-7)
    for other in (given, as_tensor(given), as_tensor(given)[None] if given.ndim == 3 else given):
        assert images.as_image(other).numpy().tobytes() == found.tobytes()
    assert images.content_hash(images.as_image(given)) == arrays.content_hash(found)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "F"])
def test_both_sides_take_pillow_images(mode: str) -> None:
    plain = Image.fromarray(EVERY_WORD) if mode == "I;16" else Image.fromarray(RGBA).convert(mode)
    image = plain.point(lambda value: value / 255) if mode == "F" else plain
    found = arrays.as_image(image)
    assert images.as_image(image).numpy().tobytes() == found.tobytes()
    if mode in ("I;16", "F"):
        expected = np.stack([np.asarray(image)] * 3) / (65_535 if mode == "I;16" else 1)
    else:
        expected = np.asarray(plain.convert("RGB")).transpose(2, 0, 1) / 255
    assert np.allclose(found, expected, atol=1e-6)


def test_the_result_is_a_copy() -> None:
    planar = np.ones((3, 4, 5), np.float32)
    for given in (planar.transpose(1, 2, 0), planar[0], torch.from_numpy(planar)):
        for image in (images.as_image(given), *([arrays.as_image(given)] if isinstance(given, np.ndarray) else [])):
            image[:] = 0
    assert planar.all()
    fixed = np.ones((4, 5, 3), np.uint8)
    fixed.flags.writeable = False
    images.as_image(fixed)[:] = 0  # no warning of torch, which is an error here


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((4, 5, 2), np.uint8), r"shape \(4, 5, 2\) .*convert it to RGB"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"shape \(2, 4, 5, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
        (np.zeros(3, np.uint8), r"shape \(3,\)"),
        (np.zeros((4, 5), np.int64), "type int64 .*expected uint8, uint16 or floats"),
        (np.zeros((4, 5), bool), "type bool"),
        (np.zeros((4, 5), complex), "type complex128"),
        (np.array("image"), "type <U5 .*expected numbers"),
        (np.full((4, 5), 255.0), "values from 255 to 255 .*expected 0 to 1"),
        (np.array([[0, -0.1]]), "values from -0.1 to 0 "),
        (np.array([[0, np.nan]]), "values from nan to nan"),
    ],
)
def test_both_sides_refuse_the_same(given: np.ndarray, message: str) -> None:
    for read in (arrays.as_image, images.as_image):
        with pytest.raises(EdgeError, match=f"found .*{message}"):
            read(given)
    if given.ndim == 2:
        with pytest.raises(EdgeError, match=r"found .*tensor"):
            images.as_image(as_tensor(given))


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "float64", "uint8", "uint16"])
def test_tensors_of_every_kind(kind: str) -> None:
    kind = getattr(torch, kind)
    tensor = torch.ones(3, 4, 5, requires_grad=kind.is_floating_point).to(kind)
    largest = 1 if kind.is_floating_point else torch.iinfo(kind).max
    assert float(images.as_image(tensor).max()) == pytest.approx(1 / largest)


def test_hashes_do_not_depend_on_the_side() -> None:
    """The recorded hash of a reference is that of its rounded pixels, and halves are rounded to even on both sides."""
    halves = (torch.arange(511) / 510).expand(3, 2, 511).contiguous()
    rounded = (halves * 255).round().to(torch.uint8)
    assert np.array_equal(arrays.eight_bit(halves.numpy()), rounded.numpy())
    assert images.content_hash(halves) == arrays.content_hash(halves.numpy())
    assert images.content_hash(halves) == images.content_hash(images.as_image(rounded))


def test_masks_are_judged_alike() -> None:
    image = np.full((6, 5, 3), 0.5)
    good = np.zeros((6, 5))
    good[1, 2] = -7
    assert np.array_equal(arrays.as_mask(good, image, (6, 5), "a"), good != 0)
    for mask, message in ((good.T, r"found a mask of size \(5, 6\) for 'a', .*\(6, 5\)"), (good * 0, "an empty mask")):
        with pytest.raises(EdgeError, match=message) as numpys:
            arrays.as_mask(mask, image, (6, 5), "a")
        with pytest.raises(EdgeError, match=message) as torchs:
            ReferenceImage(images.as_image(image), "abnormal", torch.from_numpy(mask.copy()), "a")
        assert str(numpys.value) == str(torchs.value)
