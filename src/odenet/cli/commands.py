"""The commands; each imports what it needs when it runs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ..errors import UnknownName
from ..experiment.spec import Experiment
from ..experiment.suite.spec import Suite
from .names import KINDS, Kind, imported, in_letters_of, named, registry


def list_(kind: Kind, /) -> None:
    """Names of one kind, one a line; pairs: the matrix of integrators and the nets that they admit."""
    if kind == "pairs":
        from ..experiment import pairs

        print(in_letters_of(pairs.text()))
        return
    for name in registry(kind).names():
        print(name)


def show(name: str, /, *, figure: Path | None = None) -> None:
    """What is known about an integrator, net, field, problem of the test set, PDE problem, data set or method.

    Args:
        name: one that odenet list KIND prints.
        figure: Draw the stability region of an integrator into this file (.png, .svg or .pdf).
    """
    from ..experiment.describe import described, draw

    found = [(kind, registry(kind).get(name)) for kind in KINDS if name in registry(kind).names()]
    if not found:
        near = difflib.get_close_matches(name, sorted({n for kind in KINDS for n in registry(kind).names()}), n=3)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else "odenet list integrators shows some that are."
        )
        raise UnknownName(f"nothing is called {name!r}; {hint}")
    if figure is not None:
        draw(dict(found).get("integrators"), name, figure)
    print(in_letters_of("\n\n".join(described(kind, name, entry) for kind, entry in found)))
    if figure is not None:
        print(f"\n{figure}")


def check(subject: str, /) -> int:
    """Hold a plug-in against its claims and the contract, and print what was found; the exit status is 1 if it fails.

    Args:
        subject: a registered integrator, field, gradient or depth, or package.module:Object, which is imported.
    """
    from dataclasses import replace

    from ..testing import check as of

    report = of(named(subject))
    if ":" in subject:
        report = replace(report, subject=f"{report.subject.split()[0]} {subject}")
    print(in_letters_of(report.table()))
    return 0 if report.passed else 1


def compare_from(rest: Sequence[str]) -> Callable[..., None]:
    """The command `compare` with the values of --config, if given, as its defaults."""
    given = Experiment.read(path) if (path := _value(rest, "--config")) else Experiment()

    def compare(experiment: Experiment = given, *, config: str = "", resume: bool = False) -> None:
        """Train nets under integrators with the same search and the same seeds for all, and compare them.

        Args:
            experiment: what is compared.
            config: A .toml or .json file with these entries; flags win over it.
            resume: Finish the run folder of this very experiment.
        """
        from ..experiment.compare import compare as run

        results = run(experiment, resume=resume)
        results.table()
        assert results.folder is not None
        results.save(results.folder)
        print(f"\n{results.folder / 'report.html'}")

    return compare


def _value(words: Sequence[str], flag: str) -> str:
    """The value of --flag VALUE or --flag=VALUE; "" if absent."""
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(flag + "="):
            return word.removeprefix(flag + "=")
    return ""


def stability(run: Path | None = None, /, *, suite: Suite = Suite()) -> int:  # noqa: B008 (it is frozen)
    """Train nets with several seeds and find out how stable they are and why: verdicts, intervals, figures, one page.

    Args:
        run: A folder of odenet compare: its nets, data, seeds, learning rates and spans. The page is RUN/stability.
    """
    from ..experiment.inspect import inspect

    return inspect(suite, run)


def trainers(
    *,
    methods: tuple[str, ...] = ("all",),
    nets: tuple[str, ...] = ("resnet", "antisymmetric", "hamiltonian", "second_order"),
    integrators: tuple[str, ...] = (
        "euler",
        "heun",
        "rk4",
        "ab2",
        "leapfrog",
        "verlet",
        "implicit_midpoint",
        "dopri5",
    ),
    data: tuple[str, ...] = ("moons",),
    steps: int = 4,
    width: int = 8,
    layers: int = 4,
    lr: float = 1e-2,
    seeds: tuple[int, ...] = (0,),
    name: str = "",
    out: Path = Path("runs"),
) -> int:
    """Train every net under every integrator with every method for a few steps: each cell runs or says why not.

    The exit status is 1 if a cell ended in an exception that is none of the library's own.

    Args:
        methods: Names that odenet list methods prints; all: every one.
        nets: Names that odenet list nets prints; all: every one that takes the data.
        integrators: Names that odenet list integrators prints; all: every one of this library; -: the net's own.
        data: Names of data sets, or folders.
        steps: Steps of training.
        width: Width of the state.
        layers: Steps over the depth, each with weights of its own.
        lr: Learning rate, of the methods that have one.
        seeds: Of data, initial weights and whatever else is drawn.
        name: Name of the run folder; none given: trainers and the time.
        out: Folder of runs.
    """
    from ..experiment import trainers as training

    shared = training.Training(steps=steps, width=width, layers=layers, lr=lr)
    found = training.trainers(
        out, name, methods=methods, nets=nets, integrators=integrators, data=data, seeds=seeds, training=shared
    )
    print(in_letters_of(found.text()))
    return int(any(cell.status == "error" for cell in found.cells))


def bench(
    what: Literal["solvers", "pde"],
    /,
    *,
    problems: tuple[str, ...] = ("all",),
    methods: tuple[str, ...] = (),
    tolerances: tuple[float, ...] = (1e-3, 1e-5, 1e-7, 1e-9),
    steps: tuple[int, ...] = (100, 400, 1600, 6400),
    repeats: int = 3,
    seconds: float = 20.0,
    seeds: int = 3,
    share: float = 1.0,
    peers: bool = False,
    workers: int = 1,
    resume: bool = False,
    name: str = "",
    out: Path = Path("runs"),
) -> int:
    """Errors of ODE solvers against their work, or of PDE methods at the budgets of the table.

    Args:
        what: solvers: work-precision diagrams of one or more problems. pde: the table of PDE problems and targets.
        problems: Names that odenet list problems or list pdes prints, or package.module:Object, an InitialValueProblem;
            all: the whole table of PDE problems, and hires among the others.
        methods: Integrators and solvers of other libraries such as torchdiffeq:dopri5 or scipy:Radau; of the table
            random_features, trained and deep_bsde.
        tolerances: For methods that control their error.
        steps: Numbers of equal steps, for the other methods.
        repeats: Runs of each; the median of their seconds counts.
        seconds: The most that one run may take.
        seeds: Of the table: solves of each task.
        share: Of the table's budgets, to see a part of the work.
        peers: Of the table: DeepXDE beside, where it is installed or ODENET_DEEPXDE_PATH names its folder.
        workers: Of the table: processes, each with one thread.
        resume: Of the table: solve what the run folder does not hold yet.
        name: Name of the run folder; none given: what is measured and the time.
        out: Folder of runs.
    """
    if what == "pde":
        from ..experiment.bench_pde import bench_pde

        tasks = () if problems == ("all",) else problems
        done = bench_pde(
            tasks, methods, seeds=seeds, share=share, peers=peers, workers=workers, resume=resume, name=name, out=out
        )
        print(in_letters_of(done.text))
        return 130 if done.stopped else 0
    from ..experiment.bench import bench_solvers
    from ..fields.testset import IVPS

    named = ("hires",) if problems == ("all",) else problems
    asked = [p if p in IVPS or ":" not in p else imported(p) for p in named]
    methods = methods or ("dopri5", "radau_iia5", "bdf", "rodas4")
    ended = bench_solvers(asked, methods, tolerances, steps, repeats=repeats, seconds=seconds, name=name, out=out)
    print(in_letters_of(ended.text))
    return 130 if ended.stopped else 0


def report(run: Path, /) -> None:
    """Tables, figures and report.html of a run, written again from its results."""
    from ..experiment.compare import Results

    results = Results.read(run)
    results.table()
    results.save(run)
    print(f"\n{run / 'report.html'}")


def papers(
    action: Literal["list", "run"] = "list", name: str = "", /, *, smoke: bool = False, write: bool = False
) -> int:
    """Claims of papers, what they come to here, and the verdict by a stated rule; or reproduce one of the papers.

    Args:
        action: list, or run NAME.
        name: The folder in papers/ of the one to run.
        smoke: Run in some seconds, in a small way that judges nothing; without it result.json is written anew.
        write: Write the pages in papers/ anew from the results.
    """
    from ..experiment import papers as reproductions

    if action == "run":
        return reproductions.run(name, smoke)
    for path in reproductions.write() if write else ():
        print(path)
    if not write:
        print(in_letters_of(reproductions.table(reproductions.entries())))
    return 0


def pde(
    name: str,
    /,
    *,
    method: str = "auto",
    seconds: float = 60.0,
    seed: int = 0,
    set: tuple[str, ...] = (),
    problem: tuple[str, ...] = (),
    out: Path = Path("runs"),
    run: str = "",
) -> int:
    """Solve a PDE problem of the library, or one of your own, and say how accurate the solution is.

    Args:
        name: One that odenet list pdes prints, or package.module:Object, a Problem or a function that returns one.
        method: auto, or a name that odenet list pde_methods prints.
        seconds: Budget of wall-clock time.
        seed: Of points, weights and everything else that is drawn.
        set: Options of the method, as width=32 points=4000.
        problem: Parameters of the problem, as nu=0.001.
        out: Folder of runs.
        run: Name of the run folder; none given: the problem and the time.
    """
    from ..experiment import pde as solving

    own = imported(name) if ":" in name else None
    return solving.run(name, own, method, seconds, seed, set, problem, out, run, in_letters_of)


def resume(run: Path, /, *, seconds: float = 0.0) -> int:
    """Go on with a PDE run from its last checkpoint, bit-identically.

    Args:
        run: Its folder.
        seconds: Another budget, over all; 0: what is left of the first one.
    """
    from ..experiment import pde as solving

    return solving.resume(run, seconds, in_letters_of)


COMMANDS: dict[str, Callable[..., int | None]] = {
    "list": list_,
    "show": show,
    "check": check,
    "compare": compare_from(()),
    "stability": stability,
    "trainers": trainers,
    "bench": bench,
    "papers": papers,
    "pde": pde,
    "report": report,
    "resume": resume,
}
