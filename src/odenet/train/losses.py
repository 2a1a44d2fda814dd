"""Losses by name: how far an output is from its target, averaged over the batch.

    LOSSES["cross_entropy"].f(scores, labels)      a scalar tensor
    get("tukey")                                   the same table, with a hint for a misspelt name

kind "classification": scores (..., classes) and int64 labels (...); kind "regression": two tensors of one
shape.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import BadInput, UnknownName


@dataclass(frozen=True)
class Loss:
    """f(output, target) -> scalar, with its kind, its reference and one sentence on when to choose it."""

    name: str
    f: Callable[[Tensor, Tensor], Tensor]
    kind: str
    cite: str
    when: str

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return self.f(output, target)


def _same_shape(output: Tensor, target: Tensor) -> None:
    if output.shape != target.shape:
        raise BadInput(
            f"outputs {tuple(output.shape)} and targets {tuple(target.shape)} differ, which would be "
            "broadcast into a wrong mean; reshape the targets, for example y[:, None]."
        )


def _rows(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(..., classes) and (...) -> (n, classes) and (n,)."""
    if scores.shape[:-1] != labels.shape:
        raise BadInput(
            f"scores {tuple(scores.shape)} need labels {tuple(scores.shape[:-1])}, one number each, but "
            f"were given {tuple(labels.shape)}; classes come last."
        )
    return scores.flatten(0, -2), labels.flatten()


def _several(name: str, scores: Tensor) -> None:
    if scores.shape[-1] < 2:
        raise BadInput(f"{name} of one class is always 0; give a score for each class (dim_out=2), or use hinge.")


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean of (output - target)^2."""
    _same_shape(output, target)
    return F.mse_loss(output, target)


def huber(output: Tensor, target: Tensor) -> Tensor:
    """Mean of r^2 / 2 where |r| <= 1 and |r| - 1/2 elsewhere."""
    _same_shape(output, target)
    return F.huber_loss(output, target)


def tukey(output: Tensor, target: Tensor, c: float = 4.685) -> Tensor:
    """Mean of c^2/6 (1 - (1 - (r/c)^2)^3) where |r| <= c and c^2/6 elsewhere: far outliers do not pull.

    c = 4.685 standard deviations is 95 % efficient for normal errors; scale the targets accordingly.
    """
    _same_shape(output, target)
    inside = (1.0 - ((output - target) / c) ** 2).clamp(min=0.0)
    return (c * c / 6.0) * (1.0 - inside**3).mean()


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean of log sum_j exp s_j - s_y."""
    _several("cross_entropy", scores)
    return F.cross_entropy(*_rows(scores, labels))


def nll(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log p_y, for nets that end in a log-softmax."""
    _several("nll", log_probabilities)
    return F.nll_loss(*_rows(log_probabilities, labels))


def hinge(scores: Tensor, labels: Tensor, power: int = 1) -> Tensor:
    """Mean of max(0, 1 - t s)^power for one score, t = 1 for label 1 and -1 for labels 0 or -1.

    With several scores: mean of (1/classes) sum_(j != y) max(0, 1 - s_y + s_j)^power.
    """
    if scores.ndim == labels.ndim or scores.shape[-1] == 1:
        s, y = scores.flatten(), labels.flatten()
        _same_shape(s, y)
        return (1.0 - torch.where(y > 0, s, -s)).clamp(min=0.0).pow(power).mean()
    return F.multi_margin_loss(*_rows(scores, labels), p=power)


def squared_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    """`hinge` with power 2."""
    return hinge(scores, labels, power=2)


_TABLE = (
    Loss("mse", mse, "regression", "C. F. Gauss, 1809", "Errors are normal, without outliers."),
    Loss("huber", huber, "regression", "P. Huber, Ann. Math. Stat. 35 (1964)", "Some targets are off by far."),
    Loss(
        "tukey",
        tukey,
        "regression",
        "A. Beaton & J. Tukey, Technometrics 16 (1974)",
        "Some targets are plainly wrong; not convex, so start from a fit with huber.",
    ),
    Loss(
        "cross_entropy",
        cross_entropy,
        "classification",
        "J. Bridle, Neurocomputing (1990)",
        "The default for classes: scores become probabilities by softmax.",
    ),
    Loss("nll", nll, "classification", "R. A. Fisher, 1922", "The net puts out log-probabilities itself."),
    Loss(
        "hinge",
        hinge,
        "classification",
        "C. Cortes & V. Vapnik, Mach. Learn. 20 (1995); J. Weston & C. Watkins, ESANN 1999",
        "A margin matters and probabilities do not.",
    ),
    Loss(
        "squared_hinge",
        squared_hinge,
        "classification",
        "Y. Tang, arXiv 1306.0239 (2013)",
        "As hinge, differentiable at the margin.",
    ),
)
LOSSES: dict[str, Loss] = {loss.name: loss for loss in _TABLE}


def get(name: str) -> Loss:
    """The loss called `name`; raises UnknownName with the nearest names."""
    if name not in LOSSES:
        near = difflib.get_close_matches(str(name), LOSSES, n=2) or sorted(LOSSES)
        raise UnknownName(f"no loss is called {name!r}; did you mean {' or '.join(map(repr, near))}?")
    return LOSSES[name]
