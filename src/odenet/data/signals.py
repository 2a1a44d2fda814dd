"""Signals and images made by a recipe: MNIST-1D, and Q-tips to be segmented."""

from __future__ import annotations

import numpy as np

from ..errors import BadInput
from .dataset import DATA, Dataset, split

# heights of the ten digits drawn as a line of twelve points (Greydanus & Kobak 2024, arXiv 2011.14439)
TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
_LONG, _PADDING, _SHIFTS, _LENGTH = 72, (36, 60), 48, 40
_RAMP = np.linspace(-0.5, 0.5, _LONG)


def mnist1d(
    seed: int = 0,
    n: int = 5000,
    scale: float = 0.4,
    correlated: float = 0.25,
    iid: float = 0.02,
    shear: float = 0.75,
    sequence: bool = False,
) -> Dataset:
    """Ten digits as noisy lines of 40 points, shifted and sheared: x (n, 40), or (n, 40, 1) with sequence=True.

    By the published recipe: a template of 12 points, 36 to 60 zeros after it, stretched to 72 points, times 1 +
    scale (u - 1/2), rolled by 0 to 47 points, where it is zero normal noise smoothed over 2 points, normal noise
    everywhere, minus shear (u - 1/2) times a line from -1/2 to 1/2, sampled at 40 points; the whole set has mean 0 and
    variance 1. S. Greydanus & D. Kobak, Scaling down deep learning with MNIST-1D, arXiv 2011.14439; there 4000
    training and 1000 test signals of another random stream. Choose it for a test between toy and image that tells
    linear models, dense, convolutional and recurrent nets apart in seconds.
    """
    if min(scale, correlated, iid, shear) < 0:
        raise BadInput("mnist1d takes amounts of change: scale, correlated, iid and shear cannot be negative.")
    rng = np.random.default_rng(seed)
    templates = np.array(TEMPLATES)
    templates = (templates - templates.mean(1, keepdims=True)) / templates.std(1, keepdims=True)
    templates = (templates - templates[:, :1]) / 6.0
    y = np.arange(n) % 10
    x = np.stack([_signal(templates[k], rng, scale, correlated, iid, shear) for k in y])
    x = (x - x.mean()) / x.std()
    return split("mnist1d", x[..., None] if sequence else x, y, classes=10, seed=seed)


def _signal(
    template: np.ndarray, rng: np.random.Generator, scale: float, correlated: float, iid: float, shear: float
) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    padded = np.concatenate([template, np.zeros(rng.integers(_PADDING[0], _PADDING[1] + 1))])
    line = _resampled(padded, _LONG) * (1 + scale * (rng.uniform() - 0.5))
    shift = rng.integers(_SHIFTS)
    drawn = np.arange(_LONG) * (len(padded) - 1) < len(template) * (_LONG - 1)
    line, inside = np.roll(line, shift), np.roll(drawn, shift)
    line = np.where(inside, line, gaussian_filter1d(correlated * rng.normal(size=_LONG), 2.0))
    line = line + iid * rng.normal(size=_LONG)
    return _resampled(line - shear * (rng.uniform() - 0.5) * _RAMP, _LENGTH)


def _resampled(line: np.ndarray, points: int) -> np.ndarray:
    return np.interp(np.arange(points) * ((len(line) - 1) / (points - 1)), np.arange(len(line)), line)


_GREY, _STICK, _WHITE, _BLACK = 112 / 255, 128 / 255, 1.0, 1 / 255


def qtips(seed: int = 0, n: int = 500, size: int = 64) -> Dataset:
    """A thin grey stick with a marker at each end, to be segmented: white-white (1), white-black (2), black-black (3).

    x (n, size^2) images of one channel, y (n, size, size) the class of every pixel, 0 off the stick. A pixel in the
    middle is known only from the far ends, so a net needs a field of view as long as the stick. Stick 2 pixels wide,
    32 to 59 long on the published 64 pixels (in proportion on other sizes), centred, turned by any angle, grey
    128 on 112. After the generator of E. Haber, K. Lensink, E. Treister & L. Ruthotto, IMEXnet: a forward stable deep
    neural network, ICML 2019, arXiv 1903.02639. A net for it gives scores (B, size, size, 4). Choose it to compare
    explicit with implicit layers. Raises BadInput for images below 16 pixels.
    """
    if size < 16:
        raise BadInput(f"qtips needs size >= 16 pixels to draw a stick with two ends, not {size!r}.")
    rng = np.random.default_rng(seed)
    grid = np.arange(size) - (size - 1) / 2
    down, right = np.meshgrid(grid, grid, indexing="ij")
    images, labels = np.empty((n, size, size)), np.zeros((n, size, size), dtype=np.int64)
    known: set[bytes] = set()
    while len(known) < n:
        kind, angle = len(known) % 3 + 1, rng.uniform(-np.pi, np.pi)
        half = rng.integers(size // 2, size - size // 16) / 2
        along = right * np.cos(angle) + down * np.sin(angle)
        across = down * np.cos(angle) - right * np.sin(angle)
        stick = (np.abs(across) < 1.0) & (np.abs(along) < half)
        ends = _WHITE if kind < 3 else _BLACK, _WHITE if kind == 1 else _BLACK
        image = np.where(stick, _STICK, _GREY)
        for end, side in zip(ends, (-1, 1)):
            image[stick & (side * along > half - 2.0)] = end
        if image.tobytes() not in known:  # parts of a data set share no sample
            images[len(known)], labels[len(known)][stick] = image, kind
            known.add(image.tobytes())
    return split("qtips", images.reshape(n, -1), labels, classes=4, seed=seed, image=(1, size, size), stratify=False)


for _make in (mnist1d, qtips):
    DATA.register(_make.__name__, _make)
