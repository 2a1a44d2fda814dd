"""Windows in time, one after another, each as long and each with as many features as a tolerance asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .evolution import Coefficients, Evolution, State, Window, at_nodes, rule
from .feature_space import COARSER, Design, Function, Space, designs
from .random_feature_basis import REAL, Axis, Features, Index

REMAPS = 300  # adaptations of the space in one march
SHRINKS = 0.8  # a window is cut again while that makes the error in time so much smaller: data with kinks gain little
Clock = Callable[[], bool]


@dataclass
class Piece:
    """The solution on one window: its space by number, start, length, state at the start, K at the nodes."""

    space: int
    start: float
    length: float
    state: State
    K: Coefficients


@dataclass
class March:
    """A solution by windows, the field of a `Solution`.

    features, mixes: by space; orders: highest time derivative of each unknown; nodes: q
    """

    nodes: int
    orders: list[int]
    features: list[Features]
    mixes: list[Tensor]
    pieces: list[Piece]

    def jet(self, x: Tensor, channels: Sequence[Index]) -> Tensor:
        """(C, N, m): derivatives at points (N, d), time last."""
        out = torch.full((len(channels), len(x), len(self.orders)), float("nan"), dtype=REAL)
        if not self.pieces:
            return out
        starts = torch.tensor([p.start for p in self.pieces], dtype=REAL)
        at = (torch.searchsorted(starts, x[:, -1].contiguous(), right=True) - 1).clamp(0, len(starts) - 1)
        inside = sorted({c[:-1] for c in channels})
        end = self.pieces[-1].start + self.pieces[-1].length
        at[x[:, -1] > end + 1e-9 * abs(end - self.pieces[0].start)] = -1  # beyond a march that ended early
        for i in at[at >= 0].unique().tolist():
            rows, piece = (at == i).nonzero()[:, 0], self.pieces[i]
            near = self.features[piece.space](x[rows, :-1], inside)
            near = {a: f @ self.mixes[piece.space] for a, f in near.items()}
            t = (x[rows, -1] - piece.start) / piece.length
            for k in {c[-1] for c in channels}:
                for u in range(len(self.orders)):
                    table = self._coefficients(piece, u, k, t)
                    for j, c in enumerate(channels):
                        if c[-1] == k:
                            out[j, rows, u] = (table * near[c[:-1]]).sum(1)
        return out

    def _coefficients(self, piece: Piece, u: int, k: int, t: Tensor) -> Tensor:
        """(N, r): coefficients of the k-th time derivative at relative times t (N,)."""
        r, top = rule(self.nodes), self.orders[u]
        if k >= top:
            return r.interpolate(t, False, k - top) @ piece.K[u] / piece.length ** (k - top)
        nodes = at_nodes(r, top, k, piece.K[u], piece.state[u], piece.length)
        return r.interpolate(t, True) @ torch.cat([piece.state[u][k][None], nodes])

    def tensors(self) -> dict[str, Tensor]:
        out = {"nodes": torch.tensor(self.nodes), "orders": torch.tensor(self.orders)}
        for i, (f, mix) in enumerate(zip(self.features, self.mixes)):
            out |= {f"space{i}.{k}": v for k, v in packed(f).items()} | {f"space{i}.mix": mix}
        for i, p in enumerate(self.pieces):
            out[f"window{i}.at"] = torch.tensor([p.space, p.start, p.length], dtype=REAL)
            out[f"window{i}.K"] = torch.stack(p.K)
            out[f"window{i}.state"] = torch.stack([s for unknown in p.state for s in unknown])
        return out

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor]) -> March:
        """The inverse of `tensors`."""
        orders = [int(k) for k in tensors["orders"]]
        spaces = sum(name.endswith(".mix") for name in tensors)
        found = [
            {k.split(".", 1)[1]: v for k, v in tensors.items() if k.startswith(f"space{i}.")} for i in range(spaces)
        ]
        pieces = []
        for i in range(sum(name.endswith(".at") for name in tensors)):
            space, start, length = tensors[f"window{i}.at"].tolist()
            rows = iter(tensors[f"window{i}.state"])
            state = [[next(rows) for _ in range(k)] for k in orders]
            pieces.append(Piece(int(space), start, length, state, list(tensors[f"window{i}.K"])))
        return cls(int(tensors["nodes"]), orders, [unpacked(f) for f in found], [f["mix"] for f in found], pieces)


def packed(f: Features) -> dict[str, Tensor]:
    """Features as tensors."""
    out = {"w": f.w, "b": f.b, "sine": torch.tensor(f.activation == "sin")}
    for i, a in enumerate(f.axes):
        flat = [a.lower, a.upper, float(a.periodic), *a.centres, *a.widths, *a.shares]
        out[f"axis{i}"] = torch.tensor(flat, dtype=REAL)
    return out


def unpacked(tensors: Mapping[str, Tensor]) -> Features:
    """The inverse of `packed`."""
    axes = []
    for i in range(tensors["w"].shape[1]):
        lower, upper, periodic, *rest = tensors[f"axis{i}"].tolist()
        k = len(rest) // 3
        centres, widths, shares = (tuple(rest[j * k : (j + 1) * k]) for j in range(3))
        axes.append(Axis(lower, upper, bool(periodic), centres, widths, shares))
    return Features(tuple(axes), tensors["w"], tensors["b"], "sin" if bool(tensors["sine"]) else "tanh")


@dataclass
class Marcher:
    """Marches an evolution problem to one tolerance.

    tolerance:  of the space: relative held-out error with which a space of 0.8 times the features holds the solution
    slack:      the last Legendre coefficient of u in time may be so many tolerances: Radau's error at the end of the
                window is of twice its order
    floor:      what kinks leave in space anyhow: no more features for less
    width, most: first and largest number of features; given: no adaptation of either axes or width
    """

    system: Evolution
    tolerance: float
    width: int
    most: int
    seed: int = 0
    oversampling: float = 2.0
    activation: str = "sin"
    adapt: bool = True
    windows: int | None = None
    slack: float = 1.0
    floor: float = 0.0
    gain: float = 0.5
    over: Clock = lambda: False
    draws: int = 0
    remaps: int = 0
    rejected: int = 0
    iterations: int = 0
    factorisations: int = 0
    widest: int = 0
    condition: float = 0.0
    status: str = "converged"
    found: March = field(init=False)
    space: Space = field(init=False)
    window: Window = field(init=False)
    level: float = field(init=False)
    scale: float = field(init=False)

    def run(self) -> March:
        """The solution as far as it came; `status` says how it ended."""
        system = self.system
        self.found = March(system.rule.q, system.orders, [], [], [])
        starts = [[system.start(u, k) for k in range(top)] for u, top in enumerate(system.orders)]
        self.level = max(self.tolerance, self.floor)
        design = Design(system.axes, self.width)
        if self.adapt:
            design, least = self._chosen(self.width, [f for fs in starts for f in fs], self.level)
            self.level = max(self.level, 3 * least)
        self._take(self._space(design))
        space = self.space
        state = [[space.fit(f(space.x)) for f in fs] for fs in starts]
        self._march(state, starts)
        return self.found

    def _march(self, state: State, starts: list[list[Function]]) -> None:
        system, span = self.system, self.system.last - self.system.first
        t, self.scale, previous, before = system.first, 0.0, None, float("inf")
        stuck: tuple[float, float] | None = None
        h = span / (self.windows or 50)
        while t < system.last - 1e-12 * span:
            if self.over():
                self.status = "budget"
                return
            h = self._fitted(h, system.last - t)
            guess = self._guess(previous, h)
            goal = self.tolerance * 1e-3 * h / span
            K, taken = self.window.solve(state, t, h, guess, goal)
            if K is None and guess is not None:
                K, taken = self.window.solve(state, t, h, None, goal)
            self.iterations += taken
            if K is None:
                self.rejected += 1
                h *= 0.5
                if h < 1e-8 * span:
                    self.status = "stalled"
                    return
                continue
            tail, detail = self._errors(K, state, h)
            limit = self.slack * self.tolerance
            if tail > 2 * limit and tail < SHRINKS * before and self.windows is None:
                self.rejected, before = self.rejected + 1, tail
                h *= max(0.2, 0.9 * (limit / tail) ** (1 / system.rule.q))
                continue
            before = float("inf")
            end = [
                [system.coefficients(u, k, K, state, h)[-1] for k in range(top)] for u, top in enumerate(system.orders)
            ]
            if stuck is not None and stuck[0] == t and detail > 0.5 * stuck[1]:
                self.level = max(self.level, 1.5 * detail)  # kinks: as many features as pay
            if detail > self.level and self.adapt and self.remaps < REMAPS:
                stuck = (t, detail)
                moved = self._resolved(state, end, detail, starts if t == system.first else None)
                if moved is not None:
                    state, previous = moved, None
                    h = h * 0.5 if detail > 1e3 * self.tolerance else h
                    continue
            K = [k.contiguous() for k in K]
            self.found.pieces.append(Piece(len(self.found.mixes) - 1, t, h, state, K))
            t, state, previous = t + h, end, (K, h)
            if self.windows is None:
                grown = 0.9 * (limit / max(tail, 1e-300)) ** (1 / system.rule.q)
                grown = min(2.0, max(0.3, grown)) if taken < 15 else 0.8
                h *= 1.0 if 0.9 < grown < 1.2 else grown  # an equal length lets factors serve again

    @staticmethod
    def _fitted(h: float, left: float) -> float:
        """No window that leaves a sliver."""
        return left if h >= left * (1 - 1e-9) else left / 2 if h > 0.6 * left else h

    def _guess(self, previous: tuple[Coefficients, float] | None, h: float) -> Coefficients | None:
        if previous is None or h > 3 * previous[1]:
            return None
        K, before = previous
        ahead = self.system.rule.interpolate(1 + self.system.rule.c * h / before, False)
        return [ahead @ k for k in K]

    def _errors(self, K: Coefficients, state: State, h: float) -> tuple[float, float]:
        """Relative: the last Legendre coefficient in time; what a space with fewer features cannot hold."""
        system, tail, detail = self.system, 0.0, 0.0
        values = [system.coefficients(u, 0, K, state, h) for u in range(len(K))]
        self.scale = max(self.scale, sum(float(v[-1].square().sum()) for v in values) ** 0.5, 1e-300)
        for u in range(len(K)):
            tail = max(tail, system.rule.tail(values[u]) / self.scale)
            if self.adapt:
                detail = max(detail, float((values[u] @ self.space.detail.T).norm(dim=1).max()) / self.scale)
        return tail, detail

    def _resolved(self, state: State, end: State, detail: float, starts: list[list[Function]] | None) -> State | None:
        """The state in a better space, or None where there is none."""
        old = self.space

        def function(c: Tensor) -> Function:
            return lambda x: old(x, [old.zero])[old.zero] @ c

        now = starts or [[function(c) for c in cs] for cs in state]
        ahead = [function(cs[0]) for cs in end] if detail < 1e3 * self.tolerance else []
        wanted = [*ahead, *(fs[0] for fs in now)]
        self.remaps += 1
        design, least = self._chosen(old.width, wanted, 0.3 * self.level)
        if design.width <= old.width and least > 0.3 * old.coarse.gap(wanted):
            design = Design(design.axes, round(1.3 * old.width))
            if design.width > self.most:
                return None
        self._take(self._space(design))
        return [[self.space.fit(f(self.space.x)) for f in fs] for fs in now]

    def _chosen(self, width: int, wanted: Sequence[Function], goal: float) -> tuple[Design, float]:
        """Of all designs the one that holds the wanted functions best; wider ones until the goal is met.

        Functions with kinks converge slowly: widening ends where it gains less than a factor `gain`.
        """
        best, least, before = Design(self.system.axes, width), float("inf"), float("inf")
        while True:
            for design in designs(self.system.axes, width, wanted):
                error = self._space(design, COARSER).gap(wanted)
                if error < least:
                    best, least = design, error
                if design.plain and error < 0.1 * goal:  # no stretching where none is needed
                    return best, least
            if least < goal or width * 1.4 > self.most or least > self.gain * before:
                return best, least
            width, before = round(1.4 * width), least

    def _space(self, design: Design, share: float | None = None) -> Space:
        self.draws += 1
        seed, channels = 1_000_003 * self.seed + self.draws, self.system.channels
        if share is not None:
            design, channels = Design(design.axes, round(share * design.width)), [(0,) * len(design.axes)]
        return design.space(self.system.space, seed, channels, self.oversampling, self.activation)

    def _take(self, space: Space) -> None:
        if self.found.features:
            self.factorisations += self.window.factorisations
        self.space, self.window = space, Window(self.system, space)
        self.widest, self.condition = max(self.widest, space.width), max(self.condition, space.condition)
        self.found.features.append(space.features)
        self.found.mixes.append(space.mix)

    def settings(self) -> dict[str, object]:
        """What was chosen."""
        axes = [{"periodic": a.periodic, "steep": [list(p) for p in zip(a.centres, a.widths)]} for a in self.space.axes]
        return {
            "tolerance": self.tolerance, "windows": len(self.found.pieces), "nodes": self.system.rule.q,
            "width": self.widest, "dimension": self.space.size, "spaces": len(self.found.mixes),
            "rejected": self.rejected, "iterations": self.iterations,
            "factorisations": self.factorisations + self.window.factorisations,
            "condition": self.condition, "axes": axes,
        }  # fmt: skip


__all__ = ["March", "Marcher", "Piece", "packed", "unpacked"]
