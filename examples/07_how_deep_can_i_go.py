# 7. How deep can I go?
#
# Memory: reversible steps are undone instead of stored, so what is kept does not grow with depth.
# Gradients: parabolic layers damp them; Hamiltonian layers under a symplectic method cannot lose them.
#
# Expected output (~ stands before digits that vary, ... for any text):
#     layers                                                   16       64      256
#     MB kept, hamiltonian, autograd                        0.229    0.918    3.670
#     MB kept, hamiltonian, checkpoint                      0.070    0.266    1.053
#     MB kept, hamiltonian, reversible                      0.008    0.008    0.008
#     min |dy_N/dy_j|, Free                                 1.389    1.082    1.023
#     min |dy_N/dy_j|, Parabolic                            0.017    0.001    0.001
#     min |dy_N/dy_j|, SeparableHamiltonian, proved >= 1    1.314    1.103    1.033

import torch

import odenet as on

DEPTHS = (16, 64, 256)
x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def kept(flow: on.Flow) -> float:
    """Megabytes kept for the backward pass beside the weights, x among them."""
    weights = {p.untyped_storage().data_ptr() for p in flow.parameters()}
    storages = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage()  # held, so that no address is used twice
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        flow(x).sum()
    return sum(s.nbytes() for where, s in storages.items() if where not in weights) / 1e6


print(f"{'layers':<50}" + "".join(f"{n:>9}" for n in DEPTHS))
for gradient in ("autograd", "checkpoint", "reversible"):
    row = [kept(on.Flow(on.fields.SeparableHamiltonian(16), "verlet", steps=n, gradient=gradient)) for n in DEPTHS]
    print(f"MB kept, hamiltonian, {gradient:<28}" + "".join(f"{value:9.3f}" for value in row))

for field, integrator in (
    (on.fields.Free(16), "euler"),
    (on.fields.Parabolic(16), "euler"),
    (on.fields.SeparableHamiltonian(16), "verlet"),
):
    row, proofs = [], []
    for n in DEPTHS:
        flow = on.Flow(field, integrator, steps=n, span=(0.0, 8.0))
        found = on.stability.report(flow, x, points=2, layers=16, quick=True).metrics
        row.append(found["sensitivity_min"])
        proofs.append(found["proved_nonvanishing"])
    what = type(field).__name__ + (", proved >= 1" if all(proofs) else "")
    print(f"min |dy_N/dy_j|, {what:<33}" + "".join(f"{value:9.3f}" for value in row))
