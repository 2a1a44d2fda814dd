# 11. Which solver do I take for a stiff problem?
#
# Stiff: something decays much faster than the solution moves, so that stability, not accuracy, limits the steps of an
# explicit method. It ends with a status within its budget; implicit methods cross the same time in a few hundred steps.
#
# Expected output (~ stands before digits that vary):
#     Robertson's kinetics, to t = 1e+11
#       dopri5     max_steps  at t = ~4.4      ~18002 evaluations, 0 Jacobians
#       tr_bdf2    success    ~4 digits right   ~2994 evaluations, ~55 Jacobians
#       radau_iia5 success    ~7 digits right   ~2274 evaluations, ~49 Jacobians
#       bdf        success    ~5 digits right   ~1385 evaluations, ~60 Jacobians
#       rodas4     success    ~7 digits right   ~1871 evaluations, ~267 Jacobians
#     Van der Pol's oscillator, mu = 1000, to t = 2000
#       dopri5     max_steps  at t = ~3.3      ~18002 evaluations, 0 Jacobians
#       tr_bdf2    success    ~4 digits right   ~6500 evaluations, ~140 Jacobians
#       radau_iia5 success    ~7 digits right   ~5601 evaluations, ~165 Jacobians
#       bdf        success    ~4 digits right   ~1969 evaluations, ~117 Jacobians
#       rodas4     success    ~6 digits right   ~4286 evaluations, ~612 Jacobians

import math
import os

import odenet as on
from odenet.fields.testset import IVPS  # problems with known end values; `odenet list problems` names them

RTOL = 1e-2 if os.environ.get("ODENET_SMOKE") else 1e-5
TITLES = {"robertson": "Robertson's kinetics", "van_der_pol_1e3": "Van der Pol's oscillator, mu = 1000"}

for name, title in TITLES.items():
    problem = IVPS[name]
    print(f"{title}, to t = {problem.t1:g}")
    for method in ("dopri5", "tr_bdf2", "radau_iia5", "bdf", "rodas4"):
        found = on.solve(
            problem.f, problem.start(), [problem.t0, problem.t1], method,
            rtol=RTOL, atol=RTOL * problem.floor, max_steps=3000, on_failure="return",
        )  # fmt: skip
        reached = found.t_last == problem.t1
        right = f"{-math.log10(problem.error(found.y[-1])):.0f} digits right" if reached else ""
        counts = f"{found.stats['nfe']:6} evaluations, {found.stats.get('jacobians', 0)} Jacobians"
        print(f"  {method:10} {found.status:10} {right or f'at t = {found.t_last:.1f}':14} {counts}")
