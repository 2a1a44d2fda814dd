"""Every operation that a jet knows carries derivatives as nested autograd has them; the others are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jets_examples import close, mlp, points
from odenet.errors import BadInput, Incompatible
from odenet.fields import activations, jet_rules, jet_towers, jets

pytestmark = pytest.mark.usefixtures("double")

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
    "layer_norm": [lambda x: normalised(inner(x)) if type(x) is Tensor else F.layer_norm(inner(x), (4,), C4, C4.sin())],
    "dropout": [lambda x: F.dropout(inner(x), 0.5, training=False)],
    **{name: [lambda x, name=name: jet_function(name)(unit(x))] for name in jet_towers.SMOOTH},  # type: ignore[misc]
}
IN_PLACE = {"add_", "sub_", "mul_", "div_", "addcmul_"}
FIRST_ORDER = set(jet_towers.KINKED)
PLAIN = {"empty_like", "rand_like", "randn_like"}


def normalised(y: Tensor) -> Tensor:
    """layer_norm by its formula: torch's own has wrong third derivatives under autograd."""
    gap = y - y.mean(1, keepdim=True)
    return gap / torch.sqrt((gap * gap).mean(1, keepdim=True) + 1e-5) * C4 + C4.sin()


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


def test_plain_layer_norm_agrees_where_autograd_is_right() -> None:
    net, x = nn.Sequential(nn.Linear(2, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 1)), points(4, 2)
    wanted = [(0, 0), (1, 0), (1, 1)]
    close(jets.jet(net, x, wanted), jets.jet(net, x, wanted, "autograd"))


@pytest.mark.parametrize("name", activations.names())
def test_every_activation_carries_what_it_has(name: str) -> None:
    s, x = activations.get(name), points(6, 2)
    net = nn.Sequential(nn.Linear(2, 6), activations.layer(name), nn.Linear(6, 1))
    if name in ("sign", "step"):
        with pytest.raises(Incompatible, match="kink"):
            jets.jet(net, x, [(1, 0)])
        return
    first = [(0, 0), (1, 0), (0, 1)]
    close(jets.jet(net, x, first), jets.jet(net, x, first, "autograd"))
    wanted = [(2, 0), (1, 1), (0, 4), (2, 2)]
    if s.smooth:
        close(jets.jet(net, x, wanted), jets.jet(net, x, wanted, "autograd"))
    else:
        with pytest.raises(Incompatible, match="has a kink"):
            jets.jet(net, x, wanted)


def test_in_place_sums_of_fresh_values_are_followed_and_others_refused() -> None:
    x = points(4, 2)

    def f(y: Tensor) -> Tensor:
        z = torch.sin(y)
        z.add_(y, alpha=2).mul_(z + 1).sub_(0.5).div_(2.0).addcmul_(y, y, value=0.1)
        return z

    def plain(y: Tensor) -> Tensor:
        z = torch.sin(y) + 2 * y
        return (z * (z + 1) - 0.5) / 2 + 0.1 * y * y

    wanted = [(0, 0), (2, 0), (1, 0)]
    close(jets.jet(f, x, wanted), jets.jet(plain, x, wanted, "autograd"))
    with pytest.raises(Incompatible, match="in place"):
        jets.jet(lambda y: torch.sin(y)[:, :1].add_(1.0), x, wanted)
    with pytest.raises(Incompatible, match="in place"):
        jets.jet(lambda y: y.add_(1.0), x, wanted)


def test_a_value_that_another_one_views_is_not_changed_in_place() -> None:
    z = torch.sin(jets.lift(points(3, 2), [(1, 0)]))
    column = z[:, :1]
    with pytest.raises(Incompatible, match="in place"):
        z.add_(1.0)
    assert torch.equal(column.detach(), torch.sin(points(3, 2))[:, :1])


def mutated(y: Tensor) -> Tensor:
    y[:, 0] = 0.0
    return y


REFUSED: dict[str, tuple[Op, str]] = {
    "a function without a rule": (lambda y: torch.hypot(y, y), "'hypot'"),
    "in place": (lambda y: torch.sin(y).exp_(), "in place"),
    "written into": (mutated, "written into"),
    "comparison": (lambda y: y if bool((y > 0).all()) else -y, "not compared"),
    "maximum": (lambda y: torch.maximum(y, -y), "kinks"),
    "clamp": (lambda y: y.clamp(min=0.0), "kinks"),
    "relu at second order": (torch.relu, "relu has a kink"),
    "abs at zero": (lambda y: abs(y - y.detach()), "no derivative at 0"),
    "batch norm": (nn.BatchNorm1d(2), "other points"),
    "samples summed": (lambda y: y - y.mean(0), "samples"),
    "samples summed altogether": (lambda y: y / y.sum(), "samples"),
    "samples chosen": (lambda y: y[:2], "samples"),
    "samples moved": (lambda y: y.transpose(0, 1), "samples"),
    "samples joined": (lambda y: torch.cat((y, y)), "samples"),
    "samples multiplied": (lambda y: torch.ones(2, 4) @ y, "mix samples"),
    "samples paired": (lambda y: y[:, :1] * y[:, 0], "pair different samples"),
    "constants paired": (lambda y: y[:, 0] - torch.ones(4, 1), "pair different samples"),
    "another number of samples": (lambda y: y + torch.ones(3, 2), "numbers of samples"),
    "a number": (lambda y: y * y[0, 0].item(), "samples"),
    "an attribute": (lambda y: y.T, "attribute 'T'"),
    "einsum over samples": (lambda y: torch.einsum("ni,nj->ij", y, y), "samples first"),
    "padding by a constant": (lambda y: F.pad(y, (1, 1), value=2.0), "zeros"),
    "a tuple": (lambda y: (y, y), "one tensor"),  # type: ignore[dict-item, return-value]
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_what_cannot_be_carried_is_refused_in_a_sentence(what: str) -> None:
    f, says = REFUSED[what]
    with pytest.raises(Incompatible, match=says) as problem:
        jets.jet(f, points(4, 2), [(2, 0)])
    assert str(problem.value).endswith(".") and "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("x", "wanted", "says"),
    [
        (torch.rand(4, 3), [(2, 0)], r"\(N, 2\)"),
        (torch.rand(4), [(2,)], r"\(N, 1\)"),
        (torch.ones(4, 1, dtype=torch.int64), [(2,)], "floating-point"),
        (torch.rand(4, 1), [(5,)], "up to order 4"),
    ],
)
def test_points_and_orders_that_cannot_be_are_refused(x: Tensor, wanted: Any, says: str) -> None:
    for backend in ("jets", "autograd", "jvp"):
        with pytest.raises(BadInput, match=says):
            jets.jet(lambda y: y, x, wanted, backend)
    with pytest.raises(BadInput, match="backend 'taylor'"):
        jets.jet(lambda y: y, x, wanted, "taylor")


def test_jets_of_different_channels_do_not_mix() -> None:
    a, b = jets.lift(points(3, 1), [(1,)]), jets.lift(points(3, 1), [(2,)])
    with pytest.raises(Incompatible, match="different derivatives"):
        a * b


def test_single_precision_stays_single() -> None:
    net, x = mlp().float(), points(3, 2).float()
    got = jets.jet(net, x, [(0, 0), (2, 0)])
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, jets.jet(net, x, [(0, 0), (2, 0)], "autograd"), rtol=1e-4, atol=1e-5)
