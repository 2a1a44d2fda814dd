"""Problems for implicit methods: Van der Pol, chemical kinetics, and the classes A to F of Enright and others.

Three forms of Van der Pol's equation, because "mu = 1e6" means different things in different books:
van_der_pol_1e3 and van_der_pol_1e6 are y'' = mu (1 - y^2) y' - y in its own time over [0, 2 mu];
van_der_pol_eps is eps z' = (1 - y^2) z - y, y' = z with eps = 1e-6 over [0, 2], the form of Hairer and Wanner,
which is the orbit of mu = 1e3 in the time t/mu.
"""

from __future__ import annotations

import torch

from ...types import Function, State, Time
from .problem import InitialValueProblem, linear, parts
from .references import REFERENCES

ENRIGHT = "Enright, Hull & Lindberg 1975, BIT 15; endpoints of Enright & Pryce 1987, ACM Trans. Math. Softw. 13"
HAIRER = "Hairer & Wanner 1996, Solving Ordinary Differential Equations II, IV.10"
TEST_SET = "Mazzia & Magherini 2008, Test Set for Initial Value Problem Solvers"


def _van_der_pol(mu: float) -> Function:
    def f(t: Time, y: State) -> State:
        q, v = parts(y)
        return torch.cat((v, mu * ((1 - q * q) * v) - q), -1)

    return f


def _van_der_pol_eps(t: Time, y: State) -> State:
    q, z = parts(y)
    return torch.cat((z, 1e6 * ((1 - q * q) * z - q)), -1)


def _robertson(t: Time, y: State) -> State:
    a, b, c = parts(y)
    slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.cat((back - slow, slow - back - fast, fast), -1)


def _hires(t: Time, y: State) -> State:
    a, b, c, d, e, g, h, k = parts(y)
    bound = 280 * g * k
    return torch.cat((
        -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
        1.71 * a - 8.75 * b,
        -10.03 * c + 0.43 * d + 0.035 * e,
        8.32 * b + 1.71 * c - 1.12 * d,
        -1.745 * e + 0.43 * (g + h),
        -bound + 0.69 * d + 1.71 * e - 0.43 * g + 0.69 * h,
        bound - 1.81 * h,
        -bound + 1.81 * h,
    ), -1)  # fmt: skip


def _oregonator(t: Time, y: State) -> State:
    a, b, c = parts(y)
    s, w, q = 77.27, 0.161, 8.375e-6
    return torch.cat((s * (b + a * (1 - q * a - b)), (c - (1 + a) * b) / s, w * (a - c)), -1)


# reactions of the air pollution model: rate, the species that react, what each event changes
_POLLUTION: tuple[tuple[float, tuple[int, ...], dict[int, int]], ...] = (
    (0.35, (1,), {1: -1, 2: 1, 3: 1}),
    (26.6, (2, 4), {1: 1, 2: -1, 4: -1}),
    (1.23e4, (5, 2), {1: 1, 2: -1, 5: -1, 6: 1}),
    (8.6e-4, (7,), {5: 2, 7: -1, 8: 1}),
    (8.2e-4, (7,), {7: -1, 8: 1}),
    (1.5e4, (7, 6), {5: 1, 6: -1, 7: -1, 8: 1}),
    (1.3e-4, (9,), {5: 1, 8: 1, 9: -1, 10: 1}),
    (2.4e4, (9, 6), {6: -1, 9: -1, 11: 1}),
    (1.65e4, (11, 2), {1: 1, 2: -1, 10: 1, 11: -1, 12: 1}),
    (9e3, (11, 1), {1: -1, 11: -1, 13: 1}),
    (2.2e-2, (13,), {1: 1, 11: 1, 13: -1}),
    (1.2e4, (10, 2), {1: 1, 2: -1, 10: -1, 14: 1}),
    (1.88, (14,), {5: 1, 7: 1, 14: -1}),
    (1.63e4, (1, 6), {1: -1, 6: -1, 15: 1}),
    (4.8e6, (3,), {3: -1, 4: 1}),
    (3.5e-4, (4,), {4: -1, 16: 1}),
    (1.75e-2, (4,), {3: 1, 4: -1}),
    (1e8, (16,), {6: 2, 16: -1}),
    (4.44e11, (16,), {3: 1, 16: -1}),
    (1.24e3, (17, 6), {5: 1, 6: -1, 17: -1, 18: 1}),
    (2.1, (19,), {2: 1, 19: -1}),
    (5.78, (19,), {1: 1, 3: 1, 19: -1}),
    (4.74e-2, (1, 4), {1: -1, 4: -1, 19: 1}),
    (1.78e3, (19, 1), {1: -1, 19: -1, 20: 1}),
    (3.12, (20,), {1: 1, 19: 1, 20: -1}),
)
_POLLUTION_START = {2: 0.2, 4: 0.04, 7: 0.1, 8: 0.3, 9: 0.01, 17: 0.007}


def _mass_action(reactions: tuple[tuple[float, tuple[int, ...], dict[int, int]], ...], species: int) -> Function:
    """Each reaction runs at its rate times the product of its (one or two) reactants, species counted from 1."""
    rates = torch.tensor([k for k, _, _ in reactions], dtype=torch.float64)
    first = torch.tensor([who[0] - 1 for _, who, _ in reactions])
    second = torch.tensor([who[1] - 1 if len(who) == 2 else species for _, who, _ in reactions])
    change = torch.zeros(len(reactions), species, dtype=torch.float64)
    for row, (_, _, what) in zip(change, reactions):
        for i, amount in what.items():
            row[i - 1] = amount

    def f(t: Time, y: State) -> State:
        with_one = torch.cat((y, torch.ones_like(y[..., :1])), -1)
        return (rates.to(y) * y[..., first] * with_one[..., second]) @ change.to(y)

    return f


# -------------------------------------------------------------------------------------- stiff DETEST, classes A to F


def _matrix(rows: str) -> Function:
    return linear(torch.tensor([[float(v) for v in row.split()] for row in rows.split(";")], dtype=torch.float64))


def _a2() -> Function:
    a = torch.diag(torch.full((8,), 1.0), -1) + torch.diag(torch.full((8,), 1.0), 1) - 2 * torch.eye(9)
    a[0, :2], a[8, 7:] = torch.tensor([-1800.0, 900.0]), torch.tensor([1000.0, -2000.0])
    inner, source = linear(a.double()), torch.zeros(9, dtype=torch.float64)
    source[8] = 1000.0
    return lambda t, y: inner(t, y) + source.to(y)


def _b(alpha: float) -> Function:
    a = torch.diag(-torch.tensor([10.0, 10.0, 4.0, 1.0, 0.5, 0.1], dtype=torch.float64))
    a[0, 1], a[1, 0] = alpha, -alpha
    return linear(a)


def _c1(t: Time, y: State) -> State:
    a, b, c, d = parts(y)
    cd = c * c + d * d
    return torch.cat((-a + b * b + cd, -10 * b + 10 * cd, -40 * c + 40 * d * d, 2 - 100 * d), -1)


def _c(beta: float) -> Function:
    def f(t: Time, y: State) -> State:
        a, b, c, d = parts(y)
        ab = a * a + b * b
        return torch.cat(
            (2 - a, -10 * b + beta * a * a, -40 * c + 4 * beta * ab, -100 * d + 10 * beta * (ab + c * c)), -1
        )

    return f


def _d1(t: Time, y: State) -> State:
    a, b, c = parts(y)
    return torch.cat((0.2 * (b - a), 10 * a - (60 - 0.125 * c) * b + 0.125 * c, torch.ones_like(c)), -1)


def _d2(t: Time, y: State) -> State:
    a, b, c = parts(y)
    return torch.cat((-0.04 * a + 0.01 * b * c, 400 * a - 100 * b * c - 3000 * b * b, 30 * b * b), -1)


def _d3(t: Time, y: State) -> State:
    a, b, c, d = parts(y)
    gain = c - 100 * a * b
    return torch.cat((gain, gain + 2 * d - 2e4 * b * b, -gain, -d + 1e4 * b * b), -1)


def _d4(t: Time, y: State) -> State:
    a, b, c = parts(y)
    da, db = -0.013 * a - 1000 * a * c, -2500 * b * c
    return torch.cat((da, db, da + db), -1)


def _d5(t: Time, y: State) -> State:
    a, b = parts(y)
    s = 0.01 + a + b
    return torch.cat((0.01 - (1 + (a + 1000) * (a + 1)) * s, 0.01 - (1 + b * b) * s), -1)


def _d6(t: Time, y: State) -> State:
    a, b, c = parts(y)
    da, db = -a + 1e8 * c * (1 - a), -10 * b + 3e7 * c * (1 - b)
    return torch.cat((da, db, -da - db), -1)


def _e1(t: Time, y: State) -> State:
    a, b, c, d = parts(y)
    top = (a * a - torch.sin(a) - 1e8) * a + (b * c / (a * a + 1) - 4e6) * b
    return torch.cat((b, c, d, top + (1 - 6e4) * c + (10 * torch.exp(-d * d) - 400) * d + 1), -1)


def _e2(t: Time, y: State) -> State:
    q, v = parts(y)
    return torch.cat((v, 5 * (1 - q * q) * v - q), -1)


def _e3(t: Time, y: State) -> State:
    a, b, c = parts(y)
    return torch.cat((-(55 + c) * a + 65 * b, 0.0785 * (a - b), 0.1 * a), -1)


_TURN = 0.5 - torch.eye(4, dtype=torch.float64)
_DAMPING = torch.tensor(
    [[-10.0, -10.0, 0.0, 0.0], [10.0, -10.0, 0.0, 0.0], [0.0, 0.0, 1000.0, 0.0], [0.0, 0.0, 0.0, 0.01]],
    dtype=torch.float64,
)


def _e4(t: Time, y: State) -> State:
    turn = _TURN.to(y)
    z = y @ turn
    a, b, c, d = parts(z)
    g = torch.cat((0.5 * (a * a - b * b), a * b, c * c, d * d), -1)
    return (g - z @ _DAMPING.T.to(y)) @ turn


def _e5(t: Time, y: State) -> State:
    a, b, c, d = parts(y)
    decay, first, second, third = 7.89e-10 * a, 1.1e7 * a * c, 1.13e9 * b * c, 1.13e3 * d
    return torch.cat((-decay - first, decay - second, decay - second - first + third, first - third), -1)


def _f1(t: Time, y: State) -> State:
    a, b, c, d = parts(y)
    k = 0.006 * torch.exp(20.7 - 15000 / a)
    return torch.cat((
        1.3 * (c - a) + 10400 * k * b, 1880 * (d - b * (1 + k)), 1752 - 269 * c + 267 * a, 0.1 + 320 * b - 321 * d
    ), -1)  # fmt: skip


def _f2(t: Time, y: State) -> State:
    a, b = parts(y)
    return torch.cat((-a - a * b + 294 * b, a * (1 - b) / 98 - 3 * b), -1)


def _f3(t: Time, y: State) -> State:
    a, b, c, d, e = parts(y)
    ab, be = 1e7 * b * a, 1e7 * b * e
    return torch.cat((
        -ab + 10 * c, -ab - be + 10 * c + 10 * d, ab - 1.001e4 * c + 1e-3 * d, 1e4 * c - 10.001 * d + be, 10 * d - be
    ), -1)  # fmt: skip


def _f5(t: Time, y: State) -> State:
    a, b, c, d = parts(y)
    ab, ac = 3e11 * a * b, 9e11 * a * c
    return torch.cat((-ab + 1.2e8 * d - ac, -ab + 2e7 * d, -ac + 1e8 * d, ab - 1.2e8 * d + ac), -1)


def _ones(d: int) -> tuple[float, ...]:
    return (1.0,) * d


_REAL, _COMPLEX, _COUPLED = "linear, real eigenvalues", "linear, complex eigenvalues", "steady state to transient"
_STIFF_DETEST: dict[str, tuple[Function, tuple[float, ...], float, float, str]] = {
    "a1": (linear(-torch.diag(torch.tensor([0.5, 1.0, 100.0, 90.0], dtype=torch.float64))), _ones(4), 20.0, 1.0, _REAL),
    "a2": (_a2(), (0.0,) * 9, 120.0, 1.0, _REAL),
    "a3": (_matrix("-1e4 100 -10 1; 0 -1e3 10 -10; 0 0 -1 10; 0 0 0 -0.1"), _ones(4), 20.0, 1.0, _REAL),
    "a4": (linear(-torch.diag(torch.arange(1.0, 11.0).double() ** 5)), _ones(10), 1.0, 1.0, _REAL),
    "b1": (_matrix("-1 1 0 0; -100 -1 0 0; 0 0 -100 1; 0 0 -1e4 -100"), (1.0, 0.0, 1.0, 0.0), 20.0, 1.0, _COMPLEX),
    "b2": (_b(3.0), _ones(6), 20.0, 1.0, _COMPLEX),
    "b3": (_b(8.0), _ones(6), 20.0, 1.0, _COMPLEX),
    "b4": (_b(25.0), _ones(6), 20.0, 1.0, _COMPLEX),
    "b5": (_b(100.0), _ones(6), 20.0, 1.0, _COMPLEX + " close to the imaginary axis, hard for BDF"),
    "c1": (_c1, _ones(4), 20.0, 1.0, _COUPLED),
    "c2": (_c(0.1), _ones(4), 20.0, 1.0, _COUPLED),
    "c3": (_c(1.0), _ones(4), 20.0, 1.0, _COUPLED),
    "c4": (_c(10.0), _ones(4), 20.0, 1.0, _COUPLED),
    "c5": (_c(20.0), _ones(4), 20.0, 1.0, _COUPLED),
    "d1": (_d1, (0.0, 0.0, 0.0), 400.0, 1.0, "a nuclear reactor"),
    "d2": (_d2, (1.0, 0.0, 0.0), 40.0, 1.0, "Robertson's reaction, rescaled"),
    "d3": (_d3, (1.0, 1.0, 0.0, 0.0), 20.0, 1e-2, "a chemical reaction"),
    "d4": (_d4, (1.0, 1.0, 0.0), 50.0, 1e-5, "a chemical reaction"),
    "d5": (_d5, (0.0, 0.0), 100.0, 1.0, "a reactor that changes quickly once"),
    "d6": (_d6, (1.0, 0.0, 0.0), 1.0, 1e-6, "a chemical reaction"),
    "e1": (_e1, (0.0,) * 4, 1.0, 1e-8, "a control system of fourth order"),
    "e2": (_e2, (2.0, 0.0), 10.0, 1.0, "Van der Pol's equation with mu = 5"),
    "e3": (_e3, (1.0, 1.0, 0.0), 500.0, 1e-2, "catalytic fluidised bed"),
    "e4": (_e4, (0.0, -2.0, -1.0, -1.0), 1000.0, 1.0, "eigenvalues that leave the real axis"),
    "e5": (_e5, (1.76e-3, 0.0, 0.0, 0.0), 1000.0, 1e-10, "a chemical pyrolysis, badly scaled"),
    "f1": (_f1, (761.0, 0.0, 600.0, 0.1), 1000.0, 1e-2, "a catalytic reactor"),
    "f2": (_f2, (1.0, 0.0), 240.0, 1e-2, "enzyme kinetics"),
    "f3": (_f3, (4e-6, 1e-6, 0.0, 0.0, 0.0), 100.0, 1e-9, "a chemical reaction, badly scaled"),
    "f4": (_oregonator, (4.0, 1.1, 4.0), 300.0, 1.0, "the Oregonator from other initial values"),
    "f5": (_f5, (3.365e-7, 8.261e-3, 1.642e-3, 9.38e-6), 100.0, 1e-7, "a chemical reaction, badly scaled"),
}


def _known(
    name: str, f: Function, y0: tuple[float, ...], t1: float, cite: str, doc: str, floor: float = 1.0
) -> InitialValueProblem:
    digits, reference = REFERENCES.get(name, (0.0, None))
    return InitialValueProblem(
        name=name, f=f, y0=y0, t1=t1, reference=reference, digits=digits, floor=floor, stiff=True, cite=cite, doc=doc
    )


_POLLUTANTS = tuple(_POLLUTION_START.get(i, 0.0) for i in range(1, 21))
STIFF: dict[str, InitialValueProblem] = {p.name: p for p in (
    _known("van_der_pol_1e3", _van_der_pol(1e3), (2.0, 0.0), 2e3, f"{TEST_SET}, VDPOL",
           "y'' = mu (1 - y^2) y' - y with mu = 1e3 over [0, 2 mu]", 1e-3),
    _known("van_der_pol_1e6", _van_der_pol(1e6), (2.0, 0.0), 2e6, f"{TEST_SET}, VDPOL with mu = 1e6",
           "y'' = mu (1 - y^2) y' - y with mu = 1e6 over [0, 2 mu]", 1e-6),
    _known("van_der_pol_eps", _van_der_pol_eps, (2.0, 0.0), 2.0, f"{HAIRER}, (10.1)",
           "y' = z, z' = 1e6 ((1 - y^2) z - y): the orbit of mu = 1e3 in the time t/mu"),
    _known("robertson", _robertson, (1.0, 0.0, 0.0), 1e11, f"{HAIRER}, (10.2)",
           "three reactions of very different speeds over eleven decades of time", 1e-6),
    _known("hires", _hires, (1.0, *[0.0] * 6, 0.0057), 321.8122, f"{HAIRER}, (10.4)",
           "growth of plants in light of high intensity: eight reactants", 1e-4),
    _known("oregonator", _oregonator, (1.0, 2.0, 3.0), 360.0, f"{HAIRER}, (10.3)",
           "Belousov's and Zhabotinskii's reaction, a relaxation oscillation"),
    _known("pollution", _mass_action(_POLLUTION, 20), _POLLUTANTS, 60.0, "Verwer 1994, SIAM J. Sci. Comput. 15",
           "an air pollution model: 25 reactions of 20 species", 1e-6),
    *(_known(f"stiff_{name}", f, y0, t1, f"{ENRIGHT}, problem {name.upper()}", doc, floor)
      for name, (f, y0, t1, floor, doc) in _STIFF_DETEST.items()),
)}  # fmt: skip
