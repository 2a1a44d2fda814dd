"""The step of one Gauss-Newton iteration by preconditioned conjugate gradients, without a P x P matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .base import LeastSquares
from .linear import HELD, Local, Move, Rows

Apply = Callable[[Tensor], Tensor]


class Krylov(Local):
    """Conjugate gradients on (A + damping) q = -D^(-1/2) J^T r, A = D^(-1/2) J^T J D^(-1/2), p = D^(-1/2) q.

    preconditioner: "nystrom" (a randomised sketch of `rank` columns: Frangella, Tropp & Udell, SIAM J. Matrix Anal.
                    Appl. 2023), "diagonal" or "none"
    held:           bytes of J kept between products; beyond that blocks are made anew for every product, unless the
                    problem has `matvec` and `rmatvec`
    """

    def __init__(
        self,
        problem: LeastSquares,
        theta: Tensor,
        preconditioner: str = "nystrom",
        rank: int = 100,
        tolerance: float = 1e-3,
        iterations: int = 200,
        held: int = HELD,
        seed: int = 0,
    ) -> None:
        self.preconditioner, self.rank, self.seed = preconditioner, min(rank, theta.numel()), seed
        self.tolerance, self.iterations = tolerance, iterations
        self.rows, parts = Rows(problem, theta, held), []
        self.columns, self.gradient = torch.zeros_like(theta), torch.zeros_like(theta)
        for r, J in problem.blocks(theta):
            self.gradient.addmv_(J.T, r)
            self.columns.add_(J.square().sum(0))
            self.rows.add(J)
            parts.append(r)
        self.r = torch.cat(parts)
        self.loss = float(torch.dot(self.r, self.r)) / 2
        self._sketched: tuple[Tensor, Tensor, Tensor] | None = None

    def solve(self, damping: float, scale: Tensor) -> Move | None:
        """Stops where the residual is `tolerance` times the right-hand side."""
        self.damping, self.root = damping, scale.rsqrt()
        self.inverse = self._preconditioner(damping, self.root)
        right = -self.root * self.gradient
        q, left = conjugate_gradients(self._apply, right, self.inverse, self.tolerance, self.iterations)
        p = self.root * q
        if not bool(torch.isfinite(p).all()):
            return None
        # q.(A q) = q.(right - left - damping q), so |J p|^2 needs no further product
        square = float(torch.dot(q, right - left - damping * q))
        return Move(p, float(torch.dot(q, right)) - square / 2)

    def towards(self, w: Tensor) -> Tensor:
        right = -self.root * self.rows.back(w)
        return self.root * conjugate_gradients(self._apply, right, self.inverse, self.tolerance, self.iterations)[0]

    def _apply(self, q: Tensor) -> Tensor:
        return self.root * self.rows.normal(self.root * q) + self.damping * q

    def _preconditioner(self, damping: float, root: Tensor) -> Apply:
        if self.preconditioner == "none":
            return lambda x: x
        if self.preconditioner == "diagonal":
            diagonal = root.square() * self.columns + damping
            return lambda x: x / diagonal
        U, eigenvalues = self._sketch(root)
        least = torch.maximum(eigenvalues[-1] + damping, 1e-12 * eigenvalues[0])  # below it U U^T x is rounding
        factor = least / (eigenvalues + damping) - 1
        return lambda x: x + U @ (factor * (U.T @ x))

    def _sketch(self, root: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvectors (P, k) and eigenvalues (k,) of a Nyström approximation of A."""
        if self._sketched is None or not torch.equal(self._sketched[2], root):
            generator = torch.Generator().manual_seed(self.seed)
            omega = torch.randn(len(root), self.rank, dtype=torch.float64, generator=generator).to(root)
            omega = torch.linalg.qr(omega).Q
            Y = root[:, None] * self.rows.normal(root[:, None] * omega)
            shift = torch.finfo(Y.dtype).eps * float(Y.norm())
            Y = Y + shift * omega
            M = omega.T @ Y
            C, info = torch.linalg.cholesky_ex((M + M.T) / 2)
            if int(info) != 0:  # rank below k to rounding: the eigenvalues take the place of the factor
                e, V = torch.linalg.eigh((M + M.T) / 2)
                B = (Y @ V) * torch.where(e > shift, e, torch.inf).rsqrt()
            else:
                B = torch.linalg.solve_triangular(C, Y.T, upper=False).T
            U, s, _ = torch.linalg.svd(B, full_matrices=False)
            self._sketched = U, (s.square() - shift).clamp(min=0), root
        return self._sketched[0], self._sketched[1]


def conjugate_gradients(
    apply: Apply, right: Tensor, inverse: Apply, tolerance: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """(x, right - apply(x)) for a positive definite `apply` and preconditioner `inverse`, from x = 0."""
    x, left = torch.zeros_like(right), right.clone()
    z = inverse(left)
    if not float(torch.dot(left, z)) > 0:  # a preconditioner that rounding made indefinite
        inverse, z = torch.clone, left
    d, rho, goal = z, float(torch.dot(left, z)), tolerance * float(right.norm())
    for _ in range(iterations):
        if float(left.norm()) <= goal:
            break
        Ad = apply(d)
        curvature = float(torch.dot(d, Ad))
        if not curvature > 0 or not rho > 0:  # underflow: nothing is left to gain
            break
        alpha = rho / curvature
        x, left = x + alpha * d, left - alpha * Ad
        z = inverse(left)
        rho, before = float(torch.dot(left, z)), rho
        d = z + (rho / before) * d
    return x, left
