"""Constraints on the weight of a linear map: stored weight W -> effective weight K, differentiable, stacks welcome."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadInput
from .maps import Conv, Dense, LinearMap


class Constraint(ABC):
    """W (..., *map.shape) -> K of the same shape. It holds for every stored coefficient; between the nodes of a
    depth that interpolates, linear and convex constraints hold too and `Orthogonal` does not."""

    @abstractmethod
    def apply(self, W: Tensor, map: LinearMap) -> Tensor:
        """The effective weight."""

    @abstractmethod
    def admits(self, map: LinearMap) -> bool:
        """Whether the constraint makes sense for this map."""


def _square(map: LinearMap) -> bool:
    return map.rows == map.cols and getattr(map, "groups", 1) == 1


def _adjoint(W: Tensor, map: LinearMap) -> Tensor:
    """The weight of the transposed map: rows and columns swapped, stencils mirrored."""
    if isinstance(map, Conv):
        space = tuple(range(-map.dims, 0))
        return W.transpose(-1 - map.dims, -2 - map.dims).flip(space)
    return W.mT


def _identity(map: LinearMap, like: Tensor) -> Tensor:
    eye = torch.eye(map.rows, dtype=like.dtype, device=like.device)
    if isinstance(map, Conv):
        stencil = like.new_zeros(map.shape)
        stencil.flatten(2)[..., map.kernel**map.dims // 2] = eye  # a view; the middle of an odd stencil
        return stencil
    return eye


@dataclass(frozen=True)
class Unconstrained(Constraint):
    """K = W."""

    def apply(self, W: Tensor, map: LinearMap) -> Tensor:
        return W

    def admits(self, map: LinearMap) -> bool:
        return True


@dataclass(frozen=True)
class Skew(Constraint):
    """K = W - W^T - gamma I: eigenvalues with real part -gamma. gamma is diffusion; explicit Euler needs
    h <= 2 gamma/(gamma^2 + omega^2) for the eigenvalues -gamma +- i omega (with gamma = 0 no h will do)."""

    gamma: float = 0.0

    def apply(self, W: Tensor, map: LinearMap) -> Tensor:
        K = W - _adjoint(W, map)
        return K - self.gamma * _identity(map, W) if self.gamma else K

    def admits(self, map: LinearMap) -> bool:
        return _square(map)


@dataclass(frozen=True)
class PositiveSemidefinite(Constraint):
    """K = W^T W: symmetric, eigenvalues >= 0 (dense maps)."""

    def apply(self, W: Tensor, map: LinearMap) -> Tensor:
        return W.mT @ W

    def admits(self, map: LinearMap) -> bool:
        return _square(map) and isinstance(map, Dense)


@dataclass(frozen=True)
class Orthogonal(Constraint):
    """K = (I - S)(I + S)^{-1}, S = W - W^T (Cayley): K^T K = I, the rotations without eigenvalue -1 (dense maps)."""

    def apply(self, W: Tensor, map: LinearMap) -> Tensor:
        S, eye = W - W.mT, _identity(map, W)
        return torch.linalg.solve(eye + S, eye - S, left=False)

    def admits(self, map: LinearMap) -> bool:
        return _square(map) and isinstance(map, Dense)


@dataclass(frozen=True)
class SpectralCap(Constraint):
    """K = W min(1, cap/|W|_2): a gradient flow -K^T s(K y) then has Lipschitz constant cap^2 at most, and an Euler
    step of length h <= 2/cap^2 is non-expansive for any activation of slope in [0, 1]."""

    cap: float = 1.0

    def __post_init__(self) -> None:
        if not self.cap > 0:
            raise BadInput(f"SpectralCap got cap={self.cap}; a bound of a norm is positive, such as 1.0.")

    def apply(self, W: Tensor, map: LinearMap) -> Tensor:
        factor = (self.cap / map.norm(W).clamp_min(1e-30)).clamp_max(1.0)
        return W * factor.reshape(factor.shape + (1,) * len(map.shape))

    def admits(self, map: LinearMap) -> bool:
        return True


@dataclass(frozen=True)
class SpectralNorm(Constraint):
    """K = W norm/|W|_2: as `SpectralCap` with the bound attained, which is what a layer y - 2/|W|^2 W^T s(W y + b) is
    (Meunier et al. 2022, arXiv 2110.12690)."""

    size: float = 1.0

    def __post_init__(self) -> None:
        if not self.size > 0:
            raise BadInput(f"SpectralNorm got size={self.size}; a norm is positive, such as 1.0.")

    def apply(self, W: Tensor, map: LinearMap) -> Tensor:
        factor = self.size / map.norm(W).clamp_min(1e-30)
        return W * factor.reshape(factor.shape + (1,) * len(map.shape))

    def admits(self, map: LinearMap) -> bool:
        return True


@dataclass(frozen=True)
class Damped(Constraint):
    """K = S - R^T R - eps I with S skew: every matrix whose symmetric part lies below -eps I, so its logarithmic 2-norm
    is at most -eps < 0 (dense maps).

    S is made of the entries of W above the diagonal and R is its lower triangle, n^2 numbers in all; with
    `rotating=False` S = 0 and R = W, as in NAIS-Net (Ciccone et al. 2018, arXiv 1804.07209). Choose it where a linear
    part must forget its start.
    """

    eps: float = 0.01
    rotating: bool = True

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise BadInput(f"Damped got eps={self.eps}; the damping that is always there is positive, such as 0.01.")

    def apply(self, W: Tensor, map: LinearMap) -> Tensor:
        if not self.rotating:
            return -W.mT @ W - self.eps * _identity(map, W)
        upper, R = W.triu(1), W.tril()
        return upper - upper.mT - R.mT @ R - self.eps * _identity(map, W)

    def admits(self, map: LinearMap) -> bool:
        return _square(map) and isinstance(map, Dense)


CONSTRAINTS: dict[str, type[Constraint]] = {
    "free": Unconstrained,
    "antisymmetric": Skew,
    "positive_semidefinite": PositiveSemidefinite,
    "orthogonal": Orthogonal,
    "spectral_cap": SpectralCap,
    "spectral_norm": SpectralNorm,
    "damped": Damped,
}


def resolve(constraint: Constraint | str, map: LinearMap) -> Constraint:
    """A Constraint from itself or its name, checked against the map it acts on."""
    if isinstance(constraint, str):
        if constraint not in CONSTRAINTS:
            raise BadInput(f"constraint {constraint!r} is not known; write one of {', '.join(sorted(CONSTRAINTS))}.")
        constraint = CONSTRAINTS[constraint]()
    if not constraint.admits(map):
        raise BadInput(
            f"{constraint} does not apply to {map}: it needs a square map"
            + ("." if isinstance(constraint, Skew) else ' of dense kind; use map="dense" or another constraint.')
        )
    return constraint
