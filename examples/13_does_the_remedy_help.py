# 13. Does the remedy of a report help?
#
# Three nets are trained outside their stable range. The report of each says what to do; that is done, the net is
# trained again with the same seed, and looked at again: what is left of the growth of perturbations, and how many
# digits are still read under noise.
#
# Expected output (~ stands before digits that vary, ... for any text):
#     antisymmetric under euler
#       indicated unstable: growth ~12.3, accuracy ~0.96, under noise ~0.95
#       remedy: use rk4
#       measured stable: growth ~5.6, accuracy ~0.95, under noise ~0.95
#     the same under two_step_midpoint
#       indicated unstable: growth ~39.0, accuracy ~0.93, under noise ~0.93
#       remedy: use rk4
#       measured stable: growth ~7.3, accuracy ~0.94, under noise ~0.94
#     parabolic under euler
#       indicated unstable: growth ~22.1, accuracy ~0.86, under noise ~0.80
#       remedy: reduce h by ~3.6 (these weights: with_integrator('euler', steps=~16))
#       proved stable: growth ~1.0, accuracy ~0.94, under noise ~0.94

import os
import re
from typing import Any

import odenet as on

STEPS = 20 if os.environ.get("ODENET_SMOKE") else 150
data = on.data.load("digits")
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "antisymmetric under euler": ("antisymmetric", {"integrator": "euler", "span": (0.0, 4.0), "steps": 16}),
    "the same under two_step_midpoint": ("antisymmetric", {"integrator": "two_step_midpoint", "span": (0.0, 5.0)}),
    "parabolic under euler": ("parabolic", {"integrator": "euler", "span": (0.0, 4.0), "steps": 4}),
}


def judged(name: str, words: dict[str, Any]) -> on.stability.Verdict:
    net = on.nets.get(name)(64, 10, width=32, depth="shared", **{"steps": 8, **words})
    score = on.fit(net, data, steps=STEPS, lr=3e-3).score["accuracy"]
    found = on.stability.report(net, data.x_val, data.y_val, points=8, integrators=(), attacks=())
    growth = max(found.metrics["transient_max"], found.metrics["sensitivity_max"])
    noisy = found.metrics["accuracy_input_noise_0.2"]
    word = "stable" if found.verdict.stable else "unstable"
    print(f"  {found.verdict.standing} {word}: growth {growth:.1f}, accuracy {score:.2f}, under noise {noisy:.2f}")
    return found.verdict


for title, (name, words) in NETS.items():
    print(title)
    remedy = judged(name, words).remedy
    print(f"  remedy: {remedy}")
    finer, other = re.search(r"steps=(\d+)", remedy), re.search(r"use (\w+)", remedy)
    cure = {"steps": int(finer[1])} if finer else {"integrator": other[1]} if other else {}
    judged(name, words | cure)
