# 3. Which order does my scheme really have?
#
# Register its coefficients: the order is derived from them exactly, and a misprint is refused. Then measure.
#
# Expected output:
#     <integrator mine, order 3>
#     derived from the coefficients: exact True, stable for -2.513 <= h lambda <= 0
#     integrator 'misprint' claims order 3, but the tree [.] gives 0.3333333333, the order condition asks
#     1/2; correct the coefficients or write order=1.
#
#     error at t = 1 on a Kepler orbit of eccentricity 0.3
#     scheme      claimed   16 steps   32 steps   64 steps  observed
#     euler             1    1.8e-01    9.6e-02    5.0e-02      0.94
#     verlet            2    4.3e-03    1.1e-03    2.7e-04      2.00
#     mine              3    6.5e-05    8.0e-06    1.0e-06      3.00
#     rk4               4    5.0e-06    3.0e-07    1.8e-08      4.04
#     yoshida4          4    1.5e-04    9.3e-06    5.8e-07      4.00
#     dopri5            5    5.0e-08    1.0e-09    2.4e-11      5.38

import math
import textwrap

import torch

import odenet as on

torch.set_default_dtype(torch.float64)
# Heun's third-order method, as one would type it from a book
mine = on.Tableau(a=("", "1/3", "0 2/3"), b="1/4 0 3/4", order=3, cite="Heun 1900")
print(on.integrators.register("mine", mine))
facts = on.integrators.get("mine").facts
print(f"derived from the coefficients: exact {facts.exact}, stable for -{facts.real_interval:.3f} <= h lambda <= 0")

try:  # the same with a misprint in b
    on.integrators.register("misprint", on.Tableau(a=("", "1/3", "0 2/3"), b="1/2 0 1/2", order=3))
except on.errors.ClaimRefused as sentence:
    print(textwrap.fill(str(sentence), 100))

print("\nerror at t = 1 on a Kepler orbit of eccentricity 0.3")
print("scheme      claimed   16 steps   32 steps   64 steps  observed")
field, y0 = on.fields.Kepler(), on.fields.Kepler.start(0.3)
for name in ("euler", "verlet", "mine", "rk4", "yoshida4", "dopri5"):
    errors = []
    for steps in (16, 32, 64):
        sol = on.solve(field, y0, [0.0, 1.0], integrator=name, steps=steps)
        errors.append(float((sol.y[-1] - field.exact(1.0, y0)).norm()))
    order = math.log2(errors[1] / errors[2])
    numbers = "".join(f"{e:11.1e}" for e in errors)
    print(f"{name:<10} {on.integrators.get(name).order:>8}{numbers}{order:>10.2f}")
