"""Who may import whom, read from the import statements, those inside functions included."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import odenet

ROOT = Path(odenet.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FLOOR = {
    **dict.fromkeys(("errors", "registry", "types", "rational", "problem"), 0),
    **dict.fromkeys(("integrators", "fields", "depth", "data"), 1),
    **dict.fromkeys(("flow", "optimise"), 2),
    "nets": 3,
    **dict.fromkeys(("train", "stability", "pde"), 4),
    **dict.fromkeys(("experiment", "testing"), 5),
    "cli": 6,
    "__main__": 7,
}
COMPUTED = {"__init__.py", "names.py"}  # names on first use; registries and modules that the user names
FORBIDDEN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def package(path: Path) -> str:
    """The first name below odenet: a package or a module of the ground floor; "" for odenet itself."""
    first = path.relative_to(ROOT).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def dotted(node: ast.AST) -> str:
    """The name a.b.c; "" for what is none."""
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return left and f"{left}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def for_type_checkers(tree: ast.Module) -> set[ast.AST]:
    """Nodes below `if TYPE_CHECKING:`, which never run."""
    guarded = [n for n in ast.walk(tree) if isinstance(n, ast.If) and dotted(n.test).endswith("TYPE_CHECKING")]
    return {inner for n in guarded for statement in n.body for inner in ast.walk(statement)}


def imports(path: Path, source: str | None = None) -> list[tuple[int, str]]:
    """(line, absolute dotted name) of every import that can run; `from . import a` gives the module a."""
    tree = ast.parse(path.read_text() if source is None else source)
    skipped = for_type_checkers(tree)
    here = ("odenet", *path.relative_to(ROOT).parts[:-1])
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) + 1 - node.level]) if node.level else ""
            whole = ".".join(p for p in (base, node.module or "") if p)
            found += [(node.lineno, f"{whole}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in ("import_module", "__import__"):
            found.append((node.lineno, "<dynamic>"))
    return found


def violations(path: Path, source: str | None = None) -> list[str]:
    """Sentences about what this file imports and may not."""
    out, mine = [], package(path)
    inner = path.relative_to(ROOT)
    for line, name in imports(path, source):
        parts, where = name.split("."), f"{inner}:{line} imports {name}"
        if name == "<dynamic>" and path.name not in COMPUTED:
            out.append(f"{inner}:{line} imports by a computed name")
        if parts[0] == "odenet" and mine and len(parts) > 1 and parts[1] != mine:
            if parts[1] not in FLOOR and parts[1] != "__version__":
                out.append(f"{where}, which has no floor")
            elif parts[1] in FLOOR and FLOOR[parts[1]] >= FLOOR[mine] > 0:
                out.append(f"{where} of floor {FLOOR[parts[1]]} from floor {FLOOR[mine]}")
            elif (mine, parts[1]) == ("pde", "nets"):
                out.append(f"{where}: a model of a PDE is any module with jets")
        if parts[0] == "matplotlib" and path.name != "plots.py":
            out.append(f"{where} outside plots.py")
        if (
            parts[0] == "torchdiffeq" or name.startswith("scipy.integrate")
        ) and inner.as_posix() != "integrators/external.py":
            out.append(f"{where} outside integrators/external.py")
        if parts[0] == "ray" and inner.parts[0] != "experiment":
            out.append(f"{where} outside experiment")
        if parts[0] in FORBIDDEN:
            out.append(f"{where}, which runs what a file says")
    return out


def test_every_file_imports_only_from_lower_floors() -> None:
    assert [sentence for path in FILES for sentence in violations(path)] == []


def test_every_package_has_a_floor() -> None:
    assert {package(p) for p in FILES} - {""} <= set(FLOOR)


@pytest.mark.parametrize("path", [p for p in FILES if FLOOR.get(package(p)) == 0], ids=lambda p: p.name)
def test_the_ground_floor_knows_the_standard_library_and_torch_only(path: Path) -> None:
    strange = {n.split(".")[0] for _, n in imports(path)} - set(sys.stdlib_module_names) - {"torch", "odenet"}
    assert not strange
    assert all(
        n.split(".")[1] in FLOOR and FLOOR[n.split(".")[1]] == 0 for _, n in imports(path) if n.startswith("odenet.")
    )


RUNS_TEXT = {"eval", "exec", "compile", "builtins.eval", "builtins.exec", "os.system"}
READS_PICKLES = {"torch.load", "torch.save", "np.load", "numpy.load"}


def running_text(source: str) -> list[str]:
    """Where a text, a pickle or a shell is run; torch.load and builtins.eval may not even be passed on."""
    bad = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and dotted(node.func) in RUNS_TEXT | READS_PICKLES:
            bad.append(f"line {node.lineno}: {dotted(node.func)}")
        if isinstance(node, ast.Call):
            bad += [f"line {node.lineno}: shell=True" for k in node.keywords if k.arg == "shell"]
        if isinstance(node, ast.Attribute) and dotted(node) in ("torch.load", "builtins.eval", "builtins.exec"):
            bad.append(f"line {node.lineno}: {dotted(node)}")
    return bad


def test_no_text_or_pickle_is_ever_run() -> None:
    found = {str(path.relative_to(ROOT)): running_text(path.read_text()) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize("source", [
    "x = eval('1')", "torch.load(path)", "read = torch.load", "f = builtins.exec", "run(a, shell=True)", "np.load(p)",
])  # fmt: skip
def test_running_a_text_is_seen(source: str) -> None:
    assert running_text(source)


@pytest.mark.parametrize(("where", "source"), [
    ("fields/layers.py", "from ..depth import Shared"),
    ("fields/layers.py", "from .. import depth"),
    ("fields/layers.py", "import odenet.depth.base"),
    ("fields/layers.py", "def f():\n    from ..flow.module import Flow"),
    ("train/fit.py", "from ..stability import report"),
    ("flow/dropin.py", "from ..nets import resnet"),
    ("pde/__init__.py", "def g():\n    from .. import nets"),
    ("errors.py", "from .fields import Free"),
    ("integrators/theory/x.py", "from ...depth import Shared"),
    ("nets/zoo.py", "import matplotlib.pyplot"),
    ("flow/dropin.py", "def f():\n    from torchdiffeq import odeint"),
    ("fields/physics.py", "from scipy.integrate import solve_ivp"),
    ("fields/physics.py", "from scipy import integrate"),
    ("nets/storage.py", "import pickle"),
    ("nets/storage.py", "def f(n):\n    return import_module(n)"),
    ("nets/storage.py", "from ..nowhere import x"),
])  # fmt: skip
def test_the_rule_sees_a_violation_wherever_it_is_written(where: str, source: str) -> None:
    found = violations(ROOT / where, source)
    if where == "errors.py":  # the ground floor has a test of its own
        assert [n for _, n in imports(ROOT / where, source)] == ["odenet.fields.Free"]
    else:
        assert len(found) == 1


@pytest.mark.parametrize(("where", "source"), [
    ("train/fit.py", "from ..flow import Flow\nfrom . import tasks\nfrom ..errors import BadInput"),
    ("stability/plots.py", "def f():\n    import matplotlib"),
    ("integrators/external.py", "from torchdiffeq import odeint"),
    ("fields/layers.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..flow import Flow"),
    ("fields/__init__.py", "from importlib import import_module\nimport_module('.x', 'odenet.fields')"),
    ("experiment/run.py", "from .. import __version__"),
])  # fmt: skip
def test_the_rule_lets_pass_what_is_allowed(where: str, source: str) -> None:
    assert violations(ROOT / where, source) == []
