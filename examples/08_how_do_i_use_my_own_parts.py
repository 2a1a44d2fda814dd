import torch
from torch import nn

import odenet as on
from odenet.types import Step

x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))

# 1. a module of mine under any integrator: `wrap` is implied
block = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
neural_ode = on.Flow(block, "dopri5", depth="shared")  # one block for all depths: it keeps its own weights
resnet = on.Flow(block, "euler", steps=8)  # eight blocks, drawn anew by its layers
print("parameters:", *[sum(p.numel() for p in net.parameters()) for net in (block, neural_ode, resnet)])


# 2. a field of mine: the weights come in as p, so that depth and integrator stay free
class Damped(on.Field):
    def init(self, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        return {"K": torch.randn(3, 3, generator=generator) / 3**0.5}

    def forward(self, t: float, y: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.tanh(y @ p["K"].T) - y


net = on.Chain(on.Flow(Damped(), "rk4", depth="piecewise_linear", steps=4), nn.Linear(3, 2))
print("weights of theta(t):", tuple(net.parts[0].weights["K"].shape), "output:", tuple(net(x).shape))


# 3. an integrator of mine: the order is a claim, checked when it is registered
class Heun(on.Integrator):
    order = 2
    stages = 2

    def step(self, f, t, y, h, carry, coef):
        k = f(t, y)
        return Step(y + h / 2 * (k + f(t + h, y + h * k)), None, ())


class Careless(Heun):
    order = 3


print(on.integrators.register("my_heun", Heun))
print("agrees with heun to rounding:", torch.allclose(net.with_integrator("my_heun")(x), net.with_integrator("heun")(x)))
print("stable on -x <= h lambda <= 0 up to x =", on.integrators.get("my_heun").facts.real_interval)
try:
    on.integrators.register("careless", Careless)
except on.errors.ClaimRefused as sentence:
    print(sentence)
