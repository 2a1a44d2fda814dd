"""Two ways to solve z_{i+1} = Psi_i(z_i) + tau_i for all z at once, i = 0..n-1, in chunks of c that advance together.

With F_m the end of chunk m when it starts at C_m, a guess of z at the ends of chunks is corrected by

    C_{m+1} <- F_m + G_m(C_m new) - G_m(C_m)       G one step of size c h: parareal, and multigrid where G is solved so
    C_{m+1} <- F_m + J_m (C_m new - C_m)           J = dF/dC: Newton, multiple shooting

The first is exact after as many corrections as there are chunks, the second converges quadratically. States of a net
are one such system and their costates another, linear and running backwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import State
from .abreast import Rows


@dataclass(frozen=True)
class Plan:
    """How a system is solved; see `Parallel`."""

    coarsening: int
    newton: bool = False
    relaxations: int = 1
    iterations: int = 1
    tolerance: float | None = None
    damped: bool = True


class System(ABC):
    """z_{i+1} = Psi_i(z_i) + tau_i on levels 0 (all steps), 1 (every c-th node), ...; `sizes` steps on each."""

    sizes: tuple[int, ...]
    made: tuple[Tensor, Tensor] | None = None  # nodes of the last level, and the steps that `serial` took from them

    @abstractmethod
    def fine(self, level: int, C: Tensor, tau: Tensor | None) -> Tensor:
        """From the starts C (M, ...) of all chunks of a level, the nodes inside and at their ends, (M, c, ...); at
        level 0 the ends alone, (M, 1, ...)."""

    @abstractmethod
    def coarse(self, level: int, C: Tensor) -> Tensor:
        """One step of that level from each of its nodes but the last, (M, ...)."""

    @abstractmethod
    def serial(self, z: State, tau: Tensor | None) -> Tensor:
        """All nodes of the last level, (M + 1, ...), one after another from z."""

    @abstractmethod
    def jacobian(self, C: Tensor) -> Tensor:
        """J_m of the chunks at level 0, (M, S, D, D) for states (S, ...) of D numbers."""

    # ---- what follows from these ---------------------------------------------------------------------------------

    def start(self, z: State, tau: Tensor | None = None) -> Tensor:
        """A guess at the nodes of level 1, (M + 1, ...): the coarsest level solved, the others filled in."""
        levels = range(len(self.sizes) - 2, 0, -1)
        for _ in levels:
            tau = None if tau is None else tau.unflatten(0, (-1, self.factor)).sum(1)
        Z = self.serial(z, tau)
        for level in levels:
            Z = torch.cat((z[None], self.fine(level, Z[:-1], None).flatten(0, 1)))
        return Z

    @property
    def factor(self) -> int:
        """c."""
        return self.sizes[0] // self.sizes[1]

    def correct(self, level: int, z: State, C: Tensor, F: Tensor, relaxations: int, tau: Tensor | None) -> Tensor:
        """Better nodes at the ends of the chunks of a level, from nodes C and what the chunks made of them, F."""
        for _ in range(relaxations - 1):
            C = torch.cat((z[None], F))
            F = self.fine(level, C[:-1], tau)[:, -1]
        known = self.made is not None and self.made[0] is C
        tau = F - (self.made[1] if known else self.coarse(level + 1, C[:-1]))  # type: ignore[index]
        if level + 2 == len(self.sizes):
            return self.serial(z, tau)
        inner = C[:: self.factor]
        ends = self.fine(level + 1, inner[:-1], tau)[:, -1]
        inner = self.correct(level + 1, z, inner, ends, relaxations, tau)
        return torch.cat((z[None], self.fine(level + 1, inner[:-1], tau).flatten(0, 1)))


def newton(z: State, C: Tensor, F: Tensor, J: Tensor) -> Tensor:
    """C_{m+1} <- F_m + J_m (C_m new - C_m), from C_0 = z."""
    made, flat = [z], J.shape[:2] + J.shape[-1:]
    for f, j, c in zip(F.reshape(flat).unbind(0), J.unbind(0), C[:-1].reshape(flat).unbind(0)):
        made.append((f + (j @ (made[-1].reshape(c.shape) - c)[..., None])[..., 0]).reshape(z.shape))
    return torch.stack(made)


def residual(C: Tensor, F: Tensor) -> Tensor:
    """max |C_{m+1} - F_m|, relative to the largest entry of C."""
    return (C[1:] - F).abs().amax() / C.abs().amax().clamp_min(torch.finfo(C.dtype).tiny)


def solve(system: System, plan: Plan, z: State, C: Tensor) -> tuple[Tensor, int]:
    """The nodes at the ends of the chunks, and the number of corrections that were made to the guess C."""
    done, F = 0, None
    while done < plan.iterations:
        F = system.fine(0, C[:-1], None)[:, -1] if F is None else F
        if plan.tolerance is not None and not float(residual(C, F)) > plan.tolerance:
            break
        if not plan.newton:
            C, F = system.correct(0, z, C, F, plan.relaxations, None), None
        else:
            C, F = _searched(system, z, C, F, plan.damped)
            if F is None and plan.damped:
                break
        done += 1
    return C, done


def _searched(system: System, z: State, C: Tensor, F: Tensor, damped: bool) -> tuple[Tensor, Tensor | None]:
    """A step of Newton's method, halved until the residual falls; (C, None) where it never does."""
    step = newton(z, C, F, system.jacobian(C[:-1])) - C
    if not damped:
        return C + step, None
    old, share = float((C[1:] - F).norm()), 1.0
    while share > 1e-3:
        trial = C + share * step
        ends = system.fine(0, trial[:-1], None)[:, -1]
        if float((trial[1:] - ends).norm()) < (1.0 - 0.1 * share) * old:
            return trial, ends
        share /= 2
    return C, None


class States(System):
    """x_{i+1} = Phi_i(x_i), its steps `levels[0]`, and coarser ones behind."""

    def __init__(self, levels: Sequence[Rows], c: int, like: State, recording: bool = False) -> None:
        self.levels, self.c, self.recording = levels, c, recording
        self.recorded: tuple[list[Tensor], Tensor] | None = None  # the last correction, see Costates._chain
        self.sizes = tuple(len(rows) for rows in levels)
        self._blocks = [rows.blocks(c, like) for rows in levels[:-1]]
        self._whole = [None, *(rows.blocks(1, like)[0] for rows in levels[1:])]
        self._last = levels[-1].singles(like)

    def fine(self, level: int, C: Tensor, tau: Tensor | None) -> Tensor:
        made = list[Tensor]()
        for j, step in enumerate(self._blocks[level]):
            C = step(C)
            if tau is not None:
                C = C + tau[j :: self.c]
            made.append(C)
        return torch.stack(made, 1) if level else C[:, None]

    def coarse(self, level: int, C: Tensor) -> Tensor:
        return self._whole[level](C)  # type: ignore[misc]

    def serial(self, z: State, tau: Tensor | None) -> Tensor:
        if tau is None:
            made = [z]
            for step in self._last:
                made.append(step(made[-1]))
            Z = torch.stack(made)
            self.made = Z, Z[1:]
            return Z
        ins, outs = [z.detach().requires_grad_(self.recording)], list[Tensor]()
        with torch.set_grad_enabled(self.recording):
            for step, t in zip(self._last, tau.unbind(0)):
                outs.append(step(ins[-1]))
                ins.append(outs[-1] + t)
            ends = torch.stack(outs)
        self.recorded = (ins[:-1], ends) if self.recording else None
        Z = torch.stack([x.detach() for x in ins])
        self.made = Z, ends.detach()
        return Z

    def jacobian(self, C: Tensor) -> Tensor:
        with torch.enable_grad():
            C = C.detach().requires_grad_()
            return jacobians(self.fine(0, C, None)[:, -1], C)

    def chain(self, C: Tensor) -> list[Tensor]:
        """The states behind every step of all chunks, (M, ...) each, with a graph that begins at C."""
        made = [C]
        for step in self._blocks[0]:
            made.append(step(made[-1]))
        return made[1:]


def jacobians(out: Tensor, C: Tensor) -> Tensor:
    """d out_m / d C_m, (M, S, D, D), sample by sample: one row for all samples at a time."""
    shape = (len(C), 1, -1) if C.dim() == 2 else (*C.shape[:2], -1)
    seeds = torch.eye(C.reshape(shape).shape[-1], dtype=C.dtype, device=C.device)
    rows = [
        torch.autograd.grad(out, C, seed.expand(C.reshape(shape).shape).reshape(C.shape), retain_graph=True)[0]
        for seed in seeds
    ]
    return torch.stack([row.reshape(shape) for row in rows], 2)


class Costates(System):
    """p_i = (dPhi_i/dx_i)^T p_{i+1} + r_i at given states, from the last to the first: its node k is p_{n-k}.

    graph: behind every step of the chunks, and their starts; r (n, ...) is what enters behind each step but the last,
    or None
    """

    def __init__(self, states: States, starts: Tensor, graph: list[Tensor], r: Tensor | None) -> None:
        self.states, self.starts, self.graph = states, starts, graph
        self.c, self.sizes = states.c, states.sizes
        self.r = None if r is None else r.unflatten(0, (-1, self.c))
        self._chains: dict[int, tuple[list[Tensor], Tensor]] = {}
        self._ones: dict[int, tuple[Tensor, Tensor]] = {}

    def pull(self, C: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The cotangents of `inputs`, from those at the ends of all chunks, (M, ...) in the order of depth."""
        outs, seeds = [self.graph[-1]], [C]
        if self.r is not None:
            outs, seeds = [*self.graph[:-1], *outs], [*self.r[:, :-1].unbind(1), *seeds]
        return torch.autograd.grad(outs, inputs, seeds, retain_graph=True, allow_unused=True)

    def entering(self, level: int) -> Tensor | None:
        """What enters at the nodes of level 1 before each of its steps is taken, in the order of this system."""
        if self.r is None:
            return None
        at_ends = self.r[:, -1] if level == 0 else self.r.sum(1)
        return torch.cat((at_ends[:-1].flip(0), torch.zeros_like(at_ends[:1])))

    def ends(self, pulled: Tensor) -> Tensor:
        """p at the ends of all chunks, (M, ...) in the order of this system, from the cotangents of their starts."""
        enters = self.entering(0)
        return pulled.flip(0) if enters is None else pulled.flip(0) + enters

    def fine(self, level: int, C: Tensor, tau: Tensor | None) -> Tensor:
        if level == 0:
            return self.ends(self.pull(C.flip(0), [self.starts])[0])[:, None]
        ins, outs = self._chain(level)
        enters = torch.zeros_like(outs) if tau is None else tau.flip(0).unflatten(0, (-1, self.c)).transpose(0, 1)
        seeds = torch.cat((enters[1:], C.flip(0)[None]))
        found = torch.stack(torch.autograd.grad(outs, ins, seeds, retain_graph=True)) + enters
        return found.transpose(0, 1).flip(0, 1)

    def coarse(self, level: int, C: Tensor) -> Tensor:
        if level not in self._ones:
            with torch.enable_grad():
                x = self._nodes(level).requires_grad_()
                self._ones[level] = x, self.states.coarse(level, x)
        x, out = self._ones[level]
        return torch.autograd.grad(out, x, C.flip(0), retain_graph=True)[0].flip(0)

    def serial(self, z: State, tau: Tensor | None) -> Tensor:
        ins, outs = self._chain(len(self.sizes) - 1)
        enters = torch.zeros_like(outs) if tau is None else tau.flip(0)
        seeds = torch.cat((enters[1:], z[None]))
        found = torch.stack(torch.autograd.grad(outs, ins, seeds, retain_graph=True)).flip(0)
        Z = torch.cat((z[None], found + enters.flip(0)))
        self.made = Z, found
        return Z

    def jacobian(self, C: Tensor) -> Tensor:
        return jacobians(self.graph[-1], self.starts).mT.flip(0)

    def _nodes(self, level: int) -> Tensor:
        """The states before the steps of a level, without a graph."""
        return self.starts.detach()[:: self.c ** (level - 1)]

    def _chain(self, level: int) -> tuple[list[Tensor], Tensor]:
        """Inputs and outputs of steps, each linearised at its given state, linked one to the next by the graph."""
        last = level == len(self.sizes) - 1
        if level == 1 and last and self.states.recorded is not None:
            return self.states.recorded
        if level in self._chains:
            return self._chains[level]
        steps = self.states._last if last else self.states._blocks[level]
        nodes = self._nodes(level)
        given = nodes.unbind(0) if last else nodes.unflatten(0, (-1, self.c)).unbind(1)
        ins, outs = [given[0].clone().requires_grad_()], list[Tensor]()
        with torch.enable_grad():
            for j, step in enumerate(steps):
                outs.append(step(ins[-1]))
                if j + 1 < len(steps):
                    ins.append(outs[-1] + (given[j + 1] - outs[-1]).detach())
            self._chains[level] = ins, torch.stack(outs)
        return self._chains[level]
