"""Training by the maximum principle: plain successive approximations, the extended ones, and gradient descent."""

from __future__ import annotations

from itertools import pairwise

import odenet as on
from odenet.experiment.papers import Claim, Paper, main

SMALLER = "400 digits of 8 x 8 pixels, 6 layers of width 24 and 12 iterations on all data at once"
RATES = (0.1, 0.5, 2.0)  # of gradient descent; the best one counts
WORDS = {"smaller": SMALLER, "form": ".3g"}
PAPER = Paper(
    title="Maximum principle based algorithms for deep learning",
    cite="Q. Li, L. Chen, C. Tai & W. E, JMLR 18(165), 2018",
    arxiv="1710.09513",
    about="Training is a control problem. States are swept forwards and costates backwards, and then every layer "
    "maximises its Hamiltonian; with penalties of weight rho on the errors of states and costates this converges.",
    how="A residual net of six Euler steps with tanh, h = 0.2, on 400 digits. Ten steps of L-BFGS maximise the "
    "Hamiltonian of a layer. Gradient descent takes all data at once as well, with the best of the rates "
    f"{', '.join(map(str, RATES))} by its own loss at the end. A loss rises where it is larger than at the iteration "
    "before. Seconds are of one thread.",
    claims=(
        Claim(
            key="rises",
            text="iterations of 12 in which the loss rises, rho = 0 (plain successive approximations)",
            place="abstract: the method of successive approximations is modified",
            at_least=1.0,
            **WORDS,
        ),
        Claim(
            key="modified",
            text="loss of the plain method over that of the extended one, rho = 1, after 12 iterations",
            place="abstract: the method of successive approximations is modified",
            at_least=1.0,
            **WORDS,
        ),
        Claim(
            key="initial",
            text="loss of gradient descent over that of the extended method, rho = 1, after 12 iterations",
            place="abstract: favorable initial convergence rate per iteration",
            at_least=1.0,
            **WORDS,
        ),
        Claim(
            key="seconds",
            text="seconds of the extended method over those of gradient descent, the same iterations",
            place="abstract: Hamiltonian maximization is still in need of improvement",
            at_least=1.0,
            **WORDS,
        ),
        Claim(
            key="larger",
            text="rises of the extended method with rho = 0.01 minus those with rho = 1",
            place="ours: a larger rho is a shorter step",
            at_least=0.0,
            control=True,
        ),
        Claim(
            key="chosen",
            text="iterations in which the loss rises where rho is chosen by trial (sqh)",
            place="ours: a step that would raise it is not taken",
            at_most=0.0,
            control=True,
        ),
    ),
)


def trained(method: str, seed: int, steps: int, points: int, **words) -> tuple[list[float], float]:
    """(losses before every iteration and after the last, seconds)."""
    data = on.data.load("digits", seed=seed)
    x, y = data.x[:points], data.y[:points]
    net = on.nets.resnet(64, 10, width=24, steps=6, span=(0.0, 1.2), seed=seed)
    fit = on.fit(net, (x, y), method, steps=steps, batch=points, holdout=0.0, seed=seed, **words)
    return [row["loss"] for row in fit.history] + [fit.score["train_loss"]], fit.history[-1]["seconds"]


def rises(losses: list[float]) -> int:
    return sum(b > a for a, b in pairwise(losses))


def measure(smoke: bool) -> dict:
    seeds, steps, points = (range(1), 2, 60) if smoke else (range(3), 12, 400)
    found: dict[str, list[float]] = {c.key: [] for c in PAPER.claims}
    for seed in seeds:
        plain, _ = trained("msa", seed, steps, points)
        extended, slow = trained("emsa", seed, steps, points, rho=1.0)
        timid, _ = trained("emsa", seed, steps, points, rho=0.01)
        chosen, _ = trained("sqh", seed, steps, points)
        descents = [trained("sgd", seed, steps, points, lr=lr) for lr in RATES]
        losses, fast = min(descents, key=lambda pair: pair[0][-1])
        found["rises"].append(rises(plain))
        found["modified"].append(plain[-1] / extended[-1])
        found["initial"].append(losses[-1] / extended[-1])
        found["seconds"].append(slow / fast)
        found["larger"].append(rises(timid) - rises(extended))
        found["chosen"].append(rises(chosen))
    return found


if __name__ == "__main__":
    main(PAPER, measure)
