"""When a residual network is close to an ODE: smooth weights, what training keeps of them, gradients without memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import odenet as on
from odenet.experiment.papers import Claim, Paper, main

DEPTHS = (16, 32, 64, 128, 256)
PAPER = Paper(
    title="Do residual neural networks discretize neural ordinary differential equations?",
    cite="M. E. Sander, P. Ablin & G. Peyré, NeurIPS 2022",
    arxiv="2205.14612",
    about="A residual network of N layers is within O(1/N) of an ODE if its weights are Lipschitz in depth; gradient "
    "descent on deep linear networks keeps that, and then activations can be recovered without memory.",
    how="Distances and gradients: x_{n+1} = x_n + f(x_n, theta(n/N))/N with f = tanh(K x + b) in eight dimensions, K "
    "and b of three Fourier modes from the seed, N = 16, ..., 256; the ODE by dopri8. Gradients of |x_N|^2 in x_0 "
    "whose states come from solving backwards (gradient='continuous') are held against the usual ones; under Heun "
    "the errors of the two directions cancel to one order more than the bound. Training: x_{n+1} = x_n + W_n x_n / "
    "N in two dimensions from W = 0, mean squares to a rotation by 0.9 of 64 points, 300 steps of gradient descent "
    "with learning rate N, N = 25, 50, 100, 200; the roughness is the largest N |W_{n+1} - W_n|.",
    claims=(
        Claim(
            key="distance",
            text="smooth weights: slope of log |x_N - x(1)| against log N",
            place="abstract: an ODE in the limit at rate 1/N, for weights that are smooth in depth",
            at_least=-1.1,
            at_most=-0.9,
        ),
        Claim(
            key="linear",
            text="deep linear networks from 0: roughness after training, N = 200 over N = 25",
            place="abstract: gradient descent preserves smoothness; authors' code: d = 2, N = 100, learning rate 100",
            at_most=1.2,
        ),
        Claim(
            key="loss",
            text="the same: loss after training over the loss before, N = 100",
            place="authors' code, where it converges",
            at_most=0.01,
            form=".1e",
        ),
        Claim(
            key="euler",
            text="gradient from states by reverse Euler: slope of its error against log N",
            place="the paper's analysis: O(1/N)",
            at_least=-1.2,
            at_most=-0.8,
        ),
        Claim(
            key="heun",
            text="gradient from states by reverse Heun: slope of its error against log N",
            place="the paper's analysis: O(1/N^2), a bound; abstract: Heun gives better estimates",
            at_most=-1.8,
        ),
    ),
)


def smooth(shape: tuple[int, ...], t: Tensor, draw: torch.Generator) -> Tensor:
    """Three Fourier modes with random coefficients at the times t, (len(t), *shape)."""
    modes = torch.stack([torch.ones_like(t), torch.sin(2 * torch.pi * t), torch.cos(2 * torch.pi * t)])
    c = torch.randn(3, *shape, generator=draw, dtype=torch.float64) / shape[-1] ** 0.5
    return torch.einsum("mt,m...->t...", modes, c)


def net_of(steps: int, seed: int, scheme: str = "euler", gradient: str = "autograd") -> on.Flow:
    """Weights that are smooth in depth, the same theta(t) for every number of steps."""
    flow = on.Flow(on.fields.Free(8), scheme, depth="piecewise_linear", steps=steps, gradient=gradient).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(flow.weights):
            w = flow.weights[name]
            w.copy_(smooth(tuple(w.shape[1:]), torch.linspace(0.0, 1.0, len(w), dtype=torch.float64), draw))
    return flow


def start(seed: int) -> Tensor:
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(1000 + seed), dtype=torch.float64)


def slope(depths: tuple[int, ...], values: list[float]) -> float:
    return float(np.polyfit(np.log(depths), np.log(values), 1)[0])


def distances(depths: tuple[int, ...], seed: int) -> list[float]:
    with torch.no_grad():
        true = net_of(4 * depths[-1], seed).with_integrator("dopri8")(start(seed))
        return [float((net_of(n, seed)(start(seed)) - true).norm()) for n in depths]


def gradient_errors(depths: tuple[int, ...], seed: int, scheme: str) -> list[float]:
    """Relative difference of the gradient in the input from solving backwards to that from stored states."""
    errors = []
    for n in depths:
        found = []
        for gradient in ("autograd", "continuous"):
            flow, y = net_of(n, seed, scheme, gradient), start(seed).requires_grad_()
            (flow(y) ** 2).sum().backward()
            found.append(y.grad)
        errors.append(float((found[1] - found[0]).norm() / found[0].norm()))
    return errors


def trained(steps: int, seed: int, training: int) -> tuple[float, float]:
    """Roughness of the weights of a deep linear network after training, and its loss over that before."""
    flow = on.Flow(on.fields.Free(2, activation="identity"), "euler", depth="per_step", steps=steps).double()
    with torch.no_grad():
        for w in flow.parameters():
            w.zero_()
    flow.weights["b"].requires_grad_(False)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turn = torch.tensor([[0.6216, 0.7833], [-0.7833, 0.6216]], dtype=torch.float64)
    fit = on.fit(flow, (x, x @ turn), "sgd", training, lr=float(steps), batch=64, holdout=0.0, momentum=0.0)
    W, loss = flow.weights["K"].detach(), [row["loss"] for row in fit.history]
    return steps * float((W[1:] - W[:-1]).flatten(1).norm(dim=1).max()), loss[-1] / loss[0]


def measure(smoke: bool) -> dict:
    seeds, depths, training = (range(1), DEPTHS[:3], 3) if smoke else (range(5), DEPTHS, 300)
    roughness = {n: [trained(n, s, training) for s in seeds] for n in ((5, 10) if smoke else (25, 50, 100, 200))}
    shallow, deep = min(roughness), max(roughness)
    middle = sorted(roughness)[-2]
    return {
        "distance": [slope(depths, distances(depths, s)) for s in seeds],
        "linear": [a[0] / max(b[0], 1e-12) for a, b in zip(roughness[deep], roughness[shallow])],
        "loss": [loss for _, loss in roughness[middle]],
        "euler": [slope(depths, gradient_errors(depths, s, "euler")) for s in seeds],
        "heun": [slope(depths, gradient_errors(depths, s, "heun")) for s in seeds],
    }


if __name__ == "__main__":
    main(PAPER, measure)
