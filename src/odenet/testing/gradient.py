"""`check_gradient`: a way to differentiate a march held against autograd through the same steps."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import fields
from ..errors import BadInput, Incompatible, NotBuiltYet, OdenetError
from ..fields import Field
from ..flow import GRADIENTS, Flow, Gradient
from .method import EXACT, Check, Skip, carried_out, check, difference, held, instance
from .report import Finding, Report

CHECKS: dict[str, Check] = {}
# what a gradient may ask of a flow differs: it is looked at on all of these that it accepts
_PAIRS = (("free", "rk4"), ("free", "dopri5"), ("separable", "verlet"), ("free", "ab2"), ("free", "two_step_midpoint"))


@dataclass(frozen=True)
class Case:
    """The gradient and autograd on one field and integrator."""

    gradient: Gradient
    field: Field
    integrator: str

    def flow(self, gradient: Gradient | str, substeps: int | None = None) -> Flow:
        """Four knot intervals with weights of their own, in float64."""
        return Flow(
            self.field, self.integrator, steps=4, substeps=substeps, gradient=gradient, rtol=1e-7, atol=1e-9
        ).double()

    @property
    def start(self) -> Tensor:
        """y0, (3, 4)."""
        return torch.randn(3, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def derivatives(self, gradient: Gradient | str, saved: bool = False, substeps: int | None = None) -> Tensor:
        """d/d(y0, weights) of a weighted sum of the result, flattened."""
        flow, y0 = self.flow(gradient, substeps), self.start.requires_grad_()
        out = flow.trajectory(y0) if saved else flow(y0)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        found = torch.autograd.grad((weight * out).sum(), (y0, *flow.parameters()))
        return torch.cat([g.reshape(-1) for g in found])


def check_gradient(obj: Any) -> Report:
    """Hold a gradient method against autograd, on every kind of flow that it accepts.

    obj: a registered name, a Gradient, or a class of one
    Same result with and without a graph; derivatives in y0 and in all weights, of the end and of the trajectory;
    seeds under vmap; second derivatives, which are right or refused. A method for the exact flow, as a continuous
    adjoint is, passes where its error vanishes with the step. Raises BadInput for what is no gradient.
    """
    made = GRADIENTS.get(obj) if isinstance(obj, str) else instance(obj) if inspect.isclass(obj) else obj
    if not isinstance(made, Gradient):
        raise BadInput(f"a gradient is one of {', '.join(sorted(GRADIENTS))} or a Gradient; got {obj!r}.")
    known = {"free": fields.Free(4), "separable": fields.SeparableHamiltonian(4)}
    findings: list[Finding] = []
    for field, integrator in _PAIRS:
        case = Case(made, known[field], integrator)
        try:
            case.flow(made)
        except (Incompatible, NotBuiltYet) as refusal:
            findings.append(Finding(f"on {integrator}", None, f"refused: {refusal}"))
            continue
        for name, function in CHECKS.items():
            findings += carried_out(f"{name} ({integrator})", function, case)
    if all(f.passed is None for f in findings):
        findings.append(
            Finding("flows", False, "no flow is accepted, so nothing could be looked at; let check() accept one")
        )
    return Report(f"gradient {getattr(made, 'name', type(made).__name__)!r}", tuple(findings))


@check("result", CHECKS)
def result(m: Case) -> Iterator[Finding]:
    """The states are those of autograd, with and without a graph, at the end and at all knots."""
    name = f"result ({m.integrator})"
    wanted, flow = m.flow("autograd"), m.flow(m.gradient)
    y0 = m.start.requires_grad_()
    with torch.no_grad():
        quiet = difference(flow(m.start), wanted(m.start))
    gap = max(quiet, difference(flow(y0), wanted(y0)), difference(flow.trajectory(y0), wanted.trajectory(y0)))
    yield held(
        name,
        gap,
        EXACT,
        "the states are those of autograd",
        "the states differ from those of autograd; return what march.run gives",
    )


@check("derivatives", CHECKS)
def derivatives(m: Case) -> Iterator[Finding]:
    """In y0 and every weight."""
    for what, saved in (("the end", False), ("the trajectory", True)):
        name = f"derivatives ({m.integrator})"
        gap = difference(m.derivatives(m.gradient, saved), m.derivatives("autograd", saved))
        if gap <= 1e-9:
            yield held(name, gap, 1e-9, f"of {what}: those of autograd", "")
            continue
        gaps = [difference(m.derivatives(m.gradient, saved, n), m.derivatives("autograd", saved, n)) for n in (8, 16)]
        ok = gaps[1] < 0.6 * gaps[0] and gaps[1] < 1e-2
        said = f"of {what}: {gaps[0]:.1e} from autograd with 8 steps per interval, {gaps[1]:.1e} with 16"
        bad = "; correct it: this is neither the gradient of what was computed nor an approximation that converges"
        yield Finding(name, ok, said + ("" if ok else bad), gap, "<= 1e-09, or -> 0 with h")


@check("repeated", CHECKS)
def repeated(m: Case) -> Iterator[Finding]:
    """The same derivative from the same graph twice, and seeds one by one as under vmap."""
    name = f"repeated ({m.integrator})"
    flow, y0 = m.flow(m.gradient), m.start.requires_grad_()
    out = flow(y0)
    seeds = torch.stack((torch.ones_like(out), m.start.flip(0)))
    one_by_one = torch.stack([torch.autograd.grad(out, y0, s, retain_graph=True)[0] for s in seeds])
    again = torch.autograd.grad(out, y0, seeds[0], retain_graph=True)[0]
    yield held(
        name,
        difference(again, one_by_one[0]),
        EXACT,
        "a second backward gives the same",
        "a second one differs; use up nothing that is saved",
    )
    try:
        (together,) = torch.autograd.grad(out, y0, seeds, is_grads_batched=True)
    except (RuntimeError, OdenetError) as refusal:
        raise Skip(f"seeds under vmap are refused: {str(refusal).splitlines()[0][:90]}") from None
    yield held(
        name,
        difference(together, one_by_one),
        1e-10,
        "vmapped seeds agree",
        "vmapped seeds differ; correct the vmap rule",
    )


@check("second derivatives", CHECKS)
def second_derivatives(m: Case) -> Iterator[Finding]:
    """Right, or refused; never wrong."""
    name = f"second derivatives ({m.integrator})"

    def curvature(gradient: Gradient | str) -> Tensor:
        y0 = m.start.requires_grad_()
        (slope,) = torch.autograd.grad(m.flow(gradient)(y0).square().sum(), y0, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), y0)[0]

    wanted = curvature("autograd")
    try:
        found = curvature(m.gradient)
    except (RuntimeError, OdenetError) as refusal:
        raise Skip(f"refused: {str(refusal).splitlines()[0][:90]}") from None
    scale = 1e-3 if difference(m.derivatives(m.gradient), m.derivatives("autograd")) > 1e-9 else 1e-9
    yield held(
        name,
        difference(found, wanted),
        scale,
        "those of autograd",
        "second derivatives differ from autograd's; correct them, or let them raise",
    )
