"""What words of the command line mean: registries, registered names, objects of modules; text for the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from ..errors import BadInput, UnknownName

Kind = Literal["integrators", "nets", "fields", "problems", "pdes", "data", "methods", "pde_methods", "pairs"]
KINDS: tuple[Kind, ...] = ("integrators", "nets", "fields", "problems", "pdes", "data", "methods", "pde_methods")


def registry(kind: str) -> Any:
    """The registry of one kind of names."""
    if kind == "methods":
        from .. import train

        return train.METHODS
    if kind in ("pdes", "pde_methods"):
        from .. import pde

        return pde.PDES if kind == "pdes" else pde.METHODS
    if kind == "problems":
        from types import SimpleNamespace

        from ..fields.testset import IVPS

        return SimpleNamespace(names=lambda: list(IVPS), get=IVPS.__getitem__)
    from importlib import import_module

    return import_module(f"odenet.{kind}")


def named(subject: str) -> Any:
    """What `odenet check SUBJECT` means: a registered name, or an object of a module that can be imported."""
    from ..testing import known

    return imported(subject, "nothing to check") if (entry := known(subject)) is None else entry


def imported(subject: str, nothing: str = "nothing") -> Any:
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


def in_letters_of(text: str) -> str:
    """The text in the letters that the terminal has."""
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "replace").decode(encoding)
