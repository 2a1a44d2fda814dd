"""Recurrent nets against the published updates written as loops, closed forms, torch's own cells and scipy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from torch import Tensor, nn

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.fields.recurrent import GRUFlow, Lipschitz, SkewShare
from odenet.flow.along import along
from odenet.nets.recurrent import Recurrence
from odenet.train.many import fit_many

NETS: dict[str, dict[str, Any]] = {
    "antisymmetric_rnn": {"h": 0.3},
    "lipschitz_rnn": {"h": 0.2},
    "cornn": {"h": 0.1},
    "unicornn": {"h": 0.2, "alpha": 2.0},
    "gru_ode": {},
}
D, W, T = 3, 4, 6


def made(name: str, **words: Any) -> Recurrence:
    net = on.nets.get(name)(D, 2, width=W, seed=3, **{**NETS[name], **words}).double()
    return shaken(net)  # type: ignore[return-value]


def shaken(net: nn.Module) -> nn.Module:
    """Weights of order 1, none of them zero."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return net


def data(batch: int = 5, length: int = T) -> Tensor:
    return torch.randn(batch, length, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weights(net: Any, k: int = 0) -> dict[str, Tensor]:
    """The stored weights of a flow, as the paper has them."""
    return {name: w[0] for name, w in net.flows[k].weights.items()}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# ---- published updates ---------------------------------------------------------------------------------------------


def antisymmetric(net: Any, x: Tensor, h: float = 0.3, gamma: float = 0.01) -> list[Tensor]:
    p, y, out = weights(net), torch.zeros(len(x), W, dtype=x.dtype), []
    M = p["K"] - p["K"].T - gamma * torch.eye(W, dtype=x.dtype)
    for t in range(x.shape[1]):
        y = y + h * torch.tanh(y @ M.T + x[:, t] @ p["V"].T + p["b"])
        out.append(y)
    return out


def gated(net: Any, x: Tensor, h: float = 0.3, gamma: float = 0.01) -> list[Tensor]:
    p, y, out = weights(net), torch.zeros(len(x), W, dtype=x.dtype), []
    M = p["K"] - p["K"].T - gamma * torch.eye(W, dtype=x.dtype)
    for t in range(x.shape[1]):
        z = torch.sigmoid(y @ M.T + x[:, t] @ p["V_z"].T + p["b_z"])
        y = y + h * z * torch.tanh(y @ M.T + x[:, t] @ p["V"].T + p["b"])
        out.append(y)
    return out


def lipschitz(net: Any, x: Tensor, h: float = 0.2, beta: float = 0.75, gamma: float = 0.001) -> list[Tensor]:
    p, y, out = weights(net), torch.zeros(len(x), W, dtype=x.dtype), []
    A, K = ((1 - beta) * (M + M.T) + beta * (M - M.T) - gamma * torch.eye(W, dtype=x.dtype) for M in (p["A"], p["K"]))
    for t in range(x.shape[1]):
        y = y + h * (y @ A.T) + h * torch.tanh(y @ K.T + x[:, t] @ p["V"].T + p["b"])
        out.append(y)
    return out


def cornn(net: Any, x: Tensor, h: float = 0.1, gamma: float = 2.7, epsilon: float = 4.7) -> list[Tensor]:
    p, out = weights(net), []
    y = z = torch.zeros(len(x), W, dtype=x.dtype)
    for t in range(x.shape[1]):
        force = torch.tanh(y @ p["K"][:, :W].T + z @ p["K"][:, W:].T + x[:, t] @ p["V"].T + p["b"])
        z = z + h * (force - gamma * y - epsilon * z)
        y = y + h * z
        out.append(y)
    return out


def unicornn(net: Any, x: Tensor, h: float = 0.2, alpha: float = 2.0) -> list[Tensor]:
    for k in range(len(net.flows)):
        p, out = weights(net, k), []
        y = z = torch.zeros(len(x), W, dtype=x.dtype)
        c = torch.sigmoid(p["c"])
        for t in range(x.shape[1]):
            z = z - h * c * (torch.tanh(p["w"] * y + x[:, t] @ p["V"].T + p["b"]) + alpha * y)
            y = y + h * c * z
            out.append(y)
        x = torch.stack(out, 1)
    return out


def gru_before(net: Any, x: Tensor) -> list[Tensor]:
    p, y, out = weights(net), torch.zeros(len(x), W, dtype=x.dtype), []
    (Wr, Wz, Wn), (Ur, Uz, Un), (br, bz, bn) = (p[k].split(W) for k in ("W", "U", "b"))
    for t in range(x.shape[1]):
        r = torch.sigmoid(x[:, t] @ Wr.T + y @ Ur.T + br)
        z = torch.sigmoid(x[:, t] @ Wz.T + y @ Uz.T + bz)
        n = torch.tanh(x[:, t] @ Wn.T + (r * y) @ Un.T + bn)
        y = z * y + (1 - z) * n
        out.append(y)
    return out


def gru_update(net: Any, x: Tensor) -> list[Tensor]:
    p, y, out = weights(net), torch.zeros(len(x), W, dtype=x.dtype), []
    (Wz, Wn), (Uz, Un), (bz, bn) = (p[k].split(W) for k in ("W", "U", "b"))
    for t in range(x.shape[1]):
        z = torch.sigmoid(x[:, t] @ Wz.T + y @ Uz.T + bz)
        y = y + (1 - z) * (torch.tanh(x[:, t] @ Wn.T + (z * y) @ Un.T + bn) - y)
        out.append(y)
    return out


LOOPS: list[tuple[str, dict[str, Any], Callable[[Any, Tensor], list[Tensor]]]] = [
    ("antisymmetric_rnn", {}, antisymmetric),
    ("antisymmetric_rnn", {"gated": True}, gated),
    ("lipschitz_rnn", {}, lipschitz),
    ("cornn", {}, cornn),
    ("unicornn", {"layers": 1}, unicornn),
    ("unicornn", {"layers": 3}, unicornn),
    ("gru_ode", {}, gru_before),
    ("gru_ode", {"reset": "update"}, gru_update),
]


@pytest.mark.parametrize(("name", "words", "loop"), LOOPS)
def test_a_net_equals_the_published_update_written_as_a_loop(name: str, words: dict[str, Any], loop: Any) -> None:
    x = data()
    net = made(name, every_step=True, **words)
    states = torch.stack(loop(net, x), 1)
    close(net(x), states @ net.head.weight.T + net.head.bias)
    last = made(name, **words)
    close(last(x), states[:, -1] @ net.head.weight.T + net.head.bias)
    close(last(x[:, :2]), states[:, 1] @ net.head.weight.T + net.head.bias)  # any length


def test_the_gru_equation_under_euler_with_steps_of_one_is_torchs_gru() -> None:
    net, x = made("gru_ode", reset="after", every_step=True), data()
    p, twin = weights(net), nn.GRU(D, W, batch_first=True).double()
    with torch.no_grad():
        twin.weight_ih_l0.copy_(p["W"])
        twin.weight_hh_l0.copy_(p["U"])
        twin.bias_ih_l0.copy_(p["b"])
        twin.bias_hh_l0.zero_()[2 * W :] = p["c"]
    close(net(x), net.head(twin(x)[0]))


def test_the_midpoint_rule_evaluates_the_field_at_the_middle_with_the_same_input() -> None:
    net, x = made("antisymmetric_rnn", integrator="midpoint"), data()
    p, y = weights(net), torch.zeros(5, W, dtype=x.dtype)
    M = p["K"] - p["K"].T - 0.01 * torch.eye(W, dtype=x.dtype)
    for t in range(T):
        k = torch.tanh(y @ M.T + x[:, t] @ p["V"].T + p["b"])
        y = y + 0.3 * torch.tanh((y + 0.15 * k) @ M.T + x[:, t] @ p["V"].T + p["b"])
    close(net(x), net.head(y))


COUNTS: dict[str, Callable[[int, int], int]] = {
    "antisymmetric_rnn": lambda m, d: m * m + m * d + m,
    "lipschitz_rnn": lambda m, d: 2 * m * m + m * d + m,
    "cornn": lambda m, d: 2 * m * m + m * d + m,
    "unicornn": lambda m, d: (m * d + 3 * m) + (m * m + 3 * m),
    "gru_ode": lambda m, d: 3 * (m * m + m * d + m),
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize(("dim_in", "width"), [(1, 4), (3, 16), (2, 128)])
def test_a_net_has_the_counted_weights(name: str, dim_in: int, width: int) -> None:
    net = on.nets.get(name)(dim_in, 5, width=width)
    assert sum(p.numel() for p in net.parameters()) == COUNTS[name](width, dim_in) + 5 * width + 5


def test_published_sizes_of_nets_for_sequential_digits() -> None:
    """coRNN with 256 oscillators on one pixel a step: the 134k of its table 2 (without the readout 131.8k)."""
    net = on.nets.cornn(1, 10, width=256)
    assert sum(p.numel() for p in net.parameters()) == 2 * 256**2 + 256 + 256 + 2570 == 134154


# ---- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "words"), [(name, words) for name, words, _ in LOOPS])
def test_gradients_agree_with_differences(name: str, words: dict[str, Any]) -> None:
    net, x = made(name, **words), data(2, 3).requires_grad_()
    names = [k for k, _ in net.named_parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(net, dict(zip(names, values)), (x,))

    assert torch.autograd.gradcheck(run, (x, *(p.detach().clone().requires_grad_() for p in net.parameters())))


@pytest.mark.parametrize(("name", "gradient"), [
    *((n, g) for n in NETS for g in ("checkpoint", "discrete")), ("unicornn", "reversible"),
])  # fmt: skip
def test_gradients_that_recompute_agree_with_autograd(name: str, gradient: str, recomputed: None) -> None:
    x, found = data(), []
    for how in ("autograd", gradient):
        net = made(name, gradient=how, every_step=True)
        (net(x) ** 2).sum().backward()
        found.append([p.grad for p in net.parameters()])
    for a, b in zip(*found, strict=True):
        close(a, b, 1e-10)


def test_unicornn_runs_backwards_to_its_start() -> None:
    net, x = made("unicornn", layers=1), data(5, 50)
    flow, h, u = net.driven(x)[0], torch.randn(5, 2 * W, dtype=torch.float64), x.transpose(0, 1)
    with torch.no_grad():
        theta = flow.theta(h, u=u)
        states, carry, record = flow.march.run(h, theta)
        assert float((states[-1] - h).abs().min()) > 1e-3
        y, pieces = states[-1], flow.march.pieces(theta)
        for mark in reversed(record.marks):
            y, carry = flow.march.invert(mark, pieces[mark.n], y, carry)
    close(y, h, 1e-10)


def test_the_damped_coupled_net_has_no_inverse_in_closed_form() -> None:
    with pytest.raises(Incompatible, match="'lie_euler' has none"):
        made("cornn", gradient="reversible")


# ---- the equations behind ------------------------------------------------------------------------------------------


def test_the_jacobian_of_the_antisymmetric_field_has_real_parts_minus_gamma_times_the_slope() -> None:
    field = on.fields.Antisymmetric(6, gamma=0.3, inputs=2)
    p = {k: v.double() for k, v in field.init(torch.Generator().manual_seed(2)).items()}
    p = field.constrain(p) | {"b": torch.full((6,), 0.7, dtype=torch.float64), "u": torch.zeros(1, 2).double()}
    J = torch.autograd.functional.jacobian(lambda y: field(0.0, y[None], p)[0], torch.zeros(6).double())
    slope = 1 - np.tanh(0.7) ** 2  # the same for all units
    values = torch.linalg.eigvals(J)
    close(values.real, torch.full((6,), -0.3 * slope, dtype=torch.float64))
    assert float(values.imag.abs().max()) > 0.1


@pytest.mark.parametrize(("name", "loose"), [("cornn", "lie_euler"), ("lipschitz_rnn", "euler"),
                                             ("unicornn", "symplectic_euler"), ("gru_ode", "euler")])  # fmt: skip
def test_schemes_approach_scipys_solution_of_the_equation(name: str, loose: str) -> None:
    words = {"layers": 1} if name == "unicornn" else {}
    net, x = made(name, **words), data(1, 4)
    flow = net.flows[0]
    h, field, p = flow.span[1], flow.field, flow.theta(u=x[0, :1])
    y = np.zeros(field.dim)
    for t in range(4):
        q = {k: v[0] for k, v in p.items()} | {"u": x[:, t]}
        rhs = lambda _, y, q=q: field(0.0, torch.from_numpy(y)[None], q)[0].detach().numpy()  # noqa: E731
        y = solve_ivp(rhs, (0.0, h), y, "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    exact = net.read(torch.from_numpy(y)[None])
    close(net.with_integrator("rk4", 32)(x), exact, 1e-8)
    errors = [float((net.with_integrator(loose, k)(x) - exact).detach().abs().max()) for k in (16, 32)]
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.1)


def test_the_linear_part_of_the_lipschitz_net_is_taken_exactly_by_an_exponential_method() -> None:
    """With K = 0 the input is a constant force: h' = A h + c over h has the matrix exponential as solution."""
    net, x = made("lipschitz_rnn", integrator="etd1", gamma=0.0), data(2, 3)
    with torch.no_grad():
        net.flows[0].weights["K"].zero_()
    p = weights(net)
    A = 0.25 * (p["A"] + p["A"].T) + 0.75 * (p["A"] - p["A"].T)
    y = torch.zeros(2, W, dtype=torch.float64)
    for t in range(3):
        c = torch.tanh(x[:, t] @ p["V"].T + p["b"])
        for i in range(2):
            block = np.zeros((W + 1, W + 1))
            block[:W, :W], block[:W, W] = A.detach().numpy(), c[i].detach().numpy()
            y[i] = torch.from_numpy(expm(0.2 * block) @ np.append(y[i].detach().numpy(), 1.0))[:W]
    close(net(x), net.read(y), 1e-11)


def test_the_undamped_oscillators_keep_their_energy_under_constant_input() -> None:
    net, x = made("unicornn", layers=1, h=0.01), data(1, 1).expand(1, 2000, D)
    p = weights(net)
    flow, h, u = net.driven(x)[0], torch.randn(1, 2 * W, dtype=torch.float64), x.transpose(0, 1)
    with torch.no_grad():
        q, v = flow.trajectory(h, u=u)[:, 0].split(W, -1)
        z = p["w"] * q + x[0, 0] @ p["V"].T + p["b"]
        energy = (torch.sigmoid(p["c"]) * (v**2 / 2 + q**2 + torch.log(torch.cosh(z)) / p["w"])).sum(-1)
    assert float((energy / energy[0] - 1).abs().max()) < 5e-3
    assert float((q - q[0]).abs().max()) > 0.5


def test_the_gru_equation_keeps_its_state_between_minus_one_and_one() -> None:
    net, x = made("gru_ode", every_step=True), 10 * data(5, 40)
    flow, h, controls = net.driven(x)
    assert float(flow.trajectory(h, **controls).detach().abs().max()) <= 1.0


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_share_of_the_skew_part_is_beta(beta: float) -> None:
    M = torch.randn(5, 5, dtype=torch.float64)
    K = SkewShare(beta, 0.2).apply(M, on.fields.Dense(5, 5))
    close((K - K.T) / 2, beta * (M - M.T))
    close((K + K.T) / 2 + 0.2 * torch.eye(5).double(), (1 - beta) * (M + M.T))


def test_the_bound_of_the_lipschitz_field_holds() -> None:
    field = Lipschitz(6, 2, gain=3.0)
    p = field.constrain({k: v.double() for k, v in field.init(torch.Generator().manual_seed(0)).items()})
    a, b = torch.randn(2, 200, 6).double()
    q = p | {"u": torch.randn(200, 2).double()}
    ratio = ((field(0.0, a, q) - field(0.0, b, q)).norm(dim=1) / (a - b).norm(dim=1)).max()
    assert 0.3 * float(field.lipschitz_bound(p)) < float(ratio) <= float(field.lipschitz_bound(p))


# ---- as networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_samples_do_not_see_one_another_and_the_future_is_not_seen(name: str) -> None:
    net, x = made(name, every_step=True), data()
    close(net(x), torch.cat([net(row[None]) for row in x]), 1e-13)
    later = x.clone()
    later[:, 4:] += 1.0
    changed = (net(later) - net(x)).detach().abs().amax((0, 2))
    assert float(changed[:4].max()) == 0.0 and float(changed[4:].min()) > 0.0


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("integrator", ["dopri5", "rk4", "ab2", "implicit_midpoint"])
def test_another_integrator_is_one_word(name: str, integrator: str) -> None:
    net, x = made(name, integrator=integrator, every_step=True), data(2, 5)
    states = net(x)
    (states**2).sum().backward()
    assert states.shape == (2, 5, 2) and bool(states.isfinite().all())
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())
    twin = made(name).with_integrator(integrator)
    assert twin.flows[0].integrator.name == integrator and twin(x).shape == (2, 2)


def test_another_integrator_shares_the_weights_and_changes_the_result() -> None:
    net, x = made("cornn"), data()
    twin = net.with_integrator("rk4", 4)
    assert [id(p) for p in twin.parameters()] == [id(p) for p in net.parameters()]
    assert net.nfe(x) == T and twin.nfe(x) == 16 * T
    assert 1e-6 < float((net(x) - twin(x)).detach().abs().max()) < 0.1


@pytest.mark.parametrize("name", NETS)
def test_nets_of_several_seeds_train_side_by_side_as_they_would_alone(name: str) -> None:
    x, y = data(24).float(), torch.randint(2, (24,), generator=torch.Generator().manual_seed(2))
    build = lambda s: on.nets.get(name)(D, 2, width=W, seed=s, **NETS[name])  # noqa: E731
    together = fit_many([build(0), build(1)], [(x, y)] * 2, lr=[1e-2] * 2, seeds=[0, 1], steps=3, batch=8)
    for s, fit in enumerate(together):
        alone = on.fit(build(s), (x, y), "adam", 3, 1e-2, s, batch=8, holdout=0.0, schedule="cosine")
        for a, b in zip(fit.net.parameters(), alone.net.parameters()):
            torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-6)


def test_a_flow_runs_along_any_number_of_intervals_unless_weights_belong_to_its_own() -> None:
    flow = on.Flow(on.fields.Free(4), "rk4", depth="shared", steps=2, span=(0.0, 1.0))
    long = on.Flow(on.fields.Free(4), "rk4", depth="shared", steps=7, span=(0.0, 3.5))
    y = torch.randn(3, 4)
    assert torch.equal(along(flow, 7)(y), long(y)) and flow.steps == 2 and flow.knots == (0.0, 0.5, 1.0)
    with pytest.raises(Incompatible, match=r"weights \['K', 'b'\] belong to the 2 knot intervals"):
        along(on.Flow(on.fields.Free(4), "rk4", steps=2), 7)
    with pytest.raises(Incompatible, match="belong to the 2 knot intervals"):
        along(on.Flow(on.fields.Free(4), "lm", depth="shared", steps=2), 7)


@pytest.mark.parametrize(("build", "sentence"), [
    (lambda: on.nets.cornn(2, 1, h=0.0), "h is the step size of one entry"),
    (lambda: on.nets.cornn(2, 1)(torch.ones(3, 2)), r"takes sequences \(B, T, D\)"),
    (lambda: on.nets.gru_ode(2, 1, reset="never"), "reset 'never' is not known"),
    (lambda: on.fields.CoupledOscillators(5, 1), "the width is even"),
    (lambda: GRUFlow(4, 0), "GRUFlow got inputs=0"),
    (lambda: on.nets.lipschitz_rnn(2, 1, beta=1.5), "beta is the share of the skew part"),
    (lambda: on.nets.antisymmetric_rnn(2, 1, gamma=-1.0), "diffusion is >= 0"),
])  # fmt: skip
def test_what_cannot_be_right_is_refused(build: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        build()


# ---- stability -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_unrolled_maps_compose_to_the_net_and_take_copies_of_the_batch(name: str) -> None:
    net, x = made(name), data()
    h, maps = net.unrolled(x)
    assert len(maps) == T
    copies = h.repeat(3, 1)
    for step in maps:
        h, copies = step(h), step(copies)
    close(net.read(h), net(x), 1e-14)
    close(copies, h.repeat(3, 1), 1e-14)


@pytest.mark.parametrize(
    ("name", "kwargs"), [(n, {}) for n in NETS] + [("cornn", {"integrator": "rk4"}), ("unicornn", {"layers": 1})]
)
def test_the_report_measures_the_product_of_jacobians_through_time(name: str, kwargs: dict[str, Any]) -> None:
    net, x = made(name, **kwargs), data(1)
    h, maps = net.unrolled(x)
    product, largest = torch.eye(h.shape[1], dtype=torch.float64), 0.0
    for step in maps:
        product = torch.autograd.functional.jacobian(lambda y, step=step: step(y[None])[0], h[0]) @ product
        largest = max(largest, float(torch.linalg.matrix_norm(product, 2)))
        h = step(h).detach()
    rep = on.stability.report(net, x, points=1)
    values = torch.linalg.svdvals(product)
    assert rep.metrics["layers"] == T
    assert rep.metrics["singular_max"] == pytest.approx(float(values[0]), rel=1e-9)
    assert rep.metrics["singular_min"] == pytest.approx(float(values[-1]), rel=1e-6, abs=1e-12)
    assert rep.metrics["transient_max"] == pytest.approx(largest, rel=1e-9)


def test_the_report_of_a_vanilla_net_is_through_time_too() -> None:
    net, x = on.nets.rnn(D, 2, width=W, seed=1).double(), data(1)
    core, h, product = net[0].core, torch.zeros(1, W).double(), torch.eye(W, dtype=torch.float64)
    for t in range(T):
        h = torch.tanh(x[:, t] @ core.weight_ih_l0.T + core.bias_ih_l0 + h @ core.weight_hh_l0.T + core.bias_hh_l0)
        product = (1 - h[0] ** 2)[:, None] * core.weight_hh_l0 @ product
    rep = on.stability.report(net, x, points=1)
    assert rep.metrics["layers"] == T
    assert rep.metrics["singular_max"] == pytest.approx(float(torch.linalg.matrix_norm(product.detach(), 2)), rel=1e-9)


def test_the_report_predicts_the_step_beyond_which_a_recurrent_net_is_unstable() -> None:
    """Damped and nearly linear: eigenvalues -2 +- i w under euler are stable for h <= 4/(4 + w^2)."""
    net = on.nets.antisymmetric_rnn(1, 1, width=2, gamma=2.0, h=0.5).double()
    with torch.no_grad():
        net.flows[0].weights["K"].copy_(torch.tensor([[[0.0, 0.5], [-0.5, 0.0]]]))  # w = 1
        net.flows[0].weights["V"].zero_()
    x = torch.zeros(2, 60, 1).double()
    rep = on.stability.report(net, x, quick=True)
    assert rep.metrics["h_stable"] == pytest.approx(0.8, rel=1e-6) and rep.verdict.stable
    for h, stable in ((0.75, True), (0.85, False)):
        y = torch.full((1, 2), 1e-9).double()
        flow = on.Flow(net.flows[0].field, "euler", depth="shared", span=(0.0, h), steps=1).double()
        flow.load_state_dict(net.flows[0].state_dict())
        out = along(flow, 400)(y, u=torch.zeros(400, 1, 1).double())
        assert (float(out.detach().norm()) < 1e-9) == stable


# ---- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sums_of_two_marked_numbers_are_learned() -> None:
    """Always answering 1 has mean squared error 1/6."""
    data = on.data.load("adding", seed=0, n=10000, length=20)
    net = on.nets.cornn(2, 1, width=64, h=0.1, gamma=10.0, epsilon=4.0)
    fit = on.fit(net, data, steps=1500, lr=2e-2, batch=50, clip=1.0, schedule="cosine")
    assert fit.score["mse"] < 0.02
