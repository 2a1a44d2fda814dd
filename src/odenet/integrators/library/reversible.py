"""Reversible methods for fields without any structure."""

from __future__ import annotations

from typing import Any

from ..reversible import AsynchronousLeapfrog, ReversibleWrapper

LIBRARY: dict[str, Any] = {
    "alf": AsynchronousLeapfrog(),
    "reversible_rk4": ReversibleWrapper(
        base="rk4",
        cite="McCallum & Foster 2024, on Kutta 1901",
        when="Reversible training of any field at fixed steps: fourth order, oscillations stable to h omega = 2.8.",
    ),
    "reversible_dopri5": ReversibleWrapper(
        base="dopri5",
        cite="McCallum & Foster 2024, on Dormand & Prince 1980",
        when="Reversible training of any field at fixed steps: fifth order, oscillations stable to h omega = 0.99.",
    ),
}
