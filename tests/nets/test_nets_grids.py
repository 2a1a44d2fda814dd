"""Multigrid, implicit diffusion and concatenation against linear multigrid, dense matrices and torch's own loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import odenet as on
from nets_examples import count, shaken
from odenet.errors import BadInput
from odenet.fields import ReactionDiffusion, Smoothing
from odenet.nets.grids import Coarsen, VCycle

pytestmark = pytest.mark.usefixtures("double")


def normed(z: Tensor, flow: on.Flow, n: int, tag: str) -> Tensor:
    w = flow.weights
    mean, var = (getattr(flow, f"stat_{s}{tag}")[n] for s in ("mean", "var"))
    return F.batch_norm(z, mean, var, w["scale" + tag][n], w["shift" + tag][n], False)


# ------------------------------------------------------------------------------------------------------- multigrid


def test_mgnet_is_he_and_xus_algorithm_with_data_and_residual_written_out() -> None:
    net = shaken(on.nets.mgnet(channels=2, classes=3, size=8, widths=(4, 6), steps=2))
    x = torch.randn(3, 2, 8, 8)
    _, first, _, *inner, _, last = net.parts
    f = torch.relu(first[1](F.conv2d(x, first[0].weight, padding=1)))
    u = torch.zeros_like(f)
    for part, after in zip(inner[::2], [*inner[1::2], None]):
        A = part.weights["A"][0]
        for n in range(2):
            r = f - F.conv2d(u, A, padding=1)
            z = F.conv2d(torch.relu(normed(r, part, n, "1")), part.weights["B"][n], padding=1)
            u = u + torch.relu(normed(z, part, n, "2"))
        if after is not None:  # f' = R (f - A u) + A' P u
            r = F.conv2d(f - F.conv2d(u, A, padding=1), after.restrict.weight, stride=2, padding=1)
            u = F.conv2d(u, after.project.weight, stride=2, padding=1)
            f = r + F.conv2d(u, inner[2].weights["A"][0], padding=1)
    torch.testing.assert_close(net(x), last(u), rtol=1e-11, atol=1e-11)


def test_a_multigrid_net_has_one_a_for_a_grid_and_one_b_for_a_step() -> None:
    c, steps = (4, 6), 3
    net = on.nets.mgnet(channels=1, classes=3, size=8, widths=c, steps=steps)
    grids = sum(9 * w * w * (1 + steps) + steps * 4 * w for w in c)
    assert count(net) == 9 * c[0] + 2 * c[0] + grids + 2 * 9 * c[0] * c[1] + 3 * (c[1] + 1)


def poisson(n: int) -> np.ndarray:
    """The five-point Laplacian on n x n pixels, zero outside."""
    one = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    return np.kron(one, np.eye(n)) + np.kron(np.eye(n), one)


def linear_cycle(sizes: tuple[int, ...], steps: int) -> VCycle:
    """Damped Jacobi on Poisson's equation, full weighting, bilinear prolongation, re-discretised coarse grids."""
    laplace = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]])
    jacobi = torch.zeros(3, 3)
    jacobi[1, 1] = 0.8 / 4
    hat = torch.tensor([0.5, 1.0, 0.5])
    flows = []
    for _ in range(2 * len(sizes) - 1):
        field = Smoothing(1, activation="identity", norm="none")
        flow = on.Flow(field, depth={"A": "shared", "*": "per_step"}, span=(0.0, float(steps)), steps=steps)
        with torch.no_grad():
            flow.weights["A"].copy_(laplace)
            flow.weights["B"].copy_(jacobi)
        flows.append(flow)
    joins, backs = [], []
    for _ in sizes[1:]:
        join, back = Coarsen(1, 1), nn.ConvTranspose2d(1, 1, 3, 2, 1, 1, bias=False)
        with torch.no_grad():
            join.project.weight.zero_()
            join.project.weight[0, 0, 1, 1] = 1.0
            join.restrict.weight.copy_(torch.outer(hat, hat))  # full weighting times (h_coarse / h)^2
            back.weight.copy_(torch.outer(hat, hat))
        joins.append(join)
        backs.append(back)
    return VCycle(flows[: len(sizes)], joins, backs, flows[len(sizes) :])


def classical_cycle(f: np.ndarray, n: int, smallest: int, steps: int) -> np.ndarray:
    """One V-cycle for A u = f from u = 0 with matrices: damped Jacobi, R = hat x hat on every second point, E = R^T."""
    A, u = poisson(n), np.zeros_like(f)
    for _ in range(steps):
        u = u + 0.2 * (f - A @ u)
    if n == smallest:
        return u
    hat = np.zeros((n // 2, n))
    for i in range(n // 2):
        for j, w in ((2 * i - 1, 0.5), (2 * i, 1.0), (2 * i + 1, 0.5)):
            if 0 <= j < n:
                hat[i, j] = w
    R = np.kron(hat, hat)
    keep = np.eye(n)[::2]
    start = np.kron(keep, keep) @ u  # full approximation: u is carried to the coarse grid, its correction comes back
    coarse = classical_cycle_from(start, R @ (f - A @ u), n // 2, smallest, steps)
    u = u + R.T @ (coarse - start)
    for _ in range(steps):
        u = u + 0.2 * (f - A @ u)
    return u


def classical_cycle_from(start: np.ndarray, r: np.ndarray, n: int, smallest: int, steps: int) -> np.ndarray:
    """start + the V-cycle for the correction, by linearity."""
    return start + classical_cycle(r, n, smallest, steps)


@pytest.mark.parametrize("n", [8, 16])
def test_a_linear_v_cycle_net_is_classical_multigrid(n: int) -> None:
    cycle = linear_cycle(tuple(n // 2**k for k in range(n.bit_length() - 1)), steps=2)
    f = torch.randn(1, 1, n, n)
    A, b = poisson(n), f.flatten().numpy()
    state, u = torch.cat((torch.zeros_like(f), f), 1), np.zeros(n * n)
    with torch.no_grad():
        for _ in range(5):
            state = cycle(state)
            u = u + classical_cycle(b - A @ u, n, 2, 2)
            np.testing.assert_allclose(state[:, 0].flatten().numpy(), u, atol=1e-10)
            np.testing.assert_allclose(state[:, 1].flatten().numpy(), b - A @ u, atol=1e-10)
    exact, jacobi = np.linalg.solve(A, b), np.zeros(n * n)
    for _ in range(5 * 4):  # as many smoothings on the finest grid alone
        jacobi = jacobi + 0.2 * (b - A @ jacobi)
    assert np.linalg.norm(u - exact) < 0.25 * np.linalg.norm(jacobi - exact)


def test_a_v_cycle_net_shares_a_on_the_way_up_and_its_layers_compose() -> None:
    net = shaken(on.nets.mgnet(channels=1, classes=3, size=8, widths=(4, 6, 8), cycle="v"))
    x = torch.randn(2, 1, 8, 8)
    state: Any = x
    for layer in net.layers():
        state = layer(state)
    torch.testing.assert_close(state, net(x), rtol=0.0, atol=0.0)
    cycle = next(m for m in net.modules() if isinstance(m, VCycle))
    assert all(up.weights["A"] is down.weights["A"] for up, down in zip(cycle.up, cycle.down))
    result = on.sweep(net, x, lambda out: (out**2).sum())
    (net(x) ** 2).sum().backward()
    torch.testing.assert_close(
        result.gradients["3.down.0.weights.A"], cycle.down[0].weights["A"].grad, rtol=1e-11, atol=1e-12
    )
    with pytest.raises(BadInput, match="divisible by 4"):
        on.nets.mgnet(channels=1, size=6, widths=(4, 6, 8), cycle="v")
    with pytest.raises(BadInput, match="cycle 'w'"):
        on.nets.mgnet(cycle="w")
    with pytest.raises(BadInput, match="norm 'layer' is not known"):
        on.nets.mgnet(norm="layer")


# ----------------------------------------------------------------------------------------------- implicit diffusion


def diffusion_matrix(L: Tensor, size: int) -> np.ndarray:
    """The periodic depthwise stencil as a matrix, from its values on unit images."""
    c = L.shape[0]
    units = torch.eye(c * size * size).reshape(-1, c, size, size)
    out = F.conv2d(F.pad(units, (1, 1, 1, 1), mode="circular"), L[:, None], groups=c)
    return out.flatten(1).T.numpy()


@pytest.mark.parametrize("h", [0.1, 1.0, 100.0])
def test_the_implicit_part_of_a_diffusion_step_is_the_inverse_matrix(h: float) -> None:
    field, y = ReactionDiffusion(2), torch.randn(3, 2, 5, 5)
    p = field.constrain({**field.init(), "L": torch.randn(2, 3, 3)})
    M = diffusion_matrix(p["L"], 5)
    flat = y.flatten(1).numpy()
    np.testing.assert_allclose(field.implicit(0.0, y, p).flatten(1).numpy(), -flat @ (M.T @ M).T, atol=1e-12)
    solved = np.linalg.solve(np.eye(50) + h * M.T @ M, flat.T).T
    np.testing.assert_allclose(field.implicit_solve(h, y, p).flatten(1).numpy(), solved, atol=1e-12)
    constant = torch.ones(1, 2, 5, 5)
    assert float(field.implicit(0.0, constant, p).abs().max()) < 1e-12


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_an_imexnet_is_reaction_then_diffusion_solved(norm: str) -> None:
    flow = shaken(on.Flow(ReactionDiffusion(2, norm=norm), "imex_euler", span=(0.0, 1.5), steps=3))
    y = torch.randn(4, 2, 5, 5)
    out, h = y, 0.5
    for n in range(3):
        K, L = flow.weights["K"][n], flow.weights["L"][n]
        z = F.conv2d(out, K, padding=1)
        z = normed(z, flow, n, "") if norm == "batch" else z + flow.weights["b"][n][:, None, None]
        out = out + h * F.conv_transpose2d(torch.relu(z), K, padding=1)
        M = torch.tensor(diffusion_matrix((L - L.mean((-2, -1), keepdim=True)).detach(), 5))
        out = torch.linalg.solve(torch.eye(50) + h * M.T @ M, out.flatten(1).T).T.reshape(y.shape)
    torch.testing.assert_close(flow(y), out, rtol=1e-11, atol=1e-11)
    assert flow.nfe(y) <= 2 * 3  # nothing was iterated


@pytest.mark.parametrize("method", ["ars222", "kencarp4"])
def test_the_closed_solve_gives_what_newtons_iteration_gives(method: str) -> None:
    field, y = ReactionDiffusion(1, norm="none", activation="tanh"), torch.randn(2, 1, 4, 4)
    flow = on.Flow(field, method, span=(0.0, 0.5), steps=2, substeps=1)
    p = {k: w[0].detach() for k, w in flow.weights.items()}
    effective = field.constrain(p)
    flat = on.fields.Split(
        lambda t, v: field.explicit(t, v.reshape(-1, 1, 4, 4), effective).flatten(1),
        lambda t, v: field.implicit(t, v.reshape(-1, 1, 4, 4), effective).flatten(1),
    )
    found = on.solve(flat, y.flatten(1), [0.0, 0.25], method, steps=1).y[-1]
    torch.testing.assert_close(flow.trajectory(y)[1].flatten(1), found, rtol=1e-9, atol=1e-10)


def test_one_diffusion_step_lets_every_pixel_see_every_other() -> None:
    seen = {}
    for name in ("imexnet", "resnet20"):
        words: dict[str, Any] = {"channels": 1, "classes": 2, "size": 16, "widths": (4,)}
        net = shaken(on.nets.get(name)(**words, **({"steps": 1, "pixels": True} if name == "imexnet" else {})))
        x = torch.randn(1, 1, 16, 16, requires_grad=True)
        y = net(x) if name == "imexnet" else net.parts[2](net.parts[1](x))
        (g,) = torch.autograd.grad(y[0, 0, 8, 8], x)
        seen[name] = int((g.abs() > 1e-12).sum())
    assert seen["imexnet"] == 256 and seen["resnet20"] < 256


# --------------------------------------------------------------------------------------------------- concatenation


def test_a_densenet_is_the_concatenation_of_its_layers() -> None:
    net = shaken(on.nets.densenet(channels=2, classes=3, size=8, growth=3, first=4, layers=(2, 2)))
    x = torch.randn(2, 2, 8, 8)
    _, start, *inner, norm, last = net.parts
    y = F.conv2d(x, start.weight, padding=1)
    for part in inner:
        if isinstance(part, on.Flow):
            y = torch.cat((y, F.conv2d(torch.relu(normed(y, part, 0, "1")), part.weights["K1"][0], padding=1)), 1)
        elif isinstance(part, nn.Sequential):
            y = F.avg_pool2d(F.conv2d(torch.relu(part[0](y)), part[2].weight), 2)
    torch.testing.assert_close(net(x), last(norm(y)), rtol=1e-12, atol=1e-12)


def test_densenet_40_has_as_many_weights_as_published() -> None:
    net = on.nets.densenet(preset="cifar10")
    total, width = 27 * 16, 16
    for block in range(3):
        for _ in range(12):
            total += 2 * width + 9 * width * 12
            width += 12
        total += 2 * width + (width * width if block < 2 else 0)
    assert count(net) == total + 10 * (width + 1)
    assert round(count(net) / 1e6, 1) == 1.0  # Huang et al. 2017, table 2


def test_every_runge_kutta_method_makes_the_same_step_of_a_densenet() -> None:
    net = shaken(on.nets.densenet(channels=1, classes=3, size=8, growth=3, first=4, layers=(2,)))
    x = torch.randn(2, 1, 8, 8)
    for name in ("midpoint", "rk4", "dopri5"):
        torch.testing.assert_close(net.with_integrator(name)(x), net(x), rtol=1e-11, atol=1e-11)
