"""Initial weights, by name: each fills a weight tensor in place from a generator (None: torch's global one).

fan_in, fan_out: entries of the input that one output sees, and the reverse; for a convolution times the
number of kernel points.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import init

from ..errors import UnknownName

Initialiser = Callable[[Tensor, torch.Generator | None], Tensor]


def xavier(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform on ± sqrt(6 / (fan_in + fan_out)): for tanh and other functions of slope 1 at 0.

    X. Glorot & Y. Bengio, AISTATS 2010, eq. (16).
    """
    return init.xavier_uniform_(weight, generator=generator)


def he(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Normal with variance 2 / fan_in: keeps the size of signals through relu layers.

    K. He, X. Zhang, S. Ren & J. Sun, ICCV 2015, arXiv 1502.01852, eq. (10).
    """
    return init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)


def lecun(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Normal with variance 1 / fan_in: for selu and linear layers.

    Y. LeCun, L. Bottou, G. Orr & K.-R. Müller, Efficient BackProp (1998), sec. 4.6.
    """
    return init.kaiming_normal_(weight, nonlinearity="linear", generator=generator)


def orthogonal(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniformly drawn orthonormal rows or columns of weight.flatten(1): for recurrent or deep linear nets.

    A. Saxe, J. McClelland & S. Ganguli, ICLR 2014, arXiv 1312.6120.
    """
    return init.orthogonal_(weight, generator=generator)


def zeros(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """All zero: for the last layer of a residual branch, so that a step starts as the identity."""
    return init.zeros_(weight)


INITIALISERS: dict[str, Initialiser] = {f.__name__: f for f in (xavier, he, lecun, orthogonal, zeros)}


def get(name: str) -> Initialiser:
    """The initialiser called `name`; raises UnknownName."""
    if name not in INITIALISERS:
        near = difflib.get_close_matches(str(name), INITIALISERS, n=1) or sorted(INITIALISERS)
        hint = " or ".join(map(repr, near))
        raise UnknownName(f"no initialiser is called {name!r}; did you mean {hint}?")
    return INITIALISERS[name]


def initialise(module: nn.Module, name: str, generator: torch.Generator | None = None) -> nn.Module:
    """Fill the weights of every linear and convolution layer inside `module` and set their biases to 0."""
    fill = get(name)
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d):
            fill(part.weight, generator)
            if part.bias is not None:
                init.zeros_(part.bias)
    return module
