"""Gauss-Newton for nets: a damped quadratic model of the loss, by products with the Jacobian of the outputs.

    F(theta) = L(z(theta)) + decay / 2 |theta|^2,    z: outputs of the net for the batch, J = dz / dtheta
    (J' M J + (decay + damping) I) p = -grad F,      M = H = d^2 L / dz^2

For mean squares H is a multiple of I and this is Levenberg-Marquardt; for cross-entropy H = (diag s - s s') / S for
every sample with its probabilities s (Schraudolph, Neural Comput. 14 (2002): generalised Gauss-Newton). M is another
map of the outputs where weights of the last layer are eliminated (variable_projection.py). J v is a forward and J' u a
reverse derivative, so that J is not stored; where it is small, the Jacobians of the samples give J' M J itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vjp, vmap

from ...errors import BadInput, Incompatible
from ...integrators.jacobian import along, generic
from ...optimise.krylov import conjugate_gradients
from ..methods import METHODS, Advance, Method, Run, total_of, trained

Linear = Callable[[Tensor], Tensor]
OPTIONS = ("damping", "iterations", "tolerance", "trials", "solver")
LARGEST = 1500  # weights from which on conjugate gradients take the place of a factor
HELD = 2**28  # bytes of the samples' Jacobians
GAIN = 1e-4  # share of the foretold fall of the loss that a step must keep
SOLVERS = ("auto", "dense", "cg")


class Outputs:
    """theta (P,) -> what `after` makes of the outputs of a net for a batch of inputs, one theta for all its weights.

    Random numbers are those of the first evaluation, so that dropout has one mask for all of a step.
    """

    def __init__(self, net: nn.Module, weights: list[nn.Parameter], x: Any, after: Linear | None = None) -> None:
        named = {id(p): k for k, p in net.named_parameters()}
        self.net, self.x, self.after = net, x, after or (lambda z: z)
        self.weights, self.names = weights, [named[id(p)] for p in weights]
        self.random = torch.random.get_rng_state()

    def __call__(self, theta: Tensor) -> Tensor:
        torch.random.set_rng_state(self.random)
        return self.after(functional_call(self.net, self._named(theta), (self.x,)))

    def followed(self, after: Linear) -> Outputs:
        """The same with a map behind it, under the same random numbers."""
        out = Outputs(self.net, self.weights, self.x, after)
        out.random = self.random
        return out

    def of_samples(self, theta: Tensor) -> Tensor:
        """Jacobians (S, D, P) of the outputs of every sample, as if no sample looked at another."""

        def one(theta: Tensor, x: Tensor) -> Tensor:
            return self.after(functional_call(self.net, self._named(theta), (x[None],)))[0].reshape(-1)

        return vmap(jacrev(one), in_dims=(None, 0))(theta, self.x).detach()

    def theta(self) -> Tensor:
        """The weights as they are, (P,)."""
        return torch.cat([p.detach().reshape(-1) for p in self.weights]) if self.weights else torch.zeros(0)

    @torch.no_grad()
    def put(self, theta: Tensor) -> None:
        """Write theta into the net."""
        for p, part in zip(self.weights, theta.split([p.numel() for p in self.weights])):
            p.copy_(part.view_as(p))

    def _named(self, theta: Tensor) -> dict[str, Tensor]:
        parts = theta.split([p.numel() for p in self.weights])
        return {k: part.view_as(p) for k, p, part in zip(self.names, self.weights, parts)}


@dataclass
class Quadratic:
    """g' p + p' (J' M J + decay I) p / 2 at theta; `matrix` is J' M J + decay I, or None: products only."""

    gradient: Tensor
    apply: Linear
    matrix: Tensor | None
    tolerance: float
    iterations: int
    products: int = 0  # with J' M J, made by `solve`

    def solve(self, damping: float) -> tuple[Tensor, float] | None:
        """The step and the fall that the model foretells; None where the matrix is not positive definite."""
        g = self.gradient
        if self.matrix is not None:
            L, info = torch.linalg.cholesky_ex(
                self.matrix + damping * torch.eye(len(g), dtype=g.dtype, device=g.device)
            )
            if int(info) != 0:
                return None
            p = -torch.cholesky_solve(g[:, None], L)[:, 0]
            curved = self.matrix @ p
        else:

            def damped(q: Tensor) -> Tensor:
                self.products += 1
                return self.apply(q) + damping * q

            p, left = conjugate_gradients(damped, -g, lambda q: q, self.tolerance, self.iterations)
            curved = -g - left - damping * p
        foretold = -float(g @ p) - float(p @ curved) / 2
        return (p, foretold) if bool(torch.isfinite(p).all()) else None


@contextmanager
def _through() -> Iterator[None]:
    """What torch.func says of a net that it cannot differentiate, as one sentence."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as problem:
        raise Incompatible(
            f"torch.func does not differentiate this net ({str(problem).splitlines()[0][:120]}); give its flows "
            "gradient='autograd', or take method 'lbfgs'."
        ) from None


def _directional(outputs: Outputs, theta: Tensor, z: Tensor, pull: Callable[[Tensor], tuple[Tensor]]) -> Linear:
    """v -> J v: (d(J'u)/du)' v by reverse mode twice, four times as fast as forward mode for want of Python in it.

    Forward mode it is for flows that are differentiated once, such as those of implicit steps.
    """
    try:
        with _through():
            push = vjp(lambda u: pull(u)[0], torch.zeros_like(z))[1]
            push(torch.zeros_like(theta))  # what has no second derivative says so here
    except Incompatible:
        return lambda v: along(outputs, theta, v)
    return lambda v: push(v)[0]


def quadratic(
    outputs: Outputs, theta: Tensor, slope: Tensor, M: Linear, decay: float, words: dict[str, Any]
) -> Quadratic:
    """The model at theta: `slope` is dL/dz, M a symmetric positive semidefinite map of the
    outputs, by columns: (*z.shape, K) -> (*z.shape, K).

    Raises Incompatible for a net that torch.func does not differentiate.
    """
    with _through():
        forth = vjp(outputs, theta)
        z, pull = forth[0], forth[1]
    push = _directional(outputs, theta, z, pull)

    def apply(v: Tensor) -> Tensor:
        with _through():
            return pull(M(push(v)[..., None])[..., 0])[0].detach() + decay * v

    gradient = pull(slope)[0].detach() + decay * theta
    matrix = None
    small = len(theta) <= LARGEST and z.numel() * len(theta) * z.element_size() <= HELD
    if words["solver"] == "dense" or (words["solver"] == "auto" and small):
        matrix = _dense(outputs, theta, z, M, decay)
        if matrix is not None:
            probe = apply(generic(theta))
            off = (matrix @ generic(theta) - probe).abs().max()
            matrix = matrix if bool(off <= 1e-3 * probe.abs().max()) else None  # samples look at each other
        if matrix is None and words["solver"] == "dense":
            raise Incompatible(
                "the samples of this net have no Jacobians of their own: it is adaptive, random or normalises over the "
                "batch; leave solver out."
            )
    return Quadratic(gradient, apply, matrix, words["tolerance"], words["iterations"])


def _dense(outputs: Outputs, theta: Tensor, z: Tensor, M: Linear, decay: float) -> Tensor | None:
    """J' M J + decay I from the Jacobians of the samples; None where they cannot be had."""
    try:
        J = outputs.of_samples(theta)
    except (RuntimeError, NotImplementedError, IndexError):
        return None
    if J.shape[:2].numel() != z.numel():
        return None
    J = J.reshape(z.numel(), len(theta))
    G = J.T @ M(J.view(*z.shape, len(theta))).reshape(J.shape)
    G = (G + G.T) / 2
    G.diagonal().add_(decay)
    return G


class Marquardt:
    """The damping that goes from step to step: Nielsen, IMM-REP-1999-05, as in `optimise.GaussNewton`."""

    def __init__(self, words: dict[str, Any]) -> None:
        self.first, self.trials = words["damping"], words["trials"]
        self.damping, self.growth = -1.0, 2.0

    def step(
        self, theta: Tensor, value: float, model: Quadratic, at: Callable[[Tensor], tuple[float, Any]], notes: dict
    ) -> tuple[Tensor, Any] | None:
        """(new theta, what `at` found there beside the value), of a lower value; None where no damping gives one.

        After trials in vain the next step goes on with the damping that they ended with.
        """
        if self.damping < 0:
            g = model.gradient
            size = float(g @ g)
            self.damping = self.first * (float(g @ model.apply(g)) / size if size > 0 else 1.0) or self.first
        first = self.damping
        for rejected in range(self.trials):
            notes["damping"], notes["rejected"] = self.damping, float(rejected)
            move = model.solve(self.damping)
            notes["products"] = float(model.products)
            if move is not None and not move[1] > torch.finfo(theta.dtype).eps * abs(value):
                self.damping, self.growth = first, 2.0
                return None  # what a step could still take away is rounding
            if move is not None:
                found, extra = at(theta + move[0])
                gain = (value - found) / move[1] if math.isfinite(found) else -math.inf
                if gain > GAIN:
                    self.damping = max(self.damping * max(1 / 3, 1 - (2 * min(gain, 1.0) - 1) ** 3), 1e-30)
                    self.growth = 2.0
                    return theta + move[0], extra
            self.damping, self.growth = self.damping * self.growth, self.growth * 2
        self.damping, self.growth = min(self.damping, 1e12), min(self.growth, 1e6)
        notes["rejected"] = float(self.trials)
        return None


def options(run: Run, allowed: tuple[str, ...] = OPTIONS) -> dict[str, Any]:
    """The options of a second-order method with their defaults; raises BadInput for those that cannot be right."""
    trained(run, allowed)
    if run.clip is not None or run.schedule is not None:
        raise BadInput("clip and schedule belong to gradient descent; damping sets the step of a second-order method.")
    if run.terminal is None:
        raise BadInput("a second-order method needs a loss of the net's output alone, without penalty; use 'lbfgs'.")
    words = {"damping": 1e-3, "iterations": 100, "tolerance": 1e-2, "trials": 12, "solver": "auto", **run.options}
    for name in ("damping", "tolerance"):
        if not (isinstance(words[name], int | float) and 0 < words[name] < math.inf):
            raise BadInput(f"{name}={words[name]!r} is a positive number.")
    for name in ("iterations", "trials"):
        if not (isinstance(words[name], int) and words[name] >= 1):
            raise BadInput(f"{name}={words[name]!r} is a positive whole number.")
    if words["solver"] not in SOLVERS:
        raise BadInput(f"solver={words['solver']!r} is none of {', '.join(SOLVERS)}.")
    return words


def curvature(terminal: Callable[[Tensor], Tensor], z: Tensor) -> Linear:
    """U (*z.shape, K) -> H U by columns, H the Hessian of a loss in the outputs, by reverse mode: it is symmetric."""
    pull = vjp(torch.func.grad(terminal), z)[1]
    return lambda U: vmap(lambda u: pull(u)[0], in_dims=-1, out_dims=-1)(U).detach()


def gauss_newton(run: Run) -> Advance:
    """Damped Gauss-Newton steps on the batch, taken where its loss falls as foretold.

    damping:    the first one, relative to the curvature of the loss along its gradient
    solver:     "dense", "cg", or "auto": a factor of J' M J for up to 1500 weights
    tolerance, iterations: of conjugate gradients; trials: dampings of a step before the weights are left as they are
    The history has damping, rejected and products (with J' M J: one J v and one J' u each) of every step.
    """
    words, terminal = options(run), run.terminal
    assert terminal is not None
    weights = [p for p in run.net.parameters() if p.requires_grad]
    marquardt, decay = Marquardt(words), run.weight_decay

    def advance(batch: Any) -> dict[str, Tensor]:
        outputs = Outputs(run.net, weights, batch[0])  # first of all: the losses have the same dropout masks
        before = {k: v.detach() for k, v in run.losses(batch).items()}
        theta = outputs.theta()
        value = float(total_of(before)) + decay / 2 * float(theta @ theta)
        if not math.isfinite(value):
            return before

        def loss(z: Tensor) -> Tensor:
            return terminal(z, batch)

        @torch.no_grad()
        def at(theta: Tensor) -> tuple[float, None]:
            return float(loss(outputs(theta))) + decay / 2 * float(theta @ theta), None

        z = outputs(theta).detach()
        model = quadratic(outputs, theta, torch.func.grad(loss)(z), curvature(loss, z), decay, words)
        found = marquardt.step(theta, value, model, at, run.notes)
        if found is not None:
            outputs.put(found[0])
        return before

    return advance


METHODS.register(
    "gauss_newton",
    Method(
        gauss_newton,
        batch=None,
        needs="output",
        cite="Marquardt (1963), SIAM J. Appl. Math. 11; Schraudolph (2002), Neural Comput. 14",
        when="A small net on all data at once whose loss should fall by many powers of ten: regression, surrogates.",
    ),
)
