"""A ball inside a shell: no flow of their space takes them apart, with added dimensions it is easy."""

from __future__ import annotations

import torch

import odenet as on
from odenet.experiment.papers import Claim, Paper, main

THEOREM = "the flow of an ODE on the line cannot represent g(-1) = 1, g(1) = -1"
ABSTRACT = "abstract: augmented neural ODEs are more expressive and of lower computational cost"
PAPER = Paper(
    title="Augmented neural ODEs",
    cite="E. Dupont, A. Doucet & Y. W. Teh, NeurIPS 2019",
    arxiv="1904.01681",
    about="A neural ODE keeps the topology of its input space, so some functions are out of its reach or dear; with "
    "zeros appended to the input they are not.",
    how="As in the authors' code: 500 points of the ball |x| <= 1/2 and 1,500 of the shell 1 <= |x| <= 3/2, targets -1 "
    "and 1 with the smooth L1 loss, a perceptron with 32 hidden units in three layers and relu, five added "
    "dimensions, dopri5 with tolerance 1e-3, 30 epochs in batches of 64; Adam with learning rate 1e-3, weights "
    "from N(0, 1/fan_in). Accuracy is that of the sign on the data itself; on the line three points in four are "
    "the most that one sign change can get right. Five seeds.",
    claims=(
        Claim(
            key="line_node",
            text="one dimension: accuracy of the neural ODE",
            place=THEOREM,
            at_most=76.0,
            form=".1f",
            unit=" %",
        ),
        Claim(
            key="line_anode",
            text="one dimension: accuracy of the augmented neural ODE",
            place=ABSTRACT,
            at_least=99.0,
            form=".1f",
            unit=" %",
        ),
        Claim(
            key="loss",
            text="two dimensions: loss of the augmented neural ODE over that of the neural ODE",
            place=ABSTRACT,
            at_most=1.0,
        ),
        Claim(
            key="evaluations",
            text="two dimensions: evaluations of f after training, neural ODE over augmented",
            place=ABSTRACT,
            at_least=1.0,
        ),
        Claim(
            key="growth",
            text="two dimensions: evaluations of f of the neural ODE after training over before",
            place="introduction: the flows that approximate such functions are expensive to solve",
            at_least=1.2,
        ),
    ),
)
FIELD = {"layers": 3, "hidden": 32, "activation": "relu", "rtol": 1e-3, "atol": 1e-3, "opening": "pad"}


def trained(name: str, dim: int, seed: int, epochs: int) -> dict[str, float]:
    """Loss, accuracy of the sign in per cent, and evaluations of f for all points before and after."""
    data = on.data.load("spheres", seed=seed, n=2000, dim=dim)
    x = torch.cat((data.x, data.x_val, data.x_test))
    y = 2.0 * torch.cat((data.y, data.y_val, data.y_test))[:, None] - 1.0
    width = dim + 5 if name == "anode" else dim
    net = on.nets.get(name)(dim, 1, width=width, seed=seed, **FIELD)
    flow, state = net.parts[1], net.parts[0](x)
    before = flow.nfe(state)
    steps = max(2, epochs * len(x) // 64)
    fit = on.fit(net, (x, y), steps=steps, lr=1e-3, seed=seed, batch=64, loss="huber", holdout=0.0)
    after = flow.nfe(state)
    with torch.no_grad():
        right = float(((net(x) > 0) == (y > 0)).double().mean())
    return {"loss": fit.score["train_loss"], "accuracy": 100 * right, "before": before, "after": after}


def measure(smoke: bool) -> dict:
    seeds, epochs = (range(1), 0) if smoke else (range(5), 30)
    node, anode = (
        {dim: [trained(name, dim, s, epochs) for s in seeds] for dim in (1, 2)} for name in ("neural_ode", "anode")
    )
    return {
        "line_node": [r["accuracy"] for r in node[1]],
        "line_anode": [r["accuracy"] for r in anode[1]],
        "loss": [a["loss"] / n["loss"] for a, n in zip(anode[2], node[2])],
        "evaluations": [n["after"] / a["after"] for a, n in zip(anode[2], node[2])],
        "growth": [n["after"] / n["before"] for n in node[2]],
    }


if __name__ == "__main__":
    main(PAPER, measure)
