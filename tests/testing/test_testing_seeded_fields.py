"""Fields, gradients and bases in depth with one bug each: the named check finds it; without the bug all pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from odenet.depth import PerStep
from odenet.errors import Incompatible
from odenet.fields import Field
from odenet.flow.gradient import Autograd
from odenet.testing import check_depth, check_field, check_gradient, check_integrator

J = [[0.0, 1.0], [-1.0, 0.0]]


class Swing(Field):
    """q' = p, p' = -sin q - a cos t, with all that it may offer but the exact solution; a = 0 keeps the energy."""

    offers = frozenset({"separable", "split", "jacobian"})

    def init(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return {"k": 1.0 + 0.1 * torch.rand((), generator=generator)}

    def forward(self, t: Any, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        q, v = self.split(y)
        return self.join(self.drift(t, v, p), self.kick(t, q, p))

    def kick(self, t: Any, q: Tensor, p: dict[str, Tensor]) -> Tensor:
        return -_weight(p["k"], q) * torch.sin(q)

    def drift(self, t: Any, v: Tensor, p: dict[str, Tensor]) -> Tensor:
        return v

    def implicit(self, t: Any, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        return -0.5 * y

    def explicit(self, t: Any, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        return Swing.forward(self, t, y, p) + 0.5 * y

    def jacobian(self, t: Any, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        q, _ = self.split(y)
        matrix = y.new_zeros(*y.shape, y.shape[-1])
        n = q.shape[-1]
        matrix[..., n:, :n] = torch.diag_embed(-_weight(p["k"], q) * torch.cos(q))
        matrix[..., :n, n:] = torch.eye(n, dtype=y.dtype)
        return matrix


def _weight(k: Tensor, like: Tensor) -> Tensor:
    return k.reshape(*k.shape, *[1] * like.dim()) if k.dim() else k


class Kept(Swing):
    """The same with its energy."""

    offers = Swing.offers | {"energy"}

    def energy(self, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        q, v = self.split(y)
        return (0.5 * v.square() - p["k"] * torch.cos(q)).sum(-1)


class Decay(Field):
    """y' = -y: linear, monotone, a gradient flow, contracting, and solved."""

    offers = frozenset({"linear", "potential", "lipschitz", "lognorm", "monotone", "exact", "noise"})

    def init(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return {}

    def forward(self, t: Any, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        return -y

    def linear(self, p: dict[str, Tensor]) -> Tensor:
        return -torch.ones(4, dtype=torch.float64)

    def nonlinear(self, t: Any, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        return torch.zeros_like(y)

    def potential(self, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        return 0.5 * y.square().sum(-1)

    def lipschitz_bound(self, p: dict[str, Tensor]) -> Tensor:
        return torch.tensor(1.0)

    def lognorm_bound(self, p: dict[str, Tensor]) -> Tensor:
        return torch.tensor(-1.0)

    def exact(self, t: float, y0: Tensor) -> Tensor:
        return y0 * torch.exp(torch.tensor(-t, dtype=y0.dtype))

    def diffusion(self, t: Any, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        return 0.1 * y


class Driven(Field):
    """y' = cos t - y."""

    def init(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return {}

    def forward(self, t: Any, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        return torch.cos(torch.as_tensor(t, dtype=y.dtype, device=y.device)) - y


@pytest.mark.parametrize("field", [Swing, Kept, Decay, Driven], ids=lambda f: f.__name__)
def test_the_sound_fields_pass_every_check(field: type[Field]) -> None:
    report = check_field(field)
    assert report.passed, report.table()


def wrong(kind: type[Field], **words: Any) -> type[Field]:
    """`kind` with something replaced."""
    return type("Wrong", (kind,), words)


def f_of(body: Any) -> type[Field]:
    """Decay with another right-hand side and no offers."""
    return wrong(Decay, forward=body, offers=frozenset())


def _batch(self, t, y, p):
    return -y + 1e-6 * y.mean(0, keepdim=True)


def _writes(self, t, y, p):
    return y.mul_(-1.0)


def _weights_detached(self, t, y, p):
    return Swing.forward(self, t, y, {k: v.detach() for k, v in p.items()})


def _state_detached(self, t, y, p):
    return -y.detach()


def _host_constant(self, t, y, p):
    return -y * torch.ones(y.shape[-1], dtype=y.dtype)


def _float64_constant(self, t, y, p):
    return -y * torch.ones(y.shape[-1], dtype=torch.float64, device=y.device)


def _float32_inside(self, t, y, p):
    return -y.float()


def _draws(self, t, y, p):
    return -y + 1e-9 * torch.randn_like(y)


def _nan_swallowed(self, t, y, p):
    return -torch.nan_to_num(y)


def _another_shape(self, t, y, p):
    return torch.cat((y, y))


def _time_of_the_first(self, t, y, p):
    t = torch.as_tensor(t, dtype=y.dtype)
    return torch.cos(t.flatten()[0]) - y


def _tensor_time_ignored(self, t, y, p):
    return -y * (1.0 if isinstance(t, float) else 2.0)


def _flat_kick(self, t, q, p):
    return -p["k"] * q


def _minus_jacobian(self, t, y, p):
    return -Swing.jacobian(self, t, y, p)


def _lost_explicit(self, t, y, p):
    return Swing.forward(self, t, y, p)


def _wrong_energy(self, y, p):
    q, v = self.split(y)
    return (0.5 * v.square() + p["k"] * torch.cos(q)).sum(-1)


def _own_seed(self, generator=None):
    return {"k": 1.0 + 0.1 * torch.rand(())}


def _mixed_depths(self, p):
    return {k: v - v.mean() + 1 for k, v in p.items()}


FIELDS: dict[str, tuple[type[Field], str]] = {
    "samples see each other": (f_of(_batch), "batch independence"),
    "the state written to": (f_of(_writes), "purity"),
    "random numbers": (f_of(_draws), "purity"),
    "weights detached": (wrong(Swing, forward=_weights_detached, offers=frozenset()), "gradients"),
    "the state detached": (f_of(_state_detached), "gradients"),
    "a constant on the host": (f_of(_host_constant), "device"),
    "a float64 constant": (f_of(_float64_constant), "dtype"),
    "float32 inside": (f_of(_float32_inside), "shape"),
    "nan made a number": (f_of(_nan_swallowed), "failure"),
    "one time for all samples": (f_of(_time_of_the_first), "time"),
    "another f where t is a tensor": (f_of(_tensor_time_ignored), "time"),
    "weights drawn elsewhere": (wrong(Swing, init=_own_seed), "weights"),
    "weights of different depths mixed": (wrong(Swing, constrain=_mixed_depths), "weights"),
    "a kick that is not f's": (
        wrong(Swing, kick=_flat_kick, forward=lambda self, t, y, p: Kept().forward(t, y, p), offers={"separable"}),
        "offers separable"),
    "a Jacobian of the wrong sign": (wrong(Swing, jacobian=_minus_jacobian), "offers jacobian"),
    "an explicit part that is all of f": (wrong(Swing, explicit=_lost_explicit), "offers split"),
    "an energy that is not kept": (wrong(Kept, energy=_wrong_energy), "offers energy"),
    "a linear part with a wrong entry": (
        wrong(Decay, linear=lambda self, p: torch.tensor([-1.0, -1.0, -1.0, 1.0]).double()), "offers linear"),
    "a potential of the wrong sign": (
        wrong(Decay, potential=lambda self, y, p: -Decay.potential(self, y, p)), "offers potential"),
    "a Lipschitz bound that is too small": (
        wrong(Decay, lipschitz_bound=lambda self, p: torch.tensor(0.9)), "offers lipschitz"),
    "a logarithmic norm that is too small": (
        wrong(Decay, lognorm_bound=lambda self, p: torch.tensor(-1.1)), "offers lognorm"),
    "growth that claims to be monotone": (
        wrong(Decay, forward=lambda self, t, y, p: y, offers=frozenset({"monotone"})), "offers monotone"),
    "a solution that runs backwards": (
        wrong(Decay, exact=lambda self, t, y0: Decay.exact(self, -t, y0)), "offers exact"),
    "noise of another shape": (wrong(Decay, diffusion=lambda self, t, y, p: y[:1]), "offers noise"),
}  # fmt: skip


@pytest.mark.parametrize("bug", FIELDS)
def test_the_bug_of_a_field_is_found_by_the_check_that_looks_for_it(bug: str) -> None:
    field, check = FIELDS[bug]
    report = check_field(field)
    assert check in {f.check for f in report.failures}, report.table()


# ---- gradients


class Sound(Autograd):
    """autograd under another name."""

    name = "mine"

    def __call__(self, march, y0, theta, **words):
        return self.told(super().__call__(march, *self.given(y0, theta), **words))

    def given(self, y0, theta):
        return y0, theta

    def told(self, y):
        return y


class LosesTheWeights(Sound):
    def given(self, y0, theta):
        return y0, {k: v.detach() for k, v in theta.items()}


class LosesTheStart(Sound):
    def given(self, y0, theta):
        return y0.detach() + 0 * y0, theta


class _Scaled(torch.autograd.Function):
    """Identity whose derivative is taken wrong by a factor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y, factor):
        return y.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx, g):
        return ctx.factor * g, None


class WrongSign(Sound):
    def told(self, y):
        return _Scaled.apply(y, -1.0)


class SlightlyOff(Sound):
    def told(self, y):
        return _Scaled.apply(y, 1.0 + 1e-6)


class OtherStates(Sound):
    def told(self, y):
        return y + 1e-9


class RefusesEverything(Sound):
    def check(self, march):
        raise Incompatible("not this march.")


GRADIENT_BUGS = [
    (LosesTheWeights, "derivatives"),
    (LosesTheStart, "derivatives"),
    (WrongSign, "derivatives"),
    (SlightlyOff, "derivatives"),
    (OtherStates, "result"),
    (RefusesEverything, "flows"),
]


def test_the_sound_gradient_passes_every_check() -> None:
    report = check_gradient(Sound)
    assert report.passed, report.table()


@pytest.mark.parametrize(("gradient", "check"), GRADIENT_BUGS, ids=lambda x: getattr(x, "__name__", x))
def test_the_bug_of_a_gradient_is_found(gradient: type[Sound], check: str) -> None:
    report = check_gradient(gradient)
    assert check in {f.check.split(" (")[0] for f in report.failures}, report.table()


# ---- depth


class Depths(PerStep):
    """One set of weights per interval, once more."""


def test_the_sound_depth_passes_every_check() -> None:
    report = check_depth(Depths)
    assert report.passed, report.table()


@pytest.mark.parametrize(
    ("words", "check"),
    [
        ({"constant": False}, "flags"),
        ({"local": False}, "flags"),
        ({"prolong": lambda self, c: torch.cat((c, c))}, "prolong"),
        ({"prolong": lambda self, c: c}, "prolong"),
        ({"restrict": lambda self, c: c[::2] + 1e-3}, "restrict"),
        ({"support": lambda self, n, intervals: (0,)}, "supports"),
        ({"gram": lambda self, knots: torch.eye(len(knots) - 1, dtype=torch.float64)}, "mass matrix"),
        ({"value": lambda self, parts, *place: PerStep.value(self, [x.detach() for x in parts], *place) + 0 * parts[0]},
         "gradients"),
    ],
)  # fmt: skip
def test_the_bug_of_a_depth_is_found(words: dict[str, Any], check: str) -> None:
    report = check_depth(type("Wrong", (Depths,), words))
    assert check in {f.check for f in report.failures}, report.table()


def test_a_plug_in_that_refuses_everything_does_not_pass() -> None:
    from odenet.integrators import Integrator

    class Refuses(Integrator):
        order = 1

        def step(self, f, t, y, h, carry, coef):
            raise Incompatible("not this field.")

    report = check_integrator(Refuses)
    assert [f.check for f in report.failures] == ["result"] and "not this field" in report.failures[0].sentence
