import math
import warnings

import torch

import odenet as on

y0 = torch.tensor([1.0], dtype=torch.float64)


def told(what: str, *args: object, **words: object) -> on.flow.Solution:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # suspect and inaccurate results warn; here they are printed
        sol = on.solve(*args, on_failure="return", **words)
    print(f"{what}: {sol.status}, t = {sol.t_last:.4f}, y = {float(sol.y[-1].flatten()[0]):.6g}")
    return sol


def decay(t: float, y: torch.Tensor) -> torch.Tensor:
    return -y


def blow_up(t: float, y: torch.Tensor) -> torch.Tensor:
    return y**2  # y = 1/(1 - t): there is no solution beyond t = 1


print(f"y' = -y to t = 1, exactly {math.exp(-1):.6g}")
told("  dopri5, error controlled      ", decay, y0, [0.0, 1.0])
told("  rk4, 10 steps                 ", decay, y0, [0.0, 1.0], "rk4", steps=10)
told("  rk4, 10 steps, check=True     ", decay, y0, [0.0, 1.0], "rk4", steps=10, check=True)
told("  euler, 10 steps, check=True   ", decay, y0, [0.0, 1.0], "euler", steps=10, check=True)
told("  euler, 1 step of y' = -3 y    ", lambda t, y: -3 * y, y0, [0.0, 1.0], "euler", steps=1)

print("y' = y^2 to t = 2, which does not exist")
for name, steps in (("dopri5", None), ("euler", 1), ("euler", 20), ("rk4", 1), ("rk4", 100), ("torchdiffeq:rk4", 1)):
    told(f"  {name + (f', {steps} steps' if steps else ''):<30}", blow_up, y0, [0.0, 2.0], name, steps=steps)

sol = on.solve(on.fields.Kepler(), on.fields.Kepler.start(0.5), [0.0, 20.0], rtol=1e-9, atol=1e-9)
drift = float(on.fields.Kepler().energy(sol.y[-1]) - on.fields.Kepler().energy(sol.y[0]))
print(f"Kepler to t = 20: {sol.status}, energy off by {abs(drift):.0e}, {sol.stats['accepted']} steps")
