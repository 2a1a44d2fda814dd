# 17. How do I control a system?
#
# As a network is trained: the closed loop y' = f(y, u(y)) is a flow, u has the weights, and what the system should do
# is a loss of its end and a running cost L(t, x, theta, f) along the way, integrated by the steps of the flow itself.
# A linear feedback finds the gain of the Riccati equation. A small net finds how much to fish so that predator and
# prey settle at 1 (Sager 2006), from the present numbers of fish alone; the best plan of 24 pieces pays 1.347.
#
# Expected output (~ stands before digits that vary):
#     rocket x'' = u: learned gain (~1.000, ~1.732), by the Riccati equation (1.000, 1.732)
#     fishing: without any 6.41, by a feedback of 33 weights ~1.358
#       it fishes with ~0.96 of the fleet at t = 3

import os

import torch
from torch import nn

import odenet as on
from odenet.train import costs

SMOKE = bool(os.environ.get("ODENET_SMOKE"))
torch.set_default_dtype(torch.float64)


class Loop(nn.Module):
    def __init__(self, u, system):
        super().__init__()
        self.u, self.system = u, system

    def forward(self, y):
        return self.system(y, self.u(y))


def train(u, system, running, end, x, span, steps, iterations):
    """The flow of the closed loop after training u, and what it pays."""
    flow = on.Flow(Loop(u, system), "rk4", depth="shared", span=span, steps=steps)
    cost = costs.running_cost(lambda t, x, theta, f: running(x, u(x)))
    words = {"steps": 1 if SMOKE else iterations, "lr": 1.0, "holdout": 0.0}
    fit = on.fit(flow, (x, x), "lbfgs", loss=lambda out, _: end(out), penalty=cost, **words)
    return flow, fit.history[-1]["loss"]


gain = nn.Linear(2, 1, bias=False)
nn.init.constant_(gain.weight, -1.0)
rocket = lambda y, u: torch.cat((y[:, 1:], u), 1)  # noqa: E731
train(gain, rocket, lambda x, u: (x**2).sum(1) + (u**2).sum(1), lambda x: 0 * x.sum(), torch.eye(2), (0, 9), 60, 10)
learned = ", ".join(f"{-k:.3f}" for k in gain.weight.detach()[0].tolist())
print(f"rocket x'' = u: learned gain ({learned}), by the Riccati equation (1.000, 1.732)")

fish = lambda y, u: torch.cat((y[:, :1] * (1 - y[:, 1:] - 0.4 * u), y[:, 1:] * (y[:, :1] - 1 - 0.2 * u)), 1)  # noqa: E731
torch.manual_seed(0)
policy = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), nn.Sigmoid())
start, away = torch.tensor([[0.5, 0.7]]), lambda x, u=None: ((x - 1) ** 2).sum(1)
none = on.Flow(Loop(lambda y: 0 * y[:, :1], fish), "rk4", depth="shared", span=(0, 12), steps=48)
free = costs.running_cost(lambda t, x, theta, f: away(x))(none, (start, None)) + away(none(start)).sum()
flow, paid = train(policy, fish, away, lambda x: away(x).sum(), start, (0, 12), 48, 24)
size = sum(p.numel() for p in policy.parameters())
print(f"fishing: without any {free:.2f}, by a feedback of {size} weights {paid:.3f}")
used = float(policy(flow.trajectory(start)[12]).detach())
print(f"  it fishes with {used:.2f} of the fleet at t = 3")
