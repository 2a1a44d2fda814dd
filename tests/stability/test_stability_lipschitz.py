"""Lipschitz bounds against singular values of linear nets, dense matrices of convolutions and hand-written margins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import nn

from odenet import fields
from odenet.flow import Chain, Flow
from odenet.nets.transfer import Pad
from odenet.stability import (
    certified_accuracy,
    certified_radii,
    exact_flow_bound,
    flow_bound,
    input_jacobian,
    layer_bound,
    lipschitz_lower,
    lipschitz_upper,
    report,
    unroll,
)

torch.set_num_threads(1)
G = torch.Generator().manual_seed(0)
X = torch.randn(6, 4, generator=G, dtype=torch.float64)


def true_norm(net, x=X):
    return float(torch.linalg.matrix_norm(input_jacobian(unroll(net, x))[0], ord=2))


def test_bounds_of_a_linear_net_enclose_its_norm_and_the_lower_one_finds_it():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 5), nn.Linear(5, 3)).double()
    a, b, c = (m.weight.detach().numpy() for m in net)
    true = np.linalg.norm(c @ b @ a, 2)
    low, high = lipschitz_lower(unroll(net, X)), lipschitz_upper(net, X)
    assert true_norm(net) == pytest.approx(true)
    assert low <= true * (1 + 1e-9) and low == pytest.approx(true, rel=1e-9)
    assert high == pytest.approx(np.prod([np.linalg.norm(m, 2) for m in (a, b, c)])) and high >= true


@pytest.mark.parametrize("integrator", ["euler", "heun", "rk4", "two_step_midpoint", "momentum", "lm"])
def test_lower_true_and_upper_are_in_order_for_linear_flows(integrator):
    flow = Flow(fields.Free(4, activation="identity", gain=1.5), integrator, steps=5, span=(0.0, 2.0)).double()
    u = unroll(flow, X)
    true = true_norm(flow)
    assert lipschitz_lower(u, 5) == pytest.approx(true, rel=1e-7)
    assert true <= flow_bound(flow) * (1 + 1e-9) and flow_bound(flow) < math.inf


@pytest.mark.parametrize("field", [
    fields.SeparableHamiltonian(4, activation="identity"),
    fields.SeparableHamiltonian(4, layers=1, activation="identity"),
    fields.HamiltonianJ(4, form="h2", activation="identity"),
    fields.SecondOrder(4, activation="identity"),
])  # fmt: skip
@pytest.mark.parametrize("integrator", ["symplectic_euler", "verlet"])
def test_products_of_shears_bound_symplectic_flows(field, integrator):
    flow = Flow(field, integrator, steps=3, span=(0.0, 1.5)).double()
    true = true_norm(flow)
    assert true <= flow_bound(flow) * (1 + 1e-9)


def test_one_kick_and_one_drift_have_the_norms_of_their_shears():
    """K = diag(a), identity activation: q' = a p, p' = -a q; symplectic euler is a kick and a drift of h a each."""
    flow = Flow(fields.SeparableHamiltonian(2, layers=1, activation="identity"), "symplectic_euler", steps=1).double()
    with torch.no_grad():
        flow.weights["K"].fill_(0.7)
    shear = np.linalg.norm(np.array([[1, 0.7], [0, 1]]), 2)
    assert flow_bound(flow) == pytest.approx(shear**2, rel=1e-12)


def test_a_runge_kutta_step_is_bounded_by_its_coefficients_in_absolute_value():
    flow = Flow(fields.Free(1, activation="identity"), "rk4", steps=1, span=(0.0, 0.5)).double()
    with torch.no_grad():
        flow.weights["K"].fill_(3.0)
    z = 1.5
    assert flow_bound(flow) == pytest.approx(1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24, rel=1e-12)  # all positive
    assert flow_bound(flow) == pytest.approx(true_norm(flow, X[:, :1]), rel=1e-12)


@pytest.mark.parametrize(("hc", "expected"), [(1.9, 1.0), (2.0, 1.0), (3.0, 2.0)])
def test_a_euler_step_of_a_parabolic_field_is_bounded_by_hc_minus_one(hc, expected):
    """1-D, identity activation: y - h K^2 y has the factor |1 - hc|, and |1 - h c'| <= max(1, hc - 1) for c' <= c."""
    flow = Flow(fields.Parabolic(1, activation="relu"), "euler", steps=1).double()
    with torch.no_grad():
        flow.weights["K"].fill_(math.sqrt(hc))
    assert flow_bound(flow) == pytest.approx(expected, rel=1e-9)
    assert flow_bound(flow, blind=True) == pytest.approx(1 + hc)
    assert lipschitz_lower(unroll(flow, torch.ones(1, 1))) == pytest.approx(abs(1 - hc), rel=1e-9)


def test_a_strongly_contracting_field_is_bounded_below_one_by_its_logarithmic_norm():
    """leaky relu with slope 1/2 and K = I: mu <= -1/2, L = 1, |I + h J| <= sqrt(1 - h + h^2)."""
    flow = Flow(fields.Parabolic(3, activation=fields.activations.get("leaky_relu")), "euler", steps=4).double()
    low = flow.field.unit.activation.slope[0]
    with torch.no_grad():
        flow.weights["K"].copy_(torch.eye(3).expand(4, 3, 3))
    h = 0.25
    expected = min(1.0, math.sqrt(1 - 2 * h * low + h**2)) ** 4
    assert flow_bound(flow) == pytest.approx(expected, rel=1e-9)
    assert exact_flow_bound(flow) == pytest.approx(math.exp(-low), rel=1e-9)


def test_the_exact_flow_of_a_linear_field_is_within_the_exponential_of_its_lipschitz_integral():
    flow = Flow(fields.Free(4, activation="identity"), "dopri5", depth="piecewise_linear", steps=3).double()
    bound, K = exact_flow_bound(flow), flow.weights["K"].detach().numpy()
    assert bound >= true_norm(flow) * (1 - 1e-6)
    norms = [np.linalg.norm(K[n] + (i + 0.5) / 4 * (K[n + 1] - K[n]), 2) for n in range(3) for i in range(4)]
    assert bound == pytest.approx(math.exp(sum(norms) / 12))
    assert flow_bound(flow) is None  # adaptive steps depend on the input
    A = Flow(fields.Free(4, activation="identity"), "dopri8", depth="shared", steps=1, rtol=1e-10, atol=1e-12).double()
    B = A.weights["K"][0].detach().numpy()
    assert true_norm(A) == pytest.approx(np.linalg.norm(expm(B), 2), rel=1e-8)
    assert exact_flow_bound(A) == pytest.approx(math.exp(np.linalg.norm(B, 2)))


@pytest.mark.parametrize("field", [
    fields.Free(4, gain=2.0), fields.Parabolic(4, gain=1.5), fields.Antisymmetric(4), fields.SeparableHamiltonian(4),
    fields.SecondOrder(4),
])  # fmt: skip
def test_no_pair_of_random_points_exceeds_the_upper_bound_of_a_nonlinear_flow(field):
    integrator = "verlet" if fields.SecondOrder in (type(field),) or "separable" in field.offers else "euler"
    flow = Flow(field, integrator, steps=4, span=(0.0, 2.0)).double()
    u, v = (3 * torch.randn(4000, 4, generator=G, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        ratio = float(((flow(u) - flow(v)).norm(dim=1) / (u - v).norm(dim=1)).max())
    low = lipschitz_lower(unroll(flow, u[:8]))
    assert max(ratio, low) <= flow_bound(flow) * (1 + 1e-9)


def test_ascent_finds_more_than_the_samples_show():
    """tanh(8 y) has slope 8 at 0 alone; the samples lie where it is flat."""
    flow = Flow(fields.Free(1), "euler", steps=1).double()
    with torch.no_grad():
        flow.weights["K"].fill_(8.0)
    u = unroll(flow, torch.tensor([[0.4]]))
    sampled = float(input_jacobian(u).max())
    found = lipschitz_lower(u, 40)
    assert sampled < 1.2 and 4.0 < found <= 9.0


@pytest.mark.parametrize("integrator", ["euler", "rk4"])
def test_weights_that_peak_inside_an_interval_are_looked_at_where_the_steps_look(integrator):
    flow = Flow(fields.Free(4, activation="identity"), integrator, depth="spline", steps=3, substeps=2).double()
    march, theta = flow.march, flow.theta()
    rhs = [march.rhs(n, piece) for n, piece in enumerate(march.pieces(theta))]
    looks = (0.0, 0.5) if integrator == "euler" else (0.0, 0.25, 0.5, 0.75, 1.0)
    total = 1.0
    for n, f in enumerate(rhs):
        L = max(float(torch.linalg.matrix_norm(f.weights((n + s) / 3)["K"].detach(), ord=2)) for s in looks)
        z = L / 6
        total *= (1 + z if integrator == "euler" else 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24) ** 2
    assert flow_bound(flow) == pytest.approx(total, rel=1e-9)
    assert true_norm(flow) <= total and flow_bound(flow.with_integrator("lm")) is None


# ---- layers of torch -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [
    nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Conv2d(2, 4, 1), nn.Conv2d(2, 2, 2),
    nn.Conv2d(1, 2, (3, 1)), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm2d(2).eval(),
])  # fmt: skip
def test_the_bound_of_a_linear_layer_is_at_least_the_norm_of_its_matrix(layer):
    torch.manual_seed(1)
    layer = layer.double()
    if isinstance(layer, nn.BatchNorm2d):
        layer.running_var.copy_(torch.tensor([0.25, 4.0]))
    channels = getattr(layer, "in_channels", 2)
    shape = (channels, 6, 6)
    n = channels * 36
    with torch.no_grad():
        zero = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        columns = layer(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).flatten(1) - zero
    true, bound = float(torch.linalg.matrix_norm(columns, ord=2)), layer_bound(layer, (6, 6))
    assert true <= bound * (1 + 1e-9)
    if not isinstance(layer, nn.Conv2d):
        assert bound == pytest.approx(true, rel=1e-4)
    elif layer.stride == (1, 1) and layer.kernel_size == (3, 3):
        assert bound < 1.2 * true


def test_layers_without_a_known_bound_make_the_product_unknown_and_users_may_add_theirs():
    class Doubling(nn.Module):
        def forward(self, y):
            return 2 * y

    net = nn.Sequential(nn.Linear(4, 4, bias=False), Doubling()).double()
    assert lipschitz_upper(net, X) is None
    layer_bound.register(Doubling, lambda layer, image=(), blind=False: 2.0)
    assert lipschitz_upper(net, X) == pytest.approx(2 * np.linalg.norm(net[0].weight.detach().numpy(), 2))
    assert layer_bound(nn.LeakyReLU(3.0)) is None and layer_bound(nn.LeakyReLU(0.3)) == 1.0
    assert layer_bound(Pad(2, 5)) == 1.0 and layer_bound(nn.LayerNorm(4)) is None


def test_structure_is_worth_a_factor_that_grows_with_depth():
    field = fields.Parabolic(6, constraint=fields.SpectralCap(1.0))
    net = Chain(nn.Linear(4, 6), Flow(field, steps=20), nn.Linear(6, 3))
    ends = math.prod(float(torch.linalg.matrix_norm(net.parts[i].weight.detach(), ord=2)) for i in (0, 2))
    assert lipschitz_upper(net, X.float()) == pytest.approx(ends, rel=1e-6)
    assert lipschitz_upper(net, X.float(), blind=True) > 1.5 * ends


# ---- certificates ----------------------------------------------------------------------------------------------------


def test_radii_are_margins_over_root_two_times_the_bound():
    scores = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.5], [1.0, 0.0, 5.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0])
    radii = certified_radii(scores, labels, 2.0)
    assert radii.tolist() == pytest.approx([2 / math.sqrt(8), 0.5 / math.sqrt(8), 0.0])
    assert certified_accuracy(radii, [0.0, 0.3, 1.0]) == pytest.approx([2 / 3, 1 / 3, 0.0])


def test_the_certificate_of_a_linear_classifier_is_sharp_up_to_its_geometry_and_never_wrong():
    """W = [w, -w]: the distance to the boundary is margin/(2|w|), and L = sqrt(2)|w| gives exactly that."""
    w = torch.tensor([1.0, 2.0, -0.5, 0.0], dtype=torch.float64)
    net = nn.Sequential(nn.Linear(4, 2, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.stack((w, -w)))
        scores = net(X)
    labels = scores.argmax(1)
    radii = certified_radii(scores, labels, lipschitz_upper(net, X))
    assert torch.allclose(radii, (X @ w).abs() / w.norm())
    towards = -torch.sign(X @ w)[:, None] * w / w.norm()
    with torch.no_grad():
        assert bool((net(X + 0.999 * radii[:, None] * towards).argmax(1) == labels).all())
        assert bool((net(X + 1.001 * radii[:, None] * towards).argmax(1) != labels).all())


def test_a_report_lists_bounds_in_order_and_certificates_where_there_are_labels():
    net = Chain(nn.Linear(4, 6), Flow(fields.Parabolic(6), steps=4), nn.Linear(6, 3))
    y = net(X.float()).argmax(1)
    found = report(net, X.float(), y, quick=True)
    d = found.to_dict()
    assert d["output_sensitivity"] <= d["lipschitz_lower"] * (1 + 1e-9)
    assert d["lipschitz_lower"] <= d["lipschitz_upper"] <= d["lipschitz_layerwise"]
    assert d["certified_radius"] > 0.0 and found.tables["certified"].rows[0] == (0.0, 1.0)
    assert "certified_radius" not in report(net, X.float(), quick=True).to_dict()
