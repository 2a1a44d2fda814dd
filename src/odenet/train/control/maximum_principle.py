"""Pontryagin's maximum principle as a training method: sweep, then every layer maximises its Hamiltonian for itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import BadInput
from ...types import Params
from ..methods import METHODS, Advance, Method, Run, total_of, trained
from ..tasks import resolve
from .augmented import Augmented

LI = "Li, Chen, Tai & E (2018), JMLR 18(165)"
OPTIONS = ("inner", "costates")


def _begun(run: Run, options: tuple[str, ...]) -> tuple[Augmented, Callable[[Any], Callable[[Any], Tensor]]]:
    """The control problem, and batch -> (output -> loss). Raises BadInput for words that mean nothing here."""
    trained(run, options)
    if run.clip is not None or run.schedule is not None:
        raise BadInput("clip and schedule belong to gradient descent; rho sets the step of a control method.")
    if run.output is None:
        raise BadInput("this problem has no loss of the net's output alone, which a control method needs; use 'adam'.")
    words = {k: run.options[k] for k in OPTIONS if k in run.options}
    words |= {"weight_decay": run.weight_decay, "penalty": run.penalty, "constraint": run.constraint}
    output = run.output

    def losses(batch: Any) -> Callable[[Any], Tensor]:
        return lambda out: output(out[0], batch) + out[-1].mean() if run.penalty else output(out, batch)

    return Augmented(run.net, **words), losses


def _rho(run: Run, default: float) -> float:
    rho = run.options.get("rho", default)
    if not (isinstance(rho, int | float) and 0 < rho < math.inf):
        raise BadInput(f"rho={rho!r}: the weight of the penalties is a positive number; 0.1 to 3 is usual.")
    return float(rho)


def _plain(fixed: float | None) -> Callable[[Run], Advance]:
    """Sweeps and argmax with one rho: `fixed`, or the option."""

    def begin(run: Run) -> Advance:
        problem, losses = _begun(run, OPTIONS if fixed is not None else ("rho", *OPTIONS))
        rho = _rho(run, 1.0) if fixed is None else fixed

        def advance(batch: Any) -> dict[str, Tensor]:
            before = {k: v.detach() for k, v in run.losses(batch).items()}
            if math.isfinite(float(total_of(before))):
                seen = problem.sweep(batch[0], losses(batch))
                problem.put(problem.argmax(seen, losses(batch), rho))
            return before

        return advance

    return begin


def sqh(run: Run) -> Advance:
    """Sequential quadratic Hamiltonian method: E-MSA whose rho is chosen so that the loss of the batch never rises.

    A step is taken where J(new) <= J(old) - eta |new - old|^2, and rho then shrinks; else rho grows and the argmax is
    repeated with the same states and costates. `rho` to begin with, `shrink`, `grow`, `eta`, `trials` of one step.
    """
    problem, losses = _begun(run, ("rho", "shrink", "grow", "eta", "trials", *OPTIONS))
    rho, given = _rho(run, 0.1), run.options
    shrink, grow, eta = (float(given.get(k, v)) for k, v in (("shrink", 0.6), ("grow", 4.0), ("eta", 1e-9)))
    trials = given.get("trials", 12)
    if not (0 < shrink <= 1 < grow and eta >= 0 and isinstance(trials, int) and trials >= 1):
        raise BadInput(
            f"shrink={shrink:g}, grow={grow:g}, eta={eta:g}, trials={trials!r}: wanted 0 < shrink <= 1 < grow, "
            "eta >= 0 and one trial or more."
        )

    def advance(batch: Any) -> dict[str, Tensor]:
        nonlocal rho
        before = {k: v.detach() for k, v in run.losses(batch).items()}
        value = float(total_of(before)) + _decay(run)
        if not math.isfinite(value):
            return before
        seen, old = problem.sweep(batch[0], losses(batch)), [layer.weights() for layer in problem.layers]
        for rejected in range(trials):
            run.notes["rho"], run.notes["rejected"] = rho, float(rejected)
            new = problem.argmax(seen, losses(batch), rho)
            problem.put(new)
            with torch.no_grad():
                found = float(total_of(run.losses(batch))) + _decay(run)
            if found <= value - eta * _distance(old, new):
                rho *= shrink
                return before
            problem.put(old)
            rho *= grow
        run.notes["rejected"] = float(trials)
        return before

    return advance


@torch.no_grad()
def _decay(run: Run) -> float:
    if not run.weight_decay:
        return 0.0
    return 0.5 * run.weight_decay * sum(float(p.square().sum()) for p in run.net.parameters() if p.requires_grad)


def _distance(old: list[Params], new: list[Params]) -> float:
    return sum(float((b[k] - a[k]).square().sum()) for a, b in zip(old, new) for k in a)


def pmp_gap(
    net: nn.Module, data: Any, rho: float = 1.0, inner: int = 20, *, loss: Any = None, costates: bool = True
) -> dict[str, float]:
    """By layer, how far the weights are from Pontryagin's condition: max over theta of the augmented Hamiltonian minus
    its value at the layer's own weights; at least 0, and 0 at a solution of the maximum principle.

    data: as of `fit`; its training part is taken at once. The layers with the largest gaps are those to refine or to
    train on. rho > 0 keeps the maximum finite where the Hamiltonian is linear in the weights. Raises BadInput,
    Incompatible as `fit(method="emsa")` does.
    """
    if not 0 < rho < math.inf:
        raise BadInput(f"rho={rho!r}: the weight of the penalties is a positive number.")
    problem = resolve(data, loss=loss, validation=None, test=None, holdout=0.0, seed=0)
    x, _ = batch = problem.sample(2**62, torch.Generator().manual_seed(0))
    augmented = Augmented(net, costates=costates, inner=inner)

    def terminal(out: Any) -> Tensor:
        return total_of(problem.losses(lambda _: out, batch))

    seen = augmented.sweep(x, terminal)
    best = augmented.argmax(seen, terminal, rho)
    gaps = {}
    for n, (layer, theta) in enumerate(zip(augmented.layers, best)):
        if theta:
            now = float(augmented.value(n, layer.weights(), seen, terminal, rho).detach())
            gaps[layer.name] = now - float(augmented.value(n, theta, seen, terminal, rho).detach())
    return gaps


METHODS.register(
    "msa",
    Method(
        _plain(0.0),
        batch=None,
        layerwise=True,
        cite=LI,
        when="To see why the plain method of successive approximations does not converge; train with sqh.",
    ),
)
METHODS.register(
    "emsa",
    Method(
        _plain(None),
        batch=None,
        layerwise=True,
        cite=LI,
        when="The extended method with a penalty rho of your own choice.",
    ),
)
METHODS.register(
    "sqh",
    Method(
        sqh,
        batch=None,
        layerwise=True,
        cite=f"{LI}; Hofmann & Borzi (2025), arXiv 2504.11647",
        when="The control method to begin with: the loss of a full batch never rises, and rho needs no tuning.",
    ),
)
