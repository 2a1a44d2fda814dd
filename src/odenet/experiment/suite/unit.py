"""One net under one integrator with all its seeds: trained, watched while it learns, and looked at in every way.

Plain data in, plain data out, on one thread, so that the result is the same in any process. Everything is measured on
the test part: nothing was chosen by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import nets, stability
from ...data import Dataset
from ...errors import BadInput, OdenetError, TrainingStopped
from ...flow import Flow
from ...stability.discretisation import exchange_own, solver_matrix, step_of
from ...stability.prediction import predict_failure
from ...stability.robustness import exchange
from ...stability.tangents import LARGE
from ...stability.training import Watch
from ...stability.twins import is_adaptive, refined
from ...stability.unroll import in_double, row
from ...train import Supervised
from ...train.fit import Fit, fit
from ...train.many import fit_many
from ..run import build, load
from ..theory.case import plain

Unit = dict[str, Any]
Tell = Callable[[float], None]

LOOKS = 12  # at a net while it is trained
STEPS = (0.5, 1.0, 2.0)  # factors of h in the train x test matrix
FINER, COARSER = (0.25, 0.5), 64  # of h for the accuracy against h: two halvings, doublings as far as they go
ATTACKS = (0.05, 0.1, 0.2, 0.4)  # radii relative to the spread of the inputs
POINTS, FEW = 4, 2  # samples at which Jacobians are taken, and where failures are predicted
GRID, COARSE = 81, 41  # points to a side of the FTLE field; of a net whose every run is dear


def run(unit: Unit, folder: Path | None, tell: Tell) -> dict[str, Any]:
    """rows: one dict for each seed; of the first seed eigenvalues, what was seen in training, and the FTLE field.

    unit: net, integrator, data, members (seed, lr, span), tested (integrators), report: whether to look at everything;
    folder: where the net of the first seed and its own report are kept
    """
    members = unit["members"]
    data = {m["seed"]: load(unit["data"], m["seed"]) for m in members}
    made = [build(unit, data[m["seed"]], m["seed"], m["span"]) for m in members]
    watch, fits = _trained(unit, members, made, data)
    tell(0.5)
    rows: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    for i, (m, net, found) in enumerate(zip(members, made, fits)):
        done = found.status == "done"
        kept = {**_plain_facts(unit, m, net, found), "status": found.status, "accuracy": None, "measure": "accuracy"}
        if done:
            kept |= _scored(unit, net.eval(), data[m["seed"]])
        if done and unit["report"]:
            looked, more = _looked(unit, net.eval(), data[m["seed"]], not first, folder)
            kept |= looked
            first = first or {**more, "seed": m["seed"]}
        rows.append(kept)
        tell(0.5 + 0.5 * (i + 1) / len(members))
    return {"rows": rows, "first": {**first, **({} if watch is None else {"watch": watch})}}


# ---- training -------------------------------------------------------------------------------------------------------


def _trained(
    unit: Unit, members: Sequence[dict[str, Any]], made: Sequence[nn.Module], data: dict[int, Dataset]
) -> tuple[dict[str, Any] | None, list[Fit]]:
    """All members; the first is watched where there is a report to write, which makes it train alone."""
    problems = [Supervised((data[m["seed"]].x, data[m["seed"]].y)) for m in members]
    alone = 1 if unit["report"] else 0
    seen, fits = None, []
    if alone:
        seen, found = _watched(unit, members[0], made[0], problems[0], data[members[0]["seed"]])
        fits.append(found)
    if members[alone:]:
        fits += fit_many(
            made[alone:],
            problems[alone:],
            lr=[m["lr"] for m in members[alone:]],
            seeds=[m["seed"] for m in members[alone:]],
            steps=unit["train_steps"],
            batch=unit["batch"],
        )
    return seen, fits


def _watched(
    unit: Unit, member: dict[str, Any], net: nn.Module, problem: Supervised, data: Dataset
) -> tuple[dict[str, Any] | None, Fit]:
    images = data.image is not None and getattr(nets.get(unit["net"]), "takes", "") == "image"
    x = data.x_test[: 2 if images else POINTS]
    watch = Watch(x, every=max(unit["train_steps"] // LOOKS, 1), layers=8 if images else 16)
    words = {"batch": unit["batch"], "schedule": "cosine"}
    try:
        stability.unroll(net, x[:1])
    except OdenetError:  # no row of layers: trained all the same
        return None, _fit(net, problem, unit, member, words)
    found = _fit(net, problem, unit, member, words, [watch])
    table = watch.table()
    return {"layers": [int(c) for c in table.columns[1:]], "rows": plain(table.rows)}, found


def _fit(
    net: nn.Module,
    problem: Supervised,
    unit: Unit,
    member: dict[str, Any],
    words: dict[str, Any],
    callbacks: Sequence[Callable[[Fit], Any]] = (),
) -> Fit:
    try:
        return fit(
            net, problem, "adam", unit["train_steps"], member["lr"], member["seed"], callbacks=callbacks, **words
        )
    except TrainingStopped as stopped:
        return stopped.fit


def _plain_facts(unit: Unit, member: dict[str, Any], net: nn.Module, found: Fit) -> dict[str, Any]:
    return {
        "net": unit["net"],
        "integrator": unit["integrator"],
        "seed": member["seed"],
        "lr": member["lr"],
        "span": member["span"],
        "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
        "seconds": round(found.history[-1]["seconds"], 3) if found.history else 0.0,
    }


# ---- looking --------------------------------------------------------------------------------------------------------


def labels_of(data: Dataset) -> Tensor | None:
    """The test labels where every sample has one, else None."""
    return data.y_test if data.classes is not None and data.y_test.dim() == 1 else None


def _scored(unit: Unit, net: nn.Module, data: Dataset) -> dict[str, Any]:
    """Test accuracy, and under the test integrators with other steps."""
    y = labels_of(data)
    if y is None:
        return {}
    out: dict[str, Any] = {"accuracy": exchange_own(net, data.x_test, y), "tested": len(y), "swaps": []}
    if _has_flow(net):
        table = solver_matrix({unit["integrator"]: net}, data.x_test, y, unit["tested"], STEPS)
        out["swaps"] = [[tested, factor, h, score] for _, tested, factor, h, score, _ in table.rows]
    return out


def _has_flow(net: nn.Module) -> bool:
    return any(isinstance(m, Flow) for m in net.modules())


def _looked(
    unit: Unit, net: nn.Module, data: Dataset, shown: bool, folder: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a report of one trained net has, as plain data, and what is shown of one seed alone."""
    x, y = data.x_test, labels_of(data)
    try:
        found = stability.report(net, x, y, integrators=unit["tested"], attacks=ATTACKS, points=POINTS)
    except OdenetError as problem:
        return {"verdict": {"sentence": f"No report: {problem}", "standing": "none", "stable": None}}, {}
    verdict = found.verdict
    out = {
        "verdict": {k: getattr(verdict, k) for k in ("sentence", "standing", "stable", "layer", "remedy")},
        "metrics": plain(found.to_dict()),
        "tables": {
            k: {"columns": list(t.columns), "rows": plain(t.rows)}
            for k, t in found.tables.items()
            if k in ("refinement", "attacks", "masking", "noise")
        },
        "steps": _against_h(unit, net, data, predict=shown),
    }
    if not shown:
        return out, {}
    first: dict[str, Any] = {}
    if found.frame is not None and "eigenvalues" in found.tables:
        method, box, coef = found.frame
        first["frame"] = {"integrator": method.name, "box": list(box), "coef": _numbers(coef)}
        first["eigenvalues"] = [[r[0], r[2], r[3], r[5]] for r in found.tables["eigenvalues"].rows]
    first |= _field(net, data)
    if folder is not None:
        _keep(unit, net, found, folder)
    return out, first


def _keep(unit: Unit, net: nn.Module, found: stability.Report, folder: Path) -> None:
    """The first seed's weights, and its report with the data of its tables."""
    name = stem(unit["key"])
    (folder / "nets").mkdir(parents=True, exist_ok=True)
    nets.save(net, folder / "nets" / f"{name}.safetensors")
    found.save(folder / name, figures=False)  # the page has them


def stem(key: str) -> str:
    """net-integrator, or the net that has none, as the name of a file."""
    return key.removesuffix("/-").replace("/", "-").replace(":", "_")


def _numbers(coef: Any) -> dict[str, float] | None:
    return None if coef is None else {k: float(v) for k, v in coef.items()}


def _against_h(unit: Unit, net: nn.Module, data: Dataset, predict: bool) -> list[list[Any]]:
    """h, accuracy, and what is expected at that h: growth of perturbations, deviation from the exact solution, and
    whether it fails (None where nothing is expected). The weights are the same throughout."""
    y = labels_of(data)
    if y is None or not _has_flow(net) or is_adaptive(net):
        return []
    factors = [*FINER, *(2.0**k for k in range(int(math.log2(COARSER)) + 1))]
    found = exchange(net, data.x_test, y, [unit["integrator"]], [1 / f for f in factors])
    scores = {f: found[unit["integrator"], 1 / f] for f in factors if (unit["integrator"], 1 / f) in found}
    expected = _expected(net, data.x_test[:FEW], list(scores)) if predict else {}
    return [[f * step_of(net), score, *expected.get(f, [None] * 3)] for f, score in scores.items()]


def _expected(net: nn.Module, x: Tensor, factors: Sequence[float]) -> dict[float, list[Any]]:
    """Factor of h -> growth, deviation, whether either fails, predicted without running these steps."""
    within = [f for f in factors if f <= 1]
    groups = [*([within] if within else []), *([f] for f in factors if f > 1)]
    out: dict[float, list[Any]] = {}
    for group in groups:
        try:
            flow, start = _flow_of(net, x, 1 / max(group))
            found = predict_failure(flow, start, [round(flow.substeps * max(group) / f) for f in group])
        except (OdenetError, NotImplementedError):
            continue
        flags = [bool(g or lost) for g, lost in zip(found.grows, found.lost)]
        for f, growth, deviation, bad in zip(sorted(group, reverse=True), found.growth, found.deviation, flags):
            out[f] = plain([growth, deviation, bad])
    return out


def _flow_of(net: nn.Module, x: Tensor, factor: float) -> tuple[Flow, Tensor]:
    """The one flow of a net with `factor` times its steps, and the states that it starts from."""
    scheme = next(m for m in net.modules() if isinstance(m, Flow)).integrator
    twin, x = in_double(refined(net, scheme, factor), x)
    parts = row(twin)
    where = [i for i, part in enumerate(parts) if isinstance(part, Flow)]
    with torch.no_grad():
        for part in parts[: where[0]] if where else ():
            x = part(x)
    if len(where) != 1 or x[0].numel() > LARGE:
        raise BadInput("a failure is predicted for one flow with a small state.")
    return parts[where[0]], x


def _field(net: nn.Module, data: Dataset) -> dict[str, Any]:
    """The FTLE field and the classes over a box that holds the data, where the data has two dimensions."""
    if data.x.dim() != 2 or data.dim_in != 2:
        return {}
    low, high = data.x_test.amin(0), data.x_test.amax(0)
    margin, side = 0.15 * (high - low), COARSE if is_adaptive(net) else GRID
    a, c = (low - margin).tolist()
    b, d = (high + margin).tolist()
    try:
        grid = stability.ftle_field(net, (a, b, c, d), side)
    except OdenetError:
        return {}
    y, classes, shown = labels_of(data), torch.zeros(side, side, dtype=torch.int64), []
    if y is not None:
        with torch.no_grad():
            x = torch.cartesian_prod(grid.first, grid.second).float()
            classes = net(x).flatten(1).argmax(1).reshape(side, side)
        shown = torch.cat((data.x_test, y[:, None]), 1)[:200].tolist()
    return {
        "ftle": {
            "first": [_short(v) for v in grid.first.tolist()],
            "second": [_short(v) for v in grid.second.tolist()],
            "values": plain([[_short(v) for v in r] for r in grid.values.tolist()]),
            "classes": classes.tolist(),
            "points": [[_short(v) for v in p] for p in shown],
        }
    }


def _short(v: float) -> float:
    return float(f"{v:.5g}")
