"""The surface: names, cheap import, documentation, size of files, and classes that are abstract or final."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import textwrap
from abc import ABC
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import nn

import odenet as on

ROOT = Path(on.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MODULES = sorted(
    m.name for m in pkgutil.walk_packages([str(ROOT)], "odenet.") if not m.name.endswith(("__main__", ".worker"))
)
HOOKS = {"forward", "extra_repr", "train", "setup_context", "backward", "jvp"}  # nn.Module's and autograd's own


def test_the_names_are_few_sorted_and_there() -> None:
    assert list(on.__all__) == sorted(on.__all__, key=str.lower) and len(set(on.__all__)) == len(on.__all__) <= 35
    for name in on.__all__:
        assert getattr(on, name) is not None
    assert set(on.__all__) <= set(dir(on)) and on.__version__
    with pytest.raises(AttributeError, match="module 'odenet' has no attribute 'Flwo'"):
        _ = on.Flwo


def test_the_names_of_the_contract_are_public() -> None:
    packages = {"integrators", "fields", "depth", "nets", "stability", "pde", "data"}
    actions = {"solve", "odeint", "odeint_adjoint", "odeint_event", "odeint_dense", "fit", "calibrate", "compare"}
    assert packages | actions | {"Flow", "Tableau", "Problem", "save", "load"} <= set(on.__all__)


def test_type_checkers_see_the_names_that_users_get() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (guarded,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    names = {a.asname or a.name for n in guarded.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert names == set(on.__all__)


@pytest.mark.parametrize(("code", "absent"), [
    ("import odenet", ("torch", "numpy", "scipy", "matplotlib", "sklearn", "torchdiffeq", "rich", "safetensors")),
    ("import odenet as on; on.nets, on.fit, on.stability, on.experiment, on.compare",
     ("matplotlib", "sklearn", "scipy.stats", "scipy.integrate", "torchdiffeq", "pandas", "rich")),
    ("import odenet as on; on.Flow(on.fields.Free(3), 'rk4', steps=2)", ("matplotlib", "sklearn", "torchdiffeq")),
])  # fmt: skip
def test_an_import_loads_no_more_than_it_needs(code: str, absent: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*(m for m in {absent!r} if m in sys.modules))"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []


def test_every_file_has_a_docstring_and_at_most_400_lines() -> None:
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}
    assert [name for name, text in texts.items() if len(text.splitlines()) > 400] == []
    assert [name for name, text in texts.items() if not ast.get_docstring(ast.parse(text))] == []


def test_public_functions_and_classes_have_a_docstring() -> None:
    kinds = (ast.FunctionDef, ast.ClassDef)
    bare = [
        f"{path.relative_to(ROOT)}: {n.name}" for path in FILES for n in ast.parse(path.read_text()).body
        if isinstance(n, kinds) and n.name[0] != "_" and not ast.get_docstring(n)
    ]  # fmt: skip
    assert bare == []


def modules() -> list[ModuleType]:
    return [importlib.import_module(name) for name in MODULES]


def classes() -> list[type]:
    """Every class defined in odenet."""
    found = {
        c for m in modules() for _, c in inspect.getmembers(m, inspect.isclass) if c.__module__.startswith("odenet.")
    }
    return sorted(found, key=lambda c: (c.__module__, c.__qualname__))


@pytest.mark.parametrize("name", [n for n in MODULES if importlib.import_module(n).__dict__.get("__all__")])
def test_a_package_lists_names_that_it_has_sorted(name: str) -> None:
    module = importlib.import_module(name)
    assert all(hasattr(module, n) for n in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


def does_nothing(function: Any) -> bool:
    """A default that only returns its argument, a constant, or nothing: a place for a subclass to say more."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    body = [s for s in tree.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    return not body or (
        len(body) == 1
        and (isinstance(body[0], ast.Pass) or (isinstance(body[0], ast.Return)
             and (body[0].value is None or isinstance(body[0].value, ast.Name | ast.Constant))))
    )  # fmt: skip


def overridden() -> list[str]:
    """Concrete methods of odenet's classes that a subclass replaces."""
    out = []
    for c in classes():
        for base in c.__mro__[1:]:
            if not base.__module__.startswith("odenet."):
                continue
            for name, old in vars(base).items():
                function = old.fget if isinstance(old, property) else getattr(old, "__func__", old)
                if name not in vars(c) or name.startswith("__") or name in HOOKS or not inspect.isfunction(function):
                    continue
                if not getattr(function, "__isabstractmethod__", False) and not does_nothing(function):
                    out.append(f"{c.__qualname__}.{name} replaces {base.__qualname__}.{name}")
    return sorted(set(out))


def test_no_concrete_method_is_replaced_by_a_subclass() -> None:
    assert overridden() == []


def test_a_class_with_subclasses_is_abstract() -> None:
    own = [c for c in classes() if not issubclass(c, BaseException) and not getattr(c, "_is_protocol", False)]
    parents = {b for c in own for b in c.__bases__ if b.__module__.startswith("odenet.")}
    concrete = [b.__qualname__ for b in parents if not inspect.isabstract(b) and ABC not in b.__bases__]
    assert sorted(concrete) == []


def test_what_is_registered_can_be_shown() -> None:
    for name in on.nets.names():
        assert on.nets.get(name).__doc__
    for name in on.fields.names():
        assert on.fields.get(name).__doc__ and (
            inspect.isfunction(on.fields.get(name)) or issubclass(on.fields.get(name), nn.Module)
        )
