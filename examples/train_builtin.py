"""Make the backbone inside the package from drawn images and a MobileNetV2.

    python examples/train_builtin.py TEACHER OUT   # TEACHER: local-dir folder of a mobilenetv2_100

1. The small network begins as the channels of the MobileNetV2 that matter most (builtin_training/pruning.py). This gave
   the weights in the package; it takes a minute.
2. With ``--steps`` it then learns to give the patch tokens of the large one: their values, and which patches of an
   image are like each other (relational knowledge distillation: Park et al., CVPR 2019). No setting is known yet that
   gains by it: at a rate of 1e-3 the tokens agree less after 100 steps than before the first.

All images are drawn (builtin_training/images.py); a seed gives the same ones whatever the number of processes. A run
that was stopped goes on when the command is repeated.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import functools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from builtin_training.images import draw
from builtin_training.pruning import pruned, read_teacher
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from anomalib_nagl.encoders.builtin import BLOCKS, STEM, narrow_mobilenet
from anomalib_nagl.io.files import atomic_write, atomic_write_bytes, file_hash

PATCH = 16
SIDE = 352  # pixels of a drawn image
CROP = 12  # patches along a side of what the small network sees
BATCH = 12
POOL = 256  # drawn images to crop from
NEW = 2  # of which a step replaces so many


# --- images ---------------------------------------------------------------------------------------------------------


def picture(seed: int, number: int) -> np.ndarray:
    """One drawn image (SIDE, SIDE, 3) of a run."""
    return draw(np.random.default_rng((seed, number)), SIDE)


def pictures(seed: int, first: int, processes: int) -> Iterator[Tensor]:
    """Drawn images (3, SIDE, SIDE) from a number on, drawn ahead in other processes."""
    with concurrent.futures.ProcessPoolExecutor(processes) as executor:
        ahead = collections.deque(executor.submit(picture, seed, first + i) for i in range(16))
        number = first + len(ahead)
        while True:
            drawn = ahead.popleft().result()
            ahead.append(executor.submit(picture, seed, number))
            number += 1
            yield torch.from_numpy(drawn.copy()).permute(2, 0, 1)


def normalised(images: Tensor) -> Tensor:
    """8-bit images as the network wants them."""
    return ((images.float() / 255 - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)


class Pool:
    """Drawn images with the large network's maps; the oldest make room for new ones."""

    def __init__(self, wide: nn.Sequential, stream: Iterator[Tensor], first: int) -> None:
        """Fill it from a stream that begins with image number ``first``."""
        self.wide, self.stream = wide, stream
        self.images = torch.zeros(POOL, 3, SIDE, SIDE, dtype=torch.uint8)
        self.maps = torch.zeros(POOL, wide[-1].project.out_channels, SIDE // PATCH, SIDE // PATCH)
        self.oldest = first % POOL
        for _ in range(POOL // 8):
            self.renew(8)

    @torch.inference_mode()
    def renew(self, count: int) -> None:
        """Put new images in place of the oldest ones."""
        places = (self.oldest + torch.arange(count)) % POOL
        self.images[places] = torch.stack([next(self.stream) for _ in range(count)])
        self.maps[places] = self.wide(normalised(self.images[places]))
        self.oldest = (self.oldest + count) % POOL

    def crops(self, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Crops (BATCH, 3, h, w) and the large network's maps of them, which has seen what lies around them too."""
        images, maps = [], []
        for index in random.choice(POOL, BATCH, replace=False):
            row, column = random.integers(1, SIDE // PATCH - CROP, 2)
            top, left, extent = row * PATCH, column * PATCH, CROP * PATCH
            images.append(self.images[index, :, top : top + extent, left : left + extent])
            maps.append(self.maps[index, :, row : row + CROP, column : column + CROP])
        return normalised(torch.stack(images)), torch.stack(maps).clone()


# --- training -------------------------------------------------------------------------------------------------------


class Scale(NamedTuple):
    """Mean and standard deviation (C,) of the large network's tokens."""

    mean: Tensor
    std: Tensor


def loss(found: Tensor, wanted: Tensor, scale: Scale) -> Tensor:
    """How far maps (B, C, h, w) are from those wanted: in value, in direction within their image, in who is like whom.

    The second and third are relative to the differences that an image has, or the many plain ones would not count.
    """
    found, wanted = found.flatten(2).transpose(1, 2), wanted.flatten(2).transpose(1, 2)
    one, other = (found - scale.mean) / scale.std, (wanted - scale.mean) / scale.std
    value = F.smooth_l1_loss(one, other)
    middle = other.mean(1, keepdim=True)
    spread = (other - middle).square().mean((1, 2), keepdim=True).sqrt() + 0.05
    local = F.smooth_l1_loss(one / spread, other / spread, beta=0.5)
    direction = 1 - F.cosine_similarity(one - middle, other - middle, dim=2).mean()
    unlike, wanted_unlike = dissimilarity(found), dissimilarity(wanted)
    usual = wanted_unlike.mean((1, 2), keepdim=True) + 0.005
    relation = F.smooth_l1_loss(unlike / usual, wanted_unlike / usual, beta=0.2)
    return value + 0.5 * local + direction + relation


def dissimilarity(tokens: Tensor) -> Tensor:
    """1 - cosine between the tokens of each image: (B, M, C) -> (B, M, M)."""
    unit = F.normalize(tokens, dim=2)
    return 1 - unit @ unit.mT


@torch.inference_mode()
def agreement(small: nn.Module, wide: nn.Module, images: Tensor, scale: Scale) -> tuple[float, float]:
    """Mean cosine of both networks' tokens of images (N, 3, H, W), less the common mean, and less each image's."""
    common, own = [], []
    for chunk in images.split(8):
        found, wanted = (net(normalised(chunk)).flatten(2).transpose(1, 2) - scale.mean for net in (small, wide))
        common.append(F.cosine_similarity(found, wanted, dim=2).flatten())
        middle = wanted.mean(1, keepdim=True)
        own.append(F.cosine_similarity(found - middle, wanted - middle, dim=2).flatten())
    return torch.cat(common).mean().item(), torch.cat(own).mean().item()


def rate(step: int, steps: int, highest: float) -> float:
    """Learning rate of a step: up in 200 steps, then down along a cosine."""
    return highest * min((step + 1) / 200, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def train(options: argparse.Namespace) -> None:
    """Train from the beginning, or from the checkpoint beside the file to write."""
    torch.set_num_threads(options.threads)
    wide = read_teacher(options.teacher)
    small = narrow_mobilenet(STEM, BLOCKS).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(small.parameters(), lr=options.rate, weight_decay=1e-4)
    checkpoint = options.out.with_suffix(".checkpoint")
    if not checkpoint.exists():
        atomic_write(checkpoint, functools.partial(torch.save, begin(wide, options.seed)))
    state = torch.load(checkpoint, weights_only=True)
    small.load_state_dict(state["small"])
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    first, scale = state["step"], Scale(*state["scale"])
    drawn, real = held_out(options.seed, 32), read_folder(options.check)
    report(small, wide, drawn, real, scale, f"step {first} of {options.steps}")
    if first < options.steps:
        pool = Pool(wide, pictures(options.seed, first * NEW, options.processes), first * NEW)
    begun, total = time.monotonic(), 0.0
    for step in range(first, options.steps):
        images, wanted = pool.crops(np.random.default_rng((options.seed, 7, step)))
        optimizer.param_groups[0]["lr"] = rate(step, options.steps, options.rate)
        cost = loss(small(images), wanted, scale)
        optimizer.zero_grad()
        cost.backward()
        nn.utils.clip_grad_norm_(small.parameters(), 1.0)
        optimizer.step()
        pool.renew(NEW)
        total += cost.item()
        if (step + 1) % options.every == 0 or step + 1 == options.steps:
            state = {"small": small.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            atomic_write(checkpoint, functools.partial(torch.save, {**state, "scale": list(scale)}))
            pace = (time.monotonic() - begun) / (step + 1 - first)
            text = f"step {step + 1} of {options.steps}, loss {total / options.every:.4f}, {pace:.2f} s a step"
            report(small, wide, drawn, real, scale, f"{text}, {pace * (options.steps - step - 1) / 60:.0f} min left")
            total = 0.0
    atomic_write_bytes(options.out, save({key: value.contiguous() for key, value in small.state_dict().items()}))
    print(f"{options.out}: {options.out.stat().st_size} bytes, SHA-256 {file_hash(options.out)}")


def begin(wide: nn.Sequential, seed: int) -> dict[str, Any]:
    """State before the first step: the pruned network, and the scale of the large one's tokens."""
    print("pruning", flush=True)
    images = normalised(held_out(seed, 176)[32:])
    with torch.inference_mode():
        tokens = torch.cat([wide(chunk) for chunk in images[:48].split(8)]).transpose(0, 1).flatten(1)
    small = pruned(wide, images[:, :, :192, :192])
    return {"small": small.state_dict(), "scale": [tokens.mean(1).clone(), tokens.std(1).clone()], "step": 0}


def held_out(seed: int, count: int) -> Tensor:
    """Drawn images (count, 3, SIDE, SIDE) that are never trained on."""
    images = [picture(seed + 1, number) for number in range(count)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def read_folder(folder: Path | None) -> Tensor | None:
    """Read up to 32 images of a folder, scaled to 384 pixels: only to say how the tokens agree on them."""
    if folder is None:
        return None
    files = sorted(folder.rglob("*.png"))
    files = files[:: max(1, len(files) // 32)][:32]
    opened = [Image.open(file).convert("RGB").resize((384, 384)) for file in files]
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in opened])


def report(small: nn.Module, wide: nn.Module, drawn: Tensor, real: Tensor | None, scale: Scale, text: str) -> None:
    """Print how far the training is, and how the tokens of images that it never sees agree."""
    common, own = agreement(small, wide, drawn, scale)
    text += f"; cosine with the teacher {common:.3f}, within images {own:.3f}"
    if real is not None:
        common, own = agreement(small, wide, real, scale)
        text += f"; on --check {common:.3f}, {own:.3f}"
    print(text, flush=True)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="folder with config.json and model.safetensors of a mobilenetv2_100")
    parser.add_argument("out", type=Path, help="the .safetensors file to write; a .checkpoint lies beside it")
    parser.add_argument("--steps", type=int, default=0, help="of training after the pruning")
    parser.add_argument("--rate", type=float, default=1e-4, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch; drawing takes the other core")
    parser.add_argument("--processes", type=int, default=1, help="that draw")
    parser.add_argument("--every", type=int, default=500, help="steps between reports and checkpoints")
    parser.add_argument("--check", type=Path, help="folder of images on which to report the agreement, never to train")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
