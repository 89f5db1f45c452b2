"""Resize and normalise: inside anomalib's data loaders and inside an exported file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.pre_processing import PreProcessor
from torch import nn
from torchvision.transforms.v2 import Compose, Normalize, Resize, Transform

from anomalib_nagl.core.resizing import BandResize, MatrixResize, PillowResize

DEFAULT_SIZE = (448, 448)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def transform_of(pre_processor: nn.Module | None) -> Transform | None:
    """The transform that a pre-processor applies to images, None when it has none."""
    # anomalib takes any module for a pre-processor; only its own class promises a transform.
    return getattr(pre_processor, "transform", None)


def check_size(pre_processor: nn.Module | None, size: tuple[int, int]) -> None:
    """Raise ValueError when a pre-processor makes images of another size than the network input (height, width)."""
    transform = transform_of(pre_processor)
    if transform is None:
        return
    height, width = size
    resizes = bool(extract_transforms_by_type(transform, Resize))
    for given in (size, (height + 37, width + 90)) if resizes else (size,):
        made = tuple(transform(torch.zeros(3, *given)).shape[-2:])
        if made != size:
            raise ValueError(
                f"found a pre-processor that makes images of size {made} (height, width), expected the image_size of "
                f"the model, {size}: let it resize to that, or set image_size to what it makes"
            )


def set_size(pre_processor: nn.Module | None, size: tuple[int, int]) -> None:
    """Let our own pre-processor resize to another size (height, width); ValueError where another one does not."""
    if isinstance(pre_processor, NaglPreProcessor):
        pre_processor.load_checkpoint_config({"nagl": {**pre_processor.config, "image_size": list(size)}})
    check_size(pre_processor, size)


class PreProcessorFactory:
    """``configure_pre_processor``: resizes to the network input, normalises with the statistics of the backbone.

    Of a model it knows both, unless an ``image_size`` is given. anomalib's is a static method, so it can be called on
    the class, too: then it is that of the default backbone.
    """

    def __get__(self, nagl: Any, owner: type) -> Callable[..., PreProcessor]:
        """The method of a model, or of the class."""
        del owner
        statistics = (IMAGENET_MEAN, IMAGENET_STD, False) if nagl is None else nagl.statistics
        default = DEFAULT_SIZE if nagl is None else nagl.image_size

        def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
            return NaglPreProcessor(image_size or default, *statistics)

        return configure_pre_processor


class NaglPreProcessor(PreProcessor):
    """Resizes to the network input and normalises with the statistics of the backbone.

    ``published`` resizes as the published code does (``PillowResize``). The exported graph takes images of any size in
    [0, 1] and gives the same result.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        published: bool = False,
    ) -> None:
        super().__init__()
        self._build(tuple(image_size), tuple(mean), tuple(std), published)

    def _build(
        self, image_size: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...], published: bool
    ) -> None:
        height, width = image_size
        self.config = {"image_size": [height, width], "mean": list(mean), "std": list(std), "published": published}
        resize = (PillowResize if published else BandResize)((height, width))
        self.transform = Compose([resize, Normalize(list(mean), list(std))])
        self.export_transform = nn.Sequential(
            MatrixResize((height, width), rounded=published), Normalize(list(mean), list(std))
        )

    @property
    def steps(self) -> tuple[MatrixResize | None, nn.Module]:
        """What an exported graph does: resize, then all the rest; None where somebody put other transforms there."""
        steps = self.export_transform
        if isinstance(steps, nn.Sequential) and len(steps) > 1 and isinstance(steps[0], MatrixResize):
            return steps[0], steps[1:]
        return None, self

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Prepare images; a batch of tokens is ready as it is."""
        if hasattr(batch, "image"):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def checkpoint_config(self) -> dict[str, Any]:
        """Plain values that rebuild this pre-processor."""
        return {"nagl": self.config}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Rebuild from ``checkpoint_config``, or from that of anomalib's own pre-processor."""
        if "nagl" not in config:
            super().load_checkpoint_config(config)
            return
        own = config["nagl"]
        self._build(tuple(own["image_size"]), tuple(own["mean"]), tuple(own["std"]), bool(own["published"]))
