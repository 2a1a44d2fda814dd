"""Runge-Kutta tableaux as numbers: those of odenet by name, Gauss's with any number of stages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ... import integrators
from ...errors import Incompatible

REAL = torch.float64


@dataclass(frozen=True)
class Stages:
    """c (q,), A (q, q), b (q,)."""

    c: Tensor
    A: Tensor
    b: Tensor

    def times(self) -> Tensor:
        """0, the c_i and 1, each once: where values are known after a step."""
        inner = [c for c in self.c.tolist() if 1e-12 < c < 1 - 1e-12]
        return torch.tensor([0.0, *sorted(set(inner)), 1.0], dtype=REAL)

    def known(self) -> list[int]:
        """For each of these times its place among (start, stages ..., end)."""
        c = self.c.tolist()
        places = [0]
        for t in self.times()[1:-1].tolist():
            places.append(1 + c.index(t))
        return [*places, len(c) + 1]


@lru_cache(16)
def gauss(q: int) -> Stages:
    """Collocation at the q Gauss-Legendre nodes, order 2 q, for any q.

    By Legendre polynomials, whose values at the nodes are orthogonal: A = I D V^T W with I their integrals from 0, so
    that rounding does not grow with q. Hairer, Norsett & Wanner (1993), section II.7.
    """
    import numpy as np

    x, w = np.polynomial.legendre.leggauss(q)
    legendre = np.polynomial.legendre.legvander(x, q)
    degree = np.arange(q)
    before = np.concatenate([-np.ones((q, 1)), legendre[:, : q - 1]], 1)[
        :, :q
    ]  # P_{-1} = -1 makes P_0 integrate to x + 1
    integrals = (legendre[:, 1 : q + 1] - before) / (2 * degree + 1) / 2
    A = integrals @ ((2 * degree + 1)[:, None] / 2 * legendre[:, :q].T * w)
    return Stages(*(torch.from_numpy(v) for v in ((x + 1) / 2, A, w / 2)))


def stages(tableau: str, q: int) -> Stages:
    """ "gauss" with q stages, or a Runge-Kutta method of odenet. Raises Incompatible for other integrators."""
    if tableau == "gauss":
        return gauss(q)
    data = getattr(integrators.get(tableau), "tableau", None)
    if data is None:
        raise Incompatible(f"{tableau!r} is no Runge-Kutta method; take 'gauss' with stages=q, or 'radau_iia5'.")
    numbers = [[float(v) for v in row] for row in data.matrix]
    s = len(data.weights)
    A = torch.tensor([row + [0.0] * (s - len(row)) for row in numbers], dtype=REAL)
    return Stages(A.sum(1), A, torch.tensor([float(v) for v in data.weights], dtype=REAL))


def lagrange(nodes: Tensor, t: Tensor, order: int = 0) -> Tensor:
    """(N, len(nodes)): derivatives at t (N,) of the Lagrange polynomials of nodes in [0, 1]."""
    import numpy as np

    legendre = np.polynomial.legendre
    top = len(nodes) - 1
    table = np.eye(top + 1)
    for _ in range(order):
        table = np.stack([np.pad(2 * legendre.legder(row), (0, 1))[: top + 1] for row in table])
    values = legendre.legvander(2 * t.numpy() - 1, top) @ table.T
    return torch.from_numpy(np.linalg.solve(legendre.legvander(2 * nodes.numpy() - 1, top).T, values.T).T)
