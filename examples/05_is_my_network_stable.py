import os

import odenet as on

STEPS = 20 if os.environ.get("ODENET_SMOKE") else 150
data = on.data.load("digits")


def train_and_judge(integrator: str) -> on.nets.Chain:
    net = on.nets.antisymmetric(64, 10, width=32, steps=32, integrator=integrator, span=(0.0, 8.0), depth="shared")
    on.fit(net, data, steps=STEPS, lr=3e-3)
    report = on.stability.report(net, data.x_test, data.y_test, points=8, refine=(1, 2), integrators=())
    m = report.to_dict()
    print(f"{integrator}: accuracy {m['accuracy']:.2f}, with half the step size "
          f"{m[f'accuracy_{integrator}_x2']:.2f}")  # fmt: skip
    print(report.verdict)
    return report


before = train_and_judge("euler")
print("remedy:", before.verdict.remedy)
after = train_and_judge("rk4")
