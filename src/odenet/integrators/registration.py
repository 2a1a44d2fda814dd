"""The registry of integrators: names, checks at registration, and what counts as an integrator."""

from __future__ import annotations

import copy
from typing import Any

from ..errors import BadInput
from ..registry import Registry
from .base import NEEDS, Integrator, build, verify


def admit(name: str, obj: Any) -> Integrator:
    """The integrator `obj` under `name`, its claims checked. Raises ClaimRefused or BadInput."""
    if isinstance(obj, type) and issubclass(obj, Integrator):
        obj = obj()
    integrator = copy.copy(build(obj))  # one object may be registered under two names
    integrator.name = name
    if not isinstance(getattr(integrator, "order", None), int):
        raise BadInput(f"integrator {name!r} states no order; write the attribute order = 1, 2, ...")
    if not frozenset(integrator.needs) <= NEEDS:
        raise BadInput(f"integrator {name!r} needs {sorted(integrator.needs)}; known needs are {sorted(NEEDS)}.")
    if integrator.reversible and not callable(integrator.undo):
        raise BadInput(f"integrator {name!r} is marked reversible; add a method undo(f, t, y, h, carry, coef) -> Step.")
    verify(integrator)
    return integrator


INTEGRATORS: Registry[Integrator] = Registry(
    "integrator",
    "odenet.integrators",
    admit,
)


def names() -> list[str]:
    """All integrator names, sorted."""
    return INTEGRATORS.names()


def get(name: str) -> Integrator:
    """The integrator called `name`; raises UnknownName with the nearest names."""
    return INTEGRATORS.get(name)


def register(name: str, obj: Any) -> Integrator:
    """Make `obj` available under `name`.

    obj: a Tableau, Multistep, Partitioned or other data, or an Integrator (instance or class without arguments)
    Raises ClaimRefused when the stated order is not that of the coefficients, BadInput for a taken name.
    """
    return INTEGRATORS.register(name, obj)


def resolve(x: Any) -> Integrator:
    """A name, coefficients or an Integrator as an Integrator; coefficients are checked as at registration."""
    if isinstance(x, str):
        return get(x)
    return x if isinstance(x, Integrator) else admit("", x)
