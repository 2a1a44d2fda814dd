"""Constraints hold for the operator's matrix, for stacks, and let gradients through."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from odenet.errors import BadInput
from odenet.fields import (
    Conv,
    Dense,
    Free,
    Orthogonal,
    PositiveSemidefinite,
    Skew,
    SpectralCap,
    Unconstrained,
    constraints,
    maps,
)

pytestmark = pytest.mark.usefixtures("double")

SQUARE = [(Dense(5, 5), (5,)), (Conv(2, 2, 3, 1), (2, 7)), (Conv(2, 2, 5, 1), (2, 3)), (Conv(3, 3, 3, 2), (3, 4, 3)),
          (Conv(3, 3, 1, 2), (3, 2, 2))]  # fmt: skip
ALL = [(Unconstrained(), SQUARE), (Skew(), SQUARE), (Skew(0.3), SQUARE), (SpectralCap(0.7), SQUARE),
       (PositiveSemidefinite(), SQUARE[:1]), (Orthogonal(), SQUARE[:1])]  # fmt: skip
CASES = [(constraint, map, shape) for constraint, pairs in ALL for map, shape in pairs]


def matrix(map: maps.LinearMap, K: Tensor, shape: tuple[int, ...]) -> Tensor:
    size = math.prod(shape)
    return map.apply(K, torch.eye(size).reshape(size, *shape)).flatten(1).T


@pytest.mark.parametrize("gamma", [0.0, 0.01, 2.0])
@pytest.mark.parametrize(("map", "shape"), SQUARE)
def test_skew_gives_k_plus_its_transpose_minus_two_gamma(
    map: maps.LinearMap, shape: tuple[int, ...], gamma: float
) -> None:
    W = torch.randn(map.shape)
    A = matrix(map, Skew(gamma).apply(W, map), shape)
    torch.testing.assert_close(A + A.T, -2 * gamma * torch.eye(len(A)), rtol=0.0, atol=1e-13)
    assert map.shape[-1] == 1 or float(A.abs().max()) > 0.1
    real = torch.linalg.eigvals(A).real
    torch.testing.assert_close(real, torch.full_like(real, -gamma), rtol=0.0, atol=1e-11)


def test_skew_of_a_dense_map_is_w_minus_its_transpose() -> None:
    W = torch.randn(4, 4)
    assert torch.equal(Skew(0.5).apply(W, Dense(4, 4)), W - W.T - 0.5 * torch.eye(4))


def test_positive_semidefinite_is_w_transposed_times_w() -> None:
    W = torch.randn(5, 5)
    K = PositiveSemidefinite().apply(W, Dense(5, 5))
    torch.testing.assert_close(K, W.T @ W, rtol=1e-13, atol=1e-13)
    assert float(torch.linalg.eigvalsh(K)[0]) >= -1e-13 and torch.equal(K, K.T)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_orthogonal_keeps_lengths_and_is_the_cayley_transform(scale: float) -> None:
    W = scale * torch.randn(6, 6)
    K, S = Orthogonal().apply(W, Dense(6, 6)), W - W.T
    torch.testing.assert_close(K.T @ K, torch.eye(6), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(K @ (torch.eye(6) + S), torch.eye(6) - S, rtol=0.0, atol=1e-10 * max(1.0, scale))
    torch.testing.assert_close(torch.linalg.det(K), torch.tensor(1.0))


@pytest.mark.parametrize(("map", "shape"), SQUARE)
@pytest.mark.parametrize("cap", [0.1, 1.0, 1e6])
def test_the_cap_holds_for_the_operator_and_leaves_what_is_below_it(
    map: maps.LinearMap, shape: tuple[int, ...], cap: float
) -> None:
    W = torch.randn(map.shape)
    K = SpectralCap(cap).apply(W, map)
    if cap > 1e5:
        assert torch.equal(K, W)
        return
    norm = float(torch.linalg.svdvals(matrix(map, K, shape))[0])
    assert norm <= cap * (1 + 1e-12) and (not isinstance(map, Dense) or norm > cap * (1 - 1e-12))
    torch.testing.assert_close(K / K.norm(), W / W.norm())
    assert torch.equal(SpectralCap(1.0).apply(torch.zeros(map.shape), map), torch.zeros(map.shape))


@pytest.mark.parametrize(("constraint", "map", "shape"), CASES)
def test_a_constraint_acts_on_every_member_of_a_stack_alike(
    constraint: constraints.Constraint, map: maps.LinearMap, shape: tuple[int, ...]
) -> None:
    stack = torch.randn(2, 3, *map.shape)
    whole = constraint.apply(stack, map)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(whole[i, j], constraint.apply(stack[i, j], map), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("constraint", "map", "shape"), CASES)
def test_a_constraint_is_differentiable(
    constraint: constraints.Constraint, map: maps.LinearMap, shape: tuple[int, ...]
) -> None:
    W = torch.randn(map.shape, requires_grad=True)
    assert torch.autograd.gradcheck(lambda W: constraint.apply(W, map), (W,), fast_mode=True)


@pytest.mark.parametrize("name", sorted(constraints.CONSTRAINTS))
def test_a_name_stands_for_a_constraint_and_an_object_for_itself(name: str) -> None:
    made = constraints.resolve(name, Dense(4, 4))
    assert type(made) is constraints.CONSTRAINTS[name] and constraints.resolve(made, Dense(4, 4)) is made


@pytest.mark.parametrize(("name", "map", "sentence"), [
    ("antisymmetric", Dense(3, 4), "needs a square map.$"),
    ("orthogonal", Dense(3, 4), "needs a square map of dense kind"),
    ("orthogonal", Conv(3, 3), "needs a square map of dense kind"),
    ("positive_semidefinite", Conv(3, 3), "needs a square map of dense kind"),
    ("orthogonall", Dense(3, 3), "'orthogonall' is not known; write one of .*orthogonal"),
])  # fmt: skip
def test_a_constraint_that_does_not_apply_is_refused(name: str, map: maps.LinearMap, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        constraints.resolve(name, map)


@pytest.mark.parametrize("cap", [0.0, -1.0, math.nan])
def test_a_cap_is_positive(cap: float) -> None:
    with pytest.raises(BadInput, match="positive"):
        SpectralCap(cap)


@pytest.mark.parametrize("name", ["antisymmetric", "orthogonal", "positive_semidefinite", "spectral_cap"])
def test_a_field_steps_with_the_constrained_weight(name: str) -> None:
    field = Free(4, constraint=name)
    p = {k: torch.stack([v, 2 * v]) for k, v in field.init(torch.Generator().manual_seed(1)).items()}
    effective = field.constrain(p)
    expected = constraints.CONSTRAINTS[name]().apply(p["K"], Dense(4, 4))
    assert torch.equal(effective["K"], expected) and effective["b"] is p["b"] and not torch.equal(expected, p["K"])
