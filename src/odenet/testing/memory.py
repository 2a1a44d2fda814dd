"""Purity: nothing is kept, overwritten or shared; and what travels in the carry is right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import Incompatible
from ..types import Carry, Step
from .method import EXACT, H, Method, Skip, check, difference, held
from .report import Finding
from .systems import states

_T = 0.3


def _tensors(step: Step) -> list[Tensor]:
    return [x for x in (step.y, step.error, *step.carry, *step.slopes) if x is not None]


def _same(a: Step, b: Step) -> bool:
    pairs = list(zip(_tensors(a), _tensors(b)))
    return len(_tensors(a)) == len(_tensors(b)) and all(torch.equal(x, y) for x, y in pairs)


@check("result")
def result(m: Method) -> Iterator[Finding]:
    """A Step of a state of the shape of y, an estimate where adaptive, and a tuple of tensors."""
    y = states()
    alone = m.step(m.system(), _T, y)
    for n, step in enumerate([alone] if _shape_of(alone, y) else m.steps(m.system(), _T, y, count=m.full + 1)):
        wrong = _shape_of(step, y)
        if wrong:
            yield Finding("result", False, f"step {n + 1} returns {wrong}")
            return
    yield Finding("result", True, "a step returns Step(y, error, carry) of the right shapes")


def _shape_of(step: Any, y: Tensor) -> str:
    if not isinstance(step, Step):
        return f"a {type(step).__name__}; return odenet.types.Step(y, error, carry)"
    if not isinstance(step.y, Tensor) or step.y.shape != y.shape:
        return (
            f"y of shape {tuple(getattr(step.y, 'shape', ()))} for a state {tuple(y.shape)}; return a state of the same"
        )
    if step.error is not None and step.error.shape != y.shape:
        return f"an error estimate of shape {tuple(step.error.shape)} for a state {tuple(y.shape)}; return y's shape"
    if not isinstance(step.carry, tuple) or not all(isinstance(c, Tensor) for c in step.carry):
        return "a carry that is not a tuple of tensors; write carry = (x, ) or ()"
    return "" if torch.isfinite(step.y).all() else "numbers that are not finite on a smooth problem; correct step()"


@check("repeatability")
def repeatability(m: Method) -> Iterator[Finding]:
    """The same call gives the same bits, also after other calls in between."""
    f, y = m.system(), states()
    first = m.steps(f, _T, y, count=m.full)
    again = m.steps(m.system(), _T, y, count=m.full)
    ok = all(_same(a, b) for a, b in zip(first, again))
    yield Finding(
        "repeatability", ok,
        "the same call gives the same bits" if ok else
        "the same call twice gives different numbers; draw no random numbers and keep nothing between calls",
    )  # fmt: skip
    if not ok:
        return
    m.steps(m.system(), 2.0, -2 * states(seed=5), 0.07, m.full)
    later = m.steps(m.system(), _T, y, count=m.full)
    ok = all(_same(a, b) for a, b in zip(first, later))
    yield Finding(
        "repeatability", ok,
        "calls on another problem in between change nothing" if ok else
        "a call on another problem in between changes the result: what must be remembered belongs in the carry",
    )  # fmt: skip


@check("inputs kept")
def inputs_kept(m: Method) -> Iterator[Finding]:
    """y, carry and coefficients are not written to."""
    f, y = m.system(), states()
    carry: tuple[Tensor, ...] = ()
    for n in range(m.full + 1):
        coef = m.coefficients(y) or {}
        given = {"y": y, **{f"carry[{i}]": c for i, c in enumerate(carry)}, **coef}
        before = {name: (x.clone(), x._version) for name, x in given.items()}
        step = m.step(f, _T + n * H, y, H, carry, coef or None)
        for name, x in given.items():
            if not torch.equal(x, before[name][0]) or x._version != before[name][1]:
                yield Finding("inputs kept", False, f"step {n + 1} writes into {name}; make a new tensor instead")
                return
        y, carry = step.y, step.carry
    yield Finding("inputs kept", True, "nothing that is handed in is written to")


@check("aliasing")
def aliasing(m: Method) -> Iterator[Finding]:
    """The new state has storage of its own."""
    f, y = m.system(), states()
    carry: tuple[Tensor, ...] = ()
    made: list[tuple[Tensor, Tensor]] = []
    for n in range(m.full + 1):
        given = [("the state it was given", y), *((f"carry[{i}] it was given", c) for i, c in enumerate(carry))]
        step = m.step(f, _T + n * H, y, H, carry)
        given += [("an earlier result", old) for old, _ in made]
        given += [("the error estimate", step.error)] if step.error is not None else []
        for name, other in given:
            if _place(step.y) == _place(other):
                yield Finding("aliasing", False, f"the new state shares its memory with {name}; return a new tensor")
                return
        made.append((step.y, step.y.clone()))
        y, carry = step.y, step.carry
    ok = all(torch.equal(old, kept) for old, kept in made)
    yield Finding(
        "aliasing", ok,
        "the new state has memory of its own" if ok else "a later call overwrites an earlier result; make new tensors",
    )  # fmt: skip


def _place(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


@check("carry")
def carry(m: Method) -> Iterator[Finding]:
    """A step goes on from the carry of the one before; a one-step method only saves evaluations in it."""
    f, y = m.system(), states()
    first, second = m.steps(f, _T, y, count=2)
    if m.facts.fsal:
        slope = f(_T + H, first.y)
        yield held(
            "carry", difference(first.carry[0], slope) if first.carry else torch.inf, _close(m),
            "the saved slope is f at the new point",
            "the saved slope is not f(t + h, y_new), it is stale or lost; return the last stage as carry",
        )  # fmt: skip
    if not first.carry and not m.integrator.history:
        raise Skip("the method remembers nothing")
    afresh = m.step(f, _T + H, first.y)
    if m.integrator.history:
        ok = bool(first.carry)
        yield Finding(
            "carry", ok,
            f"it remembers {m.integrator.history} steps" if ok else
            f"history = {m.integrator.history}, but the carry of the first step is empty; return the past in it",
        )  # fmt: skip
    else:
        yield held(
            "carry", difference(second.y, afresh.y), _close(m),
            "a step with the carry is the step without it",
            "a step with the carry differs from one that starts afresh, so what it remembers belongs to another point; "
            "correct the carry (a method that truly has a past writes history = 1)",
        )  # fmt: skip


def _close(m: Method) -> float:
    return 1e-10 if m.integrator.implicit else EXACT


@check("restart")
def restart(m: Method) -> Iterator[Finding]:
    """carry = () is allowed at any time, and init() gives a carry that a step accepts."""
    f, y = m.system(), states()
    last = m.steps(f, _T, y, count=m.full)[-1]
    afresh = m.step(f, 1.7, last.y).y
    begun = m.step(f, 1.7, last.y, H, m.integrator.init(f, 1.7, last.y, H, m.coefficients(y))).y
    ok = bool(torch.isfinite(afresh).all())
    yield Finding(
        "restart",
        ok,
        "it starts afresh anywhere" if ok else "a step with an empty carry is not finite; let step() start itself",
    )
    yield held(
        "restart", difference(begun, afresh), _close(m), "init() starts as an empty carry does",
        "a first step with the carry of init() differs from one with an empty carry; correct init(), or leave it out",
    )  # fmt: skip


@check("inverse")
def inverse(m: Method) -> Iterator[Finding]:
    """invert() takes every step back, memory included; a method that cannot go back says so."""
    f, y = m.system(), states()
    if not m.integrator.reversible:
        try:
            m.integrator.invert(f, _T, y, H, (), m.coefficients(y))
        except Incompatible:
            raise Skip("the method does not claim to be reversible, and says so when asked") from None
        yield Finding("inverse", False, "invert() answers although reversible = False; write reversible = True")
        return
    worst = max(_lost_on_the_way_back(m, h) for h in (H, 4 * H))  # the larger tells a high order from an inverse
    yield held(
        "inverse", worst, 1e-9, "invert() returns to the states and memories before",
        "invert() does not return to where the step came from; correct undo(), which is more than a step with -h, "
        "or write reversible = False",
    )  # fmt: skip


def _lost_on_the_way_back(m: Method, h: float) -> float:
    """Largest difference to the states and memories of six steps, on the way back from the last."""
    f, y = m.system(), states()
    trail: list[tuple[Tensor, Carry]] = [(y, ()), *((s.y, s.carry) for s in m.steps(f, _T, y, h, count=6))]
    now, memory = trail[-1]
    worst = 0.0
    for n in reversed(range(6)):
        back = m.integrator.invert(f, _T + n * h, now, h, memory, m.coefficients(y))
        now, memory = back.y, back.carry
        worst = max(worst, difference(now, trail[n][0]))
        if m.integrator.history and n > 0:
            worst = max([worst, *(difference(a, b) for a, b in zip(memory, trail[n][1]))])
    return worst


@check("slopes")
def slopes(m: Method) -> Iterator[Finding]:
    """Stages that are offered for dense output begin with f(t, y)."""
    f, y = m.system(), states()
    step = m.step(f, _T, y)
    if not step.slopes or type(m.integrator).__dict__.get("dense"):
        raise Skip("no stages are offered for the cubic between two steps")
    yield held(
        "slopes", difference(step.slopes[0], f(_T, y)), _close(m), "slopes[0] is f(t, y)",
        "slopes[0] is not f(t, y), which the cubic between two steps is made from; return it first, or slopes=()",
    )  # fmt: skip
