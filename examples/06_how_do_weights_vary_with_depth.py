# 6. How do the weights vary with depth?
#
# theta(t) is constant, constant between knots or linear between knots. A flow never steps across a knot and
# uses the weights of its own interval, so rk4 keeps order 4; looking weights up by time loses it at jumps.
#
# Expected output:
#     shared            (1, 4, 4)  rk4 in a flow: order 4.00, with weights looked up by t: 4.00
#     per_step          (5, 4, 4)  rk4 in a flow: order 4.02, with weights looked up by t: 1.01
#     piecewise_linear  (6, 4, 4)  rk4 in a flow: order 4.04, with weights looked up by t: 4.04
#     twice the layers, the same function: True; penalty h1 28.57 and 28.57

import math
import warnings

import torch

import odenet as on

torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)
y = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
STEPS = (10, 20, 40, 80)  # in all, over 5 knot intervals


def order(errors: list[float]) -> float:
    return math.log2(errors[-2] / errors[-1])


for depth in ("shared", "per_step", "piecewise_linear"):
    flow = on.Flow(on.fields.Free(4), "rk4", depth=depth, steps=5, span=(0.0, 4.0))
    theta = flow.depths["K"]
    exact = flow.with_integrator("rk4", steps=1280)(y)
    steps_end_on_knots = [float((flow.with_integrator("rk4", steps=n)(y) - exact).norm()) for n in STEPS]

    def looked_up(t: float, y: torch.Tensor, flow: on.Flow = flow, theta: on.depth.Depth = theta) -> torch.Tensor:
        """The same field as a plain f(t, y) that asks for the weights at time t, as one would write it first."""
        K, b = (theta.at(c, min(float(t), 4.0), flow.knots) for c in flow.weights.values())
        return torch.tanh(torch.nn.functional.linear(y, K, b))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # solve rightly calls these runs suspect
        plain = [float((on.solve(looked_up, y, [0.0, 4.0], "rk4", steps=n).y[-1] - exact).norm()) for n in STEPS]
    print(f"{depth:<17} {tuple(flow.weights['K'].shape)!s:<10} rk4 in a flow: order {order(steps_end_on_knots):.2f}, "
          f"with weights looked up by t: {order(plain):.2f}")  # fmt: skip

coarse = on.Flow(on.fields.Free(4), "rk4", depth="piecewise_linear", steps=5, span=(0.0, 4.0))
fine = on.Flow(on.fields.Free(4), "rk4", depth="piecewise_linear", steps=10, span=(0.0, 4.0))
for name, c in coarse.weights.items():
    fine.weights[name].copy_(coarse.depths[name].prolong(c))
gap = float((fine(y) - coarse.with_integrator("rk4", steps=10)(y)).abs().max())
print(f"twice the layers, the same function: {gap < 1e-14}; penalty h1 {float(coarse.penalty('h1')):.2f} and "
      f"{float(fine.penalty('h1')):.2f}")  # fmt: skip
