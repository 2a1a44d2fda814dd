"""`check_field`: a right-hand side held against what a field promises and against what it offers."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import fields
from ..errors import BadInput
from ..fields import Field
from ..types import Params, State
from .accelerator import AWAY, Accelerator, Away, MixedDevices
from .method import Check, Skip, carried_out, check, difference, held, said
from .report import Finding, Report

CHECKS: dict[str, Check] = {}
_T = 0.3
_SHAPES = ((3, 4), (3, 2), (3, 3), (3, 1), (3, 6), (3, 8), (2, 3, 8), (2, 4, 8, 8), (2, 3, 8, 8), (2, 8, 8, 8))


@dataclass(frozen=True)
class Trial:
    """A field with one set of weights, raw and effective, and a state that it takes."""

    field: Field
    raw: Params
    p: Params
    y: State

    def f(self, y: State, p: Params | None = None) -> State:
        """f(t, y; p) at a fixed time."""
        return self.field(_T, y, self.p if p is None else p)

    @property
    def coupled(self) -> bool:
        """Whether samples may see each other, as under batch statistics, or there is no batch."""
        return bool(self.field.statistics) or self.y.dim() < 2


def check_field(obj: Any, y: State | None = None) -> Report:
    """Hold a field against the contract of `Field` and each of its offers.

    obj: a registered name, a Field, a class or maker of one, or anything that `wrap` takes
    y:   a state, batch first; left out, the first of the usual shapes that the field takes
    Shape, dtype, device, purity, batches, gradients; separable and split parts, Jacobian, energy, potential, bounds and
    exact solution against f itself. Choose it while you write a field. Raises BadInput for what is no field.
    """
    field = _made(obj)
    trial = Trial(field, *_weights(field), _state(field, y))
    findings = [found for name, function in CHECKS.items() for found in carried_out(name, function, trial)]
    name = obj if isinstance(obj, str) else type(field).__name__
    return Report(f"field {name!r}", tuple(findings))


def _made(obj: Any) -> Field:
    obj = fields.get(obj) if isinstance(obj, str) else obj
    if isinstance(obj, Field):
        return obj
    if inspect.isclass(obj) or getattr(obj, "__module__", "").startswith("odenet."):
        for given in ((), (4,)):
            try:
                made = obj(*given)
            except TypeError as problem:
                why = said(problem)
                continue
            except Exception as problem:  # whatever an author's constructor does
                raise BadInput(
                    f"{_called(obj)} raises {type(problem).__name__}: {said(problem)}; correct it."
                ) from None
            return fields.wrap(made)
        raise BadInput(f"{_called(obj)} is made neither without arguments nor from a width ({why}); check one.")
    return fields.wrap(obj)


def _called(maker: Any) -> str:
    return f"{getattr(maker, '__name__', maker)}()"


def _weights(field: Field, dtype: torch.dtype = torch.float64) -> tuple[Params, Params]:
    drawn = {k: v.to(dtype) for k, v in field.init(torch.Generator().manual_seed(0)).items()}
    return drawn, field.constrain(drawn)


def _state(field: Field, y: State | None) -> State:
    if y is not None:
        return y.detach().to(torch.float64)
    _, p = _weights(field)
    generator, why = torch.Generator().manual_seed(1), "; it returned other shapes"
    for shape in _SHAPES:
        candidate = torch.randn(shape, generator=generator, dtype=torch.float64)
        try:
            if field(_T, candidate, p).shape == candidate.shape:
                return candidate
        except Exception as problem:  # a state of another shape is refused in many ways
            why = f"; the last of them raised {type(problem).__name__}: {said(problem)}"
    shapes = ", ".join(map(str, _SHAPES))
    raise BadInput(
        f"{type(field).__name__} takes none of the states of shape {shapes}{why}. If it needs another one, write "
        "odenet.testing.check_field(field, y)."
    )


@check("shape", CHECKS)
def shape(m: Trial) -> Iterator[Finding]:
    """f has the shape and dtype of y and is finite."""
    f = m.f(m.y)
    ok = f.shape == m.y.shape and f.dtype == m.y.dtype and bool(torch.isfinite(f).all())
    said = f"f is {tuple(f.shape)} {f.dtype} for a state {tuple(m.y.shape)} {m.y.dtype}"
    yield Finding("shape", ok, said if ok else f"{said}; return the same of both, and finite numbers")


@check("weights", CHECKS)
def weights(m: Trial) -> Iterator[Finding]:
    """`init` repeats with its generator; `constrain` works on stacks of weights."""
    again, _ = _weights(m.field)
    ok = again.keys() == m.raw.keys() and all(torch.equal(again[k], v) for k, v in m.raw.items())
    yield Finding(
        "weights",
        ok,
        "init repeats with its generator" if ok else "init draws elsewhere too; let it use its generator alone",
    )
    stacked = m.field.constrain({k: torch.stack((v, 2 * v)) for k, v in m.raw.items()})
    alone = [m.p, m.field.constrain({k: 2 * v for k, v in m.raw.items()})]
    gap = max((difference(v, torch.stack([a[k] for a in alone])) for k, v in stacked.items()), default=0.0)
    yield held(
        "weights",
        gap,
        1e-12,
        "constrain passes leading axes through",
        "constrain mixes weights of different depths; let it reduce over no leading axis",
    )


@check("purity", CHECKS)
def purity(m: Trial) -> Iterator[Finding]:
    """The same bits twice; neither y, nor weights, nor buffers are written to."""
    held_before = {"y": m.y, **m.p, **dict(m.field.named_buffers())}
    before = {k: (v.clone(), v._version) for k, v in held_before.items()}
    first, second = m.f(m.y), m.f(m.y)
    ok = torch.equal(first, second)
    yield Finding(
        "purity",
        ok,
        "the same bits twice" if ok else "the same call twice gives different numbers; draw no random numbers",
    )
    written = [k for k, v in held_before.items() if not torch.equal(v, before[k][0]) or v._version != before[k][1]]
    said = f"forward writes into {', '.join(written)}; make new tensors instead" if written else "nothing is written to"
    yield Finding("purity", not written, said)


@check("batch independence", CHECKS)
def batch_independence(m: Trial) -> Iterator[Finding]:
    """f of a sample does not depend on the others."""
    if m.coupled:
        raise Skip("batch statistics couple samples" if m.field.statistics else "the state has no batch")
    alone = torch.cat([m.f(x.unsqueeze(0)) for x in m.y])
    yield held(
        "batch independence", difference(m.f(m.y), alone), 1e-12, "a batch gives what its samples give one by one",
        "f of a sample depends on the others; use no mean over the batch, or name statistics",
    )  # fmt: skip


@check("dtype", CHECKS)
def dtype(m: Trial) -> Iterator[Finding]:
    """float32 in, float32 out."""
    _, p = _weights(m.field, torch.float32)
    found = m.f(m.y.float(), p)
    ok = found.dtype == torch.float32
    yield Finding(
        "dtype",
        ok,
        "float32 is kept"
        if ok
        else f"a float32 state gives {found.dtype}; make constants with dtype=y.dtype, or Python numbers",
    )


@check("time", CHECKS)
def time(m: Trial) -> Iterator[Finding]:
    """t may be a number, a tensor, or a tensor (B, 1) with a time for every sample."""
    there = torch.tensor(_T, dtype=torch.float64)
    yield held(
        "time", difference(m.field(there, m.y, m.p), m.f(m.y)), 1e-12, "t may be a number or a tensor",
        "f at t = tensor(0.3) is not f at t = 0.3; use t alike in both cases",
    )  # fmt: skip
    if m.coupled:
        raise Skip("without independent samples there is no time per sample")
    times = torch.linspace(0.1, 0.9, len(m.y), dtype=torch.float64)
    alone = torch.cat([m.field(t, x.unsqueeze(0), m.p) for t, x in zip(times.tolist(), m.y)])
    try:
        together = m.field(times.reshape(-1, *[1] * (m.y.dim() - 1)), m.y, m.p)
    except Exception as problem:  # a field that is never used with per_sample=True need not take it
        raise Skip(f"no time per sample: raised {type(problem).__name__}: {said(problem)}") from None
    yield held(
        "time", difference(together, alone), 1e-12, "t may be given per sample",
        "f with a time per sample, t of shape (B, 1), is not f of each sample at its own time; use t as it is",
    )  # fmt: skip


@check("device", CHECKS)
def device(m: Trial) -> Iterator[Finding]:
    """Everything happens where the state is (on a pretended accelerator)."""
    if any(True for _ in (*m.field.parameters(), *m.field.buffers())):
        raise Skip("the field holds tensors of its own, which .to(device) moves")
    try:
        with Accelerator():
            found = m.f(Away(m.y), {k: Away(v) for k, v in m.p.items()})
            ok = found.device == AWAY
    except MixedDevices as mixed:
        yield Finding("device", False, f"{mixed}: write device=y.device where a tensor is made")
        return
    yield Finding(
        "device",
        ok,
        "f is where the state is" if ok else "f is on the host although the state is not; make it with device=y.device",
    )


@check("gradients", CHECKS)
def gradients(m: Trial) -> Iterator[Finding]:
    """autograd against central differences and torch.func, in y and in every weight."""
    names = [k for k in m.p if k not in m.field.statistics]
    values = [m.y, *(m.p[k] for k in names)]

    def run(*x: Tensor) -> Tensor:
        return m.f(x[0], {**m.p, **dict(zip(names, x[1:]))})

    leaves = [x.detach().clone().requires_grad_() for x in values]
    out = run(*leaves)
    weight, eps = _noise(out, 0), 1e-6
    found = torch.autograd.grad((weight * out).sum(), leaves, allow_unused=True) if out.requires_grad else (None,)
    for i, (name, gradient) in enumerate(zip(["y", *names], [*found, *[None] * len(names)])):
        v = _noise(values[i], 1)
        ends = [run(*(x + s * eps * v if j == i else x for j, x in enumerate(values))) for s in (1, -1)]
        slope = float((weight * (ends[0] - ends[1])).sum().detach()) / (2 * eps)
        got = 0.0 if gradient is None else float((gradient * v).sum())
        yield held(
            "gradients", abs(got - slope) / max(1.0, abs(slope)), 1e-6,
            f"in {name}: autograd gives the difference quotient",
            f"in {name}: autograd gives {got:.6g}, differences {slope:.6g}; let nothing be detached",
        )  # fmt: skip
    along = tuple(_noise(x, 2) for x in values)
    forward = float((weight * _along(run, tuple(values), along)).sum())
    pulled = torch.func.vjp(run, *values)[1](weight)  # type: ignore[misc]
    reverse = sum(float((g * d).sum()) for g, d in zip(pulled, along))
    yield held(
        "gradients", abs(forward - reverse) / max(1.0, abs(reverse)), 1e-9, "torch.func.jvp is the transpose of vjp",
        f"torch.func.jvp gives {forward:.6g} where vjp gives {reverse:.6g}; correct the custom Function",
    )  # fmt: skip


@check("failure", CHECKS)
def failure(m: Trial) -> Iterator[Finding]:
    """A state that is not a number gives an f that is none."""
    lost = not bool(torch.isfinite(m.f(m.y * torch.nan)).any())
    yield Finding(
        "failure",
        lost,
        "nan goes through" if lost else "a finite number comes out of a state that is nan; let nan pass on",
    )


# ---- offers


@check("offers", CHECKS)
def offers(m: Trial) -> Iterator[Finding]:
    """Every part that is offered agrees with f."""
    if not m.field.offers:
        raise Skip("nothing is offered")
    for offer in sorted(m.field.offers):
        name = f"offers {offer}"
        if offer not in _OFFERS:
            yield Finding(name, None, "nothing to hold it against")
            continue
        test, good, bad = _OFFERS[offer]
        try:
            yield held(name, test(m), 1e-7, good, f"{bad}; correct one of them, or leave {offer!r} out of offers")
        except BadInput as refusal:  # a solution that is known from some states only
            yield Finding(name, None, f"refused: {refusal}")


def _separable(m: Trial) -> float:
    q, p = m.field.split(m.y)
    parts = m.field.join(m.field.drift(_T, p, m.p), m.field.kick(_T, q, m.p))  # type: ignore[operator]
    return difference(parts, m.f(m.y))


def _split(m: Trial) -> float:
    return difference(m.field.explicit(_T, m.y, m.p) + m.field.implicit(_T, m.y, m.p), m.f(m.y))  # type: ignore[operator]


def _linear(m: Trial) -> float:
    matrix = m.field.linear(m.p)  # type: ignore[operator]
    acted = m.y @ matrix.mT if matrix.dim() == 2 else matrix * m.y
    return difference(acted + m.field.nonlinear(_T, m.y, m.p), m.f(m.y))  # type: ignore[operator]


def _jacobian(m: Trial) -> float:
    return difference(m.field.jacobian(_T, m.y, m.p), _derivative(m, m.y))  # type: ignore[operator]


def _derivative(m: Trial, y: State) -> Tensor:
    """df/dy of every sample, (B, D, D)."""
    rows = [torch.autograd.functional.jacobian(lambda x: m.f(x.unsqueeze(0))[0].flatten(), x) for x in y]
    return torch.stack([r.reshape(r.shape[0], -1) for r in rows])  # type: ignore[union-attr]


def _energy(m: Trial) -> float:
    """Cosine between grad E and f."""
    slope = _gradient(lambda y: m.field.energy(y, m.p), m.y)  # type: ignore[operator]
    f = m.f(m.y)
    return float((slope * f).flatten(1).sum(1).abs().max() / (slope.norm() * f.norm() + 1e-300))


def _potential(m: Trial) -> float:
    f = m.field(0.0, m.y, m.p)  # the potential is that of t = 0 where it is not told the time
    return difference(-_gradient(lambda y: m.field.potential(y, m.p), m.y), f)  # type: ignore[operator]


def _gradient(scalar: Callable[[State], Tensor], y: State) -> Tensor:
    y = y.detach().clone().requires_grad_()
    return torch.autograd.grad(scalar(y).sum(), y)[0].detach()


def _lipschitz(m: Trial) -> float:
    """By how much a sampled derivative exceeds the bound."""
    bound = float(m.field.lipschitz_bound(m.p))  # type: ignore[operator]
    seen = float(torch.linalg.matrix_norm(_derivative(m, _many(m)), ord=2).max())
    return max(0.0, seen / bound - 1) if bound > 0 else seen


def _lognorm(m: Trial) -> float:
    bound = float(m.field.lognorm_bound(m.p))  # type: ignore[operator]
    matrix = _derivative(m, _many(m))
    return max(0.0, float(torch.linalg.eigvalsh((matrix + matrix.mT) / 2).max()) - bound)


def _monotone(m: Trial) -> float:
    """<f(u) - f(v), u - v> + |f(u) - f(v)|^2 / c, which is not positive."""
    u, v = _many(m), 1.5 * _many(m).flip(0)
    gap, apart = (m.f(u) - m.f(v)).flatten(1), (u - v).flatten(1)
    c = float(m.field.lipschitz_bound(m.p))  # type: ignore[operator]
    return max(0.0, float(((gap * apart).sum(1) + gap.square().sum(1) / c).max()))


def _exact(m: Trial) -> float:
    """d/dt of the solution against f along it, and its start."""
    eps = 1e-5
    ends = [m.field.exact(_T + s * eps, m.y) for s in (1, -1)]  # type: ignore[operator]
    along = difference((ends[0] - ends[1]) / (2 * eps), m.f(m.field.exact(_T, m.y)))  # type: ignore[operator]
    return max(along, difference(m.field.exact(0.0, m.y), m.y))  # type: ignore[operator]


def _noise_shape(m: Trial) -> float:
    g = m.field.diffusion(_T, m.y, m.p)  # type: ignore[operator]
    return 0.0 if g.shape[: m.y.dim()] == m.y.shape and bool(torch.isfinite(g).all()) else torch.inf


_OFFERS: dict[str, tuple[Callable[[Trial], float], str, str]] = {
    "separable": (_separable, "f = (drift, kick)", "join(drift, kick) is not f"),
    "split": (_split, "f = explicit + implicit", "explicit + implicit is not f"),
    "linear": (_linear, "f = L y + nonlinear", "linear() y + nonlinear is not f"),
    "jacobian": (_jacobian, "it is the derivative of f", "jacobian is not the derivative of f"),
    "energy": (_energy, "it does not change along f", "energy changes along f"),
    "potential": (_potential, "f = -grad Phi", "f is not -grad of the potential"),
    "lipschitz": (_lipschitz, "no sampled derivative exceeds it", "a sampled derivative exceeds lipschitz_bound"),
    "lognorm": (_lognorm, "no sampled logarithmic norm exceeds it", "a sampled logarithmic norm exceeds lognorm_bound"),
    "monotone": (_monotone, "sampled pairs obey it", "a pair of states breaks the inequality"),
    "exact": (_exact, "it solves y' = f", "exact does not solve y' = f from y0 at t = 0"),
    "noise": (_noise_shape, "the diffusion has the shape of y first", "it has another shape, or is not finite"),
}  # fmt: skip


def _many(m: Trial) -> Tensor:
    """More states, small and large."""
    base = torch.cat([s * torch.randn(m.y.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
                      for k, s in enumerate((0.1, 1.0, 3.0))])  # fmt: skip
    return base


def _noise(x: Tensor, seed: int) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _along(run: Callable[..., Tensor], values: tuple[Tensor, ...], v: tuple[Tensor, ...]) -> Tensor:
    with warnings.catch_warnings():  # the first call of forward mode warns about its own internals
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.func.jvp(run, values, v)[1]
