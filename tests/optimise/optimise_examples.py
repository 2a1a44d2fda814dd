"""Problems for the optimisers: Moré, Garbow and Hillstrom's least squares, a quadratic, a small net, a singular one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from odenet.optimise import LeastSquares, Objective

F64 = torch.float64


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=F64)


class Squares(LeastSquares):
    """A residual written in torch; `rows` rows per block."""

    def __init__(self, r: Callable[[Tensor], Tensor], size: int, rows: int = 1000) -> None:
        self.r, self.count, self.rows = r, size, rows

    @property
    def size(self) -> int:
        return self.count

    def residual(self, theta: Tensor) -> Tensor:
        return self.r(theta).detach()

    def blocks(self, theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        r, J = self.residual(theta), torch.func.jacrev(self.r)(theta)
        for k in range(0, len(r), self.rows):
            yield r[k : k + self.rows], J[k : k + self.rows]


class Pulled(Squares):
    """The same with its gradient by one reverse pass."""

    def pullback(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        leaf = theta.detach().requires_grad_()
        r = self.r(leaf)
        return r.detach(), torch.autograd.grad(r, leaf, r.detach())[0]


class Function(Objective):
    """A function written in torch."""

    def __init__(self, f: Callable[[Tensor], Tensor], size: int) -> None:
        self.f, self.count = f, size

    @property
    def size(self) -> int:
        return self.count

    def value(self, theta: Tensor) -> Tensor:
        return self.f(theta).detach()

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        gradient, value = torch.func.grad_and_value(self.f)(theta)
        return value.detach(), gradient.detach()


def rosenbrock(x: Tensor) -> Tensor:
    return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def powell_singular(x: Tensor) -> Tensor:
    a, b, c, d = x
    return torch.stack([a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2])


def freudenstein_roth(x: Tensor) -> Tensor:
    a, b = x
    return torch.stack([-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b])


def brown_dennis(x: Tensor) -> Tensor:
    t = torch.arange(1, 21, dtype=F64) / 5
    return (x[0] + t * x[1] - torch.exp(t)) ** 2 + (x[2] + x[3] * torch.sin(t) - torch.cos(t)) ** 2


def helical_valley(x: Tensor) -> Tensor:
    turn = torch.atan2(x[1], x[0]) / (2 * math.pi)
    return torch.stack([10 * (x[2] - 10 * turn), 10 * (torch.hypot(x[0], x[1]) - 1), x[2]])


def wood(x: Tensor) -> Tensor:
    a, b, c, d = x
    return torch.stack([
        10 * (b - a**2), 1 - a, 90**0.5 * (d - c**2), 1 - c, 10**0.5 * (b + d - 2), (b - d) / 10**0.5,
    ])  # fmt: skip


def kowalik_osborne(x: Tensor) -> Tensor:
    y = column(0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246)
    u = column(4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625)
    return y - x[0] * (u * u + u * x[1]) / (u * u + u * x[2] + x[3])


def osborne1(x: Tensor) -> Tensor:
    y = column(
        0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751, 0.718, 0.685, 0.658, 0.628, 0.603,
        0.580, 0.558, 0.538, 0.522, 0.506, 0.490, 0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414, 0.411,
        0.406,
    )  # fmt: skip
    t = 10 * torch.arange(33, dtype=F64)
    return y - x[0] - x[1] * torch.exp(-t * x[3]) - x[2] * torch.exp(-t * x[4])


# residual, start, twice the loss at the minimum reached from there as Moré, Garbow & Hillstrom (1981) list it
CLASSICS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, float]] = {
    "rosenbrock": (rosenbrock, column(-1.2, 1), 0.0),
    "powell_singular": (powell_singular, column(3, -1, 0, 1), 0.0),
    "freudenstein_roth": (freudenstein_roth, column(0.5, -2), 48.9842),
    "brown_dennis": (brown_dennis, column(25, 5, -5, -1), 85822.2),
    "helical_valley": (helical_valley, column(-1, 0, 0), 0.0),
    "wood": (wood, column(-3, -1, -3, -1), 0.0),
    "kowalik_osborne": (kowalik_osborne, column(0.25, 0.39, 0.415, 0.39), 3.07505e-4),
    "osborne1": (osborne1, column(0.5, 1.5, -1, 0.01, 0.02), 5.46489e-5),
}


def classic(name: str, rows: int = 1000) -> tuple[Pulled, Tensor]:
    r, start, _ = CLASSICS[name]
    return Pulled(r, len(start), rows), start


def net(theta: Tensor, x: Tensor, width: int) -> Tensor:
    """A tanh net of one input, two hidden layers and one output, on x (N, 1)."""
    a, b, W, c, w = theta.split([width, width, width * width, width, width])
    return torch.tanh(torch.tanh(x * a + b) @ W.view(width, width).T + c) @ w


def net_size(width: int) -> int:
    return width * width + 4 * width


def net_start(width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(net_size(width), generator=generator, dtype=F64) / width**0.5


def regression(points: int, width: int = 5, rows: int = 1000) -> tuple[Pulled, Tensor]:
    """Fit sin(3 x) by a net."""
    x = torch.linspace(-1, 1, points, dtype=F64)[:, None]
    problem = Pulled(lambda t: (net(t, x, width) - torch.sin(3 * x[:, 0])) / points**0.5, net_size(width), rows)
    return problem, net_start(width)


def quadratic(size: int, seed: int = 0) -> tuple[Function, Tensor, Tensor]:
    """(f, its Hessian, start) with eigenvalues from 1 to 100; the minimum is at 1, 1, ..., 1."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=F64)).Q
    A = Q @ torch.diag(torch.logspace(0, 2, size, dtype=F64)) @ Q.T
    A = (A + A.T) / 2
    return Function(lambda x: (x - 1) @ A @ (x - 1) / 2, size), A, torch.zeros(size, dtype=F64)
