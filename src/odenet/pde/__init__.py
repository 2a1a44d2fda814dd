"""Partial differential equations: state the equation in one line, solve it, know how accurate the answer is.

problem = pde.Problem(
    pde.Interval(-1, 1) * pde.Time(0, 1),
    lambda u: u.t + u * u.x - 0.01 * u.xx,
    [pde.initial(lambda x: -torch.sin(torch.pi * x)), pde.dirichlet(0.0)],
)
sol = pde.solve(problem, seconds=60)
print(sol.rel_l2, sol.residual, sol.u(points))
"""

from __future__ import annotations

from .balancing import BALANCERS
from .conditions import (
    Condition,
    data,
    dirichlet,
    initial,
    integral_is,
    interface,
    neumann,
    on_points,
    operator,
    periodic,
    robin,
)
from .domain import Box, Domain, Interval, Time
from .library import PDES, get, pde_problem
from .methods import METHODS, Method, Run
from .operators import caputo, div, dot, grad, integral, laplacian, normal_derivative
from .sampling import RESAMPLERS, SAMPLERS
from .semilinear import Semilinear
from .shapes import Ball, Disk, Ellipse, Hyperball, Hypercube, Mesh, PointCloud, Polygon, Sphere, Triangle
from .solution import Solution
from .solve import load, solve, trained_method
from .statement import Equation, Problem
from .trunks import TRUNKS

__all__ = [
    "BALANCERS",
    "METHODS",
    "PDES",
    "RESAMPLERS",
    "SAMPLERS",
    "TRUNKS",
    "Ball",
    "Box",
    "Condition",
    "Disk",
    "Domain",
    "Ellipse",
    "Equation",
    "Hyperball",
    "Hypercube",
    "Interval",
    "Mesh",
    "Method",
    "PointCloud",
    "Polygon",
    "Problem",
    "Run",
    "Semilinear",
    "Solution",
    "Sphere",
    "Time",
    "Triangle",
    "caputo",
    "data",
    "dirichlet",
    "div",
    "dot",
    "get",
    "grad",
    "initial",
    "integral",
    "integral_is",
    "interface",
    "laplacian",
    "load",
    "names",
    "neumann",
    "normal_derivative",
    "on_points",
    "operator",
    "pde_problem",
    "periodic",
    "robin",
    "solve",
    "trained_method",
]  # fmt: skip


def names() -> list[str]:
    """Names of the library's problems."""
    return PDES.names()
