"""What ends a run of `fit` early, what it watches on the way, and what it refuses before it starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import odenet as on
from odenet.errors import BadInput, TrainingStopped, UnknownName

pytestmark = pytest.mark.usefixtures("double")

X = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0.5).long()
REAL = X @ torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]], dtype=torch.float64)


def net(**options: Any) -> on.Chain:
    return on.nets.resnet(3, 3, width=4, steps=3, **options)


def losses(fit: Any) -> list[float]:
    return [row["loss"] for row in fit.history]


# ---- validation and stopping ---------------------------------------------------------------------------------------


def test_validation_is_measured_every_so_many_steps_and_at_the_end() -> None:
    fit = on.fit(net(), (X, Y), steps=7, validation=(X, Y), validate_every=3, holdout=0.0)
    assert [r["step"] for r in fit.history] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert [r["step"] for r in fit.history if "val_accuracy" in r] == [3.0, 6.0, 7.0]
    assert fit.history[-1]["val_loss"] == fit.score["train_loss"]
    seconds = [r["seconds"] for r in fit.history]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_watching_the_validation_part_does_not_change_the_run() -> None:
    runs = [losses(on.fit(net(dropout=0.3), (X, Y), steps=6, batch=16, **o))
            for o in ({}, {"validation": (X, Y), "validate_every": 1})]  # fmt: skip
    assert runs[0] == runs[1]


def test_early_stopping_ends_after_so_many_measurements_and_restores_the_best_weights() -> None:
    """The validation labels contradict the training labels, so their loss grows with every step."""
    model, kept = net(), []
    fit = on.fit(
        model, (X, Y), "sgd", steps=100, lr=0.5, holdout=0.0, validation=(X, (Y + 1) % 3), validate_every=2, patience=3,
        callbacks=[lambda f: kept.append([p.detach().clone() for p in f.net.parameters()])],
    )  # fmt: skip
    values = {int(r["step"]): r["val_loss"] for r in fit.history if "val_loss" in r}
    best = min(values, key=values.__getitem__)
    assert fit.status == "early_stopped" and len(fit.history) == best + 6
    assert all(torch.equal(a, b) for a, b in zip(kept[best - 1], model.parameters()))
    assert any(not torch.equal(a, b) for a, b in zip(kept[-1], model.parameters()))


def test_the_best_weights_come_back_when_the_steps_run_out_first() -> None:
    model, kept = net(), []
    fit = on.fit(
        model, (X, Y), "sgd", steps=6, lr=0.5, holdout=0.0, validation=(X, (Y + 1) % 3), validate_every=1, patience=50,
        callbacks=[lambda f: kept.append([p.detach().clone() for p in f.net.parameters()])],
    )  # fmt: skip
    values = [r["val_loss"] for r in fit.history]
    assert fit.status == "done" and values.index(min(values)) < 5
    assert all(torch.equal(a, b) for a, b in zip(kept[values.index(min(values))], model.parameters()))


def test_callbacks_see_every_step_and_one_may_end_the_run_though_all_are_called() -> None:
    seen: list[int] = []
    enough = [lambda f: len(f.history) == 4, lambda f: seen.append(len(f.history))]
    fit = on.fit(net(), (X, Y), steps=10, callbacks=enough)
    assert fit.status == "stopped" and seen == [1, 2, 3, 4] and "accuracy" in fit.score
    assert on.fit(net(), (X, Y), steps=3, callbacks=[lambda f: 1, lambda f: "yes"]).status == "done"  # only True ends


def test_a_penalty_is_the_weighted_sum_of_depth_penalties() -> None:
    model = net()
    flow = next(model.flows())
    start = float(sum(w * flow.penalty(k) for k, w in (("h1", 0.3), ("l2", 0.2))).detach())
    with torch.no_grad():
        plain = float(nn.functional.cross_entropy(model(X), Y))
    by_name = on.fit(net(), (X, Y), steps=4, holdout=0.0, penalty={"h1": 0.3, "l2": 0.2})
    assert losses(by_name)[0] == pytest.approx(plain + start, rel=1e-12) and start > 0.1
    by_function = on.fit(
        net(), (X, Y), steps=4, holdout=0.0,
        penalty=lambda n: sum(0.3 * f.penalty("h1") + 0.2 * f.penalty("l2") for f in n.flows()),
    )  # fmt: skip
    assert losses(by_name) == pytest.approx(losses(by_function), rel=1e-12)
    assert by_name.score["train_loss"] < losses(by_name)[-1]  # the score has no penalty in it


def test_augmentation_changes_the_inputs_of_training_and_not_of_the_score() -> None:
    calls: list[int] = []

    def zero(x: Tensor, generator: torch.Generator) -> Tensor:
        calls.append(len(x))
        return torch.zeros_like(x)

    model = nn.Linear(3, 2)
    bias_only = on.fit(model, (X, REAL), "sgd", steps=3, lr=0.1, batch=16, holdout=0.0, augment=zero)
    assert calls == [16, 16, 16]
    assert bias_only.score["train_mse"] == pytest.approx(float(((model(X) - REAL) ** 2).mean().detach()))


# ---- numbers that are not finite -----------------------------------------------------------------------------------


class Poisoned(on.Problem):
    """Cross-entropy whose inputs, or whose gradient only, are NaN from the k-th batch on."""

    def __init__(self, k: int, where: str) -> None:
        self.k, self.where, self.drawn, self.seen = k, where, 0, []

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        self.drawn += 1
        x = X.clone()
        if self.drawn >= self.k and self.where == "input":
            x[3, 1] = torch.nan
        return x, Y

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        self.seen.append([p.detach().clone() for p in model.parameters()])
        out = {"data": nn.functional.cross_entropy(model(batch[0]), batch[1])}
        if self.drawn >= self.k and self.where == "gradient":
            out["root"] = (0.0 * next(model.parameters()).sum()).abs().sqrt()  # value 0, derivative 0 * inf
        return out

    def score(self, model: nn.Module) -> dict[str, float]:
        raise AssertionError("a run that stopped is not scored")


ANY = [m for m in on.train.names() if not (on.train.METHODS.get(m).layerwise or on.train.METHODS.get(m).needs)]


@pytest.mark.parametrize("method", ANY)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_nan_in_the_loss_stops_with_the_weights_of_the_last_finite_loss(method: str, k: int) -> None:
    problem, model = Poisoned(k, "input"), net()
    with pytest.raises(TrainingStopped, match=rf"stopped at step {k}: the loss is nan \(layer 0 of 5") as caught:
        on.fit(model, problem, method, steps=8, lr=0.1, batch=40)
    fit = caught.value.fit
    assert fit.status == "non_finite" and fit.net is model and len(fit.history) == k - 1 and fit.score == {}
    if method != "lbfgs":  # whose line search evaluates more often than it steps
        last_finite = problem.seen[max(k - 2, 0)]
        assert all(torch.equal(a, b) for a, b in zip(last_finite, model.parameters()))
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("k", [1, 3, 4])
def test_a_nan_in_the_gradient_alone_stops_too_and_at_the_last_step_as_well(k: int) -> None:
    problem, model = Poisoned(k, "gradient"), net()
    with pytest.raises(TrainingStopped, match=rf"at step {k}: the step from the loss .* is not finite") as caught:
        on.fit(model, problem, "sgd", steps=4, lr=0.1, batch=40)
    assert caught.value.fit.status == "non_finite" and len(caught.value.fit.history) == k - 1
    assert all(torch.equal(a, b) for a, b in zip(problem.seen[k - 1], model.parameters()))


def test_the_first_layer_that_breaks_is_named() -> None:
    model = on.Chain(nn.Linear(3, 4), nn.Tanh(), Reciprocal(), nn.Linear(4, 3))
    with pytest.raises(TrainingStopped, match="layer 2 of 4 is the first whose output is not finite"):
        on.fit(model, (torch.zeros(5, 3), torch.zeros(5, dtype=torch.long)), steps=3, holdout=0.0)


class Reciprocal(nn.Module):
    """0/0 at the origin."""

    def forward(self, y: Tensor) -> Tensor:
        return (y - y) / (y - y)


def test_a_loss_that_runs_away_stops_and_names_a_remedy() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(TrainingStopped, match=r"use a smaller lr, clip=1\.0"):
        on.fit(model, (X, REAL), "sgd", steps=2000, lr=100.0)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_weight_broken_from_outside_is_named() -> None:
    def spoil(fit: Any) -> None:
        if len(fit.history) == 2:
            with torch.no_grad():
                fit.net.parts[2].bias[0] = torch.inf

    with pytest.raises(TrainingStopped, match=r"step 3: .*the weight 'parts\.2\.bias' is not finite"):
        on.fit(net(), (X, Y), steps=5, callbacks=[spoil])


def test_a_stop_is_reported_for_batches_of_any_kind() -> None:
    class Dictionary(Poisoned):
        def sample(self, n: int, generator: torch.Generator) -> Any:
            return {"x": X}

        def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
            return {"data": model(batch["x"]).sum() * torch.nan}

    with pytest.raises(TrainingStopped, match="step 1: the loss is nan"):
        on.fit(net(), Dictionary(1, ""), steps=2)


# ---- refusals ------------------------------------------------------------------------------------------------------


def fits(data: Any = None, model: Any = None, *a: Any, **o: Any) -> Callable[[], Any]:
    return lambda: on.fit(net() if model is None else model(), (X, Y) if data is None else data, *a, **o)


def nan(x: Tensor) -> Tensor:
    x = x.clone()
    x[2] = torch.nan
    return x


LOADER = DataLoader(TensorDataset(X, Y), batch_size=8)
WRONG: list[tuple[Callable[[], Any], str]] = [
    *[(fits(lr=v), "lr is a positive number") for v in (0, -1e-3, float("nan"), float("inf"), "fast")],
    *[(fits(steps=v), "steps is a positive whole number") for v in (0, -3, 2.0, None)],
    (fits(batch=0), "batch is a positive whole number, got 0"),
    (fits(patience=0, validation=(X, Y)), "patience is a positive whole number"),
    (fits(weight_decay=-1.0), "weight_decay >= 0"), (fits(weight_decay=float("nan")), "weight_decay >= 0"),
    (fits(clip=0.0), "clip > 0"), (fits(clip=float("nan")), "clip > 0"), (fits(holdout=1.0), "holdout < 1"),
    (fits(seed=None), "seed is a whole number"), (fits(seed=0.5), "seed is a whole number"),
    (fits(method="adamm"), "no training method is called 'adamm'; did you mean 'adam"),
    (fits(momentum=0.9), "no option 'momentum'; it takes betas, eps, amsgrad"),
    (fits(method="sgd", momentm=0.9), "no option 'momentm'; did you mean 'momentum'"),
    (fits(shedule="cosine"), "no option 'shedule'; did you mean 'schedule'"),
    (fits(wait_decay=0.1), "no option 'wait_decay'; did you mean 'weight_decay'"),
    (fits(method="sgd", momentum=-1.0), "cannot be right: Invalid momentum"),
    (fits(method="sgd", nesterov=True), "cannot be right: Nesterov"),
    (fits(method="lbfgs", clip=1.0), "clip does not go with lbfgs"),
    (fits(method="lbfgs", data=Poisoned(9, "")), "takes all data at once, but a Problem draws points"),
    (fits(schedule="cosin"), "no schedule is called 'cosin'; did you mean 'cosine'"),
    (fits(loss="hing"), "no loss is called 'hing'; did you mean 'hinge'"),
    (fits(penalty={"h2": 1.0}), "depth penalty 'h2' is not known"),
    (fits(penalty={"h1": 1.0}, model=lambda: nn.Linear(3, 3)), "depth penalties act on flows"),
    (fits(patience=3), "no validation part; give validation"),
    (fits(data=LOADER, validate_every=3), "no validation part; give validation"),
    (fits(data=Poisoned(9, ""), validation=(X, Y)), "a Problem brings its own losses"),
    (fits(data=Poisoned(9, ""), loss="mse"), "a Problem brings its own losses"),
    (fits(data="digitz"), "no data set is called 'digitz'; did you mean 'digits'"),
    (fits(data=3), "tensors .x, y.; got int"), (fits(data=(X,)), "got tuple"), (fits(data=(X.numpy(), Y)), "got tuple"),
    (fits(data=(nan(X), Y)), "the training inputs hold NaN"),
    (fits(data=(X, nan(REAL)), model=lambda: nn.Linear(3, 2)), "the training targets hold NaN"),
    (fits(data=(X, Y[:30])), r"inputs of shape \(40, 3\) and targets of shape \(30,\)"),
    (fits(data=(X[:0], Y[:0])), "and not none"), (fits(data=(X[:1], Y[:1])), "training data has inputs of shape"),
    (fits(validation=0.2), "the validation data is a pair of tensors .x, y., got float"),
    (fits(test=(X, Y[:3])), "the test data has inputs"), (fits(test=(nan(X), Y)), "the test inputs hold NaN"),
    (fits(data=DataLoader([], batch_size=2)), "the DataLoader is empty"),
    (fits(data=DataLoader(TensorDataset(X, Y, Y), batch_size=4)), "the batch data is a pair of tensors"),
    (fits(data=(X, Y + 1)), "labels go from [12] to 3, but the net gives 3 scores, .* dim_out=4"),
    (fits(data=(X, Y - 1)), "labels go from -1 to 1, but the net gives 3 scores"),
    (fits(data=(X, Y[:, None])), "it should give a score per class"),
    (fits(data=(X, REAL)), r"the net gives \(32, 3\) for targets of shape \(32, 2\); they must agree"),
    (fits(data=(X, REAL[:, 0]), model=lambda: nn.Linear(3, 1)), r"\(32, 1\) for targets of shape \(32,\)"),
    (fits(model=nn.Identity), "Identity has no weights that require a gradient"),
]  # fmt: skip


@pytest.mark.parametrize(("run", "sentence"), WRONG)
def test_what_cannot_be_right_is_refused_in_one_line(run: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as caught:
        run()
    assert "\n" not in str(caught.value)


def test_the_words_of_fit_are_those_of_the_contract() -> None:
    words = list(inspect.signature(on.fit).parameters)
    assert words[:7] == ["net", "data", "method", "steps", "lr", "seed", "batch"]
    assert {"schedule", "weight_decay", "clip", "validation", "callbacks", "device"} <= set(words)


def test_unknown_names_are_key_errors_too() -> None:
    with pytest.raises(UnknownName) as caught:
        on.fit(net(), (X, Y), "adamm")
    assert isinstance(caught.value, KeyError)


def test_a_fit_reads_as_a_sentence() -> None:
    text = repr(on.fit(net(), (X, Y), steps=2))
    assert text.startswith("Fit(done after 2 steps, loss ") and "accuracy " in text
