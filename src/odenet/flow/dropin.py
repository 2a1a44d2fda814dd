"""torchdiffeq's entry points under its names and arguments."""

from __future__ import annotations

from typing import Any

from ..errors import NotBuiltYet


def _absent(name: str) -> NotBuiltYet:
    return NotBuiltYet(
        f"odenet.{name} is not built in this version; use odenet.solve(f, y0, t, integrator='dopri5').y, or "
        f"torchdiffeq's own {name}."
    )


def odeint(func: Any, y0: Any, t: Any, **options: Any) -> Any:
    """torchdiffeq's `odeint`. Raises NotBuiltYet."""
    raise _absent("odeint")


def odeint_adjoint(func: Any, y0: Any, t: Any, **options: Any) -> Any:
    """torchdiffeq's `odeint_adjoint`. Raises NotBuiltYet."""
    raise _absent("odeint_adjoint")


def odeint_event(func: Any, y0: Any, t0: Any, **options: Any) -> Any:
    """torchdiffeq's `odeint_event`. Raises NotBuiltYet."""
    raise _absent("odeint_event")


def odeint_dense(func: Any, y0: Any, t0: Any, t1: Any, **options: Any) -> Any:
    """torchdiffeq's `odeint_dense`. Raises NotBuiltYet."""
    raise _absent("odeint_dense")
