"""References in memory: what they are made of, what is refused, and what goes on record."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from anomalib_nagl import ReferenceSet
from anomalib_nagl.references.images import content_hash
from anomalib_nagl.references.reference_set import ReferenceImage

IMAGE, MASK = torch.rand(3, 4, 5), torch.ones(4, 5)


def test_tensors_alone_are_named_by_number() -> None:
    found = ReferenceSet(normal=(IMAGE,), abnormal=(IMAGE, IMAGE), masks=(MASK, None))
    assert found.names == ("normal 0", "abnormal 0", "abnormal 1")
    assert found.defect_types == ("defect", "defect")
    assert found.mask_sources == ("given", "most deviating patches")
    assert [len(found.normal), len(found.abnormal)] == [1, 2]
    assert found.masks[0] is MASK
    assert found.masks[1] is None


def test_normal_images_come_first() -> None:
    images = [ReferenceImage(IMAGE, "abnormal", name=f"{i}") for i in range(2)]
    images += [ReferenceImage(IMAGE, "normal", name=f"{i}") for i in (2, 3)]
    assert ReferenceSet(images=images).names == ("2", "3", "0", "1")


def test_the_record_of_an_image_tells_its_pixels_and_its_mask() -> None:
    normal = ReferenceImage(IMAGE, "normal", name="a.png")
    abnormal = ReferenceImage(IMAGE, "abnormal", MASK * 7, "b.png", "hole", "m.png")
    pixels = content_hash(IMAGE)
    assert normal.record() == {"kind": "normal", "name": "a.png", "defect_type": "good", "sha256": pixels}
    assert abnormal.record() == {
        "kind": "abnormal", "name": "b.png", "defect_type": "hole", "sha256": pixels, "mask": "m.png",
        "mask_source": "given", "mask_sha256": content_hash(MASK[None]),
    }  # fmt: skip
    assert ReferenceImage(IMAGE, "abnormal").record()["mask_sha256"] == ""


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ReferenceSet(), "no reference images, expected at least one"),
        (lambda: ReferenceSet(abnormal=(IMAGE,)), "no mask for abnormal reference 'abnormal 0' and no normal"),
        (lambda: ReferenceSet((IMAGE,), (IMAGE,), (None, None)), "2 masks for 1 abnormal images"),
        (lambda: ReferenceSet(normal=(IMAGE[:1],)), r"'normal 0' of shape \(1, 4, 5\)"),
        (lambda: ReferenceSet(normal=((IMAGE * 255).to(torch.uint8),)), "type torch.uint8"),
        (lambda: ReferenceSet((), (IMAGE,), (MASK[:3],)), r"size \(3, 5\) for 'abnormal 0'.*\(4, 5\)"),
        (lambda: ReferenceSet((), (IMAGE,), (MASK * 0,)), "empty mask for abnormal reference 'abnormal 0'"),
    ],
)
def test_what_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (("names",), ("torch", "anomalib", "numpy")),
        (("sampling", "record", "synthetic", "prepare", "quality"), ("anomalib", "lightning")),
    ],
)
def test_the_room_imports_no_more_than_it_may(modules: tuple[str, ...], absent: tuple[str, ...]) -> None:
    code = f"import sys\nfor name in {modules}: __import__('anomalib_nagl.references.' + name)\n"
    code += f"print([name for name in {absent} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
