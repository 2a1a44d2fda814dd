"""odenet: a network is a discretised differential equation.

Field x integrator x depth x gradient are chosen independently; `Flow` is their product. Names are loaded on first use,
so that `odenet --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PACKAGES = (
    "data", "depth", "errors", "experiment", "fields", "flow", "integrators", "nets", "pde", "stability", "testing",
    "train",
)  # fmt: skip
_NAMES = {
    "Chain": "flow",
    "Dataset": "data",
    "Field": "fields",
    "Flow": "flow",
    "Integrator": "integrators",
    "Multistep": "integrators",
    "Partitioned": "integrators",
    "Problem": "problem",
    "Tableau": "integrators",
    "TwoStep": "integrators",
    "calibrate": "flow",
    "compare": "experiment.compare",
    "fit": "train",
    "load": "nets",
    "odeint": "flow.dropin",
    "odeint_adjoint": "flow.dropin",
    "odeint_dense": "flow.dropin",
    "odeint_event": "flow.dropin",
    "save": "nets",
    "solve": "flow",
    "sweep": "flow",
    "wrap": "fields",
}

__all__ = sorted((*_PACKAGES, *_NAMES), key=str.lower)

if TYPE_CHECKING:
    from . import data, depth, errors, experiment, fields, flow, integrators, nets, pde, stability, testing, train
    from .data import Dataset
    from .experiment.compare import compare
    from .fields import Field, wrap
    from .flow import Chain, Flow, calibrate
    from .flow.dropin import odeint, odeint_adjoint, odeint_dense, odeint_event
    from .flow.solve import solve
    from .flow.sweep import sweep
    from .integrators import Integrator, Multistep, Partitioned, Tableau, TwoStep
    from .nets import load, save
    from .problem import Problem
    from .train.fit import fit


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f".{name}", __name__)
    if name in _NAMES:
        value = getattr(import_module(f".{_NAMES[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'odenet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
