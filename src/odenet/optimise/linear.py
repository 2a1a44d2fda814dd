"""The linear least-squares problem of one Gauss-Newton step, |J p + r|^2 + damping |D^(1/2) p|^2, solved in four ways.

    Primal      Cholesky of J^T J + damping D (P x P), summed over blocks of rows: N may be as large as it likes
    Dual        Cholesky of J D^-1 J^T + damping (N x N), for fewer residuals than parameters
    Triangular  QR of the blocks, then of (R, damping^(1/2) D^(1/2)): does not square the condition number of J
    Krylov      conjugate gradients on the normal equations, preconditioned (krylov.py): no P x P matrix

Each is built once per Jacobian and solved for as many dampings as a step tries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from .base import LeastSquares

HELD = 2**29  # bytes of J kept for products with it; beyond that it is made anew


class Move(NamedTuple):
    """A step p (P,) and what the linear model says it takes from the loss: (|r|^2 - |J p + r|^2) / 2."""

    p: Tensor
    predicted: float


class Rows:
    """J at one theta as a map: kept while it fits, else by the problem's own products, else by its blocks again."""

    def __init__(self, problem: LeastSquares, theta: Tensor, held: int = HELD) -> None:
        self.problem, self.theta, self.held = problem, theta, held
        self.kept: list[Tensor] | None = []
        self.bytes = 0

    def add(self, J: Tensor) -> None:
        """The next block, which may or may not be kept."""
        self.bytes += J.numel() * J.element_size()
        if self.bytes > self.held:
            self.kept = None
        if self.kept is not None:
            self.kept.append(J)

    def forth(self, v: Tensor) -> Tensor:
        """J v (N,)."""
        if self.kept is None:
            known = self.problem.matvec(self.theta, v)
            return torch.cat([J @ v for _, J in self.problem.blocks(self.theta)]) if known is None else known
        return torch.cat([J @ v for J in self.kept])

    def back(self, w: Tensor) -> Tensor:
        """J^T w (P,)."""
        if self.kept is None and (known := self.problem.rmatvec(self.theta, w)) is not None:
            return known
        out, begin = torch.zeros_like(self.theta), 0
        for J in self.kept if self.kept is not None else (J for _, J in self.problem.blocks(self.theta)):
            out.addmv_(J.T, w[begin : begin + len(J)])
            begin += len(J)
        return out

    def normal(self, q: Tensor) -> Tensor:
        """J^T J q for a vector (P,) or columns (P, k)."""
        if self.kept is None and q.dim() == 1 and (known := self.problem.matvec(self.theta, q)) is not None:
            return self.back(known)
        out = torch.zeros_like(q)
        for J in self.kept if self.kept is not None else (J for _, J in self.problem.blocks(self.theta)):
            out += J.T @ (J @ q)
        return out


class Local(ABC):
    """The linearised problem at one theta.

    loss: |r|^2 / 2     r: (N,)     gradient: J^T r (P,)     columns: squared norms of the columns of J (P,)
    rows: J as a map
    """

    loss: float
    r: Tensor
    gradient: Tensor
    columns: Tensor
    rows: Rows

    @abstractmethod
    def solve(self, damping: float, scale: Tensor) -> Move | None:
        """The step for D = diag(scale); None where the matrix is not positive definite in this arithmetic."""

    @abstractmethod
    def towards(self, w: Tensor) -> Tensor:
        """-(J^T J + damping D)^-1 J^T w (P,) for w (N,), with the damping and D of the last solve."""


class Gram:
    """Sum of A^T A over blocks: on the CPU the lower triangle by BLAS' syrk, half the work of a product."""

    def __init__(self, size: int, like: Tensor) -> None:
        self.cpu = like.device.type == "cpu" and like.dtype == torch.float64
        self.sum = torch.zeros(size, size, dtype=like.dtype, device=like.device)

    def add(self, A: Tensor) -> None:
        """sum += A^T A."""
        if not self.cpu:
            self.sum.addmm_(A.T, A)
            return
        from scipy.linalg.blas import dsyrk

        # A row-major array is its transpose to BLAS: its upper triangle is our lower one
        c = self.sum.numpy().T
        done = dsyrk(1.0, A.contiguous().numpy().T, beta=1.0, c=c, overwrite_c=1)
        if done.ctypes.data != c.ctypes.data:
            c[...] = done

    def factor(self, shift: Tensor | float) -> Tensor | None:
        """Cholesky factor of sum + diag(shift); None where the algorithm breaks down."""
        M = self.sum.clone()
        M.diagonal().add_(shift)
        L, info = torch.linalg.cholesky_ex(M)  # reads the lower triangle only
        return L if int(info) == 0 else None

    def pseudo_solve(self, b: Tensor, rcond: float) -> Tensor:
        """sum^+ b, eigenvalues below rcond times the largest counted as 0."""
        e, V = torch.linalg.eigh(self.sum)  # reads the lower triangle only
        kept = e > rcond * e[-1]
        return V @ (torch.where(kept, 1 / torch.where(kept, e, 1.0), 0.0) * (V.T @ b))


def solved(L: Tensor, b: Tensor) -> Tensor:
    """(L L^T)^-1 b."""
    return torch.cholesky_solve(b[:, None], L)[:, 0]


class Primal(Local):
    """Cholesky of the normal equations; memory P^2, one block, and what may be held."""

    def __init__(self, problem: LeastSquares, theta: Tensor, held: int = HELD) -> None:
        self.rows = Rows(problem, theta, held)
        self.gram = Gram(theta.numel(), theta)
        self.gradient = torch.zeros_like(theta)
        parts = []
        for r, J in problem.blocks(theta):
            self.gram.add(J)
            self.rows.add(J)
            self.gradient.addmv_(J.T, r)
            parts.append(r)
        self.r = torch.cat(parts)
        self.loss = float(torch.dot(self.r, self.r)) / 2
        self.columns = self.gram.sum.diagonal().clone()

    def solve(self, damping: float, scale: Tensor) -> Move | None:
        L = self.gram.factor(damping * scale)
        if L is None:
            return None
        self.L, p = L, solved(L, -self.gradient)
        predicted = float(torch.dot(p, damping * scale * p - self.gradient)) / 2
        return Move(p, predicted) if bool(torch.isfinite(p).all()) else None

    def towards(self, w: Tensor) -> Tensor:
        return -solved(self.L, self.rows.back(w))


class Dual(Local):
    """Cholesky of the N x N kernel J D^-1 J^T: cheaper than Primal where N < P; J (N, P) is held."""

    def __init__(self, problem: LeastSquares, theta: Tensor) -> None:
        pairs = list(problem.blocks(theta))
        self.r = torch.cat([r for r, _ in pairs])
        self.J = torch.cat([J for _, J in pairs]) if len(pairs) > 1 else pairs[0][1]
        self.rows = Rows(problem, theta, held=self.J.numel() * self.J.element_size())
        self.rows.add(self.J)
        self.gradient = self.J.T @ self.r
        self.loss = float(torch.dot(self.r, self.r)) / 2
        self.columns = self.J.square().sum(0)
        self._kernel: tuple[Tensor, Gram] | None = None

    def kernel(self, scale: Tensor) -> Gram:
        """J diag(scale)^-1 J^T."""
        if self._kernel is None or self._kernel[0] is not scale:
            gram = Gram(len(self.r), self.r)
            gram.add((self.J * scale.rsqrt()).T)
            self._kernel = scale, gram
        return self._kernel[1]

    def solve(self, damping: float, scale: Tensor) -> Move | None:
        L = self.kernel(scale).factor(damping)
        if L is None:
            return None
        self.L, self.scale, y = L, scale, solved(L, self.r)
        # J p + r = damping y, by the equation that y solves
        predicted = self.loss - damping**2 * float(torch.dot(y, y)) / 2
        p = -(self.J.T @ y) / scale
        return Move(p, predicted) if bool(torch.isfinite(p).all()) else None

    def towards(self, w: Tensor) -> Tensor:
        return -(self.J.T @ solved(self.L, w)) / self.scale


class Triangular(Local):
    """QR of (J, r) block by block, then of the stacked (R, sqrt(damping D)): accurate where J^T J is not.

    Memory P^2, one block, and what may be held. Several times the cost of Primal.
    """

    def __init__(self, problem: LeastSquares, theta: Tensor, held: int = HELD) -> None:
        self.rows = Rows(problem, theta, held)
        R, parts = theta.new_zeros(0, theta.numel() + 1), []
        for r, J in problem.blocks(theta):
            R = torch.linalg.qr(torch.cat([R, torch.cat([J, r[:, None]], 1)]), mode="r").R
            self.rows.add(J)
            parts.append(r)
        self.R, self.c, self.r = R[:, :-1], R[:, -1], torch.cat(parts)
        self.gradient = self.R.T @ self.c
        self.loss = float(torch.dot(self.c, self.c)) / 2
        self.columns = self.R.square().sum(0)

    def solve(self, damping: float, scale: Tensor) -> Move | None:
        right = torch.cat([-self.c, torch.zeros_like(scale)])[:, None]
        stacked = torch.cat([torch.cat([self.R, torch.diag((damping * scale).sqrt())]), right], 1)
        T = torch.linalg.qr(stacked, mode="r").R
        n = len(scale)
        p = torch.linalg.solve_triangular(T[:n, :n], T[:n, n:], upper=True)[:, 0]
        if not bool(torch.isfinite(p).all()):
            return None
        self.L, Rp = T[:n, :n].T, self.R @ p
        return Move(p, -float(torch.dot(Rp, self.c + Rp / 2)))

    def towards(self, w: Tensor) -> Tensor:
        half = torch.linalg.solve_triangular(self.L, self.rows.back(w)[:, None], upper=False)
        return -torch.linalg.solve_triangular(self.L.T, half, upper=True)[:, 0]
