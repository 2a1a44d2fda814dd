"""What cannot be is told in one line: what was wrong, what was given, what to write instead."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import odenet as on
from odenet.errors import BadInput, SolveFailed
from odenet.flow import Event
from odenet.integrators.adaptive import Controller

pytestmark = pytest.mark.usefixtures("double")
ONES = torch.ones(2, dtype=torch.float64)


def decay(t: float, y: Any) -> Any:
    return -y


CASES: dict[str, tuple[dict[str, Any], str]] = {
    # times
    "times that turn back": (dict(t=[0.0, 1.0, 0.5]), r"increasing or strictly decreasing .* \[0.0, 1.0, 0.5\]"),
    "a repeated time": (dict(t=[0.0, 1.0, 1.0]), "strictly increasing"),
    "one time": (dict(t=[0.0]), r"two or more times, the first being that of y0; got \[0.0\]"),
    "a time that is NaN": (dict(t=[0.0, math.nan]), "finite, got"),
    "an infinite time": (dict(t=[0.0, math.inf]), "finite, got"),
    "a number for times": (dict(t=1.0), r"t is one axis of numbers, \[0.0, 1.0\] for instance"),
    "words for times": (dict(t="now"), "t is one axis of numbers"),
    "times with two axes": (dict(t=torch.tensor([[0.0, 0.0], [1.0, 2.0]])), "goes with per_sample=True"),
    # states
    "whole numbers": (dict(y0=torch.tensor([1, 2])), r"floating-point tensors, got torch.int64; write .*y0.double\(\)"),
    "a list of numbers": (dict(y0=[1.0, 2.0]), r"floating-point tensors, got float; write torch.tensor\(\[1.0\]\)"),
    "an array": (dict(y0=np.ones(2)), "floating-point tensors, got ndarray"),
    "a NaN": (dict(y0=torch.tensor([1.0, math.nan])), r"NaN or infinite entry \(component 1\)"),
    "an infinite part": (dict(y0={"a": ONES, "b": torch.tensor([math.inf])}), r"NaN or infinite entry \(component 2\)"),
    "a nest without tensors": (dict(y0={}), "y0 holds no tensor"),
    "a nest on two devices": (dict(y0=(ONES, torch.ones(1, device="meta"))), "different devices, cpu and meta"),
    # fields
    "another shape": (dict(field=lambda t, y: y[:1]), r"returned shape \(1,\) for a state of shape \(2,\)"),
    "a shape that would broadcast": (dict(field=lambda t, y: y[None]), r"returned shape \(1, 2\)"),
    "another precision": (dict(field=lambda t, y: y.float()), "returned torch.float32 for a state of torch.float64"),
    "complex slopes": (dict(field=lambda t, y: 1j * y), "make y0 torch.complex128"),
    "another device": (dict(field=lambda t, y: y.to("meta")), "returned a tensor on meta for a state on cpu"),
    "a tuple for a tensor": (dict(field=lambda t, y: (y,)), "returned a tuple; return a tensor of the shape of y"),
    "an array for a tensor": (dict(field=lambda t, y: np.ones(2)), "returned a ndarray"),
    "nothing": (dict(field=lambda t, y: None), "returned a NoneType"),
    "a tensor for a tuple": (dict(y0=(ONES, ONES), field=lambda t, s: s[0]), "returned a Tensor for a state of 2"),
    "a part too few": (dict(y0=(ONES, ONES), field=lambda t, s: (s[0],)), "returned 1 parts for a state of 2"),
    "a number for a part": (dict(y0=(ONES, ONES), field=lambda t, s: (s[0], 1.0)), "float where y0 has a tensor"),
    "another key": (dict(y0={"x": ONES}, field=lambda t, s: {"z": s["x"]}), r"\['z'\] for a dict with keys \['x'\]"),
    "a tuple for a dict": (dict(y0={"x": ONES}, field=lambda t, s: (s["x"],)), r"a tuple for a dict with keys \['x'\]"),
    "no function": (dict(field=3), "needs a callable .* it was given int"),
    "a function of three": (dict(field=lambda t, y, k: y), "has 3 required arguments"),
    "weights without an owner": (dict(field=on.fields.Free(2)), "put it into a Flow"),
    # names
    "a misspelt option": (dict(rtoll=1e-3), "solve has no option 'rtoll'; did you mean 'rtol' or 'atol'"),
    "another option": (dict(step_size=0.1), "solve has no option 'step_size'; did you mean"),
    "an option of others": (dict(dense_output=True), "solve has no option 'dense_output'; known are atol, check"),
    "an unknown integrator": (dict(integrator="dopri55"), "no integrator is called 'dopri55'; did you mean 'dopri5'"),
    "a number for an integrator": (dict(integrator=3), "an integrator is a name.*; got int"),
    "an unknown gradient": (dict(gradient="discret"), "gradient 'discret' is not known; write one of .*discrete"),
    "an unknown wish on failure": (dict(on_failure="warn"), "'raise' or 'return', got 'warn'"),
    # tolerances and steps
    "a negative tolerance": (dict(rtol=-1e-6), "tolerances are positive, got rtol=-1e-06"),
    "no tolerance at all": (dict(rtol=0.0, atol=0.0), "tolerances are positive"),
    "a tolerance that is NaN": (dict(atol=math.nan), "tolerances are positive"),
    "a word for a tolerance": (dict(rtol="1e-3"), "rtol and atol are numbers, got '1e-3'"),
    "a tolerance per component": (dict(atol=torch.ones(2)), r"one per component goes into controller=Controller\("),
    "no steps": (dict(integrator="rk4"), r"takes fixed steps; write steps=100 .* \"dopri5\""),
    "zero steps": (dict(integrator="rk4", steps=0), "positive whole number of steps per output interval, got 0"),
    "negative steps": (dict(integrator="rk4", steps=-2), "positive whole number"),
    "a fraction of a step": (dict(integrator="rk4", steps=1.5), "positive whole number .* got 1.5"),
    "a first step of fixed steps": (dict(integrator="rk4", steps=5, first_step=0.1), "first_step is for steps under"),
    "steps of an adaptive one": (dict(steps=5, controller=Controller()), "controller is for steps under error control"),
    "a negative first step": (dict(first_step=-0.1), "first_step is a positive step size, .* got -0.1"),
    "zero attempts": (dict(max_steps=0), "max_steps is a positive whole number .* got 0"),
    "half an attempt": (dict(max_steps=2.5), "max_steps is a positive whole number"),
    "a negative budget": (dict(seconds=-1.0), "seconds is a positive time budget, .* got -1.0"),
    # methods that need more
    "no two parts": (dict(integrator="verlet", steps=4), "'verlet' needs a separable field"),
    "no noise": (dict(integrator="milstein", steps=4), r"'milstein' needs a noise field; .* Use fields.Noisy"),
    "no split": (dict(integrator="ars222", steps=4), "'ars222' needs a split field"),
    "no linear part": (dict(integrator="etdrk4", steps=4), "'etdrk4' needs a linear field"),
    "no inverse": (dict(gradient="reversible", integrator="rk4", steps=4), "needs an integrator with an inverse"),
    # events
    "a number for an event": (dict(events=3), "an event is a function g.* got int"),
    "an event without a value": (dict(events=lambda t, y: None), "event 0 returned NoneType; an event is a real"),
    "an event that is a truth": (dict(events=lambda t, y: y[0] < 0.5), "event 0 returned torch.bool"),
    "a complex event": (dict(events=lambda t, y: 1j * y[0]), "event 0 returned torch.complex"),
    "an event that is NaN": (dict(events=lambda t, y: torch.log(-y[0])), "event 0 is NaN at t = 0, where the state is"),
    # one step size per sample
    "samples that differ in number": (dict(y0=(ONES, torch.ones(3)), per_sample=True), "got first axes 2, 3"),
    "a state without samples": (dict(y0=torch.tensor(1.0), per_sample=True), "with a first axis, the samples"),
    "times of other samples": (dict(y0=torch.ones(3, 1), t=torch.tensor([[0.0], [1.0]]), per_sample=True), "columns"),
    "a memory of steps": (dict(integrator="bdf", per_sample=True), "steps one-step methods without noise; 'bdf'"),
    "a number for times of samples": (
        dict(y0=torch.ones(3, 2), field=lambda t, y: math.cos(t) * y, per_sample=True),
        r"a tensor \(3, 1\) for t.* takes t for one number \(only one .* write torch.cos\(t\) for math.cos\(t\)",
    ),
    "a choice by times of samples": (
        dict(y0=torch.ones(3, 2), field=lambda t, y: y if t < 0.5 else -y, per_sample=True, integrator="rk4", steps=4),
        r"a tensor \(3, 1\) for t.* takes t for one number \(Boolean .* write .* torch.where\(t < 1, a, b\)",
    ),
    "a norm over all samples": (dict(controller=Controller(norm=float), per_sample=True), "leave norm, .* out"),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_it_is_told_in_one_line(what: str) -> None:
    change, sentence = CASES[what]
    given: dict[str, Any] = {"field": decay, "y0": ONES, "t": [0.0, 1.0], **change}
    with pytest.raises(BadInput, match=sentence) as told:
        on.solve(given.pop("field"), given.pop("y0"), given.pop("t"), **given)
    assert "\n" not in str(told.value) and str(told.value).endswith((".", "?"))


def test_a_fault_of_a_field_that_does_not_lie_in_its_time_keeps_its_own_words() -> None:
    def broken(t: Any, y: Any) -> Any:
        return y * math.cos(y)

    with pytest.raises(ValueError, match="only one element") as told:
        on.solve(broken, torch.ones(3, 2), [0.0, 1.0], per_sample=True)
    assert not isinstance(told.value, BadInput)
    with pytest.raises(BadInput, match="returned shape"):
        on.solve(lambda t, y: y[:1], torch.ones(3, 2), [0.0, 1.0], per_sample=True)


def test_slopes_of_a_dict_may_be_written_in_any_order() -> None:
    y0 = {"x": torch.ones(1), "v": torch.zeros(1)}
    sol = on.solve(lambda t, s: {"v": -s["x"], "x": s["v"]}, y0, [0.0, 1.0], rtol=1e-9, atol=1e-11)
    assert float(sol.y["x"][-1]) == pytest.approx(math.cos(1.0), abs=1e-7)
    assert float(sol.y["v"][-1]) == pytest.approx(-math.sin(1.0), abs=1e-7)


def test_an_event_with_several_entries_is_an_event_each_and_scipys_shape_wants_one() -> None:
    sol = on.solve(decay, torch.tensor([1.0, 2.0]), [0.0, 5.0], events=Event(lambda t, y: y - 0.5, terminal=False))
    torch.testing.assert_close(sol.events[0].t, torch.log(torch.tensor([2.0, 4.0])), rtol=1e-5, atol=0)
    with pytest.raises(BadInput, match="one function per component"):
        on.flow.solve_ivp(decay, [0, 5], [1.0, 2.0], events=lambda t, y: y - 0.5)
    for wrong in ({"terminal": -1}, {"terminal": "yes"}, {"direction": "up"}):
        with pytest.raises(BadInput, match=r"terminal is|direction is"):
            Event(decay, **wrong)  # type: ignore[arg-type]


def test_an_event_that_becomes_nan_is_not_taken_for_a_crossing() -> None:
    with pytest.raises(BadInput, match="event 0 is NaN at t = "):
        on.solve(decay, torch.ones(1), [0.0, 5.0], events=lambda t, y: torch.sqrt(y[0] - 0.5) + 1.0)
    pole = on.solve(
        lambda t, y: y**2, torch.ones(1), [0.0, 2.0], "rk4", steps=500, on_failure="return",
        events=lambda t, y: y[0] + 1.0,
    )  # fmt: skip
    assert pole.status == "non_finite"


def test_a_controller_holds_the_steps_between_its_bounds_or_is_refused() -> None:
    for wrong in ({"max_step": 0.0}, {"min_step": -1.0}, {"min_step": 2.0, "max_step": 1.0}):
        with pytest.raises(BadInput, match="0 <= min_step <= max_step"):
            Controller(**wrong)
    largest = Controller(1e-4, 1e-6, max_step=0.125)
    for t in ([0.0, 1.0], [0.0, -1.3]):
        sol = on.solve(decay, ONES, t, controller=largest, rtol=1e-4, atol=1e-6)
        steps = torch.tensor(sol._dense.times).diff().abs()  # type: ignore[union-attr]
        assert float(steps.max()) <= 0.125 and len(steps) <= abs(t[1]) / 0.125 + 2
    many = on.solve(decay, torch.ones(3, 1), [0.0, 1.0], controller=largest, rtol=1e-4, atol=1e-6, per_sample=True)
    assert int(many.stats["accepted"].min()) >= 8
    smallest = Controller(1e-13, 1e-13, min_step=0.25)
    sol = on.solve(decay, ONES, [0.0, 1.0], controller=smallest, rtol=1e-13, atol=1e-13)
    assert sol.stats["accepted"] == 4 and sol.stats["rejected"] == 0
    with pytest.raises(SolveFailed, match="non-finite"):  # and no endless row of attempts at the smallest step
        on.solve(lambda t, y: y / (t < 0.5), ONES, [0.0, 1.0], controller=Controller(min_step=0.1), max_steps=500)


def test_nothing_of_what_is_right_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for t in (torch.tensor([0, 1]), (0, 1), np.array([0.0, 1.0])):
            assert on.solve(decay, ONES, t).success
