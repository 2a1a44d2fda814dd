"""Which nets are trained and looked at: the units of a suite, or of a run of `odenet compare`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ... import integrators, nets
from ...errors import BadInput, Incompatible
from .. import run as training
from ..spec import Experiment
from ..store import Run
from .spec import Suite

Unit = dict[str, Any]


def of_suite(suite: Suite) -> tuple[list[Unit], list[str]]:
    """The units of a settled suite, and notes. Raises BadInput or UnknownName before anything runs."""
    for name in suite.integrators:
        integrators.get(name)
    experiment = suite.experiment()
    reported: list[Unit] = []
    for word in dict.fromkeys(suite.nets):
        cell = _cell(experiment, word)
        if cell["key"] not in [c["key"] for c in reported]:
            reported.append(cell)
    members = [{"seed": s, "lr": suite.lr, "span": suite.span} for s in range(suite.seeds)]
    return _all(experiment, [{**c, "members": members} for c in reported], suite.integrators)


def _cell(experiment: Experiment, word: str) -> Unit:
    """The unit of net or net/integrator."""
    net, _, scheme = word.partition("/")
    nets.get(net)
    own = training.schemes(net, ())
    if scheme and scheme not in own and len(own) == 1:
        raise BadInput(f"net {net!r} is a scheme itself, so it runs under {own[0]!r} alone; write {net!r}.")
    asked = (scheme or own[0],) if len(own) > 1 else ()
    return training.units(replace(experiment, nets=(net,), integrators=asked))[0][0]


def of_run(found: Run, asked: Suite) -> tuple[Suite, list[Unit], list[str]]:
    """The nets of a run of `odenet compare`, with the learning rate and span that it chose for every seed.

    asked: its integrators, name and place count. Raises BadInput where the run has trained no nets.
    """
    _only_its_own(asked)
    settled = found.experiment.settled()
    finished: Mapping[str, Any] = found.finished()
    cells, _ = training.units(settled)
    reported = []
    for cell in cells:
        rows = finished.get(cell["key"], {}).get("rows", ())
        if cell["task"] == "cell" and rows:
            span = settled.spans[0]
            members = [
                {"seed": r["seed"], "lr": r["lr"], "span": span if r["span"] is None else r["span"]} for r in rows
            ]
            reported.append({**cell, "members": members})
    if not reported:
        raise BadInput(f"the run {found.folder} has finished no nets, so there is nothing to report on.")
    suite = replace(
        asked,
        nets=tuple(c["key"].removesuffix("/-") for c in reported),
        data=settled.data,
        seeds=settled.seeds,
        width=settled.width,
        steps=settled.steps,
        train_steps=settled.train_steps,
        batch=settled.batch,
        lr=settled.lr[0],
        span=settled.spans[0],
    )
    units, notes = _all(settled, reported, suite.integrators)
    again = f"The nets of {found.folder} were trained again, with the learning rate and span it chose for each seed."
    return suite, units, [again, *notes]


def _only_its_own(asked: Suite) -> None:
    plain = Suite().settled() if not asked.quick else replace(Suite(), quick=True).settled()
    for key in ("nets", "data", "seeds", "width", "steps", "span", "lr", "train_steps", "batch"):
        if getattr(asked, key) != getattr(plain, key):
            raise BadInput(f"{key} is that of the run here; leave it out, or leave out the run.")


def _all(experiment: Experiment, reported: list[Unit], extra: Iterable[str]) -> tuple[list[Unit], list[str]]:
    """Every unit that gets a report, and those that are only trained for the matrix of their net."""
    out: list[Unit] = []
    for cell in reported:
        mine = [c for c in reported if c["net"] == cell["net"]]
        known = {c["integrator"] for c in mine}
        more = _others(experiment, cell["net"], [i for i in dict.fromkeys(extra) if i not in known])
        tested = [*(c["integrator"] for c in mine), *(c["integrator"] for c in more)]
        out.append(_unit(cell, tested, True))
        if cell is mine[0]:
            out += [_unit({**c, "members": cell["members"]}, tested, False) for c in more]
    few = max((len(c["members"]) for c in reported), default=0)
    return out, [] if few >= 5 else [f"Intervals are over {few} seed{'s' * (few != 1)}; five or more tell more."]


def _others(experiment: Experiment, net: str, names: list[str]) -> list[Unit]:
    """The net under other integrators, those that it admits."""
    if not names or len(training.schemes(net, ())) == 1:
        return []
    try:
        found, _ = training.units(replace(experiment, nets=(net,), integrators=tuple(names), theory=False, protocol=""))
    except Incompatible:
        return []
    return found


def _unit(cell: Unit, tested: list[str], report: bool) -> Unit:
    seeds = [m["seed"] for m in cell["members"]]
    return {**cell, "task": "stability", "seeds": seeds, "tested": tested, "report": report}
