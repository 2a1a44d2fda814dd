"""Derivatives carried through networks agree with nested autograd, closed forms and high-precision differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.fields import activations, jet_rules, jet_towers, jets
from odenet.nets import NETS

pytestmark = pytest.mark.usefixtures("double")

FOURTH = [(0, 0, 0), (1, 0, 0), (0, 1, 1), (2, 0, 1), (4, 0, 0), (1, 1, 2), (0, 3, 0)]
A = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(3, 4).sin()
M = torch.linspace(0.2, 1.1, 8, dtype=torch.float64).reshape(4, 2).cos()
C4 = torch.tensor([0.3, -0.7, 1.1, 0.4], dtype=torch.float64)


def inner(x: Tensor) -> Tensor:
    """(N, 4) in (-1, 1), with derivatives of all orders."""
    return torch.sin(x @ A + 0.3)


def positive(x: Tensor) -> Tensor:
    return 1.5 + 0.4 * inner(x)


def images(x: Tensor) -> Tensor:
    """(N, 2, 2)."""
    return inner(x).reshape(-1, 2, 2)


def close(a: Tensor, b: Tensor, tol: float = 1e-12) -> None:
    """Equal up to `tol` of the largest entry of every channel."""
    assert a.shape == b.shape
    scale = b.detach().abs().flatten(1).amax(1).clamp(min=1e-2)
    gap = (a - b).detach().abs().flatten(1).amax(1)
    assert bool((gap <= tol * scale).all()), (gap / scale).tolist()


def points(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed))


def mlp(d: int = 2, width: int = 8, out: int = 1, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    return nn.Sequential(
        nn.Linear(d, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, out)
    )


class Gates(nn.Module):
    """Fourier features and the gates of the modified network: H <- Z U + (1 - Z) V."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.register_buffer("B", torch.randn(2, width))
        self.u, self.v, self.z, self.last = (nn.Linear(2 * width, width) for _ in range(3)), None, None, None
        self.u, self.v, self.z = nn.Linear(2 * width, width), nn.Linear(2 * width, width), nn.Linear(2 * width, width)
        self.last = nn.Linear(width, 2)
        self.scale = nn.Parameter(torch.rand(width) + 0.5)
        self.factor = nn.Parameter(torch.rand(()))
        self.amplitude = nn.Parameter(torch.rand(1, width))

    def forward(self, x: Tensor) -> Tensor:
        phase = 2 * math.pi * x @ self.B
        h = torch.cat((torch.sin(phase), torch.cos(phase)), -1)
        u, v, z = torch.tanh(self.u(h)), F.gelu(self.v(h)), torch.sigmoid(self.z(h) * self.scale)
        return self.last(self.amplitude * (z * u + (1 - z) * v) / (1 + self.factor**2)) + self.factor


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
    "lgamma": mpmath.loggamma,
    "digamma": mpmath.digamma,
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


# ---- every operation -----------------------------------------------------------------------------------------------

W24, B2 = M.mT.contiguous(), torch.tensor([0.2, -0.5], dtype=torch.float64)
Op = Callable[[Tensor], Tensor]
OPERATIONS: dict[str, list[Op]] = {
    "add": [lambda x: inner(x) + C4, lambda x: 2 + inner(x), lambda x: torch.add(inner(x), positive(x), alpha=3)],
    "radd": [lambda x: C4.__radd__(inner(x))],
    "sub": [lambda x: inner(x) - C4, lambda x: torch.sub(inner(x), C4, alpha=2), lambda x: C4 - inner(x)],
    "subtract": [lambda x: torch.subtract(positive(x), inner(x) ** 2)],
    "rsub": [lambda x: 1 - inner(x)],
    "neg": [lambda x: -inner(x)],
    "negative": [lambda x: torch.negative(inner(x))],
    "positive": [lambda x: +inner(x)],
    "clone": [lambda x: inner(x).clone()],
    "contiguous": [lambda x: inner(x).contiguous()],
    "mul": [lambda x: inner(x) * x[:, :1], lambda x: x[:, :1] * inner(x), lambda x: C4 * inner(x), lambda x: x * x],
    "multiply": [lambda x: torch.multiply(inner(x), positive(x))],
    "rmul": [lambda x: C4.__rmul__(inner(x))],
    "div": [lambda x: inner(x) / positive(x), lambda x: inner(x) / C4, lambda x: C4 / positive(x)],
    "divide": [lambda x: torch.divide(inner(x), 3.0)],
    "true_divide": [lambda x: torch.true_divide(inner(x), positive(x))],
    "truediv": [lambda x: inner(x).__truediv__(2.0)],
    "rdiv": [lambda x: 2.0 / positive(x)],
    "rtruediv": [lambda x: positive(x).__rtruediv__(2.0)],
    "pow": [lambda x: inner(x) ** 2, lambda x: positive(x) ** -1.5, lambda x: positive(x) ** inner(x)],
    "float_power": [lambda x: torch.float_power(positive(x), 3.0)],
    "rpow": [lambda x: 2.5 ** inner(x)],
    "addcmul": [lambda x: torch.addcmul(C4, inner(x), positive(x), value=0.3)],
    "addcdiv": [lambda x: torch.addcdiv(inner(x), inner(x), positive(x), value=0.3)],
    "lerp": [lambda x: torch.lerp(inner(x), positive(x), 0.3)],
    "where": [
        lambda x: torch.where(x.detach()[:, :1] > 0.5, inner(x), positive(x) ** 2),
        lambda x: torch.where(x.detach()[:, :1] > 0.5, inner(x), 0.5),
    ],
    "linear": [lambda x: F.linear(inner(x), W24, B2), lambda x: F.linear(images(x), W24[:, :2])],
    "matmul": [
        lambda x: inner(x) @ M,
        lambda x: inner(x) @ C4,
        lambda x: images(x) @ images(x),
        lambda x: W24[:, :2] @ images(x),
    ],
    "mm": [lambda x: torch.mm(inner(x), M)],
    "mv": [lambda x: torch.mv(inner(x), C4)],
    "bmm": [lambda x: torch.bmm(images(x), images(x).mT)],
    "dot": [lambda x: torch.matmul(inner(x), C4)],
    "inner": [lambda x: torch.matmul(inner(x), C4)],
    "vecdot": [lambda x: torch.matmul(inner(x), C4)],
    "addmm": [lambda x: torch.addmm(B2, inner(x), M, beta=2, alpha=3)],
    "addmv": [lambda x: torch.addmv(inner(x)[:, 0], inner(x), C4)],
    "addbmm": [lambda x: torch.addmm(B2, inner(x), M)],
    "baddbmm": [lambda x: torch.baddbmm(images(x), images(x), images(x))],
    "einsum": [
        lambda x: torch.einsum("ni,ij->nj", inner(x), M),
        lambda x: torch.einsum("ni,ni->n", inner(x), positive(x)),
        lambda x: torch.einsum("ni,ij,nj->nj", inner(x), M, inner(x)[:, :2]),
    ],
    "gelu": [lambda x: F.gelu(inner(x)), lambda x: F.gelu(inner(x), approximate="tanh")],
    "softplus": [lambda x: F.softplus(inner(x), 1.5), lambda x: F.softplus(100 * inner(x), 0.7)],
    "log_sigmoid": [lambda x: F.logsigmoid(inner(x))],
    "logsigmoid": [lambda x: F.logsigmoid(2 * inner(x))],
    "mish": [lambda x: F.mish(inner(x))],
    "tanhshrink": [lambda x: F.tanhshrink(inner(x))],
    "getitem": [
        lambda x: inner(x)[:, 1:3] * x[:, None, 0],
        lambda x: inner(x)[..., [0, 2]],
        lambda x: images(x)[:, 0] + inner(x)[:, None, 3],
    ],
    "detach": [lambda x: inner(x) * inner(x).detach()],
    ".data": [lambda x: inner(x) * inner(x).data],
    ".requires_grad": [lambda x: inner(x) * (2.0 if inner(x).requires_grad in (True, False) else 0.0)],
    ".mT": [lambda x: images(x).mT * images(x)],
    "transpose": [lambda x: images(x).transpose(1, 2) * images(x)],
    "swapaxes": [lambda x: images(x).swapaxes(-1, -2)],
    "swapdims": [lambda x: images(x).swapdims(-1, -2)],
    "permute": [lambda x: images(x).permute(0, 2, 1), lambda x: torch.permute(images(x), (0, 2, 1))],
    "movedim": [lambda x: images(x).movedim(1, 2)],
    "moveaxis": [lambda x: images(x).moveaxis(2, 1)],
    "reshape": [lambda x: inner(x).reshape(-1, 2, 2), lambda x: inner(x).reshape(len(x), 4, 1)],
    "view": [lambda x: inner(x).clone().view(len(x), 4)],
    "flatten": [lambda x: images(x).flatten(1)],
    "unflatten": [lambda x: inner(x).unflatten(1, (2, 2))],
    "squeeze": [lambda x: inner(x)[:, :1].squeeze(1), lambda x: inner(x)[:, :1].squeeze(-1)],
    "unsqueeze": [lambda x: inner(x).unsqueeze(-1), lambda x: inner(x).unsqueeze(1)],
    "expand": [lambda x: inner(x)[:, :1].expand(-1, 3)],
    "broadcast_to": [lambda x: torch.broadcast_to(inner(x)[:, :1], (len(x), 3))],
    "expand_as": [lambda x: inner(x)[:, :1].expand_as(x)],
    "view_as": [lambda x: images(x).flatten(1).clone().view_as(inner(x))],
    "reshape_as": [lambda x: images(x).reshape_as(inner(x))],
    "narrow": [lambda x: inner(x).narrow(1, 1, 2)],
    "select": [lambda x: inner(x).select(1, 2)],
    "index_select": [lambda x: inner(x).index_select(1, torch.tensor([0, 3]))],
    "split": [lambda x: inner(x).split(3, 1)[0], lambda x: inner(x).split([1, 3], -1)[1]],
    "split_with_sizes": [lambda x: inner(x).split_with_sizes([1, 3], -1)[1]],
    "chunk": [lambda x: inner(x).chunk(2, -1)[1]],
    "tensor_split": [lambda x: inner(x).tensor_split(2, -1)[1]],
    "unbind": [lambda x: inner(x).unbind(1)[2]],
    "flip": [lambda x: inner(x).flip(1), lambda x: torch.flip(inner(x), (-1,))],
    "roll": [lambda x: inner(x).roll(1, 1)],
    "pad": [lambda x: F.pad(inner(x), (1, 2))],
    "cat": [
        lambda x: torch.cat((inner(x), x), -1),
        lambda x: torch.cat((images(x), C4.expand(len(x), 1, 4)[..., :2]), 1),
    ],
    "concat": [lambda x: torch.concat((inner(x), x), 1)],
    "concatenate": [lambda x: torch.concatenate((inner(x), x), 1)],
    "stack": [lambda x: torch.stack((inner(x), positive(x)), -1)],
    "zeros_like": [lambda x: inner(x) + torch.zeros_like(inner(x))],
    "ones_like": [lambda x: inner(x) * torch.ones_like(inner(x))],
    "full_like": [lambda x: inner(x) * torch.full_like(inner(x), 2.0)],
    "new_zeros": [lambda x: inner(x) + inner(x).new_zeros(4)],
    "new_ones": [lambda x: inner(x) * inner(x).new_ones(len(x), 1)],
    "new_full": [lambda x: inner(x) * inner(x).new_full((4,), 2.0)],
    "new_tensor": [lambda x: inner(x) * inner(x).new_tensor([1.0, 2.0, 3.0, 4.0])],
    "to": [lambda x: inner(x).to(torch.float64)],
    "type_as": [lambda x: inner(x).type_as(x)],
    "double": [lambda x: inner(x).double()],
    "sum": [lambda x: inner(x).sum(-1), lambda x: images(x).sum((1, 2)), lambda x: inner(x).sum(1, keepdim=True)],
    "nansum": [lambda x: inner(x).sum(1)],
    "mean": [lambda x: inner(x).mean(1), lambda x: images(x).mean(dim=(-1, -2), keepdim=True)],
    "cumsum": [lambda x: inner(x).cumsum(1)],
    "prod": [lambda x: positive(x).prod(1), lambda x: torch.prod(positive(x), -1, keepdim=True)],
    "var": [lambda x: inner(x).var(1), lambda x: inner(x).var(-1, correction=0, keepdim=True)],
    "norm": [lambda x: positive(x).norm(dim=1)],
    "vector_norm": [lambda x: torch.linalg.vector_norm(positive(x), dim=-1, keepdim=True)],
    "softmax": [lambda x: torch.softmax(inner(x), -1), lambda x: F.softmax(inner(x), dim=1)],
    "layer_norm": [lambda x: F.layer_norm(inner(x), (4,), C4, C4.sin())],
    "dropout": [lambda x: F.dropout(inner(x), 0.5, training=False)],
    **{name: [lambda x, name=name: jet_function(name)(unit(x))] for name in jet_towers.SMOOTH},  # type: ignore[misc]
}
IN_PLACE = {"add_", "sub_", "mul_", "div_", "addcmul_"}
FIRST_ORDER = set(jet_towers.KINKED)
PLAIN = {"empty_like", "rand_like", "randn_like"}


def unit(x: Tensor) -> Tensor:
    """In (0.1, 0.9)."""
    return 0.5 + 0.4 * inner(x)


def jet_function(name: str) -> Callable[[Tensor], Tensor]:
    if name == "acosh":
        return lambda z: torch.acosh(1 + z)
    if name == "silu":
        return F.silu
    return getattr(torch, name, None) or getattr(torch.special, name)


def test_every_rule_has_a_case_here() -> None:
    assert set(jet_rules.RULES) == set(OPERATIONS) | IN_PLACE | FIRST_ORDER | PLAIN


@pytest.mark.parametrize(
    ("name", "case"), [(name, i) for name, cases in sorted(OPERATIONS.items()) for i in range(len(cases))]
)
def test_every_operation_carries_derivatives_as_autograd_has_them(name: str, case: int) -> None:
    f, x = OPERATIONS[name][case], points(4, 3)
    wanted = [(0, 0, 0), (1, 0, 0), (0, 1, 1), (2, 0, 1), (3, 0, 0)]

    def flat(y: Tensor) -> Tensor:
        out = f(y)
        return out.reshape(len(x), -1)

    close(jets.jet(flat, x, wanted), jets.jet(flat, x, wanted, "autograd"), 1e-11)
