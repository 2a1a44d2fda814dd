"""Handwritten digits that come with scikit-learn: real images without a download."""

from __future__ import annotations

import numpy as np

from .dataset import DATA, Dataset, split


def digits(seed: int = 0) -> Dataset:
    """1797 grey images of 8 x 8 pixels in [0, 1], ten classes; inputs (n, 64), image (1, 8, 8).

    The test part of the UCI set: E. Alpaydin & C. Kaynak, Optical Recognition of Handwritten Digits (1998),
    doi 10.24432/C50P49. Pixels are counts 0..16, divided by 16. The first real data to try; seconds on a CPU.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return split("digits", np.asarray(x) / 16.0, y, classes=10, seed=seed, image=(1, 8, 8))


DATA.register("digits", digits)
