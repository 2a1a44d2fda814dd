"""Data sets: made from formulas, shipped with scikit-learn, or read from files that are there already.

load("digits")                         a Dataset: x, y, x_val, y_val, x_test, y_test, classes
load("spirals", seed=1, n=500, turns=2.0)
idx_folder("mnist/"), cifar_folder("cifar-10-batches-bin/"), stl10_folder("stl10_binary/"), svhn_folder("svhn/")
register("mine", function)             function(seed=0, **options) -> Dataset
"""

from __future__ import annotations

import inspect
from typing import Any

from ..errors import BadInput
from . import digits, mechanics, radial, sequences, signals, toy
from .dataset import DATA, Dataset, split
from .readers import cifar_folder, idx_folder, read_idx
from .readers_matlab import stl10_folder, svhn_folder

names, get, register = DATA.names, DATA.get, DATA.register

__all__ = [
    "Dataset",
    "cifar_folder",
    "digits",
    "get",
    "idx_folder",
    "load",
    "mechanics",
    "names",
    "radial",
    "read_idx",
    "register",
    "sequences",
    "signals",
    "split",
    "stl10_folder",
    "svhn_folder",
    "toy",
]


def load(name: str, seed: int = 0, **options: Any) -> Dataset:
    """The data set called `name`, made and split with `seed`; raises UnknownName, BadInput for an option."""
    make = get(name)
    known = inspect.signature(make).parameters
    for option in options:
        if option not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            listed = ", ".join(k for k in known if k != "seed") or "none"
            raise BadInput(f"data set {name!r} has no option {option!r}; it has: {listed}.")
    return make(seed=seed, **options)
