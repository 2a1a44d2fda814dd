"""Deep learning as optimal control: costates of symplectic partners are backpropagation; layers learn their steps."""

from __future__ import annotations

import torch

import odenet as on
from odenet.experiment.papers import Claim, Paper, main

METHODS = ("euler", "heun", "rk4", "dopri5")
SETS = {"donut": {}, "squares": {}, "spirals": {"noise": 0.0}}
NETS = ("one_layer", "resnet", "odenet")
LAYERS, SPAN = 15, (0.0, 10.0)
WORDS = {"one_layer": "one layer", "resnet": "15 equal steps", "odenet": "15 learned steps in the simplex"}


def accuracy_of(net: str, data: str) -> Claim:
    bound = {"at_least": 50.0 if net == "one_layer" else 95.0}
    text = f"{data}: accuracy on held-out points, {WORDS[net]}"
    place = "a control of ours on a set of the paper's name" + (": better than chance" if net == "one_layer" else "")
    return Claim(key=f"{net}_{data}", text=text, place=place, control=True, form=".1f", unit=" %", **bound)


def ours(key: str, text: str, **bound: float) -> Claim:
    return Claim(key=key, text=text, place="a control of ours", control=True, form=".2g", **bound)


PAPER = Paper(
    title="Deep learning as optimal control problems: models and numerical methods",
    cite="M. Benning, E. Celledoni, M. J. Ehrhardt, B. Owren & C.-B. Schönlieb, J. Comput. Dyn. 6 (2019)",
    arxiv="1904.05657",
    about="Discretise-then-optimise and optimise-then-discretise are the same where states and costates are stepped by "
    "symplectic partners. Step sizes are controls too: non-negative numbers that add up to the end time.",
    how="Networks x + dt tanh(K x + b) on the plane with two more coordinates that start as 0, 15 layers over 10 units "
    "of time, 400 steps of Adam on 600 points at once (learning rate 0.02 along a cosine), five seeds. Learned steps "
    "start equal and are projected onto the simplex after every step of Adam. Costates: fields of four neurons with "
    "weights of their own in each of 15 steps, float64.",
    claims=(
        *(
            Claim(
                key=f"costates_{name}",
                text=f"{name}: gradient in the start by the partner's costates against backpropagation, relative",
                place="the theorem on partitioned Runge-Kutta methods of states and costates that are symplectic",
                at_most=1e-14,
                form=".1e",
            )
            for name in METHODS
        ),
        *(accuracy_of(net, data) for data in SETS for net in NETS),
        ours("negative", "smallest learned step", at_least=0.0),
        ours("total", "what the learned steps miss of the end time, relative", at_most=1e-5),
        ours("unequal", "largest learned step over an equal one: time is not shared out equally", at_least=1.5),
    ),
)


def costates(name: str, seed: int) -> float:
    """The relative difference of dJ/dx_0 by backpropagation and by the partner's costates, J = |x_N|^2."""
    flow = on.Flow(on.fields.Free(4), name, span=(0.0, 3.0), steps=LAYERS, substeps=1, seed=seed).double()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(flow(x).square().sum(), x)
    K, b, h = flow.weights["K"].detach(), flow.weights["b"].detach(), flow.h
    matrix = [[float(a) for a in row] for row in flow.integrator.tableau.matrix]
    states = flow.trajectory(x.detach()).detach()
    p = -2 * states[-1]
    for n in reversed(range(LAYERS)):
        pulls, slopes = [], []
        for row in matrix:
            at = states[n] + h * sum((a * k for a, k in zip(row, slopes)), torch.zeros_like(p))
            slope, pull = torch.func.vjp(lambda y, n=n: torch.tanh(y @ K[n].T + b[n]), at)
            slopes.append(slope)
            pulls.append(pull)
        p, _ = flow.integrator.partner().step(h, p, lambda i, v, pulls=pulls: pulls[i](v)[0])
    return float((p + wanted).norm() / wanted.norm())


def trained(net: str, data: str, seed: int, steps: int) -> tuple[float, torch.Tensor]:
    """Accuracy in %, and the factors w_n of the step sizes."""
    points = on.data.load(data, seed=seed, n=1000, **SETS[data])
    layers = 1 if net == "one_layer" else LAYERS
    flow = on.Flow(on.fields.Stretched(on.fields.Free(4)), steps=layers, span=SPAN, init="constant", seed=seed)
    flow.weights["pace"].requires_grad_(net == "odenet")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = on.Chain(on.nets.Pad(2, 4), flow, torch.nn.Linear(4, points.dim_out))
    words = {"constraint": on.train.constraints.step_sizes()} if net == "odenet" else {}
    fit = on.fit(model, points, steps=steps, lr=0.02, schedule="cosine", batch=len(points.x), seed=seed, **words)
    return 100 * fit.score["accuracy"], flow.weights["pace"].detach()


def measure(smoke: bool) -> dict:
    seeds, steps = (range(1), 2) if smoke else (range(5), 400)
    found: dict[str, list[float]] = {f"costates_{m}": [costates(m, s) for s in seeds] for m in METHODS}
    paces = []
    for data in SETS:
        for net in NETS:
            runs = [trained(net, data, s, steps) for s in seeds]
            found[f"{net}_{data}"] = [accuracy for accuracy, _ in runs]
            paces += [pace for _, pace in runs] if net == "odenet" else []
    found["negative"] = [float(p.min()) for p in paces]
    found["total"] = [float((p.mean() - 1).abs()) for p in paces]
    found["unequal"] = [float(p.max()) for p in paces]
    return found


if __name__ == "__main__":
    main(PAPER, measure)
