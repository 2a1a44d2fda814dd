# 4. How do I compare architectures?
#
# on.compare: same splits, same batches and same search for all, then paired differences with intervals.
# From a shell: odenet compare --data moons --nets resnet antisymmetric mlp --integrators euler rk4
#
# Expected output (~ stands before digits that vary, ... for any text):
#     net            integrator  accuracy %    parameters  nfe
#     resnet         euler      ~95.7 ± ~6.7           618    8
#     resnet         rk4        ~95.8 ± ~6.8           618   32
#     antisymmetric  euler      ~99.8 ± ~0.3           618    8
#     antisymmetric  rk4        ~99.8 ± ~0.3           618   32
#     mlp            -          ~91.2 ± ~3.3           114    0
#     paired difference to resnet/euler in points, 95 % interval
#     resnet/rk4         ~+0.2 in [~-1.1, ~+1.4]: ...
#     antisymmetric/euler ~+4.2 in [~-12.7, ~+21.0]: ...
#     antisymmetric/rk4  ~+4.2 in [~-12.7, ~+21.0]: ...
#     mlp/-              ~-4.5 in [~-15.7, ~+6.7]: ...
#     ['figures', 'nets', 'report.html', 'results.csv', 'results.json', 'spec.json', 'table.tex']

import os
import tempfile
from pathlib import Path

import odenet as on

TRAIN_STEPS = 10 if os.environ.get("ODENET_SMOKE") else 150

results = on.compare(
    data="moons", nets=["resnet", "antisymmetric", "mlp"], integrators=["euler", "rk4"], seeds=3,
    width=8, steps=8, train_steps=TRAIN_STEPS, lr=(1e-2,), spans=(4.0,), theory=False, reference="resnet/euler",
    workers=1, progress=False,
)  # fmt: skip
print("net            integrator  accuracy %    parameters  nfe")
for s in results.summaries:
    spread = f"{100 * s.accuracy:.1f} ± {100 * s.sd:.1f}"
    print(f"{s.net:<13}  {s.integrator:<10}  {spread:<12}  {s.parameters:>10}  {s.nfe:>3}")

print("paired difference to resnet/euler in points, 95 % interval")
for d in results.differences:
    if d.reading != "reference":
        print(f"{d.key:<19} {100 * d.mean:+.1f} in [{100 * d.low:+.1f}, {100 * d.high:+.1f}]: {d.reading}")

folder = results.save(Path(tempfile.mkdtemp()) / "moons")
print(sorted(p.name for p in folder.iterdir()))
