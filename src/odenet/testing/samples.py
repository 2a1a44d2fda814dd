"""Batches, shapes, dtypes, devices: a step treats every entry alike and keeps what the state is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..types import State, Step, Time
from .accelerator import AWAY, Accelerator, Away, MixedDevices
from .method import EXACT, H, Method, Skip, check, difference, held, said
from .report import Finding
from .systems import states

_T = 0.3


def _joined(made: list[Step]) -> Tensor:
    """States of some steps, (n, *state)."""
    return torch.stack([s.y for s in made])


def _with_errors(made: list[Step]) -> Tensor:
    """States and estimates of some steps, (n, *state)."""
    return torch.stack([x for s in made for x in (s.y, s.error) if x is not None])


@check("batch independence")
def batch_independence(m: Method) -> Iterator[Finding]:
    """The result of a sample does not depend on the others, nor on their order."""
    _settled(m)
    f, y = m.system(), states(3)
    y[1] *= 3.0
    together = _joined(m.steps(f, _T, y, count=m.full + 1))
    alone = torch.cat([_joined(m.steps(f, _T, x.unsqueeze(0), count=m.full + 1)) for x in y], 1)
    yield held(
        "batch independence", difference(together, alone), _close(m), "a batch gives what its samples give one by one",
        "a sample's result depends on the others in the batch; use no mean, norm or maximum over axis 0",
    )  # fmt: skip
    turned = torch.tensor([2, 0, 1])
    moved = _joined(m.steps(f, _T, y[turned], count=m.full + 1))
    yield held(
        "batch independence", difference(moved, together[:, turned]), _close(m), "the order of samples does not matter",
        "samples in another order give other numbers; use no index of the batch",
    )  # fmt: skip


@check("step per sample")
def step_per_sample(m: Method) -> Iterator[Finding]:
    """A tensor h (B, 1) with t (B, 1) gives every sample the step it would have alone."""
    _settled(m)
    if m.foreign:
        raise Skip("torchdiffeq has one time for all samples")
    y = states(3)
    t = torch.tensor([[0.1], [0.7], [-0.4]], dtype=torch.float64)
    h = torch.tensor([[0.1], [0.03], [-0.06]], dtype=torch.float64)
    f = m.system()
    together = _with_errors(m.steps(f, t, y, h, m.full + 1))
    alone = torch.cat([
        _with_errors(m.steps(f, float(t[i]), y[i : i + 1], float(h[i]), m.full + 1)) for i in range(3)
    ], 1)  # fmt: skip
    yield held(
        "step per sample", difference(together, alone), _close(m), "a step size (B, 1) gives each sample its own step",
        "a step size (B, 1) gives other numbers than one sample at a time; write h * k, not float(h) or alpha=h",
    )  # fmt: skip


@check("shapes")
def shapes(m: Method) -> Iterator[Finding]:
    """States of any shape; what is not the batch does not change the numbers."""
    if m.needs & {"separable", "linear"}:
        raise Skip("the parts that the method needs fix the layout of the state")
    _settled(m)
    f = _Entrywise()
    flat = torch.linspace(-1.2, 1.5, 8, dtype=torch.float64)
    wanted = torch.stack([_joined(m.steps(f, _T, x, count=m.full)) for x in flat], -1)
    worst = 0.0
    for shape in ((8,), (8, 1), (2, 4), (2, 2, 2, 1)):
        got = _joined(m.steps(f, _T, flat.reshape(shape), count=m.full))
        worst = max(worst, difference(got.reshape(wanted.shape), wanted))
    yield held(
        "shapes", worst, _close(m), "states (), (8,), (2, 4), (2, 2, 2, 1) give the same numbers",
        "the numbers depend on the shape of the state; use no axis of y by number",
    )  # fmt: skip


class _Entrywise:
    """f acts on every entry by itself."""

    def __call__(self, t: Time, y: State) -> State:
        return torch.cos(2 * torch.as_tensor(t)) - torch.sin(y)

    def implicit(self, t: Time, y: State) -> State:
        return -0.5 * y

    def explicit(self, t: Time, y: State) -> State:
        return self(t, y) + 0.5 * y


@check("dtype")
def dtype(m: Method) -> Iterator[Finding]:
    """float32 in, float32 throughout; float64 and complex likewise. A memory of step sizes may stay float64."""
    for kind in (torch.float32, torch.float64, torch.complex128):
        seen: set[torch.dtype] = set()
        y = states(2, kind)
        f = _watched(m.system(like=y), seen)
        for h in (H, torch.tensor(H, dtype=torch.float64)):
            try:
                wrong = _strange(m.steps(f, _T, y, h, m.full + 1), seen, y)  # type: ignore[arg-type]
            except RuntimeError as mixed:
                wrong = f"raised {said(mixed)}; make constants with dtype=y.dtype, or Python numbers"
            if wrong:
                yield Finding("dtype", False, f"a {_name(kind)} state: {wrong}")
                return
    yield Finding("dtype", True, "float32, float64 and complex128 are kept, in stages, result, estimate and carry")


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _strange(made: list[Step], seen: set[torch.dtype], y: Tensor) -> str:
    for s in made:
        carried = {f"carry[{i}]": c for i, c in enumerate(s.carry) if c.dim() >= y.dim()}
        for name, x in {"the result": s.y, "the error estimate": s.error, **carried}.items():
            if x is not None and x.dtype != y.dtype:
                return f"{name} is {_name(x.dtype)}; make constants with dtype=y.dtype, or Python numbers"
        if y.real.dtype == torch.float64 and torch.equal(s.y.real.float().double(), s.y.real):
            return "the result holds float32 numbers; do not cast down on the way"
    strange = seen - {y.dtype}
    return (
        f"f is given {_name(strange.pop())} stages; make constants with dtype=y.dtype, or Python numbers"
        if strange
        else ""
    )


def _watched(f: Any, seen: set[torch.dtype]) -> Any:
    """`f` with every part noting the dtype of the state it is given."""
    for name in ("kick", "drift", "explicit", "implicit", "nonlinear", "diffusion"):
        part = getattr(f, name, None)
        if part is not None:
            setattr(f, name, _noting(part, seen))
    call = _noting(type(f).__call__.__get__(f), seen)
    return _Called(f, call)


def _noting(part: Any, seen: set[torch.dtype]) -> Any:
    def noted(t: Time, y: State) -> State:
        seen.add(y.dtype)
        return part(t, y)

    return noted


class _Called:
    """A system whose call is replaced."""

    def __init__(self, f: Any, call: Any) -> None:
        self._f, self._call = f, call

    def __call__(self, t: Time, y: State) -> State:
        return self._call(t, y)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._f, name)


@check("complex")
def complex_(m: Method) -> Iterator[Finding]:
    """A complex equation gives what its real and imaginary parts give as a real one."""
    if m.needs:
        raise Skip("the parts that the method needs are defined for real states")
    z = torch.tensor([[0.4 + 0.3j, -0.7 + 0.1j]], dtype=torch.complex128)
    factor = torch.tensor([-0.3 + 1.1j, 0.2 - 0.8j], dtype=torch.complex128)

    def f(t: Time, y: State) -> State:
        return factor * y + 0.3j * y * y

    def parts(t: Time, y: State) -> State:
        return torch.view_as_real(f(t, torch.view_as_complex(y.reshape(1, 2, 2)))).reshape(1, 4)

    direct = torch.view_as_real(_joined(m.steps(f, _T, z, count=m.full))).reshape(-1)
    real = _joined(m.steps(parts, _T, torch.view_as_real(z).reshape(1, 4), count=m.full)).reshape(-1)
    yield held(
        "complex", difference(direct, real), 1e-10, "a complex equation equals its real and imaginary parts",
        "a complex equation gives other numbers than its real and imaginary parts; use no conjugate and no real part",
    )  # fmt: skip


@check("device")
def device(m: Method) -> Iterator[Finding]:
    """Everything happens where the state is: on a pretended accelerator, and on a GPU where there is one."""
    try:
        with Accelerator():
            y = Away(states(2))
            made = m.steps(m.system(like=y), _T, y, count=m.full)
            left = any(x.device != AWAY for s in made for x in (s.y, s.error) if x is not None)
    except MixedDevices as mixed:
        yield Finding("device", False, f"{mixed}: write device=y.device where a tensor is made")
        return
    yield Finding(
        "device", not left, "nothing leaves the device of the state (a pretended accelerator)" if not left else
        "the result is on the host although the state is not; write device=y.device where a tensor is made",
    )  # fmt: skip
    if torch.cuda.is_available():
        there = states(2).cuda()
        wanted = m.steps(m.system(), _T, states(2), count=m.full)[-1].y
        got = m.steps(m.system(like=there), _T, there, count=m.full)[-1].y
        yield held(
            "device", difference(got.cpu(), wanted) if got.is_cuda else torch.inf, 1e-10,
            "a GPU gives the CPU's numbers",
            "the result is not on the GPU, or differs from the CPU's",
        )  # fmt: skip


def _close(m: Method) -> float:
    return 1e-10 if m.integrator.implicit else EXACT


def _settled(m: Method) -> None:
    if m.varying:
        raise Skip("the order of a step is chosen from all samples together")
