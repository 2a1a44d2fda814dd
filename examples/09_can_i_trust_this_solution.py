# 9. Can I trust this solution?
#
# Every solve ends in a status. success: the error was controlled, or a second run with half the step size
# agreed; completed: fixed steps, error unknown; suspect: the steps look too large.
#
# Expected output (~ stands before digits that vary, ... for any text):
#     y' = -y to t = 1, exactly 0.367879
#       dopri5, error controlled      : success, y = 0.36788
#       rk4, 10 steps                 : completed, y = 0.36788
#       rk4, 10 steps, check=True     : success, y = 0.36788
#       euler, 10 steps, check=True   : inaccurate, y = 0.34868
#       euler, 1 step of y' = -3 y    : suspect, y = -2
#     y' = y^2, y = 1/(1 - t), to t = 2, which does not exist
#       dopri5                        : step_underflow, stopped at t = 1.00
#       euler, 1 step(s)              : suspect, y = 3
#       euler, 20 step(s)             : suspect, y = 5.6494e+103
#       rk4, 1 step(s)                : suspect, y = 887.67
#       rk4, 100 step(s)              : non_finite, stopped at t = 1.04
#       torchdiffeq:rk4, 1 step(s)    : suspect, y = 1145
#     Kepler to t = 20: success, energy off by ~3e-09, ~375 steps

import math
import warnings

import torch

import odenet as on

y0 = torch.tensor([1.0], dtype=torch.float64)
warnings.simplefilter("ignore")  # suspect and inaccurate results warn as well; here they are printed


def told(what: str, *args: object, **words: object) -> None:
    sol = on.solve(*args, on_failure="return", **words)
    value = f"y = {float(sol.y[-1]):.5g}" if sol.t_last == float(sol.t[-1]) > 0 else f"stopped at t = {sol.t_last:.2f}"
    print(f"{what}: {sol.status}, {value}")


def decay(t: float, y: torch.Tensor) -> torch.Tensor:
    return -y


print(f"y' = -y to t = 1, exactly {math.exp(-1):.6g}")
told("  dopri5, error controlled      ", decay, y0, [0.0, 1.0])
told("  rk4, 10 steps                 ", decay, y0, [0.0, 1.0], "rk4", steps=10)
told("  rk4, 10 steps, check=True     ", decay, y0, [0.0, 1.0], "rk4", steps=10, check=True)
told("  euler, 10 steps, check=True   ", decay, y0, [0.0, 1.0], "euler", steps=10, check=True)
told("  euler, 1 step of y' = -3 y    ", lambda t, y: -3 * y, y0, [0.0, 1.0], "euler", steps=1)

print("y' = y^2, y = 1/(1 - t), to t = 2, which does not exist")
for name, steps in (("dopri5", None), ("euler", 1), ("euler", 20), ("rk4", 1), ("rk4", 100), ("torchdiffeq:rk4", 1)):
    told(
        f"  {name + (f', {steps} step(s)' if steps else ''):<30}", lambda t, y: y**2, y0, [0.0, 2.0], name, steps=steps
    )

kepler = on.fields.Kepler()
sol = on.solve(kepler, kepler.start(0.5), [0.0, 20.0], rtol=1e-9, atol=1e-9)
drift = float(kepler.energy(sol.y[-1]) - kepler.energy(sol.y[0]))
print(f"Kepler to t = 20: {sol.status}, energy off by {abs(drift):.0e}, {sol.stats['accepted']} steps")
