"""Products of Jacobians against closed forms, matrix products in numpy, and autograd through the whole march."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import nn

from odenet import fields
from odenet.flow import Chain, Flow
from odenet.stability import activity, gradient_norms, input_jacobian, jacobian, sensitivity, unroll
from odenet.stability.sensitivity import singular_values

torch.set_num_threads(1)
G = torch.Generator().manual_seed(0)
X = torch.randn(3, 4, generator=G, dtype=torch.float64)


def products(model, x=X, **options):
    return sensitivity(unroll(model, x), **options)


@pytest.mark.parametrize(("integrator", "R"), [
    ("euler", lambda z: 1 + z),
    ("heun", lambda z: 1 + z + z * z / 2),
    ("rk4", lambda z: sum(z**k / math.factorial(k) for k in range(5))),
])  # fmt: skip
@pytest.mark.parametrize("rate", [-0.5, -7.0, 1.0])
def test_a_scalar_linear_field_gives_powers_of_the_stability_function(integrator, R, rate):
    s = products(Flow(lambda y: rate * y, integrator, depth="shared", steps=8, span=(0.0, 2.0)))
    expected = [abs(R(rate / 4)) ** (8 - j) for j in range(8)]
    assert torch.allclose(s.backward, torch.tensor(expected, dtype=torch.float64)[:, None].expand(8, 3), rtol=1e-12)
    assert torch.allclose(s.smallest, s.backward) and torch.allclose(s.forward.flip(0), s.backward)


def test_layers_with_weights_of_their_own_give_the_singular_values_of_the_product():
    flow = Flow(fields.Free(4, activation="identity"), steps=5).double()
    s = products(flow)
    steps = [np.eye(4) + flow.h * K.detach().numpy() for K in flow.weights["K"]]
    for j in range(5):
        back = np.linalg.multi_dot([*steps[j:][::-1], np.eye(4)])
        ahead = np.linalg.multi_dot([*steps[: j + 1][::-1], np.eye(4)])
        values = np.linalg.svd(back, compute_uv=False)
        assert s.backward[j].numpy() == pytest.approx(values[0]) and s.smallest[j].numpy() == pytest.approx(values[-1])
        assert s.forward[j].numpy() == pytest.approx(np.linalg.norm(ahead, 2))


def test_random_growth_is_the_root_mean_square_over_random_directions():
    s = products(Flow(lambda y: y @ torch.diag(torch.tensor([1.0, -1.0, 0.5, 0.0]).double()), depth="shared", steps=1))
    assert s.random == pytest.approx(math.sqrt((4 + 0 + 2.25 + 1) / 4))
    d = torch.randn(200_000, 4, generator=G, dtype=torch.float64)
    seen = ((s.whole[0] @ d.T).norm(dim=0) ** 2).sum() / (d.norm(dim=1) ** 2).sum()
    assert s.random == pytest.approx(float(seen) ** 0.5, rel=0.01)


def test_an_adaptive_flow_has_the_matrix_exponential_as_its_sensitivity():
    A = torch.randn(4, 4, generator=G, dtype=torch.float64)
    s = products(Flow(lambda y: y @ A.T, "dopri5", depth="shared", steps=3, rtol=1e-10, atol=1e-12))
    for j in range(3):
        assert s.backward[j].numpy() == pytest.approx(np.linalg.norm(expm((3 - j) / 3 * A.numpy()), 2), rel=1e-8)


def test_a_multistep_method_keeps_its_memory_fixed():
    lam, h = -0.8, 0.25
    s = products(Flow(lambda y: lam * y, "ab2", depth="shared", steps=4))

    def after(start, n, y):  # y_4 from y_n = y, with the slopes before n held at what they were
        slopes = [lam * v for v in start[:n]]
        for m in range(n, 4):
            slopes.append(lam * y)
            if m == 0:  # heun starts
                y = y + h / 2 * (lam * y + lam * (y + h * lam * y))
            else:
                y = y + h * (1.5 * slopes[m] - 0.5 * slopes[m - 1])
        return y

    path = [1.0]
    for n in range(4):
        path.append(after_one(path, n, lam, h))
    for n in range(4):
        slope = after(path, n, path[n] + 1.0) - after(path, n, path[n])
        assert s.backward[n].numpy() == pytest.approx(abs(slope))


def after_one(path, n, lam, h):
    if n == 0:
        return path[0] + h / 2 * (lam * path[0] + lam * (path[0] + h * lam * path[0]))
    return path[n] + h * lam * (1.5 * path[n] - 0.5 * path[n - 1])


@pytest.mark.parametrize("steps", [4, 64])
def test_free_motion_under_leapfrog_has_sensitivity_one_at_any_step(steps):
    flow = Flow(fields.SecondOrder(fields.wrap(lambda y: 0.0 * y)), "leapfrog", depth="shared", steps=steps)
    assert torch.allclose(products(flow).backward, torch.ones(steps, 3, dtype=torch.float64))


def test_leapfrog_on_an_oscillator_has_the_cosine_as_its_sensitivity_in_the_limit():
    force = fields.wrap(lambda y: -4.0 * y)
    s = products(Flow(fields.SecondOrder(force), "leapfrog", depth="shared", steps=400), layers=400)
    exact = torch.cos(2 * (1 - torch.arange(400, dtype=torch.float64) / 400)).abs()
    assert float((s.backward[:, 0] - exact).abs().max()) < 0.02


@pytest.mark.parametrize("integrator", ["symplectic_euler", "verlet", "yoshida4"])
@pytest.mark.parametrize("field", [
    fields.SeparableHamiltonian(4, gain=2.0),
    fields.SeparableHamiltonian(4, layers=1, gain=2.0),
    fields.HamiltonianJ(4, form="h2", gain=2.0),
    fields.SecondOrder(4, gain=2.0),
])  # fmt: skip
def test_sensitivities_of_separable_fields_under_symplectic_methods_never_fall_below_one(field, integrator):
    u = unroll(Flow(field, integrator, steps=12, span=(0.0, 6.0)), X)
    s = sensitivity(u)
    assert float(s.backward.min()) >= 1 - 1e-12
    assert torch.linalg.det(s.whole).numpy() == pytest.approx(1.0, rel=1e-9)


def test_a_contraction_has_sensitivities_that_fall_with_depth():
    field = fields.Parabolic(4, constraint=fields.SpectralCap(1.0))
    s = products(Flow(field, steps=20, span=(0.0, 20.0)))
    assert float(s.backward.max()) <= 1 + 1e-9 and float(s.backward[0].max()) < float(s.backward[-1].min())


def test_a_list_of_linear_layers_gives_the_products_of_their_matrices():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(3, 5)).double()
    a, b, c = (m.weight.detach().numpy() for m in net)
    s = products(net)
    expected = [np.linalg.norm(m, 2) for m in (c @ b @ a, c @ b, c)]
    assert s.backward.numpy() == pytest.approx(np.array(expected)[:, None].repeat(3, 1))
    assert s.forward.numpy() == pytest.approx(
        np.array([np.linalg.norm(m, 2) for m in (a, b @ a, c @ b @ a)])[:, None].repeat(3, 1)
    )
    listed = products(list(net))
    assert torch.equal(listed.backward, s.backward)


def test_a_chain_of_two_flows_and_a_transfer_multiplies_through():
    torch.manual_seed(0)
    first, second = (
        Flow(fields.SecondOrder(4), "rk4", steps=2),
        Flow(fields.Free(5), "two_step_midpoint", steps=3),
    )
    chain = Chain(nn.Linear(4, 4), first, nn.Linear(4, 5), second, nn.Linear(5, 2)).double()
    u = unroll(chain, X)
    assert u.depth == 6 and torch.allclose(u.leave(u.states[-1][0]), chain(X), atol=1e-13)
    y = chain.parts[0](X)
    whole = torch.func.vmap(torch.func.jacrev(lambda v: second(chain.parts[2](first(v[None])))[0]))(y)
    s = sensitivity(u)
    assert torch.allclose(s.whole[:, :, :4], whole, atol=1e-12)


def test_two_flows_in_a_row_lower_and_lift_between_them():
    a, b = (
        Flow(fields.SecondOrder(4), "verlet", steps=2),
        Flow(fields.SecondOrder(4), "verlet", steps=2, seed=1),
    )
    chain = Chain(a, b).double()
    u = unroll(chain, X)
    assert torch.allclose(u.leave(u.states[-1][0]), chain(X), atol=1e-13)
    assert np.isfinite(sensitivity(u).backward.numpy()).all()


def test_the_input_jacobian_is_that_of_autograd():
    torch.manual_seed(0)
    chain = Chain(nn.Linear(4, 6), Flow(fields.Free(6), steps=3), nn.Linear(6, 2)).double()
    expected = torch.func.vmap(torch.func.jacrev(lambda v: chain(v[None])[0]))(X)
    assert torch.allclose(input_jacobian(unroll(chain, X)), expected, atol=1e-13)


def test_jacobian_of_a_map_that_ignores_its_input_is_zero():
    assert float(jacobian(lambda parts: (torch.ones(len(parts[0]), 2),), (torch.ones(3, 4),), 2).abs().max()) == 0


def test_few_of_many_layers_are_measured_where_asked():
    s = products(Flow(lambda y: -y, depth="shared", steps=40), layers=5)
    assert s.at == [0, 10, 20, 29, 39]
    assert s.backward[:, 0].numpy() == pytest.approx([(1 - 1 / 40) ** (40 - j) for j in s.at])


def test_singular_values_of_what_is_not_finite_are_nan():
    S = torch.stack((torch.eye(2), torch.full((2, 2), math.inf)))
    assert singular_values(S).isnan().tolist() == [[False, False], [True, True]]


# ---- gradients and activations ---------------------------------------------------------------------------------------


def test_gradient_norms_are_those_of_every_layer_of_the_flow():
    torch.manual_seed(0)
    net = Chain(nn.Linear(4, 6), Flow(fields.Free(6), steps=3), nn.Linear(6, 2)).double()
    y = torch.tensor([0, 1, 1])
    nn.functional.cross_entropy(net(X), y).backward()
    flow = net.parts[1]
    expected = [float(sum((w.grad[n] ** 2).sum() for w in flow.weights.values())) ** 0.5 for n in range(3)]
    opening = float(sum((p.grad**2).sum() for p in net.parts[0].parameters())) ** 0.5
    found = gradient_norms(net, X, y)
    assert [p for p, _ in found] == ["parts.0", "parts.1[0]", "parts.1[1]", "parts.1[2]", "parts.2"]
    assert [v for _, v in found][:4] == pytest.approx([opening, *expected])


def test_gradient_norms_without_labels_use_a_seeded_random_vector():
    net = nn.Sequential(nn.Linear(4, 2, bias=False)).double()
    w = torch.randn(3, 2, generator=torch.Generator().manual_seed(7)).double()
    ((_, value),) = gradient_norms(net, X, None, seed=7)
    assert value == pytest.approx(float((w.T @ X / 3).norm()))


def test_weights_shared_by_all_depths_have_no_layer():
    assert gradient_norms(Flow(fields.Free(4), depth="shared", steps=3).double(), X, None) == []


def test_tanh_beyond_three_is_saturated_and_a_relu_that_never_fires_is_dead():
    x = torch.tensor([[-4.0, 0.0, 1.0], [4.0, 0.1, -5.0]], dtype=torch.float64)
    (tanh,) = activity(nn.Sequential(nn.Tanh()), x)
    assert (tanh.saturated, tanh.dead) == (0.5, pytest.approx(1 / 3))
    (relu,) = activity(nn.Sequential(nn.ReLU()), torch.tensor([[-1.0, 1.0], [-2.0, -1.0]]))
    assert (relu.saturated, relu.dead) == (0.75, 0.5)


@pytest.mark.parametrize(
    "field", [fields.Free(4), fields.Parabolic(4), fields.SeparableHamiltonian(4), fields.SecondOrder(4)]
)
def test_activations_inside_fields_are_seen_and_left_as_they_were(field):
    flow = Flow(field, "rk4", steps=2).double()
    before = flow(X)
    with torch.no_grad():
        for name, w in flow.weights.items():
            if name.startswith("b"):
                w.fill_(50.0)
    seen = activity(flow, X)
    assert len(seen) >= 8 and all((a.saturated, a.dead) == (1.0, 1.0) for a in seen)
    with torch.no_grad():
        for name, w in flow.weights.items():
            if name.startswith("b"):
                w.zero_()
    assert torch.equal(flow(X), before)
