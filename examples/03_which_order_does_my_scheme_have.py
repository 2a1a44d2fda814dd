import math

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
    print(sentence)

print("\nerror at t = 1 on a Kepler orbit of eccentricity 0.3")
print("scheme      claimed   64 steps  128 steps  256 steps  observed")
field, y0 = on.fields.Kepler(), on.fields.Kepler.start(0.3)
for name in ("euler", "verlet", "mine", "rk4", "yoshida4", "dopri5"):
    errors = []
    for steps in (64, 128, 256):
        sol = on.solve(field, y0, [0.0, 1.0], integrator=name, steps=steps)
        errors.append(float((sol.y[-1] - field.exact(1.0, y0)).norm()))
    order = math.log2(errors[1] / errors[2])
    numbers = "".join(f"{e:11.1e}" for e in errors)
    print(f"{name:<10} {on.integrators.get(name).order:>8}{numbers}{order:>10.2f}")
