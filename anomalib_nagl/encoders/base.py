"""What every encoder is: a frozen map from images to patch tokens."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_nagl.io.windows import Cut

logger = logging.getLogger(__name__)

Triple = tuple[float, float, float]


class Encoder(nn.Module):
    """Base of the encoders: frozen, in evaluation mode whatever happens, and without weights until they are needed.

    Building one reads no weights. They arrive with a checkpoint (``load_state_dict``) or with ``ensure_weights``, which
    alone may touch disk or network, so a model restored from a checkpoint fetches nothing.

    Attributes:
        name: the backbone as the user gave it.
        layers: the feature stages as the user gave them, None for the default.
        image_size: (height, width) of the input in pixels.
        window: (height, width) of what the network sees at once, the input unless it is cut into windows.
        patch_size: side of a patch in pixels.
        grid: (rows, columns) of patches.
        dim: width C of a token.
        mean: per channel, subtracted from RGB in [0, 1].
        std: per channel, divides the difference.
        is_transformer: whether patches attend to each other, which quantisation wants to know.
        config: plain data with which ``build_encoder`` can do without a ``local-dir:`` folder, None for others.
    """

    is_transformer = False
    cut: Cut | None = None  # how images are cut into windows, None where they are seen as a whole
    introduction = ""  # what a user should know of it, said once beside its name

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int],
        patch_size: int,
        dim: int,
        mean: Iterable[float],
        std: Iterable[float],
        layers: str | None = None,
    ) -> None:
        """Store what the class docstring lists; a subclass adds modules and calls ``_freeze``."""
        super().__init__()
        self.name = name
        self.layers = layers
        self.image_size = image_size
        self.patch_size = patch_size
        self.window = image_size
        self.grid = (image_size[0] // patch_size, image_size[1] // patch_size)
        self.dim = dim
        self.mean = _triple(mean)
        self.std = _triple(std)
        self.config: dict[str, Any] | None = None
        self._ready = False
        self._introduced = False

    @property
    def weights_ready(self) -> bool:
        """Whether weights have come, from a checkpoint or from ``ensure_weights``."""
        return self._ready

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised images (B, 3, H, W) into patch tokens (B, rows * columns, C), row by row.

        Raises RuntimeError while the weights are missing, ValueError for images of another size.
        """
        self._require_weights()
        if images.shape[1:] != (3, *self.image_size):
            raise ValueError(
                f"found images of shape {tuple(images.shape)}, expected (B, 3, {self.image_size[0]}, "
                f"{self.image_size[1]}): resize them before they reach the encoder"
            )
        return self._tokens(images)

    def ensure_weights(self) -> None:
        """Read or fetch the pretrained weights unless weights are there already; says, once, which backbone it is.

        Raises WeightsError (a RuntimeError) that names what was tried and the remedies.
        """
        if not self._introduced:
            self._introduced = True
            logger.info("Backbone: %s%s.", self.name, self.introduction and f", {self.introduction}")
        if self._ready:
            return
        # Lightning validates under inference mode; a tensor created there could never be saved or resized again.
        with torch.inference_mode(False), torch.no_grad():
            self._load_pretrained()
            self._weights_arrived()

    def fingerprint(self) -> str:
        """Sixteen hex digits that change whenever the tokens of an image would: architecture, stages and weights.

        Image size, folder and device do not matter. Raises RuntimeError while the weights are missing.
        """
        self._require_weights()
        digest = hashlib.sha256(f"{self._identity()}|{self.layers}|{self.mean}|{self.std}".encode())
        for key, tensor in sorted(self._fingerprinted().items()):
            digest.update(f"{key}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def window_cells(self) -> int | None:
        """Number of patches of a window; None where images are seen as a whole."""
        return None

    @property
    def network(self) -> Encoder:
        """The encoder whose weights these are: itself, unless it has another one see windows."""
        return self

    def train(self, mode: bool = True) -> Encoder:
        """Stay in evaluation mode: a frozen encoder must not update its statistics (quirk Q31)."""
        super().train(False)
        return self

    def _tokens(self, images: Tensor) -> Tensor:
        """Encode images whose shape was checked."""
        raise NotImplementedError

    def _load_pretrained(self) -> None:
        """Put the pretrained weights into the modules."""
        raise NotImplementedError

    def _identity(self) -> str:
        """Name the architecture, without the place its weights came from."""
        return self.name

    def _fingerprinted(self) -> dict[str, Tensor]:
        return self.state_dict()

    def _weights_arrived(self) -> None:
        """Note that the weights are complete; subclasses derive their buffers here."""
        self._ready = True

    def _freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()

    def _require_weights(self) -> None:
        if not self._ready:
            raise RuntimeError(
                f"encoder {self.name!r} has no weights yet: call ensure_weights() or load a checkpoint that holds them"
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        own = self.state_dict()
        if own and all(getattr(state_dict.get(prefix + key), "shape", None) == own[key].shape for key in own):
            self._weights_arrived()


def parse_image_size(value: Any) -> tuple[int, int]:
    """Read (height, width) in pixels from a number, a pair of any sequence type, or text like "448" and "448,672".

    Raises ValueError for anything else.

    >>> parse_image_size("448,672"), parse_image_size(448)
    ((448, 672), (448, 448))
    """
    parts = value.split(",") if isinstance(value, str) else value
    try:
        numbers = [parts] if isinstance(parts, int) else list(parts)
        sizes = [int(number) for number in numbers]
        exact = all(
            isinstance(n, str) or (n == s and not isinstance(n, bool)) for n, s in zip(numbers, sizes, strict=True)
        )
    except (TypeError, ValueError):
        sizes, exact = [], False
    if not exact or len(sizes) not in (1, 2) or min(sizes) < 1:
        raise ValueError(f"image_size: found {value!r}, expected a number of pixels or height and width, as in 448,672")
    return sizes[0], sizes[-1]


def check_image_size(image_size: tuple[int, int], patch: int, name: str) -> None:
    """Raise ValueError, naming the nearest sizes that do, unless height and width are multiples of the patch side."""
    wrong = [
        f"{axis} {size} (nearest: {_nearest_multiples(size, patch)})"
        for axis, size in zip(("height", "width"), image_size, strict=True)
        if size % patch
    ]
    if wrong:
        raise ValueError(
            f"image_size of {name}: found {' and '.join(wrong)}, expected multiples of its patch of {patch} pixels"
        )


def _nearest_multiples(size: int, patch: int) -> str:
    below = size // patch * patch
    return " and ".join(str(multiple) for multiple in (below, below + patch) if multiple)


def _triple(values: Iterable[float]) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
