"""Results of a stability suite that nobody ran: every number is drawn by seed, every kind of cell is there."""

from __future__ import annotations

from typing import Any

import numpy as np

from odenet.experiment.suite.results import StabilityResults
from odenet.experiment.suite.spec import Suite

EPS = (0.0, 0.05, 0.1, 0.2, 0.4)
FACTS = {
    "date": "2026-01-01 12:00", "python": "3.11", "system": "Linux x86_64", "cores": 2, "wall_seconds": 1.0,
    "versions": {"odenet": "1"},
}  # fmt: skip
SAYS = {
    True: "Measured stable for these inputs: perturbations grow by a factor of 2 at most (|dy_4/dy_0|).",
    False: "Indicated unstable: every layer lies outside the region of euler. Remedy: reduce h by 2.5 or use rk4.",
}


def results(seeds: int = 5, steps: int = 4) -> StabilityResults:
    """resnet/euler: stable in all seeds; parabolic/euler: unstable in all but one, masked in two, diverged in none;
    mlp: no flow; hamiltonian/verlet failed; 2-D data; resnet also under rk4."""
    draw = np.random.default_rng(0)
    cells: dict[str, Any] = {
        "resnet/euler": _cell(draw, "resnet", "euler", [True] * seeds, steps),
        "resnet/rk4": {"rows": [_row(draw, "resnet", "rk4", s) for s in range(seeds)], "first": {}},
        "parabolic/euler": _cell(draw, "parabolic", "euler", [False] * (seeds - 1) + [True], steps, masked=2),
        "mlp/-": {"rows": [_looked(draw, "mlp", "-", s, True) for s in range(seeds)], "first": {"seed": 0}},
        "hamiltonian/verlet": {"error": "the worker process died 2 times"},
    }
    for row in cells["mlp/-"]["rows"]:
        for key in ("swaps", "steps"):
            row[key] = []
        row["tables"].pop("refinement")
        for key in ("h", "h_stable", "observed_order"):
            row["metrics"].pop(key)
    reported = ["resnet/euler", "parabolic/euler", "mlp/-", "hamiltonian/verlet"]
    return StabilityResults(
        Suite(nets=("resnet", "parabolic", "mlp"), data="moons", seeds=seeds), cells, reported, FACTS, ["A note."]
    )


def _row(draw: np.random.Generator, net: str, integrator: str, seed: int) -> dict[str, Any]:
    swaps = [[t, f, f / 4, draw.uniform(0.5, 1)] for t in ("euler", "rk4") for f in (0.5, 1.0, 2.0)]
    return {
        "net": net, "integrator": integrator, "seed": seed, "lr": 0.01, "span": 1.0, "parameters": 1234,
        "seconds": 0.5, "status": "done", "measure": "accuracy", "accuracy": draw.uniform(0.8, 1), "swaps": swaps,
    }  # fmt: skip


def _looked(draw: np.random.Generator, net: str, integrator: str, seed: int, stable: bool, masked: bool = False) -> Any:
    falling = {a: np.sort(draw.uniform(0, 0.9, len(EPS)))[::-1].tolist() for a in ("noise", "fgsm", "pgd", "square")}
    falling["worst"] = np.min(list(falling.values()), axis=0).tolist()
    attacks = [[e, *(v[i] for v in falling.values()), "robust accuracy"] for i, e in enumerate(EPS)]
    flags = [["plateau", "PGD lowers the margin by 0.1 at best, square by 3"]] if masked else []
    h = [0.25 / 2**k for k in range(4)]
    errors = [0.1 * v * draw.uniform(0.9, 1.1) for v in h]
    metrics = {
        "h": 0.25, "h_stable": 0.1, "sensitivity_max": draw.uniform(1, 20), "sensitivity_min": draw.uniform(0.1, 1),
        "accuracy": 0.9, "observed_order": draw.uniform(0.95, 1.05), "lipschitz_lower": draw.uniform(10, 30),
        "henrici": None if seed == 1 else 0.5,
    }  # fmt: skip
    return {
        **_row(draw, net, integrator, seed),
        "verdict": {
            "sentence": SAYS[stable], "standing": "measured" if stable else "indicated", "stable": stable, "layer": 0,
            "remedy": "" if stable else "reduce h by 2.5 or use rk4",
        },
        "metrics": metrics,
        "tables": {
            "attacks": {"columns": ["eps", *falling, "standing"], "rows": attacks},
            "masking": {"columns": ["flag", "sentence"], "rows": flags},
            "refinement": {
                "columns": ["h", "error", "slope", "difference", "slope_of_differences"],
                "rows": [[a, b, None, None, None] for a, b in zip(h, errors)],
            },
        },
        "steps": [[0.25 * f, draw.uniform(0.5, 1), 1.0 + f, 0.02 * f, f > 1] for f in (0.25, 0.5, 1, 2, 4)],
    }  # fmt: skip


def _cell(
    draw: np.random.Generator, net: str, integrator: str, stable: list[bool], steps: int, masked: int = 0
) -> dict[str, Any]:
    rows = [_looked(draw, net, integrator, s, good, s < masked) for s, good in enumerate(stable)]
    eigenvalues = [
        [n, *draw.normal(-0.5, 0.4, 2).tolist(), int(draw.uniform() < 0.1)] for n in range(steps) for _ in range(20)
    ]
    grid = np.linspace(-1, 1, 9)
    first = {
        "seed": 0,
        "frame": {"integrator": integrator, "box": [-2.4, 0.8, -1.6, 1.6], "coef": None},
        "eigenvalues": eigenvalues,
        "watch": {
            "layers": list(range(steps)),
            "rows": [[1 + 10 * k, *draw.uniform(0.01, 30, steps).tolist()] for k in range(5)],
        },
        "ftle": {
            "first": grid.tolist(), "second": grid.tolist(), "values": np.outer(grid, grid).tolist(),
            "classes": (np.add.outer(grid, grid) > 0).astype(int).tolist(),
            "points": [[*draw.normal(0, 0.5, 2).tolist(), k % 2] for k in range(20)],
        },
    }  # fmt: skip
    return {"rows": rows, "first": first}
