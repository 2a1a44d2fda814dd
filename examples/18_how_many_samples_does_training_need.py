# 18. How many samples does training need?
#
# Seen from far, training controls a population: one theta for all samples, which maximises the mean E[H] of their
# Hamiltonians (E, Han & Li 2019, arXiv 1807.01083). A batch of N samples is a guess of that mean, of the costates' and
# so of the gradient; its error falls like N^-1/2, whatever the depth. Four times the batch halves the noise, no more.
#
# Expected output (~ stands before digits that vary, ... for any text):
#     samples                      16       64      256     1024
#     error of E[H], all layers ~0.319   ~0.164   ~0.106   ~0.045
#     error of its slope        ~0.536   ~0.266   ~0.154   ~0.072
#     falls like N to the power ~-0.46 and ~-0.47
#     figure: .../samples.png

import tempfile
from pathlib import Path

import matplotlib
import torch
from torch.nn import functional as F

import odenet as on
from odenet.flow import sweep

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SIZES, DRAWS = (16, 64, 256, 1024), 32
generator = torch.Generator().manual_seed(0)
x = torch.randn(2**14, 3, generator=generator)  # stands for the population
y = (x[:, 0] * x[:, 1] + 0.3 * torch.randn(len(x), generator=generator) > 0).long()
net = on.nets.resnet(3, 2, width=8, steps=3, span=(0.0, 1.5), seed=1)


def found(rows: torch.Tensor) -> list[torch.Tensor]:
    """H of every layer, mean over the samples, and its slope in all weights: the gradient, with a minus sign."""
    seen = sweep(net, x[rows], lambda out: F.cross_entropy(out, y[rows]))
    hamiltonians = torch.stack([seen.hamiltonian(n).detach() for n in range(len(seen.layers))])
    return [hamiltonians, torch.cat([g.flatten() for g in seen.gradients.values()])]


whole = found(torch.arange(len(x)))
errors = []
for size in SIZES:
    drawn = [found(torch.randperm(len(x), generator=generator)[:size]) for _ in range(DRAWS)]
    misses = [torch.stack([draw[k] - whole[k] for draw in drawn]) for k in (0, 1)]
    errors.append([float(m.square().sum(1).mean().sqrt()) for m in misses])

per_size = torch.tensor(errors).T
logs = torch.tensor(SIZES).log()
powers = ((logs - logs.mean()) * per_size.log()).sum(1) / (logs - logs.mean()).square().sum()
print(f"{'samples':25}" + "".join(f"{n:9}" for n in SIZES))
for name, row in zip(("error of E[H], all layers", "error of its slope"), per_size.tolist()):
    print(f"{name:25}" + "".join(f"{v:9.3f}" for v in row))
    plt.loglog(SIZES, row, "o-", label=name)
print("falls like N to the power", " and ".join(f"{p:.2f}" for p in powers.tolist()))
plt.loglog(SIZES, [2 * errors[0][0] * (SIZES[0] / n) ** 0.5 for n in SIZES], "k--", label="N to the power -1/2")
plt.legend(), plt.xlabel("N, samples in a batch"), plt.ylabel("root mean square of 32 draws"), plt.grid(alpha=0.3)
path = Path(tempfile.mkdtemp()) / "samples.png"
plt.savefig(path, dpi=120, bbox_inches="tight")
print(f"figure: {path}")
