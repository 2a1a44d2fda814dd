"""Accuracy under noise and under another integrator, and how far a small perturbation really travels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, Incompatible, SolveFailed
from .attacks import scores
from .twins import PRECISIONS, quantised, refined, title
from .unroll import Parts, Unrolled, flat, in_evaluation


def checked_labels(y: Tensor | None, x: Tensor) -> Tensor | None:
    """Class labels (B,) of whole numbers, or None. Raises BadInput."""
    if y is None:
        return None
    if not isinstance(y, Tensor) or y.is_floating_point() or y.dim() != 1 or len(y) != len(x):
        given = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise BadInput(
            f"accuracy needs class labels y, a tensor of {len(x)} whole numbers for these inputs, got {given}; "
            "leave y out for a model that is no classifier."
        )
    return y.long()


def check_scores(out: Tensor, y: Tensor) -> None:
    """Raise BadInput unless the outputs (B, classes) have a score for every label."""
    if out.dim() != 2 or int(y.min()) < 0 or int(y.max()) >= out.shape[1]:
        raise BadInput(
            f"labels from {int(y.min())} to {int(y.max())} need outputs (B, {int(y.max()) + 1}) or wider, but the "
            f"model gives {tuple(out.shape)}; leave y out for a model that is no classifier."
        )


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples whose outputs are finite and largest at their label."""
    return hits(model(x).flatten(1), y)


def hits(out: Tensor, y: Tensor) -> float:
    """The same from outputs (B, classes): a sample that overflowed is none."""
    return float(((out.argmax(1) == y) & out.isfinite().all(1)).double().mean())


def input_noise(
    model: nn.Module, x: Tensor, y: Tensor, levels: Sequence[float], draws: int = 3, seed: int = 0
) -> list[float]:
    """Mean accuracy over `draws` for x + level s N(0, I), s the standard deviation of all entries of x."""
    size = float(x.std()) if x.numel() > 1 else 1.0
    return [
        sum(accuracy(model, x + level * size * noise, y) for noise in _draws(x, draws, seed)) / draws
        for level in levels
    ]


def weight_noise(
    model: nn.Module, x: Tensor, y: Tensor, levels: Sequence[float], draws: int = 3, seed: int = 0
) -> list[float]:
    """Mean accuracy over `draws` when every weight tensor w becomes w + level rms(w) N(0, I); `model` is not
    changed."""
    twin = in_evaluation(model)
    own = [(p, p.detach().clone()) for p in twin.parameters()]
    found = []
    for level in levels:
        total = 0.0
        for draw in range(draws):
            generator = torch.Generator().manual_seed(seed + draw)
            for p, w in own:
                noise = torch.randn(w.shape, generator=generator).to(w)
                p.data.copy_(w + level * w.square().mean().sqrt() * noise)
            total += accuracy(twin, x, y)
        found.append(total / draws)
    return found


def quantisation(model: nn.Module, x: Tensor, y: Tensor | None = None) -> dict[str, float]:
    """What rounding the weights to bf16 and int8 costs: output_change_<precision>, the largest |dy|/|y| over samples,
    and with labels accuracy_<precision> (see `twins.quantised`). Choose it before a net is put on a small device."""
    found: dict[str, float] = {}
    model = in_evaluation(model)
    out = scores(model, x)
    for precision in PRECISIONS:
        moved = scores(quantised(model, precision), x)
        change = (moved - out).norm(dim=1) / out.norm(dim=1).clamp(min=torch.finfo(out.dtype).tiny)
        found[f"output_change_{precision}"] = float(change.max())
        if y is not None:
            found[f"accuracy_{precision}"] = hits(moved, y)
    return found


def _draws(x: Tensor, draws: int, seed: int) -> Iterator[Tensor]:
    for draw in range(draws):
        yield torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + draw)).to(x)


def exchange(
    model: nn.Module, x: Tensor, y: Tensor, integrators: Sequence[Any], refine: Sequence[float] = (1, 2, 4)
) -> dict[tuple[str, float], float]:
    """Accuracy of the same weights under other integrators with 1, 2, 4 times the steps; keys (integrator,
    factor).

    A factor of 1/2 or 1/4 takes longer steps, over knot intervals that are merged where need be (see `refined`).
    Integrators that the field does not suit are left out, and factors that the number of intervals does not allow; one
    that fails to finish counts as 0. A net that is a discretised ODE hardly changes; one that has learned its own
    integrator does (Ott et al. 2021).
    """
    found: dict[tuple[str, float], float] = {}
    for integrator in integrators:
        for factor in refine:
            try:
                twin = refined(model, integrator, factor)
            except Incompatible:
                break
            except BadInput:
                if factor >= 1:
                    raise
                continue
            found[title(integrator), factor] = _accuracy_if_finished(twin, x, y)
    return found


def _accuracy_if_finished(model: nn.Module, x: Tensor, y: Tensor) -> float:
    try:
        return accuracy(model.eval(), x, y)
    except SolveFailed:
        return 0.0


def exchange_matrix(
    models: Mapping[str, nn.Module], x: Tensor, y: Tensor, integrators: Sequence[Any], refine: float = 1
) -> list[list[float | None]]:
    """Rows: the given nets, named by what they were trained under; columns: test integrators; None where
    unsuited."""
    return [list(_row(exchange(model, x, y, integrators, (refine,)), integrators)) for model in models.values()]


def _row(found: dict[tuple[str, float], float], integrators: Sequence[Any]) -> Iterator[float | None]:
    by_name = {name: value for (name, _), value in found.items()}
    for integrator in integrators:
        yield by_name.get(title(integrator))


@torch.no_grad()
def perturbation_growth(unrolled: Unrolled, size: float = 1e-3, seed: int = 0) -> Tensor:
    """|y_n(y_0 + d) - y_n(y_0)|/|d| for n = 0..N and a random d with |d| = size |y_0| per sample, (N + 1, P).

    Nonlinear and of finite size, so it checks the products of Jacobians.
    """
    y = unrolled.states[0][0]
    d = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(y)
    scale = size * _norms(y).clamp(min=1e-12) / _norms(d)
    d = d * scale.reshape(-1, *[1] * (y.dim() - 1))
    parts: Parts = (y + d,)
    out = [torch.ones_like(scale)]
    for layer, state in zip(unrolled.layers, unrolled.states[1:]):
        parts = layer.run(parts)
        out.append(_norms(parts[0] - state[0]) / _norms(d))
    return torch.stack(out)


def _norms(y: Tensor) -> Tensor:
    return flat((y,)).norm(dim=1)
