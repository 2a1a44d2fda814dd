"""Attacks on a classifier: inputs inside a ball around the data that are chosen to be misclassified.

    x* = argmax L(model(z), y)   over |z - x| <= eps in the 2-norm or the largest entry, and z in the data's box

All take a batch x (B, ...) with labels y (B,) and return inputs of the same shape. A sample counts as broken where the
largest score is not that of its label, or the scores are not finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..errors import BadInput, SolveFailed

NORMS = ("linf", "l2")
Box = tuple[float, float] | None


@dataclass(frozen=True)
class Ball:
    """All z with |z - x| <= eps in `norm` and low <= z <= high; raises BadInput for x outside its box."""

    x: Tensor
    eps: float
    norm: str = "linf"
    box: Box = None

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise BadInput(f"norm {self.norm!r} is not known; write 'linf' or 'l2'.")
        if not 0 <= self.eps < math.inf:
            raise BadInput(f"the radius of an attack is a number >= 0, got {self.eps}.")
        if self.box is not None and not (self.box[0] <= float(self.x.min()) and float(self.x.max()) <= self.box[1]):
            raise BadInput(
                f"the data lies in [{float(self.x.min()):.4g}, {float(self.x.max()):.4g}], outside the box {self.box}; "
                "give the box of the data, or None."
            )

    def project(self, z: Tensor) -> Tensor:
        """The nearest point of the ball, then of the box (which only moves it towards x)."""
        d = z - self.x
        d = d.clamp(-self.eps, self.eps) if self.norm == "linf" else d * (self.eps / _size(d)).clamp(max=1.0)
        z = self.x + d
        return z if self.box is None else z.clamp(*self.box)

    def towards(self, direction: Tensor, length: float) -> Tensor:
        """The step of this length in the norm that goes furthest along `direction`; 0 where that is 0 or not finite."""
        good = direction.isfinite().flatten(1).all(1).reshape(-1, *[1] * (direction.dim() - 1))
        g = torch.where(good, direction, torch.zeros_like(direction))
        if self.norm == "linf":
            return length * g.sign()
        g = g / g.abs().flatten(1).amax(1).clamp(min=torch.finfo(g.dtype).tiny).reshape(good.shape)  # no underflow
        return length * g / _size(g)

    def random(self, generator: torch.Generator) -> Tensor:
        """Uniform in the ball."""
        if self.norm == "linf":
            d = self.eps * (2 * torch.rand(self.x.shape, generator=generator) - 1)
        else:
            d = torch.randn(self.x.shape, generator=generator)
            radius = torch.rand(len(d), generator=generator) ** (1 / max(d[0].numel(), 1))
            d = self.eps * radius.reshape(-1, *[1] * (d.dim() - 1)) * d / _size(d)
        return self.project(self.x + d.to(self.x))

    def corner(self, generator: torch.Generator) -> Tensor:
        """Random and as far out as the ball goes: a random sign for every entry, or a random direction."""
        d = torch.randn(self.x.shape, generator=generator).to(self.x)
        return self.project(self.x + self.towards(d, self.eps))


def _size(d: Tensor) -> Tensor:
    """|d|_2 of every sample, shaped for broadcasting, never 0."""
    norms = d.flatten(1).norm(dim=1).clamp(min=torch.finfo(d.dtype).tiny)
    return norms.reshape(-1, *[1] * (d.dim() - 1))


# ---- scores ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def scores(model: nn.Module, x: Tensor) -> Tensor:
    """(B, classes); nan for a sample whose solve does not finish."""
    try:
        return model(x).flatten(1)
    except SolveFailed:
        if len(x) == 1:
            return torch.full_like(model_width(model, x), math.nan)
    return torch.cat([scores(model, one) for one in x.split(1)])


def model_width(model: nn.Module, x: Tensor) -> Tensor:
    """Scores of an input of zeros, for their number."""
    return model(torch.zeros_like(x)).flatten(1)


def margin(out: Tensor, y: Tensor) -> Tensor:
    """Score of the label minus the largest other one, (B,); -inf where scores are not finite."""
    own = out.gather(1, y[:, None]).squeeze(1)
    other = out.scatter(1, y[:, None], -math.inf).amax(1)
    return torch.where(out.isfinite().all(1), own - other, torch.full_like(own, -math.inf))


def broken(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which samples are misclassified, (B,)."""
    out = scores(model, x)
    return (out.argmax(1) != y) | ~out.isfinite().all(1)


def input_gradient(model: nn.Module, x: Tensor, y: Tensor, loss: str = "cross_entropy") -> Tensor:
    """dL/dx of every sample's own loss: "cross_entropy", or "margin": the largest other score minus the label's."""
    if loss not in ("cross_entropy", "margin"):
        raise BadInput(f"an attack's loss is 'cross_entropy' or 'margin', got {loss!r}.")
    z = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        try:
            out = model(z).flatten(1)
        except SolveFailed:
            return torch.full_like(x, math.nan)
        value = cross_entropy(out, y, reduction="sum") if loss == "cross_entropy" else -margin(out, y).sum()
        if not value.requires_grad:
            return torch.zeros_like(x)
        (g,) = torch.autograd.grad(value, z, allow_unused=True)
    return torch.zeros_like(x) if g is None else g


# ---- attacks --------------------------------------------------------------------------------------------------------


def noise(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str = "linf", *, draws: int = 1, box: Box = None,
    seed: int = 0,
) -> Tensor:  # fmt: skip
    """Random points on the edge of the ball, of `draws` the worst one: what an attack is to beat."""
    ball, generator = Ball(x, eps, norm, box), torch.Generator().manual_seed(seed)
    return _worst(model, y, [x, *(ball.corner(generator) for _ in range(draws))])


def fgsm(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str = "linf", *, loss: str = "cross_entropy",
    box: Box = None,
) -> Tensor:  # fmt: skip
    """One step of the whole radius along the gradient of the loss (Goodfellow, Shlens & Szegedy 2015, arXiv 1412.6572);
    exact for a linear classifier with two classes."""
    ball = Ball(x, eps, norm, box)
    return ball.project(x + ball.towards(input_gradient(model, x, y, loss), eps))


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: str = "linf",
    *,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    loss: str = "cross_entropy",
    box: Box = None,
    seed: int = 0,
    through: nn.Module | None = None,
) -> Tensor:
    """Projected gradient ascent on the loss (Madry et al. 2018, arXiv 1706.06083); of all points met, the one with the
    smallest margin.

    step_size: None: 2.5 eps/steps, enough to reach the edge and turn. restarts: the first from x, others from random
    points. through: the model whose gradient is followed, `model` judging the points: a transfer attack, or with a
    smooth twin of `model` itself one around a part that hides its gradient (Athalye, Carlini & Wagner 2018).
    """
    ball, generator = Ball(x, eps, norm, box), torch.Generator().manual_seed(seed)
    length = 2.5 * eps / max(steps, 1) if step_size is None else step_size
    guide, best = model if through is None else through, _Best(model, y, x)
    for restart in range(restarts):
        z = ball.random(generator) if restart else x.detach()
        if restart:
            best.look(z)
        for _ in range(steps):
            z = ball.project(z + ball.towards(input_gradient(guide, z, y, loss), length))
            best.look(z)
    return best.z


class _Best:
    """For every sample the point with the smallest margin so far."""

    def __init__(self, model: nn.Module, y: Tensor, z: Tensor) -> None:
        self.model, self.y, self.z = model, y, z.detach().clone()
        self.margin = margin(scores(model, z), y)

    def look(self, z: Tensor) -> Tensor:
        """Keep what is better; which samples that are."""
        found = margin(scores(self.model, z), self.y)
        better = found < self.margin
        self.margin = torch.where(better, found, self.margin)
        self.z[better] = z[better]
        return better


def _worst(model: nn.Module, y: Tensor, points: list[Tensor]) -> Tensor:
    best = _Best(model, y, points[0])
    for z in points[1:]:
        best.look(z)
    return best.z


def spsa(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: str = "linf",
    *,
    steps: int = 20,
    pairs: int = 16,
    delta: float | None = None,
    lr: float | None = None,
    box: Box = None,
    seed: int = 0,
) -> Tensor:
    """Adam on the margin with gradients from differences along random signs, no derivative of the model.

        g = mean over pairs of (m(z + delta v) - m(z - delta v))/(2 delta) v,   v in {-1, 1}^D

    (Uesato et al. 2018, arXiv 1802.05666.) delta, lr: None: eps/4 each (with l2 per entry, / sqrt(D)).
    2 pairs + 1 evaluations a step.
    """
    ball, generator, best = Ball(x, eps, norm, box), torch.Generator().manual_seed(seed), _Best(model, y, x)
    unit = eps / 4 / (math.sqrt(x[0].numel()) if norm == "l2" else 1.0)
    delta, lr = unit if delta is None else delta, unit if lr is None else lr
    if not delta > 0:
        return best.z
    z, mean, square_ = x.detach().clone(), torch.zeros_like(x), torch.zeros_like(x)
    for k in range(1, steps + 1):
        g = _differences(model, z, y, pairs, delta, generator)
        mean, square_ = mean.lerp(g, 0.1), square_.lerp(g * g, 0.001)
        step = (mean / (1 - 0.9**k)) / ((square_ / (1 - 0.999**k)).sqrt() + 1e-12)
        z = ball.project(z - lr * step)
        best.look(z)
    return best.z


def _differences(
    model: nn.Module, z: Tensor, y: Tensor, pairs: int, delta: float, generator: torch.Generator
) -> Tensor:
    total = torch.zeros_like(z)
    for _ in range(pairs):
        v = (torch.randint(0, 2, z.shape, generator=generator) * 2 - 1).to(z)
        m = margin(scores(model, torch.cat((z + delta * v, z - delta * v))), torch.cat((y, y)))
        slope = ((m[: len(z)] - m[len(z) :]) / (2 * delta)).nan_to_num(0.0, 0.0, 0.0)
        total += slope.reshape(-1, *[1] * (z.dim() - 1)) * v
    return total / pairs


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    queries: int = 100,
    share: float = 0.8,
    image: tuple[int, int, int] | None = None,
    box: Box = None,
    seed: int = 0,
) -> Tensor:
    """Random search at the corners of the largest-entry ball, no derivative of the model (Andriushchenko et al. 2020,
    arXiv 1912.00049): windows that shrink get a new random sign, kept where the margin falls.

    share: of the entries that the first window has. image: (C, H, W) of a flattened image; images start from vertical
    stripes and change square windows, vectors change random entries.
    """
    ball, generator = Ball(x, eps, "linf", box), torch.Generator().manual_seed(seed)
    shape = (len(x), *(image or x.shape[1:]))
    start, window = (_stripes, _windows) if len(shape) == 4 else (_signs, _entries)
    sign = start(shape, generator)
    best = _Best(model, y, x)
    best.look(ball.project(x + eps * sign.reshape(x.shape).to(x)))
    for k in range(1, queries):
        where, new = window(shape, _shrunk(share, k, queries), generator)
        tried = torch.where(where, new, sign)
        better = best.look(ball.project(x + eps * tried.reshape(x.shape).to(x))).cpu()
        sign = torch.where(better.reshape(-1, *[1] * (sign.dim() - 1)), tried, sign)
    return best.z


Shape = tuple[int, ...]


def _shrunk(share: float, k: int, queries: int) -> float:
    """Halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10000 queries, and in this proportion."""
    at = k / queries * 10_000
    return share / 2 ** sum(at > limit for limit in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))


def _signs(shape: Shape, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, shape, generator=generator) * 2 - 1).float()


def _stripes(shape: Shape, generator: torch.Generator) -> Tensor:
    b, c, _, w = shape
    return _signs((b, c, 1, w), generator).expand(shape).contiguous()


def _windows(shape: Shape, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A square of this share of the pixels for every sample, and one new sign for each of its channels."""
    b, c, h, w = shape
    side = min(max(round(math.sqrt(share * h * w)), 1), h, w)
    top, left = (torch.randint(0, n - side + 1, (b, 1), generator=generator) for n in (h, w))
    rows, columns = ((at <= torch.arange(n)) & (torch.arange(n) < at + side) for at, n in ((top, h), (left, w)))
    return (rows[:, None, :, None] & columns[:, None, None, :]).expand(shape), _signs((b, c, 1, 1), generator).expand(
        shape
    )


def _entries(shape: Shape, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """This share of the entries of every sample, and new signs."""
    flat = torch.rand((shape[0], math.prod(shape[1:])), generator=generator)
    count = min(max(round(share * flat.shape[1]), 1), flat.shape[1])
    chosen = flat <= flat.kthvalue(count, dim=1, keepdim=True).values
    return chosen.reshape(shape), _signs(shape, generator)
