"""LM-ResNet as a two-step method: its modified equation, the orders that follow, and where it is stable."""

from __future__ import annotations

import math

import numpy as np
import torch

import odenet as on
from odenet.experiment.papers import Claim, Paper, main

EQUATION = "the modified equation of the LM structure, (1 + k) u' + (1 - k) (h/2) u'' = f"
DIGITS = {"place": "abstract", "smaller": "digits, vectors of width 32", "form": ".2f"}
HALF, MORE = {**DIGITS, "paper": "> 50 % compression"}, {**DIGITS, "place": "-", "control": True}


def claim(key: str, text: str, low: float | None, high: float | None = None, place: str = EQUATION, **more) -> Claim:
    return Claim(key=key, text=text, at_least=low, at_most=high, **{"place": place, **more})


PAPER = Paper(
    title="Beyond finite layer neural networks: bridging deep architectures and numerical differential equations",
    cite="Y. Lu, A. Zhong, Q. Li & B. Dong, ICML 2018",
    arxiv="1710.10121",
    about="u_{n+1} = (1 - k_n) u_n + k_n u_{n-1} + h f(u_n): a residual network with one learned number more per "
    "layer.",
    how="Orders are slopes of log error against log h over N = 64, ..., 512 steps to t = 1 of u' = -u or, in the "
    "fourth and fifth row, of a random field tanh(K u) in four dimensions, started on the exact solution. With its "
    "published gain, h f, the method solves (1 + k) u' = f; with the gain (1 + k) h f it solves u' = f. The digits "
    "are a smaller analogue of the abstract's compression at equal accuracy: five seeds, 300 steps of Adam, 4 "
    "layers against 4 and 8.",
    claims=(
        claim("first", "order towards (1 + k) u' = f, k = 0.3", 0.9, 1.1),
        claim("second", "order towards (1 + k) u' + (1 - k) (h/2) u'' = f, k = 0.3", 1.9, 2.1),
        claim("plain", "order towards u' = f itself as published, k = 0.3: none", -0.1, 0.1, form=".2f"),
        claim("consistent", "order towards u' = f with the gain (1 + k) h f, k = 0.3", 0.9, 1.1),
        claim("midpoint", "order towards u' = f with the gain (1 + k) h f, k = 1", 1.9, 2.1),
        claim(
            "zero_stable",
            "share of k = -1.5, -1.4, ..., 1.5 where 400 steps with f = 0 stay bounded just if -1 < k <= 1",
            1.0,
            place="the root condition of the characteristic polynomial (z - 1)(z + k)",
        ),
        claim(
            "compression", "digits: accuracy of lm_resnet with 4 layers minus resnet with 8, in points", -1.0, **HALF
        ),
        claim("equal_depth", "digits: accuracy of lm_resnet minus resnet, both with 4 layers, in points", 0.0, **MORE),
    ),
)
STEPS = (64, 128, 256, 512)


def run(f, y, before, h: float, steps: int, k: float, gain) -> torch.Tensor:
    """The two-step method of odenet from two given states."""
    method = on.TwoStep(k, gain=gain)
    carry = (before,)
    for n in range(steps):
        y, _, carry, *_ = method.step(f, n * h, y, h, carry, None)
    return y


def order(k: float, gain, exact, f, counts: tuple[int, ...] = STEPS) -> float:
    """Slope of the error at t = 1 of runs that start on the solution exact(t, h)."""
    errors = []
    for n in counts:
        h = 1.0 / n
        end = run(f, exact(0.0, h), exact(-h, h), h, n, k, gain)
        errors.append(float((end - exact(1.0, h)).norm()))
    return float(np.polyfit(np.log([1.0 / n for n in counts]), np.log(errors), 1)[0])


def decay(rate):
    return lambda t, h: torch.tensor([math.exp(rate(h) * t)], dtype=torch.float64)


def modified(h: float, k: float) -> float:
    """The slow root r of (1 - k) (h/2) r^2 + (1 + k) r + 1 = 0."""
    return float(max(np.roots([(1 - k) * h / 2, 1 + k, 1.0]).real))


def nonlinear(seed: int):
    """y' = tanh(K y), and its solution to the last digits."""
    draw = torch.Generator().manual_seed(seed)
    K, y0 = torch.randn(4, 4, generator=draw, dtype=torch.float64), torch.randn(4, generator=draw, dtype=torch.float64)

    def f(t, y):
        return torch.tanh(y @ K.T)

    def exact(t, h):
        return on.solve(f, y0, [0.0, t], "dopri8", rtol=1e-12, atol=1e-13).y[-1] if t else y0

    return exact, f


def bounded(k: float) -> bool:
    """Whether 400 steps with f = 0 keep a difference of the two first states below 100 times its size."""
    one = torch.ones(1, dtype=torch.float64)
    return float(run(torch.mul, one, 0 * one, 0.0, 400, k, 1.0).abs()) < 100  # f(t, y) = t y at t = 0


def measure(smoke: bool) -> dict:
    seeds, counts = (range(1), STEPS[:2]) if smoke else (range(5), STEPS)

    def f(t, y):
        return -y

    rates = {"first": lambda h: -1 / 1.3, "second": lambda h: modified(h, 0.3), "plain": lambda h: -1.0}
    ks = [round(-1.5 + 0.1 * i, 1) for i in range(31)]
    fields = [nonlinear(s) for s in seeds]
    scores = [accuracies(s, 5 if smoke else 300) for s in seeds]
    return {
        **{key: order(0.3, "paper", decay(rate), f) for key, rate in rates.items()},
        "consistent": [order(0.3, "consistent", *field, counts) for field in fields],
        "midpoint": [order(1.0, "consistent", *field, counts) for field in fields],
        "zero_stable": sum(bounded(k) == (-1 < k <= 1) for k in ks) / len(ks),
        "compression": [lm - deep for lm, _, deep in scores],
        "equal_depth": [lm - shallow for lm, shallow, _ in scores],
    }


def accuracies(seed: int, steps: int) -> list[float]:
    """Of an LM-ResNet of 4 layers, and of residual networks of 4 and of 8, in per cent."""
    scores = []
    for name, depth in (("lm_resnet", 4), ("resnet", 4), ("resnet", 8)):
        net = on.nets.get(name)(dim_in=64, dim_out=10, width=32, steps=depth, span=(0.0, float(depth)), seed=seed)
        scores.append(100 * on.fit(net, "digits", steps=steps, lr=1e-2, seed=seed, schedule="cosine").score["accuracy"])
    return scores


if __name__ == "__main__":
    main(PAPER, measure)
