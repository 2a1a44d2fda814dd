"""Layer-parallel training: errors per multigrid iteration over the layers, and training on inexact gradients."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

import odenet as on
from odenet.experiment.papers import Claim, Paper, main

WIDTH, SAMPLES, ENOUGH, CHUNKS = 8, 16, 1e-9, 64
DEPTHS, COUNTED = (256, 1024, 4096), (1, 2, 3, 4, 5)
CYCLES = ((4, 2), (16, 2), (4, 3))  # coarsening c, levels
INEXACT = "abstract: the most efficient version updates weights by inexact gradients, and trains similarly well"
OURS, SMALLER = "a control of ours; no such number is taken from the paper", "digits, 128 layers"


def claim(key: str, text: str, form: str = ".2g", unit: str = "", place: str = OURS, **words: object) -> Claim:
    return Claim(key=key, text=text, place=place, control=place == OURS, form=form, unit=unit, **words)


def factors(c: int, levels: int) -> list[Claim]:
    key, name = f"c{c}_levels{levels}", f"c = {c}, {levels} levels"
    rows = [claim(f"{what}_factor_{key}_{N}", f"N = {N:,}, {name}: factor of the {what}", at_most=0.1)
            for N in DEPTHS for what in ("states", "costates")]  # fmt: skip
    return [*rows, claim(f"rise_{key}", f"{name}: iterations with N = 4,096 over those with 256", at_most=1.0)]


PAPER = Paper(
    title="Layer-parallel training of deep residual neural networks",
    cite="S. Günther, L. Ruthotto, J. B. Schroder, E. C. Cyr & N. R. Gauger, SIAM J. Math. Data Sci. 2 (2020)",
    arxiv="1812.04352",
    about="All states of a residual net are the unknowns of one system, and so are its costates; multigrid in depth "
    "solves both, with chunks of layers advancing at the same time, and training need not wait until they are solved.",
    how=f"Networks x + h tanh(K x + b) of width {WIDTH} over 4 units of time, K and b of four cosines of depth "
    f"from the seed, {SAMPLES} samples, float64, three seeds. On two levels FCF-relaxation and a coarse layer of step "
    "c h with the mean weights of c layers; on three the coarse system is solved so again. Errors after k iterations "
    "are relative to the serial net, of the last state and of the first costate, the gradient of the loss in the "
    "start. The factor is that of the residual per iteration, the geometric mean from the first iteration to the one "
    f"that leaves less than {ENOUGH:g}. Training: digits (1,347 images, full batch), 128 layers of width 16, constant "
    "in depth at the start, 60 steps of Adam at 0.01; one iteration per step for states and costates, both from where "
    "the step before left them. Times are measured by tests/bench/bench_parallel.py.",
    claims=(
        claim("gradient", "N = 1,024, c = 4, 2 levels: gradient in all weights after 8 iterations, relative error",
              ".1e", "", "abstract: multigrid over layers takes the place of both propagations", at_most=1e-6),
        claim("loss", "training loss after one-shot training over that after training with exact gradients", ".4g", "",
              INEXACT, smaller=SMALLER, at_most=1.05),
        claim("accuracy", "accuracy on held-out digits, one-shot minus exact gradients", ".2f", " points",
              INEXACT, smaller=SMALLER, at_least=-1.0),
        claim("learned", "the same nets, exact gradients: accuracy", ".1f", " %", at_least=90.0),
        claim("exact", "64 layers, c = 8: gradient error after 4 iterations, where FCF is exact", ".1e", at_most=1e-13),
        claim("before", "the same after 3: not exact yet", ".1e", at_least=1e-11),
        *(claim(f"{what}_{k}", f"N = 1,024, c = 16, 2 levels: error of the {which} {what} after k = {k}", ".1e",
                at_most=0.01**k) for which, what in (("last", "state"), ("first", "costate")) for k in COUNTED),
        *(row for cycle in CYCLES for row in factors(*cycle)),
        claim("spread", f"{CHUNKS} chunks, 2 levels: most over fewest iterations, N = 256, 1,024, 4,096", at_most=1.5),
    ),
)  # fmt: skip


def passed(N: int, seed: int, gradient: object) -> list[Tensor]:
    """The last state, the first costate, the gradient in all weights."""
    flow = on.Flow(on.fields.Free(WIDTH), "euler", steps=N, span=(0.0, 4.0), gradient=gradient).double()
    draw, s = torch.Generator().manual_seed(seed), torch.linspace(0, 1, N, dtype=torch.float64)
    waves = torch.stack([torch.cos(torch.pi * k * s) / (k + 1) for k in range(4)])
    with torch.no_grad():
        for key in sorted(flow.weights):
            p = flow.weights[key]
            c = torch.randn(4, *p.shape[1:], generator=draw, dtype=torch.float64)
            p.copy_(torch.einsum("kn,k...->n...", waves, c) / WIDTH**0.5)
    draw.manual_seed(100 + seed)
    y, w = torch.randn(2, SAMPLES, WIDTH, generator=draw, dtype=torch.float64)
    out = flow(y.requires_grad_())
    first, *rest = torch.autograd.grad((w * out).sum(), (y, *flow.parameters()))
    return [out.detach(), first, torch.cat([g.flatten() for g in rest])]


def mgrit(c: int, levels: int, iterations: int, **words: bool) -> on.flow.Parallel:
    return on.flow.Parallel("mgrit", coarsening=c, levels=levels, iterations=iterations, **words)


def errors(N: int, seed: int, iterations: tuple[int, ...], cycle: tuple[int, int]) -> list[list[float]]:
    """Of state, costate and gradient after each number of iterations."""
    true, rows = passed(N, seed, "autograd"), [passed(N, seed, mgrit(*cycle, k)) for k in iterations]
    return [[float((row[i] - true[i]).norm() / true[i].norm()) for row in rows] for i in range(3)]


def residuals(N: int, seed: int, cycle: tuple[int, int], most: int) -> list[list[float]]:
    """Of states and costates after 1, 2, ... iterations, until both are below ENOUGH."""
    left = list[tuple[float, float]]()
    while len(left) < most and not (left and max(left[-1]) < ENOUGH):
        passed(N, seed, how := mgrit(*cycle, len(left) + 1))
        left.append((how.achieved.residual, how.achieved.costate_residual))
    return [list(column) for column in zip(*left)]


def factor(left: list[float]) -> float:
    """Geometric mean of the factor per iteration, down to ENOUGH."""
    last = max(1, next((i for i, r in enumerate(left) if r < ENOUGH), len(left) - 1))
    return (left[last] / left[0]) ** (1 / last)


def trained(seed: int, layers: int, steps: int, gradient: object) -> tuple[float, float]:
    """Loss and accuracy in %."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = on.Flow(on.fields.Free(16), steps=layers, init="constant", seed=seed, gradient=gradient)
        model = on.Chain(torch.nn.Linear(64, 16), flow, torch.nn.Linear(16, 10))
    data = on.data.load("digits", seed=seed)
    fit = on.fit(model, data, steps=steps, lr=0.01, batch=len(data.x), seed=seed)
    return float(fit.history[-1]["loss"]), 100 * fit.score["accuracy"]


def one(seed: int, depths: tuple[int, ...], layers: int, steps: int, most: int) -> dict[str, float]:
    found = {"gradient": errors(depths[1], seed, (8,), CYCLES[0])[2][0]}
    found["before"], found["exact"] = errors(64, seed, (3, 4), (8, 2))[2]
    for what, values in zip(("state", "costate"), errors(depths[1], seed, COUNTED, CYCLES[1])):
        found |= {f"{what}_{k}": value for k, value in zip(COUNTED, values)}
    for c, levels in CYCLES:
        left = [residuals(N, seed, (c, levels), most) for N in depths]
        for N, pair in zip(DEPTHS, left):
            found |= {f"{w}_factor_c{c}_levels{levels}_{N}": factor(v) for w, v in zip(("states", "costates"), pair)}
        found[f"rise_c{c}_levels{levels}"] = len(left[-1][0]) / len(left[0][0])
    counts = [len(residuals(N, seed, (N // CHUNKS, 2), most)[0]) for N in depths if N > CHUNKS]
    loss, found["learned"] = trained(seed, layers, steps, "autograd")
    shot, accuracy = trained(seed, layers, steps, mgrit(8, 2, 1, warm=True))
    return {**found, "spread": max(counts) / min(counts), "loss": shot / loss, "accuracy": accuracy - found["learned"]}


def measure(smoke: bool) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of residuals that are left after one iteration: they are what is measured
        runs = [one(0, (64, 128, 256), 16, 1, 2)] if smoke else [one(s, DEPTHS, 128, 60, 12) for s in range(3)]
    return {key: [run[key] for run in runs] for key in runs[0]}


if __name__ == "__main__":
    main(PAPER, measure)
