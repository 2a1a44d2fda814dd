"""The units of work: one net under one integrator with all its seeds, as a function from plain data to plain data.

A unit depends on nothing but its dict: weights, split and batch order come from the seeds in it and arithmetic runs on
one thread, so the result is the same in any process and in any order.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import data as data_sets
from .. import integrators, nets, stability
from ..data import Dataset
from ..errors import BadInput, Incompatible, OdenetError
from ..train import Supervised
from ..train.many import fit_many
from . import theory
from .pairs import admits
from .protocol import matched
from .spec import Experiment
from .theory.case import plain

ALL = ("all",)
NONE = "-"  # the integrator of a net that has none
Unit = dict[str, Any]
Tell = Callable[[float], None]


# ------------------------------------------------------------------------------------------------ what there is to do


def units(experiment: Experiment) -> tuple[list[Unit], list[str]]:
    """Every unit of a settled experiment, in the order of its names, and notes on pairs that were left out.

    Raises BadInput for names, data and pairs that cannot work, before anything runs.
    """
    for name in experiment.integrators if experiment.integrators != ALL else ():
        integrators.get(name)
    sample = load(experiment.data, 0)
    cells: list[Unit] = []
    notes: list[str] = []
    for net in dict.fromkeys(experiment.nets) if experiment.nets != ALL else fitting(sample):
        cells += _of_net(net, experiment, sample, notes)
    if experiment.protocol:
        cells, more = matched(cells, experiment.protocol, experiment.reference, sample, build)
        notes += more
    _check_reference(experiment.reference, [c["key"] for c in cells])
    cases = [{"task": "theory", "key": f"theory/{name}"} for name in theory.CASES] if experiment.theory else []
    return cases + cells, notes


def _of_net(net: str, experiment: Experiment, sample: Dataset, notes: list[str]) -> list[Unit]:
    words = {
        "data": experiment.data,
        "seeds": list(range(experiment.seeds)),
        "width": experiment.width,
        "steps": experiment.steps,
        "lr": list(experiment.lr),
        "spans": list(experiment.spans),
        "train_steps": experiment.train_steps,
        "batch": experiment.batch,
    }
    found: list[Unit] = []
    refusals: list[tuple[str, BadInput]] = []
    for scheme in schemes(net, experiment.integrators):
        unit = {"task": "cell", "key": f"{net}/{scheme}", "net": net, "integrator": scheme, **words}
        try:
            build(unit, sample, 0, experiment.spans[0])
            found.append(unit)
        except BadInput as problem:
            if not isinstance(problem, Incompatible) and experiment.nets != ALL:
                raise
            refusals.append((scheme, problem))
    if not found and experiment.nets != ALL:
        raise refusals[0][1]
    under: dict[str, list[str]] = {}
    for scheme, refusal in refusals:
        under.setdefault(str(refusal), []).append(scheme)
    for sentence, names in under.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        notes.append(f"{net} under {shown} was left out: {sentence}")
    return found


def fitting(data: Dataset) -> list[str]:
    """Every net that takes the inputs of a data set, of a family (resnet20, resnet32, ...) the smallest; without the
    perceptron, which is not trained by gradients."""
    square = data.image is not None and data.image[1] == data.image[2]
    takes = ("vector", "image") if square else ("vector",)
    families: dict[str, str] = {}
    for name in sorted(nets.names(), key=lambda n: (len(n), n)):
        if nets.get(name).takes in takes:  # type: ignore[attr-defined]
            families.setdefault(re.sub(r"\d+$", "#", name), name)
    return sorted(set(families.values()) - {"perceptron"})


def schemes(net: str, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The integrators a net runs under: those asked for, or its own; one that is itself a scheme keeps it.

    "all" asks for every one that admits the net, is explicit and takes fixed steps: others cost hundreds of times more
    and are to be named one by one.
    """
    make = nets.get(net)
    taken = inspect.signature(make).parameters
    if "integrator" not in taken:
        return (NONE,)
    own = tuple(getattr(make, "integrators", ())) or (str(taken["integrator"].default),)
    if asked == ALL and len(own) > 1:
        found = {i: integrators.get(i) for i, why in admits(net).items() if not why}
        return tuple(dict.fromkeys([*own, *(i for i, s in found.items() if not (s.implicit or s.adaptive))]))
    return own if len(own) == 1 or not asked else tuple(dict.fromkeys(asked))


def longest_first(todo: list[Unit]) -> list[Unit]:
    """The same units: one that takes long and is started last would be waited for."""
    return sorted(todo, key=_cost, reverse=True)


def _cost(unit: Unit) -> int:
    if unit["task"] == "theory":
        return 100
    return 0 if unit["integrator"] == NONE else integrators.get(unit["integrator"]).stages


def _check_reference(reference: str, keys: list[str]) -> None:
    if reference and reference not in keys:
        raise BadInput(f"reference {reference!r} is none of the pairs that run; write one of {', '.join(keys)}.")


def load(name: str, seed: int) -> Dataset:
    """A data set by name, or read from a folder (a name with a slash, or of a folder that is there)."""
    if "/" not in name and "\\" not in name and (name in data_sets.names() or not Path(name).is_dir()):
        found = data_sets.load(name, seed=seed)
    else:
        found = _from_folder(Path(name), seed)
    if found.x.dim() not in (2, 3):
        raise BadInput(
            f"compare runs nets on vectors, images and sequences; data set {name!r} has inputs of shape "
            f'{tuple(found.x.shape[1:])}, so use fit for it, or compare on "digits", for instance.'
        )
    return found


def _from_folder(folder: Path, seed: int) -> Dataset:
    if not folder.is_dir():
        raise BadInput(f"there is no data folder {str(folder)!r}; nothing is downloaded, so put the files there first.")
    try:
        cifar = any(folder.glob("*.bin"))
    except OSError as problem:
        raise BadInput(f"the data folder {str(folder)!r} cannot be read: {problem.strerror}.") from None
    read: Any = data_sets.cifar_folder if cifar else data_sets.idx_folder
    return read(folder, seed=seed) if "seed" in inspect.signature(read).parameters else read(folder)


def build(unit: Unit, data: Dataset, seed: int, span: float) -> nn.Module:
    """The untrained net of a unit for one seed."""
    make, words = nets.get(unit["net"]), _shape(unit["net"], data)
    offered: dict[str, Any] = {"span": (0.0, span), "seed": seed}
    offered |= {k: unit[k] for k in ("width", "steps", "integrator")}
    taken = inspect.signature(make).parameters
    if "integrator" not in taken:  # the depth of a baseline is its own: more layers without a skip only hurt it
        offered = {k: v for k, v in offered.items() if k in ("width", "seed")}
    elif getattr(make, "takes", "vector") == "image":  # widths and steps of its blocks are its own
        offered = {k: v for k, v in offered.items() if k in ("integrator", "seed")}
    if len(getattr(make, "integrators", ())) == 1:
        offered.pop("integrator", None)
    several = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    return make(**{**words, **{k: v for k, v in offered.items() if k in taken or several}, **unit.get("own", {})})


def _shape(net: str, data: Dataset) -> dict[str, Any]:
    takes = getattr(nets.get(net), "takes", "vector")
    if takes == "image" and data.image is not None and data.image[1] == data.image[2]:
        return {"channels": data.image[0], "classes": data.dim_out, "size": data.image[1]}
    if data.x.dim() == 3 and takes == "sequence":
        each = {"every_step": True} if data.y.dim() == data.x.dim() - 1 and data.classes else {}
        return {"dim_in": data.dim_in, "dim_out": data.dim_out, **each}
    if data.x.dim() == 3:
        raise BadInput(f"net {net!r} takes a {takes}, but data set {data.name!r} has sequences; leave one of them out.")
    if takes != "vector":
        shape = f"image {data.image}" if data.image else f"vectors of length {data.dim_in}"
        raise BadInput(f"net {net!r} takes a {takes}, but data set {data.name!r} has {shape}; leave one of them out.")
    return {"dim_in": data.dim_in, "dim_out": data.dim_out}


# ------------------------------------------------------------------------------------------------------- doing it


def run(unit: Unit, folder: Path | None = None, tell: Tell = lambda fraction: None) -> dict[str, Any]:
    """Carry out one unit; nets of seed 0 are saved into `folder`. Returns plain data."""
    with same_everywhere():
        if unit["task"] == "stability":
            from .suite.unit import run as look

            return look(unit, folder, tell)
        return theory.run(unit["key"].split("/")[1], tell) if unit["task"] == "theory" else _cell(unit, folder, tell)


@contextmanager
def same_everywhere() -> Iterator[None]:
    """One thread and single precision, whatever this process is set to."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def _cell(unit: Unit, folder: Path | None, tell: Tell) -> dict[str, Any]:
    data = {s: load(unit["data"], s) for s in unit["seeds"]}
    tried = _search(unit, data, tell)
    rows = []
    for seed in unit["seeds"]:
        mine = [t for t in tried if t["seed"] == seed]
        best = max(mine, key=_merit)
        rows.append(_row(unit, best, data[seed]))
        if folder is not None and seed == unit["seeds"][0]:
            nets.save(best["net"], folder / f"{unit['net']}-{unit['integrator'].replace(':', '_')}.safetensors")
    search = [{k: t[k] for k in ("seed", "lr", "span", "val_accuracy", "val_loss", "status")} for t in tried]
    return {"rows": rows, "search": search}


def _search(unit: Unit, data: dict[int, Dataset], tell: Tell) -> list[dict[str, Any]]:
    """Every seed with every learning rate and span, trained and measured on the validation part."""
    spans = unit["spans"] if _spanned(unit) else unit["spans"][:1]
    parts = {s: Supervised((d.x, d.y), (d.x_val, d.y_val)) for s, d in data.items()}
    tried = []
    for n, span in enumerate(spans):
        members = [{"seed": s, "lr": lr, "span": span} for s in unit["seeds"] for lr in unit["lr"]]
        made = [build(unit, data[m["seed"]], m["seed"], span) for m in members]
        fits = fit_many(
            made,
            [parts[m["seed"]] for m in members],
            lr=[m["lr"] for m in members],
            seeds=[m["seed"] for m in members],
            steps=unit["train_steps"],
            batch=unit["batch"],
        )
        for m, net, fit in zip(members, made, fits):
            val = parts[m["seed"]].measure(net, (data[m["seed"]].x_val, data[m["seed"]].y_val))
            sound = fit.status == "done" and math.isfinite(val["loss"])
            tried.append(
                {
                    **m,
                    "net": net,
                    "history": fit.history,
                    "status": fit.status,
                    "val_accuracy": _score(val) if sound else None,
                    "val_loss": val["loss"] if sound else None,
                }
            )
        tell((n + 1) / (len(spans) + 0.3))
    return tried


def _merit(tried: dict[str, Any]) -> tuple[float, float]:
    """Validation score, then validation loss; below every other where training diverged."""
    return (-math.inf, 0.0) if tried["val_accuracy"] is None else (tried["val_accuracy"], -tried["val_loss"])


def _row(unit: Unit, best: dict[str, Any], data: Dataset) -> dict[str, Any]:
    """What is reported of one seed; the only place where the test part is looked at."""
    net = best["net"].eval()
    row = {
        "net": unit["net"],
        "integrator": unit["integrator"],
        "seed": best["seed"],
        "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
        "nfe": net.nfe(data.x_test[:1]) if hasattr(net, "nfe") else 0,
        "seconds": best["history"][-1]["seconds"] if best["history"] else 0.0,
        "lr": best["lr"],
        "span": best["span"] if _spanned(unit) else None,
        "measure": "r2" if data.classes is None else "accuracy",
        "val_accuracy": best["val_accuracy"],
        "history": _thinned([h["loss"] for h in best["history"]]),
    }
    if best["val_accuracy"] is None:
        lost = "training diverged for every learning rate and span searched; use a smaller lr or more steps."
        return {
            **row,
            "accuracy": None,
            "verdict": lost,
            "standing": "measured",
            "stable": False,
            "metrics": {},
        }
    score = _score(Supervised((data.x_test, data.y_test)).measure(net, (data.x_test, data.y_test)))
    return {**row, "accuracy": score, **judge(net, data)}


def _spanned(unit: Unit) -> bool:
    """Whether the net has a span to be searched."""
    taken = inspect.signature(nets.get(unit["net"])).parameters
    several = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    return unit["integrator"] != NONE and ("span" in taken or several)


def _score(measured: dict[str, float]) -> float:
    """The accuracy, or for real targets the share of their variance that is explained."""
    return measured["accuracy"] if "accuracy" in measured else measured["r2"]


def judge(net: nn.Module, data: Dataset, points: int = 4) -> dict[str, Any]:
    """The stability report of a trained net, on validation samples, as plain data."""
    try:
        found = stability.report(net, data.x_val[:64], points=points, quick=True)
    except OdenetError as problem:
        return {"verdict": f"no report: {problem}", "standing": "none", "stable": None, "metrics": {}}
    verdict = found.verdict
    return {
        "verdict": verdict.sentence,
        "standing": verdict.standing,
        "stable": verdict.stable,
        "metrics": plain(found.to_dict()),
    }


def _thinned(values: list[float], most: int = 60) -> list[float | None]:
    stride = max(1, -(-len(values) // most))
    return plain([round(v, 6) for v in values[::stride]])
