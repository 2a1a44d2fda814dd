"""Lyapunov exponents, FTLE fields and matrix-free products against closed forms, scipy's expm and numpy's svd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import nn

from odenet import fields
from odenet.errors import BadInput
from odenet.flow import Chain, Flow
from odenet.nets.transfer import Pad
from odenet.stability import (
    amplification,
    ftle_field,
    leading_lyapunov,
    leading_sensitivity,
    lyapunov,
    sensitivity,
    unroll,
)
from odenet.stability.lyapunov import log_singular_values
from odenet.stability.tangents import Product, directions, leading, pushed

torch.set_num_threads(1)
G = torch.Generator().manual_seed(0)
X = torch.randn(3, 4, generator=G, dtype=torch.float64)


def linear(A, integrator="euler", **options):
    return Flow(lambda y: y @ A.T, integrator, depth="shared", **options)


# ---- exponents -------------------------------------------------------------------------------------------------------


def test_a_diagonal_field_has_its_rates_as_exponents():
    rates = torch.tensor([1.0, -0.5, -3.0, 0.0], dtype=torch.float64)
    found = lyapunov(unroll(linear(torch.diag(rates), "euler", steps=40, span=(0.0, 2.0)), X))
    expected = (40 * torch.log1p(rates / 20) / 2.0).sort(descending=True).values
    assert found.time == 2.0 and found.complete
    assert torch.allclose(found.exponents, expected.expand(3, 4), atol=1e-12)
    assert torch.allclose(found.log_volume, expected.sum().expand(3) * 2.0, atol=1e-12)


def test_a_rotation_stretches_nothing_and_euler_makes_it_a_spiral():
    J = torch.tensor([[0.0, 2.0], [-2.0, 0.0]], dtype=torch.float64)
    exact = lyapunov(unroll(linear(J, "dopri8", steps=1, rtol=1e-10, atol=1e-10), X[:, :2]))
    assert float(exact.exponents.abs().max()) < 1e-8
    spiral = lyapunov(unroll(linear(J, "euler", steps=10), X[:, :2]))
    assert torch.allclose(spiral.exponents, torch.full((3, 2), 10 * 0.5 * math.log(1 + 0.2**2)).double(), atol=1e-12)


def test_a_jordan_block_has_the_singular_values_of_its_exponential():
    J = torch.tensor([[-1.0, 5.0], [0.0, -1.0]], dtype=torch.float64)
    found = lyapunov(unroll(linear(J, "dopri8", steps=4, span=(0.0, 3.0), rtol=1e-12, atol=1e-14), X[:, :2]))
    expected = np.log(np.linalg.svd(expm(3.0 * J.numpy()), compute_uv=False)) / 3.0
    assert found.exponents[0].numpy() == pytest.approx(expected, abs=1e-8)


def test_exponents_survive_products_that_overflow_and_lose_their_small_singular_values():
    """Factors U_{n+1} D U_n^T with orthogonal U_n: the product has the singular values D^400, from 1e241 to 1e-280."""
    D = torch.tensor([4.0, 1.5, 0.9, 0.2], dtype=torch.float64)
    U = [torch.linalg.qr(torch.randn(2, 4, 4, generator=G, dtype=torch.float64)).Q for _ in range(401)]
    chain = [U[n + 1] @ torch.diag(D) @ U[n].mT for n in range(400)]
    found = log_singular_values(chain)
    assert torch.allclose(found, 400 * D.log().expand(2, 4), rtol=1e-11)


def test_exponents_are_those_of_the_product_where_it_can_be_formed_and_their_sum_is_the_determinant():
    flow = Flow(fields.Free(4, gain=2.0), "rk4", steps=6, span=(0.0, 4.0))
    u = unroll(flow, X)
    found, whole = lyapunov(u), sensitivity(u).whole
    assert torch.allclose(found.exponents, torch.linalg.svdvals(whole).log() / 4.0, atol=1e-11)
    assert torch.allclose(found.log_volume, torch.linalg.det(whole).abs().log(), atol=1e-11)


def test_swept_frames_approach_the_singular_values_of_a_wide_product():
    chain = [torch.randn(2, 5, 5, generator=G, dtype=torch.float64) for _ in range(30)]
    product = chain[0]
    for J in chain[1:]:
        product = J @ product
    expected = torch.linalg.svdvals(product).log()
    assert float((log_singular_values(chain)[:, :3] - expected[:, :3]).abs().max()) < 1e-4
    assert torch.allclose(log_singular_values(chain).sum(1), torch.stack([J.det().abs().log() for J in chain]).sum(0))


def test_layers_of_different_width_have_as_many_exponents_as_the_narrowest():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False), nn.Linear(3, 5, bias=False)).double()
    a, b, c = (m.weight.detach().numpy() for m in net)
    found = lyapunov(unroll(net, X))
    assert found.time == 3.0 and not found.complete and found.exponents.shape == (3, 3)
    expected = np.log(np.linalg.svd(c @ b @ a, compute_uv=False)[:3]) / 3
    assert found.exponents[0].numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("integrator", ["leapfrog", "verlet"])
def test_volume_is_kept_by_verlet_and_exponents_come_in_pairs(integrator):
    field = fields.SecondOrder(4, gain=2.0)
    u = unroll(Flow(field, integrator, steps=8, span=(0.0, 3.0)), X)
    found = lyapunov(u)
    if integrator == "verlet":
        assert float(found.log_volume.abs().max()) < 1e-12
        assert torch.allclose(found.exponents, -found.exponents.flip(1), atol=1e-10)
    else:
        assert torch.allclose(found.exponents, torch.linalg.svdvals(sensitivity(u).whole).log() / 3.0, atol=1e-10)


# ---- without Jacobians -----------------------------------------------------------------------------------------------

NETS = [
    Flow(fields.Free(4, gain=2.0), "rk4", steps=5),
    Flow(fields.Free(4), "ab3", steps=5),
    Flow(fields.Free(4), "lm", steps=5),
    Flow(fields.SecondOrder(4), "leapfrog", steps=5),
    Flow(fields.SeparableHamiltonian(4), "verlet", steps=5),
    Flow(fields.Free(4), "backward_euler", steps=2),
    Chain(nn.Linear(4, 4), Flow(fields.Free(4), steps=2), nn.Linear(4, 5), Flow(fields.Free(5), "momentum", steps=3)),
]


@pytest.mark.parametrize("net", NETS, ids=["rk4", "ab3", "lm", "leapfrog", "verlet", "backward_euler", "chain"])
def test_products_with_vectors_are_those_of_the_formed_jacobian(net):
    u = unroll(net, X)
    s = sensitivity(u)
    J = Product(u)
    v, w = directions(3, J.shape[1], X, 1), directions(3, J.shape[0], X, 2)
    assert torch.allclose(J.push(v), (s.whole @ v[:, :, None])[..., 0], atol=1e-8)
    assert torch.allclose(J.pull(w), (s.whole.mT @ w[:, :, None])[..., 0], atol=1e-13)
    free = leading_sensitivity(u, layers=64)
    assert free.at == s.at and free.whole is None and free.smallest is None
    assert torch.allclose(free.backward, s.backward, rtol=1e-7)
    assert torch.allclose(free.forward, s.forward, rtol=1e-7)
    assert torch.allclose(free.values, s.values, rtol=1e-6)
    assert torch.allclose(leading_lyapunov(u, 2).exponents, lyapunov(u).exponents[:, :2], atol=1e-6)


def test_a_step_without_forward_derivatives_is_differenced():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            ctx.save_for_backward(y)
            return y * y

        @staticmethod
        def backward(ctx, g):
            return 2 * ctx.saved_tensors[0] * g

    (moved,) = pushed(lambda parts: (Square.apply(parts[0]),), (X,), (torch.ones_like(X),))
    assert torch.allclose(moved, 2 * X, atol=1e-8)


def test_lanczos_is_exact_at_full_length_and_never_above_the_truth():
    A = torch.randn(4, 30, 20, generator=G, dtype=torch.float64)
    true = torch.linalg.svdvals(A)
    start = directions(4, 20, A)
    for steps in (3, 8, 20):
        found = leading(lambda v: (A @ v[..., None])[..., 0], lambda w: (A.mT @ w[..., None])[..., 0], start, steps)
        assert bool((found.values[:, 0] <= true[:, 0] * (1 + 1e-12)).all())
    assert torch.allclose(found.values, true, rtol=1e-10)
    stretched = (A @ found.vectors[:, :, :1])[..., 0].norm(dim=1)
    assert torch.allclose(stretched, true[:, 0], rtol=1e-10)


def test_random_and_worst_amplification_of_a_diagonal_map_are_its_mean_square_and_its_largest_entry():
    d = torch.linspace(-1.0, 2.0, 400, dtype=torch.float64)
    net = [lambda y: y * d]
    random, worst = amplification(unroll(net, torch.zeros(1, 400, dtype=torch.float64)), steps=60, draws=200)
    assert float(worst) == pytest.approx(2.0, rel=1e-3) and float(worst) <= 2.0 + 1e-12
    assert float(random) == pytest.approx(float((d**2).mean().sqrt()), rel=0.02)


def test_the_largest_singular_value_of_a_convolution_on_a_large_image_is_that_of_its_symbol():
    """The stencil [-1, 2, -1] with zero padding has the eigenvalues 2 - 2 cos(pi k/(n + 1)): 4 cos^2(pi/(2 n + 2))."""
    K = torch.tensor([[[[0.0, 0.0, 0.0], [-1.0, 2.0, -1.0], [0.0, 0.0, 0.0]]]], dtype=torch.float64)
    net = [lambda y: nn.functional.conv2d(y, K, padding=1)]
    u = unroll(net, torch.randn(2, 1, 3, 300, generator=G, dtype=torch.float64))
    expected = 4 * math.cos(math.pi / 602) ** 2
    _, worst = amplification(u, steps=40)
    assert float(worst.max()) <= expected + 1e-12 and float(worst.min()) > 0.99 * expected


# ---- fields ----------------------------------------------------------------------------------------------------------


def test_the_ftle_field_of_a_linear_flow_is_constant_and_that_of_its_exponential():
    A = torch.tensor([[0.3, 2.0], [-0.5, -1.0]], dtype=torch.float64)
    grid = ftle_field(linear(A, "dopri8", steps=2, span=(0.0, 1.5), rtol=1e-12, atol=1e-13), points=5)
    expected = math.log(np.linalg.norm(expm(1.5 * A.numpy()), 2)) / 1.5
    assert grid.values.shape == (5, 5) and grid.values.numpy() == pytest.approx(np.full((5, 5), expected), abs=1e-9)


def test_the_ftle_field_of_a_shear_flow_is_known_at_every_point():
    """q' = 0, p' = sin q: the flow map has the Jacobian [[1, 0], [T cos q, 1]], whatever the integrator."""

    def shear(y):
        return torch.stack((0 * y[:, 0], torch.sin(y[:, 0])), 1)

    flow = Flow(shear, "euler", depth="shared", steps=3, span=(0.0, 2.0))
    grid = ftle_field(flow, (-3.0, 3.0, -1.0, 1.0), points=7)
    c = 2.0 * np.cos(np.linspace(-3, 3, 7))
    expected = np.log(np.abs(c) / 2 + np.sqrt(1 + c**2 / 4)) / 2.0
    assert grid.values.numpy() == pytest.approx(np.repeat(expected[:, None], 7, 1), abs=1e-12)
    assert (float(grid.first[0]), float(grid.second[-1])) == (-3.0, 1.0)


def test_the_opening_of_a_net_belongs_to_its_ftle_field():
    A = torch.randn(3, 3, generator=G, dtype=torch.float64)
    net = Chain(Pad(2, 3), linear(A, steps=2), nn.Linear(3, 2)).double()
    step = np.linalg.matrix_power(np.eye(3) + 0.5 * A.numpy(), 2)[:, :2]
    grid = ftle_field(net, points=3)
    assert grid.values.numpy() == pytest.approx(np.full((3, 3), math.log(np.linalg.norm(step, 2))), abs=1e-12)


def test_a_field_over_an_empty_box_or_of_another_dimension_is_refused():
    with pytest.raises(BadInput, match="a box is"):
        ftle_field(NETS[0], (1.0, -1.0, 0.0, 1.0))
    with pytest.raises(BadInput, match=r"inputs \(B, 2\)"):
        ftle_field(nn.Sequential(nn.Linear(5, 5)))
