"""Spectra and sensitivities of states too large for Jacobians (images): extreme values from products J v and J^T w.

Eigenvalues are Ritz values of Arnoldi's iteration (Arnoldi 1951; Saad 1980), which finds the outer ones first: those
decide about stability regions. Norms are leading singular values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .region import growing, growth
from .sensitivity import Sensitivity
from .spectrum import LayerSpectrum, evenly
from .tangents import Product, amplification, directions, leading
from .unroll import Interval, Unrolled

_WANTED = 4  # singular values that are reported
_STEPS, _CONVERGED = 60, 1e-3  # of Arnoldi's iteration; residual, of the largest eigenvalue
_BASIS = 24
Map = Callable[[Any], Any]


def leading_sensitivity(unrolled: Unrolled, layers: int = 8, steps: int = 16) -> Sensitivity:
    """What `sensitivity` says about largest singular values, without a Jacobian; `values` are the leading ones.

    No norm is larger than the true one; 16 steps give two to four digits. Cost: `steps` runs of the net forward and
    backward for each layer.
    """
    depth, at = unrolled.depth, evenly(range(unrolled.depth), layers)

    def norms(start: int, end: int) -> Tensor:
        J = Product(unrolled, start, end)
        v = directions(len(unrolled.x), J.shape[1], unrolled.states[0][0])
        return leading(J.push, J.pull, v, min(steps, *J.shape)).values

    prefixes = [norms(0, n + 1) for n in at]
    random, _ = amplification(unrolled, 1)
    return Sensitivity(
        at,
        torch.stack([norms(n, depth)[:, 0] for n in at]),
        torch.stack([values[:, 0] for values in prefixes]),
        float(random.mean()),
        prefixes[-1][:, :_WANTED],
        [values[:, :_WANTED] for values in prefixes],
    )


def krylov_spectra(unrolled: Unrolled, layers: int = 4) -> list[LayerSpectrum]:
    """Extreme eigenvalues and logarithmic norms of the field at few layers, for states of any size."""
    mine = [n for n in range(unrolled.finite_until) if unrolled.layers[n].interval is not None]
    return [_spectrum(n, unrolled.layers[n].interval, unrolled.states[n][0]) for n in evenly(mine, layers)]  # type: ignore[arg-type]


def _spectrum(layer: int, interval: Interval, y: Tensor) -> LayerSpectrum:
    method = interval.flow.integrator
    samples = [y[p : p + 1] for p in range(len(y))]
    found = [_eigenvalues(interval, s) for s in samples]
    count = max(len(values) for values in found)
    eigenvalues = torch.stack([torch.cat((v, v[-1:].expand(count - len(v)))) for v in found])
    ends = torch.tensor([_symmetric_ends(interval, s) for s in samples], dtype=torch.float64)
    scaled = eigenvalues * interval.h
    return LayerSpectrum(
        layer,
        interval,
        eigenvalues,
        scaled,
        growth(method, scaled, interval.coef or None),
        growing(method, scaled),
        ends[:, 1],
        ends[:, 0],
        torch.stack([values.real.max() for values in found]),
    )


class _Linear:
    """J v and J^T w of a map at one state (1, ...), for numpy vectors."""

    def __init__(self, run: Callable[[Tensor], Tensor], y: Tensor) -> None:
        self._input = y.detach().requires_grad_()
        with torch.enable_grad():
            self._out = run(self._input)
            self._probe = torch.zeros_like(self._out, requires_grad=True)
            self._dual = self._grad(self._out, self._input, self._probe, create_graph=True)
        self.size = y.numel()

    @staticmethod
    def _grad(out: Tensor, at: Tensor, w: Tensor, **words: bool) -> Tensor:
        if not out.requires_grad:
            return torch.zeros_like(at)
        (found,) = torch.autograd.grad(out, at, w, retain_graph=True, allow_unused=True, **words)
        return torch.zeros_like(at) if found is None else found

    def transposed(self, w: Any) -> Any:
        """J^T w."""
        v = torch.as_tensor(w).to(self._out).reshape(self._out.shape)
        return self._grad(self._out, self._input, v).detach().double().cpu().numpy().ravel()

    def direct(self, v: Any) -> Any:
        """J v = d/dw (v . J^T w): backward through the backward pass."""
        u = torch.as_tensor(v).to(self._dual).reshape(self._dual.shape)
        return self._grad(self._dual, self._probe, u).detach().double().cpu().numpy().ravel()


def _eigenvalues(interval: Interval, y: Tensor) -> Tensor:
    """Extreme eigenvalues (K,) complex; of y'' = f and of separable fields +-sqrt of those of one half."""
    rhs, t = interval.rhs, interval.t
    field = interval.flow.march.field
    if "second_order" in interval.flow.integrator.needs:
        return _pairs(_extreme(_Linear(lambda v: rhs(t, v), y).transposed, y.numel()))
    if "separable" in field.offers:
        q, p = field.split(y)
        kick, drift = _Linear(lambda v: rhs.kick(t, v), q), _Linear(lambda v: rhs.drift(t, v), p)
        return _pairs(_extreme(lambda v: kick.transposed(drift.transposed(v)), q.numel()))
    return _extreme(_Linear(lambda v: rhs(t, v), y).transposed, y.numel())


def _pairs(values: Tensor) -> Tensor:
    root = torch.sqrt(values)
    return torch.cat((root, -root))


def _extreme(apply: Map, size: int) -> Tensor:
    """Ritz values of J from one Arnoldi run: those that have converged, and the largest in modulus, real and imaginary
    part in any case. All eigenvalues where the state has no more entries than the run has steps."""
    import numpy as np

    steps = min(_STEPS, size)
    Q, H = np.zeros((size, steps + 1)), np.zeros((steps + 1, steps))
    Q[:, 0] = directions(1, size, torch.zeros((), dtype=torch.float64))[0].numpy()
    for n in range(steps):
        w = apply(Q[:, n])
        before = np.linalg.norm(w)
        for _ in range(2):
            part = Q[:, : n + 1].T @ w
            H[: n + 1, n] += part
            w = w - Q[:, : n + 1] @ part
        left = np.linalg.norm(w)
        if left <= 1e-13 * float(before) or left == 0.0:
            steps = n + 1
            break
        H[n + 1, n], Q[:, n + 1] = left, w / left
    values, vectors = np.linalg.eig(H[:steps, :steps])
    residual = abs(H[steps, steps - 1] * vectors[-1])
    kept = residual <= _CONVERGED * np.abs(values).max()
    kept[[int(abs(values).argmax()), int(values.real.argmax()), int(values.imag.argmax())]] = True
    return torch.tensor(values[kept], dtype=torch.complex128)


def _symmetric_ends(interval: Interval, y: Tensor) -> tuple[float, float]:
    """lambda_min and lambda_max of (J + J^T)/2, of the first-order system where the method steps y'' = f."""
    import numpy as np
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh

    J, n = _Linear(lambda v: interval.rhs(interval.t, v), y), y.numel()
    second = "second_order" in interval.flow.integrator.needs

    def half(v: Any) -> Any:
        v = np.asarray(v).ravel()
        if not second:
            return (J.direct(v) + J.transposed(v)) / 2
        a, b = v[:n], v[n:]
        return np.concatenate((b + J.transposed(b), a + J.direct(a))) / 2

    size = 2 * n if second else n
    operator = LinearOperator((size, size), matvec=half, dtype=np.float64)
    start = directions(1, size, torch.zeros((), dtype=torch.float64))[0].numpy()
    try:
        values = eigsh(operator, 2, which="BE", v0=start, ncv=_BASIS, tol=1e-3, maxiter=50, return_eigenvectors=False)
    except ArpackNoConvergence as some:
        values = some.eigenvalues if len(some.eigenvalues) else [float(start @ half(start))]
    except ArpackError:
        values = [0.0]
    return float(min(values)), float(max(values))
