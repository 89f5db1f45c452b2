"""Images drawn at random, as varied as possible: what the built-in backbone is trained on.

A picture is a texture on which more textures lie in shapes, lines, text and repeated tiles, under uneven light,
through an imperfect camera. Textures are noise of a random spectrum, gratings, cells, grain, or tiles of those.

    python examples/builtin_training/images.py sheet.png   # shows some
"""

from __future__ import annotations

import io
import string
import sys
from collections.abc import Callable

import numpy as np
import scipy.fft
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Plane = NDArray[np.float32]  # (H, W), mostly within [0, 1]
Picture = NDArray[np.float32]  # (H, W, 3)


def draw(random: Generator, side: int) -> NDArray[np.uint8]:
    """Draw an RGB picture (side, side, 3)."""
    picture = texture(random, side)
    # Most pictures are a surface with things on it; some are all surface, some all things.
    for _ in range(random.choice([0, 1, 3, 8, 25], p=[0.2, 0.2, 0.2, 0.2, 0.2])):
        picture = lay_on(random, picture)
    if random.random() < 0.25:
        picture = picture.mean(axis=2, keepdims=True).repeat(3, axis=2)
    return photograph(random, lit(random, warped(random, picture)))


# --- textures -------------------------------------------------------------------------------------------------------


def texture(random: Generator, side: int) -> Picture:
    """Draw a texture of random colours (side, side, 3)."""
    if random.random() < 0.15:
        return repeated(random, side)
    plane = _PLANES[random.choice(len(_PLANES), p=_SHARES)](random, side)
    if random.random() < 0.35:
        plane = plane + random.uniform(0.1, 0.7) * (noise(random, side) - 0.5)
    return coloured(random, plane)


def noise(random: Generator, side: int) -> Plane:
    """Noise whose amplitude falls with a random power of the frequency, often more so along one direction."""
    down, right = scipy.fft.fftfreq(side)[:, None], scipy.fft.rfftfreq(side)[None]
    angle = random.uniform(0, np.pi)
    along = down * np.sin(angle) + right * np.cos(angle)
    across = right * np.sin(angle) - down * np.cos(angle)
    stretch = 1.0 if random.random() < 0.5 else 10 ** random.uniform(0, 1.5)
    radius = np.sqrt(along**2 + (across * stretch) ** 2) + 1 / side
    amplitude = radius ** -random.uniform(0, 2.2)
    if random.random() < 0.3:  # grain of one size
        amplitude = np.exp(-((np.log(radius) - np.log(10 ** random.uniform(-2, -0.4))) ** 2) / 0.2)
    phases = np.exp(2j * np.pi * random.random(amplitude.shape)).astype(np.complex64)
    plane = scipy.fft.irfft2(phases * amplitude.astype(np.float32), (side, side))
    return stretched(plane)


def grating(random: Generator, side: int) -> Plane:
    """One or two gratings, sine to square, slightly bent."""
    down, right = np.mgrid[0:side, 0:side].astype(np.float32) - side / 2
    plane = np.zeros((side, side), np.float32)
    for _ in range(random.integers(1, 3)):
        angle = random.choice([0, np.pi / 2, random.uniform(0, np.pi)])
        position = down * np.sin(angle) + right * np.cos(angle)
        if random.random() < 0.3:
            position = np.hypot(down - random.normal(0, side), right - random.normal(0, side))
        if random.random() < 0.4:
            position = position + random.uniform(1, 10) * noise(random, side)
        wave = np.sin(2 * np.pi * position / 10 ** random.uniform(0.4, 2) + random.uniform(0, 6)) + random.normal(
            0, 0.4
        )
        plane += np.tanh(wave * 10 ** random.uniform(-0.5, 1))
    return stretched(plane)


def cells(random: Generator, side: int) -> Plane:
    """Cells around random points: by number, by distance to the point, or by distance to the border."""
    spacing = 10 ** random.uniform(0.7, 1.9)
    points = max(3, int((side / spacing) ** 2))
    seeds = np.ones((side, side), bool)
    rows, columns = random.integers(0, side, (2, points))
    seeds[rows, columns] = False
    distance, nearest = ndimage.distance_transform_edt(seeds, return_indices=True)
    number = random.random((side, side)).astype(np.float32)[nearest[0], nearest[1]]
    kind = random.integers(4)
    if kind == 0:
        return number
    if kind == 1:
        return stretched(distance)
    edges = ndimage.morphological_gradient(number, size=(3, 3)) > 0
    if kind == 2:
        return np.clip(0.5 * number + 0.5 * edges, 0, 1).astype(np.float32)
    return stretched(np.minimum(ndimage.distance_transform_edt(~edges), spacing / 3) + number * spacing / 10)


def grains(random: Generator, side: int) -> Plane:
    """Many small spots on even ground, sharp or soft."""
    plane = np.zeros((side, side), np.float32)
    count = int(side**2 * 10 ** random.uniform(-4, -1))
    rows, columns = random.integers(0, side, (2, count))
    plane[rows, columns] = random.choice([-1, 1], count) * random.random(count)
    width = 10 ** random.uniform(-0.3, 0.8)
    plane = ndimage.gaussian_filter(plane, (width, width * random.choice([1, 1, 3])))
    scale = np.abs(plane).max() + 1e-6
    return (0.5 + 0.5 * np.tanh(plane / scale * 10 ** random.uniform(0, 1))).astype(np.float32)


def flat(random: Generator, side: int) -> Plane:
    """Nothing but a slope."""
    down, right = np.mgrid[0:side, 0:side].astype(np.float32) / side
    return (0.5 + random.normal(0, 0.15) * down + random.normal(0, 0.15) * right).astype(np.float32)


def thresholded(random: Generator, side: int) -> Plane:
    """Noise cut at a level: islands and veins of two tones."""
    plane = noise(random, side)
    level = np.quantile(plane, random.uniform(0.1, 0.9))
    return (0.5 + 0.5 * np.tanh((plane - level) * 10 ** random.uniform(0.7, 2.2))).astype(np.float32)


_PLANES: tuple[Callable[[Generator, int], Plane], ...] = (noise, grating, cells, grains, flat, thresholded)
_SHARES = (0.33, 0.17, 0.13, 0.12, 0.12, 0.13)


def repeated(random: Generator, side: int) -> Picture:
    """A small picture of things, laid like tiles, every second one mirrored or moved now and then."""
    tile = int(10 ** random.uniform(1.1, 2.1))
    small = coloured(random, _PLANES[random.integers(len(_PLANES))](random, tile))
    for _ in range(random.integers(1, 5)):
        small = lay_on(random, small)
    if random.random() < 0.4:
        small = np.concatenate(
            [np.concatenate([small, small[:, ::-1]], 1), np.concatenate([small, small[:, ::-1]], 1)[::-1]]
        )
    times = -(-side // small.shape[0]) + 1
    row = np.tile(small, (1, times, 1))
    shift = random.choice([0, small.shape[1] // 2])
    rows = [np.roll(row, shift * (i % 2), axis=1) for i in range(times)]
    return np.concatenate(rows)[:side, :side]


def stretched(plane: NDArray[np.floating]) -> Plane:
    """Bring to a mean of 0.5 and a standard deviation of 0.2."""
    return (0.5 + 0.2 * (plane - plane.mean()) / (plane.std() + 1e-6)).astype(np.float32)


def coloured(random: Generator, plane: Plane) -> Picture:
    """Run grey through two to four colours that are mostly near each other."""
    stops = random.integers(2, 5)
    grey = random.random((stops, 1))
    colours = grey + random.choice([0.02, 0.15, 0.5], p=[0.4, 0.35, 0.25]) * random.normal(0, 1, (stops, 3))
    contrast = 10 ** random.uniform(-1.3, 0.1)
    colours = np.clip(colours.mean(0) + contrast * (colours - colours.mean(0)) * 1.5, 0, 1)
    if random.random() < 0.5:  # from dark to light
        colours = colours[np.argsort(colours.sum(1))]
    levels = np.linspace(0, 1, stops)
    table = np.stack([np.interp(np.linspace(0, 1, 256), levels, colours[:, c]) for c in range(3)], axis=1)
    return table.astype(np.float32)[(np.clip(plane, 0, 1) * 255).astype(np.uint8)]


# --- things ---------------------------------------------------------------------------------------------------------


def lay_on(random: Generator, picture: Picture) -> Picture:
    """Put one thing, or a row or field of the same, on a picture."""
    side = picture.shape[0]
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    size = side * 10 ** random.uniform(-1.7, -0.2)
    kind = random.choice(5, p=[0.4, 0.2, 0.15, 0.1, 0.15])
    places = random.uniform(0, side, (random.choice([1, 2, 6, 20], p=[0.6, 0.2, 0.1, 0.1]), 2))
    if kind == 4:
        places = _field(random, side, size)
    shape = _outline(random, size)
    for x, y in places:
        if kind in (0, 4):
            pen.polygon([(x + a, y + b) for a, b in shape], fill=255)
        elif kind == 1:
            _line(random, pen, x, y, size * 3)
        elif kind == 2:
            _track(random, pen, x, y, size * 2, side)
        else:
            letters = "".join(
                random.choice(list(string.ascii_letters + string.digits + " -./"), random.integers(1, 12))
            )
            pen.text((x, y), letters, fill=255, font=ImageFont.load_default(max(6.0, size)), anchor="mm")
    alpha = np.asarray(mask, np.float32)[..., None] / 255
    if random.random() < 0.5:
        alpha = ndimage.gaussian_filter(alpha, (*[10 ** random.uniform(-0.4, 0.9)] * 2, 0))
    paint = texture(random, side) if random.random() < 0.4 and side > 100 else coloured(random, flat(random, side))
    if random.random() < 0.25:  # seen through, or engraved
        paint = picture + random.normal(0, 0.2)
    if random.random() < 0.3:  # a shadow
        shade = np.roll(alpha, random.integers(-4, 5, 2), (0, 1))
        picture = picture * (1 - random.uniform(0.1, 0.7) * shade)
    return (picture * (1 - alpha) + paint * alpha).astype(np.float32)


def _field(random: Generator, side: int, size: float) -> NDArray[np.floating]:
    step = max(size * random.uniform(2.0, 4.0) + 2, side / 16)
    down, right = np.meshgrid(np.arange(0, side, step), np.arange(0, side, step * random.choice([1, 1, 2])))
    return np.stack([down.ravel(), right.ravel()], axis=1) + random.normal(0, random.choice([0, 1]), 2)


def _outline(random: Generator, size: float) -> list[tuple[float, float]]:
    """An ellipse, a polygon, a rectangle or a blob around the origin."""
    kind = random.integers(4)
    corners = {0: 40, 1: int(random.integers(3, 8)), 2: 4, 3: 60}[int(kind)]
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + (np.pi / 4 if kind == 2 else 0)
    radius = np.ones(corners)
    if kind == 1:
        radius = random.uniform(0.4, 1.2, corners)
    elif kind == 3:
        radius = 1 + sum(random.normal(0, 0.4 / k) * np.cos(k * angles + random.uniform(0, 6)) for k in range(1, 6))
    x, y = size * radius * np.cos(angles), size * radius * np.sin(angles) * 10 ** random.uniform(-0.7, 0)
    turn = random.choice([0, np.pi / 2, random.uniform(0, np.pi)])
    return list(zip(x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn), strict=True))


def _line(random: Generator, pen: ImageDraw.ImageDraw, x: float, y: float, length: float) -> None:
    """A scratch or a crack: a path that turns a little at each step."""
    angle, steps = random.uniform(0, 2 * np.pi), 12
    bend, points = random.choice([0, 0.1, 0.5]), [(x, y)]
    for _ in range(steps):
        angle += random.normal(0, bend)
        x, y = x + length / steps * np.cos(angle), y + length / steps * np.sin(angle)
        points.append((x, y))
    pen.line(points, fill=255, width=int(10 ** random.uniform(0, 0.9)), joint="curve")


def _track(random: Generator, pen: ImageDraw.ImageDraw, x: float, y: float, length: float, side: int) -> None:
    """Parallel tracks that turn by 45 degrees and end in pads, or a frame."""
    width = int(10 ** random.uniform(0.2, 1.2) * side / 384) + 1
    angle, points = random.integers(8) * np.pi / 4, [(x, y)]
    for _ in range(random.integers(1, 5)):
        x, y = x + length * np.cos(angle), y + length * np.sin(angle)
        points.append((x, y))
        angle += random.choice([-1, 1]) * np.pi / 4
    pitch = width * random.uniform(2, 3.5)
    for i in range(random.integers(1, 7)):
        moved = [(a + i * pitch, b + i * pitch) for a, b in points]
        pen.line(moved, fill=255, width=width, joint="curve")
        for a, b in (moved[0], moved[-1]):
            pen.ellipse((a - width, b - width, a + width, b + width), fill=255)


# --- light and camera -----------------------------------------------------------------------------------------------


def warped(random: Generator, picture: Picture) -> Picture:
    """Now and then, bend space a little."""
    if random.random() > 0.2:
        return picture
    side = picture.shape[0]
    grid = np.mgrid[0:side, 0:side].astype(np.float32)
    shifts = [ndimage.zoom(random.normal(0, side / 25, (5, 5)).astype(np.float32), side / 5, order=1) for _ in "yx"]
    places = grid + np.stack([shift[:side, :side] for shift in shifts])
    bent = [ndimage.map_coordinates(picture[..., c], places, order=1, mode="mirror") for c in range(3)]
    return np.stack(bent, axis=2)


def lit(random: Generator, picture: Picture) -> Picture:
    """Shade by a slope, a lamp or clouds, then exposure and contrast."""
    side = picture.shape[0]
    if random.random() < 0.5:
        down, right = np.mgrid[0:side, 0:side].astype(np.float32) / side
        y, x = random.uniform(-0.5, 1.5, 2)
        lamp = np.exp(-((down - y) ** 2 + (right - x) ** 2) / 10 ** random.uniform(-1, 0.5))
        light = 1 + random.uniform(-0.7, 0.7) * (lamp - lamp.mean())
        if random.random() < 0.3:
            light = light + random.normal(0, 0.2) * (noise(random, side) - 0.5)
        picture = picture * light[..., None] + (random.random() < 0.2) * 0.4 * lamp[..., None]
    mean = picture.mean()
    picture = mean + (picture - mean) * 10 ** random.uniform(-0.5, 0.3) + random.normal(0, 0.12)
    return np.clip(picture, 0, 1).astype(np.float32)


def photograph(random: Generator, picture: Picture) -> NDArray[np.uint8]:
    """Resolution, blur, noise, gamma and the traces of JPEG."""
    if random.random() < 0.3:  # a small picture enlarged
        small, side = int(picture.shape[0] / random.uniform(1.3, 4)), picture.shape[0]
        reduced = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8)).resize((small, small))
        grain = random.choice([0, 0.01, 0.03]) * random.standard_normal((small, small, 1), dtype=np.float32)
        noisy = np.clip(np.asarray(reduced, np.float32) / 255 + grain, 0, 1)
        enlarged = Image.fromarray((noisy * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(enlarged)
    if random.random() < 0.5:
        width = 10 ** random.uniform(-0.5, 0.5)
        picture = ndimage.gaussian_filter(picture, (width, width * random.choice([1, 1, 1, 3]), 0))
    if random.random() < 0.3:
        picture = np.clip(picture, 0, 1) ** random.uniform(0.6, 1.7)
    if random.random() < 0.6:
        strength = 10 ** random.uniform(-2.3, -1)
        channels = random.choice([1, 3])
        grain = random.standard_normal((*picture.shape[:2], channels), dtype=np.float32)
        picture = picture + strength * grain
    image = Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))
    if random.random() < 0.25:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(random.integers(30, 96)))
        image = Image.open(file).convert("RGB")
    return np.asarray(image)


def sheet(seed: int = 0, rows: int = 5, columns: int = 8, side: int = 192) -> Image.Image:
    """Lay pictures of a seed side by side."""
    pictures = [draw(np.random.default_rng((seed, i)), side) for i in range(rows * columns)]
    lines = [np.concatenate(pictures[i * columns : (i + 1) * columns], axis=1) for i in range(rows)]
    return Image.fromarray(np.concatenate(lines))


if __name__ == "__main__":
    sheet().save(sys.argv[1])
