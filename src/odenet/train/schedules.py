"""Learning rates over time, by name, and the test that finds a rate to start from.

    schedule("cosine", optimizer, steps=1000)          a LambdaLR: call .step() after each optimizer.step()
    lr_range_test(net, x, y).suggestion                a learning rate for this net and data

A schedule is a function factor(k, steps, ...) of the step k = 0 .. steps - 1: the rate is lr times it.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ..errors import BadInput, UnknownName
from . import losses


def constant(k: int, steps: int) -> float:
    """1."""
    return 1.0


def step(k: int, steps: int, drops: tuple[float, ...] = (0.5, 0.75), factor: float = 0.1) -> float:
    """Times `factor` at each of the fractions `drops` of the run: residual nets on images."""
    return factor ** sum(k >= drop * steps for drop in drops)


def exponential(k: int, steps: int, final: float = 0.01) -> float:
    """final^(k / steps)."""
    return final ** (k / steps)


def cosine(k: float, steps: float, final: float = 0.0) -> float:
    """final + (1 - final) (1 + cos(pi k / steps)) / 2. I. Loshchilov & F. Hutter, ICLR 2017, eq. (5)."""
    return final + (1 - final) * (1 + math.cos(math.pi * min(k, steps) / steps)) / 2


def warmup_cosine(k: int, steps: int, warmup: float = 0.1, final: float = 0.0) -> float:
    """Linear from 0 over the first `warmup` of the run, then cosine: deep nets and attention."""
    rise = max(1, round(warmup * steps))
    return (k + 1) / rise if k < rise else cosine(k - rise, max(1, steps - rise), final)


def one_cycle(k: int, steps: int, warmup: float = 0.3, start: float = 0.04, final: float = 4e-6) -> float:
    """Half a cosine from `start` up to 1 at `warmup` of the run, half a cosine down to `final`.

    For short runs at a high rate. L. Smith & N. Topin, arXiv 1708.07120.
    """
    top, last = warmup * steps - 1, steps - 1
    if k <= top:
        return start + (1 - start) * (1 - math.cos(math.pi * k / top)) / 2
    return cosine(min(k - top, last - top), last - top, final) if last > top else 1.0


SCHEDULES: dict[str, Callable[..., float]] = {
    f.__name__: f for f in (constant, step, exponential, cosine, one_cycle, warmup_cosine)
}


def schedule(name: str, optimizer: torch.optim.Optimizer, steps: int, **options: Any) -> LambdaLR:
    """The schedule called `name` for a run of `steps` steps of `optimizer`; raises UnknownName, BadInput."""
    if name not in SCHEDULES:
        near = difflib.get_close_matches(str(name), SCHEDULES, n=2) or sorted(SCHEDULES)
        raise UnknownName(f"no schedule is called {name!r}; did you mean {' or '.join(map(repr, near))}?")
    factor = SCHEDULES[name]
    known = list(inspect.signature(factor).parameters)[2:]
    if steps < 1 or not set(options) <= set(known):
        raise BadInput(
            f"schedule {name!r} takes steps >= 1 and options {', '.join(known) or '(none)'}; it was given "
            f"steps={steps!r} and {', '.join(options) or 'no options'}."
        )
    return LambdaLR(optimizer, lambda k: factor(k, steps, **options))


@dataclass(frozen=True)
class RangeTest:
    """Rates tried, smoothed losses there, and the rate where the loss fell fastest per factor of rate."""

    lrs: list[float]
    losses: list[float]
    suggestion: float


def lr_range_test(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
    low: float = 1e-5,
    high: float = 10.0,
    steps: int = 100,
    batch: int = 64,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    seed: int = 0,
) -> RangeTest:
    """Train `steps` batches while the rate grows geometrically from `low` to `high`, until the loss blows up.

    The net's weights, buffers, gradients and mode, and the global random state, are as before afterwards.
    x (n, D), y (n, ...). L. Smith, WACV 2017, arXiv 1506.01186, sec. 3.3. Raises BadInput unless
    0 < low < high and steps >= 5, and where the very first loss is not finite.
    """
    if not 0 < low < high or steps < 5:
        raise BadInput(f"a range test needs 0 < low < high and steps >= 5, not {low!r}, {high!r}, {steps!r}.")
    f = losses.get(loss) if isinstance(loss, str) else loss
    trial = copy.deepcopy(net).train()
    lrs = [low * (high / low) ** (k / (steps - 1)) for k in range(steps)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        seen = _climb(trial, x, y, f, lrs, batch, optimizer(trial.parameters(), lr=low))
    if not seen:
        raise BadInput("the first loss is not finite already; check the data and the initial weights.")
    return RangeTest(lrs[: len(seen)], seen, _steepest(lrs, seen))


def _climb(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    f: Callable[[Tensor, Tensor], Tensor],
    lrs: list[float],
    batch: int,
    opt: torch.optim.Optimizer,
) -> list[float]:
    """Smoothed losses, up to the first that is not finite or four times the best."""
    seen: list[float] = []
    mean = 0.0
    for k, lr in enumerate(lrs):
        for group in opt.param_groups:
            group["lr"] = lr
        rows = torch.randperm(len(x))[:batch].to(x.device)
        opt.zero_grad()
        value = f(net(x[rows]), y[rows])
        mean = 0.8 * mean + 0.2 * value.item()
        smooth = mean / (1 - 0.8 ** (k + 1))
        if not math.isfinite(smooth) or (seen and smooth > 4 * min(seen)):
            break
        seen.append(smooth)
        value.backward()
        opt.step()
    return seen


def _steepest(lrs: list[float], seen: list[float]) -> float:
    """The rate before the minimum where the smoothed loss falls fastest; the first if it never falls."""
    best = seen.index(min(seen))
    falls = [seen[k] - seen[k + 1] for k in range(best)]
    return lrs[falls.index(max(falls))] if falls else lrs[0]
