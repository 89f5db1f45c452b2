"""The backbone inside the package: a narrow MobileNetV2 up to stride 16, with weights that lie beside this file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from anomalib_nagl.encoders.base import Encoder, check_image_size
from anomalib_nagl.encoders.weights import WeightsError

PATCH = 16  # pixels
FILE = Path(__file__).parent / "weights" / "builtin-1.safetensors"  # written by examples/train_builtin.py
SHA256 = "f729f8e7f4412a97ff026b02c644ff495482a5f00a1b222a456bc77485d0afa1"

STEM = (16, 16)  # hidden and output channels of the first block
# (hidden channels, output channels, stride) of those that follow.
BLOCKS = (
    (40, 24, 2), (64, 24, 1),
    (72, 32, 2), (96, 32, 1), (96, 32, 1),
    (112, 64, 2), (224, 64, 1), (224, 64, 1), (224, 64, 1),
    (224, 96, 1), (320, 96, 1), (320, 96, 1),
)  # fmt: skip


class BuiltinEncoder(Encoder):
    """A small network of our own, the same on every machine: nothing is fetched.

    It was made from a MobileNetV2 (see NOTICE) with drawn images, by ``examples/train_builtin.py``. Tokens hold 96
    numbers and lie in the middle of their patch. Input is RGB normalised by mean 0.5 and std 0.5, i.e. in [-1, 1].
    """

    introduction = (
        "a small network inside the package; what a larger one gains is told under 'The built-in backbone' of the "
        "results page"
    )

    def __init__(self, image_size: tuple[int, int], name: str = "builtin") -> None:
        """Build the network; raises ValueError for a size that is no multiple of 16."""
        check_image_size(image_size, PATCH, name)
        super().__init__(name, image_size, PATCH, BLOCKS[-1][1], mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        with torch.random.fork_rng(devices=[]):
            network = narrow_mobilenet(STEM, BLOCKS)
        # Channels last halves the time of depthwise convolutions on CPUs; the weights' layout decides.
        self.backbone = network.to(memory_format=torch.channels_last)
        self._freeze()

    def _tokens(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images)
        return features.flatten(2).transpose(1, 2)

    def _load_pretrained(self) -> None:
        self.backbone.load_state_dict(read_weights(FILE, SHA256))


def read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read the tensors of a file with this hash; raises WeightsError for another one or none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        content, found = b"", f"none ({error.strerror})"
    else:
        found = f"one with SHA-256 {hashlib.sha256(content).hexdigest()[:12]}..."
    if hashlib.sha256(content).hexdigest() != sha256:
        raise WeightsError(
            f"backbone builtin: found, instead of the weight file of this release {path}, {found}, expected SHA-256 "
            f"{sha256[:12]}...: install the package anew"
        )
    return load(content)


class Block(nn.Module):
    """Widen to the hidden channels, filter each of them, narrow: an inverted residual without normalisation layers.

    A block that keeps channels and size adds its input. ``expand`` is the widening convolution.
    """

    def __init__(self, expand: nn.Conv2d, outputs: int, stride: int, late: bool = False) -> None:
        """Add the other two convolutions. ``late`` windows begin at the pixel itself, not at the one before."""
        super().__init__()
        hidden = expand.out_channels
        self.expand = expand
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 0 if late else 1, groups=hidden)
        self.project = nn.Conv2d(hidden, outputs, 1)
        self.late = late
        self.adds = expand.kernel_size == (1, 1) and stride == 1 and expand.in_channels == outputs

    def hidden(self, features: Tensor) -> Tensor:
        """Hidden channels after the filters: (B, C, h, w) -> (B, hidden, h / stride, w / stride)."""
        widened = F.relu6(self.expand(features))
        return F.relu6(self.depthwise(F.pad(widened, (0, 1, 0, 1)) if self.late else widened))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, outputs, h / stride, w / stride)."""
        narrowed: Tensor = self.project(self.hidden(features))
        return features + narrowed if self.adds else narrowed


def narrow_mobilenet(stem: tuple[int, int], blocks: tuple[tuple[int, int, int], ...]) -> nn.Sequential:
    """Build, with random weights, the map from normalised images (B, 3, H, W) to features (B, C, H / 16, W / 16).

    Windows of strided layers begin before their pixel, those of the last one at it, so that a feature of stride 16
    looks at pixel 8 of its 16: padding all of them in the same way would put it at one corner.
    """
    hidden, channels = stem
    layers = [Block(nn.Conv2d(3, hidden, 3, 2, 1), channels, 1)]
    last = max(index for index, (_, _, stride) in enumerate(blocks) if stride > 1)
    for index, (hidden, outputs, stride) in enumerate(blocks):
        layers.append(Block(nn.Conv2d(channels, hidden, 1), outputs, stride, late=index == last))
        channels = outputs
    return nn.Sequential(*layers)
