"""How much accuracy attacks leave, and whether the number may be believed: controls for gradients that hide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from .attacks import Ball, Box, broken, fgsm, input_gradient, margin, noise, pgd, scores, spsa, square
from .tables import Table
from .twins import is_adaptive, on_fixed_grid
from .unroll import in_evaluation

SAMPLES = 256  # no attack sees more
SILENT = 0.05  # share of samples without a gradient that raises a flag
SIZES = (0.02, 0.1, 0.5, 2.0)  # step sizes tried, relative to the radius


@dataclass(frozen=True)
class AttackCurve:
    """Accuracy under attack at radii `eps` (the first is 0), and what speaks against believing it.

    accuracy:  attack -> accuracy at every radius; "worst" counts a sample as soon as any attack breaks it
    area:      attack -> area under that curve / largest radius, in [0, 1]
    flags:     name of a control -> sentence; where there is one, the accuracies are upper bounds and nothing more
    checks:    the numbers that the controls looked at
    gains:     step size of PGD -> mean fall of the margin from where it started
    """

    norm: str
    eps: tuple[float, ...]
    accuracy: Mapping[str, tuple[float, ...]]
    area: Mapping[str, float]
    flags: Mapping[str, str]
    checks: Mapping[str, float]
    gains: Mapping[float, float] = field(default_factory=dict)

    @property
    def masked(self) -> bool:
        """Whether a control says that gradients hide."""
        return bool(self.flags)

    @property
    def standing(self) -> str:
        """What the accuracies are."""
        return f"upper bound only ({', '.join(self.flags)})" if self.flags else "robust accuracy"

    def table(self) -> Table:
        """A row for every radius, a column for every attack, and what the worst one is worth."""
        rows = [
            (e, *(self.accuracy[a][i] for a in self.accuracy), self.standing if e else "accuracy")
            for i, e in enumerate(self.eps)
        ]
        return Table(("eps", *self.accuracy, "standing"), rows)

    def metrics(self) -> dict[str, float]:
        """Flat numbers. Keys say `robust_accuracy` only where no flag is up, else `accuracy_bound`."""
        word = "accuracy_bound" if self.masked else "robust_accuracy"
        found = {f"{word}_{self.norm}_{e:.3g}": self.accuracy["worst"][i] for i, e in enumerate(self.eps) if e}
        found[f"{word}_area_{self.norm}"] = self.area["worst"]
        return {**found, "masking_flags": float(len(self.flags)), **self.checks}


def area_under(eps: Sequence[float], accuracy: Sequence[float]) -> float:
    """Trapezoidal area under accuracy over eps, divided by the range of eps: 1 for a classifier that never errs."""
    whole = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(zip(eps, accuracy)))
    return whole / (eps[-1] - eps[0])


def attack_curve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: Sequence[float],
    norm: str = "linf",
    *,
    twin: nn.Module | None = None,
    box: Box = None,
    image: tuple[int, int, int] | None = None,
    steps: int = 20,
    restarts: int = 1,
    queries: int = 100,
    seed: int = 0,
) -> AttackCurve:
    """Accuracy under noise, FGSM, PGD on two losses and black-box attacks at every radius, with masking controls.

    eps:    radii in the units of x, all positive;  norm: "linf" or "l2"
    twin:   an independently trained net for the same task: attacks on it are carried over to `model`
    box:    (low, high) of valid inputs;  image: (C, H, W) of flattened images, for the windows of Square

    "pgd" follows the cross-entropy, "pgd_margin" the margin; the black box is "square" for linf and "spsa" for l2. A
    net with adaptive steps is attacked through its twin on a fixed grid as well ("fixed_grid"). No more than 256
    samples are used. What was broken at one radius stays broken at larger ones.

    Flags, each raised with a sentence:
        zero_gradient   more than 5 % of the samples give a gradient that is 0 or not finite, for one of the losses
        black_box       the black box breaks more samples than PGD does, by 2 % at least, at some radius
        transfer        so does the attack on the twin, or through the fixed grid
        plateau         PGD lowers the margin by less than half of what the black box does, whatever its step size
        adaptive        steps are chosen adaptively: gradients through the choice of steps hide what breaks the net
    An attack that fails is no proof: without a flag the numbers are robust accuracies as far as these attacks see.
    Raises BadInput for radii that are not positive and rising, and data outside its box.
    """
    radii = tuple(float(e) for e in eps)
    if not radii or min(radii) <= 0 or sorted(set(radii)) != list(radii):
        raise BadInput(
            f"eps is a list of positive, rising radii, got {list(eps)}; write eps=(0.05, 0.1), for instance."
        )
    x, y = x[:SAMPLES].detach(), y[:SAMPLES]
    Ball(x, radii[0], norm, box)
    net = in_evaluation(model).requires_grad_(False)
    battery = _Battery(net, twin, norm, box, image, steps, restarts, queries, seed)
    fallen = _curves(battery, x, y, radii)
    fallen["worst"] = torch.stack(list(fallen.values())).any(0)
    accuracy = {name: tuple((1 - f.double().mean(1)).tolist()) for name, f in fallen.items()}
    area = {name: area_under((0.0, *radii), a) for name, a in accuracy.items()}
    flags, checks, gains = _controls(battery, x, y, radii, fallen)
    return AttackCurve(norm, (0.0, *radii), accuracy, area, flags, checks, gains)


@dataclass(frozen=True)
class _Battery:
    """The attacks with their settings."""

    net: nn.Module
    twin: nn.Module | None
    norm: str
    box: Box
    image: tuple[int, int, int] | None
    steps: int
    restarts: int
    queries: int
    seed: int

    def names(self) -> list[str]:
        return [
            "noise", "fgsm", "pgd", "pgd_margin", self.black_box,
            *(["transfer"] if self.twin is not None else []), *(["fixed_grid"] if is_adaptive(self.net) else []),
        ]  # fmt: skip

    @property
    def black_box(self) -> str:
        return "square" if self.norm == "linf" else "spsa"

    def run(self, name: str, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Attacked inputs."""
        if name == "noise":
            return noise(self.net, x, y, eps, self.norm, box=self.box, seed=self.seed)
        if name == "fgsm":
            return fgsm(self.net, x, y, eps, self.norm, box=self.box)
        if name == "square":
            return square(self.net, x, y, eps, queries=self.queries, image=self.image, box=self.box, seed=self.seed)
        if name == "spsa":
            steps = max(self.queries // 20, 1)
            return spsa(self.net, x, y, eps, self.norm, steps=steps, pairs=8, box=self.box, seed=self.seed)
        through = {"transfer": self.twin, "fixed_grid": on_fixed_grid(self.net) if name == "fixed_grid" else None}
        return self.ascend(x, y, eps, "margin" if name == "pgd_margin" else "cross_entropy", through.get(name))

    def ascend(
        self, x: Tensor, y: Tensor, eps: float, loss: str, through: nn.Module | None = None, size: float | None = None
    ) -> Tensor:
        return pgd(
            self.net, x, y, eps, self.norm, steps=self.steps, step_size=size, loss=loss,
            restarts=1 if size else self.restarts,
            box=self.box, seed=self.seed, through=through,
        )  # fmt: skip


def _curves(battery: _Battery, x: Tensor, y: Tensor, radii: Sequence[float]) -> dict[str, Tensor]:
    """Which samples each attack has broken up to each radius, (1 + radii, B); the first row: without attack."""
    lost = broken(battery.net, x, y)
    found = {}
    for name in battery.names():
        rows = [lost]
        for e in radii:
            now, left = rows[-1].clone(), ~rows[-1]
            if bool(left.any()):
                now[left] = broken(battery.net, battery.run(name, x[left], y[left], e), y[left])
            rows.append(now)
        found[name] = torch.stack(rows)
    return found


# ---- controls -------------------------------------------------------------------------------------------------------


def _controls(
    battery: _Battery, x: Tensor, y: Tensor, radii: Sequence[float], fallen: Mapping[str, Tensor]
) -> tuple[dict[str, str], dict[str, float], dict[float, float]]:
    flags: dict[str, str] = {}
    right = ~fallen["noise"][0]
    silent = _silent(battery.net, x[right], y[right])
    checks = {f"zero_gradient_{loss}": share for loss, share in silent.items()}
    if max(silent.values()) > SILENT:
        flags["zero_gradient"] = (
            f"the gradient of the {max(silent, key=silent.__getitem__).replace('_', '-')} is 0 or not finite at "
            f"{100 * max(silent.values()):.0f} % of the samples"
        )
    white = fallen["fgsm"] | fallen["pgd"] | fallen["pgd_margin"]
    for flag, names in (("black_box", (battery.black_box,)), ("transfer", ("transfer", "fixed_grid"))):
        excess = max((_excess(fallen[n], white) for n in names if n in fallen), default=0)
        checks[f"{flag}_excess"] = excess / len(x)
        if excess >= max(2, 0.02 * len(x)):
            flags[flag] = f"{' or '.join(n for n in names if n in fallen)} breaks {excess} samples more than PGD does"
    gains, outside = _headway(battery, x[right], y[right], radii[len(radii) // 2])
    checks |= {"margin_gain_pgd": max(gains.values(), default=0.0), "margin_gain_black_box": outside}
    if outside > 0 and max(gains.values()) < 0.5 * outside:
        flags["plateau"] = (
            f"PGD lowers the margin by {max(gains.values()):.2g} at best over step sizes from {SIZES[0]:g} to "
            f"{SIZES[-1]:g} radii, {battery.black_box} by {outside:.2g}"
        )
    if is_adaptive(battery.net):
        flags["adaptive"] = "steps are chosen adaptively, so the gradient is not that of one fixed map"
    return flags, checks, gains


def _silent(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Share of samples whose input gradient is 0 or not finite, for both losses; 0 without samples."""
    found = {}
    for loss in ("cross_entropy", "margin"):
        g = input_gradient(net, x, y, loss).flatten(1)
        bad = ~g.isfinite().all(1) | (g == 0).all(1)
        found[loss] = float(bad.double().mean()) if len(x) else 0.0
    return found


def _excess(one: Tensor, other: Tensor) -> int:
    """Largest surplus over radii of samples that only the one breaks over those that only the other breaks."""
    return int(((one & ~other).sum(1) - (other & ~one).sum(1)).max())


def _headway(battery: _Battery, x: Tensor, y: Tensor, eps: float) -> tuple[dict[float, float], float]:
    """Mean fall of the margin by PGD for every step size, and by the black box."""
    if not len(x):
        return {}, 0.0
    start = margin(scores(battery.net, x), y)

    def fall(z: Tensor) -> float:
        drop = (start - margin(scores(battery.net, z), y)).clamp(min=0.0)
        return float(drop[drop.isfinite()].mean()) if bool(drop.isfinite().any()) else 0.0

    gains = {s * eps: fall(battery.ascend(x, y, eps, "cross_entropy", size=s * eps)) for s in SIZES}
    return gains, fall(battery.run(battery.black_box, x, y, eps))


def radii_for(x: Tensor, levels: Sequence[float], norm: str = "linf") -> tuple[float, ...]:
    """Radii of attacks as levels of the spread of x: level times the standard deviation of all entries, for l2 times
    sqrt(D) as well, the size of noise of that level."""
    size = float(x.std()) if x.numel() > 1 else 1.0
    width: Any = x[0].numel() ** 0.5 if norm == "l2" else 1.0
    return tuple(float(level) * size * width for level in levels)
