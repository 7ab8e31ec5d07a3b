"""
The corruptions of CIFAR-10-C at severity 5, with their published constants, for batches of 32 x 32 images.

Written anew on numpy, scipy and PIL from what the published program does; OpenCV, ImageMagick and scikit-image are not
needed. Frost is missing, since it pastes photographs that come with that program; so are the four extra corruptions
that the benchmark keeps for validation.

Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, arXiv
1903.12261; constants of `ImageNet-C/create_c/make_cifar_c.py` in github.com/hendrycks/robustness (Apache-2.0).
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable

import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter

SIZE = 32
Pixels = NDArray[np.float64]  # (images, 32, 32, 3) or one image of it, from 0 to 1


# --- noise -----------------------------------------------------------------------------------
def gaussian_noise(x: Pixels, rng: np.random.Generator) -> Pixels:
    """Noise of standard deviation 0.1."""
    return x + rng.normal(0.0, 0.10, x.shape)


def shot_noise(x: Pixels, rng: np.random.Generator) -> Pixels:
    """As if white were 50 photons."""
    return rng.poisson(x * 50) / 50


def impulse_noise(x: Pixels, rng: np.random.Generator) -> Pixels:
    """7 % of all values are 0 or 1."""
    hit, salt = rng.random(x.shape) < 0.07, rng.random(x.shape) < 0.5
    return np.where(hit, salt.astype(float), x)


# --- blur ------------------------------------------------------------------------------------
def defocus_blur(x: Pixels, rng: np.random.Generator) -> Pixels:
    """A disk of radius 1.5, here a square of 3 x 3; its anti-aliasing by 0.1 pixels changes nothing."""
    return uniform_filter(x, size=(1, 3, 3, 1), mode="mirror")


def glass_blur(x: Pixels, rng: np.random.Generator) -> Pixels:
    """Pixels take the places of neighbours, twice, between two slight blurs."""
    x = np.floor(255 * _smooth(x, 0.4)) / 255
    images = np.arange(len(x))
    for _ in range(2):
        for row in range(SIZE - 1, 1, -1):
            for column in range(SIZE - 1, 1, -1):
                across, down = rng.integers(-1, 1, (2, len(x)))
                # The published program means to swap the two, but swaps views: the neighbour keeps its value.
                x[:, row, column] = x[images, row + down, column + across]
    return _smooth(x, 0.4)


def motion_blur(x: Pixels, rng: np.random.Generator) -> Pixels:
    """Along a line at up to 45 degrees to either side."""
    return _in_bytes(np.stack([_moved(one, 9, 2.5, rng.uniform(-45, 45)) for one in x]))


def zoom_blur(x: Pixels, rng: np.random.Generator) -> Pixels:
    """The mean of the image and of 26 zooms up to a quarter."""
    zooms = np.arange(1, 1.26, 0.01)
    return (x + sum(_zoomed(x, zoom) for zoom in zooms)) / (len(zooms) + 1)


# --- weather ---------------------------------------------------------------------------------
def snow(x: Pixels, rng: np.random.Generator) -> Pixels:
    """Whitened, with flakes blurred along their fall, and once more turned by half a circle."""
    flakes = _zoomed(rng.normal(0.3, 0.3, (*x.shape[:3], 1)), 1.25)
    flakes = _in_bytes(np.where(flakes < 0.65, 0.0, flakes))
    flakes = _in_bytes(np.stack([_moved(one, 14, 12, rng.uniform(-135, -45)) for one in flakes]))
    grey = x @ np.array([0.299, 0.587, 0.114])
    white = 0.8 * x + 0.2 * np.maximum(x, 1.5 * grey[..., None] + 0.5)
    return white + flakes + flakes[:, ::-1, ::-1]


def fog(x: Pixels, rng: np.random.Generator) -> Pixels:
    """Fractal clouds on top, the range pressed together again."""
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    return (x + 1.5 * _clouds(len(x), 1.75, rng)[..., None]) * brightest / (brightest + 1.5)


def brightness(x: Pixels, rng: np.random.Generator) -> Pixels:
    """0.3 is added to the value of each pixel's hue, saturation and value."""
    hsv = rgb_to_hsv(x)
    hsv[..., 2] = np.clip(hsv[..., 2] + 0.3, 0, 1)
    return hsv_to_rgb(hsv)


# --- digital ---------------------------------------------------------------------------------
def contrast(x: Pixels, rng: np.random.Generator) -> Pixels:
    """0.15 of each channel's distance from its mean."""
    means = x.mean(axis=(1, 2), keepdims=True)
    return means + 0.15 * (x - means)


def elastic_transform(x: Pixels, rng: np.random.Generator) -> Pixels:
    """A slight random affine map, then every pixel from a place close by."""
    return np.stack([_bent(one, rng) for one in x])


def pixelate(x: Pixels, rng: np.random.Generator) -> Pixels:
    """20 x 20 pixels."""
    boxes = (_picture(one).resize((20, 20), Image.Resampling.BOX) for one in x)
    return np.stack([np.asarray(box.resize((SIZE, SIZE), Image.Resampling.BOX)) for box in boxes]) / 255


def jpeg_compression(x: Pixels, rng: np.random.Generator) -> Pixels:
    """Quality 40."""
    return np.stack([_through_jpeg(one) for one in x]) / 255


FAMILIES: dict[str, tuple[Callable[[Pixels, np.random.Generator], Pixels], ...]] = {
    "noise": (gaussian_noise, shot_noise, impulse_noise),
    "blur": (defocus_blur, glass_blur, motion_blur, zoom_blur),
    "weather": (snow, fog, brightness),
    "digital": (contrast, elastic_transform, pixelate, jpeg_compression),
}
CORRUPTIONS = {function.__name__: function for functions in FAMILIES.values() for function in functions}


def corrupt(name: str, images: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    """
    Corrupt images.

    Args:
        name (`str`): Among `CORRUPTIONS`.
        images (`numpy.ndarray` of shape `(images, 32, 32, 3)`): Left as they are.
        seed (`int`, *optional*): Of all chance, together with the name.

    Returns: `numpy.ndarray` of the same shape and type; values are cut off, not rounded, as in the published images.
    """
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    found = CORRUPTIONS[name](images / 255.0, rng)
    # A value that went to and fro between 0..255 and 0..1 must not fall below its whole number.
    return np.floor(255 * np.clip(found, 0, 1) + 1e-6).astype(np.uint8)


# --- parts -----------------------------------------------------------------------------------
def _smooth(x: Pixels, sigma: float) -> Pixels:
    return gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest", truncate=4.0)


def _in_bytes(x: Pixels) -> Pixels:
    """What is left of values that pass through whole numbers from 0 to 255."""
    return np.floor(255 * np.clip(x, 0, 1) + 1e-6) / 255


def _picture(x: Pixels) -> Image.Image:
    return Image.fromarray(np.round(255 * x).astype(np.uint8))


def _through_jpeg(x: Pixels) -> NDArray[np.uint8]:
    file = io.BytesIO()
    _picture(x).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file))


def _moved(x: Pixels, radius: int, sigma: float, degrees: float) -> Pixels:
    """ImageMagick's motion blur: half a bell curve along a ray, at whole pixels, edges carried on."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    angle = np.deg2rad(degrees)
    across = np.ceil(steps * np.cos(angle) - 0.5).astype(int)
    down = np.ceil(steps * np.sin(angle) - 0.5).astype(int)
    places = np.arange(SIZE)
    rows = np.clip(places + down[:, None], 0, SIZE - 1)  # (steps, 32)
    columns = np.clip(places + across[:, None], 0, SIZE - 1)
    return np.tensordot(weights / weights.sum(), x[rows[:, :, None], columns[:, None, :]], axes=1)


def _zoomed(x: Pixels, zoom: float) -> Pixels:
    """The middle of images, enlarged bilinearly, corner on corner, to at least their size, and cut to it."""
    side = int(np.ceil(SIZE / zoom))
    top = (SIZE - side) // 2
    out = round(side * zoom)
    places = np.linspace(0, side - 1, out)
    weights = np.stack([np.interp(places, np.arange(side), row) for row in np.eye(side)], axis=1)  # (out, side)
    cut = (out - SIZE) // 2
    weights = weights[cut : cut + SIZE]
    inner = x[:, top : top + side, top : top + side]
    return np.einsum("ir,nrcd,jc->nijd", weights, inner, weights, optimize=True)


def _clouds(count: int, decay: float, rng: np.random.Generator) -> Pixels:
    """Fields of shape `(count, 32, 32)` from 0 to 1 by midpoint displacement (diamond-square) on a torus."""
    field = np.zeros((count, SIZE, SIZE))
    step, wibble = SIZE, 100.0
    while step >= 2:
        half, noise = step // 2, wibble**2

        def drawn(mean: Pixels, noise: float = noise) -> Pixels:
            return mean + rng.uniform(-noise, noise, mean.shape)

        corners = field[:, ::step, ::step]
        below = corners + np.roll(corners, -1, 1)
        beside = corners + np.roll(corners, -1, 2)
        middles = drawn((below + np.roll(below, -1, 2)) / 4)
        field[:, half::step, half::step] = middles
        field[:, ::step, half::step] = drawn((beside + middles + np.roll(middles, 1, 1)) / 4)
        field[:, half::step, ::step] = drawn((below + middles + np.roll(middles, 1, 2)) / 4)
        step, wibble = half, wibble / decay
    field -= field.min(axis=(1, 2), keepdims=True)
    return field / field.max(axis=(1, 2), keepdims=True)


def _bent(x: Pixels, rng: np.random.Generator) -> Pixels:
    reach = 0.03 * SIZE
    places = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")).astype(float)  # (2, 32, 32)
    # Three points move; the map that takes them back says where each pixel comes from.
    before = np.array([[26.0, 26.0], [26.0, 6.0], [6.0, 6.0]])
    after = before + rng.uniform(-reach, reach, before.shape)
    back = np.linalg.solve(np.c_[after, np.ones(3)], before)  # (3, 2)
    sources = np.tensordot(back[:2].T, places, axes=1) + back[2][:, None, None]
    x = np.stack([map_coordinates(x[..., d], sources, order=1, mode="mirror") for d in range(3)], axis=-1)
    drift = gaussian_filter(rng.uniform(-1, 1, places.shape), (0, reach, reach), mode="reflect", truncate=3.0)
    moved = places + 0.1 * SIZE * drift
    return np.stack([map_coordinates(x[..., d], moved, order=1, mode="reflect") for d in range(3)], axis=-1)
