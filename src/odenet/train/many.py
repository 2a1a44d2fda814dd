"""Training many nets of one architecture at once: members are a batch axis, one kernel serves all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from ..errors import BadInput, TrainingStopped
from ..flow import Flow
from . import schedules, tasks
from .fit import Fit, fit

BETAS, EPS = (0.9, 0.999), 1e-8


def fit_many(
    nets: Sequence[nn.Module],
    data: Sequence[Any],
    *,
    lr: Sequence[float],
    seeds: Sequence[int],
    steps: int = 500,
    batch: int = 128,
    schedule: str = "cosine",
) -> list[Fit]:
    """Train nets of one architecture side by side with Adam; member i has data[i], lr[i] and the batch order seeds[i].

    The result of each is that of fit(nets[i], data[i], "adam", steps, lr[i], seeds[i], batch=batch, schedule=schedule)
    up to rounding; `seconds` in the histories is the time of all divided by their number. Nets that cannot share
    kernels (batch norm, dropout, adaptive steps) are trained one after another. A member whose loss is not finite
    gets the status "non_finite" and does not disturb the others. Raises BadInput for lists of different lengths.
    """
    if not len(nets) == len(data) == len(lr) == len(seeds):
        raise BadInput(
            f"fit_many got {len(nets)} nets, {len(data)} data sets, {len(lr)} learning rates and {len(seeds)} seeds; "
            "give one of each for every member."
        )
    problems = [
        tasks.resolve(d, loss=None, validation=None, test=None, holdout=0.0, seed=s) for d, s in zip(data, seeds)
    ]
    if _alike(nets, problems, batch):
        stacked = _Members(nets, problems, lr, seeds, batch)
        try:
            stacked.step(schedules.SCHEDULES[schedule](0, steps))
        except RuntimeError as problem:  # functorch refuses what depends on the values, adaptive steps for instance
            if "vmap" not in str(problem):
                raise
        else:
            return stacked.train(steps, schedules.SCHEDULES[schedule])
    return [_single(n, p, a, s, steps, batch, schedule) for n, p, a, s in zip(nets, problems, lr, seeds)]


def _alike(nets: Sequence[nn.Module], problems: Sequence[Any], batch: int) -> bool:
    """Whether the members can share kernels."""
    if not all(isinstance(p, tasks.Supervised) for p in problems):
        return False
    first = [(k, v.shape, v.dtype) for k, v in nets[0].state_dict().items()]
    shapes = {(p.train[0].shape, p.train[1].shape) for p in problems}
    same = all([(k, v.shape, v.dtype) for k, v in n.state_dict().items()] == first for n in nets)
    plain = not any(_random(m) for net in nets[:1] for m in net.modules())
    return bool(first) and same and plain and len(shapes) == 1 and batch < len(problems[0].train[0])


def _random(module: nn.Module) -> bool:
    """Whether a module draws numbers or keeps statistics in training."""
    if isinstance(module, Flow):
        return bool(module.field.statistics or module.field.dropout or module.gradient.name != "autograd")
    return isinstance(module, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._BatchNorm)


def _single(net: nn.Module, problem: Any, lr: float, seed: int, steps: int, batch: int, schedule: str) -> Fit:
    try:
        return fit(net, problem, "adam", steps, lr, seed, batch=batch, schedule=schedule)
    except TrainingStopped as stopped:
        return stopped.fit


class _Members:
    """Stacked weights (M, *shape), Adam's two moments beside them, and the batches of every member."""

    def __init__(
        self,
        nets: Sequence[nn.Module],
        problems: Sequence[Any],
        lr: Sequence[float],
        seeds: Sequence[int],
        batch: int,
    ) -> None:
        self.nets, self.problems, self.batch = nets, problems, batch
        for net in nets:
            net.train()
        weights, self.buffers = stack_module_state(list(nets))  # type: ignore[arg-type]
        self.names = list(weights)
        self.weights = [weights[k].detach().clone() for k in self.names]
        self.moments = [[torch.zeros_like(w) for w in self.weights] for _ in BETAS]
        self.lr = torch.tensor(lr, dtype=torch.float64)
        # members with the same data share one copy of it, and those with the same order one draw
        self.sets = list({id(p.train[0]): p for p in problems}.values())
        place = {id(p.train[0]): i for i, p in enumerate(self.sets)}
        self.set_of = torch.tensor([place[id(p.train[0])] for p in problems])
        self.orders = {s: torch.Generator().manual_seed(s) for s in seeds}
        self.seeds = seeds
        self.x, self.y = (torch.stack([p.train[i] for p in self.sets]) for i in (0, 1))
        self.count, self.start = 0, time.perf_counter()
        self.losses: list[Tensor] = []
        self._gradient = self._differentiated(nets[0], problems[0].loss)

    def _differentiated(self, net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
        def of(weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return loss(functional_call(net, (weights, buffers), (x,)), y)

        return vmap(grad_and_value(of))

    def draw(self) -> tuple[Tensor, Tensor]:
        """The next batch of every member, (M, batch, ...)."""
        n = self.x.shape[1]
        index = {s: torch.randperm(n, generator=g)[: self.batch] for s, g in self.orders.items()}
        rows = torch.stack([index[s] for s in self.seeds])
        return self.x[self.set_of[:, None], rows], self.y[self.set_of[:, None], rows]

    def step(self, factor: float) -> None:
        """One step of Adam (Kingma & Ba 2015, algorithm 1) for all members, with learning rates factor * lr."""
        gradients, losses = self._gradient(dict(zip(self.names, self.weights)), self.buffers, *self.draw())
        self.count += 1
        self.losses.append(losses.detach())
        (b1, b2), (mean, square) = BETAS, self.moments
        scale = 1.0 / math.sqrt(1 - b2**self.count)
        rate = -factor * self.lr / (1 - b1**self.count)
        for w, m, v, name in zip(self.weights, mean, square, self.names):
            g = gradients[name]
            m.lerp_(g, 1 - b1)
            v.mul_(b2).addcmul_(g, g, value=1 - b2)
            each = rate.to(w.dtype).reshape(-1, *[1] * (w.dim() - 1))
            w.add_(each * m / (v.sqrt() * scale + EPS))

    def train(self, steps: int, schedule: Callable[..., float]) -> list[Fit]:
        """The remaining steps (one is done), then every member's weights back into its net."""
        for k in range(1, steps):
            self.step(schedule(k, steps))
        seconds = (time.perf_counter() - self.start) / len(self.nets)
        losses = torch.stack(self.losses).double()
        return [self._finished(i, losses[:, i].tolist(), seconds) for i in range(len(self.nets))]

    @torch.no_grad()
    def _finished(self, i: int, losses: list[float], seconds: float) -> Fit:
        net, total = self.nets[i], len(losses)
        own = dict(net.named_parameters())
        for name, w in zip(self.names, self.weights):
            own[name].copy_(w[i])
        history = [{"step": k + 1, "loss": v, "seconds": seconds * (k + 1) / total} for k, v in enumerate(losses)]
        finite = math.isfinite(losses[-1]) and all(bool(w[i].isfinite().all()) for w in self.weights)
        prefix = "" if self.problems[i].held_out == "test" else "train_"
        score = {prefix + k: v for k, v in self.problems[i].score(net).items()} if finite else {}
        return Fit(net, history, score, "done" if finite else "non_finite")
