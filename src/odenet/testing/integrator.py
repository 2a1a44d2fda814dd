"""`check_integrator`: everything that a numerical scheme promises, held against what it does."""

from __future__ import annotations

import inspect
from typing import Any

from .. import integrators
from ..errors import ClaimRefused
from ..integrators import Integrator
from ..integrators.base import NEEDS, build, verify
from ..integrators.external import External
from . import accuracy, conduct, derivatives, memory, noise, samples
from .method import CHECKS, Method, carried_out, instance
from .report import Finding, Report

_FAMILIES = (memory, accuracy, noise, derivatives, samples, conduct)  # importing them fills CHECKS
_DEAR = frozenset({"order", "error terms", "torch.func"})  # left out of a light report
_SETTLING = "result"  # without a proper result nothing else can be looked at


def check_integrator(obj: Any, *, light: bool = False) -> Report:
    """Hold an integrator against its claims and the contract of `Integrator.step`; about half a second.

    obj:    a registered name, coefficients (Tableau, ...), an Integrator, or a class of one without arguments
    light:  half the time: without torch.func, without marches over [0, 1] and series of errors for the order of
            one-step methods, which their smallest steps show too, and without verifying a registered name again
    Order on several problems, error estimate, stability function, consistency, gradients, batches, dtypes, devices,
    purity, memory, reversibility, symplecticity, negative steps, stages and conduct on failure. Choose it while you
    write a plug-in; `odenet check package:Object` prints the same. Raises BadInput for what is no integrator.
    """
    integrator, findings = _admitted(obj, verified=light and isinstance(obj, str))
    method = Method(integrator)
    first = carried_out(_SETTLING, CHECKS[_SETTLING], method, needed=True)
    findings += first
    if any(f.passed is False for f in first) or not isinstance(getattr(integrator, "order", None), int):
        findings += [Finding(n, None, "not looked at before this is put right") for n in CHECKS if n != _SETTLING]
    else:
        for name, function in CHECKS.items():
            if name == _SETTLING:
                continue
            if light and name in _DEAR and not (name == "order" and method.integrator.history):
                findings.append(Finding(name, None, "left out, as light=True asks for"))
            else:
                findings += carried_out(name, function, method)
    name = repr(integrator.name) if integrator.name else type(integrator).__name__
    return Report(f"integrator {name}", tuple(findings))


def _admitted(obj: Any, verified: bool = False) -> tuple[Integrator, list[Finding]]:
    """The integrator, and what its own statements and coefficients say before any step."""
    if isinstance(obj, str):
        obj = integrators.get(obj)
    if inspect.isclass(obj) and issubclass(obj, Integrator):
        obj = instance(obj)
    method = build(obj)
    if isinstance(method, External) and method.declared.controls_error:
        # it crosses [t, t + h] by steps of its own, under its own tolerance; what has an order is one of them
        name, method = method.name, External(method.method, single=True)
        method.name = name
    wrong = _misstated(method)
    if wrong:
        return method, [Finding("statements", False, wrong)]
    if verified:
        return method, [Finding("statements", True, "registered, so verified")]
    if verify.dispatch(type(method)) is _by_observation:
        return method, [Finding("statements", True, "order, needs and flags are stated")]
    try:
        verify(method)
    except ClaimRefused as refusal:
        return method, [Finding("statements", False, str(refusal))]
    return method, [Finding("statements", True, "the coefficients have the claimed order, exactly")]


_by_observation = verify.dispatch(object)


def _misstated(method: Integrator) -> str:
    if not isinstance(getattr(method, "order", None), int):
        return "it states no order; write the attribute order = 1, 2, ..."
    if not frozenset(method.needs) <= NEEDS:
        return f"it needs {sorted(method.needs)}; known needs are {sorted(NEEDS)}"
    if method.reversible and not callable(method.undo):
        return "it is marked reversible; add a method undo(f, t, y, h, carry, coef) -> Step"
    return ""
