import os

import torch

import odenet as on

DEPTHS = (16, 64) if os.environ.get("ODENET_SMOKE") else (16, 64, 256, 1024)
x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def kept(flow: on.Flow) -> float:
    """Megabytes kept for the backward pass beside the weights."""
    weights = {p.untyped_storage().data_ptr() for p in flow.parameters()}
    storages = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage()  # held, so that no address is used twice
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        flow(x).sum()
    return sum(s.nbytes() for where, s in storages.items() if where not in weights) / 1e6


print("layers                                    " + "".join(f"{n:>9}" for n in DEPTHS))
for gradient in ("autograd", "checkpoint", "reversible"):
    row = [kept(on.Flow(on.fields.SeparableHamiltonian(16), "verlet", steps=n, gradient=gradient)) for n in DEPTHS]
    print(f"MB kept, hamiltonian, {gradient:<20}" + "".join(f"{value:9.3f}" for value in row))

for field, integrator in (
    (on.fields.Free(16), "euler"),
    (on.fields.Parabolic(16), "euler"),
    (on.fields.SeparableHamiltonian(16), "verlet"),
):
    row, proofs = [], []
    for n in DEPTHS:
        flow = on.Flow(field, integrator, steps=n, span=(0.0, 8.0))
        found = on.stability.report(flow, x, points=2, layers=16).metrics
        row.append(found["sensitivity_min"])
        proofs.append(found["proved_nonvanishing"])
    proved = ", proved >= 1" if all(proofs) else ""
    print(f"min |dy_N/dy_j|, {type(field).__name__ + proved:<25}" + "".join(f"{value:9.4f}" for value in row))
