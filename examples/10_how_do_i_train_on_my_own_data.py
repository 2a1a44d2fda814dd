# 10. How do I train on my own data, and keep the result?
#
# fit takes tensors, a DataLoader, a data set read from files, or a name; a saved net is safetensors, no pickle.
#
# Expected output (~ stands before digits that vary, ... for any text):
#     tensors: done, r2 ~0.99, scores ['loss', 'mse', 'r2']
#     loader: done, accuracy ~0.98, first and last loss ~0.69 ~0.05
#     folder: 10 classes, ..., accuracy ~0.96
#     loaded net gives the same scores: True resnet

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

import odenet as on

STEPS = 20 if os.environ.get("ODENET_SMOKE") else 200
folder = Path(tempfile.mkdtemp())
generator = torch.Generator().manual_seed(0)

# 1. tensors (x, y): real targets make it a regression; a fifth is held out for the score
x = 2 * torch.rand(500, 2, generator=generator) - 1
y = torch.sin(3 * x[:, :1]) * x[:, 1:]
net = on.nets.resnet(dim_in=2, dim_out=1, width=16, steps=8, integrator="rk4")
fit = on.fit(net, (x, y), steps=STEPS, lr=1e-2, schedule="cosine")
print(f"tensors: {fit.status}, r2 {fit.score['r2']:.2f}, scores {sorted(fit.score)}")

# 2. a DataLoader of mine, with held-out data beside it; labels are whole numbers
label = (y[:, 0] > 0).long()
loader = DataLoader(TensorDataset(x[:400], label[:400]), batch_size=50, shuffle=True, generator=generator)
net = on.nets.hamiltonian(2, 2, width=16, steps=8, opening="pad")
fit = on.fit(net, loader, test=(x[400:], label[400:]), steps=STEPS, lr=1e-2)
print(f"loader: {fit.status}, accuracy {fit.score['accuracy']:.2f}, first and last loss "
      f"{fit.history[0]['loss']:.2f} {fit.history[-1]['loss']:.2f}")  # fmt: skip

# 3. a folder with files in MNIST's format (IDX); here the digits of scikit-learn are written in it first
digits = on.data.load("digits")
for part, images, labels in (("train", digits.x, digits.y), ("t10k", digits.x_test, digits.y_test)):
    pixels = (255 * images).round().byte().numpy()
    head = np.array([0x803, len(pixels), 8, 8], ">u4").tobytes()
    (folder / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
    head = np.array([0x801, len(pixels)], ">u4").tobytes()
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.byte().numpy().tobytes())
data = on.data.idx_folder(folder)
net = on.nets.resnet(data.dim_in, data.dim_out, width=32, steps=8)
fit = on.fit(net, data, steps=2 * STEPS, lr=1e-2, validate_every=10, patience=5)  # keeps the best weights
print(f"folder: {data.classes} classes, {fit.status}, accuracy {fit.score['accuracy']:.2f}")

# 4. one file with weights and recipe
on.save(net, folder / "net.safetensors")
again = on.load(folder / "net.safetensors")
print("loaded net gives the same scores:", torch.equal(again(data.x_test), net(data.x_test)), again.spec["net"])
