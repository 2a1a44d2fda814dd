"""Files that are on disk already: the IDX format of MNIST, the binary version of CIFAR; never a download."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from .dataset import Dataset, cut

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PIXELS = 3 * 32 * 32


def _bytes(path: str | Path) -> bytes:
    """The content of a file, unpacked if it is gzip (told by its first two bytes, not by its name)."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"there is no file {str(path)!r}; nothing is downloaded, so put it there first.")
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as problem:
        raise BadInput(f"{str(path)!r} is a damaged or truncated gzip file: {problem}.") from problem


def read_idx(path: str | Path) -> Tensor:
    """The tensor in an IDX file (`*-ubyte`, also `.gz`), with the element type and shape of its header.

    Header: two zero bytes, type code, number of dimensions, each size as a big-endian 32-bit integer; then
    the elements, big-endian, last index fastest. Y. LeCun, C. Cortes & C. Burges, The MNIST database. Raises
    BadInput for a missing, foreign, truncated or overlong file.
    """
    content = _bytes(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise BadInput(f"{str(path)!r} is not an IDX file: it starts with {content[:4].hex(' ') or 'nothing'}.")
    dtype, ndim = np.dtype(_IDX_TYPES[content[2]]), content[3]
    start = 4 + 4 * ndim
    if len(content) < start:
        raise BadInput(f"{str(path)!r} is truncated: its header has {len(content)} of {start} bytes.")
    shape = tuple(int(s) for s in np.frombuffer(content, ">u4", ndim, 4))
    need = start + math.prod(shape) * dtype.itemsize
    if len(content) != need:
        raise BadInput(f"{str(path)!r} has {len(content)} bytes, but shape {shape} of {dtype.name} takes {need}.")
    values = np.frombuffer(content, dtype, math.prod(shape), start).reshape(shape)
    return torch.from_numpy(values.astype(dtype.newbyteorder("=")))


def idx_folder(folder: str | Path, seed: int = 0) -> Dataset:
    """MNIST or a set in its form: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...` (`.gz`).

    Pixels divided by 255; validation is one sixth of the training files, class by class, fixed by `seed`.
    Raises BadInput for a missing, damaged or mismatched file.
    """
    folder = folder_of(folder)
    train, test = (_idx_part(folder, part) for part in ("train", "t10k"))
    return assemble(folder.resolve().name, train, test, (1, *train[0].shape[1:]), 1 / 6, seed)


def _idx_part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (read_idx(_find(folder, part, kind)).numpy() for kind in ("images-idx3", "labels-idx1"))
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or labels.dtype != np.uint8:
        raise BadInput(
            f"the {part} files in {str(folder)!r} do not belong together: images have shape {images.shape}, "
            f"labels {labels.shape} ({labels.dtype}); expected (n, H, W) and (n,) bytes."
        )
    return images, labels.astype(np.int64)


def _find(folder: Path, part: str, kind: str) -> Path:
    stem = f"{part}-{kind}-ubyte"
    spellings = [s + end for s in (stem, stem.replace("-idx", ".idx")) for end in ("", ".gz")]
    for name in spellings:
        if (folder / name).is_file():
            return folder / name
    raise BadInput(
        f"{str(folder)!r} has none of {', '.join(spellings)}; nothing is downloaded, so put one there first."
    )


def cifar_folder(folder: str | Path, seed: int = 0, labels: str = "fine") -> Dataset:
    """CIFAR-10 or CIFAR-100, binary version: records of one label byte (two for CIFAR-100) and 3072 pixels.

    CIFAR-10: `data_batch_1.bin` .. `data_batch_5.bin`, `test_batch.bin`. CIFAR-100: `train.bin`, `test.bin`;
    labels="fine" (100 classes) or "coarse" (20). Pixels divided by 255, image (3, 32, 32); validation is one
    tenth of the training records, class by class, fixed by `seed`. A. Krizhevsky, Learning multiple layers of
    features from tiny images (2009). Raises BadInput for a missing or truncated file and for labels out of
    range.
    """
    if labels not in ("fine", "coarse"):
        raise BadInput(f'labels={labels!r} is not one of CIFAR-100\'s two: write "fine" or "coarse".')
    folder = folder_of(folder)
    hundred = (folder / "train.bin").is_file()
    files = ["train.bin"] if hundred else [f"data_batch_{k}.bin" for k in range(1, 6)]
    classes = 10 if not hundred else 100 if labels == "fine" else 20
    column = int(hundred and labels == "fine")
    parts = [_cifar_file(folder / name, 1 + hundred, column, classes) for name in files]
    train = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    test = _cifar_file(folder / ("test.bin" if hundred else "test_batch.bin"), 1 + hundred, column, classes)
    return assemble(f"cifar{100 if hundred else 10}", train, test, (3, 32, 32), 0.1, seed, classes)


def _cifar_file(path: Path, label_bytes: int, column: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    content, record = _bytes(path), label_bytes + _PIXELS
    if not content or len(content) % record:
        raise BadInput(f"{str(path)!r} has {len(content)} bytes, not a positive multiple of {record}: it is truncated.")
    table = np.frombuffer(content, np.uint8).reshape(-1, record)
    y = table[:, column].astype(np.int64)
    if y.max() >= classes:
        raise BadInput(f"{str(path)!r} has the label {y.max()}, above {classes - 1}: it is not this version of CIFAR.")
    return table[:, label_bytes:], y


def folder_of(folder: str | Path) -> Path:
    """A folder that exists; raises BadInput otherwise."""
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"there is no folder {str(folder)!r}; nothing is downloaded, so put the files there first.")
    return folder


def assemble(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    image: tuple[int, ...],
    fraction: float,
    seed: int,
    classes: int | None = None,
) -> Dataset:
    """Training and test images (n, ...) in bytes with labels as a Dataset, `fraction` of the training part held out.

    Pixels divided by 255, flattened in the order (C, H, W) that `image` names; the split is class by class.
    """
    (x, y), (x_test, y_test) = train, test
    classes = classes or int(max(y.max(), y_test.max())) + 1
    rows, val = cut(np.arange(len(y)), y, fraction, seed)
    return Dataset(
        name,
        _flat(x[rows]),
        torch.from_numpy(y[rows]),
        _flat(x[val]),
        torch.from_numpy(y[val]),
        _flat(x_test),
        torch.from_numpy(y_test),
        classes,
        image,
    )


def _flat(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / np.float32(255))
