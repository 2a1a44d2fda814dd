import os
import tempfile
from pathlib import Path

import odenet as on

TRAIN_STEPS = 10 if os.environ.get("ODENET_SMOKE") else 150


def main() -> None:
    results = on.compare(
        data="moons", nets=["resnet", "antisymmetric", "mlp"], integrators=["euler", "rk4"], seeds=3,
        width=8, steps=8, train_steps=TRAIN_STEPS, lr=(1e-2,), spans=(4.0,), theory=False, workers=1, progress=False,
    )  # fmt: skip
    print("net            integrator  accuracy %    parameters  nfe")
    for s in results.summaries:
        spread = f"{100 * s.accuracy:.1f} ± {100 * s.sd:.1f}"
        print(f"{s.net:<13}  {s.integrator:<10}  {spread:<12}  {s.parameters:>10}  {s.nfe:>3}")

    best = results.reference  # the best on validation; the test part has no say
    for d in results.differences:
        if d.key != best:
            print(f"{d.key} - {best}: {100 * d.mean:+.1f} in [{100 * d.low:+.1f}, {100 * d.high:+.1f}], {d.reading}")

    folder = results.save(Path(tempfile.mkdtemp()) / "moons")
    print(sorted(p.name for p in folder.iterdir()))


if __name__ == "__main__":  # compare may start worker processes, which import this file
    main()
