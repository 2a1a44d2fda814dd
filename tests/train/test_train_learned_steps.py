"""Step sizes and end times as weights: every one-step method against steps of those sizes, and what training finds."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import odenet as on
from odenet.errors import BadInput, Incompatible
from odenet.fields import Stretched
from odenet.flow.multilevel import prolong
from odenet.train import fit_multilevel
from odenet.train.constraints import step_sizes

W = (0.3, 1.9, 0.8)
PACE = {"pace": "per_step", "*": "shared"}


def start(width: int = 4) -> Tensor:
    return torch.randn(5, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def semilinear() -> on.fields.Field:
    L = torch.tensor([[-1.0, 0.5, 0, 0], [-0.5, -1, 0, 0], [0, 0, -2, 0.1], [0, 0, 0, -3]], dtype=torch.float64)
    return on.fields.SemiLinear(L, torch.sin)


FIELDS = {
    **dict.fromkeys(("euler", "heun", "rk4", "dopri5", "polynet2"), lambda: on.fields.Free(4)),
    **dict.fromkeys(("backward_euler", "gauss4", "kvaerno5", "rodas4", "exprb32"), lambda: on.fields.Free(4)),
    **dict.fromkeys(("verlet", "yoshida4", "symplectic_euler"), lambda: on.fields.SeparableHamiltonian(4)),
    "ars222": lambda: on.fields.ReactionDiffusion(4, norm="none", activation="tanh"),
    **dict.fromkeys(("etdrk4", "lie_euler", "imex_euler", "kencarp4", "strang_splitting"), semilinear),
}


@pytest.mark.parametrize("integrator", FIELDS)
def test_a_stretched_step_is_a_step_of_that_size(integrator: str) -> None:
    field, h = FIELDS[integrator](), 0.5
    flow = on.Flow(Stretched(field), integrator, depth=PACE, span=(0, 3 * h), steps=3, substeps=1, seed=1).double()
    with torch.no_grad():
        flow.weights["pace"].copy_(torch.tensor(W, dtype=torch.float64))
    y = x = start() if integrator != "ars222" else start(100).reshape(5, 4, 5, 5)
    for w in W:
        one = on.Flow(field, integrator, depth="shared", span=(0, h * w), steps=1, substeps=1, seed=1).double()
        y = one(y)
    torch.testing.assert_close(flow(x), y, rtol=1e-10, atol=1e-12)
    assert float((flow(x) - one(x)).detach().norm()) > 0.1


def test_an_euler_flow_with_learned_steps_is_the_hand_written_residual_network() -> None:
    flow = on.Flow(Stretched(on.fields.Free(4)), span=(0, 1.5), steps=3, seed=1).double()
    with torch.no_grad():
        flow.weights["pace"].copy_(torch.tensor(W, dtype=torch.float64))
    x = y = start()
    for n, w in enumerate(W):
        y = y + 0.5 * w * torch.tanh(y @ flow.weights["K"][n].T + flow.weights["b"][n])
    torch.testing.assert_close(flow(x), y, rtol=0, atol=1e-14)


@pytest.mark.parametrize("gradient", ["autograd", "checkpoint", "discrete"])
def test_the_derivative_in_a_step_size_is_that_of_the_product(gradient: str) -> None:
    """Euler on y' = a y: y_N = prod (1 + dt_n a), so d log y_N / d dt_n = a / (1 + dt_n a)."""
    a, h = -0.7, 0.5
    field = Stretched(on.fields.wrap(lambda y: a * y))
    flow = on.Flow(field, "euler", span=(0, 3 * h), steps=3, gradient=gradient).double()
    with torch.no_grad():
        flow.weights["pace"].copy_(torch.tensor(W, dtype=torch.float64))
    flow(torch.ones(1, 1, dtype=torch.float64)).log().sum().backward()
    wanted = [h * a / (1 + h * w * a) for w in flow.weights["pace"].tolist()]
    torch.testing.assert_close(flow.weights["pace"].grad, torch.tensor(wanted, dtype=torch.float64))


def test_an_end_time_is_learned_to_its_closed_form() -> None:
    """y' = -y from 1 is 1/5 at T = log 5."""
    field = Stretched(on.fields.wrap(lambda y: -y), form="exp")
    flow = on.Flow(field, "rk4", depth=PACE | {"pace": "shared"}, span=(0.0, 1.0), steps=40).double()
    x = torch.ones(4, 1, dtype=torch.float64)
    on.fit(flow, (x, 0.2 * x), "lbfgs", steps=15, lr=1.0, loss="mse", holdout=0.0)
    assert float(flow.theta()["pace"][0].detach()) == pytest.approx(math.log(5), rel=1e-6)


def test_steps_share_out_the_time_and_the_best_share_is_the_closed_form_one() -> None:
    """prod (1 + dt_n) with sum dt_n = T is largest where all dt_n are equal, smallest where one has all."""
    target = {"equal": (6.0, 0.4, 1.0), "one": (0.0, 0.03, 4.0)}
    for what, (goal, lr, largest) in target.items():
        flow = on.Flow(Stretched(on.fields.wrap(lambda y: y)), "euler", span=(0.0, 2.0), steps=4).double()
        with torch.no_grad():
            flow.weights["pace"].copy_(torch.tensor([0.2, 1.6, 0.8, 1.4]))
        x, sums = torch.ones(2, 1, dtype=torch.float64), []

        def look(fit: Any, flow: on.Flow = flow, sums: list[Tensor] = sums) -> None:
            sums.append(flow.weights["pace"].detach().clone())

        words = {"loss": "mse", "holdout": 0.0, "constraint": step_sizes(), "callbacks": [look]}
        on.fit(flow, (x, goal * x), "sgd", steps=80, lr=lr, **words)
        pace = torch.stack(sums)
        assert bool((pace >= 0).all()) and float((pace.sum(1) - 4).abs().max()) < 1e-12
        assert float(pace[-1].max()) == pytest.approx(largest, abs=1e-3), what


@pytest.mark.parametrize(("integrator", "order"), [("euler", 1), ("rk4", 4)])
def test_refining_keeps_the_loss_up_to_the_error_of_the_method(integrator: str, order: int) -> None:
    """Weights linear in between and step sizes that both halves take over: the loss moves by O(h^p)."""
    depth = {"pace": "per_step", "*": "piecewise_linear"}
    net = on.Flow(
        Stretched(on.fields.Free(4)), integrator, depth=depth, span=(0, 2), steps=8, init="constant", seed=4
    ).double()
    with torch.no_grad():
        net.weights["pace"].copy_(torch.tensor([0.5, 1.5, 0.8, 1.2]).repeat_interleave(2))
    losses, levels = [], [net]
    for _ in range(4):
        levels.append(prolong(levels[-1]))
    for flow in levels:
        losses.append(float(flow(start()).detach().square().mean()))
        assert float(flow.theta()["pace"].detach().sum()) * flow.h == pytest.approx(2.0)
    moves = [abs(b - a) for a, b in pairwise(losses)]
    assert moves[0] < 0.1 * losses[0]
    assert math.log2(moves[-2] / moves[-1]) == pytest.approx(order, abs=0.35)


def test_training_from_shallow_to_deep_goes_on_from_the_loss_it_had() -> None:
    data, depth = on.data.load("moons", n=100), {"pace": "per_step", "*": "galerkin"}
    flow = on.Flow(Stretched(on.fields.Free(4)), "heun", depth=depth, span=(0.0, 2.0), steps=4, seed=0)
    net = on.Chain(on.nets.Pad(2, 4), flow, torch.nn.Linear(4, 2))
    words: dict[str, Any] = {"batch": len(data.x), "constraint": step_sizes()}
    fit = fit_multilevel(net, data, levels=2, steps=[25, 6], lr=[0.05, 0.01], **words)
    ends = [[e["loss"] for e in fit.history if e["level"] == k] for k in range(2)]
    assert abs(ends[1][0] - ends[0][-1]) < 0.1 * (ends[0][0] - ends[0][-1])
    assert fit.net.parts[1].steps == 8 and fit.net.parts[1].weights["K"].shape[0] == 4  # as many controls
    assert float(fit.net.parts[1].weights["pace"].detach().sum()) == pytest.approx(8, rel=1e-5)
    assert ends[1][-1] < 0.7 * ends[0][0]


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: Stretched(on.fields.Free(2), "softmax"), BadInput, "form='weight' or form='exp'"),
        (lambda: Stretched(on.fields.SecondOrder(2)), Incompatible, "Stretched\\(fields.FirstOrder\\(field\\)\\)"),
        (lambda: Stretched(on.fields.Noisy(torch.neg, torch.ones_like)), Incompatible, "the root of time"),
        (lambda: on.Flow(Stretched(on.fields.Free(4)), "verlet"), Incompatible, "needs a separable field"),
    ],
)
def test_what_cannot_be_stretched_is_told_in_a_sentence(make: Any, error: Any, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        make()


def test_what_a_stretched_field_keeps_is_what_the_field_keeps() -> None:
    field = on.fields.HarmonicOscillator(1.3)
    flow = on.Flow(Stretched(field), "verlet", span=(0.0, 2.0), steps=40).double()
    with torch.no_grad():
        flow.weights["pace"].copy_(1 + 0.5 * torch.sin(torch.arange(40)))
    x = start(2)
    energies = [flow.field.energy(y, {}) for y in flow.trajectory(x).detach()]
    torch.testing.assert_close(energies[-1], energies[0], rtol=2e-2, atol=0)
    first_order = Stretched(on.fields.FirstOrder(on.fields.SecondOrder(2)))
    assert on.Flow(first_order, "rk4", steps=2)(torch.ones(3, 4)).shape == (3, 4)
