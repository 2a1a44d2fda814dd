# 12. What does a gradient cost, and which one do I take?
#
# The same solve, 200 steps of rk4 on 2000 samples: autograd holds every operation, the others less, for which they
# evaluate the field again. MB: the most that autograd held at one time, forwards and backwards.
#
# Expected output (~ stands before digits that vary):
#     gradient      forward  backward      MB   difference to autograd
#     autograd         ~801         0  ~128.1   < 1e-10
#     discrete         ~803      ~800    ~4.6   < 1e-10
#     binomial         ~802     ~2268    ~0.9   < 1e-10
#     reversible      ~1627     ~3200    ~2.4   < 1e-10
#     continuous       ~802      ~800    ~1.4   < 1e-10

from collections import Counter

import torch
from torch import Tensor, nn

import odenet as on

torch.manual_seed(0)
field = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()  # y' = W2 tanh(W1 y + b1) + b2
y0, exact, count = torch.randn(2000, 2, dtype=torch.float64), None, Counter[str]()
field.register_forward_hook(lambda *_: count.update(["calls"]))
users = Counter[int]()  # of each piece of memory


class Held:
    """A tensor that autograd holds; `most` is the largest number of bytes at one time."""

    now = most = 0

    def __init__(self, x: Tensor) -> None:
        self.x, self.at, self.size = x, x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()
        Held.now += 0 if users[self.at] else self.size
        users[self.at] += 1
        Held.most = max(Held.most, Held.now)

    def __del__(self) -> None:
        users[self.at] -= 1
        Held.now -= 0 if users[self.at] else self.size


print("gradient      forward  backward      MB   difference to autograd")
for gradient in ("autograd", "discrete", "binomial", "reversible", "continuous"):
    method = "reversible_rk4" if gradient == "reversible" else "rk4"  # its steps must have an inverse
    field.zero_grad()
    count["calls"] = Held.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.x):
        loss = on.solve(field, y0, [0.0, 2.0], method, steps=200, gradient=gradient).y[-1].square().sum()
        forward = count["calls"]
        loss.backward()
    found = torch.cat([w.grad.flatten() for w in field.parameters()])
    exact = found if exact is None else exact
    off = "< 1e-10" if (found - exact).norm() < 1e-10 * exact.norm() else "larger"
    print(f"{gradient:13} {forward:7} {count['calls'] - forward:9} {Held.most / 1e6:7.1f}   {off}")
