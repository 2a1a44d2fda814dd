"""Classes in the plane: enough to see what a network does to space.

Every generator takes `seed`, `n` (samples in all three parts together) and `noise` (standard deviation of the
normal noise added to both coordinates) and returns a Dataset of points (n, 2) in float32.
"""

from __future__ import annotations

import numpy as np

from ..errors import BadInput
from .dataset import DATA, Dataset, split

PEAKS_RANGE = (-6.551133332835837, 8.106213589442337)  # height of the lowest and highest point of `peaks`


def _finish(
    name: str, x: np.ndarray, y: np.ndarray, classes: int, rng: np.random.Generator, noise: float, seed: int
) -> Dataset:
    if noise < 0:
        raise BadInput(f"noise={noise:g} is a standard deviation, so it cannot be negative.")
    return split(name, x + noise * rng.normal(size=x.shape), y, classes=classes, seed=seed)


def _labels(n: int, classes: int) -> np.ndarray:
    """(n,) class numbers, equally many of each up to one."""
    return np.arange(n) % classes


def _polar(r: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)


def moons(seed: int = 0, n: int = 1000, noise: float = 0.1) -> Dataset:
    """Two interleaved half circles: (cos a, sin a) and (1 - cos a, 1/2 - sin a) with a in [0, pi].

    The smallest problem that no linear classifier solves. Formula of scikit-learn's `make_moons`.
    """
    rng = np.random.default_rng(seed)
    y, a = _labels(n, 2), rng.uniform(0.0, np.pi, n)
    upper, lower = _polar(np.ones(n), a), np.stack([1.0 - np.cos(a), 0.5 - np.sin(a)], axis=1)
    return _finish("moons", np.where(y[:, None] == 0, upper, lower), y, 2, rng, noise, seed)


def circles(seed: int = 0, n: int = 1000, noise: float = 0.05, factor: float = 0.5) -> Dataset:
    """Two concentric circles, of radius 1 (class 0) and `factor` (class 1).

    No flow of the plane itself separates them: the inner circle cannot get out (Dupont, Doucet & Teh 2019,
    arXiv 1904.01681); use it to see what augmentation buys. Formula of scikit-learn's `make_circles`.
    """
    rng = np.random.default_rng(seed)
    y = _labels(n, 2)
    x = _polar(np.where(y == 0, 1.0, factor), rng.uniform(0.0, 2 * np.pi, n))
    return _finish("circles", x, y, 2, rng, noise, seed)


def swiss_roll(seed: int = 0, n: int = 513, noise: float = 0.0) -> Dataset:
    """Two interleaved spirals r (cos a, sin a), a in [0, 4 pi]: r = a / 4 pi and r = a / 4 pi + 1/5.

    Two full turns need a deep net: for comparing depths. E. Haber & L. Ruthotto, Stable architectures for
    deep neural networks, Inverse Problems 34 (2018) 014004; their example has 513 points in each class, every
    second one held out, where this one is split by the seed.
    """
    rng = np.random.default_rng(seed)
    y = _labels(n, 2)
    s = np.linspace(0.0, 1.0, (n + 1) // 2)[np.arange(n) // 2]
    return _finish("swiss_roll", _polar(s + 0.2 * y, 4 * np.pi * s), y, 2, rng, noise, seed)


def ellipses(seed: int = 0, n: int = 1000, noise: float = 0.0) -> Dataset:
    """(r cos a, 2/5 r sin a), uniform in a and r: r in [0, 1] inside (class 0), in [1, 2] outside (1).

    A class surrounded by another, touching it: for the effect of width. Haber & Ruthotto 2018, whose example has
    1000 points in each class for training and 200 for tests.
    """
    rng = np.random.default_rng(seed)
    y = _labels(n, 2)
    x = _polar(rng.uniform(0.0, 1.0, n) + y, rng.uniform(0.0, 2 * np.pi, n)) * np.array([1.0, 0.4])
    return _finish("ellipses", x, y, 2, rng, noise, seed)


def peaks_height(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """MATLAB's 3 (1-x)^2 e^(-x^2-(y+1)^2) - 10 (x/5 - x^3 - y^5) e^(-x^2-y^2) - e^(-(x+1)^2-y^2) / 3."""
    return (
        3 * (1 - x) ** 2 * np.exp(-(x**2) - (y + 1) ** 2)
        - 10 * (x / 5 - x**3 - y**5) * np.exp(-(x**2) - y**2)
        - np.exp(-((x + 1) ** 2) - y**2) / 3
    )


def peaks(seed: int = 0, n: int = 5000, noise: float = 0.0) -> Dataset:
    """Points of [-3, 3]^2 by height of MATLAB's `peaks`: 5 classes, bands of equal height from bottom to top.

    As many points of each class, uniform in its region (in the paper, points of a grid). Curved and disconnected
    regions: for comparing architectures at equal width. Haber & Ruthotto 2018.
    """
    rng = np.random.default_rng(seed)
    want = np.bincount(_labels(n, 5), minlength=5)
    found: list[np.ndarray] = [np.empty((0, 2))] * 5
    while any(len(f) < w for f, w in zip(found, want)):
        points = rng.uniform(-3.0, 3.0, (8 * n + 100, 2))
        band = _band(peaks_height(points[:, 0], points[:, 1]))
        found = [np.concatenate([f, points[band == k]])[: want[k]] for k, f in enumerate(found)]
    return _finish("peaks", np.concatenate(found), np.repeat(np.arange(5), want), 5, rng, noise, seed)


def _band(height: np.ndarray) -> np.ndarray:
    low, high = PEAKS_RANGE
    return np.clip(np.floor(5 * (height - low) / (high - low)), 0, 4).astype(int)


def donut(seed: int = 0, n: int = 1000, noise: float = 0.0, dim: int = 2) -> Dataset:
    """A disc r < 1/2 (class 0) in a ring 0.7 < r < 1 (class 1), uniform in area; dim=1: the same on the line.

    A class surrounded by another, with a gap. After the set of this name in M. Benning, E. Celledoni, M. J.
    Ehrhardt, B. Owren & C.-B. Schönlieb, Deep learning as optimal control problems, J. Comput. Dyn. 6 (2019).
    """
    if dim not in (1, 2):
        raise BadInput(f"donut has dim=1 or dim=2, not {dim!r}.")
    rng = np.random.default_rng(seed)
    y = _labels(n, 2)
    inner, outer = np.where(y == 0, 0.0, 0.7), np.where(y == 0, 0.5, 1.0)
    r = (inner**dim + rng.uniform(0.0, 1.0, n) * (outer**dim - inner**dim)) ** (1.0 / dim)
    x = _polar(r, rng.uniform(0.0, 2 * np.pi, n)) if dim == 2 else (r * rng.choice([-1.0, 1.0], n))[:, None]
    return _finish("donut", x, y, 2, rng, noise, seed)


def squares(seed: int = 0, n: int = 1000, noise: float = 0.0) -> Dataset:
    """Four squares, 0.1 < |x|, |y| < 1; class 0 where x and y have one sign, class 1 on the other diagonal.

    Exclusive or, with a gap. After the set of this name in Benning et al. 2019.
    """
    rng = np.random.default_rng(seed)
    y = _labels(n, 2)
    side = rng.choice([-1.0, 1.0], n)
    signs = np.stack([side, np.where(y == 0, side, -side)], axis=1)
    return _finish("squares", signs * rng.uniform(0.1, 1.0, (n, 2)), y, 2, rng, noise, seed)


def spirals(seed: int = 0, n: int = 1000, noise: float = 0.02, arms: int = 2, turns: float = 1.0) -> Dataset:
    """`arms` spirals r (cos a, sin a), a = 2 pi (turns r + k / arms), r uniform in [0.1, 1], of class k.

    Harder with more turns. After the set of this name in Benning et al. 2019.
    """
    if arms < 2:
        raise BadInput(f"spirals needs arms >= 2 to have classes to tell apart, not {arms!r}.")
    rng = np.random.default_rng(seed)
    y, r = _labels(n, arms), rng.uniform(0.1, 1.0, n)
    return _finish("spirals", _polar(r, 2 * np.pi * (turns * r + y / arms)), y, arms, rng, noise, seed)


for _make in (moons, circles, swiss_roll, ellipses, peaks, donut, squares, spirals):
    DATA.register(_make.__name__, _make)
