import os

import torch

import odenet as on

STEPS = 20 if os.environ.get("ODENET_SMOKE") else 400
net = on.nets.resnet(dim_in=2, dim_out=2, width=16, steps=8, integrator="rk4", span=(0.0, 4.0))
fit = on.fit(net, "moons", steps=STEPS, lr=1e-2)
x = on.data.load("moons").x_test
print(f"trained with rk4: test accuracy {fit.score['accuracy']:.2f}")
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
    print(sentence)
