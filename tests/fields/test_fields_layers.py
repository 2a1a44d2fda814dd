"""Layer fields equal their formulas; their bounds hold and are attained; the registry is swept."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import odenet as on
from odenet import fields
from odenet.errors import BadInput, Incompatible
from odenet.fields import OFFERS, Conv, Dense, FirstOrder, Free, Parabolic, SecondOrder, activations

pytestmark = pytest.mark.usefixtures("double")

METHODS = {
    "separable": ("kick", "drift"),
    "energy": ("energy",),
    "lipschitz": ("lipschitz_bound",),
    "lognorm": ("lognorm_bound",),
    "step": ("step_bound",),
    "monotone": ("lipschitz_bound",),
    "potential": ("potential",),
    "exact": ("exact",),
}
PHYSICAL = {"harmonic_oscillator": 2, "pendulum": 2, "kepler": 4, "lotka_volterra": 2, "van_der_pol": 2, "lorenz": 3}


def registered(name: str) -> tuple[on.Field, tuple[int, ...]]:
    """A field of the registry and the shape of one sample of its state."""
    if name in PHYSICAL:
        return fields.get(name)(), (PHYSICAL[name],)
    field = fields.get(name)(6).eval()
    return field, (6,) if field.axis == -1 else (field.dim, 4, 4)


def weights(field: on.Field, seed: int = 1) -> dict[str, Tensor]:
    """Effective weights with a bias, so that no term hides behind a zero."""
    g = torch.Generator().manual_seed(seed)
    p = field.init(g)
    return field.constrain({k: v + 0.3 * torch.randn(v.shape, generator=g).abs() for k, v in p.items()})


def state(sample: int | tuple[int, ...], batch: int = 5) -> Tensor:
    shape = (sample,) if isinstance(sample, int) else sample
    return 0.5 + torch.rand(batch, *shape)  # positive: logarithms and 1/r are defined


# ---- the registry --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fields.names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_field_keeps_shape_and_dtype_and_treats_samples_one_by_one(name: str, dtype: torch.dtype) -> None:
    field, width = registered(name)
    p = {k: v.to(dtype) for k, v in weights(field).items()}
    y = state(width).to(dtype)
    f = field(0.3, y, p)
    assert f.shape == y.shape and f.dtype == dtype
    alone = torch.cat([field(0.3, y[i : i + 1], p) for i in range(len(y))])
    torch.testing.assert_close(
        f, alone, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=1e-6 * (dtype != torch.float64)
    )


@pytest.mark.parametrize("name", fields.names())
def test_forward_writes_nothing_and_leaves_no_graph(name: str) -> None:
    field, width = registered(name)
    stored = field.init(torch.Generator().manual_seed(0))
    kept, y = {k: v.clone() for k, v in stored.items()}, state(width)
    before, attributes = y.clone(), dict(vars(field))
    p = field.constrain(stored)
    first = field(0.0, y, p)
    assert torch.equal(first, field(0.0, y, p)) and torch.equal(y, before) and not first.requires_grad
    assert all(torch.equal(stored[k], kept[k]) for k in kept)
    assert not field.state_dict() and vars(field) == attributes
    assert not list(field.parameters()) and not list(field.buffers())


@pytest.mark.parametrize("name", fields.names())
def test_one_generator_state_gives_one_set_of_weights(name: str) -> None:
    field, _ = registered(name)
    state_before = torch.random.get_rng_state()
    first, again, other = (field.init(torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state_before)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not first or any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("name", fields.names())
def test_what_a_field_offers_exists_and_what_it_does_not_offer_is_refused_or_absent(name: str) -> None:
    field, width = registered(name)
    p, y = weights(field), state(width)
    assert field.offers <= set(OFFERS)
    for offer, methods in METHODS.items():
        for method in methods:
            if offer in field.offers:
                assert callable(getattr(field, method))
            elif hasattr(field, method) and not any(method in METHODS[o] for o in field.offers):
                half = field.split(y)[0] if method in ("kick", "drift") else y
                arguments = {"kick": (0.0, half, p), "drift": (0.0, half, p), "exact": (0.0, y[0])}
                with pytest.raises(Incompatible, match=f"offers .*, so no {offer}"):
                    getattr(field, method)(*arguments.get(method, (p,) if "bound" in method else (y, p)))


@pytest.mark.parametrize("name", [n for n in fields.names() if "separable" in registered(n)[0].offers])
def test_a_separable_field_is_its_drift_beside_its_kick(name: str) -> None:
    field, width = registered(name)
    p, y = weights(field), state(width)
    q, momentum = field.split(y)
    assert torch.equal(field(0.1, y, p), torch.cat((field.drift(0.1, momentum, p), field.kick(0.1, q, p)), -1))


@pytest.mark.parametrize("make", [
    lambda: Free(4, norm="batch"), lambda: Free(4, layers=2), lambda: Parabolic(4, norm="tv"),
    lambda: Parabolic(4, activation="sin"), lambda: Parabolic(4, activation="softplus"),
    lambda: SecondOrder(4, norm="batch"), lambda: FirstOrder(SecondOrder(4, norm="batch")),
    lambda: fields.SeparableHamiltonian(4, layers=1), lambda: fields.SeparableHamiltonian(4, norm="tv"),
    lambda: fields.HamiltonianJ(4, activation="swish"), lambda: fields.HamiltonianJ(4, form="h1"),
])  # fmt: skip
def test_a_setting_that_loses_an_offer_loses_its_methods(make: object) -> None:
    """Free(layers=2).lipschitz_bound would be a wrong number: it knows one layer."""
    field = make()  # type: ignore[operator]
    p, lost = field.init(), 0
    y = torch.randn(3, 4)
    calls = {"lipschitz": ("lipschitz_bound", (p,)), "lognorm": ("lognorm_bound", (p,)), "energy": ("energy", (y, p)),
             "potential": ("potential", (y, p)), "separable": ("kick", (0.0, y[:, :2], p))}  # fmt: skip
    for offer, (method, arguments) in calls.items():
        if offer not in field.offers and hasattr(field, method):
            lost += 1
            with pytest.raises(Incompatible, match=f"so no {offer}"):
                getattr(field, method)(*arguments)
    assert lost


# ---- formulas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_free_is_s_of_k_y_plus_b(activation: str) -> None:
    field = Free(4, activation=activation)
    p, y = weights(field), torch.randn(5, 4)
    torch.testing.assert_close(
        field(0.0, y, p), getattr(torch, activation)(y @ p["K"].T + p["b"]), rtol=1e-13, atol=1e-14
    )


def test_free_with_two_layers_a_hidden_width_and_a_control() -> None:
    field = Free(4, layers=2, hidden=7, inputs=2)
    p, y, u = weights(field), torch.randn(5, 4), torch.randn(5, 2)
    assert {k: tuple(v.shape) for k, v in p.items()} == {"K": (7, 4), "b": (7,), "V": (7, 2), "K2": (4, 7)}
    by_hand = torch.tanh(y @ p["K"].T + u @ p["V"].T + p["b"]) @ p["K2"].T
    torch.testing.assert_close(field(0.0, y, {**p, "u": u}), by_hand, rtol=1e-13, atol=1e-14)


def test_antisymmetric_is_s_of_w_minus_its_transpose_minus_gamma() -> None:
    field = fields.Antisymmetric(4, gamma=0.2)
    stored, y = field.init(torch.Generator().manual_seed(0)), torch.randn(5, 4)
    W, b = stored["K"], stored["b"]
    by_hand = torch.tanh(y @ (W - W.T - 0.2 * torch.eye(4)).T + b)
    torch.testing.assert_close(field(0.0, y, field.constrain(stored)), by_hand, rtol=1e-13, atol=1e-14)


def test_parabolic_is_minus_k_transposed_s_and_so_is_a_second_order_force() -> None:
    for field in (Parabolic(4, hidden=7), SecondOrder(4, hidden=7)):
        p, y = weights(field), torch.randn(5, 4)
        assert p["K"].shape == (7, 4)
        torch.testing.assert_close(
            field(0.0, y, p), -torch.tanh(y @ p["K"].T + p["b"]) @ p["K"], rtol=1e-13, atol=1e-14
        )


def test_first_order_is_velocity_beside_force() -> None:
    force = SecondOrder(3)
    p, y = weights(force), torch.randn(5, 6)
    out = FirstOrder(force)(0.0, y, p)
    assert torch.equal(out[:, :3], y[:, 3:]) and torch.equal(out[:, 3:], force(0.0, y[:, :3], p))
    velocity = 0.5 * (y[:, 3:] ** 2).sum(1)
    assert torch.equal(FirstOrder(force).energy(y, p), velocity + force.potential(y[:, :3], p))


def test_tv_norm_is_equation_9_of_ruthotto_and_haber() -> None:
    field = Parabolic(3, map="conv2d", norm="tv", hidden=4)
    p, y = weights(field), torch.randn(2, 3, 5, 4)
    z = torch.nn.functional.conv2d(y, p["K"], padding=1)
    z = z / torch.sqrt((z**2).sum(1, keepdim=True) + 1e-3)
    z = torch.tanh(z * p["scale"][:, None, None] + p["shift"][:, None, None])
    by_hand = -torch.nn.functional.conv_transpose2d(z, p["K"], padding=1)
    torch.testing.assert_close(field(0.0, y, p), by_hand, rtol=1e-12, atol=1e-13)


# ---- Jacobians and bounds ------------------------------------------------------------------------------------------


def jacobian(field: on.Field, y: Tensor, p: dict[str, Tensor]) -> Tensor:
    return torch.autograd.functional.jacobian(lambda x: field(0.0, x[None], p)[0], y)


def test_the_jacobian_of_a_parabolic_field_is_symmetric_and_not_positive() -> None:
    field = Parabolic(5, hidden=8)
    p, y = weights(field), torch.randn(5)
    J = jacobian(field, y, p)
    D = torch.diag(1 - torch.tanh(y @ p["K"].T + p["b"]) ** 2)
    torch.testing.assert_close(J, -p["K"].T @ D @ p["K"], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(J, J.T, rtol=0.0, atol=1e-13)
    assert float(torch.linalg.eigvalsh(J)[-1]) <= 1e-13


@pytest.mark.parametrize("name", [n for n in activations.names() if activations.get(n).slope[0] >= 0.0])
def test_a_parabolic_field_is_minus_the_gradient_of_its_potential(name: str) -> None:
    field = Parabolic(4, hidden=6, activation=name)
    if "potential" not in field.offers:
        assert activations.get(name).primitive is None
        return
    p, y = weights(field), torch.randn(3, 4, requires_grad=True)
    phi = field.potential(y, p)
    assert phi.shape == (3,)
    (grad,) = torch.autograd.grad(phi.sum(), y)
    torch.testing.assert_close(field(0.0, y, p), -grad, rtol=1e-10, atol=1e-11)


LIPSCHITZ = [n for n in activations.names() if not math.isnan(activations.get(n).lipschitz)]
MONOTONE = [n for n in activations.names() if activations.get(n).slope[0] >= 0.0]


@pytest.mark.parametrize("name", MONOTONE)
@pytest.mark.parametrize(("map", "shape"), [(None, (4,)), (Dense(4, 7), (4,)), (Conv(2, 3, 3, 2), (2, 5, 4))])
def test_bounds_of_a_parabolic_field_hold_on_random_pairs(name: str, map: object, shape: tuple[int, ...]) -> None:
    field = Parabolic(shape[0], activation=name, map=map)  # type: ignore[arg-type]
    p = weights(field)
    u = 3 * torch.randn(200, *shape)
    v = u + torch.randn(200, *shape) * torch.logspace(-3, 1, 200).reshape(-1, *[1] * len(shape))
    df, d = (field(0.0, u, p) - field(0.0, v, p)).flatten(1), (u - v).flatten(1)
    inner, square = (df * d).sum(1), (d**2).sum(1)
    L, mu = float(field.lipschitz_bound(p)), float(field.lognorm_bound(p))
    slack = 1e-9 * square
    assert bool((df.norm(dim=1) <= L * d.norm(dim=1) + 1e-9 * d.norm(dim=1)).all())
    assert bool((inner <= mu * square + slack).all()) and mu <= 0.0
    assert bool((inner <= -(df**2).sum(1) / L + slack).all())  # monotone: co-coercive with constant 1/L


@pytest.mark.parametrize("name", LIPSCHITZ)
def test_the_lipschitz_bound_of_a_free_field_holds(name: str) -> None:
    field = Free(4, activation=name)
    p = weights(field)
    u, v = 3 * torch.randn(300, 4), 3 * torch.randn(300, 4)
    rate = (field(0.0, u, p) - field(0.0, v, p)).norm(dim=1) / (u - v).norm(dim=1)
    assert float(rate.max()) <= float(field.lipschitz_bound(p)) * (1 + 1e-12)
    torch.testing.assert_close(
        field.lipschitz_bound(p), torch.linalg.svdvals(p["K"])[0] * activations.get(name).lipschitz
    )


def test_the_bounds_are_attained_where_the_slope_is() -> None:
    """At K y + b = 0 tanh has slope 1, so |J| is the bound; the identity attains the logarithmic norm too."""
    for field, norm in ((Free(4), 1), (Parabolic(4), 2)):
        p = weights(field)
        y = torch.linalg.solve(p["K"], -p["b"])
        assert field.lipschitz_bound(p).shape == ()
        top = torch.linalg.svdvals(p["K"])[0] ** norm
        torch.testing.assert_close(torch.linalg.svdvals(jacobian(field, y, p))[0], top, rtol=1e-9, atol=0.0)
        torch.testing.assert_close(field.lipschitz_bound(p), top, rtol=1e-12, atol=0.0)
    linear = Parabolic(4, hidden=6, activation="identity")
    p = weights(linear)
    mu = torch.linalg.eigvalsh(jacobian(linear, torch.randn(4), p))[-1]
    torch.testing.assert_close(linear.lognorm_bound(p), mu, rtol=1e-10, atol=0.0)
    wide = Parabolic(4, hidden=3, activation="identity")  # K has a kernel: nothing is damped there
    assert float(wide.lognorm_bound(weights(wide))) == 0.0


def test_bounds_of_a_stack_of_weights_are_those_of_each() -> None:
    field = Parabolic(4, activation="leaky_relu")
    each = [weights(field, s) for s in range(3)]
    stack = {k: torch.stack([p[k] for p in each]) for k in each[0]}
    for bound in (field.lipschitz_bound, field.lognorm_bound):
        torch.testing.assert_close(bound(stack), torch.stack([bound(p) for p in each]))
    assert Parabolic(4).lognorm_bound(stack).shape == (3,)


def test_an_euler_layer_of_a_gradient_flow_is_non_expansive_up_to_h_k_squared_2_and_not_beyond() -> None:
    field = Parabolic(4, constraint=fields.SpectralCap(1.0))
    p = field.constrain({"K": 5 * torch.randn(4, 4), "b": torch.zeros(4)})
    torch.testing.assert_close(field.lipschitz_bound(p), torch.tensor(1.0))
    right = torch.linalg.svd(p["K"]).Vh[0]
    u = torch.cat((torch.randn(400, 4), 1e-6 * right[None]))
    v = torch.cat((torch.randn(400, 4), -1e-6 * right[None]))

    def growth(h: float) -> float:
        moved = u + h * field(0.0, u, p) - v - h * field(0.0, v, p)
        return float((moved.norm(dim=1) / (u - v).norm(dim=1)).max())

    assert growth(1.0) <= 1.0 and growth(2.0) <= 1.0 + 1e-12
    assert abs(growth(2.0) - 1.0) < 1e-9 and abs(growth(2.1) - 1.1) < 1e-9 and abs(growth(3.0) - 2.0) < 1e-9


def test_initial_weights_have_the_stated_spread() -> None:
    g = torch.Generator().manual_seed(0)
    p = Free(200, layers=2, hidden=300, inputs=50, gain=2.0).init(g)
    for name, deviation in (("K", 2 / 200**0.5), ("V", 50**-0.5), ("K2", 2 / 300**0.5)):
        assert abs(float(p[name].std()) / deviation - 1) < 0.02 and abs(float(p[name].mean())) < 0.02 * deviation
    assert not p["b"].any()
    conv = Parabolic(20, map=Conv(20, 30, 5, 2)).init(g)["K"]
    assert abs(float(conv.std()) * (20 * 25) ** 0.5 - 1) < 0.02


WRONG = [
    (lambda: Free(2.0), "width 2.0"),
    (lambda: Free(4, layers=3), "layers=3"),
    (lambda: Free(4, hidden=5), "hidden=5 needs a second layer"),
    (lambda: Free(4, map=Dense(4, 6)), "from 4 to 6 features; here it goes from 4 to 4"),
    (lambda: Parabolic(4, map=Dense(5, 5)), "from 5 to 5 features"),
    (lambda: Parabolic(4, hidden=-1), "hidden is a positive whole number"),
    (lambda: Free(4, norm="layer"), "norm 'layer' is not known"),
    (lambda: SecondOrder(Free(4), gain=2.0), "give those to the field"),
    (lambda: fields.Antisymmetric(4, gamma=-0.1), "gamma=-0.1"),
    *[(lambda m=m, d=d: m(4, dropout=d), "dropout is a probability") for d in (1.0, -0.1, float("nan"))
      for m in (Free, Parabolic, SecondOrder, fields.SeparableHamiltonian, fields.HamiltonianJ)],
]  # fmt: skip


@pytest.mark.parametrize(("build", "sentence"), WRONG)
def test_a_layer_that_cannot_be_is_refused_with_a_sentence(build: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        build()  # type: ignore[operator]
