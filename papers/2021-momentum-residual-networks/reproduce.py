"""Nested rings: a momentum network with one layer for all depths takes them apart, a residual network does not."""

from __future__ import annotations

import torch

import odenet as on
from odenet.experiment.papers import Claim, Paper, main
from odenet.train.many import fit_many

CODE = "examples/run_separation_nested_rings.py of the authors' repository (momentumnet)"
SMALLER = "900 points in every step where the authors draw 8,000; gamma = 0 for 3,000 steps where they take 5,000"
PAPER = Paper(
    title="Momentum residual neural networks",
    cite="M. E. Sander, P. Ablin, M. Blondel & G. Peyré, ICML 2021",
    arxiv="2102.07870",
    about="v <- gamma v + (1 - gamma) f(x), x <- x + v in place of x <- x + f(x): a residual network that can be run "
    "backwards and is of second order, so that trajectories may cross.",
    how="Four rings, their classes in turn; a perceptron 2-16-2 with tanh and PyTorch's initial weights, the same in "
    "all 15 steps, and the state itself as scores. Separated is 99 % of the points. As the authors: gamma = 0.99, "
    "Adam with learning rate 0.2 for 1,500 steps; gamma = 0 with learning rate 0.01; both along a cosine here. "
    "Batches come from 12,000 points, accuracy is on 4,000 others. The authors show one run. The last rows: random "
    "perceptrons of width 64 on inputs from N(0, 1), h = 1.",
    claims=(
        Claim(
            key="best",
            text="best accuracy of five momentum networks, gamma = 0.99",
            place=f"{CODE}: the rings are separated",
            at_least=99.0,
            smaller=SMALLER,
            form=".1f",
            unit=" %",
        ),
        Claim(
            key="momentum",
            text="accuracy of all five momentum networks",
            place=f"{CODE}, where one run is shown",
            at_least=99.0,
            smaller=SMALLER,
            form=".1f",
            unit=" %",
        ),
        Claim(
            key="resnet",
            text="accuracy of all five residual networks, gamma = 0",
            place=f"{CODE}: they are not",
            at_most=99.0,
            smaller=SMALLER,
            form=".1f",
            unit=" %",
        ),
        Claim(
            key="identity",
            text="largest difference to y_{n+1} = (1 + gamma) y_n - gamma y_{n-1} + (1 - gamma) f(y_n), 100 steps",
            place="the update rule, with v eliminated",
            at_most=1e-11,
            form=".1e",
        ),
        Claim(
            key="inverse",
            text="relative error of the input recovered from the output, gamma = 0.9, 50 steps, double precision",
            place="the inverse of the update rule",
            at_most=1e-6,
            form=".1e",
        ),
        Claim(
            key="gradient",
            text="relative difference of the gradient without stored states to the usual one, 50 steps",
            place="abstract: invertible, with a much smaller memory footprint",
            at_most=1e-6,
            form=".1e",
        ),
    ),
)


def net_of(gamma: float, seed: int) -> on.Chain:
    """Fifteen steps of one and the same perceptron; the state is the score."""
    scheme = on.TwoStep(-gamma, gain="consistent") if gamma else "euler"
    flow = on.Flow(on.fields.MLP(2, layers=2, hidden=16), scheme, depth="shared", span=(0.0, 15.0), steps=15)
    torch.manual_seed(seed)
    with torch.no_grad():
        for n, layer in enumerate((torch.nn.Linear(2, 16), torch.nn.Linear(16, 2)), start=1):
            flow.weights[f"K{n}"][0] = layer.weight
            flow.weights[f"b{n}"][0] = layer.bias
    return on.Chain(flow)


def accuracies(gamma: float, lr: float, steps: int, seeds: range) -> list[float]:
    data = [on.data.load("nested_rings", seed=s, n=20_000) for s in seeds]
    nets = [net_of(gamma, s) for s in seeds]
    fits = fit_many(nets, data, lr=[lr] * len(nets), seeds=list(seeds), steps=steps, batch=900, schedule="cosine")
    return [100 * fit.score.get("accuracy", 0.0) for fit in fits]


def by_hand(seed: int, gamma: float = 0.9, steps: int = 100) -> float:
    """The registered method against the update rule for (x, v), written out."""
    flow = on.Flow(on.fields.MLP(64), "momentum", depth="shared", span=(0.0, steps), steps=steps, seed=seed).double()
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y, v = x, torch.zeros_like(x)
    K1, b1, K2, b2 = (flow.weights[name][0] for name in ("K1", "b1", "K2", "b2"))
    with torch.no_grad():
        for _ in range(steps):
            v = gamma * v + (1 - gamma) * (torch.tanh(y @ K1.T + b1) @ K2.T + b2)
            y = y + v
        return float((flow(x) - y).abs().max() / y.abs().max())


def backwards(seed: int, steps: int = 50) -> tuple[float, float]:
    """Error of the recovered input, and of the gradient by running backwards."""
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    flows = [
        on.Flow(on.fields.MLP(64), "momentum", span=(0.0, steps), steps=steps, gradient=g, seed=seed).double()
        for g in ("autograd", "reversible")
    ]
    for flow in flows:
        (flow(x) ** 2).sum().backward()
    usual, without = (torch.cat([w.grad.flatten() for w in flow.parameters()]) for flow in flows)
    recovered = on.stability.reversibility(flows[0], x, depths=1).rows[-1][2]
    return recovered, float((without - usual).norm() / usual.norm())


def measure(smoke: bool) -> dict:
    seeds, long, longer = (range(2), 5, 5) if smoke else (range(5), 1500, 3000)
    inverse, gradient = zip(*(backwards(s) for s in seeds))
    momentum = accuracies(0.99, 0.2, long, seeds)
    return {
        "best": max(momentum),
        "momentum": momentum,
        "resnet": accuracies(0.0, 0.01, longer, seeds),
        "identity": [by_hand(s) for s in seeds],
        "inverse": inverse,
        "gradient": gradient,
    }


if __name__ == "__main__":
    main(PAPER, measure)
