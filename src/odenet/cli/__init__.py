"""The command `odenet`: the same words as in Python. torch is imported by the commands that need it, not by --help."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import BadInput, OdenetError, UnknownName
from .commands import COMMANDS, compare_from

HELP = """\
usage: odenet COMMAND ...

Networks as discretised differential equations: swap schemes, compare architectures, solve PDEs.

  list KIND          names of integrators, nets, fields, problems, pdes, data, methods, pde_methods; pairs: which
                     integrator admits which net
  show NAME          facts about one of them; of an integrator its coefficients and stability region
  check OBJECT       a plug-in held against its claims: a registered name, or package.module:Object
  compare            train nets under integrators and compare them: table, figures, report
  stability [RUN]    how stable nets are over several seeds, those of a run or those named: verdicts, figures, report
  trainers           every training method with every integrator and architecture, each pair run or refused: one table
  bench solvers|pde  errors of ODE solvers against their work, other libraries' beside ours; of PDE methods at budgets
  report RUN         tables, figures and report.html of a run, written again
  papers             claims of papers with our numbers and verdicts; papers run NAME reproduces one
  pde NAME           solve a PDE problem: live error and residual, solution, figures
  resume RUN         go on with a PDE run that was cut

odenet COMMAND --help tells the words of a command.
"""


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
        from .. import __version__

        print(f"odenet {__version__}")
        return 0
    name, rest = given[0], given[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(COMMANDS)}."
        raise UnknownName(f"there is no command {name!r}; {hint}")
    return _parsed(name, rest)


def _parsed(name: str, rest: list[str]) -> int:
    """Carry out a command; what tyro cannot parse becomes one sentence."""
    import contextlib
    import io

    import tyro

    command = compare_from(rest) if name == "compare" else COMMANDS[name]
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
