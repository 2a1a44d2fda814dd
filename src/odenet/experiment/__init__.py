"""Experiments: a typed spec, runs that resume, tables with intervals, a report, and a task where theory predicts.

    odenet.compare(data="digits", nets=["resnet", "antisymmetric"], integrators=["euler", "rk4"], seeds=3)
    Experiment.read("mine.toml")

Names are loaded on first use: a spec can be read and checked without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_NAMES = {"Experiment": "spec", "Results": "compare"}

__all__ = ["Experiment", "Results"]

if TYPE_CHECKING:
    from .compare import Results
    from .spec import Experiment


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module 'odenet.experiment' has no attribute {name!r}")
