"""What the coefficients of a multistep formula say: its order, the roots for y' = z y, and stability."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ClaimRefused
from .order import attained_order, multistep_conditions, refuse_unless, root_condition

if TYPE_CHECKING:
    from .multistep import Multistep


def characteristic(method: Multistep, z: Tensor) -> Tensor:
    """Coefficients (*z.shape, m + 1), from the constant upwards, of the polynomial of y' = z y with h = 1.

    rho - z sigma; for PECE rho - z (sigma - beta_m zeta^m) - z beta_m (zeta^m - rho + z sigma*).
    """
    rho, sigma, guess = (
        torch.tensor([float(x) for x in row], dtype=torch.complex128)
        for row in (method.rho, method.sigma, method.sigma_predictor)
    )
    z = z.to(torch.complex128).unsqueeze(-1)
    if method.predictor is None:
        return rho - z * sigma
    last = torch.zeros_like(rho)
    last[-1] = 1.0
    newest = sigma[-1]
    return rho - z * (sigma - newest * last) - z * newest * (last - rho + z * guess)


def dominant_root(polynomial: Tensor) -> Tensor:
    """The largest root in modulus of polynomials (*, m + 1); infinite where there is none that is finite."""
    monic = polynomial[..., :-1] / polynomial[..., -1:]
    sound = torch.isfinite(monic).all(-1)  # LAPACK may crash on what is not finite
    monic = torch.where(sound.unsqueeze(-1), monic, 0.0)
    m = monic.shape[-1]
    companion = torch.cat(
        (torch.eye(m, dtype=monic.dtype)[1:].expand(*monic.shape[:-1], m - 1, m), -monic.unsqueeze(-2)), -2
    )
    roots = torch.linalg.eigvals(companion)
    found = roots.gather(-1, roots.abs().argmax(-1, keepdim=True)).squeeze(-1)
    return torch.where(sound, found, complex(math.inf))


def stability_angle(method: Multistep) -> float:
    """alpha in degrees such that y' = lambda y decays at every step size where |arg(-lambda)| < alpha: A(alpha).

    The smallest angle under which the boundary locus rho / sigma is seen in the left half plane; 90 is A-stable, 0
    where the region is bounded. Hairer & Wanner II, section V.2.
    """
    from scipy.optimize import minimize_scalar

    rho, sigma = ([float(x) for x in reversed(row)] for row in (method.rho, method.sigma))
    if not method.implicit or np.abs(np.roots(sigma)).max(initial=0.0) > 1 + 1e-9:
        return 0.0

    def angle(theta: Any) -> Any:
        w = np.exp(1j * np.asarray(theta))
        return np.pi - np.abs(np.angle(np.polyval(rho, w) / np.polyval(sigma, w)))

    grid = np.linspace(0, np.pi, 2001)[1:-1]
    best = grid[int(np.argmin(angle(grid)))]
    found = minimize_scalar(angle, bounds=(best - 0.002, best + 0.002), method="bounded", options={"xatol": 1e-12})
    return min(90.0, math.degrees(float(found.fun)))


def pece_interval(method: Multistep, direction: complex, reach: float = 20.0, points: int = 2001) -> float:
    """The largest x such that no root of `characteristic` leaves the unit disc on [0, x direction]."""

    def grows(x: Tensor) -> Tensor:
        return dominant_root(characteristic(method, x * direction)).abs() > 1 + 1e-12

    grid = torch.linspace(0.0, reach, points, dtype=torch.float64)[1:]
    first = int(grows(grid).int().argmax())
    low, high = float(grid[first]) - reach / (points - 1), float(grid[first])
    if high < 0.05:  # growth by a high power of x drowns in rounding near 0: so short an interval is none
        return 0.0
    while high - low > 1e-13:
        middle = (low + high) / 2
        low, high = (low, middle) if bool(grows(torch.tensor(middle, dtype=torch.float64))) else (middle, high)
    return low


def verify_formula(method: Multistep, who: str) -> None:
    """Raise ClaimRefused unless the coefficients have exactly the stated order and the method converges."""
    refuse_unless(who, method.order, multistep_conditions(method.rho, method.sigma))
    if not root_condition(method.rho):
        raise ClaimRefused(f"{who} has a root of sum_j alpha_j z^j outside the unit disc or twice on it: it diverges.")
    if method.predictor is not None:
        predicts = multistep_conditions(method.rho, method.sigma_predictor)
        attained = attained_order(predicts, at_most=method.order)
        if attained < method.order - 1:
            raise ClaimRefused(
                f"{who} claims order {method.order}, but its predictor has order {attained}, and one correction adds "
                "one at most; correct the predictor."
            )
