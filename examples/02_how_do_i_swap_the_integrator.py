# 2. How do I swap the integrator of a network?
#
# One word, also after training: net.with_integrator(name, steps) keeps the weights; with more steps every
# piece of weights is stepped more often. What rk4 learned is close to the exact flow; Euler is far from it.
#
# Expected output (~ stands before digits that vary, ... for any text):
#     trained with rk4: test accuracy ~1.00
#     integrator  steps  nfe  |output - exact flow|
#     euler           8    8 ~4.5e+00
#     euler          16   16 ~1.8e+00
#     euler          32   32 ~7.2e-01
#     midpoint        8   16 ~1.6e-01
#     rk4             8   32 ~5.5e-03
#     rk4            16   64 ~4.3e-04
#     weights are shared, not copied: True
#     'verlet' needs a separable field; Free offers lipschitz. Use fields.SeparableHamiltonian(...) or
#     integrator='rk4'.

import os
import textwrap

import torch

import odenet as on

STEPS = 20 if os.environ.get("ODENET_SMOKE") else 200
net = on.nets.resnet(dim_in=2, dim_out=2, width=16, steps=8, integrator="rk4", span=(0.0, 4.0))
fit = on.fit(net, "moons", steps=STEPS, lr=1e-2)
x = on.data.load("moons").x_test
print(f"trained with rk4: test accuracy {fit.score['accuracy']:.2f}")
torch.set_grad_enabled(False)
print("integrator  steps  nfe  |output - exact flow|")

exact = net.with_integrator("dopri5")(x)  # the same weights under an adaptive method, rtol 1e-6
for name, steps in [("euler", 8), ("euler", 16), ("euler", 32), ("midpoint", 8), ("rk4", 8), ("rk4", 16)]:
    other = net.with_integrator(name, steps=steps)
    print(f"{name:<10}  {steps:>5}  {other.nfe(x):>3}  {float((other(x) - exact).abs().max()):.1e}")

same = net.with_integrator("euler").parts[1].weights["K"] is net.parts[1].weights["K"]
print("weights are shared, not copied:", same)
try:
    net.with_integrator("verlet")
except on.errors.Incompatible as sentence:
    print(textwrap.fill(str(sentence), 100))
