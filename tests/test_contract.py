"""The public contract, line by line, as users and other packages write it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchdiffeq

import odenet as on
from odenet.errors import BadInput, NotBuiltYet, SolveFailed


def test_integrators() -> None:
    names = on.integrators.names()
    assert names == sorted(names) and all(isinstance(n, str) for n in names)
    s = on.integrators.get("rk4")
    assert (s.order, s.stages, s.implicit, s.adaptive, s.symplectic, s.reversible) == (
        4,
        4,
        False,
        False,
        False,
        False,
    )
    assert s.needs == frozenset() and s.facts.order == 4
    z = 0.3 + 0.4j
    assert s.amplification(z) == pytest.approx(1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24, abs=1e-14)
    on.integrators.register(
        "contract_ssprk3",
        on.Tableau(a=("", "1", "1/4 1/4"), b="1/6 1/6 2/3", order=3, cite="Shu & Osher 1988"),
    )
    assert on.integrators.get("contract_ssprk3").order == 3


def test_initial_value_problems() -> None:
    def field(t: float, y: torch.Tensor) -> torch.Tensor:
        return -y

    y0, t = torch.ones(3, dtype=torch.float64), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    sol = on.solve(field, y0, t, integrator="dopri5", rtol=1e-6, atol=1e-8, steps=None, gradient="discrete",
                   events=None, max_steps=None, on_failure="raise", per_sample=False, check=False,
                   compile=False)  # fmt: skip
    assert sol.y.shape == (3, 3) and torch.equal(sol.t, t) and sol.status == "success" and isinstance(sol.message, str)
    assert sol.t_last == 1.0 and {"nfe", "accepted", "rejected"} <= set(sol.stats)
    torch.testing.assert_close(sol(0.5), torch.exp(torch.tensor(-0.5, dtype=torch.float64)) * y0, rtol=1e-4, atol=0)
    with pytest.raises(BadInput):  # a fixed-step integrator without steps
        on.solve(field, y0, t, integrator="rk4")
    with pytest.raises(SolveFailed):
        on.solve(lambda t, y: y**2, y0, [0.0, 2.0])
    assert on.solve(lambda t, y: y**2, y0, [0.0, 2.0], on_failure="return").status != "success"


def test_drop_in_names_are_those_of_torchdiffeq_and_give_its_numbers() -> None:
    class Func(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return -self.rate * y * torch.cos(t)

    found = []
    for lib in (on, torchdiffeq):
        func, y0 = Func(), torch.ones(3, dtype=torch.float64)
        t = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
        y, by_adjoint = lib.odeint(func, y0, t), lib.odeint_adjoint(func, y0, t)
        when, states = lib.odeint_event(func, y0, t[0], event_fn=lambda t, y: y[0] - 0.8)
        dense = lib.odeint_dense(func, y0, t[0], t[-1])(torch.tensor(0.3, dtype=torch.float64))
        grads = [torch.autograd.grad(x.sum(), func.rate)[0] for x in (y, by_adjoint, when + states[-1].sum(), dense)]
        found.append((y, by_adjoint, when, states, dense, *grads))
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-7)


def test_the_adapter_is_shaped_as_scipys() -> None:
    from scipy.integrate import solve_ivp

    given = dict(t_span=(0.0, 2.0), y0=[1.0, 0.0], method="RK45", t_eval=[0.5, 2.0], rtol=1e-8, atol=1e-10)
    ours, theirs = (f(lambda t, y: [y[1], -y[0]], **given) for f in (on.flow.solve_ivp, solve_ivp))
    assert ours.y == pytest.approx(theirs.y, abs=1e-6) and set(ours) == set(theirs) and ours.success


def test_flows() -> None:
    flow = on.Flow(on.fields.SeparableHamiltonian(64), "verlet", depth=on.depth.PerStep(), span=(0.0, 1.0), steps=16,
                   gradient="reversible")  # fmt: skip
    y = torch.randn(5, 64)
    assert flow(y).shape == y.shape and flow.trajectory(y).shape == (17, 5, 64)
    finer = flow.with_integrator("yoshida4", steps=32)
    assert finer(y).shape == y.shape
    assert sum(p.numel() for p in finer.parameters()) == sum(p.numel() for p in flow.parameters())
    with pytest.raises(BadInput, match="multiple"):
        flow.with_integrator("yoshida4", steps=20)
    assert on.Flow(on.fields.Free(4)).gradient.name == "autograd"


def test_networks(tmp_path: Path) -> None:
    net = on.nets.resnet(dim_in=64, dim_out=10, width=64, steps=16, integrator="euler")
    x = torch.randn(3, 64)
    assert net(x).shape == (3, 10) and "resnet" in on.nets.names()
    on.save(net, tmp_path / "net.safetensors")
    assert torch.equal(on.load(tmp_path / "net.safetensors")(x), net(x))
    words = dict(dim_in=6, dim_out=3, width=8, steps=4, depth=None, gradient="autograd", activation="tanh",
                 span=(0.0, 1.0), seed=0)  # fmt: skip
    for name in on.nets.names():
        build = on.nets.get(name)
        if build.kind == "ode" and build.takes == "vector":  # type: ignore[attr-defined]
            assert build(integrator=None, **words)(torch.randn(2, 6)).shape == (2, 3), name


def test_training() -> None:
    net = on.nets.resnet(dim_in=64, dim_out=10, width=16, steps=4)
    fit = on.fit(net, "digits", method="adam", steps=20, lr=1e-3, seed=0)
    assert [set(row) >= {"step", "loss", "seconds"} for row in fit.history] == [True] * 20
    assert 0.0 <= fit.score["accuracy"] <= 1.0 and fit.status == "done"


def test_stability(tmp_path: Path) -> None:
    net, x = on.nets.resnet(dim_in=4, dim_out=3, width=8, steps=4), torch.randn(20, 4)
    rep = on.stability.report(net, x, y=None)
    flat = rep.to_dict()
    assert all(isinstance(k, str) and isinstance(v, (int, float)) for k, v in flat.items())
    assert not any("accuracy" in k for k in flat)
    assert any("accuracy" in k for k in on.stability.report(net, x, y=torch.zeros(20, dtype=torch.long)).to_dict())
    rep.save(tmp_path / "report")
    assert any((tmp_path / "report").iterdir())


def test_experiments(tmp_path: Path) -> None:
    results = on.compare(data="digits", nets=["resnet", "antisymmetric", "hamiltonian"], integrators=["euler", "rk4"],
                         seeds=3, width=8, steps=2, train_steps=4, lr=(1e-2,), spans=(1.0,), theory=False,
                         workers=1)  # fmt: skip
    assert "antisymmetric" in results.table() and "tabular" in results.to_latex()
    results.save(tmp_path / "x")
    header = (tmp_path / "x" / "results.csv").read_text().splitlines()
    assert header[0] == "net,integrator,seed,accuracy,parameters,nfe,seconds,verdict" and len(header) == 1 + 3 * 2 * 3
    for name in ("results.json", "report.html", "table.tex"):
        assert (tmp_path / "x" / name).stat().st_size > 0


def test_parts_that_are_not_built_say_so_in_one_sentence() -> None:
    with pytest.raises(NotBuiltYet, match="not built in this version") as told:
        on.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], compile=True)
    assert "\n" not in str(told.value)


def test_pdes() -> None:
    problem = on.pde.get("burgers")
    sol = on.pde.solve(problem, method="gauss_newton", seconds=2, seed=0, width=8, points=200)
    assert sol.u(torch.rand(5, 2)).shape == (5, 1)
    assert sol.rel_l2 > 0 and sol.residual > 0 and sol.history[-1]["seconds"] > 0


def test_every_registered_integrator_is_built() -> None:
    for name in on.integrators.names():
        assert on.integrators.get(name).order >= 0 and on.integrators.get(name).facts.order >= 0
    promised = {
        "heun_euler", "bosh3", "dopri5", "tsit5", "dopri8", "vern7", "backward_euler", "implicit_midpoint", "trapezoid",
        "sdirk2", "tr_bdf2", "kvaerno3", "kvaerno5", "esdirk4", "radau_iia3", "radau_iia5", "gauss4", "gauss6", "ros3p",
        "rodas4", "bdf", "adams", "ab5", "imex_euler", "ars222", "ars343", "kencarp3", "kencarp4", "etd1",
        "etdrk4", "exprb32", "strang_splitting", "lie_splitting", "mclachlan4", "forest_ruth", "pefrl", "yoshida6",
        "alf", "reversible_heun", "euler_maruyama", "milstein", "heun_stratonovich", "srk3",
    }  # fmt: skip
    assert promised <= set(on.integrators.names())
