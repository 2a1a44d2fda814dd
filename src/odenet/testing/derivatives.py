"""Derivatives of what a step returns: autograd, differences, torch.func, vmap."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .method import H, Method, Skip, check, difference, held
from .report import Finding
from .systems import states

_T = 0.3
_EPS = 1e-5
Function = Callable[..., Tensor]


def _run(m: Method) -> tuple[Function, dict[str, Tensor]]:
    """Some steps as a function of all that they may be differentiated in, and values for it."""
    given = {
        "y": states(2),
        "weights of f": torch.tensor([1.1, 0.9, 0.4], dtype=torch.float64),
        "t": torch.tensor(_T, dtype=torch.float64),
        "h": torch.tensor(H, dtype=torch.float64),
        **{f"coefficient {k}": v for k, v in (m.coefficients(states()) or {}).items()},
    }

    def run(y: Tensor, theta: Tensor, t: Tensor, h: Tensor, *coef: Tensor) -> Tensor:
        named = dict(zip(m.integrator.learnable, coef))
        return m.run(m.system(theta=theta), t, y, h, m.full + (not m.dear), named or None)

    return run, given


def _direction(x: Tensor, seed: int) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@check("gradients")
def gradients(m: Method) -> Iterator[Finding]:
    """autograd against central differences, in y, parameters, t, h and learnable coefficients."""
    _own(m)
    run, given = _run(m)
    values = [x.clone().requires_grad_() for x in given.values()]
    out = run(*values)
    weight = _direction(out, 0)
    if not out.requires_grad:
        cut = "for autograd the result depends on nothing: take out no_grad() and detach()"
        yield Finding("gradients", False, cut)
        return
    found = torch.autograd.grad((weight * out).sum(), values, allow_unused=True)
    for i, (name, gradient) in enumerate(zip(given, found)):
        v = _direction(values[i], 1)
        with torch.no_grad():
            ends = [run(*(x + s * _EPS * v if j == i else x for j, x in enumerate(values))) for s in (1, -1)]
        slope = float((weight * (ends[0] - ends[1])).sum()) / (2 * _EPS)
        got = 0.0 if gradient is None else float((gradient * v).sum())
        if name.startswith("coefficient") and slope == 0.0:
            yield Finding("gradients", False, f"{name} has no influence; use coef in step()", 0.0, "an influence")
            continue
        gap = abs(got - slope) / max(1.0, abs(slope))
        yield held(
            "gradients", gap, 1e-6, f"in {name}: autograd gives the difference quotient",
            f"in {name}: autograd gives {got:.6g}, differences {slope:.6g}; let nothing be "
            "detached or made a Python number",
        )  # fmt: skip


@check("torch.func")
def torch_func(m: Method) -> Iterator[Finding]:
    """torch.func.vjp and jvp give what autograd gives."""
    _own(m)
    run, given = _run(m)
    values = tuple(given.values())
    leaves = [x.clone().requires_grad_() for x in values]
    out = run(*leaves)
    weight = _direction(out, 0)
    wanted = _flat(torch.autograd.grad((weight * out).sum(), leaves, allow_unused=True), leaves)
    _, pull = torch.func.vjp(run, *values)  # type: ignore[misc]
    vjp = _flat(pull(weight), leaves)
    yield held(
        "torch.func", difference(vjp, wanted), 1e-10, "vjp is the gradient of autograd",
        "vjp differs from autograd; a step may not depend on requires_grad or grad_fn",
    )  # fmt: skip
    v = tuple(_direction(x, 2 + i) for i, x in enumerate(values))
    with warnings.catch_warnings():  # the first call of forward mode warns about its own internals
        warnings.simplefilter("ignore", DeprecationWarning)
        along = torch.func.jvp(run, values, v)[1]
    reverse = float((wanted * _flat(v, leaves)).sum())
    forward = float((weight * along).sum())
    yield held(
        "torch.func", abs(forward - reverse) / max(1.0, abs(reverse)), 1e-9, "jvp is its transpose",
        f"jvp gives {forward:.6g} along a direction in which autograd gives {reverse:.6g}; "
        "a custom Function needs a jvp",
    )  # fmt: skip


@check("vmap")
def vmap(m: Method) -> Iterator[Finding]:
    """torch.func.vmap over samples gives one sample at a time, or torch refuses."""
    f, y = m.system(), states(3)

    def run(x: Tensor) -> Tensor:
        return m.run(f, _T, x, H, m.full)

    try:
        together = torch.func.vmap(run)(y)
    except RuntimeError as refusal:
        raise Skip(f"torch refuses: {str(refusal).splitlines()[0][:90]}") from None
    alone = torch.stack([run(x) for x in y])
    yield held(
        "vmap", difference(together, alone), 1e-10, "vmap over samples is one sample at a time",
        "vmap over samples gives other numbers than one sample at a time; let no step depend on the values",
    )  # fmt: skip


def _flat(parts: Any, like: list[Tensor]) -> Tensor:
    return torch.cat([(torch.zeros_like(x) if g is None else g).reshape(-1) for g, x in zip(parts, like)]).detach()


def _own(m: Method) -> None:
    if m.foreign and m.integrator.declared.controls_error:  # type: ignore[attr-defined]
        raise Skip("torchdiffeq's adaptive methods take the step size as a number and know no torch.func")
