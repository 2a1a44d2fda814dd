"""What `odenet show` prints of an integrator: every registered name, coefficients, and regions against closed forms."""

from __future__ import annotations

import math
import re

import pytest

import odenet as on
from odenet.stability import plots
from odenet.stability.card import card
from odenet.stability.picture import picture
from odenet.stability.region import family


@pytest.mark.parametrize("name", on.integrators.names())
def test_the_page_of_every_integrator_tells_order_when_source_and_test_equation(name: str) -> None:
    method = on.integrators.get(name)
    text = card(name)
    lines = text.splitlines()
    flat = " ".join(text.split())
    assert lines[0] == f"{name} (integrator)"
    order = re.search(r"^  order: +(?:1 to )?(\d+)", text, re.M)
    assert order is not None and int(order[1]) == method.order
    assert method.when and f"when: {method.when}" in flat
    assert method.cite and f"cite: {method.cite}" in flat
    assert "test equation: " in flat
    assert max(map(len, lines)) <= 100 and not any(line != line.rstrip() for line in lines)
    assert not re.search(r"object at 0x|<class|None|Fraction\(", text)


@pytest.mark.parametrize(("name", "pieces"), [
    # Hairer, Norsett & Wanner I, II.1, table 5.2; II table IV.5.6; Leimkuhler & Reich; Kennedy & Carpenter 2003
    ("rk4", ["1/2 | 1/2", "b | 1/6  1/3  1/3  1/6"]),
    ("dopri5", ["35/384", "-2187/6784", "5179/57600"]),
    ("radau_iia5", ["(88-7*sqrt(6))/360", "(16+sqrt(6))/36", "2/5-sqrt(6)/10"]),
    ("rodas4", ["gamma", "1/4", "-5.6688"]),
    ("kencarp4", ["explicit", "13861/62500  6889/62500", "implicit", "82889/524892"]),
    ("etdrk4", ["1/2*phi1(1/2)", "phi1(1) - 3*phi2(1) + 4*phi3(1)"]),
    ("ab3", ["beta        5/12  -4/3  23/12  0"]),
    ("strang_splitting", ["implicit,  1/2", "explicit,  1"]),
    ("srk", ["strong", "1.5 (additive)"]),
    ("verlet", ["kicks       1/2  1/2"]),
    ("bdf", ["1 to 5, chosen step by step"]),
    ("torchdiffeq:dopri5", ["by steps of its own"]),
])  # fmt: skip
def test_coefficients_stand_there_as_published(name: str, pieces: list[str]) -> None:
    text = card(name)
    assert all(piece in text for piece in pieces), text


def test_the_picture_of_euler_is_the_unit_disc_around_minus_one() -> None:
    lines = picture("euler", columns=40, plain=True).splitlines()[1:]
    *rows, foot = lines
    left, right = (float(foot.split()[i]) for i in (0, -3))
    top = float(rows[0].split("i")[0])
    seen = 0
    for r, row in enumerate(rows):
        drawn = row.split("|")[1].ljust(40)
        for c, letter in enumerate(drawn):
            z = complex(left + (right - left) * c / 39, top - 2 * top * r / (len(rows) - 1))
            if abs(abs(1 + z) - 1) > 0.1:  # labels are rounded to three digits
                assert (letter == "#") == (abs(1 + z) < 1), (z, letter)
                seen += 1
    assert seen > 500


@pytest.mark.parametrize(("name", "limit"), [("verlet", 2.0), ("leapfrog", 2.0), ("symplectic_euler", 2.0)])
def test_the_bar_of_an_oscillator_ends_at_its_limit(name: str, limit: float) -> None:
    bar, foot = picture(name, columns=60, plain=True).splitlines()[-2:]
    end = float(foot.split()[1])
    reached = bar.split("|")[1].count("#") * end / 60
    assert abs(reached - limit) <= end / 60


def test_a_method_of_two_parts_shows_a_larger_region_beside_a_stiff_part() -> None:
    text = picture("ars222", plain=True)
    rows = [line.split("|")[1:] for line in text.splitlines() if line.count("|") == 2]
    without, beside = (sum(row[i].count("#") for row in rows) for i in (0, 1))
    assert "h mu = 0" in text and "h mu = -10" in text and beside > 2 * without > 0


def test_without_utf_the_picture_is_ascii() -> None:
    for name in ("rk4", "verlet", "kencarp3"):
        assert picture(name, plain=True).isascii()
        assert not picture(name).isascii()


ONE_OF_EACH = ("rk4", "radau_iia5", "ros3p", "ab3", "etdrk4", "strang_splitting", "verlet", "euler_maruyama", "alf")


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_figure_of_each_family_can_be_drawn(name: str) -> None:
    figure = plots.stability(name, points=41)
    (ax,) = figure.axes
    assert name in ax.get_title(loc="left") + ax.get_title()
    assert ax.get_xlabel() and ax.get_ylabel() and all(math.isfinite(x) for x in (*ax.get_xlim(), *ax.get_ylim()))


def test_a_method_with_steps_of_its_own_has_no_figure() -> None:
    with pytest.raises(on.errors.BadInput, match="has no stability region"):
        plots.stability("torchdiffeq:dopri5")
    assert family("torchdiffeq:dopri5") == "own steps"
