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


class Move(NamedTuple):
    """A step p (P,) and what the linear model says it takes from the loss: (|r|^2 - |J p + r|^2) / 2."""

    p: Tensor
    predicted: float


class Local(ABC):
    """The linearised problem at one theta.

    loss: |r|^2 / 2      gradient: J^T r (P,)      columns: squared norms of the columns of J (P,)
    """

    loss: float
    gradient: Tensor
    columns: Tensor

    @abstractmethod
    def solve(self, damping: float, scale: Tensor) -> Move | None:
        """The step for D = diag(scale); None where the matrix is not positive definite in this arithmetic."""


class Gram:
    """Sum of A^T A over blocks: on the CPU the lower triangle by BLAS' syrk, half the work of a product."""

    def __init__(self, size: int, like: Tensor) -> None:
        self.cpu = like.device.type == "cpu" and like.dtype == torch.float64
        self.sum = torch.zeros(size, size, dtype=like.dtype, device=like.device)

    def add(self, A: Tensor) -> None:
        if not self.cpu:
            self.sum.addmm_(A.T, A)
            return
        from scipy.linalg.blas import dsyrk

        # A row-major array is its transpose to BLAS: its upper triangle is our lower one
        c = self.sum.numpy().T
        done = dsyrk(1.0, A.contiguous().numpy().T, beta=1.0, c=c, overwrite_c=1)
        if done.ctypes.data != c.ctypes.data:
            c[...] = done

    def diagonal(self) -> Tensor:
        return self.sum.diagonal().clone()

    def solve(self, shift: Tensor | float, b: Tensor) -> Tensor | None:
        """(sum + diag(shift))^-1 b, or None where Cholesky's algorithm breaks down."""
        M = self.sum.clone()
        M.diagonal().add_(shift)
        L, info = torch.linalg.cholesky_ex(M)  # reads the lower triangle only
        if int(info) != 0:
            return None
        x = torch.cholesky_solve(b[:, None], L)[:, 0]
        return x if bool(torch.isfinite(x).all()) else None

    def pseudo_solve(self, b: Tensor, rcond: float) -> Tensor:
        """sum^+ b, eigenvalues below rcond times the largest counted as 0."""
        e, V = torch.linalg.eigh(self.sum)  # reads the lower triangle only
        kept = e > rcond * e[-1]
        return V @ (torch.where(kept, 1 / torch.where(kept, e, 1.0), 0.0) * (V.T @ b))


class Primal(Local):
    """Cholesky of the normal equations; memory P^2 plus one block."""

    def __init__(self, problem: LeastSquares, theta: Tensor) -> None:
        self.gram = Gram(theta.numel(), theta)
        self.gradient = torch.zeros_like(theta)
        self.loss = 0.0
        for r, J in problem.blocks(theta):
            self.gram.add(J)
            self.gradient.addmv_(J.T, r)
            self.loss += float(torch.dot(r, r)) / 2
        self.columns = self.gram.diagonal()

    def solve(self, damping: float, scale: Tensor) -> Move | None:
        p = self.gram.solve(damping * scale, -self.gradient)
        if p is None:
            return None
        return Move(p, float(torch.dot(p, damping * scale * p - self.gradient)) / 2)


class Dual(Local):
    """Cholesky of the N x N kernel J D^-1 J^T: cheaper than Primal where N < P; J (N, P) is held."""

    def __init__(self, problem: LeastSquares, theta: Tensor) -> None:
        pairs = list(problem.blocks(theta))
        self.r = torch.cat([r for r, _ in pairs])
        self.J = torch.cat([J for _, J in pairs]) if len(pairs) > 1 else pairs[0][1]
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
        y = self.kernel(scale).solve(damping, self.r)
        if y is None:
            return None
        # J p + r = damping y, by the equation that y solves
        predicted = self.loss - damping**2 * float(torch.dot(y, y)) / 2
        return Move(-(self.J.T @ y) / scale, predicted)


class Triangular(Local):
    """QR of (J, r) block by block, then of the stacked (R, sqrt(damping D)): accurate where J^T J is not.

    Memory P^2 plus one block. About three times the cost of Primal; for the last digits of ill-conditioned problems.
    """

    def __init__(self, problem: LeastSquares, theta: Tensor) -> None:
        R = theta.new_zeros(0, theta.numel() + 1)
        for r, J in problem.blocks(theta):
            R = torch.linalg.qr(torch.cat([R, torch.cat([J, r[:, None]], 1)]), mode="r").R
        self.R, self.c = R[:, :-1], R[:, -1]
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
        Rp = self.R @ p
        return Move(p, -float(torch.dot(Rp, self.c + Rp / 2)))
