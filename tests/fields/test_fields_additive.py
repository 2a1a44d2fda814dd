"""Split, SemiLinear and WithJacobian: what they offer, whose weights they use, and what they refuse."""

from __future__ import annotations

import copy
import math
import re

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import nn

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.fields import FIELDS, Free, SecondOrder, SemiLinear, Split, WithJacobian

pytestmark = pytest.mark.usefixtures("double")


def matrix(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Timed(nn.Module):
    """t W y."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3, bias=False)

    def forward(self, t, y):
        return t * self.inner(y)


# ---- values


@pytest.mark.parametrize("form", ["time", "state", "module", "field"])
def test_split_is_the_sum_of_its_parts_in_whatever_form_they_are_given(form):
    module, y = Timed(), matrix(2, 3)
    part = {
        "time": lambda t, y: t * y,
        "state": lambda y: 3 * y,
        "module": module,
        "field": on.fields.wrap(lambda y: 3 * y),
    }[form]
    value = {"time": 0.5 * y, "module": module(0.5, y)}.get(form, 3 * y)
    field = Split(torch.cos, part)
    assert field.offers == {"split"}
    torch.testing.assert_close(field(0.5, y, {}), torch.cos(y) + value)
    assert torch.equal(field.explicit(0.5, y, {}), torch.cos(y))
    torch.testing.assert_close(field.implicit(0.5, y, {}), value)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 4, 3)])
@pytest.mark.parametrize("diagonal", [False, True])
def test_semilinear_acts_along_the_last_axis(shape, diagonal):
    m, y = matrix(3) if diagonal else matrix(3, 3), matrix(*shape, seed=1)
    full = torch.diag(m) if diagonal else m
    by_hand = torch.einsum("ij,...j->...i", full, y)
    field = SemiLinear(m, torch.sin)
    assert field.offers == {"split", "linear"}
    torch.testing.assert_close(field(0.0, y, {}), by_hand + torch.sin(y))
    torch.testing.assert_close(field.implicit(0.0, y, {}), by_hand)
    assert torch.equal(field.nonlinear(0.0, y, {}), torch.sin(y)) and torch.equal(
        field.explicit(0.0, y, {}), torch.sin(y)
    )
    assert field.linear({}) is m
    alone = SemiLinear(m)
    assert alone.offers == {"split", "linear", "jacobian"}
    torch.testing.assert_close(alone(0.0, y, {}), by_hand)
    assert not alone.nonlinear(0.0, y, {}).any()
    v, jacobian = matrix(*shape, seed=2), alone.jacobian(0.0, y, {})
    assert jacobian.shape == ((3, 3) if len(shape) == 1 else (2, y[0].numel(), y[0].numel()))
    moved = (jacobian @ v.reshape(-1, jacobian.shape[-1], 1)).reshape(shape)
    torch.testing.assert_close(moved, torch.einsum("ij,...j->...i", full, v))


def test_a_matrix_takes_the_precision_of_the_state():
    field = SemiLinear(np.eye(2) * 0.1)
    for dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        y = torch.ones(3, 2, dtype=dtype)
        assert field(0.0, y, {}).dtype == field.implicit_matrix({}, y).dtype == dtype
    spectral = SemiLinear(-1j * torch.arange(3.0), lambda y: y**2)
    assert spectral(0.0, torch.ones(2, 3, dtype=torch.complex128), {}).dtype == torch.complex128


def test_the_jacobian_of_a_split_field_is_known_where_both_parts_know_theirs():
    m, y = matrix(3, 3), matrix(2, 3, seed=1)
    sine = WithJacobian(torch.sin, lambda y: torch.diag_embed(torch.cos(y)))
    both = Split(sine, SemiLinear(m))
    assert both.offers == {"split", "jacobian"}
    wanted = torch.func.vmap(torch.func.jacrev(lambda v: both(0.0, v, {})))(y)
    torch.testing.assert_close(both.jacobian(0.0, y, {}), wanted)
    one = Split(torch.sin, sine)
    assert one.offers == {"split"}
    torch.testing.assert_close(one.implicit_jacobian(0.0, y, {}), torch.diag_embed(torch.cos(y)))
    assert Split(sine, torch.sin).implicit_jacobian is None
    with pytest.raises(Incompatible, match="no jacobian"):
        one.jacobian(0.0, y, {})


def test_a_split_field_says_where_its_implicit_part_is_a_matrix():
    m, y = matrix(3, 3), matrix(2, 3, seed=1)
    assert Split(torch.sin, SemiLinear(m)).implicit_matrix({}, y) is m
    assert Split(torch.sin, SemiLinear(m, torch.cos)).implicit_matrix({}, y) is None
    assert Split(torch.sin, lambda y: y @ m.mT).implicit_matrix({}, y) is None


# ---- the user's Jacobian


class Counted:
    def __init__(self, f):
        self.f, self.calls = f, 0

    def __call__(self, t, y):
        self.calls += 1
        return self.f(t, y)


def test_a_jacobian_given_by_the_user_is_the_one_that_is_used():
    from odenet.fields import Rhs
    from odenet.integrators.jacobian import jacobian

    m = matrix(3, 3)
    for y, given in (
        (matrix(2, 3, seed=1), m),
        (matrix(2, 3, seed=1), m.expand(2, 3, 3)),
        (matrix(3, seed=1), m),
        (matrix(2, 3, seed=1), torch.block_diag(m, m)),
    ):
        jac = Counted(lambda t, y, given=given: given)
        rhs = Rhs(WithJacobian(lambda y: y @ m.mT, lambda t, y, jac=jac: jac(t, y)), {})
        blocks = jacobian(rhs, 0.0, y)
        assert jac.calls == 1
        torch.testing.assert_close(blocks.apply(y), y @ m.mT)


def test_a_constant_jacobian_serves_every_sample_of_a_batch():
    m = matrix(3, 3)
    field = WithJacobian(lambda y: y @ m.mT, lambda t, y: m)
    assert field.jacobian(0.0, matrix(5, 3, seed=1), {}).shape == (5, 3, 3)
    assert field.jacobian(0.0, matrix(3, seed=1), {}).shape == (3, 3)


def test_a_jacobian_of_another_function_is_refused_unless_it_is_meant():
    y = matrix(2, 3)
    wrong = lambda t, y: -torch.diag_embed(torch.cos(y))  # noqa: E731
    with pytest.raises(BadInput, match=r"is not that of f: .*approximate=True"):
        WithJacobian(torch.sin, wrong).jacobian(0.0, y, {})
    assert WithJacobian(torch.sin, wrong, approximate=True).jacobian(0.0, y, {}).shape == (2, 3, 3)
    WithJacobian(torch.sin, lambda y: torch.diag_embed(torch.cos(y))).jacobian(0.0, y.float(), {})


# ---- weights


def test_parts_without_modules_have_no_weights_and_no_module():
    for field in (Split(torch.sin, torch.cos), SemiLinear(matrix(2, 2), torch.sin), WithJacobian(torch.sin, torch.cos)):
        assert field.init() == {} and field.module is None
        assert not list(field.parameters())


def test_weights_of_modules_are_named_by_their_part_and_passed_through():
    net, stiff, y = nn.Linear(3, 3), nn.Parameter(matrix(3, 3)), matrix(2, 3, seed=1)
    field = SemiLinear(stiff, net)
    weights = field.init()
    assert list(weights) == ["linear/matrix", "nonlinear/weight", "nonlinear/bias"]
    assert {id(p) for p in field.module.parameters()} == {id(stiff), id(net.weight), id(net.bias)}
    assert not list(field.parameters())  # they are the user's
    other = {k: v + 1 for k, v in weights.items()}
    by_hand = y @ other["linear/matrix"].mT + y @ other["nonlinear/weight"].mT + other["nonlinear/bias"]
    torch.testing.assert_close(field(0.0, y, other), by_hand)
    torch.testing.assert_close(field(0.0, y, {}), y @ stiff.mT + net(y))
    assert field.linear(other) is other["linear/matrix"] and field.linear({}) is stiff


def test_a_parameter_that_both_parts_use_is_one_weight():
    class Term(nn.Module):
        def __init__(self, k, power):
            super().__init__()
            self.k, self.power = k, power

        def forward(self, y):
            return self.k * y**self.power

    k, y = nn.Parameter(torch.tensor(2.0)), matrix(2, 3)
    field = Split(Term(k, 1), Term(k, 2))
    assert list(field.init()) == ["explicit/k"]
    torch.testing.assert_close(field(0.0, y, {"explicit/k": torch.tensor(5.0)}), 5 * y + 5 * y**2)
    out = on.solve(field, 0.1 * y.abs(), [0.0, 0.5], integrator="rk4", steps=4, gradient="discrete").y[-1].sum()
    out.backward()
    again = on.solve(field, 0.1 * y.abs(), [0.0, 0.5], integrator="rk4", steps=4, gradient="autograd").y[-1].sum()
    (wanted,) = torch.autograd.grad(again, k)
    torch.testing.assert_close(k.grad, wanted, rtol=1e-12, atol=1e-13)


def test_fields_with_weights_that_vary_with_depth_go_into_a_flow():
    field = Split(Free(3), Free(3))
    assert set(field.init()) == {f"{part}/{k}" for part in ("explicit", "implicit") for k in Free(3).init()}
    flow = on.Flow(field, "euler", steps=4, seed=1)
    y0 = y = matrix(2, 3)
    for n in range(4):
        one, two = ({k: flow.weights[f"{part}/{k}"][n] for k in Free(3).init()} for part in ("explicit", "implicit"))
        y = y + 0.25 * (Free(3)(0.0, y, one) + Free(3)(0.0, y, two))
    torch.testing.assert_close(flow(y0), y, rtol=1e-13, atol=1e-14)
    with pytest.raises(BadInput, match="put it into a Flow"):
        on.solve(field, y0, [0.0, 1.0])


def test_a_shared_split_field_trains_the_users_own_weights():
    net, stiff = nn.Linear(3, 3), nn.Parameter(-torch.eye(3))
    flow = on.Flow(SemiLinear(stiff, net), "rk4", depth="shared", steps=3)
    assert {id(p) for p in flow.parameters()} == {id(stiff), id(net.weight), id(net.bias)}
    flow(matrix(2, 3)).sum().backward()
    assert stiff.grad.abs().sum() > 0 and net.weight.grad.abs().sum() > 0


def test_building_a_field_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    Split(Free(3), nn.Identity())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_modes_and_randomness_reach_the_parts():
    noisy = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    field = Split(torch.sin, noisy)
    assert "Dropout" in field.stateful()
    field.eval()
    assert not noisy.training
    with pytest.raises(Incompatible, match="evaluates the field twice"):
        on.Flow(field, "rk4", gradient="checkpoint", depth="shared")


def test_fields_made_of_parts_can_be_copied():
    y = matrix(2, 3)
    sine = WithJacobian(torch.sin, lambda y: torch.diag_embed(torch.cos(y)))
    for field in (Split(nn.Linear(3, 3), sine), SemiLinear(nn.Parameter(matrix(3, 3)), torch.sin)):
        clone = copy.deepcopy(field)
        assert torch.equal(clone(0.0, y, {}), field(0.0, y, {}))


# ---- as a user writes it


def test_solve_with_any_integrator_sees_the_sum():
    m, y0 = matrix(3, 3) / 2, matrix(2, 3, seed=1)
    exact = y0 @ torch.from_numpy(expm(m.numpy() - 0.5 * np.eye(3))).mT
    for field in (
        SemiLinear(m, lambda y: -y / 2),
        Split(lambda t, y: -y / 2, lambda y: y @ m.mT),
        SemiLinear(m - torch.eye(3) / 2),
    ):
        end = on.solve(field, y0, [0.0, 1.0], rtol=1e-10, atol=1e-12).y[-1]
        torch.testing.assert_close(end, exact, rtol=1e-8, atol=1e-9)


# ---- what is refused


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda: Split(3, torch.sin), "explicit part of Split is a function f(t, y), a module or a field; got int"),
    (lambda: Split(torch.sin, None), "implicit part of Split is a function"),
    (lambda: Split(torch.sin, lambda a, b, c: a), "3 required arguments"),
    (lambda: Split(torch.sin, SecondOrder(on.fields.wrap(torch.sin))), "write FirstOrder(field)"),
    (lambda: Split(Free(3, dropout=0.1), torch.sin), "explicit part of Split has dropout"),
    (lambda: SemiLinear("laplace"), "got str"),
    (lambda: SemiLinear(torch.ones(2, 3)), "square (D, D), or a diagonal (D,); got shape (2, 3)"),
    (lambda: SemiLinear(torch.ones(2, 2, 2)), "got shape (2, 2, 2)"),
    (lambda: SemiLinear(torch.tensor(3.0)), "got shape ()"),
    (lambda: SemiLinear(torch.ones(0, 0)), "got shape (0, 0)"),
    (lambda: SemiLinear(torch.ones(2, 2, dtype=torch.long)), "write matrix.double()"),
    (lambda: SemiLinear([[1.0, math.nan], [0.0, 1.0]]), "NaN or infinite"),
    (lambda: SemiLinear(torch.eye(2), 5), "nonlinear part of SemiLinear is a function"),
    (lambda: WithJacobian(torch.sin, torch.eye(2)), "got Tensor. For a constant matrix write SemiLinear(matrix)"),
    (lambda: WithJacobian(2, torch.sin), "f part of WithJacobian is a function"),
])  # fmt: skip
def test_what_cannot_be_a_part_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(BadInput, match=re.escape(sentence)) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda y: SemiLinear(torch.eye(3))(0.0, y[:, :2], {}), "3 entries along the last axis; got a state (2, 2)"),
    (lambda y: SemiLinear(1j * torch.ones(3))(0.0, y, {}), "write y0.to(torch.complex128)"),
    (lambda y: Split(torch.sin, lambda y: y.sum())(0.0, y, {}), "returned shape () for a state of shape (2, 3)"),
    (lambda y: Split(lambda y: y.float(), torch.sin)(0.0, y, {}), "returned torch.float32"),
    (lambda y: WithJacobian(torch.sin, torch.cos).jacobian(0.0, y, {}), "(2, 3, 3) or (3, 3); the function given"),
])  # fmt: skip
def test_values_that_do_not_fit_the_state_are_refused_when_they_come(call, sentence):
    with pytest.raises(BadInput, match=re.escape(sentence)):
        call(torch.ones(2, 3))


def test_the_names_are_public():
    for name in ("Split", "SemiLinear", "WithJacobian"):
        assert name in on.fields.__all__
    assert "split" not in FIELDS.names()  # made from the user's functions, not by name
