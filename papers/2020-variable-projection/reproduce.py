"""What variable projection saves: a surrogate of a convection-diffusion problem, and two spirals."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

import odenet as on
from odenet.experiment.papers import Claim, Paper, main

SMALLER = "300 samples, nets of 4 layers of width 8; not the paper's data"
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)  # of Adam; the best one is compared, for every seed
OVER = "tuned Adam's over variable projection's"
WHOLE = "plain Gauss-Newton's over variable projection's, after equal work"
ELIMINATING = "what eliminating the last layer is for"

PAPER = Paper(
    title="Train like a (Var)Pro: efficient training of neural networks with variable projection",
    cite="E. Newman, L. Ruthotto, J. Hart & B. van Bloemen Waanders, SIAM J. Math. Data Sci. (2021)",
    arxiv="2007.13171",
    about="The last, affine layer is eliminated, and the loss that remains is minimised by Gauss-Newton with a Krylov "
    "method, for squares and for cross-entropy.",
    how="All methods have 600 units of work, a unit being one evaluation of the net or of its derivative along or "
    "against one direction on all data: a gradient costs two, so Adam has 300 epochs in batches of 32. "
    "The bounds are ours: the statements have no numbers that could be read. Adam's learning rate is the best of "
    f"{', '.join(f'{r:g}' for r in RATES)} for every seed and every number. The surrogate learns u at 16 points of "
    "-k u'' + v u' = 1 on [0, 1] with u = 0 at both ends from (log k, v); the classes are two spirals.",
    claims=tuple(
        Claim(key=key, text=text, place=place, control=control, at_least=1.0, smaller=SMALLER, form=".3g")
        for key, text, place, control in (
            ("surrogate", f"training loss on a surrogate of a PDE: {OVER}, after equal work", "abstract", False),
            ("classes", f"training loss on a classification problem: {OVER}, after equal work", "abstract", False),
            ("unseen", f"mean squared error of the surrogate on unseen parameters: {OVER}", "abstract", False),
            ("classes_unseen", f"cross-entropy of unseen samples of the classes: {OVER}", "ours, same runs", True),
            ("surrogate_whole", f"training loss on the surrogate: {WHOLE}", ELIMINATING, True),
            ("classes_whole", f"training loss on the classes: {WHOLE}", ELIMINATING, True),
        )
    ),
)


def surrogate(seed: int, n: int = 600) -> tuple[Tensor, Tensor]:
    """(log k, v), scaled, and u = (x - (e^(v x / k) - 1) / (e^(v / k) - 1)) / v at 16 points, scaled to variance 1."""
    draw = torch.rand(n, 2, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    k, v, x = 10 ** (-draw[:, 0]), 0.5 + 4 * draw[:, 1], torch.linspace(0, 1, 18, dtype=torch.float64)[1:-1]
    u = (x - torch.expm1(v * x / k) / torch.expm1(v / k)) / v
    return 2 * draw[:, :, 0] - 1, u / u.std()


def data(task: str, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and unseen data."""
    if task == "surrogate":
        x, y = surrogate(seed)
        return (x[:300], y[:300]), (x[300:], y[300:])
    found = on.data.load("spirals", seed=seed, n=500)
    return (found.x[:300].double(), found.y[:300]), (found.x_test.double(), found.y_test)


def trained(task: str, method: str, seed: int, units: int, **words: Any) -> tuple[float, float]:
    """Loss of the training data and of the unseen ones after so much work."""
    train, unseen = data(task, seed)
    net = on.nets.resnet(2, 16 if task == "surrogate" else 2, width=8, steps=4, span=(0.0, 2.0), seed=seed).double()

    def spent(fit: Any) -> bool:
        per_step = (2 + 2 * row["products"] + row["rejected"] + 1 for row in fit.history)
        return sum(per_step) >= units

    if method == "adam":
        given = {"steps": max(1, units // 2 * len(train[0]) // 32), "batch": 32, "lr": words["lr"]}
    else:
        given = {"steps": units, "solver": "cg", "iterations": 20, "callbacks": [spent], **words}
    on.fit(net, train, method, holdout=0.0, seed=seed, **given)
    loss = torch.nn.functional.mse_loss if task == "surrogate" else torch.nn.functional.cross_entropy
    with torch.no_grad():
        return float(loss(net(train[0]), train[1])), float(loss(net(unseen[0]), unseen[1]))


def measure(smoke: bool) -> dict:
    seeds, units, rates = (range(1), 4, RATES[-1:]) if smoke else (range(3), 600, RATES)
    found: dict[str, list[float]] = {claim.key: [] for claim in PAPER.claims}
    for task, seed in product(("surrogate", "classes"), seeds):
        ours, ours_unseen = trained(task, "varpro", seed, units, ridge=1e-8)
        whole, _ = trained(task, "gauss_newton", seed, units)
        adam, adam_unseen = map(min, zip(*(trained(task, "adam", seed, units, lr=rate) for rate in rates)))
        found[task].append(adam / ours)
        found[f"{task}_whole"].append(whole / ours)
        found["unseen" if task == "surrogate" else "classes_unseen"].append(adam_unseen / ours_unseen)
    return found


if __name__ == "__main__":
    main(PAPER, measure)
