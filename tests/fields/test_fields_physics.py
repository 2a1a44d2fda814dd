"""Physical systems against closed forms, scipy's DOP853, and their invariants."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import odenet as on
from odenet import fields
from odenet.errors import BadInput
from odenet.fields import HarmonicOscillator, Kepler, Lorenz, LotkaVolterra, Pendulum, VanDerPol

pytestmark = pytest.mark.usefixtures("double")

real = partial(torch.tensor, dtype=torch.float64)  # the default dtype is set later, in the test

EXACT: list[tuple[on.Field, Tensor]] = [
    (HarmonicOscillator(), real([1.0, 0.5])),
    (HarmonicOscillator(2.5), real([-0.3, 1.0, 0.2, 0.7])),  # two oscillators: (q1, q2, p1, p2)
    (Pendulum(), real([1.0, 0.0])),
    (Pendulum(), real([-0.3, -1.7])),
    (Pendulum(), real([0.0, 1.9])),
    (Pendulum(), real([3.1, 0.01])),
    (Pendulum(), real([2 * math.pi + 0.3, 0.4])),  # the next well
    (Pendulum(), real([-4 * math.pi - 1.0, -1.0])),
    (Pendulum(), real([1.0, -0.5, 0.2, 0.9])),
    (Kepler(), Kepler.start(0.0)),
    (Kepler(), Kepler.start(0.6)),
    (Kepler(), Kepler.start(0.9)),
]
TIMES = (0.0, 0.1, 1.0, 5.0, 13.7, -2.0)
EVERY = {
    "oscillator": lambda y: (y[1], -4.0 * y[0]),
    "pendulum": lambda y: (y[1], -math.sin(y[0])),
    "kepler": lambda y: (y[2], y[3], -y[0] / math.hypot(y[0], y[1]) ** 3, -y[1] / math.hypot(y[0], y[1]) ** 3),
    "volterra": lambda y: (1.5 * y[0] - y[0] * y[1], -3 * y[1] + y[0] * y[1]),
    "pol": lambda y: (y[1], 2.0 * (1 - y[0] ** 2) * y[1] - y[0]),
    "lorenz": lambda y: (10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]),
}


def dop853(field: on.Field, y0: Tensor, t: float, rtol: float = 1e-13) -> Tensor:
    def f(t: float, y: object) -> object:
        return field(t, torch.as_tensor(y), {}).numpy()

    return torch.as_tensor(solve_ivp(f, (0.0, t), y0.numpy(), method="DOP853", rtol=rtol, atol=1e-14).y[:, -1])


@pytest.mark.parametrize(("name", "field", "y"), [
    ("oscillator", HarmonicOscillator(2.0), (0.3, -0.7)), ("pendulum", Pendulum(), (0.8, 1.1)),
    ("kepler", Kepler(), (0.4, 0.7, -0.2, 1.3)), ("volterra", LotkaVolterra(), (1.3, 0.6)),
    ("pol", VanDerPol(2.0), (1.5, -0.4)), ("lorenz", Lorenz(), (1.0, 2.0, 3.0)),
])  # fmt: skip
def test_a_physical_system_is_its_textbook_equation(name: str, field: on.Field, y: tuple[float, ...]) -> None:
    expected = torch.tensor(EVERY[name](y))
    torch.testing.assert_close(field(0.0, torch.tensor(y), {}), expected, rtol=1e-14, atol=1e-14)
    batch = torch.tensor([[y, y], [y, y]])
    torch.testing.assert_close(field(0.0, batch, {}), expected.expand(2, 2, -1), rtol=1e-14, atol=1e-14)
    assert field.init() == {}


@pytest.mark.parametrize(("field", "y0"), EXACT)
def test_the_exact_solution_starts_at_its_start_and_satisfies_the_equation(field: on.Field, y0: Tensor) -> None:
    torch.testing.assert_close(field.exact(0.0, y0), y0, rtol=1e-13, atol=1e-13)
    for t in TIMES:
        h = 2e-4  # a sixth-order difference quotient in t
        values = {k: field.exact(t + k * h, y0) for k in (-3, -2, -1, 1, 2, 3)}
        slope = 0.75 * (values[1] - values[-1]) - 0.15 * (values[2] - values[-2]) + (values[3] - values[-3]) / 60
        f = field(t, field.exact(t, y0), {})
        torch.testing.assert_close(slope / h, f, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("field", "y0"), EXACT)
@pytest.mark.parametrize("t", [1.0, 7.0])
def test_the_exact_solution_agrees_with_dop853(field: on.Field, y0: Tensor, t: float) -> None:
    if t > 1 and float(y0[0]) == pytest.approx(0.1):
        t = 3.0  # the orbit of eccentricity 0.9 doubles errors at every return
    torch.testing.assert_close(field.exact(t, y0), dop853(field, y0, t), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("field", "y0"), EXACT)
def test_the_energy_stays_along_the_exact_solution(field: on.Field, y0: Tensor) -> None:
    start = field.energy(y0, {})
    for t in TIMES:
        torch.testing.assert_close(field.energy(field.exact(t, y0), {}), start, rtol=1e-11, atol=1e-11)


def test_batches_of_exact_solutions_are_those_of_each_sample() -> None:
    for field in (HarmonicOscillator(1.5), Pendulum()):
        y0 = torch.tensor([[1.0, 0.1], [6.0, 0.5], [-0.4, -0.9]])
        each = torch.stack([field.exact(2.2, y) for y in y0])
        torch.testing.assert_close(field.exact(2.2, y0), each, rtol=1e-14, atol=1e-14)
        assert field.exact(2.2, y0.float()).dtype == torch.float32


@pytest.mark.parametrize("name", [n for n in fields.names() if getattr(fields.get(n), "reference", None)])
def test_a_tabulated_reference_agrees_with_dop853(name: str) -> None:
    field = fields.get(name)()
    y0, t, y = (torch.as_tensor(v) for v in field.reference)
    torch.testing.assert_close(dop853(field, y0, float(t)), y, rtol=1e-9, atol=1e-9)


def test_the_three_systems_without_a_closed_form_have_a_reference() -> None:
    for make in (LotkaVolterra, VanDerPol, Lorenz):
        assert make.reference is not None and "exact" not in make.offers


INVARIANTS: list[tuple[on.Field, Tensor, Callable[[Tensor], Tensor]]] = [
    (HarmonicOscillator(3.0), real([0.4, 1.0]), lambda y: y[..., 1] ** 2 + 9 * y[..., 0] ** 2),
    (Pendulum(), real([0.4, 2.5]), lambda y: y[..., 1] ** 2 / 2 - torch.cos(y[..., 0])),
    (Kepler(), Kepler.start(0.5), lambda y: y[..., 0] * y[..., 3] - y[..., 1] * y[..., 2]),
    (LotkaVolterra(), real([1.0, 2.0]),
     lambda y: y[..., 0] - 3 * y[..., 0].log() + y[..., 1] - 1.5 * y[..., 1].log()),
]  # fmt: skip


@pytest.mark.parametrize(("field", "y0", "invariant"), INVARIANTS)
def test_an_invariant_is_kept_by_the_field(field: on.Field, y0: Tensor, invariant: Callable[[Tensor], Tensor]) -> None:
    y = (y0 + 0.1 * torch.rand(6, len(y0))).requires_grad_()
    for function in (invariant, lambda y: field.energy(y, {})):
        (grad,) = torch.autograd.grad(function(y).sum(), y)
        assert float((grad * field(0.0, y, {}).detach()).sum(1).abs().max()) < 1e-12
        assert float(grad.abs().min()) > 0
    end = dop853(field, y0, 6.0)
    torch.testing.assert_close(invariant(end), invariant(y0), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(field.energy(end, {}), field.energy(y0, {}), rtol=1e-10, atol=1e-10)


def test_the_period_of_kepler_is_two_pi_and_that_of_the_oscillator_two_pi_over_omega() -> None:
    for e in (0.0, 0.3, 0.8):
        torch.testing.assert_close(
            Kepler().exact(2 * math.pi, Kepler.start(e)), Kepler.start(e), rtol=1e-13, atol=1e-13
        )
    y0 = torch.tensor([0.3, 0.9])
    torch.testing.assert_close(HarmonicOscillator(4.0).exact(math.pi / 2, y0), y0, rtol=1e-13, atol=1e-13)


def test_constants_may_be_tensors_that_require_a_gradient() -> None:
    omega = torch.tensor(1.3, requires_grad=True)
    y0 = torch.tensor([0.5, -0.2])
    assert torch.autograd.gradcheck(lambda w: HarmonicOscillator(w).exact(0.7, y0), (omega,))
    assert torch.autograd.gradcheck(lambda w: VanDerPol(w)(0.0, y0, {}), (omega,))


def test_the_gradient_of_the_oscillators_exact_solution_is_its_derivative_in_time() -> None:
    t, y0 = torch.tensor(0.9), torch.tensor([0.5, -0.2])
    slope = torch.autograd.functional.jacobian(lambda t: HarmonicOscillator(1.7).exact(t, y0), t)
    torch.testing.assert_close(slope, HarmonicOscillator(1.7)(t, HarmonicOscillator(1.7).exact(t, y0), {}))


WRONG = [
    (lambda: Pendulum().exact(1.0, real([0.0, 2.1])), "this state rotates"),
    (lambda: Kepler().exact(1.0, real([1.0, 0.0, 0.0, 1.1])), "starts at a pericentre"),
    (lambda: Kepler().exact(1.0, real([-1.0, 0.0, 0.0, 1.1])), "starts at a pericentre"),
    (lambda: Kepler().exact(1.0, torch.stack([Kepler.start(0.1)] * 2)), "starts at a pericentre"),
    (lambda: Kepler.start(1.0), "eccentricity in"),
    (lambda: Kepler.start(-0.1), "eccentricity in"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "sentence"), WRONG)
def test_a_closed_form_refuses_a_state_that_it_does_not_cover(build: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        build()  # type: ignore[operator]


def test_a_pericentre_in_single_precision_is_recognised() -> None:
    out = Kepler().exact(1.0, Kepler.start(0.3).float())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), Kepler().exact(1.0, Kepler.start(0.3)), rtol=1e-5, atol=1e-6)
