# 16. Can depth be parallel?
#
# A net of a thousand narrow layers is a loop of a thousand small operations. Cut it into chunks that all start at once
# from a guess: a coarse net of one step per chunk makes the guess and, after every sweep, corrects it (parareal). Each
# sweep makes one chunk more exact, but on weights smooth in depth a few are enough, for the states and for the
# costates; Newton's method on the starts of the chunks (multiple shooting) needs fewer still. In training, the states
# of the step before are the guess, and one correction serves.
#
# Expected output (~ stands before digits that vary, ... for any text):
#     error of the gradient, 256 layers in chunks of 16
#       parareal, Euler below      ~2.0e-03  ~5.6e-05  ~1.0e-06
#       parareal, midpoint below   ~1.4e-06  ~1.3e-09  ...
#       multiple shooting          ~6.5e-04  ~2.2e-06  ...
#     after 16 sweeps parareal is exact: True
#     serial    loss after  0 steps ~17.88
#     serial    loss after ~20 steps ~13.08
#     one-shot  loss after  0 steps ~17.90
#     one-shot  loss after ~20 steps ~13.08

import os

import torch

import odenet as on
from odenet.flow import Parallel

torch.set_default_dtype(torch.float64)
STEPS = 4 if os.environ.get("ODENET_SMOKE") else 20
x, target = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))


def net(how: object) -> torch.nn.Module:
    return on.flow.Flow(on.fields.Free(4), steps=256, span=(0.0, 4.0), gradient=how, init="constant", seed=1)


def gradient(model: torch.nn.Module) -> torch.Tensor:
    loss = (model(x) - target).square().mean()
    return torch.nn.utils.parameters_to_vector(torch.autograd.grad(loss, tuple(model.parameters())))


def error(**words: object) -> float:
    exact = gradient(net("autograd"))
    return float((gradient(net(Parallel(coarsening=16, **words))) - exact).norm() / exact.norm())


print("error of the gradient, 256 layers in chunks of 16")
plans = {"parareal, Euler below": {}, "parareal, midpoint below": {"coarse": "midpoint"}}
for name, words in (plans | {"multiple shooting": {"solver": "shooting"}}).items():
    print(f"  {name:25}", *(f" {error(iterations=k, **words):.1e}" for k in (1, 2, 3)))
print("after 16 sweeps parareal is exact:", error(iterations=16) < 1e-12)

for name, how in (("serial", "autograd"), ("one-shot", Parallel(coarsening=16, iterations=1, warm=True))):
    model = net(how)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(STEPS + 1):
        optimiser.zero_grad()
        (loss := (model(x) - target).square().mean()).backward()
        optimiser.step()
        if step in (0, STEPS):
            print(f"{name:9} loss after {step:2} steps {float(loss.detach()):.4f}")
