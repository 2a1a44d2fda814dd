"""Recurrent nets that are discretised differential equations: (B, T, D) -> (B, dim_out), or (B, T, dim_out).

Each is a field with an input, stepped once per entry by an integrator: the published update is the default, another
scheme is one word. `h` is the step size of one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, Incompatible
from ..fields import Antisymmetric, Field
from ..fields.recurrent import CoupledOscillators, GatedSkew, GRUFlow, Lipschitz, UndampedOscillators
from ..flow import Flow
from ..flow.along import along
from .base import net
from .paths import Entries, Path

Maps = list[Callable[[Tensor], Tensor]]


class Recurrence(nn.Module):
    """h' = f(t, h; u(t)) with u made of the data, and a linear head on the first entries of h.

    flows:       one flow over one knot interval, run over as many as the data has; with several, the states of one are
                 the input of the next
    path:        makes the input u from the data
    front:       what is done to the data first
    start:       h_0 from the first entry; None: zero
    jump:        cell (x_n, h) -> h applied after interval n, for hybrid nets; an entry with NaN leaves h as it is
    every_step:  an output for every entry, else for the last
    """

    def __init__(
        self,
        flows: Sequence[Flow],
        head: nn.Linear,
        *,
        path: Path | None = None,
        front: nn.Module | None = None,
        start: nn.Module | None = None,
        jump: nn.Module | None = None,
        every_step: bool = False,
    ) -> None:
        super().__init__()
        self.flows, self.head = nn.ModuleList(flows), head
        self.front, self.start, self.jump = front, start, jump
        self.path, self.every_step = path or Entries(), every_step

    def forward(self, x: Tensor) -> Tensor:
        data = self._data(x)
        if self.jump is not None:
            states = self._hybrid(data)
        else:
            *_, (run, h, u) = self._runs(data)
            if not self.every_step:
                return self.read(run(h, u=u))
            states = self.path.answers(run.trajectory(h, u=u))
        return self.read(states).transpose(0, 1) if self.every_step else self.read(states[-1])

    def read(self, h: Tensor) -> Tensor:
        """The output from a state (..., D)."""
        return self.head(h[..., : self.head.in_features])

    @property
    def each(self) -> list[Flow]:
        """The flows in order."""
        return list(self.flows)  # type: ignore[arg-type]

    def with_integrator(self, integrator: Any, steps: int | None = None) -> Recurrence:
        """The same weights (shared, not copied) under another integrator; steps: for one entry."""
        return Recurrence(
            [flow.with_integrator(integrator, steps) for flow in self.each], self.head, path=self.path,
            front=self.front, start=self.start, jump=self.jump, every_step=self.every_step,
        )  # fmt: skip

    def nfe(self, x: Tensor) -> int:
        """Field evaluations of one forward pass."""
        data = self._data(x)
        with torch.no_grad():
            if self.jump is None:
                return sum(run.nfe(h, u=u) for run, h, u in self._runs(data))
            u = self.path(data)
            return sum(self.each[0].nfe(self._first(data, 0), u=u[n : n + 1]) for n in range(1, len(u)))

    def driven(self, x: Tensor) -> tuple[Flow, Tensor, dict[str, Tensor]] | None:
        """The flow over the entries of x, its start and its controls; None where the net is not one flow."""
        if self.jump is not None or len(self.flows) > 1:
            return None
        ((run, h, u),) = self._runs(self._data(x))
        return run, h, {"u": u}

    def unrolled(self, x: Tensor) -> tuple[Tensor, Maps]:
        """The start h_0 (B, D) and the maps h_n -> h_(n+1), one for each interval, with the data of x in them.

        A map takes (k B, D) too: k copies of the batch. States of stacked flows are side by side, the last one first.
        Back-propagation through time is the adjoint of this list. Raises Incompatible for a multistep method, whose
        state is not h alone.
        """
        if any(flow.integrator.history for flow in self.each):
            raise Incompatible("a multistep method remembers more than h, so its net has no maps h -> h; use rk4.")
        data = self._data(x)
        u = self.path(data)
        count = self.path.depth.count(1)
        inputs = u.split(count)
        starts = torch.cat([self._first(data, k) for k in reversed(range(len(self.flows)))], -1)
        if self.jump is None:
            return starts, [partial(self._layer, part) for part in inputs]
        return starts, [partial(self._observed, part if n else None, data[:, n, 1:]) for n, part in enumerate(inputs)]

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _data(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or not x.shape[1]:
            raise BadInput(f"a recurrent net takes sequences (B, T, D), but was given {tuple(x.shape)}.")
        return x if self.front is None else self.front(x)

    def _first(self, data: Tensor, k: int) -> Tensor:
        """h_0 of flow k."""
        if self.start is not None:
            return self.start(data[:, 0])
        return data.new_zeros(len(data), self.each[k].field.dim)  # type: ignore[call-overload]

    def _runs(self, data: Tensor) -> Iterator[tuple[Flow, Tensor, Tensor]]:
        """The flows over the data in order, each with start and input."""
        u, last = self.path(data), len(self.flows) - 1
        for k, flow in enumerate(self.each):
            run = along(flow, len(u) // self.path.depth.count(1), u=self.path.depth)
            h = self._first(data, k)
            yield run, h, u
            if k < last:
                u = self.path.answers(run.trajectory(h, u=u))[..., : self.each[k + 1].field.inputs]

    def _layer(self, u: Tensor, h: Tensor) -> Tensor:
        """All flows over one interval."""
        new: list[Tensor] = []
        widths = [flow.field.dim for flow in reversed(self.each)]
        for k, (flow, part) in enumerate(zip(self.each, reversed(h.split(widths, -1)))):
            given = u if not k else new[0][None, :, : flow.field.inputs]
            run = along(flow, 1, u=self.path.depth)
            new.insert(0, run(part, u=given))
        return torch.cat(new, -1)

    def _hybrid(self, data: Tensor) -> Tensor:
        h, states = self._first(data, 0), []
        for n, u in enumerate(self.path(data)):
            h = self._observed(u[None] if n else None, data[:, n, 1:], h)
            states.append(h)
        return torch.stack(states)

    def _observed(self, u: Tensor | None, x: Tensor, h: Tensor) -> Tensor:
        """Over one interval (None: none before the first entry), then the jump."""
        assert self.jump is not None
        h = h if u is None else self.each[0](h, u=u)
        x = x.repeat(len(h) // len(x), 1)
        seen = x.isfinite().all(-1, keepdim=True)
        return torch.where(seen, self.jump(torch.where(seen, x, 0.0), h), h)


def recurrent(
    field: Callable[[int], Field],
    dim_in: int,
    dim_out: int,
    read: int,
    integrator: Any,
    h: float,
    gradient: str,
    every_step: bool,
    seed: int,
    layers: int = 1,
) -> Recurrence:
    """Flows of field(inputs) with a step of h per entry, the first on the data, and a head on `read` numbers."""
    if not h > 0:
        raise BadInput(f"h is the step size of one entry of a sequence, a positive number, got {h}.")
    flows = [
        Flow(
            field(read if k else dim_in), integrator, depth="shared", span=(0.0, h), steps=1, gradient=gradient,
            seed=seed + k,
        )
        for k in range(layers)
    ]  # fmt: skip
    return Recurrence(flows, nn.Linear(read, dim_out), every_step=every_step)


@net(
    kind="ode",
    takes="sequence",
    cite="Chang, Chen, Haber & Chi 2019 (arXiv 1902.09689)",
    integrators=("euler", "midpoint", "rk4"),
)
def antisymmetric_rnn(
    dim_in: int,
    dim_out: int,
    width: int = 64,
    integrator: Any = None,
    activation: str = "tanh",
    h: float = 0.01,
    gamma: float = 0.01,
    gated: bool = False,
    gradient: str = "autograd",
    every_step: bool = False,
    seed: int = 0,
) -> nn.Module:
    """h' = s((W - W^T - gamma I) h + V x + b) under forward Euler; gated: every unit with a clock of its own.

    The recurrent net whose signals neither die nor grow over moderate lengths; the plain one to try first.
    """

    def field(inputs: int) -> Field:
        if gated:
            return GatedSkew(width, inputs, gamma=gamma, activation=activation)
        return Antisymmetric(width, gamma=gamma, inputs=inputs, activation=activation)

    return recurrent(field, dim_in, dim_out, width, integrator or "euler", h, gradient, every_step, seed)


@net(
    kind="ode",
    takes="sequence",
    cite="Erichson, Azencot, Queiruga, Hodgkinson & Mahoney 2021 (arXiv 2006.12070)",
    integrators=("euler", "midpoint", "rk4"),
)
def lipschitz_rnn(
    dim_in: int,
    dim_out: int,
    width: int = 128,
    integrator: Any = None,
    activation: str = "tanh",
    h: float = 0.03,
    beta: float = 0.75,
    gamma: float = 0.001,
    gradient: str = "autograd",
    every_step: bool = False,
    seed: int = 0,
) -> nn.Module:
    """h' = A h + s(W h + U x + b), A and W nearly antisymmetric (beta = 1: fully), under forward Euler.

    The choice for long sequences of noisy inputs: a linear part of its own sets how fast things are forgotten.
    """

    def field(inputs: int) -> Field:
        return Lipschitz(width, inputs, beta=beta, gamma=gamma, activation=activation)

    return recurrent(field, dim_in, dim_out, width, integrator or "euler", h, gradient, every_step, seed)


@net(
    kind="ode",
    takes="sequence",
    cite="Rusch & Mishra 2021 (arXiv 2010.00951)",
    integrators=("lie_euler", "euler", "rk4"),
)
def cornn(
    dim_in: int,
    dim_out: int,
    width: int = 128,
    integrator: Any = None,
    activation: str = "tanh",
    h: float = 0.042,
    gamma: float = 2.7,
    epsilon: float = 4.7,
    gradient: str = "autograd",
    every_step: bool = False,
    seed: int = 0,
) -> nn.Module:
    """y'' = s(W (y, y') + V x + b) - gamma y - epsilon y', `width` damped oscillators, the new velocity moving y.

    The choice where inputs hundreds of entries back matter: gradients are bounded for small h. The defaults are those
    of sequential digits; h = 0.06, gamma = 66, epsilon = 15 were published for the adding problem.
    """

    def field(inputs: int) -> Field:
        return CoupledOscillators(2 * width, inputs, gamma=gamma, epsilon=epsilon, activation=activation)

    return recurrent(field, dim_in, dim_out, width, integrator or "lie_euler", h, gradient, every_step, seed)


@net(
    kind="ode",
    takes="sequence",
    cite="Rusch & Mishra 2021 (arXiv 2103.05487)",
    integrators=("symplectic_euler", "verlet", "rk4"),
)
def unicornn(
    dim_in: int,
    dim_out: int,
    width: int = 128,
    layers: int = 2,
    integrator: Any = None,
    activation: str = "tanh",
    h: float = 0.19,
    alpha: float = 30.65,
    gradient: str = "autograd",
    every_step: bool = False,
    seed: int = 0,
) -> nn.Module:
    """y'' = -g (s(w y + V x + b) + alpha y) g in each of `layers`, g = sigmoid(c), under symplectic Euler: invertible.

    The choice for very long sequences: gradient="reversible" keeps no states. Weights inside a layer act entry by
    entry, so several layers are needed. Stable for h^2 g^2 (alpha + |w|) <= 4.
    """

    def field(inputs: int) -> Field:
        return UndampedOscillators(2 * width, inputs, alpha=alpha, activation=activation)

    return recurrent(
        field, dim_in, dim_out, width, integrator or "symplectic_euler", h, gradient, every_step, seed, layers
    )


@net(
    kind="ode",
    takes="sequence",
    cite="De Brouwer, Simm, Arany & Moreau 2019 (arXiv 1905.12374)",
    integrators=("euler", "midpoint", "rk4"),
)
def gru_ode(
    dim_in: int,
    dim_out: int,
    width: int = 64,
    integrator: Any = None,
    h: float = 1.0,
    reset: str = "before",
    gradient: str = "autograd",
    every_step: bool = False,
    seed: int = 0,
) -> nn.Module:
    """h' = (1 - z)(n - h) with the gates of a GRU, held constant input for the time h of an entry.

    reset="after" under euler with h = 1 is torch's GRU; a smaller h or another integrator is the equation it
    discretises. The choice where a GRU works and entries stand for stretches of time.
    """
    return recurrent(
        lambda inputs: GRUFlow(width, inputs, reset=reset), dim_in, dim_out, width, integrator or "euler", h, gradient,
        every_step, seed,
    )  # fmt: skip
