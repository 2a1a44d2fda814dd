"""Six parameter counts of Ruthotto & Haber, their two theorems, and their three networks on handwritten digits."""

from __future__ import annotations

from functools import partial
from statistics import fmean

import torch

import odenet as on
from odenet.experiment.papers import Claim, Paper, main

NETS = {"parabolic_cnn": "parabolic", "hamiltonian_cnn": "Hamiltonian", "second_order_cnn": "second-order"}
COUNTS = {
    "stl10": (618554, 324794, 618554),
    "cifar10": (502570, 264106, 502570),
    "cifar100": (652484, 362180, 652484),
}
ACCURACY = ("88.5", "89.3", "89.2")  # table 1, CIFAR-10
SMALLER = "1,797 digits of 8 x 8, widths 16 and 32, 100 steps of Adam"


def count(preset: str, net: str, published: int) -> Claim:
    what = f"weights of the {NETS[net]} network for {preset.upper().replace('10', '-10')}"
    number = {"paper": f"{published:,}", "number": published, "exact": True, "form": ",.0f"}
    return Claim(key=f"{net}_{preset}", text=what, place="table 1", **number)


PAPER = Paper(
    title="Deep neural networks motivated by partial differential equations",
    cite="L. Ruthotto & E. Haber, J. Math. Imaging Vis. 62 (2020)",
    arxiv="1804.04272",
    about="Convolutional residual networks as parabolic, Hamiltonian and second-order PDEs: a symmetric layer -K^T "
    "s(N(K y)) makes the forward problem stable.",
    how="The theorems are about exact flows with fixed weights; here Euler and leapfrog take steps of 1/256. The "
    "digits are split by the seed; noise has half the standard deviation of the pixels. resnet20 is no network of "
    "the paper.",
    claims=(
        *(count(p, n, c) for p, published in COUNTS.items() for n, c in zip(NETS, published)),
        Claim(
            key="contraction",
            text="largest |Y(T) - Y'(T)| / |Y(0) - Y'(0)| of two parabolic trajectories",
            place="theorem 1",
            at_most=1.0,
            form=".4f",
        ),
        Claim(
            key="energy",
            text="largest energy of the second-order network over that of the linear one",
            place="theorem 2",
            at_most=1.001,
            form=".4f",
        ),
        *(
            Claim(
                key=f"{net}_digits",
                text=f"accuracy of the {NETS[net]} network on held-out images",
                paper=f"{paper} % (CIFAR-10)",
                place="table 1",
                at_least=90.0,
                smaller=SMALLER,
                form=".1f",
                unit=" %",
            )
            for net, paper in zip(NETS, ACCURACY)
        ),
        Claim(
            key="spread",
            text="the three perform alike: best minus worst accuracy in points",
            paper="0.8 (CIFAR-10)",
            place="table 1",
            at_most=3.0,
            smaller=SMALLER,
            form=".1f",
        ),
        Claim(
            key="noise",
            text="accuracy under input noise, parabolic minus resnet20, in points",
            place="what theorem 1 lets one expect",
            control=True,
            at_least=0.0,
            smaller=SMALLER,
            form=".1f",
        ),
    ),
)


def contraction(seed: int, steps: int) -> float:
    field = on.fields.Parabolic(4, map="conv2d")
    flow = on.Flow(field, "euler", depth="shared", span=(0.0, steps / 256), steps=steps, seed=seed).double()
    draw = torch.Generator().manual_seed(seed)
    y, z = torch.randn(2, 64, 4, 8, 8, generator=draw, dtype=torch.float64)
    with torch.no_grad():
        return float(((flow(y) - flow(z)).flatten(1).norm(dim=1) / (y - z).flatten(1).norm(dim=1)).max())


def energy(seed: int, steps: int) -> float:
    words = {"steps": steps, "span": (0.0, steps / 256), "depth": "shared"}
    net = on.nets.leapfrog(dim_in=8, dim_out=2, width=8, seed=seed, **words)
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(seed))
    return on.stability.energy_over_linear(on.stability.unroll(net, x), steps=steps)


def measure(smoke: bool) -> dict:
    sizes = {
        f"{net}_{preset}": sum(p.numel() for p in on.nets.get(net)(preset=preset).parameters())
        for preset in COUNTS
        for net in NETS
    }
    seeds, steps, widths = (range(1), 1, (4, 8)) if smoke else (range(5), 100, (16, 32))
    clean, noisy = {}, {}
    for name in (*NETS, "resnet20"):
        found = [trained(name, seed, steps, widths) for seed in seeds]
        clean[name], noisy[name] = zip(*found)
    spread = [max(v) - min(v) for v in zip(*(clean[n] for n in NETS))]
    digits = {f"{n}_digits": clean[n] for n in NETS}
    noise = [a - b for a, b in zip(noisy["parabolic_cnn"], noisy["resnet20"])]
    along = 64 if smoke else 1024
    theorems = {"contraction": [contraction(s, along) for s in seeds], "energy": [energy(s, along) for s in seeds]}
    return {**sizes, **theorems, **digits, "spread": spread, "noise": noise}


def trained(name: str, seed: int, steps: int, widths: tuple[int, ...]) -> tuple[float, float]:
    """Accuracy on held-out digits and under noise, in per cent."""
    data = on.data.load("digits", seed=seed)
    net = on.nets.get(name)(channels=1, classes=10, size=8, widths=widths, seed=seed)
    fit = on.fit(net, data, steps=steps, lr=1e-2, seed=seed, schedule="cosine")
    under = partial(on.stability.input_noise, net.eval(), data.x_test, data.y_test, levels=[0.5])
    return 100 * fit.score["accuracy"], 100 * fmean(under(seed=seed))


if __name__ == "__main__":
    main(PAPER, measure)
