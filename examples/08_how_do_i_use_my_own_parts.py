# 8. How do I use my own module, field or integrator?
#
# A module goes in as it is; a field is a function of (t, y, p); an integrator is a tableau or one method.
#
# Expected output:
#     parameters: 59 59 472
#     weights of theta(t): (5, 3, 3) output: (6, 2)
#     <integrator my_heun, order 2>
#     as heun: True | stable until h lambda = -2.0
#     integrator 'careless' claims order 3, but halving the step on a problem with known solution shows
#     order 2.00; correct step() or the stated order.

import textwrap

import torch
from torch import nn

import odenet as on
from odenet.types import Step

x = torch.randn(6, 3, generator=torch.manual_seed(0))  # the seed of the weights below, too

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
    order, stages = 2, 2

    def step(self, f, t, y, h, carry, coef):
        k = f(t, y)
        return Step(y + h / 2 * (k + f(t + h, y + h * k)), None, ())


print(on.integrators.register("my_heun", Heun))
same = torch.allclose(net.with_integrator("my_heun")(x), net.with_integrator("heun")(x))
print("as heun:", same, f"| stable until h lambda = -{on.integrators.get('my_heun').facts.real_interval}")
careless = Heun()
careless.order = 3
try:
    on.integrators.register("careless", careless)
except on.errors.ClaimRefused as sentence:
    print(textwrap.fill(str(sentence), 100))
