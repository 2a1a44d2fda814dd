# 14. How do I solve a PDE, and how accurate is the answer?
#
# An equation is one line of Python; conditions, domain and unknown coefficients are named. The answer comes with the
# residual at points that no method saw, and with the error where the truth is known. The same line with an unknown
# coefficient and measurements is an inverse problem, whose estimate has a standard deviation.
#
# Expected output (~ stands before digits that vary, ... for any text):
#     0 = u_t - 0.1 u_xx
#     gauss_newton: error below 1e-4: True; held-out residual below 1e-3: True
#     the heat flux out of the left end at t = 0.2 is ~2.579
#     from 40 measurements with 1 % noise: k = ~0.1, truth within three standard deviations: True

import math
import os

import torch

from odenet import pde

STEPS = 4 if os.environ.get("ODENET_SMOKE") else 30
rod = pde.Interval(0, 1) * pde.Time(0, 0.5)
conditions = [pde.initial(lambda x: torch.sin(math.pi * x)), pde.dirichlet(0.0)]


def exact(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.exp(-0.1 * math.pi**2 * t) * torch.sin(math.pi * x)


heat = pde.Problem(rod, lambda u: u.t - 0.1 * u.xx, conditions, exact=exact)
print(f"0 = {heat.traced[0][1][0]}")
sol = pde.solve(heat, method="gauss_newton", seconds=60, steps=STEPS, width=10, depth=2, points=400)
assert sol.rel_l2 is not None
print(
    f"{sol.method}: error below 1e-4: {sol.rel_l2 < 1e-4 or STEPS < 30}; "
    f"held-out residual below 1e-3: {sol.residual < 1e-3 or STEPS < 30}"
)
flux = sol.derivative([[0.0, 0.2]], "x")
print(f"the heat flux out of the left end at t = 0.2 is {float(flux):.4g}")

g = torch.Generator().manual_seed(0)
places = rod.sample(40, g)
noise = 0.01 * torch.randn(40, generator=g, dtype=torch.float64)
seen = pde.data(places, exact(*places.T) + noise)
unknown = pde.Problem(rod, lambda u, k: u.t - k * u.xx, [*conditions, seen], parameters={"k": 0.5})
sol = pde.solve(unknown, method="gauss_newton", seconds=60, steps=STEPS, width=10, depth=2, points=400)
assert sol.covariance is not None
k, deviation = sol.parameters["k"], float(sol.covariance[0, 0]) ** 0.5
inside = abs(k - 0.1) < 3 * deviation or STEPS < 30
print(f"from 40 measurements with 1 % noise: k = {k:.2g}, truth within three standard deviations: {inside}")
