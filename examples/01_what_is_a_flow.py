# 1. What is a flow?
#
# A network layer that steps y' = f(t, y; theta(t)) from t_0 to t_N. Under forward Euler, with weights of
# its own for every step, it is a residual network: the same numbers, bit for bit.
#
# Expected output:
#     <integrator euler, order 1> h = 0.125, knots (0.0, 0.125, 0.25) ...
#     the flow is the residual network, bit for bit: True
#     states at the knots: (9, 5, 4)
#     they start at x and end at y: True True
#     field evaluations: 8 parameters: 160

import torch

import odenet as on

field = on.fields.Free(4, activation="tanh")  # f(t, y; K, b) = tanh(K y + b)
flow = on.Flow(field, "euler", depth="per_step", span=(0.0, 1.0), steps=8, seed=0)
x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
print(flow.integrator, f"h = {flow.h}, knots {flow.knots[:3]} ...")

y = x
for K, b in zip(flow.weights["K"], flow.weights["b"]):  # a residual network, written by hand
    y = y + flow.h * torch.tanh(torch.nn.functional.linear(y, K, b))
print("the flow is the residual network, bit for bit:", torch.equal(flow(x), y))

path = flow.trajectory(x)
print("states at the knots:", tuple(path.shape))
print("they start at x and end at y:", torch.equal(path[0], x), torch.equal(path[-1], y))
print("field evaluations:", flow.nfe(x), "parameters:", sum(p.numel() for p in flow.parameters()))
