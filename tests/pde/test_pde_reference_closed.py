"""Closed forms: the equation by automatic differentiation, and the conditions where they are stated."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pde_reference_oracles import derivative, sampled
from torch import Tensor

from odenet.errors import BadInput, UnknownName
from odenet.pde import reference

PI = math.pi
Terms = tuple[Tensor, ...]


class Traced:
    """Column c of a reference with its derivatives: q(0, 1) is d/dx_0 d/dx_1."""

    def __init__(self, name: str, **options: object) -> None:
        self.x, self.values = sampled(reference.get(name, **options))

    def __call__(self, *axes: int, c: int = 0) -> Tensor:
        return derivative(self.values[:, c], self.x, *axes)

    def laplace(self, d: int, c: int = 0) -> Tensor:
        return sum((self(i, i, c=c) for i in range(d)), torch.zeros(1, dtype=torch.float64))


def incompressible(q: Traced, nu: float, unsteady: bool) -> list[Terms]:
    zero = torch.zeros(1, dtype=torch.float64)
    momentum = [
        (q(2, c=c) if unsteady else zero, q(c=0) * q(0, c=c), q(c=1) * q(1, c=c), q(c, c=2), -nu * q.laplace(2, c))
        for c in (0, 1)
    ]
    return [*momentum, (q(0, c=0), q(1, c=1))]


def basket(q: Traced, d: int, rate: float = 0.05, volatility: float = 0.2, correlation: float = 0.25) -> Terms:
    s = q.x
    second = [
        volatility**2 * (1.0 if i == j else correlation) * s[:, i] * s[:, j] * q(i, j) / 2
        for i in range(d)
        for j in range(d)
    ]
    return (q(d), *second, *(rate * s[:, i] * q(i) for i in range(d)), -rate * q())


EQUATIONS: dict[str, tuple[str, dict[str, object], Callable[[Traced], list[Terms]]]] = {
    "poisson": ("poisson", {}, lambda q: [(q.laplace(2), 2 * PI**2 * torch.sin(PI * q.x).prod(1))]),
    "poisson_1d": ("poisson", {"dim": 1}, lambda q: [(q(0, 0), PI**2 * torch.sin(PI * q.x[:, 0]))]),
    "poisson_5d": (
        "poisson",
        {"dim": 5, "kind": "sum"},
        lambda q: [(q.laplace(5), PI**2 * torch.sin(PI * q.x).sum(1))],
    ),
    "heat": ("heat", {"mode": 2}, lambda q: [(q(1), -0.25 * q(0, 0))]),
    "heat_multiscale": (
        "heat_multiscale",
        {},
        lambda q: [(q(2), -q(0, 0) / (500 * PI) ** 2, -q(1, 1) / PI**2)],
    ),
    "wave": ("wave", {}, lambda q: [(q(1, 1), -4 * q(0, 0))]),
    "convection_30": ("convection", {}, lambda q: [(q(1), 30 * q(0))]),
    "convection_80": ("convection", {"beta": 80.0}, lambda q: [(q(1), 80 * q(0))]),
    "reaction": ("reaction", {}, lambda q: [(q(1), -5 * q() * (1 - q()))]),
    "advection_diffusion": (
        "advection_diffusion",
        {"speed": 2.0, "mode": 3},
        lambda q: [(q(1), 2 * q(0), -0.01 * q(0, 0))],
    ),
    "boundary_layer": (
        "boundary_layer",
        {"diffusivity": 0.05},
        lambda q: [(q(0), -0.05 * q(0, 0), -torch.ones_like(q()))],
    ),
    "helmholtz_1_4": (
        "helmholtz",
        {},
        lambda q: [(q.laplace(2), 17 * PI**2 * torch.sin(PI * q.x[:, 0]) * torch.sin(4 * PI * q.x[:, 1]))],
    ),
    "helmholtz_4pi": (
        "helmholtz",
        {"kind": "4pi"},
        lambda q: [(-q.laplace(2), -((4 * PI) ** 2) * q(), -((4 * PI) ** 2) * torch.sin(4 * PI * q.x).prod(1))],
    ),
    "klein_gordon": (
        "klein_gordon",
        {},
        lambda q: [
            (
                q(1, 1),
                -q(0, 0),
                -6 * q.x[:, 0] ** 3 * q.x[:, 1],
                25 * PI**2 * q.x[:, 0] * torch.cos(5 * PI * q.x[:, 1]),
                6 * q.x[:, 0] * q.x[:, 1] ** 3,
            )
        ],
    ),
    "sine_gordon": ("sine_gordon", {}, lambda q: [(q(1, 1), -q(0, 0), torch.sin(q()))]),
    "burgers_2d": (
        "burgers_2d",
        {"reynolds": 40.0},
        lambda q: [(q(2, c=c), q(c=0) * q(0, c=c), q(c=1) * q(1, c=c), -q.laplace(2, c) / 40) for c in (0, 1)],
    ),
    "kovasznay": ("kovasznay", {}, lambda q: incompressible(q, 1 / 40, False)),
    "taylor_green": ("taylor_green", {}, lambda q: incompressible(q, 0.01, True)),
    "eikonal": ("eikonal", {}, lambda q: [(q(0) ** 2, q(1) ** 2, -torch.ones_like(q()))]),
    "black_scholes": (
        "black_scholes",
        {},
        lambda q: [(q(1), 0.02 * q.x[:, 0] ** 2 * q(0, 0), 0.05 * q.x[:, 0] * q(0), -0.05 * q())],
    ),
    "geometric_basket_2d": ("geometric_basket", {"dim": 2}, lambda q: [basket(q, 2)]),
    "geometric_basket_5d": ("geometric_basket", {}, lambda q: [basket(q, 5)]),
}


@pytest.mark.parametrize("case", EQUATIONS)
def test_a_closed_form_satisfies_its_equation(case: str) -> None:
    name, options, equations = EQUATIONS[case]
    for terms in equations(Traced(name, **options)):
        stacked = torch.stack(torch.broadcast_tensors(*terms)).detach()
        assert stacked.sum(0).norm() < 1e-11 * stacked.norm()
        assert stacked.norm() > 0


def at(name: str, points: list[list[float]] | Tensor, **options: object) -> Tensor:
    return reference.get(name, **options)(torch.as_tensor(points, dtype=torch.float64))


def test_the_harmonic_solution_in_ten_dimensions_is_harmonic() -> None:
    q = Traced("poisson", dim=10, kind="harmonic")
    assert q.laplace(10).abs().max() == 0
    x = q.x.detach()
    assert torch.allclose(q().detach(), sum(x[:, 2 * i] * x[:, 2 * i + 1] for i in range(5)), rtol=1e-14, atol=0)


GRID = torch.linspace(0, 1, 33, dtype=torch.float64)


def on(side: float, axis: int, scale: float = 1.0) -> Tensor:
    """Points of the unit square's side x_axis = side, the other coordinate from 0 to `scale`."""
    other = GRID * scale
    fixed = torch.full_like(other, side)
    return torch.stack([fixed, other] if axis == 0 else [other, fixed], 1)


ZERO_ON: list[tuple[str, dict[str, object], Tensor]] = [
    *(("poisson", {}, on(side, axis)) for side in (0, 1) for axis in (0, 1)),
    *(("helmholtz", {"kind": "4pi"}, on(side, axis)) for side in (0, 1) for axis in (0, 1)),
    *(("helmholtz", {}, on(side, axis)) for side in (-1, 1) for axis in (0, 1)),
    *(("heat", {}, on(side, 0)) for side in (0, 1)),
    *(("wave", {}, on(side, 0)) for side in (0, 1)),
    ("klein_gordon", {}, on(0, 0)),
    ("sine_gordon", {}, on(0, 1)),
    ("boundary_layer", {}, torch.tensor([[0.0], [1.0]], dtype=torch.float64)),
    ("eikonal", {}, 0.5 * torch.stack([torch.cos(7 * GRID), torch.sin(7 * GRID)], 1)),
]


@pytest.mark.parametrize(("name", "options", "points"), ZERO_ON)
def test_a_closed_form_vanishes_where_its_statement_says(name: str, options: dict, points: Tensor) -> None:
    assert at(name, points, **options).abs().max() < 1e-13


X = 2 * PI * GRID
BELL = torch.exp(-8 * (X - PI) ** 2 / PI**2)
START: list[tuple[str, dict[str, object], Tensor, Tensor]] = [
    ("heat", {"mode": 3}, on(0, 1), torch.sin(3 * PI * GRID)),
    ("wave", {}, on(0, 1), torch.sin(PI * GRID) + torch.sin(4 * PI * GRID) / 2),
    ("convection", {}, on(0, 1, 2 * PI), torch.sin(X)),
    ("reaction", {}, on(0, 1, 2 * PI), BELL),
    ("advection_diffusion", {"mode": 3}, on(0, 1, 2 * PI), torch.sin(3 * X)),
    ("klein_gordon", {}, on(0, 1), GRID),
    ("black_scholes", {}, on(1, 1, 300.0) + torch.tensor([1.0, 0.0]), (GRID * 300 - 99).clamp(min=0)),
]


@pytest.mark.parametrize(("name", "options", "points", "value"), START)
def test_a_closed_form_starts_or_ends_at_its_stated_value(
    name: str, options: dict, points: Tensor, value: Tensor
) -> None:
    assert torch.allclose(at(name, points, **options)[:, 0], value, rtol=1e-13, atol=1e-13)


def test_the_wave_the_breather_and_klein_gordon_start_with_their_stated_velocity() -> None:
    for name, velocity in (
        ("wave", lambda x: 0 * x),
        ("klein_gordon", lambda x: 0 * x),
        ("sine_gordon", lambda x: 4 * math.sqrt(0.75) / torch.cosh(math.sqrt(0.75) * x)),
    ):
        x = on(0.0, 1).requires_grad_()
        slope = derivative(reference.get(name)(x)[:, 0], x, 1)
        assert torch.allclose(slope, velocity(x[:, 0]), rtol=0, atol=1e-13)


def test_the_integro_differential_equation_holds_with_its_integral_by_quadrature() -> None:
    ours = reference.volterra()
    nodes, weights = np.polynomial.legendre.leggauss(30)
    for t in (0.3, 2.0, 5.0):
        s = torch.from_numpy(t * (nodes + 1) / 2)[:, None]
        integral = float((torch.from_numpy(weights * t / 2) * torch.exp(s - t)[:, 0] * ours(s)[:, 0]).sum())
        x = torch.tensor([[t]], dtype=torch.float64, requires_grad=True)
        y = ours(x)[:, 0]
        assert float((derivative(y, x, 0) + y).detach()) == pytest.approx(integral, abs=1e-14)
    assert float(ours(torch.zeros(1, 1))) == 1.0


def test_a_basket_of_one_asset_is_the_single_option() -> None:
    x = reference.geometric_basket(dim=1).points(50)
    one = reference.black_scholes()
    assert torch.allclose(reference.geometric_basket(dim=1)(x), one(x), rtol=1e-13, atol=1e-13)


def test_a_basket_agrees_with_simulated_prices() -> None:
    generator = torch.Generator().manual_seed(1)
    common, own = (torch.randn(200_000, n, generator=generator, dtype=torch.float64) for n in (1, 3))
    w = 0.5 * common + math.sqrt(0.75) * own  # correlation 1/4
    s = 100 * torch.exp(0.05 - 0.02 + 0.2 * w)
    paid = math.exp(-0.05) * (s.log().mean(1).exp() - 100).clamp(min=0)
    price = float(reference.geometric_basket(dim=3)(torch.tensor([[100.0, 100.0, 100.0, 0.0]])))
    assert abs(float(paid.mean()) - price) < 4 * float(paid.std()) / math.sqrt(len(paid))


def test_a_kind_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(BadInput, match="product, sum and"):
        reference.poisson(3, "harmonic")
    with pytest.raises(BadInput, match="1_4 and 4pi"):
        reference.helmholtz("2_3")
    with pytest.raises(UnknownName, match="burgers"):
        reference.get("burger")


def test_points_of_another_dimension_are_refused_with_a_sentence() -> None:
    with pytest.raises(BadInput, match=r"takes points \(N, 2\), space before time"):
        reference.wave()(torch.zeros(4, 3))
