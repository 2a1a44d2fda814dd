"""torchdiffeq's methods as integrators `torchdiffeq:<method>`, for comparison and as a back end.

Its fixed-step methods take one step of size h. Its adaptive ones cross [t, t + h] under their own error
control; their stated order is that of a single step, seen with the tolerances opened wide. Left out:
explicit_adams, implicit_adams and fixed_adams, whose history does not outlive one call (stepwise they are
their Runge-Kutta starter), and scipy_solver, which cuts the gradient.

`peers` and `stepped_peers` are whole solves by torchdiffeq and scipy, to measure beside one's own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..types import Carry, Params, State, Step, Time
from .base import Facts, Integrator, facts_of, verify
from .observe import declared_facts
from .registration import INTEGRATORS, admit


@dataclass(frozen=True)
class Declared:
    """What torchdiffeq's documentation says of a method."""

    order: int
    stages: int
    controls_error: bool = False


METHODS: dict[str, Declared] = {
    "euler": Declared(1, 1),
    "midpoint": Declared(2, 2),
    "heun2": Declared(2, 2),
    "heun3": Declared(3, 3),
    "rk4": Declared(4, 4),
    "adaptive_heun": Declared(2, 2, True),
    "fehlberg2": Declared(2, 3, True),
    "bosh3": Declared(3, 4, True),
    "dopri5": Declared(5, 7, True),
    "dopri8": Declared(8, 14, True),
}


class External(Integrator):
    """One call of torchdiffeq.odeint per step.

    rtol, atol: of the methods that control their error; stages counts one step of theirs
    single:     make such a method take exactly one step of size h, whatever its error
    """

    cite = "R. T. Q. Chen, torchdiffeq; Chen, Rubanova, Bettencourt & Duvenaud 2018 (arXiv 1806.07366)"
    when = "To compare with torchdiffeq inside the same network or solve."

    def __init__(self, method: str, rtol: float = 1e-7, atol: float = 1e-9, single: bool = False) -> None:
        self.method, self.rtol, self.atol, self.single = method, rtol, atol, single
        self.declared = METHODS[method]
        self.order, self.stages = self.declared.order, self.declared.stages

    def step(self, f: Any, t: Time, y: State, h: Time, carry: Carry, coef: Params | None) -> Step:
        """From t to t + h."""
        from torchdiffeq import odeint

        start = torch.as_tensor(t, dtype=torch.float64, device=y.device)
        grid = torch.stack((start, start + h))
        options, rtol, atol = None, self.rtol, self.atol
        if self.declared.controls_error and self.single:
            options, rtol, atol = _one_step(*grid.tolist()), 1e12, 1e12
        elif self.declared.controls_error:
            # landing on the end instead of interpolating to it; giving up instead of creeping towards a pole
            options = {"step_t": grid[1:], "max_num_steps": 2000}
        try:
            solution = odeint(f, y, grid, rtol=rtol, atol=atol, method=self.method, options=options)
        except AssertionError as problem:
            if not str(problem).startswith(_GAVE_UP):  # an assertion of the right-hand side
                raise
            return Step(torch.full_like(y, math.nan), None, ())
        assert isinstance(solution, Tensor)
        return Step(solution[-1], None, ())


_GAVE_UP = ("underflow in dt", "non-finite values in state", "max_num_steps exceeded")  # torchdiffeq's words


def _one_step(begin: float, end: float) -> dict[str, Any]:
    """Options for a single step that rounding does not leave short of the end."""
    slack = 2 * math.ulp(max(abs(begin), abs(end)))
    return {"first_step": abs(end - begin) + slack, "max_num_steps": 1}


@verify.register
def _(integrator: External) -> None:
    """Nothing is left to ask: the orders in METHODS are theirs, and solving to see them takes half a second each."""


@facts_of.register
def _(integrator: External) -> Facts:
    if integrator.declared.controls_error:  # it chooses its own steps: an interval of h means nothing
        return Facts(order=integrator.order, stages=integrator.stages)
    return declared_facts(integrator)


INTEGRATORS.family("torchdiffeq", lambda: METHODS, lambda method: admit(f"torchdiffeq:{method}", External(method)))


# ------------------------------------------------------------------------------------------- whole solves by others

SCIPY = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")


def peers() -> dict[str, Callable[..., Tensor]]:
    """Installed solvers with error control, `library:method` -> solver(f, y0, t0, t1, rtol, atol) -> y(t1).

    y0 (D,); f(t, y) -> (D,). A solver raises RuntimeError, or what its library raises, where it gives up.
    """
    found: dict[str, Callable[..., Tensor]] = {f"scipy:{m}": functools.partial(_by_scipy, m) for m in SCIPY}
    if find_spec("torchdiffeq") is not None:
        chosen = (m for m, declared in METHODS.items() if declared.controls_error)
        found |= {f"torchdiffeq:{m}": functools.partial(_by_torchdiffeq, m) for m in chosen}
    return found


def stepped_peers() -> dict[str, Callable[..., Tensor]]:
    """Installed solvers with equal steps, `library:method` -> solver(f, y0, t0, t1, steps) -> y(t1)."""
    if find_spec("torchdiffeq") is None:
        return {}
    chosen = (m for m, declared in METHODS.items() if not declared.controls_error)
    return {f"torchdiffeq:{m}": functools.partial(_stepped_by_torchdiffeq, m) for m in chosen}


def _by_scipy(method: str, f: Any, y0: Tensor, t0: float, t1: float, rtol: float, atol: float) -> Tensor:
    from scipy.integrate import solve_ivp

    def slope(t: float, y: Any) -> Any:
        return f(t, torch.from_numpy(y)).numpy()

    found = solve_ivp(slope, (t0, t1), y0.numpy(), method=method, t_eval=(t1,), rtol=rtol, atol=atol)
    if not found.success:
        raise RuntimeError(found.message)
    return torch.from_numpy(found.y[:, -1])


def _by_torchdiffeq(method: str, f: Any, y0: Tensor, t0: float, t1: float, rtol: float, atol: float) -> Tensor:
    from torchdiffeq import odeint

    span = torch.tensor([t0, t1], dtype=torch.float64)
    found = odeint(f, y0, span, method=method, rtol=rtol, atol=atol)
    assert isinstance(found, Tensor)
    return found[-1]


def _stepped_by_torchdiffeq(method: str, f: Any, y0: Tensor, t0: float, t1: float, steps: int) -> Tensor:
    from torchdiffeq import odeint

    grid = torch.linspace(t0, t1, steps + 1, dtype=torch.float64)
    found = odeint(f, y0, grid[[0, -1]], method=method, options={"grid_constructor": lambda *_: grid})
    assert isinstance(found, Tensor)
    return found[-1]
