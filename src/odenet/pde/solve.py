"""`solve`: a problem, a method, a budget."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import BadInput, Incompatible
from .expressions import leaves
from .methods import METHODS, Run, bsde, make
from .methods.base import Progress
from .semilinear import Semilinear
from .solution import Solution
from .statement import Problem

DOUBT = 1e-2  # held-out residual above which the automatic choice gives another method the rest of the time


def solve(
    problem: Problem | Semilinear | str,
    method: str = "auto",
    seconds: float = 60.0,
    seed: int = 0,
    model: nn.Module | None = None,
    *,
    progress: Progress | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    track: bool = True,
    **options: Any,
) -> Solution:
    """Solve a PDE problem.

    problem:  a `Problem`, a `Semilinear` (its solution is a value with its error), or the name of one of the library
    method:   a name of `odenet list pde_methods`; "auto" takes the one that suits, gives a trained net the second half
              of the time where that one does not trust itself, and says why in `sol.message`
    seconds:  budget of wall-clock time; evaluations against the truth are not counted
    model:    any module from (N, d) to (N, m) whose operations carry derivative channels, in float64
    progress: called with every row of the history; returns True to stop early
    folder:   where checkpoints go; resume: go on from there, bit-identically
    track:    whether the history holds the held-out residual and, where there is a truth, rel_l2
    options:  of the method, such as width, points, sampling

    Raises BadInput for unknown names and options, Incompatible for a problem that the method cannot solve.
    """
    from . import get

    problem = get(problem) if isinstance(problem, str) else problem
    if not isinstance(problem, Problem | Semilinear):
        raise BadInput(f"pde.solve takes a Problem or the name of one; got {type(problem).__name__}.")
    if not seconds > 0:
        raise BadInput(f"seconds is a positive budget, got {seconds!r}.")
    words: dict[str, Any] = {"seconds": seconds, "model": model, "progress": progress, "track": track}
    if resume:
        if folder is None:
            raise BadInput("resume=True needs the folder of the checkpoint.")
        run = Run.resume(folder, **words)
        return _by(problem, run.method if method == "auto" else method, run, options)
    run = Run(seed=seed, folder=None if folder is None else Path(folder), **words)
    if method != "auto":
        return _by(problem, method, run, options)
    name, why = chosen(problem, model)
    again = name == "random_features" and not options
    run.seconds = seconds / 2 if again else seconds
    first = _by(problem, name, run, options)
    first.message = f"{why} {first.message}".rstrip()
    return _doubted(problem, first, run, seconds) if again and not run.stopped else first


def _by(problem: Problem | Semilinear, method: str, run: Run, options: Mapping[str, Any]) -> Solution:
    """The solution by one method. Raises BadInput and Incompatible as `solve` does."""
    maker = make(method, options)
    if isinstance(problem, Semilinear) and method != "deep_bsde":
        raise Incompatible(f"the method {method!r} needs a domain; a Semilinear problem is solved by 'deep_bsde'.")
    if reason := maker.suits(problem):  # type: ignore[arg-type]
        raise Incompatible(f"the method {method!r} cannot solve {problem.name or 'this problem'}: {reason}")
    run.method = method
    solution = maker.solve(problem, run)  # type: ignore[arg-type]
    solution.method, solution.settings = method, {**solution.settings, "options": dict(options)}
    return solution


def _doubted(problem: Problem | Semilinear, first: Solution, run: Run, seconds: float) -> Solution:
    """`first`, or what a trained net gives in the rest of the time where `first` does not trust itself."""
    doubt = math.inf if math.isnan(first.residual) else first.residual
    if first.status not in ("suspect", "stalled") and doubt < DOUBT:
        return first
    assert isinstance(problem, Problem)
    name, used = trained_method(problem), run.used
    rest = Run(seconds=seconds, seed=run.seed, progress=run.progress, folder=run.folder, track=run.track, spent=used)
    second = _by(problem, name, rest, {})
    kept = second if second.residual < doubt else first
    kept.seconds = rest.used
    kept.message = (
        f"{first.method} ended {first.status!r} with a held-out residual of {doubt:.2g}, so {name} took the rest of "
        f"the time and reached {second.residual:.2g}; the better one is kept. {kept.message}"
    ).rstrip()
    return kept


def chosen(problem: Problem | Semilinear, model: nn.Module | None) -> tuple[str, str]:
    """The method that suits, and one sentence why."""
    if isinstance(problem, Semilinear):
        name = "deep_bsde"
    elif model is None and "random_features" in METHODS and make("random_features", {}).suits(problem) is None:
        name = "random_features"
    else:
        name = trained_method(problem)
    return name, f"{name}: {METHODS.get(name).when}"  # type: ignore[attr-defined]


def trained_method(problem: Problem) -> str:
    """The method among those that train a net: windows in time where nothing damps what is carried on, else one net."""
    if not problem.evolves or problem.inverse:
        return "gauss_newton"
    found = leaves([e for _, es in problem.traced for e in es])
    damped = any(sum(leaf.index[:-1]) == 2 and leaf.index[-1] == 0 for leaf in found)
    fourth = any(sum(leaf.index[:-1]) > 2 for leaf in found)
    waves = any(k > 1 for k in problem.time_order.values()) or len(problem.unknowns) > 1
    return "gauss_newton" if damped and not fourth and not waves else "time_marching"


def load(folder: str | Path, problem: Problem | None = None, model: nn.Module | None = None) -> Solution:
    """A saved solution. problem: needed where it is not one of the library; model: where one was given to `solve`.

    Raises BadInput where the folder holds none, or the problem is needed.
    """
    from safetensors.torch import load_file

    from . import get

    where = Path(folder)
    if not (where / "solution.json").exists():
        raise BadInput(f"there is no saved solution in {where}: solution.json is missing.")
    facts = json.loads((where / "solution.json").read_text())
    tensors = load_file(where / "solution.safetensors")
    if problem is None:
        arguments: Mapping[str, Any] = facts["problem"]
        if not arguments.get("name"):
            raise BadInput("this solution is of a problem of your own: pde.load(folder, problem=...).")
        problem = get(**arguments)
    if isinstance(problem, Semilinear):
        return bsde.restored(problem, tensors, facts)  # type: ignore[return-value]
    run = Run(seed=facts["seed"], model=model)
    covariance = tensors.pop("covariance", None)
    field = make(facts["method"], facts["settings"].get("options", {})).restore(problem, tensors, run)
    kept = {
        k: facts[k] for k in ("method", "seed", "seconds", "status", "message", "history", "parameters", "settings")
    }
    return Solution(problem, field=field, covariance=covariance, **kept)
