"""Classes told apart by the distance from the origin: what a flow of the plane itself cannot separate."""

from __future__ import annotations

import numpy as np

from ..errors import BadInput
from .dataset import DATA, Dataset, split


def spheres(seed: int = 0, n: int = 2000, dim: int = 2) -> Dataset:
    """A ball |x| <= 1/2 (class 0, a quarter of the points) in a shell 1 <= |x| <= 3/2 (class 1), in `dim` dimensions.

    r = u^(1/dim)/2 and 1 + u^(1/dim)/2 with u uniform in [0, 1]; dim=1: the interval between two others. No flow of
    this space takes the ball out of the shell, so a neural ODE without added dimensions struggles; 500 and 1500 points
    as in E. Dupont, A. Doucet & Y. W. Teh, Augmented neural ODEs, NeurIPS 2019, arXiv 1904.01681 (there with targets
    -1 and 1). Choose it to see what augmentation is worth. Raises BadInput for dim < 1.
    """
    if not isinstance(dim, int) or dim < 1:
        raise BadInput(f"spheres needs dim >= 1, the dimension of the space, not {dim!r}.")
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % 4 > 0).astype(int)
    r = 0.5 * rng.uniform(0.0, 1.0, n) ** (1.0 / dim) + y
    return split("spheres", r[:, None] * _directions(rng, n, dim), y, classes=2, seed=seed)


def nested_rings(seed: int = 0, n: int = 400, rings: int = 4) -> Dataset:
    """Rings 3 k/2 <= r <= 3 k/2 + 3/5, k = 1, 2, ..., of class 0 and 1 in turn; x (n, 2), as many points in each.

    A residual net with one and the same layer at every depth cannot separate them, a momentum net can: M. Sander, P.
    Ablin, M. Blondel & G. Peyré, Momentum residual neural networks, ICML 2021, arXiv 2102.07870 (fig. 5).
    Choose it to compare first-order with second-order dynamics.
    """
    if rings < 2:
        raise BadInput(f"nested_rings needs rings >= 2 to have two classes, not {rings!r}.")
    rng = np.random.default_rng(seed)
    ring = np.arange(n) % rings
    r = 1.5 * (ring + 1) + 0.6 * rng.uniform(0.0, 1.0, n)
    return split("nested_rings", r[:, None] * _directions(rng, n, 2), ring % 2, classes=2, seed=seed)


def sphere2(seed: int = 0, n: int = 1000) -> Dataset:
    """0.1 <= r <= 0.15 or 0.4 <= r <= 0.45 (class 0), 0.25 <= r <= 0.3 between them (class 1); x (n, 2).

    After the set of this name in K. Ott, P. Katiyar, P. Hennig & M. Tiemann, ResNet after all: neural ODEs and their
    numerical solution, ICLR 2021, arXiv 2007.15386. Choose it to see whether a trained net is still an ODE: train
    under one integrator, test under another.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    start = np.where(y == 1, 0.25, rng.choice([0.1, 0.4], n))
    r = start + 0.05 * rng.uniform(0.0, 1.0, n)
    return split("sphere2", r[:, None] * _directions(rng, n, 2), y, classes=2, seed=seed)


def _directions(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """(n, dim) uniform on the unit sphere."""
    v = rng.normal(size=(n, dim))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


for _make in (spheres, nested_rings, sphere2):
    DATA.register(_make.__name__, _make)
