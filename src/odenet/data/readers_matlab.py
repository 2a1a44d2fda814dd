"""Files that are on disk already, in Matlab's order of pixels: STL-10 (binary version) and SVHN (cropped digits)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import BadInput
from .dataset import Dataset
from .readers import assemble, folder_of

_SIDE = 96


def stl10_folder(folder: str | Path, seed: int = 0) -> Dataset:
    """STL-10, binary version: `train_X.bin`, `train_y.bin`, `test_X.bin`, `test_y.bin`, image (3, 96, 96), 10 classes.

    A file X holds bytes, one image after the other, in each three channels of 96 columns from top to bottom; y the
    labels 1 to 10, which become 0 to 9. Pixels divided by 255; validation is one fifth of the training images, class
    by class, fixed by `seed`; unlabelled images are not read. A. Coates, H. Lee & A. Ng, An analysis of single-layer
    networks in unsupervised feature learning, AISTATS 2011. Raises BadInput for missing, truncated or foreign files.
    """
    folder = folder_of(folder)
    train, test = (_stl10_part(folder, part) for part in ("train", "test"))
    return assemble("stl10", train, test, (3, _SIDE, _SIDE), 0.2, seed, 10)


def _stl10_part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = (_present(folder / f"{part}_{kind}.bin").read_bytes() for kind in ("X", "y"))
    each = 3 * _SIDE * _SIDE
    if not labels or len(pixels) != each * len(labels):
        raise BadInput(
            f"{part}_X.bin in {str(folder)!r} has {len(pixels)} bytes, but the {len(labels)} labels beside it "
            f"belong to {each * len(labels)}: one of the files is truncated or not of STL-10."
        )
    y = np.frombuffer(labels, np.uint8).astype(np.int64) - 1
    if y.min() < 0 or y.max() > 9:
        raise BadInput(f"{part}_y.bin in {str(folder)!r} has labels from {y.min() + 1} to {y.max() + 1}, not 1 to 10.")
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 3, _SIDE, _SIDE)
    return images.transpose(0, 1, 3, 2), y


def _present(path: Path) -> Path:
    if not path.is_file():
        raise BadInput(f"there is no file {str(path)!r}; nothing is downloaded, so put it there first.")
    return path


def svhn_folder(folder: str | Path, seed: int = 0) -> Dataset:
    """Street view house numbers, cropped: `train_32x32.mat` and `test_32x32.mat`, image (3, 32, 32), 10 classes.

    A file holds X (32, 32, 3, n) in bytes and y (n, 1) with labels 1 to 10, where 10 is the digit 0 and becomes label
    0. Pixels divided by 255; validation is one tenth of the training images, class by class, fixed by `seed`.
    Y. Netzer et al., Reading digits in natural images, NIPS workshop 2011. Raises BadInput for files that are missing,
    damaged or of another form.
    """
    folder = folder_of(folder)
    train, test = (_svhn_file(folder / f"{part}_32x32.mat") for part in ("train", "test"))
    return assemble("svhn", train, test, (3, 32, 32), 0.1, seed, 10)


def _svhn_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from scipy.io import loadmat

    try:
        found = loadmat(_present(path), variable_names=("X", "y"))
    except Exception as problem:  # what a damaged file makes the reader raise is not documented
        raise BadInput(f"{str(path)!r} is not a readable .mat file: {problem}.") from None
    x, y = np.asarray(found.get("X")), np.asarray(found.get("y")).reshape(-1)
    if x.dtype != np.uint8 or x.shape[:3] != (32, 32, 3) or x.ndim != 4 or x.shape[3:] != y.shape or not len(y):
        raise BadInput(
            f"{str(path)!r} holds X of shape {x.shape} ({x.dtype}) and y of shape {y.shape}; cropped SVHN digits are "
            "bytes (32, 32, 3, n) with as many labels."
        )
    y = y.astype(np.int64)
    if y.min() < 1 or y.max() > 10:
        raise BadInput(f"{str(path)!r} has labels from {y.min()} to {y.max()}; those of SVHN go from 1 to 10.")
    return x.transpose(3, 2, 0, 1), y % 10
