"""Stable architectures on sets of points in the plane, the criterion behind them, and multilevel training."""

from __future__ import annotations

import torch

import odenet as on
from odenet.experiment.papers import Claim, Paper, main
from odenet.train.many import fit_many
from odenet.train.multilevel import fit_multilevel

NETS = {
    "resnet": ("residual network", {"integrator": "euler"}),
    "antisymmetric": ("antisymmetric network", {"integrator": "rk4", "gamma": 1e-4}),
    "hamiltonian_one_layer": ("Hamiltonian network", {"integrator": "symplectic_euler"}),
    "leapfrog": ("leapfrog network", {}),
}
SETS = {  # words of the data, of the net, and the span
    "ellipses": ({"n": 2000}, {"width": 4, "opening": "pad", "steps": 16}, 8.0),
    "swiss_roll": ({"n": 1026}, {"width": 4, "opening": "pad", "steps": 16}, 8.0),
    "peaks": ({"n": 5000}, {"width": 16, "opening": "linear", "steps": 8}, 5.0),
}
SMALLER = "Adam with 600 steps where the authors run Newton-Krylov methods, 8 or 16 layers"
EXAMPLE = "examples of the authors' repository (Meganet.m), where it is trained"
LEAST = {"ellipses": 95.0, "swiss_roll": 95.0, "peaks": 90.0}


def row(net: str, data: str) -> Claim:
    text = f"{data.replace('_', ' ')}: accuracy of the {NETS[net][0]} on held-out points"
    bound = {"at_least": LEAST[data], "form": ".1f", "unit": " %"}
    return Claim(key=f"{net}_{data}", text=text, place=EXAMPLE, smaller=SMALLER, **bound)


PAPER = Paper(
    title="Stable architectures for deep neural networks",
    cite="E. Haber & L. Ruthotto, Inverse Problems 34 (2018)",
    arxiv="1705.03341",
    about="Learning is stable if the eigenvalues of the layers lie near the imaginary axis and the weights vary "
    "slowly: antisymmetric, Hamiltonian and leapfrog networks, trained from shallow to deep.",
    how="No error of the paper could be read, so the bounds are ours: 95 % of the points, 90 % where there are five "
    "classes. Five seeds, learning rate 0.02 along a cosine. Multilevel: the residual network on the swiss roll, "
    "span 8, with weights that are linear in between N, 2 N and 4 N steps, 4 n, 2 n and n steps of Adam, against 3 "
    "n steps with 4 N from the start, which evaluates as many layers; N = 16 and n = 50, and for the control N = 4 "
    "and n = 150.",
    claims=(
        Claim(
            key="spectrum",
            text="antisymmetric layer: largest real part of an eigenvalue of diag(s') (K - K^T) over 1,000 draws",
            place="the stability criterion Re(lambda) <= 0 (course notes 07 of the authors)",
            at_most=1e-9,
            form=".1e",
        ),
        Claim(
            key="euler",
            text="growth of a perturbation over 64 Euler steps of a linear antisymmetric layer, h = 0.5: not stable",
            place="course notes 07 of the authors: another method than forward Euler is needed",
            at_least=1.5,
            form=".3g",
        ),
        Claim(
            key="rk4",
            text="the same under rk4",
            place="course notes 07 of the authors",
            at_most=1.0 + 1e-9,
            form=".3g",
        ),
        *(row(net, data) for data in SETS for net in NETS),
        Claim(
            key="multilevel",
            text="16, 32, 64 layers in turn: training loss over that of training 64 from the start",
            place="multilevel initialisation (authors' examples: from 16 layers to 64 and more)",
            at_most=1.0,
            smaller=SMALLER,
        ),
        Claim(
            key="coarse",
            text="the same with 4, 8, 16 layers: too coarse to begin with, it does not help",
            place="a control of ours",
            control=True,
            at_least=1.0,
        ),
    ),
)


def spectrum(seed: int) -> float:
    draw = torch.Generator().manual_seed(seed)
    K, s = torch.randn(1000, 6, 6, generator=draw, dtype=torch.float64), torch.rand(1000, 6, 1, generator=draw)
    return float(torch.linalg.eigvals(s.double() * (K - K.mT)).real.max())


def growth(scheme: str, seed: int) -> float:
    field = on.fields.Antisymmetric(6, gamma=0.0, activation="identity")
    flow = on.Flow(field, scheme, depth="shared", span=(0.0, 32.0), steps=64, seed=seed).double()
    found = on.stability.sensitivity(on.stability.unroll(flow, torch.zeros(1, 6)), layers=64)
    return float(found.backward[0].max())


def accuracies(net: str, name: str, steps: int, seeds: range) -> list[float]:
    about, words, until = SETS[name]
    data = [on.data.load(name, seed=s, **about) for s in seeds]
    options = {**words, **NETS[net][1], "span": (0.0, until)}
    nets = [on.nets.get(net)(2, data[0].dim_out, seed=s, **options) for s in seeds]
    fits = fit_many(nets, data, lr=[0.02] * len(nets), seeds=list(seeds), steps=steps)
    return [100 * fit.score.get("accuracy", 0.0) for fit in fits]


def multilevel(seed: int, layers: int, unit: int) -> float:
    data = on.data.load("swiss_roll", seed=seed, n=1026)
    words = {"width": 4, "opening": "pad", "depth": "piecewise_linear", "span": (0.0, 8.0), "seed": seed}
    coarse, deep = (on.nets.resnet(2, 2, steps=n, **words) for n in (layers, 4 * layers))
    several = fit_multilevel(coarse, data, levels=3, steps=[4 * unit, 2 * unit, unit], lr=0.02, seed=seed).net
    once = on.fit(deep, data, steps=3 * unit, lr=0.02, seed=seed).net
    with torch.no_grad():
        loss = [float(torch.nn.functional.cross_entropy(net(data.x), data.y)) for net in (several, once)]
    return loss[0] / loss[1]


def measure(smoke: bool) -> dict:
    seeds, steps, unit, coarse = (range(2), 3, 1, 1) if smoke else (range(5), 600, 50, 150)
    return {
        "spectrum": [spectrum(s) for s in seeds],
        "euler": [growth("euler", s) for s in seeds],
        "rk4": [growth("rk4", s) for s in seeds],
        **{f"{net}_{data}": accuracies(net, data, steps, seeds) for data in SETS for net in NETS},
        "multilevel": [multilevel(s, 16, unit) for s in seeds],
        "coarse": [multilevel(s, 4, coarse) for s in seeds],
    }


if __name__ == "__main__":
    main(PAPER, measure)
