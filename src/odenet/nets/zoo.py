"""Named architectures on vectors, each one line over Flow: opening -> Flow(field, integrator, depth) -> head.

All take the same words. `dim_in`, `dim_out`, `width`; `steps` knot intervals over `span`, so h = span/steps;
`integrator`, `depth`, `gradient`, `activation`, `seed`; `opening` "linear" (a linear map to `width`) or "pad" (zeros
appended, for data of few dimensions). Further words go to the field (`norm=`, `dropout=`, `hidden=`, `gain=`, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

from torch import nn

from ..errors import BadInput
from ..fields import (
    Antisymmetric,
    Field,
    Free,
    HamiltonianJ,
    Parabolic,
    SecondOrder,
    SeparableHamiltonian,
)
from ..flow import Chain, Flow
from ..integrators import TwoStep
from .base import net
from .transfer import Pad


def opened(opening: str, dim_in: int, width: int) -> nn.Module:
    """What leads from the data to a state of `width`. Raises BadInput for an unknown opening."""
    if opening not in ("linear", "pad"):
        raise BadInput(f"opening {opening!r} is not known; write 'linear' or 'pad'.")
    return nn.Linear(dim_in, width) if opening == "linear" else Pad(dim_in, width)


def compose(
    field: Callable[..., Field],
    dim_in: int,
    dim_out: int,
    width: int,
    steps: int,
    integrator: Any,
    depth: Any,
    gradient: str,
    activation: str,
    span: tuple[float, float],
    seed: int,
    opening: str = "linear",
    init: str = "iid",
    substeps: int | None = None,
    head: Callable[[int, int], nn.Module] = nn.Linear,
    **options: Any,
) -> Chain:
    """opening(dim_in -> width), Flow, head(width -> dim_out)."""
    first = opened(opening, dim_in, width)
    flow = Flow(
        field(width, activation=activation, **options),
        integrator,
        depth=depth,
        span=span,
        steps=steps,
        substeps=substeps,
        gradient=gradient,
        init=init,
        seed=seed,
    )
    return Chain(first, flow, head(width, dim_out))


def dense(
    name: str,
    field: Callable[..., Field],
    integrators: tuple[str, ...],
    cite: str,
    about: str,
    *,
    scheme: Any = None,
    fixed: Mapping[str, Any] | None = None,
) -> Callable[..., nn.Module]:
    """Register the net `name`: a field, its default integrator (the first named, or `scheme`), and its reference.

    fixed: options of the field that make the architecture, not to be chosen
    """
    fixed = fixed or {}

    def build(
        dim_in: int,
        dim_out: int,
        width: int = 64,
        steps: int = 16,
        integrator: Any = None,
        depth: Any = None,
        gradient: str = "autograd",
        activation: str = "tanh",
        span: tuple[float, float] = (0.0, 1.0),
        seed: int = 0,
        **options: Any,
    ) -> nn.Module:
        chosen = (integrators[0] if scheme is None else scheme) if integrator is None else integrator
        return compose(
            partial(field, **fixed), dim_in, dim_out, width, steps, chosen, depth, gradient, activation, span, seed,
            **options,
        )  # fmt: skip

    build.__name__ = build.__qualname__ = name
    build.__doc__ = about
    words = {*_options(field), "opening", "init", "substeps"} - {"activation", *fixed}
    return net(kind="ode", cite=cite, integrators=integrators, words=sorted(words))(build)


def _options(field: Callable[..., Field]) -> set[str]:
    """Keywords of a field, with those that it hands on to another one."""
    named = {p.name for p in signature(field).parameters.values() if p.kind is p.KEYWORD_ONLY}
    if field is Antisymmetric:  # its constraint is the architecture
        return named | _options(Free) - {"constraint"}
    return named | _options(Parabolic) if field is SecondOrder else named


_GENERAL = ("euler", "midpoint", "rk4")
_SEPARABLE = ("symplectic_euler", "verlet", "rk4")
WAVE = TwoStep(-1.0, gain=1.0, power=2, start="paper")  # y_{n+1} = 2 y_n - y_{n-1} + h^2 f(y_n), y_{-1} = y_0

resnet = dense(
    "resnet", Free, _GENERAL, "He et al. 2016; Haber & Ruthotto 2017 (arXiv 1705.03341)",
    "y' = s(K y + b) under forward Euler: the residual network. The plain choice, and the one to beat.",
)  # fmt: skip
antisymmetric = dense(
    "antisymmetric", Antisymmetric, ("rk4", "euler", "ab3"), "Haber & Ruthotto 2017 (arXiv 1705.03341)",
    "y' = s((W - W^T - gamma I) y + b). Signals neither die nor grow, if the integrator is stable near the imaginary "
    "axis: the default is rk4, because forward Euler amplifies here for every h unless gamma is large.",
)  # fmt: skip
midpoint = dense(
    "midpoint", Antisymmetric, ("two_step_midpoint",), "Chang et al. 2018 (arXiv 1709.03698)",
    "Antisymmetric field under y_{n+1} = y_{n-1} + 2 h f(y_n): reversible, stable for h omega <= 1.",
)  # fmt: skip
hamiltonian = dense(
    "hamiltonian", SeparableHamiltonian, _SEPARABLE[1:2] + _SEPARABLE[:1] + _SEPARABLE[2:],
    "Chang et al. 2018 (arXiv 1709.03698)",
    "Two-layer Hamiltonian net: reversible, gradients cannot vanish. The choice for great depth at fixed memory "
    "(gradient='reversible'). As published it is integrator='symplectic_euler'.",
)  # fmt: skip
hamiltonian_one_layer = dense(
    "hamiltonian_one_layer", SeparableHamiltonian,
    _SEPARABLE[1:2] + _SEPARABLE[:1] + _SEPARABLE[2:], "Haber & Ruthotto 2017 (arXiv 1705.03341)",
    "q' = s(K p + b), p' = -s(K^T q + b): half the weights of the two-layer form, reversible.",
    fixed={"layers": 1},
)  # fmt: skip
hamiltonian_j = dense(
    "hamiltonian_j", HamiltonianJ, _GENERAL, "Galimberti et al. 2023 (arXiv 2105.13205), H1",
    "y' = J K^T s(K y + b) under forward Euler: Hamiltonian in continuous time, not symplectic as published.",
)  # fmt: skip
hamiltonian_h2 = dense(
    "hamiltonian_h2", HamiltonianJ, _SEPARABLE,
    "Galimberti et al. 2023 (arXiv 2105.13205), H2",
    "The same with K = blockdiag(K_q, K_p) under symplectic Euler: |dy_N/dy_j| >= 1 at every depth.",
    fixed={"form": "h2", "J": "canonical"},
)  # fmt: skip
parabolic = dense(
    "parabolic", Parabolic, _GENERAL, "Ruthotto & Haber 2020 (arXiv 1804.04272), eq. 8",
    "y' = -K^T s(K y + b): non-expansive for h |K|^2 <= 2. The choice for noisy inputs.",
)  # fmt: skip
second_order = dense(
    "second_order", SecondOrder, ("verlet", "leapfrog", "rk4"), "Ruthotto & Haber 2020 (arXiv 1804.04272), eq. 11",
    "y'' = -K^T s(K y + b), y'(0) = 0, as a system (y, v) under verlet: transports features instead of damping them.",
)  # fmt: skip
leapfrog = dense(
    "leapfrog", SecondOrder, ("leapfrog",), "Chang et al. 2018 (arXiv 1709.03698); Haber & Ruthotto 2017",
    "y_{n+1} = 2 y_n - y_{n-1} - h^2 K^T s(K y_n + b), y_{-1} = y_0: the second-order net as published, reversible.",
    scheme=WAVE,
)  # fmt: skip
lm_resnet = dense(
    "lm_resnet", Free, ("lm",), "Lu et al. 2018 (arXiv 1710.10121)",
    "y_{n+1} = (1 - k_n) y_n + k_n y_{n-1} + h s(K y_n + b) with learned k_n: a residual net with one number more per "
    "layer.",
)  # fmt: skip
momentum = dense(
    "momentum", Free, ("momentum",), "Sander et al. 2021 (arXiv 2102.07870)",
    "v <- gamma v + (1 - gamma) h s(K y + b), y <- y + v, gamma = 0.9: reversible without changing the layer.",
)  # fmt: skip
