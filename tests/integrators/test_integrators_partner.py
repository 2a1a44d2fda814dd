"""Symplectic partners: costates by their formulas are those of autograd, and known pairs come out."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

import odenet as on
from odenet.errors import Incompatible

OURS = [n for n in on.integrators.names() if ":" not in n and not on.integrators.get(n).needs]
RUNGE_KUTTA = [
    n for n in OURS
    if all(hasattr(getattr(on.integrators.get(n), "tableau", None), w) for w in ("matrix", "weights", "nodes"))
]  # fmt: skip
EXPLICIT = [n for n in RUNGE_KUTTA if not on.integrators.get(n).implicit]


def numbers(rows: Any) -> Tensor:
    return torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64)


def field(t: float, y: Tensor) -> Tensor:
    return torch.stack([y[1] + 0.3 * t, -torch.sin(y[0]) - 0.1 * y[1] ** 2])


@pytest.mark.parametrize("name", EXPLICIT)
def test_costates_by_the_partner_are_those_of_autograd(name: str) -> None:
    method, h, t = on.integrators.get(name), 0.3, 0.2
    a, c = numbers(method.tableau.matrix), [float(x) for x in method.tableau.nodes]
    b = numbers([method.tableau.weights])[0]
    y = torch.tensor([0.7, -0.4], dtype=torch.float64)
    states, k = [], []
    for i in range(len(b)):  # the stages, written out
        states.append(y + h * sum((a[i, j] * k[j] for j in range(i)), torch.zeros(2, dtype=torch.float64)))
        k.append(field(t + c[i] * h, states[i]))
    start = y.clone().requires_grad_()
    after = method.step(field, t, start, h, (), None).y
    torch.testing.assert_close(after.detach(), y + h * sum(w * v for w, v in zip(b, k)), rtol=1e-13, atol=1e-13)
    p = torch.tensor([0.9, 1.7], dtype=torch.float64)
    (wanted,) = torch.autograd.grad(after, start, p)

    def pull(i: int, v: Tensor) -> Tensor:
        return torch.autograd.functional.vjp(lambda x: field(t + c[i] * h, x), states[i], v)[1]

    found, stages = method.partner().step(h, p, pull)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    tangent = torch.tensor([-0.2, 0.5], dtype=torch.float64)  # <p_n, dx_n> is conserved
    moved = torch.autograd.functional.jvp(lambda x: method.step(field, t, x, h, (), None).y, y, tangent)[1]
    assert float(found @ tangent) == pytest.approx(float(p @ moved), rel=1e-12)
    own = method.partner().a
    for i, row in enumerate(own):  # where b_i is not zero, L_i / b_i is stage i of (a~, b) along p' = -J^T p from p_n
        if row is None:
            continue
        stage = found
        for j, L in enumerate(stages):
            weight, value = (float(row[j]), L / b[j]) if own[j] is not None else (1 - float(a[j, i] / b[i]), L)
            stage = stage - h * weight * pull(j, value)
        torch.testing.assert_close(stages[i] / b[i], stage, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", RUNGE_KUTTA)
def test_partners_satisfy_the_condition_and_own_partners_are_symplectic(name: str) -> None:
    method = on.integrators.get(name)
    own, b, a = method.partner().a, method.tableau.weights, method.tableau.matrix
    for i, row in enumerate(own):
        assert (row is None) == (not b[i])
        for j in range(len(b)) if row is not None else ():
            gap = float(b[i] * row[j] + b[j] * a[j][i] - b[i] * b[j])
            assert abs(gap) < 1e-12
    gaps = [abs(float(x) - float(y)) for i, row in enumerate(own) if row is not None for x, y in zip(row, a[i])]
    assert (None not in own and max(gaps) < 1e-12) == method.symplectic


@pytest.mark.parametrize("name", [n for n in RUNGE_KUTTA if on.integrators.get(n).implicit])
def test_the_partner_of_an_implicit_method_transposes_its_step(name: str) -> None:
    """On y' = J y: L = b (x) p + h (a^T (x) J^T) L, solved at once, against p times the matrix of the step."""
    method, h = on.integrators.get(name), 0.4
    J = torch.tensor([[0.0, 1.0], [-2.0, -0.3]], dtype=torch.float64)
    pair, p = method.partner(), torch.tensor([0.9, 1.7], dtype=torch.float64)
    at, b = numbers(pair.transposed), numbers([pair.b])[0]
    system = torch.eye(2 * len(b), dtype=torch.float64) - h * torch.kron(at, J.T.contiguous())
    L = torch.linalg.solve(system, torch.kron(b, p)).view(len(b), 2)
    a, eye = numbers(method.tableau.matrix), torch.eye(2, dtype=torch.float64)
    inner = torch.linalg.inv(torch.eye(2 * len(b), dtype=torch.float64) - h * torch.kron(a, J))
    R = eye + h * torch.kron(b[None], J) @ inner @ torch.kron(torch.ones(len(b), 1, dtype=torch.float64), eye)
    torch.testing.assert_close(p + h * (J.T @ L.sum(0)), R.T @ p, rtol=1e-12, atol=1e-12)


def test_known_pairs() -> None:
    assert on.integrators.get("euler").partner().a == ((Fraction(1),),)  # the costates of forward Euler: p_{n,1} = p_n
    half = Fraction(1, 2)
    assert on.integrators.get("trapezoid").partner().a == ((half, 0), (half, 0))  # Lobatto IIIA and IIIB
    assert on.integrators.get("rk4").partner().transposed[0][1] == half


@pytest.mark.parametrize(("name", "sentence"), [
    ("ab3", "'ab3' has no tableau"), ("verlet", "has no tableau"),
])  # fmt: skip
def test_methods_of_another_kind_have_no_partner(name: str, sentence: str) -> None:
    with pytest.raises(Incompatible, match=sentence):
        on.integrators.get(name).partner()


def test_an_implicit_partner_is_not_stepped_one_stage_after_the_other() -> None:
    with pytest.raises(Incompatible, match="solve for all stages at once"):
        on.integrators.get("gauss4").partner().step(0.1, torch.ones(2), lambda i, v: v)
