"""How often the predicted h of failure is the measured one, over random nets; and whether a "proved" is ever wrong.

    python tests/bench/bench_prediction.py [--first 1000] [--n 200]

Every net is drawn by its seed: field, activation, width, knots, depth, gain, span, integrator. The scan takes 1, 2, 3,
4, 6, 8, ... steps per knot interval. Predicted and measured h of failure agree where they are at most one step of the
scan (a factor of 1.33 to 2 in h) apart, or where neither finds a failure; a failure against none is a disagreement.
Seeds 0-99 were looked at while the prediction was written; the default seeds were not.
  proved      wrong where the net expands a distance between the inputs, or |dy_N/dy_j| < 1, against the proof
  indicated   precision and recall against the measured failure at the same h
"""

from __future__ import annotations

import argparse
import math
import random
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from odenet import fields
from odenet.flow import Flow
from odenet.stability.prediction import FACTORS, Failure, measure_failure, predict_failure
from odenet.stability.proofs import exact_nonexpansive, nonexpansive, nonvanishing
from odenet.stability.sensitivity import sensitivity
from odenet.stability.spectrum import spectra
from odenet.stability.unroll import unroll
from odenet.stability.verdict import Evidence, judge

GENERAL = ("euler", "midpoint", "heun", "rk3", "rk4", "ab2", "ab3", "two_step_midpoint", "momentum")
SEPARABLE = ("symplectic_euler", "verlet", "yoshida4", "rk4", "euler")
FIELDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "free": (fields.Free, GENERAL),
    "antisymmetric": (fields.Antisymmetric, GENERAL),
    "parabolic": (fields.Parabolic, GENERAL),
    "hamiltonian": (fields.SeparableHamiltonian, SEPARABLE),
    "hamiltonian_j": (fields.HamiltonianJ, GENERAL),
    "second_order": (fields.SecondOrder, SEPARABLE),
}
MOST = 64  # steps over the whole span
VERDICTS = (1, 4)  # steps per knot interval at which a verdict is asked for


def drawn(seed: int) -> tuple[dict[str, Any], Flow, Tensor]:
    """What was drawn, the flow with one step per knot interval, and three inputs."""
    rng = random.Random(seed)
    kind = rng.choice(sorted(FIELDS))
    make, methods = FIELDS[kind]
    options: dict[str, Any] = {"gain": math.exp(rng.uniform(math.log(0.5), math.log(3.0)))}
    options["activation"] = rng.choice(["tanh", "tanh", "leaky_relu", "softplus"])
    if kind == "antisymmetric":
        options["gamma"] = rng.choice([0.0, 0.05, 0.3])
    about = {"seed": seed, "field": kind, "width": rng.choice([2, 4, 6, 8]), "integrator": rng.choice(methods),
             "knots": rng.choice([1, 2, 3, 4]), "span": math.exp(rng.uniform(0.0, math.log(10.0))),
             "depth": rng.choice(["shared", "per_step", "per_step", "piecewise_linear"]), **options}  # fmt: skip
    flow = Flow(make(about["width"], **options), about["integrator"], depth=about["depth"], steps=about["knots"],
                span=(0.0, about["span"]), seed=seed)  # fmt: skip
    x = torch.randn(3, about["width"], generator=torch.Generator().manual_seed(seed))
    return about, flow, x


def factors(flow: Flow) -> list[int]:
    return [m for m in FACTORS if m * flow.steps <= MOST]


def agree(predicted: Failure, measured: Failure) -> bool:
    """At most one step of the scan apart, or both without a failure."""
    p, m = predicted.h_failure, measured.h_failure
    if math.inf in (p, m):
        return p == m
    return abs(predicted.h.index(p) - predicted.h.index(m)) <= 1


def proofs(flow: Flow, x: Tensor, steps: int) -> dict[str, Any]:
    """The verdict with so many steps per interval, and whether what it calls proved is contradicted."""
    flow = flow.with_integrator(flow.integrator, steps=steps * flow.steps)
    u = unroll(flow, x)
    if u.finite_until < u.depth:
        return {"steps": steps, "standing": "measured", "wrong": False}
    products, contracts, survives = sensitivity(u), nonexpansive(u), nonvanishing(u)
    verdict = judge(Evidence(u, spectra(u), products, contracts, survives, exact_nonexpansive(u)))
    wrong = contracts and max(float(products.backward.max()), float(products.forward.max())) > 1.0 + 1e-9
    wrong |= survives and float(products.backward.min()) < 1.0 - 1e-9
    return {"steps": steps, "standing": verdict.standing, "wrong": bool(wrong), "proved": contracts or survives}


def trial(seed: int) -> dict[str, Any]:
    """One net: predicted and measured h of failure, and its verdicts."""
    about, flow, x = drawn(seed)
    start = time.perf_counter()
    predicted = predict_failure(flow, x, factors(flow))
    between = time.perf_counter()
    measured = measure_failure(flow, x, factors(flow))
    end = time.perf_counter()
    verdicts = [proofs(flow, x, m) for m in VERDICTS]
    for v in verdicts:  # none of them is asked for beyond the scan: 4 knots at most
        where = measured.steps.index(v["steps"])
        v["failed"] = measured.grows[where] or measured.lost[where]
        v["grew"] = measured.grows[where]
    return {**about, "predicted": predicted.h_failure, "measured": measured.h_failure,
            "agree": agree(predicted, measured), "predicted_growth": predicted.h_growth,
            "measured_growth": measured.h_growth, "seconds": [round(between - start, 2), round(end - between, 2)],
            "h": measured.h, "curves": {"predicted": [predicted.growth, predicted.deviation],
                                        "measured": [measured.growth, measured.deviation]},
            "verdicts": verdicts}  # fmt: skip


def counted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Agreement over all nets, and over those that fail somewhere; precision and recall of verdicts."""
    failing = [r for r in rows if math.isfinite(r["measured"])]
    verdicts = [v for r in rows for v in r["verdicts"]]
    said = [v for v in verdicts if v["standing"] == "indicated"]
    failed = [v for v in verdicts if v["failed"]]
    hits = sum(v["failed"] for v in said)
    proved = [v for v in verdicts if v.get("proved")]
    return {"nets": len(rows), "agree": sum(r["agree"] for r in rows) / len(rows),
            "failing": len(failing), "agree where it fails": _share(sum(r["agree"] for r in failing), len(failing)),
            "agree by growth alone": sum(_near(r, "predicted_growth", "measured_growth") for r in rows) / len(rows),
            "verdicts": dict(Counter(v["standing"] for v in verdicts)), "proved": len(proved),
            "proved wrong": sum(v["wrong"] for v in verdicts),
            "indicated precision": _share(hits, len(said)), "indicated recall": _share(hits, len(failed)),
            "indicated precision (growth)": _share(sum(v["grew"] for v in said), len(said)),
            "indicated recall (growth)": _share(sum(v["grew"] for v in said), sum(v["grew"] for v in verdicts)),
            }  # fmt: skip


def _near(row: dict[str, Any], first: str, second: str) -> bool:
    p, m = row[first], row[second]
    return p == m if math.inf in (p, m) else abs(row["h"].index(p) - row["h"].index(m)) <= 1


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def run(seeds: Iterable[int]) -> list[dict[str, Any]]:
    """All nets, one line each."""
    rows = []
    for seed in seeds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row = trial(seed)
        rows.append(row)
        print(f"{seed:5} {row['field']:14} {row['integrator']:18} {row['activation']:10} {row['depth']:16} "
              f"predicted {row['predicted']:8.3g} measured {row['measured']:8.3g} {'' if row['agree'] else 'MISS'} "
              f"{row['seconds']}", flush=True)  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--n", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = run(range(given.first, given.first + given.n))
    found = counted(rows)
    for name, value in found.items():
        print(f"{name:28} {value}")
    from record import save

    slim = [{k: v for k, v in r.items() if k not in ("curves", "h", "verdicts")} for r in rows]
    save("prediction", {"first": given.first, "n": given.n, "found": found, "nets": slim})


if __name__ == "__main__":
    main()
