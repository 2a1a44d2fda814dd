"""Hamiltonian neural networks on the ideal spring and pendulum: test loss and energy error, against a plain network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import odenet as on
from odenet.experiment.papers import Claim, Paper, main

TABLE = "README of the authors' repository"
TRAINED, ENERGY = f"{TABLE}, table 'Test loss'", f"{TABLE}, table 'Energy MSE'"
PUBLISHED = {  # (baseline, HNN)
    "spring": {"loss": (3.6656e-2, 3.5928e-2), "energy": (1.7077e-1, 3.8416e-4)},
    "pendulum": {"loss": (3.5273e-2, 3.5586e-2), "energy": (4.1519e-2, 2.4852e-2)},
}


def of(system: str) -> list[Claim]:
    loss, energy = PUBLISHED[system]["loss"], PUBLISHED[system]["energy"]
    claims = []
    for kind, loss_of, energy_of in zip(("plain", "hnn"), loss, energy):
        name = {"plain": "plain network", "hnn": "HNN"}[kind]
        text, paper = f"{system}: test loss of the {name}", f"{loss_of:.2e}"
        claims.append(Claim(key=f"{system}_loss_{kind}", text=text, paper=paper, place=TRAINED, number=loss_of))
        text, paper = f"{system}: energy MSE of the {name}", f"{energy_of:.2e}"
        claims.append(Claim(key=f"{system}_energy_{kind}", text=text, paper=paper, place=ENERGY, number=energy_of))
    text = f"{system}: energy MSE of the plain network over that of the HNN"
    paper, key = f"{energy[0] / energy[1]:.3g}", f"{system}_ratio"
    return [*claims, Claim(key=key, text=text, paper=paper, place=f"{ENERGY}: their ratio", at_least=1.5)]


PAPER = Paper(
    title="Hamiltonian neural networks",
    cite="S. Greydanus, M. Dzamba & J. Yosinski, NeurIPS 2019",
    arxiv="1906.01563",
    about="A network for the energy H, not for the field: (q', p') = (dH/dp, -dH/dq) keeps H along every trajectory, "
    "and learns a conservation law from noisy data.",
    how="As in the authors' repository: 25 trajectories to train and 25 to test, 30 points (spring, H = q^2 + p^2) or "
    "45 (pendulum, H = 3 (1 - cos q) + p^2) of t in [0, 3], noise 0.1; 200 and 200 tanh units from orthogonal "
    "matrices, Adam with learning rate 1e-3 and weight decay 1e-4, 2,000 full steps, five seeds. Energies are "
    "compared at 100 times of [0, 20], which may not be their interval, on 15 trajectories that start with 0.2 <= "
    "|q|, |p| <= 1, which they draw without a seed: the published energy errors are those of other trajectories.",
    claims=tuple(claim for system in PUBLISHED for claim in of(system)),
)
FORCE = {"spring": lambda q: 2 * q, "pendulum": lambda q: 3 * torch.sin(q)}
ENERGIES = {"spring": lambda q, p: q**2 + p**2, "pendulum": lambda q, p: 3 * (1 - torch.cos(q)) + p**2}
RADII, POINTS = {"spring": (0.1, 1.0), "pendulum": (1.3, 2.3)}, {"spring": 30, "pendulum": 45}


class HNN(nn.Module):
    """x = (q, p) -> (dH/dp, -dH/dq) with H a perceptron."""

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            dq, dp = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0].unbind(-1)
        return torch.stack((dp, -dq), dim=-1)


def motion(system: str, start: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """States (T, B, 2) of the true system, and their derivatives."""

    def f(t, y):
        q, p = y.unbind(-1)
        return torch.stack((2 * p, -FORCE[system](q)), dim=-1)

    states = on.solve(f, start.double(), t.double(), "dopri8", rtol=1e-10, atol=1e-10).y
    return states, f(0.0, states)


def observed(system: str, draw: torch.Generator, count: int = 50) -> tuple[Tensor, Tensor]:
    """(count, points, 2) noisy states and true derivatives."""
    way = 2 * torch.rand(count, 2, generator=draw) - 1
    low, high = RADII[system]
    r = low + (high - low) * torch.rand(count, 1, generator=draw)
    start = r * way / way.norm(dim=1, keepdim=True)
    states, speed = motion(system, start, torch.linspace(0.0, 3.0, POINTS[system]))
    noise = 0.1 * torch.randn(states.shape, generator=draw)
    return (states + noise).float().transpose(0, 1), speed.float().transpose(0, 1)


def trained(system: str, kind: str, seed: int, steps: int, until: float) -> tuple[float, float]:
    """Test loss and energy MSE."""
    draw = torch.Generator().manual_seed(seed)
    x, dx = observed(system, draw)
    mlp = on.nets.mlp(2, 2 if kind == "plain" else 1, width=200, steps=2, init="orthogonal", seed=seed)
    net = mlp if kind == "plain" else HNN(mlp)
    train, test = (tuple(v[part].reshape(-1, 2) for v in (x, dx)) for part in (slice(25), slice(25, None)))
    words = {"lr": 1e-3, "weight_decay": 1e-4, "batch": len(train[0]), "seed": seed, "test": test}
    loss = on.fit(net, train, steps=steps, **words).score["mse"]
    signs = torch.where(torch.rand(15, 2, generator=draw) < 0.5, -1.0, 1.0)
    start, t = signs * (0.2 + 0.8 * torch.rand(15, 2, generator=draw)), torch.linspace(0.0, until, round(5 * until))
    with torch.no_grad():
        rolled = on.solve(lambda t, y: net(y), start, t, "rk4", steps=10, gradient="autograd").y
    energy = ENERGIES[system]
    errors = energy(*rolled.double().unbind(-1)) - energy(*motion(system, start, t)[0].unbind(-1))
    return loss, float((errors**2).mean())


def measure(smoke: bool) -> dict:
    seeds, steps, until = (range(1), 5, 1.0) if smoke else (range(5), 2000, 20.0)
    found: dict[str, tuple[float, ...]] = {}
    for system in PUBLISHED:
        pairs = {kind: [trained(system, kind, seed, steps, until) for seed in seeds] for kind in ("plain", "hnn")}
        for k, values in pairs.items():
            found[f"{system}_loss_{k}"], found[f"{system}_energy_{k}"] = zip(*values)
        ratios = zip(found[f"{system}_energy_plain"], found[f"{system}_energy_hnn"])
        found[f"{system}_ratio"] = tuple(a / b for a, b in ratios)
    return found


if __name__ == "__main__":
    main(PAPER, measure)
