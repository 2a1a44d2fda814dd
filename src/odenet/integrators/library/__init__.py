"""The integrators that come with odenet, as data; one file per family."""

from __future__ import annotations

from typing import Any

from ..registration import INTEGRATORS
from . import additive, explicit, exponential, implicit, multistep, reversible, rosenbrock, stochastic, symplectic

LIBRARY: dict[str, Any] = {
    name: data
    for family in (
        explicit, multistep, symplectic, reversible, implicit, rosenbrock, exponential, additive, stochastic,
    )
    for name, data in family.LIBRARY.items()
}  # fmt: skip

INTEGRATORS.shelve(LIBRARY)
