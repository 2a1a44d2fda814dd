"""Named entries of one kind: register, look up, list; third-party packages join by entry point.

A registry checks an entry once, when it is registered (`check`), refuses a name that is taken, and answers an
unknown name with the nearest known one. Entry points of the group (for integrators `odenet.integrators`) are
loaded the first time a name is missed or the names are listed; one that fails to load is skipped with a warning.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from .errors import BadInput, UnknownName

T = TypeVar("T")

_NAME = re.compile(r"[a-z][a-z0-9_]*(:[A-Za-z0-9_]+)?")


class Registry(Generic[T]):
    """Entries of one kind under lower-case names.

    kind:   the noun of messages ("integrator")
    group:  entry-point group ("odenet.integrators")
    check:  turns what a user registers into the stored entry, or raises; called as check(name, obj)
    """

    def __init__(
        self,
        kind: str,
        group: str,
        check: Callable[[str, Any], T] | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self._check = check
        self._entries: dict[str, T] = {}
        self._shelf: dict[str, Any] = {}
        self._families: dict[str, tuple[Callable[[], Iterable[str]], Callable[[str], T]]] = {}
        self._loaded = False

    def register(self, name: str, obj: Any) -> T:
        """Store `obj` under `name`. Raises BadInput for a malformed or taken name, and whatever `check` raises."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadInput(
                f"{self.kind} name {name!r} is not usable: names are lower case letters, digits and underscores, "
                'starting with a letter, such as "my_method".'
            )
        if name in self._entries or name in self._shelf or name.split(":")[0] in self._families:
            raise BadInput(f"{self.kind} {name!r} is registered already; choose another name.")
        entry = self._check(name, obj) if self._check else obj
        self._entries[name] = entry
        return entry

    def shelve(self, entries: Mapping[str, Any]) -> None:
        """Entries that are checked when they are first asked for, so that importing a large library costs nothing.

        Raises BadInput for a name that is there already.
        """
        if twice := sorted(entries.keys() & (self._shelf.keys() | self._entries.keys())):
            raise BadInput(f"{self.kind} {twice[0]!r} is registered already; choose another name.")
        self._shelf.update(entries)

    def family(self, prefix: str, names: Callable[[], Iterable[str]], make: Callable[[str], T]) -> None:
        """Entries `prefix:x` that exist elsewhere: `names()` lists the x, `make(x)` builds one on demand."""
        self._families[prefix] = (names, make)

    def get(self, name: str) -> T:
        """The entry called `name`; raises UnknownName with the nearest names."""
        if isinstance(name, str):
            if name not in self._entries and name in self._shelf:
                self._entries[name] = self._check(name, self._shelf[name]) if self._check else self._shelf[name]
            if name not in self._entries and ":" in name:
                prefix, member = name.split(":", 1)
                if prefix in self._families and member in set(self._families[prefix][0]()):
                    self._entries[name] = self._families[prefix][1](member)
            if name not in self._entries:
                self._load()
            if name in self._entries:
                return self._entries[name]
        near = difflib.get_close_matches(str(name), self.names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {', '.join(self.names())}."
        raise UnknownName(f"no {self.kind} is called {name!r}; {hint}")

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        members = {f"{p}:{m}" for p, (listed, _) in self._families.items() for m in listed()}
        return sorted(set(self._entries) | set(self._shelf) | members)

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self.names()

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for point in entry_points(group=self.group):
            try:
                if point.name not in self._entries and point.name not in self._shelf:
                    found = point.load()
                    if point.name not in self._entries:  # a module may register its parts when it is imported
                        self.register(point.name, found)
            except Exception as problem:  # a broken third-party package must not take the others down
                warnings.warn(
                    f"{self.kind} {point.name!r} of entry point {point.value!r} was skipped: {problem}",
                    stacklevel=3,
                )
