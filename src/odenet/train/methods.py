"""Training methods: how one batch changes a network. Plug-ins of `fit(method=...)`, entry point `odenet.methods`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..registry import Registry

Losses = Callable[[Any], dict[str, Tensor]]
Advance = Callable[[Any], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a method gets: the net, the losses of a batch (penalties included; their sum is minimised), and options.

    words:    the keywords of `fit` itself, so that a misspelt one is recognised among the options
    terminal: (output of the net, batch) -> its loss, where the problem looks at the net through its output alone
    output:   the same where there are penalties too: of a method that takes `penalty` into account by itself
    constraint: the net is projected by it after every step; a method that compares losses projects its candidates too
    notes:    numbers of the last step that a method adds to the history
    """

    net: nn.Module
    losses: Losses
    lr: float
    weight_decay: float = 0.0
    clip: float | None = None
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    terminal: Callable[[Any, Any], Tensor] | None = None
    output: Callable[[Any, Any], Tensor] | None = None
    penalty: Any = None
    constraint: Any = ()
    notes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """begin(run) -> advance; advance(batch) makes one step and returns the losses before it.

    batch:     default batch size (None: all data at once)
    layerwise: chooses the weights of every layer for themselves, so it takes rows of layers with weights of their own,
               without dropout and batch normalisation
    needs:     "output": a loss of the net's output alone (targets, no penalty); "squares": mean squares of it
    """

    begin: Callable[[Run], Advance]
    batch: int | None = 128
    layerwise: bool = False
    needs: str = ""
    cite: str = ""
    when: str = ""


def descent(make: Callable[..., torch.optim.Optimizer], allowed: tuple[str, ...]) -> Callable[[Run], Advance]:
    """Gradient descent with a torch optimiser that takes the options `allowed`."""

    def begin(run: Run) -> Advance:
        weights = trained(run, allowed)
        return descending(run, _made(make, weights, lr=run.lr, weight_decay=run.weight_decay, **run.options))

    return begin


def descending(
    run: Run,
    optimiser: torch.optim.Optimizer,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> Advance:
    """One step of the optimiser for every batch whose loss is finite, between what is done before and after it."""
    weights = [p for group in optimiser.param_groups for p in group["params"]]
    schedule = run.schedule(optimiser) if run.schedule else None

    def advance(batch: Any) -> dict[str, Tensor]:
        run.net.zero_grad(set_to_none=True)
        losses = run.losses(batch)
        total = total_of(losses)
        if torch.isfinite(total.detach()):
            total.backward()
            before()
            if run.clip is not None:
                nn.utils.clip_grad_norm_(weights, run.clip)
            optimiser.step()
            if schedule is not None:
                schedule.step()
            after()
        return losses

    return advance


def quasi_newton(run: Run) -> Advance:
    """torch's L-BFGS with a strong-Wolfe line search; weight decay enters as its penalty."""
    weights = trained(run, ("history_size", "max_iter", "tolerance_grad", "tolerance_change"))
    if run.clip is not None:
        raise BadInput("clip does not go with lbfgs, whose line search needs the gradient itself; leave clip out.")
    options = {
        "max_iter": 1,
        "history_size": 20,
        "tolerance_grad": 0.0,
        "tolerance_change": 0.0,
        **run.options,
    }
    optimiser = _made(torch.optim.LBFGS, weights, lr=run.lr, line_search_fn="strong_wolfe", **options)
    schedule = run.schedule(optimiser) if run.schedule else None

    def advance(batch: Any) -> dict[str, Tensor]:
        first: dict[str, Tensor] = {}

        def closure() -> Tensor:
            optimiser.zero_grad(set_to_none=True)
            losses = run.losses(batch)
            total = total_of(losses)
            if run.weight_decay:
                total = total + 0.5 * run.weight_decay * torch.stack([(p**2).sum() for p in weights]).sum()
            first.update({} if first else losses)
            if total.requires_grad and torch.isfinite(total.detach()):
                total.backward()
            return total

        optimiser.step(closure)
        if schedule is not None:
            schedule.step()
        return first

    return advance


def total_of(losses: dict[str, Tensor]) -> Tensor:
    """The sum that is minimised."""
    return torch.stack([v.reshape(()) for v in losses.values()]).sum()


def trained(run: Run, allowed: tuple[str, ...]) -> list[nn.Parameter]:
    """The weights to train; raises BadInput where there are none, or for an option that is not `allowed`."""
    for option in sorted(set(run.options) - set(allowed)):
        near = difflib.get_close_matches(option, [*allowed, *run.words], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(allowed) or 'none'}."
        raise BadInput(f"this training method has no option {option!r}; {hint}")
    weights = [p for p in run.net.parameters() if p.requires_grad]
    if not weights:
        raise BadInput(
            f"{type(run.net).__name__} has no weights that require a gradient, so there is nothing to train."
        )
    return weights


def _made(make: Callable[..., torch.optim.Optimizer], weights: list[nn.Parameter], **options: Any) -> Any:
    """The optimiser; its own complaint about an option's value becomes BadInput."""
    try:
        return make(weights, **options)
    except (ValueError, TypeError) as problem:
        raise BadInput(f"the options of this training method cannot be right: {problem}.") from None


METHODS: Registry[Method] = Registry("training method", "odenet.methods")
METHODS.register(
    "adam",
    Method(
        descent(torch.optim.Adam, ("betas", "eps", "amsgrad")),
        cite="Kingma & Ba 2015",
        when="The default: little tuning, any net.",
    ),
)
METHODS.register(
    "adamw",
    Method(
        descent(torch.optim.AdamW, ("betas", "eps", "amsgrad")),
        cite="Loshchilov & Hutter 2019",
        when="Adam with weight decay that is not rescaled by the gradient's size.",
    ),
)
METHODS.register(
    "sgd",
    Method(
        descent(torch.optim.SGD, ("momentum", "nesterov", "dampening")),
        cite="Robbins & Monro 1951; Nesterov 1983",
        when="Image nets with a schedule; options momentum= and nesterov=.",
    ),
)
METHODS.register(
    "lbfgs",
    Method(
        quasi_newton,
        batch=None,
        cite="Liu & Nocedal 1989",
        when="Small problems on all data at once, where accuracy of the minimum counts.",
    ),
)
