"""Small models with random weights, images to score, and what torch says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from anomalib_nagl import Nagl, ReferenceSet

if TYPE_CHECKING:  # tests on a GPU need no OpenVINO
    import openvino as ov

    from anomalib_nagl import NaglEdge

PICTURE = (210, 260)  # of references
SIZES = {"input": None, "1200x900": (900, 1200), "4500x2100": (2100, 4500), "37x41": (41, 37)}


def write_backbone(folder: Path, model: nn.Module, architecture: str, side: int, **arguments: object) -> str:
    """A ``local-dir:`` folder with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    pretrained = {"input_size": [3, side, side], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "num_classes": 0}
    pretrained["fixed_input_size"] = architecture.startswith("vit")
    config = {"architecture": architecture, "model_args": arguments, "pretrained_cfg": pretrained}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return f"local-dir:{folder}"


def backbone(kind: str, folder: Path) -> str:
    """A transformer or CNN with random weights, or one of our own by its name."""
    torch.manual_seed(0)
    if kind == "vit":
        arguments = {"embed_dim": 48, "depth": 2, "num_heads": 2}
        vit = VisionTransformer(img_size=112, patch_size=14, init_values=1.0, num_classes=0, **arguments)
        nn.init.normal_(vit.pos_embed)
        return write_backbone(folder / "vit", vit, "vit_small_patch14_dinov2", 112, **arguments)
    if kind == "cnn":
        cnn = timm.create_model("resnet10t", num_classes=0)
        return write_backbone(folder / "cnn", cnn, "resnet10t", 224)
    return kind


def picture(size: tuple[int, int], seed: int, defect: bool = False) -> Tensor:
    """A striped image (3, H, W) of 8-bit values with a little noise, and a bright square if there is a defect."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    down, right = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    phase = 6 * torch.rand(3, 1, 1, generator=generator)
    image = 0.5 + 0.3 * torch.sin(40 * down + 10 * right + phase) + 0.1 * torch.randn(3, *size, generator=generator)
    if defect:
        image = torch.where(defect_mask(size, seed) > 0, torch.rand(3, 1, 1, generator=generator), image)
    return (image.clamp(0, 1) * 255).round() / 255


def defect_mask(size: tuple[int, int], seed: int) -> Tensor:
    """Where ``image`` has its square."""
    top, left = (int(side * (0.1 + 0.2 * (seed % 4))) for side in size)
    mask = torch.zeros(size)
    mask[top : top + size[0] // 4 + 1, left : left + size[1] // 5 + 1] = 1
    return mask


def reference_set(normal: int, abnormal: int, size: tuple[int, int] = PICTURE) -> ReferenceSet:
    """The first references of each kind; those of a larger set begin with those of a smaller one."""
    return ReferenceSet(
        normal=tuple(picture(size, 10 + i) for i in range(normal)),
        abnormal=tuple(picture(size, 20 + i, defect=True) for i in range(abnormal)),
        masks=tuple(defect_mask(size, 20 + i) for i in range(abnormal)),
    )


def make_model(name: str, size: tuple[int, int], variant: str = "extended", normal: int = 1, abnormal: int = 1) -> Nagl:
    """A model with a random head, references, and thresholds in the midst of the scores of some images."""
    # Thresholds of its own: those from references would change with them, where an exported file keeps its own.
    model = Nagl(backbone=name, image_size=size, variant=variant, threshold="f1_adaptive").eval()
    model.head_trained = True
    model.set_references(reference_set(normal, abnormal))
    set_thresholds(model)
    return model


@torch.inference_mode()
def set_thresholds(model: Nagl) -> None:
    """Scales as wide as the scores of a few images, and thresholds that part them."""
    processor = model.post_processor
    raw = [model.model(model.pre_processor(picture((120, 150), seed, seed % 2 == 1)[None])) for seed in range(6)]
    scores, maps = torch.cat([r.pred_score for r in raw]), torch.cat([r.anomaly_map for r in raw])
    for kind, values in (("image", scores), ("pixel", maps)):
        middle, width = values.median(), values.max() - values.min()
        getattr(processor, f"{kind}_min").fill_(middle - width)
        getattr(processor, f"_{kind}_threshold").fill_(middle)
        getattr(processor, f"{kind}_max").fill_(middle + width)


class Answer(NamedTuple):
    """Scores (B,), labels (B,) and maps (B, 1, h, w) of a batch."""

    score: np.ndarray
    label: np.ndarray
    map: np.ndarray


def by_torch(model: Nagl, images: Tensor) -> Answer:
    with torch.inference_mode():
        found = model(images)
    return Answer(found.pred_score.numpy(), found.pred_label.numpy(), found.anomaly_map.numpy())


def by_openvino(compiled: ov.CompiledModel, images: Tensor) -> Answer:
    found = compiled(images.numpy())
    return Answer(found["pred_score"], found["pred_label"], found["anomaly_map"])


def assert_same(found: Answer, expected: Answer, score: float = 0.005, pixel: float = 1e-3) -> None:
    """Within the budget: the range of a normalised score is 1."""
    assert np.abs(found.score - expected.score).max() <= score
    assert np.abs(found.map - expected.map).max() <= pixel
    assert np.array_equal(found.label, expected.label)


def pixels(image: Tensor) -> np.ndarray:
    """An image as people have it: 8-bit RGB (H, W, 3)."""
    return (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def assert_like_torch(detector: NaglEdge, model: Nagl, tolerance: float = 1e-5) -> None:
    """As good as a model that was given the same references anew, which is what an export bakes."""
    for seed in (70, 71, 73):
        image = picture((300, 190), seed, seed % 2 == 1)
        expected, found = by_torch(model, image[None]), detector.predict(pixels(image))
        assert found.score == pytest.approx(float(expected.score[0]), abs=tolerance)
        assert np.abs(found.map - expected.map[0, 0]).max() < tolerance
        assert found.label == bool(expected.label[0])


def teach(detector: NaglEdge, kind: str, index: int) -> None:
    """Show the image that ``reference_set`` holds at this place."""
    if kind == "normal":
        detector.add_normal(pixels(picture(PICTURE, 10 + index)), name=f"normal {index}")
    else:
        drawn, mask = picture(PICTURE, 20 + index, defect=True), defect_mask(PICTURE, 20 + index)
        detector.add_abnormal(pixels(drawn), mask.numpy(), name=f"abnormal {index}")
