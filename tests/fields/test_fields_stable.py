"""Fields of continuous nets and fields with a proof: formulas by hand, bounds attained, V decreasing on solutions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import odenet as on
from odenet import fields
from odenet.errors import BadInput, Incompatible
from odenet.fields import MLP, Damped, Driven, Newton, SpectralNorm, Stable, Switching, maps

pytestmark = pytest.mark.usefixtures("double")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def effective(field: on.Field, seed: int = 0, spread: float = 0.5) -> dict[str, Tensor]:
    """Weights drawn and shaken (data of the field excepted), constraints applied."""
    g = generator(seed)
    p = {k: v if k in field.statistics else v + spread * torch.randn(v.shape, generator=g)
         for k, v in field.init(g).items()}  # fmt: skip
    return field.constrain(p)


# ---- perceptrons, motion, inputs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "hidden"), [(1, None), (2, None), (3, 7)])
@pytest.mark.parametrize("time", ["none", "concat"])
def test_an_mlp_is_the_torch_module_of_its_weights(layers: int, hidden: int | None, time: str) -> None:
    field = MLP(4, layers=layers, hidden=hidden, activation="softplus", time=time)
    p, y = effective(field), torch.randn(5, 4)
    cols = [4 + (time == "concat"), *[hidden or 4] * (layers - 1), 4]
    linears = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(cols)]
    for n, linear in enumerate(linears, start=1):
        linear.weight.data, linear.bias.data = p[f"K{n}"], p[f"b{n}"]
    parts = [m for linear in linears for m in (linear, torch.nn.Softplus())][:-1]
    x = torch.cat((y, torch.full((5, 1), 0.7)), 1) if time == "concat" else y
    torch.testing.assert_close(field(0.7, y, p), torch.nn.Sequential(*parts)(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(field(torch.full((5, 1), 0.7), y, p), field(0.7, y, p), rtol=0.0, atol=0.0)


def test_the_lipschitz_bound_of_a_linear_perceptron_is_attained() -> None:
    field = MLP(5, layers=1, time="concat")
    p = effective(field)
    norm = np.linalg.norm(p["K1"][:, :5].numpy(), 2)
    assert float(field.lipschitz_bound(p)) == pytest.approx(norm, rel=1e-13)


@pytest.mark.parametrize("velocity", [True, False])
@pytest.mark.parametrize("damping", [0.0, 0.3, "learned"])
def test_newton_is_motion_under_a_force_and_friction(velocity: bool, damping: float | str) -> None:
    field = Newton(6, velocity=velocity, damping=damping, hidden=5, time="concat")
    p, y = effective(field), torch.randn(4, 6)
    x, v = y[:, :3], y[:, 3:]
    gamma = damping if isinstance(damping, float) else float(p["gamma"])
    seen = torch.cat((y if velocity else x, torch.full((4, 1), 0.2)), 1)
    force = torch.tanh(seen @ p["K1"].T + p["b1"]) @ p["K2"].T + p["b2"]
    torch.testing.assert_close(field(0.2, y, p), torch.cat((v, force - gamma * v), 1), rtol=1e-13, atol=1e-13)
    assert ("separable" in field.offers) == (not velocity and damping == 0.0)


def test_learned_damping_starts_at_the_published_guess_and_stays_a_damping() -> None:
    field = Newton(4, velocity=False, damping="learned")
    assert float(field.constrain(field.init())["gamma"]) == pytest.approx(1 / (1 + math.exp(3)))
    for raw in (-50.0, 0.0, 50.0):
        assert 0.0 <= float(field.constrain({**field.init(), "gamma": torch.tensor(raw)})["gamma"]) <= 1.0


def test_only_a_force_that_does_not_see_the_velocity_goes_with_verlet() -> None:
    """Verlet by hand: half a kick, a drift, half a kick."""
    with pytest.raises(Incompatible, match="'verlet' needs a separable field; Newton offers none"):
        on.Flow(Newton(6), "verlet")
    with pytest.raises(Incompatible, match="'verlet' needs a separable field"):
        on.Flow(Newton(6, velocity=False, damping=0.1), "verlet")
    flow = on.Flow(Newton(6, velocity=False), "verlet", steps=4, depth="shared")
    y, p = torch.randn(3, 6), {k: v[0] for k, v in flow.theta().items()}
    x, v = y[:, :3], y[:, 3:]

    def force(x: Tensor) -> Tensor:
        return torch.tanh(x @ p["K1"].T + p["b1"]) @ p["K2"].T + p["b2"]

    for _ in range(4):
        v = v + 0.125 * force(x)
        x = x + 0.25 * v
        v = v + 0.125 * force(x)
    torch.testing.assert_close(flow(y), torch.cat((x, v), 1), rtol=1e-12, atol=1e-13)


def test_newton_with_a_linear_force_is_the_damped_oscillator() -> None:
    """x'' = -4 x - 0.6 x': x = e^(-0.3 t)(cos w t + 0.3/w sin w t), w^2 = 4 - 0.09."""
    field = Newton(2, layers=1, velocity=False, damping=0.6)
    p = {"K1": torch.tensor([[-4.0]]), "b1": torch.zeros(1)}
    w = math.sqrt(4 - 0.09)
    t = torch.linspace(0, 5, 11)
    found = on.solve(lambda t, y: field(t, y, p), torch.tensor([[1.0, 0.0]]), t, rtol=1e-10, atol=1e-12).y[:, 0, 0]
    exact = torch.exp(-0.3 * t) * (torch.cos(w * t) + 0.3 / w * torch.sin(w * t))
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-8)


def test_a_driven_layer_sees_its_input_at_every_depth_and_leaves_it_alone() -> None:
    field = Driven(7, inputs=3, constraint="free")
    p, y = effective(field), torch.randn(5, 7)
    x, u = y[:, :4], y[:, 4:]
    by_hand = torch.tanh(x @ p["K"].T + u @ p["V"].T + p["b"])
    torch.testing.assert_close(field(0.0, y, p), torch.cat((by_hand, torch.zeros(5, 3)), 1), rtol=1e-13, atol=0.0)


# ---- constraints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotating", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_damped_matrix_has_a_logarithmic_norm_of_at_most_minus_eps(rotating: bool, seed: int) -> None:
    W = 3.0 * torch.randn(2, 6, 6, generator=generator(seed))
    A = Damped(0.1, rotating).apply(W, maps.Dense(6, 6)).numpy()
    top = np.linalg.eigvalsh((A + A.transpose(0, 2, 1)) / 2).max()
    assert top <= -0.1 + 1e-12 and (np.linalg.eigvals(A).real <= -0.1 + 1e-12).all()
    assert rotating == bool(np.abs(A - A.transpose(0, 2, 1)).max() > 1e-3)


def test_every_matrix_with_enough_damping_is_a_damped_one() -> None:
    """S from above the diagonal, R from the Cholesky factor of -(sym + eps I) read backwards."""
    B = np.random.default_rng(0).normal(size=(5, 5))
    A = B - B.T - B @ B.T - 0.3 * np.eye(5)
    S, minus = (A - A.T) / 2, -(A + A.T) / 2 - 0.1 * np.eye(5)
    flip = np.eye(5)[::-1]
    R = (flip @ np.linalg.cholesky(flip @ minus @ flip) @ flip).T  # lower, with R^T R = minus
    W = torch.from_numpy(np.triu(S, 1) + R)
    found = Damped(0.1).apply(W, maps.Dense(5, 5))
    torch.testing.assert_close(found, torch.from_numpy(A), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("map", [maps.Dense(4, 6), maps.Conv(3, 2, 3, 2)])
def test_spectral_norm_attains_its_bound(map: maps.LinearMap) -> None:
    W = torch.randn(2, *map.shape, generator=generator())
    K = SpectralNorm(1.5).apply(W, map)
    torch.testing.assert_close(map.norm(K), torch.full((2,), 1.5), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(K / W, (K / W)[(slice(None), *[slice(0, 1)] * len(map.shape))].expand_as(W))


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda: Damped(0.0), "Damped got eps=0"),
    (lambda: SpectralNorm(0.0), "SpectralNorm got size=0"),
    (lambda: fields.Free(4, map="conv2d", constraint="damped"), "it needs a square map"),
    (lambda: MLP(0), "MLP got width 0"), (lambda: MLP(3, layers=0), "layers=0"),
    (lambda: MLP(3, time="both"), "time 'both' is not known"), (lambda: MLP(3, hidden=0), "hidden is a positive"),
    (lambda: Newton(5), "Newton got width 5"), (lambda: Newton(4, damping=-1.0), "damping=-1.0; friction is >= 0"),
    (lambda: Driven(4, inputs=4), "Driven got width 4"), (lambda: Switching(0), "Switching got width 0"),
    (lambda: Switching(4, activation="step"), "Switching needs slopes, which 'step'"),
    (lambda: Stable(4, eps=0.0), "Stable needs rate >= 0, eps > 0"), (lambda: Stable(4, convex=0), "convex=0"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(make: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


# ---- switching -----------------------------------------------------------------------------------------------------


def test_the_two_slopes_make_the_published_contractive_and_expansive_layers() -> None:
    h_c, h_e, a, y = 1.1, 0.7, 0.3, torch.randn(5, 4)
    for slopes, by_hand in (
        ((-a * h_c, -h_c), lambda A, b: -h_c * torch.nn.functional.leaky_relu(y @ A.T + b, a) @ A),
        ((0.0, h_e), lambda A, b: h_e * torch.relu(y @ A.T + b) @ A),
    ):
        field = Switching(4, slopes=slopes)
        p = effective(field)
        torch.testing.assert_close(p["K"] @ p["K"].T, torch.eye(4), rtol=0.0, atol=1e-13)
        torch.testing.assert_close(field(0.0, y, p), by_hand(p["K"], p["b"]), rtol=1e-13, atol=1e-14)


PATTERNS = [torch.tensor(s) for s in itertools.product((0.0, 1.0), repeat=3)]


def extremes(field: Switching, p: dict[str, Tensor], h: float) -> tuple[float, float, float]:
    """Over all 2^D on-off patterns of relu: largest |I + h J|, |J| and eigenvalue of J, J = K^T diag(slope) K."""
    alpha, beta = p["slopes"]
    K, eye = p["K"], torch.eye(3)
    J = torch.stack([K.T @ torch.diag(torch.where(s > 0, beta, alpha)) @ K for s in PATTERNS]).numpy()
    return (float(np.linalg.norm(eye.numpy() + h * J, 2, (1, 2)).max()),
            float(np.linalg.norm(J, 2, (1, 2)).max()), float(np.linalg.eigvalsh(J).max()))  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("h", [0.5, 2.0, -0.3])
def test_the_bounds_of_switching_hold_over_all_patterns_and_are_attained_for_orthogonal_kernels(
    seed: int, h: float
) -> None:
    slopes = tuple(torch.randn(2, generator=generator(seed + 100)).tolist())
    sharp, loose = Switching(3, slopes=slopes), Switching(3, slopes=slopes, constraint="free")
    for field in (sharp, loose):
        p = effective(field, seed)
        step, size, top = extremes(field, p, h)
        bounds = [float(b) for b in (field.step_bound(h, p), field.lipschitz_bound(p), field.lognorm_bound(p))]
        for seen, bound in zip((step, size, top), bounds):
            assert seen <= bound + 1e-12
            assert field is loose or seen == pytest.approx(bound, abs=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "leaky_relu", "elu", "hard_tanh"])
def test_the_step_bound_holds_between_any_two_states_for_other_activations(activation: str) -> None:
    for seed in range(10):
        field = Switching(5, slopes=(0.9, -1.8), activation=activation, constraint="free")
        p = effective(field, seed)
        u, v = (3 * torch.randn(200, 5, generator=generator(seed + k)) for k in (1, 2))
        apart = (u + field(0.0, u, p) - v - field(0.0, v, p)).norm(dim=1) / (u - v).norm(dim=1)
        assert float(apart.max()) <= float(field.step_bound(1.0, p)) + 1e-12


def test_learned_slopes_stay_within_their_limits_and_start_where_asked() -> None:
    field = Switching(4, slopes=(-1.5, -0.5), limits=(-2.0, 0.5))
    p = field.init(generator())
    torch.testing.assert_close(field.constrain(p)["slopes"], torch.tensor([-1.5, -0.5]), rtol=1e-12, atol=0.0)
    for raw in (-1e3, 1e3):
        slopes = field.constrain({**p, "slopes": torch.tensor([raw, -raw])})["slopes"]
        assert float(slopes.min()) >= -2.0 and float(slopes.max()) <= 0.5


def test_a_convolution_starts_as_an_isometry_and_its_contractive_step_does_not_expand() -> None:
    field, free = (Switching(3, slopes=(-1.0, -2.0), map="conv2d", constraint=c) for c in (None, "free"))
    drawn, x = free.init(generator(1)), torch.randn(4, 3, 6, 6)
    assert (drawn["K"].flatten(2) != 0).sum() == 9  # the middle of every stencil alone
    torch.testing.assert_close(free.map.apply(drawn["K"], x).norm(), x.norm())
    p = effective(field)
    u, v = torch.randn(50, 3, 6, 6), torch.randn(50, 3, 6, 6)
    apart = (u + field(0.0, u, p) - v - field(0.0, v, p)).flatten(1).norm(dim=1) / (u - v).flatten(1).norm(dim=1)
    assert float(apart.max()) <= 1.0 + 1e-12 and float(field.step_bound(1.0, p)) == pytest.approx(1.0, abs=1e-12)


# ---- stable fields -------------------------------------------------------------------------------------------------


def by_hand(y: Tensor, p: dict[str, Tensor], d: float = 0.1, eps: float = 0.01) -> Tensor:
    """V of Kolter & Manek, the corner of the relu written case by case."""

    def r(x: Tensor) -> Tensor:
        return torch.where(x <= 0, 0.0 * x, torch.where(x < d, x * x / (2 * d), x - d / 2))

    def c(y: Tensor) -> Tensor:
        z = r(y @ p["W1"].T + p["c1"])
        z = r(y @ p["W2"].T + z @ p["U2"].T + p["c2"])
        return (y @ p["W3"].T + z @ p["U3"].T)[:, 0]

    return r(c(y) - c(torch.zeros_like(y))) + eps * (y * y).sum(1)


@pytest.mark.parametrize("seed", range(4))
def test_v_is_the_published_formula_positive_definite_and_convex(seed: int) -> None:
    field = Stable(3)
    p = effective(field, seed)
    y, z = (2 * torch.randn(300, 3, generator=generator(seed + k)) for k in (1, 2))
    value = field.lyapunov(y, p)
    torch.testing.assert_close(value, by_hand(y, p), rtol=1e-12, atol=1e-13)
    assert float(field.lyapunov(torch.zeros(1, 3), p)) == 0.0
    assert bool((value >= 0.01 * (y * y).sum(1) - 1e-12).all())
    assert bool((field.lyapunov((y + z) / 2, p) <= (value + field.lyapunov(z, p)) / 2 + 1e-12).all())
    assert float(value.max()) > 0.3 * float((y * y).sum(1).max()) ** 0.5  # c takes part, not |y|^2 alone


@pytest.mark.parametrize("seed", range(4))
def test_the_stable_field_is_the_projection_with_the_gradient_of_autograd(seed: int) -> None:
    field = Stable(3, rate=0.2)
    p = effective(field, seed)
    y = torch.randn(50, 3, generator=generator(seed)).requires_grad_()
    value = by_hand(y, p)
    slope = torch.autograd.grad(value.sum(), y)[0]
    g = torch.tanh(y @ p["K1"].T + p["b1"]) @ p["K2"].T + p["b2"]
    excess = torch.relu((slope * g).sum(1) + 0.2 * value)
    expected = g - slope * (excess / (slope**2).sum(1))[:, None]
    torch.testing.assert_close(field(0.0, y, p), expected, rtol=1e-10, atol=1e-11)
    assert int((excess > 0).sum()) > 0


@pytest.mark.parametrize("seed", [2, 4])  # fields whose inner part alone makes V grow
@pytest.mark.parametrize("start", [(2.0, -1.0), (-1.5, 1.5)])
def test_v_decreases_at_its_rate_along_solutions_that_scipy_computes(seed: int, start: tuple[float, float]) -> None:
    field, t = Stable(2, rate=0.5, hidden=8), np.linspace(0.0, 1.0, 21)
    p = effective(field, seed)

    def path(f: on.Field) -> np.ndarray:
        """V(y(t))/(V(y(0)) e^(-t/2))."""
        y = solve_ivp(lambda t, y: f(t, torch.from_numpy(y)[None], p)[0].numpy(), (0.0, 1.0), start, t_eval=t,
                      rtol=1e-10, atol=1e-12).y  # fmt: skip
        v = field.lyapunov(torch.from_numpy(y.T.copy()), p).numpy()
        return v / (v[0] * np.exp(-0.5 * t))

    assert path(field).max() <= 1 + 1e-7
    assert path(MLP(2, hidden=8)).max() > 1.5
