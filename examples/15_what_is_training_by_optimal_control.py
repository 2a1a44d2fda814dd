# 15. What is training by optimal control?
#
# A net is a control problem: choose the weights of every layer so that the last state has a small loss. Pontryagin's
# maximum principle says how: states forwards, costates backwards, and then every layer maximises its own Hamiltonian.
# "msa" does just that and diverges; "sqh" adds penalties that grow where the loss would rise, so it never does. The gap
# of the maximum principle says how far each layer is from having nothing left to choose. Ternary weights need no
# derivative of a rounding: the Hamiltonian is maximised over -1, 0, 1.
#
# Expected output (~ stands before digits that vary, ... for any text):
#     loss of all data after 0, 3, 10 and ~30 steps
#       adam     ~0.593      ~0.471      ~0.295      ~0.113   rose ~1 times, accuracy ~0.96
#       msa      ~0.593        ~173      ~0.474       ~1.01   rose ~16 times, accuracy ~0.76
#       sqh      ~0.593      ~0.197     ~0.0654    ~0.00204   rose 0 times, accuracy ~1.00
#     gap of the maximum principle, before and after:
#       part 0     ~7.5e-02  ~1.7e-05
#       part 1[1]  ~2.0e-02  ~3.9e-05
#       part 1[3]  ~1.7e-02  ~2.9e-05
#       part 1[5]  ~9.6e-03  ~1.0e-05
#     ternary Hamiltonian net: accuracy ~1.00, 800 bytes of weights

import os

import torch

import odenet as on
from odenet.train import pmp_gap
from odenet.train.control import pack

STEPS = 6 if os.environ.get("ODENET_SMOKE") else 30
data = on.data.load("moons", n=400)


def net() -> torch.nn.Module:
    return on.nets.resnet(2, 2, width=8, steps=6, span=(0.0, 3.0), seed=0)


print(f"loss of all data after 0, 3, 10 and {STEPS} steps")
for method, words in (("adam", {"lr": 1e-2}), ("msa", {}), ("sqh", {})):
    fit = on.fit(net(), data, method, steps=STEPS, batch=len(data.x), **words)
    shown = [fit.history[min(k, STEPS - 1)]["loss"] for k in (0, 3, 10, STEPS)]
    rises = sum(b["loss"] > a["loss"] for a, b in zip(fit.history, fit.history[1:]))
    values, score = "  ".join(f"{v:9.3g}" for v in shown), fit.score["accuracy"]
    print(f"  {method:4} {values}   rose {rises} times, accuracy {score:.2f}")

trained = net()
before = pmp_gap(trained, (data.x, data.y))
on.fit(trained, data, "sqh", steps=STEPS)
after = pmp_gap(trained, (data.x, data.y))
print("gap of the maximum principle, before and after:")
for name in list(before)[:: len(before) // 3]:
    print(f"  {name:10} {before[name]:.1e}  {after[name]:.1e}")

torch.manual_seed(0)
small = on.nets.hamiltonian(2, 2, width=32, steps=6, span=(0.0, 3.0), seed=0)
fit = on.fit(small, data, "ternary_msa", steps=10 * STEPS, lr=1e-2)
held = sum(v.numel() for k, v in pack(small).items() if k.startswith("bits:"))
print(f"ternary Hamiltonian net: accuracy {fit.score['accuracy']:.2f}, {held} bytes of weights")
