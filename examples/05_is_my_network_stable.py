import os

import odenet as on

STEPS = 20 if os.environ.get("ODENET_SMOKE") else 150
data = on.data.load("digits")


def judged(integrator: str) -> on.stability.Report:
    net = on.nets.antisymmetric(64, 10, width=32, steps=32, integrator=integrator, span=(0.0, 8.0), depth="shared")
    on.fit(net, data, steps=STEPS, lr=3e-3)
    report = on.stability.report(net, data.x_test, data.y_test, points=8, integrators=())
    half = report.metrics[f"accuracy_{integrator}_x2"]
    print(f"trained with {integrator}: accuracy {report.metrics['accuracy']:.2f}, with half the step size {half:.2f}")
    print(report.verdict)
    return report


before = judged("euler")
print("standing:", before.verdict.standing, "| stable:", before.verdict.stable, "| remedy:", before.verdict.remedy)
after = judged("rk4")  # the remedy, followed
print("standing:", after.verdict.standing, "| stable:", after.verdict.stable)
