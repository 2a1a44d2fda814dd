"""Train under Euler, test under another solver: below a critical step size the net is an ODE, above it is not."""

from __future__ import annotations

import torch

import odenet as on
from odenet.experiment.papers import Claim, Paper, main
from odenet.train.many import fit_many

STEPS = (1, 4, 16, 64)
PLACE = "figure 4 a), whose runs the README of the authors' repository lists"
SOLVERS = ("midpoint", "rk4")


def step(n: int) -> str:
    return f"trained with h = 1/{n}" if n > 1 else "trained with h = 1"


def high(n: int) -> Claim:
    text = f"{step(n)}: accuracy under Euler itself"
    return Claim(key=f"euler_{n}", text=text, place=PLACE, at_least=90.0, form=".1f", unit=" %")


def drop(n: int) -> Claim:
    bound = {"at_least": 10.0} if n <= 4 else {"at_most": 10.0}
    place = "a guess of ours: the critical step is not below 1/16" if n == 16 else PLACE
    text = f"{step(n)}: the most that {' or '.join(SOLVERS)} with this h lose of it, in points"
    return Claim(key=f"drop_{n}", text=text, place=place, control=n == 16, form=".1f", **bound)


PAPER = Paper(
    title="ResNet after all: neural ODEs and their numerical solution",
    cite="K. Ott, P. Katiyar, P. Hennig & M. Tiemann, ICLR 2021",
    arxiv="2007.15386",
    about="A neural ODE trained with coarse steps is a discrete network that another solver breaks; with fine steps "
    "the solver can be swapped. The gap between two solvers tells the two apart.",
    how="As in the authors' repository: two-dimensional spheres, a field 2-32-32-2 with relu on t from 0 to 1, Adam "
    "with learning rate 1e-4, batches of 128, 10,000 steps, five seeds; 3,000 points to train and 1,000 to test. "
    "That solvers agree where they differ by 10 points at most is the threshold of the authors' step adaptation.",
    claims=tuple(claim(n) for n in STEPS for claim in (high, drop)),
)


def net_of(steps: int, seed: int) -> torch.nn.Module:
    field = {"layers": 3, "hidden": 32, "activation": "relu", "gain": 2**0.5}
    where = {"width": 2, "opening": "pad", "integrator": "euler", "steps": steps}
    return on.nets.neural_ode(2, 2, **where, **field, seed=seed)


@torch.no_grad()
def accuracy(net: torch.nn.Module, data: on.Dataset) -> float:
    return 100 * float((net(data.x_test).argmax(-1) == data.y_test).double().mean())


def measure(smoke: bool) -> dict:
    seeds, training, depths = (range(2), 10, {n: min(n, 4) for n in STEPS}) if smoke else (
        range(5), 10_000, {n: n for n in STEPS}
    )  # fmt: skip
    data = [on.data.load("sphere2", seed=s, n=5000) for s in seeds]
    found: dict[str, list[float]] = {}
    for n, steps in depths.items():
        nets = [net_of(steps, s) for s in seeds]
        fit_many(nets, data, lr=[1e-4] * len(nets), seeds=list(seeds), steps=training, schedule="constant")
        own = [accuracy(net, d) for net, d in zip(nets, data)]
        other = [min(accuracy(net.with_integrator(s), d) for s in SOLVERS) for net, d in zip(nets, data)]
        found |= {f"euler_{n}": own, f"drop_{n}": [a - b for a, b in zip(own, other)]}
    return found


if __name__ == "__main__":
    main(PAPER, measure)
