"""One least-squares fit of random features in all coordinates: stationary problems, inverse ones, and what is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..collocation import Block, blocks
from ..corners import Corners, corners_of
from ..expressions import key
from ..statement import Problem
from .random_feature_basis import REAL, Axis, Features, Index, Regularised, draw
from .windows import packed, unpacked

STEPS = 60  # Gauss-Newton steps of one fit
DATA = 1e-4  # factor of rows of measured data: noise is not to bend the equation


@dataclass
class Fitted:
    """sum_j c_j phi_j for every unknown, the field of a `Solution`: c (M, m)."""

    features: Features
    corners: Corners
    c: Tensor

    def matrices(self, x: Tensor, indices: Sequence[Index]) -> dict[Index, Tensor]:
        """Features and singular functions (N, M) by derivative."""
        found = self.features(x, indices)
        if not self.corners.corners:
            return found
        extra = self.corners(x, indices)
        return {a: torch.cat([found[a], extra[a]], 1) for a in indices}

    def jet(self, x: Tensor, channels: Sequence[Index]) -> Tensor:
        """(C, N, m): derivatives at points (N, d)."""
        found = self.matrices(x, list(dict.fromkeys(channels)))
        return torch.stack([found[a] @ self.c for a in channels])

    def tensors(self) -> dict[str, Tensor]:
        corners = torch.tensor(self.corners.corners, dtype=REAL).reshape(-1, 4)
        return {"fit.c": self.c, "fit.corners": corners, **packed(self.features)}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor]) -> Fitted:
        """The inverse of `tensors`."""
        rows = [tuple(row) for row in tensors["fit.corners"].tolist()]
        return cls(unpacked(tensors), Corners(tuple(rows)), tensors["fit.c"])  # type: ignore[arg-type]


@dataclass
class Trial:
    """The outcome of one fit: training is the relative residual at its points."""

    field: Fitted
    parameters: dict[str, float]
    training: float
    condition: float
    steps: int
    covariance: Tensor | None = None


def fit(
    problem: Problem,
    width: int,
    seed: int,
    activation: str = "sin",
    share: float | None = None,
    oversampling: float = 2.5,
    start: Trial | None = None,
    boundary: int | None = None,
) -> Trial:
    """Least squares over all coefficients: once for a linear problem, else by Gauss-Newton with a line search.

    start: a solution to begin from; else zero.
    """
    generator = torch.Generator().manual_seed(1_000_003 * seed + width)
    around = [
        c for c, _ in problem.required if c.kind == "periodic" and (c.unknown is None or len(problem.unknowns) == 1)
    ]
    names = {c.axis for c in around}
    low, high = problem.domain.bounds.tolist()
    axes = [Axis(a, b, n in names) for a, b, n in zip(low, high, problem.frame.coordinates)]
    features, corners = draw(axes, width, generator, activation, share), corners_of(problem.domain)
    m = len(problem.unknowns)
    size = len(features.b) + corners.size
    field = Fitted(features, corners, torch.zeros(size, m, dtype=REAL))
    rows = sum(len(es) for _, es in problem.traced)
    n = max(20, math.ceil(oversampling * size * m / rows))
    edge = boundary or max(20, math.ceil(3 * n ** (1 - 1 / problem.dim)))
    found = blocks(problem, n, generator, "sobol", around, edge)
    system = Rows(problem, field, found)
    theta = system.begin(start)
    return system.solve(theta)


def _measured(b: Block) -> bool:
    return getattr(b.source, "kind", "") == "data"


class Rows:
    """Rows of all blocks as functions of theta = (coefficients by unknown, parameters)."""

    def __init__(self, problem: Problem, field: Fitted, found: Sequence[Block]) -> None:
        self.problem, self.field, self.found = problem, field, list(found)
        self.names, self.m, self.size = tuple(problem.parameters), len(problem.unknowns), len(field.c)
        self.tables = [field.matrices(b.points, sorted({leaf.index for leaf in b.leaves})) for b in self.found]
        self.factors: list[float] = []

    def begin(self, start: Trial | None) -> Tensor:
        """Zero coefficients and the parameters' start values, or the fit of another solution."""
        c = torch.zeros(self.size, self.m, dtype=REAL)
        if start is not None:
            x = torch.cat([b.x for b in self.found if b.measure is None])
            zero = (0,) * self.problem.dim
            A = self.field.matrices(x, [zero])[zero]
            c = Regularised(A).solve(start.field.jet(x, [zero])[0])
        values = start.parameters if start is not None else self.problem.parameters
        return torch.cat([c.T.reshape(-1), torch.tensor([values[n] for n in self.names], dtype=REAL)])

    def parts(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Coefficients (M, m) and parameters by name."""
        c = theta[: self.size * self.m].reshape(self.m, self.size).T
        return c, dict(zip(self.names, theta[self.size * self.m :]))

    def values(self, i: int, c: Tensor) -> dict[Any, Tensor]:
        """Leaves of a block."""
        out = {}
        for leaf, (part, table) in self._leaves(i):
            out[key(leaf)] = table[part] @ c[:, self.problem.unknowns.index(leaf.unknown)]
        return out

    def _leaves(self, i: int) -> list[tuple[Any, tuple[slice, Tensor]]]:
        b, n = self.found[i], len(self.found[i].x)
        place = {where: k for k, where in enumerate(b.places)}
        return [
            (leaf, (slice(place[key(leaf)[2]] * n, (place[key(leaf)[2]] + 1) * n), self.tables[i][leaf.index]))
            for leaf in b.leaves
        ]

    def linearise(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled residuals (N,) and Jacobian (N, P)."""
        c, parameters = self.parts(theta)
        residuals, jacobians = [], []
        for i, b in enumerate(self.found):
            r, slopes = b.linearise(self.values(i, c), parameters)
            J = torch.zeros(r.shape[1], len(b.x), self.size * self.m + len(self.names), dtype=REAL)
            for k, slope in enumerate(slopes):
                for leaf, (part, table) in self._leaves(i):
                    u = self.problem.unknowns.index(leaf.unknown)
                    J[k, :, u * self.size : (u + 1) * self.size] += slope[key(leaf)][:, None] * table[part]
                for j, name in enumerate(self.names):
                    J[k, :, self.size * self.m + j] = slope[name]
            if b.measure is not None:
                r, J = (b.measure @ r - b.total)[None], torch.einsum("n,rnp->rp", b.measure, J)[:, None]
            residuals.append(r.T.reshape(-1))
            jacobians.append(J.reshape(-1, J.shape[2]))
        if not self.factors:  # rows of like size; each kind of row counts as its mean square times its weight
            for b, J in zip(self.found, jacobians):
                rows = J[:, : self.size * self.m].square().sum(1).mean().sqrt().clamp_min(1e-300)
                exact = DATA if _measured(b) else 1.0
                self.factors.append(float(exact * (b.weight / len(J)) ** 0.5 / rows))
        scaled = [f * r for f, r in zip(self.factors, residuals)]
        return torch.cat(scaled), torch.cat([f * J for f, J in zip(self.factors, jacobians)])

    def residual(self, theta: Tensor) -> Tensor:
        """Scaled residuals (N,)."""
        c, parameters = self.parts(theta)
        out = []
        for i, b in enumerate(self.found):
            r = b.residual(self.values(i, c), parameters)
            r = (b.measure @ r - b.total)[None] if b.measure is not None else r
            out.append(self.factors[i] * r.T.reshape(-1))
        return torch.cat(out)

    def solve(self, theta: Tensor) -> Trial:
        """Gauss-Newton with halved steps until the residual no longer falls."""
        steps, linear = 0, self.problem.linear and not self.names
        while True:
            r, J = self.linearise(theta)
            system = Regularised(J)
            d, loss = -system.solve(r[:, None])[:, 0], float(r.norm())
            steps, length = steps + 1, 1.0
            while True:
                new = theta + length * d
                after = float(self.residual(new).norm())
                if linear or after < loss or length < 1e-3:
                    break
                length *= 0.5
            if not linear and not after < loss:
                break
            theta = new
            if linear or steps >= STEPS or after < 1e-15 or (length == 1.0 and after > 0.99 * loss):
                break
        return self._trial(theta, system, steps)

    def _trial(self, theta: Tensor, system: Regularised, steps: int) -> Trial:
        c, parameters = self.parts(theta)
        self.field.c = c.contiguous()
        plain = size = 0.0
        for i, b in enumerate(self.found):
            values = self.values(i, c)
            r, s = b.residual(values, parameters), b.scale(values, parameters)
            if b.measure is not None:
                r, s = b.measure @ r - b.total, b.measure @ s + abs(b.total)
            plain, size = plain + float(r.square().mean(0).sum()), size + float(s.square().mean(0).sum())
        training = (plain / max(size, 1e-300)) ** 0.5
        trial = Trial(self.field, {k: float(v) for k, v in parameters.items()}, training, system.condition, steps)
        if self.names:
            trial.covariance = self._covariance(theta, system)
        return trial

    def _covariance(self, theta: Tensor, system: Regularised) -> Tensor:
        """sigma^2 (J^T J)^-1 of the parameters, the last columns: from the end of the triangle; sigma from the data."""
        p, r = len(self.names), self.residual(theta)
        measured = sum(len(b.x) for b in self.found if _measured(b))
        triangle = torch.triu(system.factors[: theta.numel()])[-p:, -p:] * system.norms[-p:]
        inverse = torch.linalg.inv(triangle)
        return inverse @ inverse.T * float(r.square().sum()) / max(1, measured - p)
