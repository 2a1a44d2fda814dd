"""Plug-ins: three lines, entry points, names that are unknown or taken."""

from __future__ import annotations

import copy
import importlib
import sys

import pytest
import torch

import odenet.integrators as integrators
from odenet.errors import BadInput, ClaimRefused, UnknownName
from odenet.integrators import INTEGRATORS, Integrator, RungeKutta, Tableau, TwoStep
from odenet.integrators.library import LIBRARY
from odenet.types import Step


@pytest.fixture(autouse=True)
def _own_entries(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(INTEGRATORS, "_entries", dict(INTEGRATORS._entries))


class Backwards(Integrator):
    """y + h f(t, y), as a user would write it."""

    order = 1

    def step(self, f, t, y, h, carry, coef):
        return Step(y + h * f(t, y), None, ())


def test_names_are_sorted_and_hold_the_library_and_torchdiffeq():
    names = integrators.names()
    assert names == sorted(names)
    assert set(LIBRARY) <= set(names)
    assert "torchdiffeq:dopri5" in names


@pytest.mark.parametrize("name", LIBRARY)
def test_every_integrator_states_who_wrote_it_and_when_to_use_it(name):
    method = integrators.get(name)
    assert method.name == name
    assert method.cite
    assert method.when.endswith(".")
    assert len(method.when) < 110
    assert name in repr(method)
    assert method.facts.order == method.order


def test_a_tableau_is_a_plug_in_of_one_line():
    table = Tableau(a=("", "1", "1/4 1/4"), b="1/6 1/6 2/3", order=3, cite="Shu & Osher 1988")
    method = integrators.register("my_ssprk3", table)
    assert method is integrators.get("my_ssprk3")
    assert "my_ssprk3" in integrators.names()
    assert (method.order, method.stages, method.implicit, method.adaptive) == (3, 3, False, False)
    assert method.facts == integrators.get("ssprk3").facts


def test_a_class_of_one_method_is_a_plug_in():
    method = integrators.register("mine", Backwards())
    assert method.amplification(-0.5) == pytest.approx(0.5)
    assert method.facts.real_interval == pytest.approx(2, abs=1e-3)
    assert method.facts.imag_interval == 0
    assert not method.facts.exact
    assert integrators.register("mine_as_a_class", Backwards).order == 1


def test_a_class_that_claims_too_much_is_refused_by_observation():
    class TooProud(Backwards):
        order = 2

    with pytest.raises(ClaimRefused, match=r"claims order 2.*shows order 1\.0"):
        integrators.register("proud", TooProud())
    assert "proud" not in integrators.names()


def test_a_class_without_an_order_or_with_unknown_needs_is_refused():
    class Silent(Backwards):
        order = None

    class Demanding(Backwards):
        needs = frozenset({"luck"})

    class Reversible(Backwards):
        reversible = True

    for wrong, words in ((Silent, "states no order"), (Demanding, "luck"), (Reversible, "undo")):
        with pytest.raises(BadInput, match=words):
            integrators.register("wrong", wrong())


def test_a_user_s_method_with_memory_and_needs_is_observed_on_a_problem_that_offers_them():
    class Kick(Integrator):
        order = 1
        needs = frozenset({"separable"})

        def step(self, f, t, y, h, carry, coef):
            q, p = f.split(y)
            p = p + h * f.kick(t, q)
            return Step(f.join(q + h * f.drift(t + h, p), p), None, ())

    class Stormer(Integrator):
        order, history = 2, 1
        needs = frozenset({"second_order"})

        def step(self, f, t, y, h, carry, coef):
            if not carry:
                return Step(y + h * h / 2 * f(t, y), None, (y,))
            return Step(2 * y - carry[0] + h * h * f(t, y), None, (y,))

    assert integrators.register("kick", Kick()).facts.imag_interval == pytest.approx(2, abs=1e-3)
    assert integrators.register("stormer", Stormer()).facts.imag_interval == pytest.approx(2, abs=1e-3)


def test_one_object_may_have_two_names():
    method = TwoStep(-0.5)
    first, second = integrators.register("half", method), integrators.register("half_too", method)
    assert (first.name, second.name, method.name) == ("half", "half_too", "")


def test_a_name_that_is_taken_or_malformed_is_refused():
    for name in ("euler", "torchdiffeq", "torchdiffeq:new"):
        with pytest.raises(BadInput, match="registered already"):
            integrators.register(name, Backwards())
    for name in ("Euler", "my method", "2stage", ""):
        with pytest.raises(BadInput, match="not usable"):
            integrators.register(name, Backwards())


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"no integrator is called 'dopri'; did you mean .*'dopri5'"):
        integrators.get("dopri")
    with pytest.raises(UnknownName, match="torchdiffeq:"):
        integrators.get("torchdiffeq:dopri55")


def test_resolve_takes_names_data_and_integrators():
    euler = integrators.get("euler")
    assert integrators.resolve("euler") is euler
    assert integrators.resolve(euler) is euler
    assert isinstance(integrators.resolve(LIBRARY["rk4"]), RungeKutta)
    with pytest.raises(BadInput, match="got int"):
        integrators.resolve(4)
    with pytest.raises(ClaimRefused):
        integrators.resolve(Tableau(a=("",), b="2", order=1))


FAMILIES = list(dict.fromkeys(type(data) for data in LIBRARY.values() if not isinstance(data, Integrator)))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_every_family_of_data_is_public_and_named_where_something_else_is_given(family):
    assert getattr(integrators, family.__name__) is family
    assert family.__name__ in integrators.__all__
    with pytest.raises(BadInput, match=rf"the data of one, .*\b{family.__name__}\b.*; got float"):
        integrators.resolve(0.5)


@pytest.mark.parametrize("name", [*LIBRARY, "torchdiffeq:euler"])
def test_integrators_can_be_copied(name):
    assert copy.deepcopy(integrators.get(name)).facts == integrators.get(name).facts


def test_a_copy_takes_the_same_steps():
    y, rk4 = torch.ones(2), integrators.get("rk4")
    steps = [method.step(lambda t, x: -x, 0.0, y, 0.1, (), None).y for method in (rk4, copy.deepcopy(rk4))]
    assert torch.equal(*steps)


MODULE = """
from odenet.integrators import Tableau

METHOD = Tableau(a=("", "1/2"), b="0 1", order=2, cite="third party")
WRONG = Tableau(a=("", "1/2"), b="0 1", order=3)
"""


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """An installed package `far_away` that announces two integrators by entry point."""
    (tmp_path / "far_away.py").write_text(MODULE)
    info = tmp_path / "far_away-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: far-away\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[odenet.integrators]\nfar_midpoint = far_away:METHOD\nfar_wrong = far_away:WRONG\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(INTEGRATORS, "_loaded", False)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("far_away", None)


def test_an_entry_point_of_another_package_is_found_and_a_broken_one_skipped_with_a_warning(third_party):
    with pytest.warns(UserWarning, match=r"'far_wrong' .* was skipped: .*claims order 3"):
        method = integrators.get("far_midpoint")
    assert method.cite == "third party"
    assert "far_midpoint" in integrators.names()
    assert "far_wrong" not in integrators.names()
