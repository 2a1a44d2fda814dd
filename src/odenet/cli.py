"""The command `odenet`: the same words as in Python. torch is imported by the commands that need it, not by --help."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from .errors import BadInput, NotBuiltYet, OdenetError, UnknownName
from .experiment.spec import Experiment
from .experiment.suite.spec import Suite

HELP = """\
usage: odenet COMMAND ...

Networks as discretised differential equations: swap schemes, compare architectures.

  list KIND          names of integrators, nets, fields, problems, pdes, data, methods; pairs: which integrator
                     admits which net
  show NAME          facts about one of them; of an integrator its coefficients and stability region
  check OBJECT       a plug-in held against its claims: a registered name, or package.module:Object
  compare            train nets under integrators and compare them: table, figures, report
  stability [RUN]    how stable nets are over several seeds, those of a run or those named: verdicts, figures, report
  bench solvers      error of solvers against their work, other libraries' beside ours: table and figures
  report RUN         tables, figures and report.html of a run, written again
  papers             claims of papers with our numbers and verdicts; papers run NAME reproduces one
  pde, resume        are not built in this version

odenet COMMAND --help tells the words of a command.
"""

Kind = Literal["integrators", "nets", "fields", "problems", "pdes", "data", "methods", "pairs"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 where a check failed, or 2 after one sentence on the error stream for bad input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except OdenetError as problem:
        print(f"odenet: {problem}", file=sys.stderr)
    except BrokenPipeError:  # the reader of a pipe, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as problem:
        print(f"odenet: {problem.filename or 'a file'}: {problem.strerror}.", file=sys.stderr)
    except KeyboardInterrupt:
        print("odenet: stopped; what was finished is kept, go on with --resume.", file=sys.stderr)
        return 130
    return 2


def _run(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if given[0] == "--version":
        from . import __version__

        print(f"odenet {__version__}")
        return 0
    name, rest = given[0], given[1:]
    if name in ABSENT:
        raise NotBuiltYet(ABSENT[name])
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, [*COMMANDS, *ABSENT], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(COMMANDS)}."
        raise UnknownName(f"there is no command {name!r}; {hint}")
    return _parsed(name, rest)


def _parsed(name: str, rest: list[str]) -> int:
    """Carry out a command; what tyro cannot parse becomes one sentence."""
    import contextlib
    import io

    import tyro

    command = _compare_from(rest) if name == "compare" else COMMANDS[name]
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            call = tyro.cli(
                _deferred(command),
                args=rest,
                prog=f"odenet {name}",
                description=(command.__doc__ or "").split("\n\n")[0],
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as end:
        if not end.code:
            return 0
        raise BadInput(f"{_sentence(complaints.getvalue())} See odenet {name} --help.") from None
    return call() or 0


def _deferred(command: Callable[..., int | None]) -> Callable[..., Callable[[], int | None]]:
    """The command with its arguments bound: parsing and running are kept apart."""
    import functools

    @functools.wraps(command)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], int | None]:
        return lambda: command(*args, **kwargs)

    return bind


def _sentence(boxed: str) -> str:
    """What tyro says in its box, up to the first rule, and its suggestion, as one line."""
    lines = boxed.splitlines()
    drawn = [line.strip("│ ") for line in lines if line.startswith("│")]
    inside = drawn or [line.strip() for line in lines[2:]]  # without box characters: title, rule, content
    rules = [i for i, line in enumerate(inside) if line and set(line) <= set("─-")]
    said = " ".join(inside[: rules[0] if rules else None]).strip(" .:") or "the words cannot be read"
    said = said.removeprefix("Error parsing experiment: ")
    meant = [inside[i + 1] for i, line in enumerate(inside[:-1]) if line.startswith("Perhaps you meant")]
    return f"{said}; did you mean {meant[0]}?" if meant else f"{said}."


# ------------------------------------------------------------------------------------------------------ commands


def list_(kind: Kind, /) -> None:
    """Names of one kind, one a line; pairs: the matrix of integrators and the nets that they admit."""
    if kind == "pairs":
        from .experiment import pairs

        print(_in_letters_of(pairs.text()))
        return
    for name in _registry(kind).names():
        print(name)


def show(name: str, /, *, figure: Path | None = None) -> None:
    """What is known about an integrator, net, field, problem of the test set, data set or training method.

    Args:
        name: one that odenet list KIND prints.
        figure: Draw the stability region of an integrator into this file (.png, .svg or .pdf).
    """
    found = [(kind, _registry(kind).get(name)) for kind in KINDS if name in _registry(kind).names()]
    if not found:
        near = difflib.get_close_matches(name, sorted({n for kind in KINDS for n in _registry(kind).names()}), n=3)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else "odenet list integrators shows some that are."
        )
        raise UnknownName(f"nothing is called {name!r}; {hint}")
    if figure is not None:
        _draw(dict(found).get("integrators"), name, figure)
    print("\n\n".join(_described(kind, name, entry) for kind, entry in found))
    if figure is not None:
        print(f"\n{figure}")


def check(subject: str, /) -> int:
    """Hold a plug-in against its claims and the contract, and print what was found; the exit status is 1 if it fails.

    Args:
        subject: a registered integrator, field, gradient or depth, or package.module:Object, which is imported.
    """
    from dataclasses import replace

    from .testing import check as of

    report = of(_named(subject))
    if ":" in subject:
        report = replace(report, subject=f"{report.subject.split()[0]} {subject}")
    print(_in_letters_of(report.table()))
    return 0 if report.passed else 1


def _compare_from(rest: Sequence[str]) -> Callable[..., None]:
    """The command `compare` with the values of --config, if given, as its defaults."""
    given = Experiment.read(path) if (path := _value(rest, "--config")) else Experiment()

    def compare(experiment: Experiment = given, *, config: str = "", resume: bool = False) -> None:
        """Train nets under integrators with the same search and the same seeds for all, and compare them.

        Args:
            experiment: what is compared.
            config: A .toml or .json file with these entries; flags win over it.
            resume: Finish the run folder of this very experiment.
        """
        from .experiment.compare import compare as run

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
    from .experiment.inspect import inspect

    return inspect(suite, run)


def bench(
    what: Literal["solvers"],
    /,
    *,
    problems: tuple[str, ...] = ("hires",),
    methods: tuple[str, ...] = ("dopri5", "radau_iia5", "bdf", "rodas4"),
    tolerances: tuple[float, ...] = (1e-3, 1e-5, 1e-7, 1e-9),
    steps: tuple[int, ...] = (100, 400, 1600, 6400),
    repeats: int = 3,
    seconds: float = 20.0,
    name: str = "",
    out: Path = Path("runs"),
) -> int:
    """Work-precision diagrams: error at the last time against evaluations of f and against seconds.

    Args:
        what: solvers.
        problems: Names that odenet list problems prints, or package.module:Object, an InitialValueProblem.
        methods: Integrators, and solvers of other libraries such as torchdiffeq:dopri5 or scipy:Radau.
        tolerances: For methods that control their error.
        steps: Numbers of equal steps, for the other methods.
        repeats: Runs of each; the median of their seconds counts.
        seconds: The most that one run may take.
        name: Name of the run folder; none given: solvers and the time.
        out: Folder of runs.
    """
    from .experiment.bench import bench_solvers
    from .fields.testset import IVPS

    asked = [p if p in IVPS or ":" not in p else _imported(p) for p in problems]
    ended = bench_solvers(asked, methods, tolerances, steps, repeats=repeats, seconds=seconds, name=name, out=out)
    print(_in_letters_of(ended.text))
    return 130 if ended.stopped else 0


def report(run: Path, /) -> None:
    """Tables, figures and report.html of a run, written again from its results."""
    from .experiment.compare import Results

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
    from .experiment import papers as reproductions

    if action == "run":
        return reproductions.run(name, smoke)
    for path in reproductions.write() if write else ():
        print(path)
    if not write:
        print(_in_letters_of(reproductions.table(reproductions.entries())))
    return 0


COMMANDS: dict[str, Callable[..., int | None]] = {
    "list": list_,
    "show": show,
    "check": check,
    "compare": _compare_from(()),
    "stability": stability,
    "bench": bench,
    "papers": papers,
    "report": report,
}
ABSENT = {
    "pde": "PDE problems are not built in this version; this release swaps integrators and compares architectures.",
    "resume": "training runs cannot be resumed in this version; a comparison can: odenet compare --name NAME --resume.",
}
KINDS: tuple[Kind, ...] = ("integrators", "nets", "fields", "problems", "data", "methods")


# --------------------------------------------------------------------------------------------------- what there is


def _registry(kind: str) -> Any:
    if kind == "methods":
        from . import train

        return train.METHODS
    if kind == "problems":
        from types import SimpleNamespace

        from .fields.testset import IVPS

        return SimpleNamespace(names=lambda: list(IVPS), get=IVPS.__getitem__)
    from importlib import import_module

    return import_module(f"odenet.{'pde' if kind == 'pdes' else kind}")


def _named(subject: str) -> Any:
    """What `odenet check SUBJECT` means: a registered name, or an object of a module that can be imported."""
    from .testing import known

    return _imported(subject, "nothing to check") if (entry := known(subject)) is None else entry


def _imported(subject: str, nothing: str = "nothing") -> Any:
    """package.module:Object, looked for in the current folder too; raises UnknownName, BadInput."""
    from importlib import import_module

    module, colon, path = subject.partition(":")
    if module.endswith(".py") or "/" in module:
        stem = Path(module).stem
        raise BadInput(f"{subject!r} names a file; write the module that python imports, such as {stem}:{path or 'X'}.")
    if not colon or not path or not module:
        raise UnknownName(f"{nothing} is called {subject!r}; write a registered name or package.module:Object.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: Any = import_module(module)
        for word in path.split("."):
            found = getattr(found, word)
    except (Exception, SystemExit) as problem:  # whatever a user's module does while it is imported
        first = (str(problem).splitlines() or [""])[0]
        raise BadInput(f"{subject!r} cannot be imported: {type(problem).__name__}: {first.rstrip('.')}.") from None
    return found


def _draw(entry: Any, name: str, path: Path) -> None:
    from .stability import plots

    if entry is None:
        raise BadInput(f"{name!r} is no integrator, so it has no stability region; leave out --figure.")
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise BadInput(f"a figure is a .png, .svg or .pdf file, got {str(path)!r}.")
    plots.stability(entry).savefig(path, dpi=160)


def _in_letters_of(text: str) -> str:
    """The text in the letters that the terminal has."""
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "replace").decode(encoding)


def _described(kind: str, name: str, entry: Any) -> str:
    """`name: value` lines for one entry."""
    if kind == "integrators":
        from .stability.card import card

        return _in_letters_of(card(entry, plain=not (sys.stdout.encoding or "").lower().startswith("utf")))
    if kind == "problems":
        return _in_letters_of(_problem_in_words(entry))
    lines = [f"{name} ({kind.removesuffix('s') if kind != 'data' else 'data set'})"]
    about = (entry.__doc__ or getattr(entry, "when", "") or "").strip()
    lines += [f"  {line.strip()}" for line in about.splitlines()]
    for word in ("when", "cite", "takes", "integrators"):
        value = getattr(entry, word, None)
        if value and isinstance(value, str | tuple):
            lines.append(f"  {word + ':':13}{value if isinstance(value, str) else ', '.join(value)}")
    return "\n".join(lines)


def _problem_in_words(problem: Any) -> str:
    import textwrap

    facts = {
        "what": problem.doc,
        "size": f"{len(problem.y0)} equation{'s' * (len(problem.y0) > 1)}, t from {problem.t0:g} to {problem.t1:g}",
        "stiff": "yes" if problem.stiff else "no",
        "reference": f"y({problem.t1:g}) to about {problem.digits:.0f} digits",
        "cite": problem.cite,
    }
    lines = [f"{problem.name} (problem)"]
    for label, text in facts.items():
        lines += textwrap.wrap(text, 100, initial_indent=f"  {label + ':':13}", subsequent_indent=" " * 15)
    return "\n".join(lines)
