"""A data set in three parts, and the seeded split that makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from ..registry import Registry

DATA: Registry[Callable[..., Dataset]] = Registry("data set", "odenet.data")


@dataclass(frozen=True, repr=False)
class Dataset:
    """Training, validation and test parts that share no sample.

    x, x_val, x_test:  inputs (n, D) in float32, images flattened; sequences (n, T, D)
    y, y_val, y_test:  labels in int64, (n,), (n, T) at every step or (n, H, W) of every pixel, or real targets (n, D')
    classes:           number of classes; None for regression
    image:             (C, H, W) where a row of x is a flattened image
    """

    name: str
    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int | None
    image: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for x, y in ((self.x, self.y), (self.x_val, self.y_val), (self.x_test, self.y_test)):
            if len(x) != len(y):
                raise BadInput(f"data set {self.name!r} has {len(x)} inputs but {len(y)} targets in one part.")
            if self.classes is not None and y.numel() and not 0 <= int(y.min()) <= int(y.max()) < self.classes:
                raise BadInput(f"data set {self.name!r} has labels outside 0..{self.classes - 1}.")

    @property
    def dim_in(self) -> int:
        """Width of one input vector (of one time point of a sequence)."""
        return self.x.shape[-1]

    @property
    def dim_out(self) -> int:
        """Width that a net's output needs: the number of classes, or of target components."""
        return self.y.shape[-1] if self.classes is None else self.classes

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Dataset:
        """A copy with inputs and real targets in `dtype`, everything on `device`; labels stay int64."""

        def move(a: Tensor) -> Tensor:
            return a.to(device=device, dtype=dtype if a.is_floating_point() else None)

        changed: dict[str, Any] = {k: move(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **changed)

    def __repr__(self) -> str:
        parts = f"{len(self.x)} training, {len(self.x_val)} validation, {len(self.x_test)} test samples"
        shape = f"image {self.image}" if self.image else f"input {tuple(self.x.shape[1:])}"
        target = f"{self.classes} classes" if self.classes else f"target {tuple(self.y.shape[1:])}"
        return f"Dataset({self.name!r}: {parts}; {shape} -> {target})"


def split(
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    classes: int | None,
    seed: int,
    image: tuple[int, ...] | None = None,
    stratify: bool = True,
) -> Dataset:
    """60 % training, 20 % validation, 20 % test: a shuffle fixed by `seed`, class by class for labels."""
    if len(x) < 5 * (classes or 1):
        raise BadInput(f"data set {name!r} needs n >= {5 * (classes or 1)} samples to be split in three, not {len(x)}.")
    labels = y if classes is not None and stratify else None
    first, test = cut(np.arange(len(x)), labels, 0.2, seed)
    train, val = cut(first, labels, 0.25, seed)
    parts = {}
    for suffix, rows in (("", train), ("_val", val), ("_test", test)):
        parts["x" + suffix] = torch.as_tensor(np.asarray(x[rows], dtype=np.float32))
        parts["y" + suffix] = torch.as_tensor(np.asarray(y[rows], dtype=np.float32 if classes is None else np.int64))
    return Dataset(name, **parts, classes=classes, image=image)


def cut(rows: np.ndarray, labels: np.ndarray | None, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint shuffled parts of `rows`, the second with `fraction` of them (given labels: of each)."""
    from sklearn.model_selection import train_test_split

    strata = None if labels is None else labels[rows]
    try:
        first, second = train_test_split(rows, test_size=fraction, random_state=seed, stratify=strata)
    except ValueError as problem:
        raise BadInput(f"{len(rows)} samples cannot be split class by class: {problem}") from problem
    return first, second
