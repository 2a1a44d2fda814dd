"""Experiments: a typed spec, runs that resume, tables with intervals, a report, and a task where theory predicts.

    odenet.compare(data="digits", nets=["resnet", "antisymmetric"], integrators=["euler", "rk4"], seeds=3)
    odenet.experiment.stability(data="digits", nets=["resnet", "hamiltonian"], seeds=5).save("runs/looked")
    Experiment.read("mine.toml")

Names are loaded on first use: a spec can be read and checked without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_NAMES = {
    "AdaptStep": "solver_swap",
    "Experiment": "spec",
    "Results": "compare",
    "StabilityResults": "suite.results",
    "Suite": "suite.spec",
    "divergence": "learning",
    "label_noise": "learning",
    "stability": "suite.results",
    "train_and_swap": "solver_swap",
}

__all__ = [
    "AdaptStep",
    "Experiment",
    "Results",
    "StabilityResults",
    "Suite",
    "divergence",
    "label_noise",
    "stability",
    "train_and_swap",
]

if TYPE_CHECKING:
    from .compare import Results
    from .learning import divergence, label_noise
    from .solver_swap import AdaptStep, train_and_swap
    from .spec import Experiment
    from .suite.results import StabilityResults, stability
    from .suite.spec import Suite


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module 'odenet.experiment' has no attribute {name!r}")
