import torch

import odenet as on

torch.set_default_dtype(torch.float64)
y = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))

print("depth              weights  theta(0.3) - theta(0.2)")
for depth in ("shared", "per_step", "piecewise_linear"):
    flow = on.Flow(on.fields.Free(4), "rk4", depth=depth, steps=4, span=(0.0, 1.0))
    theta = flow.depths["K"]
    change = theta.at(flow.weights["K"], 0.3, flow.knots) - theta.at(flow.weights["K"], 0.2, flow.knots)
    print(f"{depth:<17}  {tuple(flow.weights['K'].shape)!s:<9} {float(change.detach().norm()):.2f}")


def errors(flow: on.Flow) -> list[float]:
    """Of rk4 with 8, 16, 32, 64 steps in all, against dopri5 at a tight tolerance."""
    exact = on.Flow.with_integrator(flow, "rk4", steps=4096)(y)
    return [float((flow.with_integrator("rk4", steps=n)(y) - exact).norm()) for n in (8, 16, 32, 64)]
