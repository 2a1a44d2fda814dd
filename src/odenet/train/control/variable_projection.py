"""The last linear layer is eliminated: it is the best one for the features of the rest, at every step.

    minimise over theta   F(theta) = min over V of L(Z V') + ridge / 2 |V|^2,     Z = [features(theta), 1],  V = [W, b]

By the envelope theorem grad F is plain backprop at V*(theta). With H = d^2 L / dz^2 and J = dz / dtheta at V = V*, the
curvature is the Schur complement of V in the Gauss-Newton matrix of all weights,

    J' M J,     M = H - H E (E' H E + ridge I)^-1 E' H,     E: V -> Z V'

For mean squares H = c I and M = c (I - Z (Z'Z + ridge / c)^-1 Z') for every output: this is Kaufman's approximation,
which leaves the second term of Golub & Pereyra's derivative of the residual, (Z^+)' (dZ)' r, out of the curvature; that
one is orthogonal to the residual r, so the gradient is whole. Golub & Pereyra, SIAM J. Numer. Anal. 10 (1973); Kaufman,
BIT 15 (1975); Newman, Ruthotto, Hart & van Bloemen Waanders (2020), arXiv 2007.13171, for nets and cross-entropy.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn import functional as F

from ...errors import BadInput, Incompatible
from ...flow import Chain
from ...integrators.jacobian import generic
from ..methods import METHODS, Advance, Method, Run, total_of, trained
from .second_order import OPTIONS, Marquardt, Outputs, options, quadratic

Loss = Callable[[Tensor], Tensor]  # outputs -> mean loss of the batch
LARGEST = 3000  # entries of the last layer, whose Hessian is factored
NEWTON = 60  # steps towards the best last layer
EXACT = (
    1e-11  # share of the loss that a Newton step may still promise where it is the last: the next one has its square
)


def separated(net: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """(all but the last layer, the last layer) of a Chain or nn.Sequential that ends in nn.Linear."""
    parts = list(net.parts) if isinstance(net, Chain) else list(net) if isinstance(net, nn.Sequential) else []
    if len(parts) < 2 or type(parts[-1]) is not nn.Linear:
        raise Incompatible(
            f"{type(net).__name__} does not end in a linear layer that could be eliminated; give a Chain or an "
            "nn.Sequential of two parts or more whose last one is an nn.Linear, or take method 'gauss_newton'."
        )
    head = parts[-1]
    if not all(p.requires_grad for p in head.parameters()):
        raise Incompatible("the last layer is frozen, so there is nothing to eliminate; take method 'gauss_newton'.")
    if {id(p) for p in head.parameters()} & {id(p) for part in parts[:-1] for p in part.parameters()}:
        raise Incompatible("the last layer shares its weights with another one and cannot be eliminated.")
    body = Chain(*parts[:-1], gradient=net.gradient) if isinstance(net, Chain) else nn.Sequential(*parts[:-1])
    return body, head


def rows(features: Tensor, bias: bool) -> Tensor:
    """Z in float64: features (..., q) with a column of ones, (n, q + 1)."""
    flat = features.detach().flatten(0, -2).double()
    return torch.cat([flat, torch.ones_like(flat[:, :1])], 1) if bias else flat


def joined(head: nn.Linear) -> Tensor:
    """V = [W, b] in float64, (D, q + 1)."""
    parts = [head.weight] if head.bias is None else [head.weight, head.bias[:, None]]
    return torch.cat([p.detach().double() for p in parts], 1)


@torch.no_grad()
def put(head: nn.Linear, V: Tensor) -> None:
    """Write V into the last layer."""
    head.weight.copy_(V[:, : head.in_features])
    if head.bias is not None:
        head.bias.copy_(V[:, -1])


def _frozen(head: nn.Linear) -> Loss:
    """features -> outputs at the last layer as it is now, which gets no gradient."""
    weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
    return lambda features: F.linear(features, weight, bias)


@dataclass(frozen=True)
class Best:
    """The best last layer V (D, q+1) for features Z (n, q+1): value = L + ridge / 2 |V|^2, and the derivatives there.

    slope dL/dz (n, D), H (n, D, D) by samples, factor: Cholesky of E' H E + ridge I
    """

    V: Tensor
    Z: Tensor
    value: float
    slope: Tensor
    H: Tensor
    factor: Tensor

    def project(self, u: Tensor) -> Tensor:
        """M u for columns u (n, D, K)."""
        Hu = self.H @ u
        w = torch.cholesky_solve(torch.einsum("sdk,sq->dqk", Hu, self.Z).flatten(0, 1), self.factor)
        return Hu - self.H @ torch.einsum("sq,dqk->sdk", self.Z, w.view(*self.V.shape, -1))


def best(loss: Loss, Z: Tensor, V: Tensor, ridge: float) -> Best | None:
    """Newton's method from V with a line search; None where it does not end, as for a loss that is not convex.

    One step solves the normal equations of mean squares, and a second one removes their rounding.
    """
    value, slope, H = _derivatives(loss, Z, V, ridge)
    for _ in range(NEWTON):
        factor = _factor(Z, H, ridge)
        if factor is None or not math.isfinite(value):
            return None
        g = slope.T @ Z + ridge * V
        p = -torch.cholesky_solve(g.reshape(-1, 1), factor).view_as(V)
        promised = -float((g * p).sum()) / 2
        last, step = promised <= EXACT * abs(value), 1.0
        while True:
            new = _derivatives(loss, Z, V + step * p, ridge)
            if last or new[0] <= value - 1e-4 * step * promised:
                break
            step /= 2
            if step < 1e-8:
                return None
        V, (value, slope, H) = V + step * p, new
        if last:
            factor = _factor(Z, H, ridge)
            return Best(V, Z, value, slope, H, factor) if factor is not None else None
    return None


def _derivatives(loss: Loss, Z: Tensor, V: Tensor, ridge: float) -> tuple[float, Tensor, Tensor]:
    """Value, dL/dz (n, D) and the blocks (n, D, D) of d^2 L / dz^2, of a loss that does not couple samples."""
    with torch.enable_grad():
        z = (Z @ V.T).requires_grad_()
        value = loss(z)
        (g,) = torch.autograd.grad(value, z, create_graph=True)
    columns = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:, None].expand(-1, *z.shape)
    H = [torch.autograd.grad(g, z, c, retain_graph=True, materialize_grads=True)[0] for c in columns]
    return float(value.detach()) + ridge / 2 * float(V.detach().square().sum()), g.detach(), torch.stack(H, -1)


def _factor(Z: Tensor, H: Tensor, ridge: float) -> Tensor | None:
    """Cholesky factor of E' H E + ridge I, side D (q+1)."""
    D, q = H.shape[1], Z.shape[1]
    A = Z.new_empty(D, q, D, q)
    for i in range(D):
        for j in range(i + 1):
            A[i, :, j] = A[j, :, i] = Z.T @ (H[:, i, j, None] * Z)  # symmetric itself
    A = A.view(D * q, D * q)
    A.diagonal().add_(ridge)
    L, info = torch.linalg.cholesky_ex(A)
    return L if int(info) == 0 else None


def _doubled(run: Run, batch: Any, shape: torch.Size) -> Loss:
    """The loss of outputs (n, D) in float64, for outputs of `shape`."""
    exact = tuple(v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in batch)
    assert run.terminal is not None
    terminal = run.terminal
    return lambda z: terminal(z.view(*shape[:-1], z.shape[-1]), exact)


def _begun(run: Run, ridge: Any) -> tuple[nn.Module, nn.Linear, list[nn.Parameter]]:
    body, head = separated(run.net)
    if not (isinstance(ridge, int | float) and 0 < ridge < math.inf):
        raise BadInput(f"ridge={ridge!r}: the weight of |V|^2 / 2 is a positive number such as 1e-6.")
    if joined(head).numel() > LARGEST:
        raise Incompatible(
            f"the last layer has {joined(head).numel()} entries and its Hessian is dense; up to {LARGEST}."
        )
    return body, head, [p for p in body.parameters() if p.requires_grad]


def varpro(run: Run) -> Advance:
    """Reduced Gauss-Newton steps on the weights before the last layer, which is the best one at every step.

    ridge: of the last layer, in the place of weight_decay, which is of the others; the history's loss has it. Options
    of "gauss_newton" besides. Raises Incompatible for a net that does not end in nn.Linear, or a loss without a best
    last layer (not convex or not smooth).
    """
    words = options(run, ("ridge", *OPTIONS))
    ridge, decay, marquardt = words.get("ridge", 1e-6), run.weight_decay, Marquardt(words)
    body, head, weights = _begun(run, ridge)

    def advance(batch: Any) -> dict[str, Tensor]:
        inner = Outputs(body, weights, batch[0])  # first of all: the losses have the same dropout masks
        before = {k: v.detach() for k, v in run.losses(batch).items()}
        before["ridge"] = ridge / 2 * joined(head).square().sum().to(total_of(before))
        if not math.isfinite(float(total_of(before))):
            return before
        theta = inner.theta()
        features = inner(theta).detach()
        loss = _doubled(run, batch, features.shape)

        def solved(theta: Tensor, features: Tensor) -> tuple[float, Best | None]:
            Z = rows(features, head.bias is not None)
            found = best(loss, Z, joined(head), ridge) if bool(torch.isfinite(Z).all()) else None
            value = math.inf if found is None else found.value + decay / 2 * float(theta.double() @ theta.double())
            return value, found

        @torch.no_grad()
        def at(theta: Tensor) -> tuple[float, Best | None]:
            return solved(theta, inner(theta))

        value, now = solved(theta, features)
        if now is None:
            raise Incompatible(
                f"no best last layer was found in {NEWTON} Newton steps: the loss is not smooth and convex in the "
                "outputs, or ridge is too small; take mean squares or cross-entropy, or a larger ridge."
            )
        put(head, now.V)
        if not weights:
            return before
        outputs = inner.followed(_frozen(head))
        shape = (*features.shape[:-1], len(now.V))

        def M(u: Tensor) -> Tensor:
            return now.project(u.reshape(-1, shape[-1], u.shape[-1]).double()).to(u).view_as(u)

        slope = now.slope.to(theta).view(shape)
        model = quadratic(outputs, theta, slope, M, decay, words)
        found = marquardt.step(theta, value, model, at, run.notes)
        if found is not None:
            inner.put(found[0])
            put(head, found[1].V)
        return before

    return advance


@dataclass
class Tikhonov:
    """The last layer from batches: sampled, of limited memory, with a regularisation chosen by cross-validation.

        V_k = V_{k-1} - (R_k' Z_k / S + lambda_k V_{k-1}) A_k^-1,     R_k = Z_k V_{k-1}' - C_k,
        A_k = sum over the last r batches and this one of Z_i' Z_i / S + (lambda_1 + ... + lambda_k) I

    which is the minimiser of |Z_k V' - C_k|^2 / (2 S) + lambda_k / 2 |V|^2 + |V - V_{k-1}|^2 / 2, the last one in the
    norm of what A_k was before the batch. With all batches in memory, features that stay and A_0 V_0 = 0 it is the
    Tikhonov solution of all of them (recursive least squares). lambda_k minimises, over total regularisations from
    half of the last one to `highest`, the sampled generalised cross-validation function

        |Z_k V_k' - C_k|^2 / (S - trace(Z_k A_k^-1 Z_k' / S))^2

    Newman, Chung, Chung & Ruthotto, SIAM J. Sci. Comput. 44 (2022), arXiv 2109.14002.
    """

    memory: int
    total: float = 0.05
    lowest: float = 1e-7
    highest: float = 1e3
    chosen: bool = True
    grams: deque[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.grams = deque(maxlen=self.memory + 1)

    def step(self, V: Tensor, Z: Tensor, C: Tensor, increment: float = 0.0) -> Tensor:
        """V (D, q) after a batch of features Z (S, q) with targets C (S, D); `increment`: lambda_k where not chosen."""
        self.grams.append(Z.T @ Z / len(Z))
        e, U = torch.linalg.eigh(torch.stack(list(self.grams)).sum(0))
        right, ZU, VU = ((Z @ V.T - C).T @ Z / len(Z)) @ U, Z @ U, V @ U

        def solved(total: float) -> Tensor:
            return VU - (right + (total - self.total) * VU) / (e.clamp(min=0) + total)

        def gcv(total: float) -> float:
            left = len(Z) - float((ZU.square().sum(0) / (e.clamp(min=0) + total)).sum()) / len(Z)
            return float((ZU @ solved(total).T - C).square().sum()) / max(left, 1e-12) ** 2

        if self.chosen:
            low = max(self.lowest, self.total / 2)
            grid = torch.logspace(math.log10(low), math.log10(max(self.highest, 2 * low)), 40).tolist()
            total = min([self.total, *grid], key=gcv)
        else:
            total = self.total + increment
        new = solved(total) @ U.T
        self.total = total
        return new


def slimtrain(run: Run) -> Advance:
    """The last layer by sampled limited-memory Tikhonov regularisation, the rest by Adam at the new last layer.

    memory: batches before the current one that the last layer remembers; `lowest`, `highest`: total regularisation.
    Raises Incompatible for a loss other than mean squares, or a net that does not end in nn.Linear.
    """
    trained(run, ("memory", "lowest", "highest", "betas"))
    if run.terminal is None:
        raise BadInput("slimtrain needs a loss of the net's output alone, without penalty; use 'adam'.")
    memory = run.options.get("memory", 5)
    low, high = (float(run.options.get(k, v)) for k, v in (("lowest", 1e-7), ("highest", 1e3)))
    if not (isinstance(memory, int) and memory >= 0 and 0 < low < high < math.inf):
        raise BadInput(
            f"memory={memory!r}, lowest={low:g}, highest={high:g}: wanted memory >= 0 and 0 < lowest < highest."
        )
    body, head, weights = _begun(run, low)
    tikhonov = Tikhonov(memory, max(0.05, low) if high > 0.05 else low, low, high)
    words = {k: run.options[k] for k in ("betas",) if k in run.options}
    adam = torch.optim.Adam(weights, lr=run.lr, weight_decay=run.weight_decay, **words) if weights else None
    schedule = run.schedule(adam) if run.schedule and adam else None

    def advance(batch: Any) -> dict[str, Tensor]:
        features = body(batch[0])
        assert run.terminal is not None
        before = run.terminal(head(features), batch).detach()
        if not math.isfinite(float(before)):
            return {"data": before}
        Z = rows(features, head.bias is not None)
        with torch.no_grad():
            C = _targets(_doubled(run, batch, features.shape), Z @ joined(head).T)
            put(head, tikhonov.step(joined(head), Z, C))
        run.notes["ridge"] = tikhonov.total
        if adam is not None:
            adam.zero_grad(set_to_none=True)
            output = _frozen(head)(features)
            run.terminal(output, batch).backward()
            if run.clip is not None:
                nn.utils.clip_grad_norm_(weights, run.clip)
            adam.step()
            if schedule is not None:
                schedule.step()
        return {"data": before}

    return advance


def _targets(loss: Loss, z: Tensor) -> Tensor:
    """C of a loss c |z - C|^2 / 2, from its slopes. Raises Incompatible for any other loss."""
    with torch.enable_grad():
        slope, step = grad(loss)(z), generic(z)
        moved = grad(loss)(z + step) - slope
    c = float((moved * step).sum() / step.square().sum())
    if not (c > 0 and torch.allclose(moved, c * step, rtol=1e-6, atol=1e-6 * c)):
        raise Incompatible(
            "slimtrain solves linear least squares for the last layer, and the loss is no mean of squares; give "
            "one-hot targets in floating point, or take method 'varpro', which knows cross-entropy."
        )
    return z - slope / c


METHODS.register(
    "varpro",
    Method(
        varpro,
        batch=None,
        needs="output",
        cite="Newman, Ruthotto, Hart & van Bloemen Waanders (2020), arXiv 2007.13171",
        when="As gauss_newton for a net that ends in a linear layer: fewer steps, above all the first ones.",
    ),
)
METHODS.register(
    "slimtrain",
    Method(
        slimtrain,
        batch=64,
        needs="squares",
        cite="Newman, Chung, Chung & Ruthotto (2022), SIAM J. Sci. Comput. 44, arXiv 2109.14002",
        when="Regression in minibatches by a net that ends in a linear layer, without tuning its regularisation.",
    ),
)
