"""One training loop for every method, net and problem."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, TrainingStopped
from ..flow import Flow, calibrate
from ..flow.sweep import layers_of
from . import schedules, tasks
from .constraints import projected
from .methods import METHODS, Run, total_of


@dataclass(repr=False)
class Fit:
    """A finished training run.

    history  list of dicts: step, loss, seconds, what the method notes (rho, rejected), and on validation steps
             val_loss, val_accuracy (or val_mse)
    score    numbers on held-out data ("accuracy", or "mse" and "r2"; "loss"); without held-out data the keys start
             with "train_"
    status   "done", "early_stopped", "stopped" (by a callback) or "non_finite"
    """

    net: nn.Module
    history: list[dict[str, float]] = field(default_factory=list)
    score: dict[str, float] = field(default_factory=dict)
    status: str = "running"

    def __repr__(self) -> str:
        loss = f"{self.history[-1]['loss']:.4g}" if self.history else "none"
        score = ", ".join(f"{k} {v:.4g}" for k, v in self.score.items())
        return f"Fit({self.status} after {len(self.history)} steps, loss {loss}; {score})"


def fit(
    net: nn.Module,
    data: Any,
    method: str = "adam",
    steps: int = 500,
    lr: float = 1e-3,
    seed: int = 0,
    *,
    batch: int | None = None,
    schedule: str | None = None,
    weight_decay: float = 0.0,
    clip: float | None = None,
    loss: Any = None,
    penalty: Mapping[str, float] | Callable[..., Tensor] | Sequence[Any] | None = None,
    constraint: Callable[[nn.Module], Any] | Sequence[Callable[[nn.Module], Any]] = (),
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    validation: Any = None,
    validate_every: int | None = None,
    patience: int | None = None,
    test: Any = None,
    holdout: float = 0.2,
    callbacks: Iterable[Callable[[Fit], Any]] = (),
    device: Any = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Fit:
    """Train `net` in place; returns its history, score on held-out data, and status.

    data:      a data set's name, Dataset, Problem, DataLoader, or tensors (x, y), `holdout` of which is for the score
    method:    "adam", "adamw", "sgd" (momentum=, nesterov=), "lbfgs"; of second order "gauss_newton" (damping=),
               "varpro" (ridge=), "slimtrain" (memory=); of optimal control
               "sqh", "emsa" (rho=), "prox_msa", "kfac", "snopt" (rho=, eps=), "msa", "binary_msa", "ternary_msa";
               further words are its options
    batch:     batch size; None: the method's own (128; lbfgs: all data)
    schedule:  of the learning rate: a name from train.schedules ("cosine", "one_cycle", ...)
    penalty:   weights of depth penalties such as {"h1": 1e-3, "l2": 1e-4}, or a function of the net, or of the net
               and the batch (such as train.costs.kinetic(0.01) or nets.steady_state()), or several of these in a list
    constraint: projects the net in place, before the first step and after every one (train.constraints), or several
    validate_every, patience:  measure on the validation part every so many steps; end when its loss has not improved
               for `patience` measurements, and go back to the best weights
    callbacks: called with the Fit after every step; one that returns True ends the run

    Raises BadInput for options that cannot be right, and TrainingStopped (with `.fit`) when the loss is no longer
    finite: the net then has the weights of the last finite loss, and the message names the first layer that broke.
    """
    chosen = METHODS.get(method)
    _check(steps, lr, weight_decay, clip, batch, patience, validate_every, holdout, seed)
    net = net.to(device=device, dtype=dtype)
    where = next((p for p in net.parameters()), torch.zeros(()))
    problem = tasks.resolve(data, loss=loss, validation=validation, test=test, holdout=holdout, seed=seed)
    if hasattr(problem, "to"):
        problem = problem.to(where.device, where.dtype)
    part = getattr(problem, "validation", None)
    if batch is None and chosen.batch is None and not isinstance(problem, tasks.Supervised | tasks.Streamed):
        raise BadInput(f"method {method!r} takes all data at once, but a Problem draws points; write batch=1000, say.")
    if (patience or validate_every) and part is None:
        raise BadInput("validation was asked for, but the data has no validation part; give validation=(x, y).")
    every = validate_every or (max(1, steps // 50) if patience else None)

    def losses(given: Any) -> dict[str, Tensor]:
        terms = problem.losses(net, given)
        return {**terms, "penalty": _penalty(net, penalty, given)} if penalty else terms

    def terminal(out: Any, given: Any) -> Tensor:
        return total_of(problem.losses(lambda _: out, given))

    output = terminal if isinstance(problem, tasks.Supervised | tasks.Streamed) else None
    run = Run(
        net=net,
        losses=losses,
        lr=lr,
        weight_decay=weight_decay,
        clip=clip,
        schedule=(lambda optimiser: schedules.schedule(schedule, optimiser, steps)) if schedule else None,
        options=options,
        words=tuple(p.name for p in inspect.signature(fit).parameters.values() if p.kind is p.KEYWORD_ONLY),
        terminal=None if penalty else output,
        output=output,
        penalty=penalty,
        constraint=constraint,
    )
    projected(constraint, net)
    advance = chosen.begin(run)
    result = Fit(net)
    size = batch or chosen.batch or 2**62
    best = _Best(patience)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        _loop(
            result, problem, advance, partial(projected, constraint), run.notes, steps, size, generator, augment, every,
            best, tuple(callbacks),
        )  # fmt: skip
        if best.weights is not None and patience:
            _restore(net, best.weights)
        _settle(net, problem)
        found = problem.score(net)
    result.score = (
        found if getattr(problem, "held_out", "test") == "test" else {f"train_{k}": v for k, v in found.items()}
    )
    return result


def _loop(
    result: Fit,
    problem: Any,
    advance: Callable[[Any], dict[str, Tensor]],
    project: Callable[[nn.Module], None],
    notes: Mapping[str, float],
    steps: int,
    size: int,
    generator: torch.Generator,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None,
    every: int | None,
    best: _Best,
    callbacks: tuple[Callable[[Fit], Any], ...],
) -> None:
    net, start = result.net, time.perf_counter()
    net.train()
    good = _snapshot(net)
    for step in range(1, steps + 1):
        given = problem.sample(size, generator)
        if augment is not None:
            given = (augment(given[0], generator), *given[1:])
        before = _snapshot(net)
        value = float(total_of(advance(given)).detach())
        broken = math.isfinite(value) and not _finite(net)  # a finite loss may have a gradient that is not
        if broken or not math.isfinite(value):
            result.status = "non_finite"
            what = f"the step from the loss {value:.4g} is not finite" if broken else f"the loss is {value}"
            culprit = _culprit(net, given)
            _restore(net, before if broken else good)
            raise TrainingStopped(
                f"training stopped at step {step}: {what}{culprit}. The net has the weights of the last "
                "finite loss; use a smaller lr, clip=1.0, or a smaller step size (a shorter span or more steps).",
                result,
            )
        good = before
        project(net)
        row = {"step": step, "loss": value, "seconds": time.perf_counter() - start, **notes}
        if every and (step % every == 0 or step == steps):
            _settle(net, problem)
            row |= {f"val_{k}": v for k, v in problem.measure(net, problem.validation).items()}
        result.history.append(row)
        if "val_loss" in row and best.over(row["val_loss"], net):
            result.status = "early_stopped"
            return
        answers = [callback(result) for callback in callbacks]  # all are called, whatever the first one says
        if any(answer is True for answer in answers):
            result.status = "stopped"
            return
    result.status = "done"


class _Best:
    """The weights of the smallest validation loss, and when to give up."""

    def __init__(self, patience: int | None) -> None:
        self.patience, self.loss, self.waited = patience, math.inf, 0
        self.weights: list[Tensor] | None = None

    def over(self, loss: float, net: nn.Module) -> bool:
        if self.patience is None:
            return False
        if loss < self.loss:
            self.loss, self.waited, self.weights = loss, 0, _snapshot(net)
            return False
        self.waited += 1
        return self.waited >= self.patience


@torch.no_grad()
def _snapshot(net: nn.Module) -> list[Tensor]:
    return [v.detach().clone() for v in net.state_dict().values()]


@torch.no_grad()
def _restore(net: nn.Module, saved: list[Tensor]) -> None:
    for v, kept in zip(net.state_dict().values(), saved):
        v.copy_(kept)


def _settle(net: nn.Module, problem: Any) -> None:
    """Running statistics of the flows from the training inputs, as evaluation will see them (without dropout)."""
    has = any(isinstance(m, Flow) and m.field.statistics for m in net.modules())
    train = getattr(problem, "train", None)
    if has and train is not None:
        calibrate(net, train[0].split(512))


def _penalty(net: nn.Module, penalty: Any, batch: Any) -> Tensor:
    if isinstance(penalty, list | tuple):
        return torch.stack([_penalty(net, one, batch) for one in penalty]).sum()
    if callable(penalty):
        given = [p for p in inspect.signature(penalty).parameters.values() if p.default is p.empty]
        places = [p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return penalty(net, batch) if len(places) > 1 else penalty(net)
    flows = [m for m in net.modules() if isinstance(m, Flow)]
    if not flows:
        raise BadInput("depth penalties act on flows, and this net has none; give penalty as a function of the net.")
    return torch.stack([w * flow.penalty(kind) for kind, w in penalty.items() for flow in flows]).sum()


@torch.no_grad()
def _finite(net: nn.Module) -> bool:
    """Whether all weights are finite, with one look at the device."""
    return bool(torch.isfinite(nn.utils.get_total_norm(net.parameters(), norm_type=math.inf)))


@torch.no_grad()
def _culprit(net: nn.Module, batch: Any) -> str:
    """Which layer first gives a non-finite number on this batch, or which weight holds one."""
    bad = [name for name, p in net.named_parameters() if not bool(torch.isfinite(p).all())]
    if bad:
        return f" (the weight {bad[0]!r} is not finite)"
    try:
        state, layers = batch[0], layers_of(net)
        for n, layer in enumerate(layers):
            state = layer(state)
            if not all(bool(torch.isfinite(s).all()) for s in (state if isinstance(state, tuple) else (state,))):
                return f" (layer {n} of {len(layers)} is the first whose output is not finite)"
    except Exception:  # a batch of another kind, or no row of layers: the stop itself must still be reported
        return ""
    return ""


def _check(
    steps: Any,
    lr: Any,
    weight_decay: float,
    clip: float | None,
    batch: Any,
    patience: Any,
    validate_every: Any,
    holdout: float,
    seed: Any,
) -> None:
    for name, value, optional in (
        ("steps", steps, False),
        ("batch", batch, True),
        ("patience", patience, True),
        ("validate_every", validate_every, True),
    ):
        if not (optional and value is None) and (not isinstance(value, int) or value < 1):
            raise BadInput(f"{name} is a positive whole number, got {value!r}.")
    if not (isinstance(lr, (int, float)) and 0 < lr < math.inf):
        raise BadInput(f"lr is a positive number such as 1e-3, got {lr!r}.")
    if not isinstance(seed, int):
        raise BadInput(f"seed is a whole number, got {seed!r}.")
    if not weight_decay >= 0 or not (clip is None or clip > 0) or not 0 <= holdout < 1:
        raise BadInput(f"weight_decay >= 0, clip > 0 and 0 <= holdout < 1, got {weight_decay}, {clip} and {holdout}.")
