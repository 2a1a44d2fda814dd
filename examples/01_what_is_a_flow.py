import torch

import odenet as on

field = on.fields.Free(4, activation="tanh")  # f(t, y; K, b) = tanh(K y + b)
flow = on.Flow(field, "euler", depth="per_step", span=(0.0, 1.0), steps=8, seed=0)
x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
print(flow)

y = x
for K, b in zip(flow.weights["K"], flow.weights["b"]):  # a residual network, written by hand
    y = y + flow.h * torch.tanh(torch.nn.functional.linear(y, K, b))
print("the flow is the residual network, bit for bit:", torch.equal(flow(x), y))

path = flow.trajectory(x)
print("states at the knots:", tuple(path.shape))
print("from", path[0, 0].tolist() == x[0].tolist(), "to", path[-1, 0].tolist() == y[0].tolist())
print("field evaluations:", flow.nfe(x), "parameters:", sum(p.numel() for p in flow.parameters()))
