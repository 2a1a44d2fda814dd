"""Named entries: what a name may be, nearest names, families, and third-party packages that come by entry point."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

import odenet as on
import prepared
from odenet.errors import BadInput, UnknownName
from odenet.registry import Registry


@pytest.fixture
def shop() -> Registry[object]:
    return Registry("tool", "odenet.test_tools")


def test_what_is_registered_is_found_and_listed_in_order(shop: Registry[object]) -> None:
    for name in ("saw", "hammer", "file2", "a_b"):
        assert shop.register(name, name.upper()) == name.upper()
    assert shop.names() == ["a_b", "file2", "hammer", "saw"]
    assert shop.get("saw") == "SAW" and "saw" in shop and "axe" not in shop


NAMES = ["", "Saw", "2saw", "_saw", "my saw", "my-saw", "säge", "saw\n", "a:b:c", "a:", ":a", 3, None, b"saw"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_not_usable_is_refused(shop: Registry[object], name: object) -> None:
    with pytest.raises(BadInput, match=r"tool name .* is not usable: .* such as \"my_method\""):
        shop.register(name, 1)  # type: ignore[arg-type]
    assert shop.names() == []


def test_a_taken_name_is_refused_and_the_first_entry_stays(shop: Registry[object]) -> None:
    shop.register("saw", 1)
    with pytest.raises(BadInput, match="tool 'saw' is registered already; choose another name"):
        shop.register("saw", 2)
    assert shop.get("saw") == 1


def test_a_check_turns_what_is_registered_into_the_entry_or_refuses_it() -> None:
    def check(name: str, obj: object) -> str:
        if obj is None:
            raise BadInput(f"{name} is nothing")
        return f"{name}={obj}"

    shop: Registry[str] = Registry("tool", "odenet.test_tools", check)
    assert shop.register("saw", 3) == "saw=3" and shop.get("saw") == "saw=3"
    with pytest.raises(BadInput, match="axe is nothing"):
        shop.register("axe", None)
    assert shop.names() == ["saw"]


def test_an_unknown_name_is_answered_with_the_nearest_or_all(shop: Registry[object]) -> None:
    for name in ("hammer", "saw", "screwdriver"):
        shop.register(name, name)
    with pytest.raises(UnknownName, match="no tool is called 'hamer'; did you mean 'hammer'") as caught:
        shop.get("hamer")
    assert isinstance(caught.value, KeyError) and isinstance(caught.value, ValueError)
    assert not str(caught.value).startswith(("'", '"'))  # a sentence, not the repr of one
    for strange in ("zzz", None, 3, ["saw"], ("saw",)):
        with pytest.raises(UnknownName, match=r"known: hammer, saw, screwdriver|did you mean 'saw'"):
            shop.get(strange)  # type: ignore[arg-type]


def test_a_family_lists_its_members_and_builds_one_on_demand_once(shop: Registry[object]) -> None:
    built: list[str] = []

    def make(member: str) -> object:
        built.append(member)
        return object()

    shop.register("saw", 1)
    shop.family("ext", lambda: ["b", "a"], make)
    assert shop.names() == ["ext:a", "ext:b", "saw"] and built == [] and "ext:a" in shop
    assert shop.get("ext:a") is shop.get("ext:a") and built == ["a"]
    assert shop.names() == ["ext:a", "ext:b", "saw"]
    with pytest.raises(UnknownName, match="did you mean 'ext:"):
        shop.get("ext:c")
    for taken in ("ext", "ext:a", "ext:new"):
        with pytest.raises(BadInput, match="registered already"):
            shop.register(taken, 2)


@pytest.mark.parametrize("registry", [on.integrators, on.fields, on.nets, on.data, on.train, on.fields.activations])
def test_every_registry_of_the_package_answers_a_misspelling(registry: object) -> None:
    names = registry.names()  # type: ignore[attr-defined]
    assert names == sorted(set(names)) and len(names) >= 4
    get = getattr(registry, "get", None) or registry.METHODS.get  # type: ignore[attr-defined]
    for name in names:
        if ":" not in name:
            get(name)
            with pytest.raises(UnknownName, match=r"did you mean|known:"):
                get(name + "x_")


# ---- entry points, from packages that are really there -------------------------------------------------------------


def package(folder: Path, name: str, entries: dict[str, dict[str, str]], code: str) -> None:
    """A distribution as an installer leaves it: a module and its metadata."""
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in points.items()) for group, points in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def run(folder: Path, code: str) -> str:
    code = f"import warnings\nwarnings.simplefilter('always')\n{textwrap.dedent(code)}"
    status, printed, errors = prepared.run_code(code, folder, {"PYTHONPATH": str(folder)}, timeout=60)
    assert status == 0, errors
    return printed


def test_plug_ins_come_by_entry_point_and_a_broken_one_does_not_take_the_others_down(tmp_path: Path) -> None:
    package(
        tmp_path, "plugin", {
            "odenet.integrators": {
                "my_rk3": "plugin:scheme", "broken": "plugin:absent", "unclaimed": "nowhere:x",
                "wrong_order": "plugin:wrong", "euler": "plugin:scheme", "Bad Name": "plugin:scheme",
            },
            "odenet.nets": {"plugin_net": "plugin:plugin_net"},
            "odenet.fields": {"plugin_field": "plugin:make_field"},
        },
        """
        import odenet as on
        from odenet.nets import net
        from torch import nn

        scheme = on.Tableau(a=("", "1", "1/4 1/4"), b="1/6 1/6 2/3", order=3, cite="mine")
        wrong = on.Tableau(a=("", "1", "1/4 1/4"), b="1/6 1/6 2/3", order=4, cite="mine")

        @net(kind="baseline", cite="mine")
        def plugin_net(dim_in, dim_out, seed=0):
            return nn.Linear(dim_in, dim_out)

        def make_field(dim):
            return on.fields.Free(dim)
        """,
    )  # fmt: skip
    out = run(tmp_path, """
        import warnings
        import odenet as on
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            names = on.integrators.names()
            nets = on.nets.names()
        assert "my_rk3" in names and on.integrators.get("my_rk3").order == 3
        assert not {"broken", "unclaimed", "wrong_order", "Bad Name"} & set(names)
        assert on.integrators.get("euler").stages == 1                       # what is registered already stays
        said = [str(w.message) for w in caught]
        for name in ("broken", "unclaimed", "wrong_order", "Bad Name"):
            assert sum(repr(name) in s and "was skipped" in s for s in said) == 1, (name, said)
        assert len(said) == 4, said                                          # the net that registered itself: none
        assert "plugin_net" in nets
        spec = on.nets.get("plugin_net")(3, 2, seed=1).spec
        assert spec == {"net": "plugin_net", "args": {"dim_in": 3, "dim_out": 2, "seed": 1}}
        assert on.fields.get("plugin_field")(4).dim == 4
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            on.integrators.names()                                           # each is reported once
        print("ok")
    """)  # fmt: skip
    assert out == "ok\n"


def test_a_plug_in_that_registers_itself_when_imported_is_not_refused_as_taken(tmp_path: Path) -> None:
    package(tmp_path, "itself", {"odenet.nets": {"itself_net": "itself:itself_net"}}, """
        from odenet.nets import net
        from torch import nn

        @net(kind="baseline", cite="mine")
        def itself_net(dim_in, dim_out, seed=0):
            return nn.Linear(dim_in, dim_out)
    """)  # fmt: skip
    out = run(tmp_path, """
        import warnings
        warnings.simplefilter("error")
        import odenet as on
        print(on.nets.get("itself_net")(3, 2).out_features, "itself_net" in on.nets.names())
    """)  # fmt: skip
    assert out == "2 True\n"


def test_a_missed_name_loads_the_entry_points(tmp_path: Path) -> None:
    package(tmp_path, "late", {"odenet.methods": {"late": "late:method"}}, """
        from odenet.train import Method
        method = Method(lambda run: lambda batch: run.losses(batch))
    """)  # fmt: skip
    out = run(tmp_path, """
        import sys, torch, odenet as on
        from odenet.train import METHODS
        METHODS.get("adam")
        assert "late" not in sys.modules                                     # nothing is loaded before it is missed
        METHODS.get("late")
        assert "late" in sys.modules
        fit = on.fit(torch.nn.Linear(2, 1), (torch.ones(10, 2), torch.ones(10, 1)), "late", steps=2)
        print(fit.status)
    """)  # fmt: skip
    assert out == "done\n"
