"""A numerical analyst writes a paper on a new scheme: her tableau, its facts, an order table, and networks under it."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import odenet as on
from odenet.errors import ClaimRefused


def test_she_registers_her_scheme_in_three_lines_and_finds_it_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on.integrators.register(
        "my_ssprk3", on.Tableau(a=("", "1", "1/4 1/4"), b="1/6 1/6 2/3", order=3, cite="Shu & Osher 1988")
    )
    scheme = on.integrators.get("my_ssprk3")
    assert (scheme.order, scheme.stages, scheme.implicit, scheme.facts.ssp) == (
        3,
        3,
        False,
        pytest.approx(1.0),
    )
    assert "my_ssprk3" in on.integrators.names()

    from odenet.cli import main

    assert main(["list", "integrators"]) == 0
    assert "my_ssprk3" in capsys.readouterr().out

    results = on.compare(
        data="moons", nets=["resnet"], integrators=["euler", "my_ssprk3"], seeds=2, width=8, steps=2,
        train_steps=20, lr=(1e-2,), spans=(1.0,), theory=False, workers=1,
    )  # fmt: skip
    assert "my_ssprk3" in results.table() and r"my\_ssprk3" in results.to_latex()
    folder = tmp_path / "run"
    results.save(folder)
    assert "my_ssprk3" in (folder / "report.html").read_text()
    assert "my_ssprk3" in (folder / "results.csv").read_text()


def test_a_misprint_in_her_tableau_is_refused() -> None:
    with pytest.raises(ClaimRefused, match="order"):
        on.integrators.register("misprint", on.Tableau(a=("", "1", "1/4 1/4"), b="1/6 1/3 1/2", order=3))
    assert "misprint" not in on.integrators.names()


@pytest.mark.usefixtures("double")
def test_her_order_table_on_the_kepler_problem() -> None:
    field, y0, t = on.fields.Kepler(), on.fields.Kepler.start(0.3), [0.0, 3.0]
    table = {}
    for name in ("symplectic_euler", "verlet", "yoshida4", "ssprk3", "rk4", "dopri5"):
        errors = []
        for steps in (128, 256):
            y = on.solve(field, y0, t, integrator=name, steps=steps).y[-1]
            errors.append(float((y - field.exact(3.0, y0)).norm()))
        table[name] = math.log2(errors[0] / errors[1])
    for name, observed in table.items():
        assert observed == pytest.approx(on.integrators.get(name).order, abs=0.1), name


@pytest.mark.usefixtures("double")
def test_her_energy_plot_shows_what_symplectic_means() -> None:
    field, y0 = on.fields.Pendulum(), torch.tensor([1.0, 0.0])
    drift = {}
    for name in ("rk4", "verlet", "heun"):
        told = pytest.warns(UserWarning, match="'heun' on Pendulum: the error") if name == "heun" else nullcontext()
        with told:  # of heun's run she is told at once that it went astray
            sol = on.solve(field, y0, [0.0, 200.0], integrator=name, steps=1000)
        drift[name] = abs(float(field.energy(sol.y[-1]) - field.energy(y0)))
    assert drift["verlet"] < 5e-3 < drift["heun"]


def test_she_swaps_the_scheme_of_a_trained_network_by_one_word() -> None:
    net = on.nets.resnet(dim_in=2, dim_out=2, width=8, steps=8, integrator="rk4", span=(0.0, 2.0))
    on.fit(net, "moons", steps=200, lr=1e-2)
    data = on.data.load("moons")
    right = {
        name: float((net.with_integrator(name)(data.x_test).argmax(-1) == data.y_test).double().mean())
        for name in ("rk4", "rk4_38", "dopri5", "euler")
    }
    assert (
        right["rk4"] > 0.85
        and abs(right["rk4"] - right["rk4_38"]) < 0.02
        and abs(right["rk4"] - right["dopri5"]) < 0.02
    )
