"""Derivatives carried through networks: closed forms, high-precision differences, nested autograd, models."""

from __future__ import annotations

from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor, nn

import odenet as on
from jets_examples import SECOND, Gates, close, mlp, points
from odenet.errors import BadInput, Incompatible
from odenet.fields import jet_towers, jets

pytestmark = pytest.mark.usefixtures("double")

FOURTH = [(0, 0, 0), (1, 0, 0), (0, 1, 1), (2, 0, 1), (4, 0, 0), (1, 1, 2), (0, 3, 0)]


# ---- sets of derivatives -------------------------------------------------------------------------------------------


def test_the_closure_holds_every_smaller_index_zero_first() -> None:
    assert jets.closed([(2, 0), (0, 1)]) == ((0, 0), (1, 0), (0, 1), (2, 0))
    assert jets.closed([(1, 1)]) == ((0, 0), (1, 0), (0, 1), (1, 1))
    assert jets.closed([[3]]) == ((0,), (1,), (2,), (3,))
    assert len(jets.closed([tuple(2 * (i == j) for j in range(10)) for i in range(10)])) == 21


@pytest.mark.parametrize("wrong", [[], [(1, 0), (1,)], [(-1, 0)], [(0.5,)], [()], [(True,)]])
def test_what_is_no_multi_index_is_refused(wrong: Any) -> None:
    with pytest.raises(BadInput, match="multi-ind"):
        jets.closed(wrong)


def test_the_number_of_terms_of_a_chain_rule_is_that_of_the_set_partitions() -> None:
    from odenet.fields.jet_series import faa_di_bruno, leibniz

    channels = jets.closed([(4,)])
    weights = sum(run.weight * run.length for run in faa_di_bruno(channels) if run.out + run.length > 4)
    assert weights == 15 - 1  # Bell's number, without the one block
    mixed = jets.closed([(1, 1, 1, 1)])
    last = sum(run.weight for run in faa_di_bruno(mixed) if run.out <= len(mixed) - 1 < run.out + run.length)
    assert last == 14
    assert sum(run.weight for run in leibniz(mixed) if run.out <= len(mixed) - 1 < run.out + run.length) == 2**4 - 2


# ---- closed forms --------------------------------------------------------------------------------------------------


def test_derivatives_of_a_product_of_known_functions_are_the_known_ones() -> None:
    x = points(6, 2)
    a, b = x[:, :1], x[:, 1:]
    wanted = [(0, 0), (1, 0), (0, 2), (2, 1), (4, 0), (1, 3), (2, 2)]
    got = jets.jet(lambda y: torch.exp(2 * y[:, :1]) * torch.sin(3 * y[:, 1:]), x, wanted)
    turn = [torch.sin, torch.cos, lambda z: -torch.sin(z), lambda z: -torch.cos(z)]
    close(got, torch.stack([2.0**i * torch.exp(2 * a) * 3.0**j * turn[j](3 * b) for i, j in wanted]), 1e-14)


def test_a_polynomial_has_exact_derivatives_and_none_above_its_degree() -> None:
    x = torch.tensor([[2.0, 3.0], [-1.0, 0.0]])
    got = jets.jet(lambda y: y[:, :1] ** 3 * y[:, 1:], x, [(0, 0), (1, 0), (3, 1), (2, 1), (4, 0), (0, 2)])
    assert got[:, 0, 0].tolist() == [24.0, 36.0, 6.0, 12.0, 0.0, 0.0]
    assert got[:, 1, 0].tolist() == [0.0, 0.0, 6.0, -6.0, 0.0, 0.0]


SCALARS: dict[str, Any] = {
    "tanh": mpmath.tanh,
    "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
    "expit": lambda z: 1 / (1 + mpmath.exp(-z)),
    "silu": lambda z: z / (1 + mpmath.exp(-z)),
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "exp": mpmath.exp,
    "exp2": lambda z: mpmath.power(2, z),
    "expm1": mpmath.expm1,
    "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "log2": lambda z: mpmath.log(z, 2),
    "log10": lambda z: mpmath.log(z, 10),
    "square": lambda z: z * z,
    "sqrt": mpmath.sqrt,
    "rsqrt": lambda z: 1 / mpmath.sqrt(z),
    "reciprocal": lambda z: 1 / z,
    "asinh": mpmath.asinh,
    "arcsinh": mpmath.asinh,
    "atan": mpmath.atan,
    "arctan": mpmath.atan,
    "erf": mpmath.erf,
    "erfc": mpmath.erfc,
    "abs": abs,
    "tan": mpmath.tan,
    "asin": mpmath.asin,
    "acos": mpmath.acos,
    "acosh": mpmath.acosh,
    "atanh": mpmath.atanh,
    "erfinv": mpmath.erfinv,
    "logit": lambda z: mpmath.log(z / (1 - z)),
    "sinc": lambda z: mpmath.sin(mpmath.pi * z) / (mpmath.pi * z),
}
MORE: dict[str, tuple[Any, Any]] = {
    "gelu": (jet_towers.gelu, lambda z: z * mpmath.ncdf(z)),
    "softplus": (lambda x, n: jet_towers.softplus(x, n, 2.0), lambda z: mpmath.log1p(mpmath.exp(2 * z)) / 2),
    "cube": (lambda x, n: jet_towers.power(x, n, 3.0), lambda z: z**3),
    "power": (lambda x, n: jet_towers.power(x, n, -1.7), lambda z: z ** mpmath.mpf(-1.7)),
}


def test_every_function_in_the_table_is_compared_with_high_precision() -> None:
    assert set(SCALARS) == set(jet_towers.SMOOTH)


@pytest.mark.parametrize("name", sorted({**SCALARS, **MORE}))
def test_closed_derivatives_are_those_of_high_precision_differences(name: str) -> None:
    tower, f = MORE[name] if name in MORE else (jet_towers.SMOOTH[name], SCALARS[name])
    places = [1.3, 2.6] if name == "acosh" else [0.17, 0.64]
    got = tower(torch.tensor(places), 5)
    with mpmath.workdps(60):
        for k in range(6):
            for i, place in enumerate(places):
                want = float(mpmath.diff(f, mpmath.mpf(place), k) if k else f(mpmath.mpf(place)))
                value = 0.0 if got[k] is None else float(torch.as_tensor(got[k]).expand(2)[i])
                assert value == pytest.approx(want, rel=1e-11, abs=1e-11), (k, place)


# ---- back ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["autograd", "jvp"])
@pytest.mark.parametrize(
    ("d", "wanted"),
    [
        (1, [(0,), (1,), (2,), (3,), (4,)]),
        (2, [(4, 0), (0, 0), (2, 2), (1, 1), (0, 3)]),
        (3, FOURTH),
        (10, [(0,) * 10, (1,) + (0,) * 9, (0,) * 9 + (2,), (0, 1, 0, 1) + (0,) * 6]),
    ],
)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU])
def test_the_three_back_ends_agree(activation: type[nn.Module], d: int, wanted: Any, backend: str) -> None:
    net, x = mlp(d, 7, 2, activation), points(5, d)
    close(jets.jet(net, x, wanted), jets.jet(net, x, wanted, backend))


def test_all_back_ends_have_the_same_gradient_in_the_weights() -> None:
    net, x, wanted = mlp(2, 7, 1, nn.SiLU), points(9, 2), [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (4, 0)]
    weights = list(net.parameters())
    found = []
    for backend in ("jets", "autograd", "jvp"):
        p = jets.jet(net, x, wanted, backend)
        loss = ((p[2] + p[0] * p[1] - 0.1 * p[3] + p[4] * p[5]) ** 2).sum()
        found.append(torch.autograd.grad(loss, weights))
    for a, b, c in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(c, b, rtol=1e-11, atol=1e-12)


def test_second_derivatives_in_the_weights_agree_with_autograd() -> None:
    net, x, wanted = Gates(3), points(4, 2), [(0, 0), (1, 0), (2, 0)]
    weights = list(net.parameters())
    found = []
    for backend in ("jets", "autograd"):
        p = jets.jet(net, x, wanted, backend)
        slopes = torch.autograd.grad(((p[2] + p[0] * p[1]) ** 2).sum(), weights, create_graph=True)
        found.append(torch.autograd.grad(sum((g * g).sum() for g in slopes), weights))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_seeds_are_an_axis_of_vmap() -> None:
    nets, x, wanted = [mlp() for _ in range(3)], points(5, 2), [(0, 0), (1, 0), (2, 0)]
    stacked, _ = torch.func.stack_module_state(nets)

    def loss(p: dict[str, Tensor]) -> Tensor:
        parts = jets.through(lambda y: torch.func.functional_call(nets[0], p, (y,)), x, wanted)
        return (parts[2] * parts[0]).square().sum()

    together = torch.func.vmap(torch.func.grad(loss))(stacked)
    for i, net in enumerate(nets):
        parts = jets.jet(net, x, wanted, "autograd")
        alone = torch.autograd.grad((parts[2] * parts[0]).square().sum(), list(net.parameters()), allow_unused=True)
        for name, g in zip(dict(net.named_parameters()), alone):
            want = torch.zeros_like(together[name][i]) if g is None else g
            torch.testing.assert_close(together[name][i], want, rtol=1e-10, atol=1e-12)


def test_rows_come_in_the_order_asked_for_and_without_a_graph_under_no_grad() -> None:
    net, x = mlp(), points(5, 2)
    a = jets.jet(net, x, [(0, 2), (0, 0)])
    b = jets.jet(net, x, [(0, 0), (0, 2)])
    assert torch.equal(a, b.flip(0))
    for backend in ("jets", "autograd", "jvp"):
        with torch.no_grad():
            quiet = jets.jet(net, x, [(0, 2), (0, 0)], backend)
        assert not quiet.requires_grad
        close(quiet, a)


def test_values_are_those_of_the_module_itself() -> None:
    net, x = mlp(2, 8, 3, nn.Softplus), points(5, 2)
    torch.testing.assert_close(jets.jet(net, x, [(1, 0), (0, 0)])[1], net(x), rtol=1e-15, atol=1e-15)


def test_a_module_with_a_jet_method_is_asked_itself() -> None:
    class Known(nn.Module):
        def jet(self, x: Tensor, channels: Any) -> Tensor:
            return torch.full((len(channels), len(x), 1), 7.0)

    assert float(jets.jet(Known(), points(2, 1), [(1,)]).min()) == 7.0


def test_what_does_not_depend_on_the_point_has_no_derivatives() -> None:
    got = jets.jet(lambda x: torch.ones(len(x), 2), points(3, 1), [(0,), (1,)])
    assert got[0].eq(1).all() and got[1].eq(0).all() and got.shape == (2, 3, 2)


# ---- models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet", "antisymmetric", "hamiltonian", "leapfrog", "midpoint", "second_order"])
@pytest.mark.parametrize("options", [{}, {"depth": "shared"}, {"integrator": None, "gradient": "checkpoint"}])
def test_nets_carry_channels_through_their_steps(name: str, options: dict[str, Any]) -> None:
    net, x = getattr(on.nets, name)(dim_in=2, dim_out=1, width=6, steps=3, **options), points(5, 2)
    wanted = [*SECOND, (4, 0)]
    plain = getattr(on.nets, name)(dim_in=2, dim_out=1, width=6, steps=3, **{**options, "gradient": "autograd"})
    want = jets.jet(plain, x, wanted, "autograd")
    close(net.jet(x, wanted), want)
    with torch.no_grad():
        close(net.jet(x, wanted), want)


@pytest.mark.parametrize("integrator", ["rk4", "dopri5", "ab3", "rk3", "ssprk3", "abm3", "lm", "alf"])
def test_explicit_methods_carry_channels(integrator: str) -> None:
    flow = on.Flow(on.fields.Antisymmetric(4), integrator, steps=4, substeps=1)
    x, wanted = points(4, 4), [(0, 0, 0, 0), (1, 0, 0, 1), (0, 2, 0, 0)]
    close(flow.jet(x, wanted), jets.jet(flow, x, wanted, "autograd"))


@pytest.mark.parametrize("integrator", ["backward_euler", "radau_iia5"])
def test_implicit_methods_are_refused_under_jets(integrator: str) -> None:
    flow = on.Flow(on.fields.Antisymmetric(2), integrator, steps=2)
    with pytest.raises(Incompatible, match="explicit"):
        flow.jet(points(3, 2), [(1, 0)])
