"""Small plug-ins with one bug each: the named check finds it; without the bug all checks pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from odenet.integrators import Integrator, Multistep, Partitioned, Tableau
from odenet.testing import check_integrator
from odenet.types import Step


class Heun(Integrator):
    """The sound method from which most bugs below are made."""

    order, stages = 2, 2

    def step(self, f, t, y, h, carry, coef):
        k1 = f(t, y)
        k2 = f(t + h, y + h * k1)
        return Step(y + h / 2 * (k1 + k2), None, ())


class Bogacki(Integrator):
    """3(2) pair with first same as last."""

    order, stages, adaptive = 3, 3, True

    def step(self, f, t, y, h, carry, coef):
        k1 = carry[0] if carry else f(t, y)
        k2 = f(t + h / 2, y + h / 2 * k1)
        k3 = f(t + 3 * h / 4, y + 3 * h / 4 * k2)
        new = y + h * (2 * k1 + 3 * k2 + 4 * k3) / 9
        k4 = f(t + h, new)
        return self.answer(y, h, new, (k1, k2, k3, k4))

    def answer(self, y, h, new, k):
        return Step(new, h * (-5 * k[0] / 72 + k[1] / 12 + k[2] / 9 - k[3] / 8), (k[3],))


class Kicks(Integrator):
    """Verlet, reversible and symplectic."""

    order, stages, symplectic, reversible = 2, 2, True, True
    needs = frozenset({"separable"})

    def step(self, f, t, y, h, carry, coef):
        q, p = f.split(y)
        p = p + h / 2 * f.kick(t, q)
        q = q + h * f.drift(t + h / 2, p)
        return Step(f.join(q, p + h / 2 * f.kick(t + h, q)), None, ())

    def undo(self, f, t, y, h, carry, coef):
        return self.step(f, t + h, y, -h, (), None)


class TwoSteps(Integrator):
    """Adams-Bashforth 2 started by Heun."""

    order, stages, history = 2, 1, 1

    def step(self, f, t, y, h, carry, coef):
        k = f(t, y)
        if not carry:
            return Step(y + h / 2 * (k + f(t + h, y + h * k)), None, (k,))
        return Step(y + h * (1.5 * k - 0.5 * carry[0]), None, (k,))


class Blend(Integrator):
    """Euler and Heun mixed by a learned number."""

    order, stages = 1, 2
    learnable = {"w": (0.2, 0.4)}  # noqa: RUF012

    def step(self, f, t, y, h, carry, coef):
        w, k = self.weight(coef), f(t, y)
        return Step(y + h * ((1 - w) * k + w * f(t + h, y + h * k)), None, ())

    def weight(self, coef):
        return coef["w"]


SOUND = [Heun, Bogacki, Kicks, TwoSteps, Blend]


@pytest.mark.parametrize("method", SOUND, ids=lambda m: m.__name__)
def test_the_sound_methods_pass_every_check(method: type[Integrator]) -> None:
    report = check_integrator(method)
    assert report.passed, report.table()


Step_ = Callable[..., Step]


def heun(step: Step_, **words: Any) -> type[Integrator]:
    """Heun with another step."""
    return type("Wrong", (Heun,), {"step": step, **words})


def _coefficient_in_a(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    return Step(y + h / 2 * (k1 + f(t + h, y + 0.9 * h * k1)), None, ())


def _coefficient_barely_off(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    return Step(y + h / 2 * (k1 + f(t + h, y + (1 + 1e-6) * h * k1)), None, ())


def _float32_constant(self, f, t, y, h, carry, coef):
    third = torch.tensor(1 / 3, dtype=torch.float32, device=y.device)
    k1 = f(t, y)
    k2 = f(t + 2 * third * h, y + 2 * third * h * k1)
    return Step(y + h / 4 * (k1 + 3 * k2), None, ())


def _time_ignored(self, f, t, y, h, carry, coef):
    k1 = f(0.0 * t, y)
    return Step(y + h / 2 * (k1 + f(0.0 * t, y + h * k1)), None, ())


def _weight(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    return Step(y + h * (0.5 * k1 + 0.5001 * f(t + h, y + h * k1)), None, ())


def _sign(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    return Step(y - h / 2 * (k1 + f(t + h, y - h * k1)), None, ())


def _no_stage_time(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    return Step(y + h / 2 * (k1 + f(t, y + h * k1)), None, ())


def _returns_its_input(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    y += h / 2 * (k1 + f(t + h, y + h * k1))
    return Step(y, None, ())


def _writes_and_restores(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    y += h * k1
    k2 = f(t + h, y.clone())
    y -= h * k1
    return Step(y + h / 2 * (k1 + k2), None, ())


def _reuses_a_buffer(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    new = y + h / 2 * (k1 + f(t + h, y + h * k1))
    kept = self.__dict__.setdefault("kept", {})
    if new.requires_grad or new.shape not in kept:
        kept[new.shape] = new
    kept[new.shape] = kept[new.shape].detach().copy_(new) if not new.requires_grad else new
    return Step(kept[new.shape], None, ())


def _upcast(self, f, t, y, h, carry, coef):
    weights = torch.tensor([[0.5], [0.5]], dtype=torch.float64)
    k1 = f(t, y)
    k = torch.stack((k1, f(t + h, y + h * k1)))
    return Step(y + h * (weights.reshape(2, *[1] * y.dim()) * k).sum(0), None, ())


def _downcast(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    k2 = f(t + h, y + h * k1)
    return Step((y + h / 2 * (k1 + k2)).to(torch.complex64 if y.is_complex() else torch.float32).to(y.dtype), None, ())


def _batch_mean(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    k2 = f(t + h, y + h * k1)
    drift = (k2 - k1).mean(0, keepdim=True) if y.dim() > 1 else k2 - k1
    return Step(y + h / 2 * (k1 + k2) + 1e-6 * h * h * drift, None, ())


def _in_order_of_the_batch(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    nudge = torch.arange(len(y), dtype=torch.float64).reshape(-1, *[1] * (y.dim() - 1)) if y.dim() > 1 else 0.0
    return Step(y + h / 2 * (k1 + f(t + h, y + h * k1)) + 1e-6 * h**3 * nudge, None, ())


def _nan_swallowed(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    return Step(torch.nan_to_num(y + h / 2 * (k1 + f(t + h, y + h * k1))), None, ())


def _graph_cut(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    return Step(y + h / 2 * (k1 + f(t + h, y + h * k1.detach())), None, ())


def _data_cut(self, f, t, y, h, carry, coef):
    with torch.no_grad():
        k1 = f(t, y)
        return Step(y + h / 2 * (k1 + f(t + h, y + h * k1)), None, ())


def _float_of_h(self, f, t, y, h, carry, coef):
    size = float(h.detach()) if isinstance(h, torch.Tensor) and h.dim() == 0 else h
    k1 = f(t, y)
    return Step(y + size / 2 * (k1 + f(t + size, y + size * k1)), None, ())


def _noise(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    return Step(y + h / 2 * (k1 + f(t + h, y + h * k1)) + 1e-14 * torch.randn_like(y), None, ())


def _absolute_h(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    return Step(y + abs(h) / 2 * (k1 + f(t + abs(h), y + abs(h) * k1)), None, ())


def _conjugate(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    k2 = f(t + h, y + h * k1)
    return Step(y + h / 2 * (k1 + (k2.mH.mT if y.dim() > 1 else k2.conj())), None, ())


def _remembers(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    guess = self.__dict__.get("slope", k1)
    self.__dict__["slope"] = k1.detach()
    guess = guess if guess.shape == k1.shape and guess.dtype == k1.dtype else k1
    return Step(y + h / 2 * (k1 + f(t + h, y + h * (k1 + 1e-9 * (guess - k1)))), None, ())


def _on_the_host(self, f, t, y, h, carry, coef):
    b = torch.tensor([0.5, 0.5], dtype=y.dtype)
    k1 = f(t, y)
    k = torch.stack((k1, f(t + h, y + h * k1)), -1)
    return Step(y + h * (k @ b), None, ())


def _swallows_exceptions(self, f, t, y, h, carry, coef):
    try:
        k1 = f(t, y)
        return Step(y + h / 2 * (k1 + f(t + h, y + h * k1)), None, ())
    except Exception:
        return Step(y * 1.0, None, ())


def _takes_any_shape(self, f, t, y, h, carry, coef):
    def fitted(k):
        return k[..., : y.shape[-1]] if y.dim() else k

    k1 = fitted(f(t, y))
    return Step(y + h / 2 * (k1 + fitted(f(t + h, y + h * k1))), None, ())


def _a_tuple(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    return y + h / 2 * (k1 + f(t + h, y + h * k1)), None, ()


def _number_of_h(self, f, t, y, h, carry, coef):
    k1 = f(t, y)
    h = h.mean() if isinstance(h, torch.Tensor) else h
    return Step(y + h / 2 * (k1 + f(t + h, y + h * k1)), None, ())


def _euler_far_out(z):
    return 1 + z


class StaleSlope(Bogacki):
    def answer(self, y, h, new, k):
        return super().answer(y, h, new, k)._replace(carry=(k[2],))


class WrongEstimate(Bogacki):
    def answer(self, y, h, new, k):
        return super().answer(y, h, new, k)._replace(error=h * (k[3] - k[0]) / 8)


class NoEstimate(Bogacki):
    def answer(self, y, h, new, k):
        return super().answer(y, h, new, k)._replace(error=torch.zeros_like(new))


class SinglePrecisionEstimate(Bogacki):
    def answer(self, y, h, new, k):
        step = super().answer(y, h, new, k)
        return step._replace(error=step.error.double() if not y.is_complex() else step.error)


class WrongSlopes(Bogacki):
    def answer(self, y, h, new, k):
        return super().answer(y, h, new, k)._replace(slopes=k[1:])


class LosesItsSlope(Bogacki):
    def answer(self, y, h, new, k):
        return super().answer(y, h, new, k)._replace(carry=())


class StepsBack(Heun):
    reversible = True

    def undo(self, f, t, y, h, carry, coef):
        return self.step(f, t + h, y, -h, (), None)


class WrongUndo(Kicks):
    def undo(self, f, t, y, h, carry, coef):
        return self.step(f, t, y, -h, (), None)


class NotSymplectic(Kicks):
    def step(self, f, t, y, h, carry, coef):
        q, p = f.split(y)
        force = f.kick(t, q)
        half = p + h / 2 * force
        new = q + h * f.drift(t + h / 2, half)
        return Step(f.join(new, p + h / 2 * (force + f.kick(t + h, new)) * (1 + h**3)), None, ())

    reversible = False


class HidesThatItIsSymplectic(Kicks):
    symplectic = False


class LosesItsPast(TwoSteps):
    def step(self, f, t, y, h, carry, coef):
        return super().step(f, t, y, h, carry, coef)._replace(carry=())


class CannotRestart(TwoSteps):
    def init(self, f, t, y, h, coef):
        return (torch.zeros_like(y),)


class IgnoresCoefficients(Blend):
    def weight(self, coef):
        return 0.3


class DrawsOutside(Blend):
    def coefficients(self, steps, generator=None):
        return {"w": torch.rand(steps, generator=generator)}


ADVICE = re.compile(r"\b(write|correct|return|make|let|state|take|use|do not|draw|must|evaluate)\b")
BUGS: dict[str, tuple[Any, str]] = {
    "a wrong coefficient in a": (heun(_coefficient_in_a), "order"),
    "a coefficient off by 1e-6": (heun(_coefficient_barely_off), "error terms"),
    "a constant in float32": (heun(_float32_constant), "error terms"),
    "t ignored": (heun(_time_ignored), "times"),
    "a slope for the next step thrown away": (LosesItsSlope, "stages"),
    "a step back that is no inverse": (StepsBack, "inverse"),
    "a weight off by 1e-4": (heun(_weight), "consistency"),
    "the wrong sign of h": (heun(_sign), "consistency"),
    "t not advanced to the stage": (heun(_no_stage_time), "times"),
    "a stale slope in the carry": (StaleSlope, "carry"),
    "its own input returned": (heun(_returns_its_input), "inputs kept"),
    "its input written and restored": (heun(_writes_and_restores), "inputs kept"),
    "one buffer for all results": (heun(_reuses_a_buffer), "aliasing"),
    "float64 constants that upcast": (heun(_upcast), "dtype"),
    "a float64 estimate of float32": (SinglePrecisionEstimate, "dtype"),
    "float32 inside": (heun(_downcast), "dtype"),
    "a mean over the batch": (heun(_batch_mean), "batch independence"),
    "numbers that depend on the place in the batch": (heun(_in_order_of_the_batch), "batch independence"),
    "an estimate of the wrong order": (WrongEstimate, "error estimate"),
    "an estimate that is zero": (NoEstimate, "error estimate"),
    "an estimate that is missing": (type("Missing", (Heun,), {"adaptive": True}), "error estimate"),
    "an inverse at the wrong time": (WrongUndo, "inverse"),
    "a step that is not symplectic": (NotSymplectic, "symplecticity"),
    "a symplectic step that denies it": (HidesThatItIsSymplectic, "symplecticity"),
    "stages misstated": (type("Miscounted", (Heun,), {"stages": 1}), "stages"),
    "an explicit method called implicit": (type("Explicit", (Heun,), {"implicit": True}), "implicit"),
    "state kept between calls": (heun(_remembers), "repeatability"),
    "nan made a number": (heun(_nan_swallowed), "failure"),
    "a stage detached": (heun(_graph_cut), "gradients"),
    "everything under no_grad": (heun(_data_cut), "gradients"),
    "h turned into a number": (heun(_float_of_h), "gradients"),
    "random noise": (heun(_noise), "repeatability"),
    "the size of h instead of h": (heun(_absolute_h), "backwards"),
    "order overclaimed": (type("Proud", (Heun,), {"order": 3}), "order"),
    "order underclaimed": (type("Modest", (Heun,), {"order": 1}), "order"),
    "a complex conjugate": (heun(_conjugate), "complex"),
    "coefficients ignored": (IgnoresCoefficients, "coefficients"),
    "coefficients drawn elsewhere": (DrawsOutside, "coefficients"),
    "a tensor left on the host": (heun(_on_the_host), "device"),
    "exceptions of f swallowed": (heun(_swallows_exceptions), "exceptions"),
    "f of a wrong shape cut to size": (heun(_takes_any_shape), "exceptions"),
    "a plain tuple": (heun(_a_tuple), "result"),
    "one step size for all samples": (heun(_number_of_h), "step per sample"),
    "a stability function of another method": (
        type("Elsewhere", (Heun,), {"stability_function": staticmethod(_euler_far_out)}), "amplification"),
    "a memory that is lost": (LosesItsPast, "carry"),
    "a wrong first memory": (CannotRestart, "restart"),
    "slopes without the first": (WrongSlopes, "slopes"),
    "a tableau with a wrong entry": (Tableau(a=("", "1"), b="1/2 1/3", order=2), "statements"),
    "a multistep formula with a wrong entry": (
        Multistep(alpha="0 -1 1", beta="-1/2 1 0", order=2, starter="heun"), "statements"),
    "a splitting that claims too much": (Partitioned(kicks="1", drifts="1", order=2), "statements"),
    "no order": (type("Silent", (Heun,), {"order": None}), "statements"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_bug_is_found_by_the_check_that_looks_for_it(bug: str) -> None:
    plug_in, check = BUGS[bug]
    report = check_integrator(plug_in)
    assert check in {f.check for f in report.failures}, report.table()
    assert all(ADVICE.search(f.sentence) for f in report.failures if f.check == check), report.table()
