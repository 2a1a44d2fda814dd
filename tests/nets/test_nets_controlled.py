"""Nets for series with times of their own: paths against scipy's splines, flows against solve_ivp, and convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicHermiteSpline
from torch import Tensor, nn

import odenet as on
from odenet.depth.polynomial import Polynomial
from odenet.errors import BadInput
from odenet.nets.paths import PATHS, Gaps, Hermite, Linear, Rectilinear, Timed, filled
from odenet.nets.temporal import receptive_field
from odenet.testing import check_depth

W, T = 4, 6


def series(batch: int = 3, length: int = T, width: int = 2, seed: int = 1) -> Tensor:
    """(B, T, 1 + width): increasing times, different in every sample, and data."""
    g = torch.Generator().manual_seed(seed)
    t = (0.1 + torch.rand(batch, length, 1, generator=g, dtype=torch.float64)).cumsum(1)
    return torch.cat((t, torch.randn(batch, length, width, generator=g, dtype=torch.float64)), -1)


def shaken(net: Any) -> Any:
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return net


def cde(**words: Any) -> Any:
    words = {"width": W, "hidden": 5, "times": True, "seed": 3} | words
    return shaken(on.nets.neural_cde(3, 2, **words).double())


def ode(**words: Any) -> Any:
    return shaken(on.nets.ode_rnn(3, 2, **({"width": W, "hidden": 5, "times": True, "seed": 3} | words)).double())


def close(a: Tensor, b: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b), rtol=tolerance, atol=tolerance)


# ---- paths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_polynomials_in_depth_keep_what_a_depth_promises(degree: int) -> None:
    check_depth(Polynomial(degree)).raise_if_failed()


def test_the_hermite_path_is_scipys_with_backward_differences_as_slopes() -> None:
    x = series(2)
    path = Hermite()
    u = path(x)
    for b in range(len(x)):
        t, v = x[b, :, 0].numpy(), x[b].numpy()
        slopes = np.diff(v, axis=0) / np.diff(t)[:, None]
        spline = CubicHermiteSpline(t, v, np.vstack((slopes[:1], slopes))).derivative()
        for n in range(T - 1):
            for s in (0.0, 0.3, 1.0):
                active = [u[j, b] for j in path.depth.support(n, T - 1)]
                at = t[n] + s * (t[n + 1] - t[n]) * (1 - 1e-12)  # from the left at the right end
                close(path.depth.value(active, s, n, T - 1), spline(at) * (t[n + 1] - t[n]), 1e-9)


def test_the_linear_path_moves_by_the_differences_and_the_rectilinear_one_first_in_time() -> None:
    x = torch.tensor([[[0.0, 5.0], [1.0, 7.0], [4.0, 6.0]]])
    assert Linear()(x)[:, 0].tolist() == [[1.0, 2.0], [3.0, -1.0]]
    assert Rectilinear()(x)[:, 0].tolist() == [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, -1.0]]
    assert Gaps()(x)[:, 0].tolist() == [[0.0], [1.0], [3.0]]
    states = torch.arange(5)
    assert Rectilinear().answers(states).tolist() == [0, 2, 4] and Gaps().answers(states[:4]).tolist() == [1, 2, 3]


def test_missing_values_are_filled_as_numpy_interpolates() -> None:
    x = series(4, 9)
    g = torch.Generator().manual_seed(5)
    x[..., 1:][torch.rand(4, 9, 2, generator=g) < 0.5] = torch.nan
    x[0, :, 1] = torch.nan  # never seen
    out, last = filled(x), filled(x, "last")
    for b in range(4):
        t = x[b, :, 0].numpy()
        for c in (1, 2):
            seen = x[b, :, c].isfinite().numpy()
            if not seen.any():
                assert not out[b, :, c].any() and not last[b, :, c].any()
                continue
            v = x[b, :, c].numpy()
            close(out[b, :, c], np.interp(t, t[seen], v[seen]))
            held = [v[np.flatnonzero(seen[: n + 1])[-1]] if seen[: n + 1].any() else v[seen][0] for n in range(9)]
            close(last[b, :, c], np.array(held))
    complete = series()
    assert filled(complete) is complete


def test_times_that_do_not_increase_are_refused() -> None:
    x = series()
    x[1, 3, 0] = x[1, 2, 0]
    for net in (cde(), ode()):
        with pytest.raises(BadInput, match="the first column of a sequence with times is the time"):
            net(x)
    x[1, 3, 0] = torch.nan
    with pytest.raises(BadInput, match="increases and no entry is missing"):
        cde()(x)
    with pytest.raises(BadInput, match="path 'cubic' is not known; write one of linear, rectilinear, hermite"):
        cde(path="cubic")
    with pytest.raises(BadInput, match="dim_in is 2 or more"):
        on.nets.ode_rnn(1, 1, times=True)
    with pytest.raises(BadInput, match="degree of 0 or more"):
        Polynomial(-1)


# ---- controlled equations ------------------------------------------------------------------------------------------


def test_a_controlled_net_under_euler_is_a_sum_over_the_differences() -> None:
    net, x = cde(path="linear", integrator="euler", every_step=True), series()
    p = {k: v[0].detach() for k, v in net.flows[0].weights.items()}
    z = net.start(x[:, 0])
    for n in range(T):
        close(net(x)[:, n], net.read(z))
        if n < T - 1:
            F = torch.tanh(torch.relu(z @ p["K1"].T + p["b1"]) @ p["K2"].T + p["b2"]).reshape(3, W, 3)
            z = z + torch.einsum("bdc,bc->bd", F, x[:, n + 1] - x[:, n])


@pytest.mark.parametrize("path", ["hermite", "linear"])
def test_a_controlled_net_solves_its_equation_in_real_time(path: str) -> None:
    net, x = cde(path=path, integrator="rk4", substeps=64, activation="tanh"), series(2, 4)
    p = {k: v[0].detach().numpy() for k, v in net.flows[0].weights.items()}
    for b in range(len(x)):
        t, v = x[b, :, 0].numpy(), x[b].numpy()
        differences = np.diff(v, axis=0) / np.diff(t)[:, None]
        spline = CubicHermiteSpline(t, v, np.vstack((differences[:1], differences))).derivative()

        def rhs(s: float, z: np.ndarray, n: int, spline: Any = spline, d: Any = differences) -> np.ndarray:
            F = np.tanh(p["K2"] @ np.tanh(p["K1"] @ z + p["b1"]) + p["b2"]).reshape(W, 3)
            return F @ (spline(s) if path == "hermite" else d[n])

        z = net.start(x[b, 0]).detach().numpy()
        for n in range(3):
            z = solve_ivp(rhs, (t[n], t[n + 1]), z, "DOP853", rtol=1e-11, atol=1e-12, args=(n,)).y[:, -1]
        close(net(x[b : b + 1]), net.read(torch.from_numpy(z)[None]), 1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_where_the_fields_commute_only_the_ends_of_the_path_count(path: str) -> None:
    """F(z)_{dc} = a_{dc} z_d gives z_d(T) = z_d(0) exp(sum_c a_dc (X_c(T) - X_c(0)))."""
    field = on.fields.Controlled(W, 3, hidden=W, activation="identity", last="identity")
    a = 0.3 * torch.randn(W, 3, dtype=torch.float64)
    net = cde(path=path, hidden=W)
    flow = on.Flow(field, "rk4", depth="shared", steps=1, substeps=64).double()
    with torch.no_grad():
        for name, value in (("K1", torch.eye(W)), ("b1", torch.zeros(W)), ("b2", torch.zeros(3 * W))):
            flow.weights[name].copy_(value)
        flow.weights["K2"].copy_((a[:, :, None] * torch.eye(W)[:, None]).reshape(3 * W, W))
    net.flows[0] = flow
    x = series(2, 4)
    z = net.start(x[:, 0]) * torch.exp((x[:, -1] - x[:, 0]) @ a.T)
    close(net(x), net.read(z), 1e-8)


def test_the_answer_does_not_depend_on_where_the_path_was_sampled() -> None:
    """Points put on the lines between the entries change nothing but the number of steps."""
    x = series(2, 4)
    middle = 0.3 * x[:, :-1] + 0.7 * x[:, 1:]
    finer = torch.cat((torch.stack((x[:, :-1], middle), 2).flatten(1, 2), x[:, -1:]), 1)
    net = cde(path="linear", activation="tanh", substeps=128)
    close(net(finer), net(x), 1e-7)
    bent = cde(path="hermite", activation="tanh", substeps=8)
    assert float((bent(finer) - bent(x)).detach().abs().max()) > 1e-2


def test_without_time_in_the_field_a_change_of_clock_changes_nothing() -> None:
    x = series()
    later = x.clone()
    later[..., 0] = torch.exp(0.7 * x[..., 0])
    for path in ("linear", "rectilinear"):
        net = cde(path=path, activation="tanh", substeps=4)
        assert float((net(later) - net(x)).detach().abs().max()) > 1e-3
        with torch.no_grad():
            net.flows[0].weights["K2"].view(W, 3, -1)[:, 0] = 0.0
            net.flows[0].weights["b2"].view(W, 3)[:, 0] = 0.0
            net.start.weight[:, 0] = 0.0
        close(net(later), net(x))


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_at_an_entry_does_not_know_later_ones(path: str) -> None:
    x, net = series(), cde(path=path, every_step=True)
    later = x.clone()
    later[:, 4:, 1:] += 1.0
    later[:, 4:, 0] += 0.5
    changed = (net(later) - net(x)).detach().abs().amax((0, 2))
    assert changed.shape == (T,) and float(changed[:4].max()) == 0.0 and float(changed[4:].min()) > 0.0
    close(net(x)[:, -1], cde(path=path)(x))


def test_missing_values_and_equal_times_are_what_they_stand_for() -> None:
    x = series()
    x[0, 2, 1], x[2, 0, 2] = torch.nan, torch.nan
    close(cde()(x), cde()(filled(x)))
    close(cde(path="rectilinear")(x), cde(path="rectilinear")(filled(x, "last")))
    plain = on.nets.neural_cde(2, 2, width=W, hidden=5, span=(1.0, 3.0), seed=3).double()
    timed = on.nets.neural_cde(3, 2, width=W, hidden=5, times=True, seed=3).double()
    t = torch.linspace(1, 3, T, dtype=torch.float64)[None, :, None].expand(3, -1, 1)
    data = series()[..., 1:]
    close(plain(data), timed(torch.cat((t, data), -1)))
    assert torch.equal(Timed((1.0, 3.0))(data), torch.cat((t, data), -1))


@pytest.mark.parametrize("build", [cde, ode])
@pytest.mark.parametrize("integrator", ["dopri5", "midpoint", "rk4"])
def test_other_integrators_and_gradients(build: Any, integrator: str) -> None:
    x, found = series(), []
    for gradient in ("autograd", "checkpoint"):
        net = build(integrator=integrator, gradient=gradient, every_step=True)
        assert net(x).shape == (3, T, 2)
        (net(x) ** 2).sum().backward()
        found.append([p.grad for p in net.parameters()])
    for a, b in zip(*found, strict=True):
        assert bool(a.any())
        close(a, b, 1e-9)
    if integrator != "dopri5":  # whose steps serve the whole batch
        close(net(x), torch.cat([net(row[None]) for row in x]))
    assert net.with_integrator("rk4", 3).nfe(x) == 12 * (T - 1)


def test_gradients_of_a_controlled_net_agree_with_differences() -> None:
    net, x = cde(activation="tanh"), series(2, 3)
    names = [k for k, _ in net.named_parameters()]

    def run(data: Tensor, *values: Tensor) -> Tensor:
        given = torch.cat((x[..., :1], data), -1)
        return torch.func.functional_call(net, dict(zip(names, values)), (given,))

    inputs = (x[..., 1:].clone().requires_grad_(), *(p.detach().clone().requires_grad_() for p in net.parameters()))
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize(("width", "hidden", "dim_in"), [(4, 5, 2), (32, 64, 1)])
def test_nets_have_the_counted_weights(width: int, hidden: int, dim_in: int) -> None:
    count = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    c = dim_in + 1
    field = hidden * width + hidden + width * c * hidden + width * c
    found = on.nets.neural_cde(dim_in, 3, width=width, hidden=hidden)
    assert count(found) == field + (c + 1) * width + (width + 1) * 3
    flow = width * hidden * 2 + hidden
    cell = 3 * width * (dim_in + width + 2)
    assert count(on.nets.ode_rnn(dim_in, 3, width=width, hidden=hidden)) == flow + cell + (width + 1) * 3


# ---- flows between observations ------------------------------------------------------------------------------------


def cell(net: Any, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """A gated recurrent unit, with its weights in torch's order: reset, update, new."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    w, u, b, c = (getattr(net.jump, n).detach().numpy() for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    (ri, zi, ni), (rh, zh, nh) = np.split(w @ x + b, 3), np.split(u @ h + c, 3)
    z, n = sigmoid(zi + zh), np.tanh(ni + sigmoid(ri + rh) * nh)
    return (1 - z) * n + z * h


def test_an_ode_rnn_flows_for_the_time_between_observations_and_jumps_at_them() -> None:
    net, x = ode(integrator="rk4", substeps=32), series()
    p = {k: v[0].detach().numpy() for k, v in net.flows[0].weights.items()}
    for b in range(len(x)):
        t, h = x[b, :, 0].numpy(), np.zeros(W)
        for n in range(T):
            if n:
                rhs = lambda _, h: p["K2"] @ np.tanh(p["K"] @ h + p["b"])  # noqa: E731
                h = solve_ivp(rhs, (t[n - 1], t[n]), h, "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
            h = cell(net, x[b, n, 1:].numpy(), h)
        close(net(x[b : b + 1]), net.read(torch.from_numpy(h)[None]), 1e-8)


def test_an_ode_rnn_under_euler_is_the_published_loop() -> None:
    net, x = ode(every_step=True), series()
    p = {k: v[0].detach() for k, v in net.flows[0].weights.items()}
    h = torch.zeros(3, W, dtype=torch.float64)
    for n in range(T):
        if n:
            h = h + (x[:, n, :1] - x[:, n - 1, :1]) * (torch.tanh(h @ p["K"].T + p["b"]) @ p["K2"].T)
        h = net.jump(x[:, n, 1:], h)
        close(net(x)[:, n], net.read(h))


def test_an_entry_that_was_not_observed_only_lets_time_pass() -> None:
    net, x = ode(integrator="rk4", substeps=64), series()
    with_gap = x.clone()
    with_gap[:, 3, 1] = torch.nan
    close(net(with_gap), net(torch.cat((x[:, :3], x[:, 4:]), 1)), 1e-8)
    assert float((net(with_gap) - net(x)).detach().abs().max()) > 1e-3
    net(with_gap).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize("build", [cde, ode])
def test_the_report_measures_the_product_of_jacobians_through_time(build: Any) -> None:
    net, x = build(), series(1)
    h, maps = net.unrolled(x)
    product = torch.eye(W, dtype=torch.float64)
    for step in maps:
        product = torch.autograd.functional.jacobian(lambda y, step=step: step(y[None])[0], h[0].detach()) @ product
        h = step(h)
    close(net.read(h), net(x))
    rep = on.stability.report(net, x, points=1)
    assert rep.metrics["layers"] == len(maps) == T - (build is cde)
    assert rep.metrics["singular_max"] == pytest.approx(float(torch.linalg.matrix_norm(product, 2)), rel=1e-9)


# ---- temporal convolution ------------------------------------------------------------------------------------------


def tcn(**words: Any) -> nn.Module:
    return shaken(on.nets.tcn(2, 3, **({"width": 4, "steps": 2, "kernel": 3, "seed": 1} | words)).double())


def test_a_temporal_net_equals_its_sums_over_the_past() -> None:
    net, x = tcn(every_step=True), torch.randn(2, 12, 2, dtype=torch.float64)

    def causal(layer: Any, x: Tensor, dilation: int) -> Tensor:
        w = layer.conv.weight
        out = layer.conv.bias.expand(len(x), x.shape[1], -1).clone()
        for t in range(x.shape[1]):
            for k in range(w.shape[2]):
                past = t - (w.shape[2] - 1 - k) * dilation
                if past >= 0:
                    out[:, t] = out[:, t] + x[:, past] @ w[:, :, k].T
        return out

    y = x
    for block, dilation in ((net[1], 1), (net[2], 2)):
        z = torch.relu(causal(block.second, torch.relu(causal(block.first, y, dilation)), dilation))
        short = y @ block.shortcut.weight[:, :, 0].T + block.shortcut.bias if y.shape[-1] == 2 else y
        y = torch.relu(short + z)
    close(net(x), net[-1](y))
    close(tcn()(x), net[-1](y[:, -1]))


@pytest.mark.parametrize(("steps", "kernel"), [(1, 2), (2, 3), (3, 2), (4, 7)])
def test_a_temporal_net_sees_exactly_its_receptive_field(steps: int, kernel: int) -> None:
    seen = receptive_field(steps, kernel)
    net = tcn(steps=steps, kernel=kernel)
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.abs_() if "bias" not in name else p.fill_(1.0)  # no unit is off
    x = torch.rand(1, seen + 5, 2, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(net(x).sum(), x)
    assert g[0].abs().sum(-1).nonzero().flatten().tolist() == list(range(5, seen + 5))
    assert receptive_field(4, 7) == 181


def test_a_temporal_net_does_not_see_the_future_and_has_the_counted_weights() -> None:
    net, x = tcn(every_step=True), torch.randn(2, 12, 2, dtype=torch.float64)
    later = x.clone()
    later[:, 7:] += 1.0
    changed = (net(later) - net(x)).detach().abs().amax((0, 2))
    assert float(changed[:7].max()) == 0.0 and float(changed[7:].min()) > 0.0
    for dim_in, width, steps, kernel in ((2, 4, 2, 3), (1, 25, 8, 7), (4, 4, 3, 2)):
        count = sum(p.numel() for p in on.nets.tcn(dim_in, 10, width=width, steps=steps, kernel=kernel).parameters())
        convolutions = width * dim_in * kernel + (2 * steps - 1) * width * width * kernel + 2 * steps * 2 * width
        shortcut = (dim_in + 1) * width if dim_in != width else 0
        assert count == convolutions + shortcut + (width + 1) * 10
    with pytest.raises(BadInput, match="both are at least 1"):
        on.nets.tcn(2, 1, steps=0)
