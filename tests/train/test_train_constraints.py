"""Constraints on weights: projections against their optimality conditions, and training that stays admissible."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odenet as on
from odenet.errors import BadInput
from odenet.train import constraints
from odenet.train.constraints import ball, box, simplex, step_sizes, to_simplex, values
from odenet.train.penalties import max_norm

SETS = {"box": box(-0.3, 0.7), "ball": ball(0.8), "values": values(-1, 0, 1), "simplex": simplex(1.5)}


def draws(rows: int = 40, d: int = 6) -> Tensor:
    return torch.randn(rows, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def inside(name: str, n: int, d: int) -> Tensor:
    """Random points of the set."""
    v = torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if name == "box":
        return v.sigmoid() - 0.3
    if name == "ball":
        return 0.8 * v / v.norm(dim=1, keepdim=True) * torch.rand(n, 1, dtype=v.dtype)
    return v.sign() * (v.abs() > 0.5) if name == "values" else 1.5 * (2 * v).softmax(1)


@pytest.mark.parametrize("name", SETS)
def test_no_point_of_the_set_is_nearer_than_the_projection(name: str) -> None:
    v = draws()
    found = SETS[name].project(v)
    away = (v[:, None] - inside(name, 3000, 6)).norm(dim=-1).min(1).values
    assert bool(((v - found).norm(dim=1) <= away + 1e-12).all())


@pytest.mark.parametrize("name", ["box", "ball", "simplex"])
def test_the_projection_onto_a_convex_set_fulfils_its_variational_inequality(name: str) -> None:
    """<v - P v, z - P v> <= 0 for all z in the set is necessary and sufficient."""
    v = draws()
    found = SETS[name].project(v)
    products = torch.einsum("rd,rzd->rz", v - found, inside(name, 2000, 6)[None] - found[:, None])
    assert float(products.max()) <= 1e-12
    assert bool((found != v).any(1).sum() > 20)  # most of them move


@pytest.mark.parametrize("name", SETS)
def test_points_of_the_set_stay_where_they_are(name: str) -> None:
    z = inside(name, 100, 6)
    torch.testing.assert_close(SETS[name].project(z), z, rtol=0, atol=1e-14)


@pytest.mark.parametrize("total", [1.0, 6.0])
def test_the_simplex_by_sorting_is_that_by_bisection(total: float) -> None:
    v = 3 * draws()
    low, high = v.min(1).values - total, v.max(1).values
    for _ in range(80):  # sum max(v - tau, 0) falls with tau
        tau = (low + high) / 2
        over = (v - tau[:, None]).clamp(min=0).sum(1) > total
        low, high = torch.where(over, tau, low), torch.where(over, high, tau)
    torch.testing.assert_close(to_simplex(v, total), (v - low[:, None]).clamp(min=0), rtol=0, atol=1e-12)
    torch.testing.assert_close(to_simplex(v, total).sum(1), torch.full((40,), total, dtype=v.dtype))


def test_a_set_of_weights_is_a_row_of_a_flow_and_a_whole_parameter_elsewhere() -> None:
    net = on.nets.resnet(3, 2, width=4, steps=5, gain=3.0, seed=0)
    ball(0.9)(net)
    flow = net.parts[1]
    norms = flow.weights["K"].detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((5,), 0.9))
    assert float(net.parts[0].weight.detach().norm()) == pytest.approx(0.9, rel=1e-6)


def test_along_depth_the_entries_of_a_weight_share_out_over_the_intervals() -> None:
    flow = on.Flow(on.fields.Free(3), steps=4, seed=0)
    simplex(2.0, on="weights.K", along="depth")(flow)
    K = flow.weights["K"].detach()
    assert bool((K >= 0).all())
    torch.testing.assert_close(K.sum(0), torch.full((3, 3), 2.0))


@pytest.mark.parametrize("method", ["adam", "sgd", "lbfgs"])
def test_weights_are_admissible_after_every_step_of_descent(method: str) -> None:
    net, seen = on.nets.resnet(2, 2, width=4, steps=3, seed=0), []

    def look(fit: Any) -> None:
        seen.append(float(net.parts[1].weights["K"].detach().abs().max()))

    fit = on.fit(net, "moons", method, steps=8, lr=0.5, constraint=box(-0.4, 0.4, on="*K"), callbacks=[look])
    assert len(seen) == 8 and max(seen) == pytest.approx(0.4, abs=1e-7) and fit.status == "done"
    assert float(net.parts[2].weight.detach().abs().max()) > 0.4  # others are free


def test_projected_descent_reaches_the_minimum_over_the_ball() -> None:
    """Least squares y = x w, |w| <= 1: the minimum on the sphere is that of (X^T X + mu) w = X^T y."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(60, 3, generator=g, dtype=torch.float64)
    y = x @ torch.tensor([[2.0], [-1.0], [0.5]], dtype=torch.float64)
    net = nn.Linear(3, 1, bias=False).double()
    on.fit(net, (x, y), "sgd", steps=200, lr=0.1, batch=60, holdout=0.0, constraint=ball(1.0))
    low, high, eye = 0.0, 1e4, torch.eye(3, dtype=torch.float64)
    for _ in range(100):
        mu = (low + high) / 2
        w = torch.linalg.solve(x.T @ x + mu * eye, x.T @ y)
        low, high = (mu, high) if float(w.norm()) > 1 else (low, mu)
    torch.testing.assert_close(net.weight.detach(), w.T, rtol=1e-6, atol=1e-8)


def test_several_constraints_and_a_function_of_the_net_follow_one_another() -> None:
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2))
    both = [box(-0.2, 0.2, on="*bias"), lambda net: max_norm(net, 0.5)]
    on.fit(net, "moons", steps=5, lr=0.5, constraint=both)
    assert float(net[0].bias.detach().abs().max()) <= 0.2 + 1e-8
    assert float(net[0].weight.detach().norm(dim=1).max()) <= 0.5 + 1e-6


def test_a_step_that_is_not_finite_is_not_hidden_by_a_projection() -> None:
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight[0, 0] = 1e30
    with pytest.raises(on.errors.TrainingStopped):
        on.fit(net, "moons", "sgd", steps=3, lr=1e38, constraint=values(0, 1, on="bias"))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: box(1, -1), "a box has low <= high"),
        (lambda: ball(0.0), "the radius of a ball is positive"),
        (lambda: values(), "a finite set needs one value or more"),
        (lambda: simplex(-1.0), "a positive total"),
        (lambda: simplex(along="time"), "along='weight' or along='depth'"),
        (lambda: box(0, 1, on="nothing")(nn.Linear(2, 2)), "its weights are weight, bias"),
        (lambda: step_sizes()(on.Flow(on.fields.Free(2))), "weights called '\\*pace'"),
        (lambda: constraints.projected(3, nn.Linear(2, 2)), "a constraint is a function"),
    ],
)
def test_what_is_no_constraint_is_told_in_a_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        make()
