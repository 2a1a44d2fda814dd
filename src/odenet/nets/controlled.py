"""Nets for series with times of their own: flows between observations, and equations that the data controls.

x (B, T, D); with `times=True` its first column is the time of every entry, which may differ from sample to sample, else
entries are equal steps over `span`. NaN are missing values.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import BadInput
from ..fields import Free
from ..fields.recurrent import Controlled, Paced
from ..flow import Flow
from .base import net
from .paths import PATHS, Gaps, Timed
from .recurrent import Recurrence


@net(
    kind="ode",
    takes="sequence",
    cite="Rubanova, Chen & Duvenaud 2019 (arXiv 1907.03907)",
    integrators=("euler", "rk4", "midpoint"),
)
def ode_rnn(
    dim_in: int,
    dim_out: int,
    width: int = 32,
    integrator: Any = None,
    activation: str = "tanh",
    hidden: int | None = None,
    times: bool = False,
    span: tuple[float, float] = (0.0, 1.0),
    substeps: int | None = None,
    gradient: str = "autograd",
    every_step: bool = False,
    seed: int = 0,
) -> nn.Module:
    """h' = K2 s(K h + b) between observations, h <- GRU(x_n, h) at each: (B, T, dim_in) -> (B, dim_out).

    substeps: integrator steps between two observations. An entry with a NaN is not an observation. The choice for
    few, irregular observations of a system that moves on by itself.
    """
    seen = dim_in - 1 if times else dim_in
    if seen < 1:
        raise BadInput("with times=True the first column of x is the time, so dim_in is 2 or more.")
    field = Paced(Free(width, layers=2, hidden=hidden, activation=activation))
    flow = Flow(field, integrator or "euler", depth="shared", steps=1, substeps=substeps, gradient=gradient, seed=seed)
    return Recurrence(
        [flow], nn.Linear(width, dim_out), path=Gaps(), front=Timed(None if times else span),
        jump=nn.GRUCell(seen, width), every_step=every_step,
    )  # fmt: skip


@net(
    kind="ode",
    takes="sequence",
    cite="Kidger, Morrill, Foster & Lyons 2020 (arXiv 2005.08926)",
    integrators=("rk4", "midpoint", "euler"),
)
def neural_cde(
    dim_in: int,
    dim_out: int,
    width: int = 32,
    integrator: Any = None,
    activation: str = "relu",
    hidden: int = 64,
    path: str = "hermite",
    times: bool = False,
    span: tuple[float, float] = (0.0, 1.0),
    substeps: int | None = None,
    gradient: str = "autograd",
    every_step: bool = False,
    seed: int = 0,
) -> nn.Module:
    """dz = F(z) dX with X a path through the data and the time, z_0 linear in x_0: (B, T, dim_in) -> (B, dim_out).

    path: "hermite", "linear" or "rectilinear" (for answers while data arrives); substeps: integrator steps between
    two entries. The choice for irregularly sampled series: the answer depends on the path, not on where it was sampled.
    """
    if path not in PATHS:
        raise BadInput(f"path {path!r} is not known; write one of {', '.join(PATHS)}.")
    channels = dim_in if times else dim_in + 1
    field = Controlled(width, channels, hidden=hidden, activation=activation)
    flow = Flow(field, integrator or "rk4", depth="shared", steps=1, substeps=substeps, gradient=gradient, seed=seed)
    front = Timed(None if times else span, "last" if path == "rectilinear" else "linear")
    return Recurrence(
        [flow], nn.Linear(width, dim_out), path=PATHS[path](), front=front, start=nn.Linear(channels, width),
        every_step=every_step,
    )  # fmt: skip
