"""`fit` against loops written by hand; inputs of every kind; validation, stopping, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import odenet as on
from odenet.train import METHODS, schedules, tasks

pytestmark = pytest.mark.usefixtures("double")

N = 40


def data(n: int = N, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=g)
    return x, torch.stack((x[:, 0] - 2 * x[:, 1], x.sum(1)), 1) + 0.1 * torch.randn(n, 2, generator=g)


def labelled(n: int = N) -> tuple[Tensor, Tensor]:
    x, _ = data(n)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def linear(seed: int = 1) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def losses(fit: Any) -> list[float]:
    return [row["loss"] for row in fit.history]


def gradients(W: Tensor, b: Tensor, x: Tensor, y: Tensor) -> tuple[float, list[Tensor]]:
    """Mean squares over all entries, and its derivatives."""
    error = x @ W.T + b - y
    return float((error**2).mean()), [2 * error.T @ x / error.numel(), 2 * error.sum(0) / error.numel()]


# ---- methods -------------------------------------------------------------------------------------------------------


def by_hand(update: Callable[[int, list[Tensor], list[Tensor]], None], steps: int) -> tuple[list[Tensor], list[float]]:
    """Full-batch descent on `data()` from `linear()` with a hand-written update."""
    x, y = data()
    net = linear()
    w, seen = [net.weight.detach().clone(), net.bias.detach().clone()], []
    for k in range(1, steps + 1):
        value, g = gradients(*w, x, y)
        seen.append(value)
        update(k, w, g)
    return w, seen


def compare(method: str, update: Callable[[int, list[Tensor], list[Tensor]], None], lr: float, **options: Any) -> None:
    net = linear()
    fit = on.fit(net, data(), method, steps=20, lr=lr, holdout=0.0, **options)
    w, seen = by_hand(update, 20)
    torch.testing.assert_close(torch.tensor(losses(fit)), torch.tensor(seen), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close([net.weight.detach(), net.bias.detach()], w, rtol=1e-10, atol=1e-12)
    assert losses(fit)[-1] < losses(fit)[0] and fit.status == "done" and len(fit.history) == 20


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.8, True)])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_sgd_is_its_formula(momentum: float, nesterov: bool, decay: float) -> None:
    v: list[Tensor] = []

    def update(k: int, w: list[Tensor], g: list[Tensor]) -> None:
        g = [gi + decay * wi for gi, wi in zip(g, w)]
        v[:] = [momentum * vi + gi for vi, gi in zip(v, g)] if v else g
        for i in range(2):
            w[i] = w[i] - 0.02 * (g[i] + momentum * v[i] if nesterov else v[i])

    compare("sgd", update, 0.02, momentum=momentum, nesterov=nesterov, weight_decay=decay)


@pytest.mark.parametrize(("method", "decay"), [("adam", 0.0), ("adam", 0.1), ("adamw", 0.1)])
def test_adam_is_algorithm_1_and_adamw_decouples_the_decay(method: str, decay: float) -> None:
    m, s = [torch.zeros(2, 3), torch.zeros(2)], [torch.zeros(2, 3), torch.zeros(2)]
    lr, a, b = 0.03, 0.8, 0.99

    def update(k: int, w: list[Tensor], g: list[Tensor]) -> None:
        for i in range(2):
            if method == "adamw":
                w[i] = w[i] - lr * decay * w[i]
                gi = g[i]
            else:
                gi = g[i] + decay * w[i]
            m[i] = a * m[i] + (1 - a) * gi
            s[i] = b * s[i] + (1 - b) * gi**2
            w[i] = w[i] - lr * (m[i] / (1 - a**k)) / ((s[i] / (1 - b**k)).sqrt() + 1e-8)

    compare(method, update, lr, betas=(a, b), weight_decay=decay)


def test_clip_shortens_the_whole_gradient() -> None:
    def update(k: int, w: list[Tensor], g: list[Tensor]) -> None:
        norm = math.sqrt(sum(float((gi**2).sum()) for gi in g))
        factor = min(1.0, 0.5 / (norm + 1e-6))
        for i in range(2):
            w[i] = w[i] - 0.1 * factor * g[i]

    compare("sgd", update, 0.1, clip=0.5)


@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
def test_a_schedule_multiplies_the_learning_rate(name: str) -> None:
    def update(k: int, w: list[Tensor], g: list[Tensor]) -> None:
        for i in range(2):
            w[i] = w[i] - 0.1 * schedules.SCHEDULES[name](k - 1, 20) * g[i]

    compare("sgd", update, 0.1, schedule=name)


def test_lbfgs_reaches_the_closed_form_minimum_of_a_quadratic() -> None:
    x, y = data()
    decay = 0.3
    net = linear()
    on.fit(net, (x, y), "lbfgs", steps=60, lr=1.0, holdout=0.0, weight_decay=decay)
    A = torch.cat((x, torch.ones(N, 1)), 1)  # d/dw of mean squares + decay/2 |w|^2 is zero
    exact = torch.linalg.solve(2 * A.T @ A / y.numel() + decay * torch.eye(4), 2 * A.T @ y / y.numel())
    torch.testing.assert_close(torch.cat((net.weight.T, net.bias[None])).detach(), exact, rtol=0.0, atol=1e-8)


def test_minibatches_are_drawn_without_replacement_from_the_seed_alone() -> None:
    seen: list[Tensor] = []

    class Spy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            torch.rand(1)  # as a dropout mask would, from the global state
            return super().forward(x)

    x, y = data()
    on.fit(Spy(3, 2), (x, y), steps=3, batch=16, holdout=0.0, seed=4)
    g = torch.Generator().manual_seed(4)
    for k in range(3):
        assert torch.equal(seen[k], x[torch.randperm(N, generator=g)[:16]])


# ---- repeatability -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in on.train.names() if METHODS.get(m).needs != "squares"])
def test_the_same_seed_gives_the_same_run_and_leaves_the_global_state_alone(method: str) -> None:
    runs = []
    for seed in (3, 3, 4):
        net = on.nets.resnet(3, 3, width=4, steps=2, dropout=0.0 if METHODS.get(method).layerwise else 0.2)
        torch.randn(len(runs))  # the global state is another one every time
        before = torch.random.get_rng_state()
        fit = on.fit(net, labelled(), method, steps=5, lr=0.05, seed=seed, batch=16)
        assert torch.equal(torch.random.get_rng_state(), before)
        runs.append((losses(fit), [p.clone() for p in net.parameters()], fit.score))
    assert runs[0][0] == runs[1][0] and runs[0][2] == runs[1][2] and runs[0][0] != runs[2][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1]))


def test_scoring_and_calibrating_with_dropout_leave_the_global_state_alone() -> None:
    net = on.nets.resnet(3, 3, width=4, steps=2, dropout=0.2, norm="batch")
    before = torch.random.get_rng_state()
    on.fit(net, labelled(), steps=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_running_statistics_are_those_of_all_training_inputs_without_dropout() -> None:
    """What evaluation sees: both layers by hand, no mask, and parts that count alike.

    Parts of 512 would leave a third one with a single sample; a mask would act on the second layer.
    """
    x, y = labelled(1025)
    net = on.nets.resnet(3, 3, width=4, steps=2, dropout=0.5, norm="batch")
    on.fit(net, (x, y), steps=2, holdout=0.0, batch=64)
    opening, flow = net.parts[0], net.parts[1]
    w = {k: v.detach() for k, v in flow.weights.items()}
    state = opening(x).detach()
    for n in range(2):
        z = state @ w["K"][n].T
        torch.testing.assert_close(flow.stat_mean[n], z.mean(0), rtol=0.0, atol=5e-3 * float(z.std()))
        torch.testing.assert_close(flow.stat_var[n], z.var(0, correction=0), rtol=5e-3, atol=0.0)
        normal = (z - z.mean(0)) * torch.rsqrt(z.var(0, correction=0) + 1e-5)
        state = state + 0.5 * torch.tanh(normal * w["scale"][n] + w["shift"][n])


# ---- inputs --------------------------------------------------------------------------------------------------------


def test_tensors_are_split_by_the_seed_and_scored_on_the_part_held_out() -> None:
    x, y = data()
    net = linear()
    fit = on.fit(net, (x, y), steps=3, seed=9, holdout=0.25)
    held = torch.randperm(N, generator=torch.Generator().manual_seed(9))[:10]
    with torch.no_grad():
        error = net(x[held]) - y[held]
    spread = ((y[held] - y[held].mean(0)) ** 2).mean()
    assert fit.score["mse"] == pytest.approx(float((error**2).mean()), rel=1e-12)
    assert fit.score["r2"] == pytest.approx(1 - float((error**2).mean() / spread), rel=1e-12)


def test_without_held_out_data_the_score_says_that_it_is_on_training_data() -> None:
    fit = on.fit(linear(), data(), steps=2, holdout=0.0)
    assert sorted(fit.score) == ["train_loss", "train_mse", "train_r2"]
    x, y = data()
    with torch.no_grad():
        assert fit.score["train_mse"] == pytest.approx(float(((fit.net(x) - y) ** 2).mean()), rel=1e-12)


def test_a_data_set_its_name_and_its_tensors_give_the_same_run() -> None:
    given = on.data.load("moons", seed=2)
    rows = []
    for what in ("moons", given, (given.x, given.y)):
        net = on.nets.resnet(2, 2, width=4, steps=2)
        options = {"test": (given.x_test, given.y_test)} if isinstance(what, tuple) else {}
        fit = on.fit(net, what, steps=5, seed=2, batch=32, **options)
        rows.append((losses(fit), fit.score))
    assert rows[0] == rows[1] == rows[2]
    with torch.no_grad():
        accuracy = (net.eval()(given.x_test.double()).argmax(1) == given.y_test).double().mean()
    assert rows[0][1]["accuracy"] == float(accuracy)


def test_a_loader_is_gone_through_in_order_and_started_again() -> None:
    x, y = labelled(20)
    loader = DataLoader(TensorDataset(x, y), batch_size=8)  # 8, 8, 4, 8, ...
    net = on.nets.resnet(3, 3, width=4, steps=2)
    twin = on.nets.resnet(3, 3, width=4, steps=2)
    fit = on.fit(net, loader, "sgd", steps=4, lr=0.1, test=(x, y), validation=(x, y), validate_every=2)
    optimiser, seen = torch.optim.SGD(twin.parameters(), lr=0.1), []
    for rows in (slice(0, 8), slice(8, 16), slice(16, 20), slice(0, 8)):
        loss = nn.functional.cross_entropy(twin(x[rows]), y[rows])
        seen.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses(fit) == pytest.approx(seen, rel=1e-12)
    with torch.no_grad():
        out = twin(x)
    assert fit.score["accuracy"] == float((out.argmax(1) == y).double().mean())
    assert [r["step"] for r in fit.history if "val_loss" in r] == [2.0, 4.0]
    assert fit.history[-1]["val_loss"] == pytest.approx(float(nn.functional.cross_entropy(out, y)), rel=1e-12)
    unscored = on.fit(net, loader, steps=1)
    assert sorted(unscored.score) == ["train_accuracy", "train_loss"]


class Quadratic(on.Problem):
    """|w - target|^2 in two named parts; every batch is a draw of the generator."""

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        self.drawn.append(torch.rand(n, generator=generator))
        return self.drawn[-1]

    def losses(self, model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        return {"a": (model.weight[0, 0] - 1) ** 2, "b": (model.weight[0, 1] + 2).square().reshape(1)}

    def score(self, model: nn.Module) -> dict[str, float]:
        return {"distance": float((model.weight.detach() - torch.tensor([1.0, -2.0])).norm())}


def test_a_problem_brings_batches_losses_and_score() -> None:
    problem, net = Quadratic(), nn.Linear(2, 1, bias=False)
    start = net.weight.detach().clone()
    fit = on.fit(net, problem, "sgd", steps=30, lr=0.25, batch=7, seed=5)
    assert len(problem.drawn) == 30 and problem.drawn[0].shape == (7,)
    assert torch.equal(problem.drawn[0], torch.rand(7, generator=torch.Generator().manual_seed(5)))
    assert losses(fit)[0] == pytest.approx(float(((start - torch.tensor([1.0, -2.0])) ** 2).sum()))
    assert fit.score["distance"] == pytest.approx(float((start - torch.tensor([1.0, -2.0])).norm()) / 2**30, rel=1e-6)


def test_regression_and_sequences_of_labels_are_learned() -> None:
    x, y = data(200)
    fit = on.fit(on.nets.resnet(3, 2, width=16, steps=4), (x, y), steps=300, lr=1e-2)
    assert fit.score["r2"] > 0.95
    g = torch.Generator().manual_seed(0)
    s = torch.randn(300, 6, 2, generator=g)
    labels = (s.cumsum(1)[..., 0] > 0).long()
    fit = on.fit(on.nets.gru(2, 2, width=16, every_step=True), (s, labels), steps=150, lr=2e-2)
    assert fit.score["accuracy"] > 0.9 and set(fit.score) == {"accuracy", "loss"}


def test_outputs_that_are_not_finite_are_wrong_answers() -> None:
    class Overflowed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((len(x), 3), math.nan)

    pair = (torch.randn(12, 2), torch.zeros(12, dtype=torch.long))
    task = tasks.resolve(pair, loss=None, validation=None, test=pair, holdout=0.0, seed=0)
    assert task.score(Overflowed())["accuracy"] == 0.0


def test_one_score_for_two_classes_is_a_threshold() -> None:
    x, y = data(100)
    fit = on.fit(nn.Linear(3, 1), (x, (y[:, :1] > 0).long().squeeze(1)), steps=200, lr=0.05, loss="hinge")
    assert fit.score["accuracy"] > 0.8


def test_labels_of_any_integer_type_are_labels() -> None:
    x, y = labelled()
    runs = [losses(on.fit(linear3(), (x, y.to(t)), steps=3)) for t in (torch.int64, torch.int32, torch.uint8)]
    assert runs[0] == runs[1] == runs[2]


def linear3() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(3, 3)


def test_digits_are_read_in_300_steps() -> None:
    torch.set_default_dtype(torch.float32)
    net = on.nets.resnet(dim_in=64, dim_out=10, width=32, steps=4)
    assert on.fit(net, "digits", steps=300, lr=3e-3).score["accuracy"] >= 0.95
