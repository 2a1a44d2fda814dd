"""Jacobians of one reverse pass are those of a pass for every row."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import odenet as on
from jets_examples import SECOND, Gates, mlp, points
from odenet.errors import BadInput, Incompatible
from odenet.fields import jets

pytestmark = pytest.mark.usefixtures("double")


# ---- Jacobians -----------------------------------------------------------------------------------------------------


def residual(p: Tensor) -> Tensor:
    """Nonlinear in the channels u, u_x, u_y, u_xx of one output or two: (N, 2)."""
    u, w = p[..., 0], p[..., -1]
    return torch.stack((u[2] + u[0] * w[1] - 0.1 * u[3], torch.sin(w[0]) * u[1] ** 2), 1)


def flow_between(integrator: str, field: nn.Module, depth: str) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 6), on.Flow(field, integrator, depth=depth, steps=3), nn.Linear(6, 1))


TRUNKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp(2, 5, 2),
    "gates": lambda: Gates(4),
    "matrix from the right": lambda: Right(),
    "residual, own weights": lambda: flow_between("euler", on.fields.Free(6), "per_step"),
    "residual, shared under rk4": lambda: flow_between("rk4", on.fields.Free(6, layers=2), "shared"),
    "antisymmetric, shared": lambda: flow_between("rk4", on.fields.Antisymmetric(6), "shared"),
    "antisymmetric, own weights": lambda: flow_between("ab3", on.fields.Antisymmetric(6), "per_step"),
    "hamiltonian, own weights": lambda: flow_between("verlet", on.fields.SeparableHamiltonian(6), "per_step"),
    "hamiltonian, shared": lambda: flow_between("verlet", on.fields.SeparableHamiltonian(6, layers=1), "shared"),
    "parabolic, orthogonal": lambda: flow_between("euler", on.fields.Free(6, constraint="orthogonal"), "shared"),
    "learned coefficients": lambda: on.nets.lm_resnet(dim_in=2, dim_out=1, width=5, steps=3),
    "weights linear in time": lambda: flow_between("rk4", on.fields.Free(6), "piecewise_linear"),
}


class Right(nn.Module):
    """Weights in every place: vectors, transposes, views, batches of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(2, 3, 4)), nn.Parameter(torch.randn(4))
        self.m, self.b = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(x @ self.w[0][:2] + self.b[1])  # a view of a view
        h = torch.sin(h @ self.w[1].mT) @ self.w[1] - self.v
        h = torch.tanh(h.reshape(-1, 2, 2) @ self.m).flatten(1) + h
        return torch.stack((h @ self.v, h.sum(-1)), 1)


@pytest.mark.parametrize("name", sorted(TRUNKS))
def test_the_jacobian_of_one_pass_is_that_of_a_pass_per_row(name: str) -> None:
    net, x = TRUNKS[name](), points(7, 2)
    wanted = [(0, 0), (1, 0), (0, 1), (2, 0)]
    weights = list(net.parameters())
    with jets.record() as tape:
        r = residual(jets.jet(net, x, wanted))
    J = tape.jacobian(r, weights, check=True)
    want = jets.jacobian_by_vmap(residual(jets.jet(net, x, wanted, "autograd")), weights)
    assert J.shape == (7, 2, sum(p.numel() for p in weights))
    torch.testing.assert_close(J, want, rtol=1e-11, atol=1e-12 * float(want.abs().max()))
    again = torch.full_like(want, math.nan)
    assert tape.jacobian(r, weights, out=again) is again
    torch.testing.assert_close(again, J, rtol=0, atol=0)


@pytest.mark.parametrize("width", [3, 12])
def test_the_jacobian_is_that_of_each_sample_by_itself(width: int) -> None:
    net, x = mlp(2, width), points(9, 2)
    p = dict(net.named_parameters())

    def alone(p: dict[str, Tensor], z: Tensor) -> Tensor:
        def u(z: Tensor) -> Tensor:
            return torch.func.functional_call(net, p, (z,))[0]

        slope = torch.func.grad(u)
        return slope(z)[1] + u(z) * slope(z)[0] - 0.1 * torch.func.grad(lambda z: slope(z)[0])(z)[0]

    rows = torch.func.vmap(torch.func.jacrev(alone), (None, 0))(p, x)
    want = torch.cat([rows[name].flatten(1) for name in p], 1)
    with jets.record() as tape:
        q = jets.jet(net, x, [(0, 0), (1, 0), (0, 1), (2, 0)])[..., 0]
    J = tape.jacobian(q[2] + q[0] * q[1] - 0.1 * q[3], list(p.values()))
    torch.testing.assert_close(J[:, 0], want, rtol=1e-12, atol=1e-13)


def test_many_channels_and_many_samples_take_the_same_values_by_another_road() -> None:
    net, x = mlp(6, 4), points(11, 6)
    wanted = [tuple(2 * (i == j) for j in range(6)) for i in range(6)]
    with jets.record() as tape:
        r = jets.jet(net, x, wanted).sum(0)[:, 0] ** 2
    weights = list(net.parameters())
    J = tape.jacobian(r, weights)
    torch.testing.assert_close(J, jets.jacobian_by_vmap(r, weights), rtol=1e-11, atol=1e-13)


def test_one_vector_of_all_weights_has_its_jacobian() -> None:
    net, x = mlp(2, 5), points(6, 2)
    names, sizes = list(dict(net.named_parameters())), [p.numel() for p in net.parameters()]
    theta = torch.cat([p.detach().reshape(-1) for p in net.parameters()]).requires_grad_()
    views = [v.view_as(p) for v, p in zip(theta.split(sizes), net.parameters())]
    with jets.record() as tape:
        p = jets.through(lambda y: torch.func.functional_call(net, dict(zip(names, views)), (y,)), x, SECOND)
    r = p[3, :, 0] * p[0, :, 0]
    torch.testing.assert_close(tape.jacobian(r, [theta]), jets.jacobian_by_vmap(r, [theta]), rtol=1e-12, atol=1e-13)


def test_a_coefficient_outside_the_net_is_seen_when_spread_and_missed_aloud_when_not() -> None:
    net, x, nu = mlp(), points(6, 2), torch.tensor([0.3, 0.4], requires_grad=True)
    weights = [nu, *net.parameters()]
    with jets.record() as tape:
        p = jets.jet(net, x, SECOND)[..., 0]
        r = p[2] - tape.spread(nu, 6)[:, 1] * p[3] + tape.spread(nu, 6)[:, 0]
    J = tape.jacobian(r, weights, check=True)
    torch.testing.assert_close(J, jets.jacobian_by_vmap(r, weights), rtol=1e-12, atol=1e-13)
    with pytest.raises(Incompatible, match=r"parameter 0 of shape \(2,\)"):
        tape.jacobian(p[2] - nu[0] * p[3], weights, check=True)
    with pytest.raises(Incompatible, match="samples"):
        tape.jacobian(r - r.mean(), weights, check=True)


def test_what_a_tape_has_no_rule_for_is_refused() -> None:
    x, w = points(4, 2), torch.rand(4, 2, requires_grad=True)
    with jets.record() as tape:
        r = (jets.lift(x, [(1, 0)]) * w).parts[1].sum(1)
    with pytest.raises(Incompatible, match="axis of samples"):
        tape.jacobian(r, [w])
    m = torch.rand(2, 2, requires_grad=True)
    with jets.record() as tape:
        r = torch.einsum("ni,ij->nj", jets.lift(x, [(1, 0)]), m).parts[1].sum(1)
    with pytest.raises(Incompatible, match="not recorded"):
        tape.jacobian(r, [m])
    net = mlp()
    with jets.record() as tape:
        r = jets.jet(net, x, [(1, 0)])[0, :, 0].square()
        other = jets.jet(net, points(5, 2), [(1, 0)])[0, :, 0].sum()
    with pytest.raises(Incompatible, match="5 samples"):
        tape.jacobian(r * other, list(net.parameters()))
    for wrong in (r[:, None, None], torch.ones(3)):
        with pytest.raises(BadInput, match="residual"):
            tape.jacobian(wrong, list(net.parameters()))
    with pytest.raises(BadInput, match="out is"):
        tape.jacobian(r, list(net.parameters()), out=torch.ones(2))


def test_gradients_of_the_loss_stay_whole_after_a_jacobian() -> None:
    net, x = mlp(), points(6, 2)
    weights = list(net.parameters())
    with jets.record() as tape:
        r = jets.jet(net, x, SECOND)[3, :, 0]
    J = tape.jacobian(r, weights)[:, 0]
    found = torch.autograd.grad(r.square().sum() / 2, weights, allow_unused=True)
    whole = torch.cat([torch.zeros_like(p).reshape(-1) if g is None else g.reshape(-1) for p, g in zip(weights, found)])
    torch.testing.assert_close(J.mT @ r, whole, rtol=1e-12, atol=1e-14)
