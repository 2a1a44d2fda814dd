"""Sequences whose answer needs what came long before: tests of memory and of vanishing gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..errors import BadInput
from .dataset import DATA, Dataset, split
from .digits import digits


def adding(seed: int = 0, n: int = 2000, length: int = 50) -> Dataset:
    """Sum of two marked numbers: x (n, T, 2), x[..., 0] uniform in [0, 1], x[..., 1] marks one per half.

    Target (n, 1). Always answering 1 has mean squared error 1/6. S. Hochreiter & J. Schmidhuber, Long
    short-term memory, Neural Comput. 9 (1997), sec. 5.4; in the form of M. Arjovsky, A. Shah & Y. Bengio,
    Unitary evolution recurrent neural networks, ICML 2016, arXiv 1511.06464.
    """
    if length < 2:
        raise BadInput(f"adding needs length >= 2, one number to mark in each half, not {length!r}.")
    rng = np.random.default_rng(seed)
    x = np.zeros((n, length, 2))
    x[..., 0] = rng.uniform(0.0, 1.0, (n, length))
    rows = np.arange(n)
    marked = rng.integers(0, length // 2, n), rng.integers(length // 2, length, n)
    for position in marked:
        x[rows, position, 1] = 1.0
    y = x[rows, marked[0], 0] + x[rows, marked[1], 0]
    return split("adding", x, y[:, None], classes=None, seed=seed)


def copy(seed: int = 0, n: int = 1000, delay: int = 20, memory: int = 10, symbols: int = 8) -> Dataset:
    """Repeat `memory` symbols after `delay` blanks: x (n, T, symbols + 2) one-hot, T = delay + 2 memory.

    Input: symbols, delay - 1 blanks, the signal to answer, `memory` blanks. Labels (n, T): blank (class
    `symbols`) until the signal, the symbols after it. Without memory the best cross-entropy is memory
    log(symbols) / T. Arjovsky, Shah & Bengio, ICML 2016, sec. 5.1.
    """
    if min(delay, memory) < 1 or symbols < 2:
        raise BadInput(f"copy needs delay, memory >= 1 and symbols >= 2, not {delay!r}, {memory!r}, {symbols!r}.")
    rng = np.random.default_rng(seed)
    blank, signal = symbols, symbols + 1
    word = rng.integers(0, symbols, (n, memory))
    tokens = np.full((n, delay + 2 * memory), blank)
    tokens[:, :memory] = word
    tokens[:, memory + delay - 1] = signal
    y = np.full_like(tokens, blank)
    y[:, -memory:] = word
    x = np.eye(symbols + 2)[tokens]
    return split("copy", x, y, classes=symbols + 1, seed=seed, stratify=False)


def sequential_digits(seed: int = 0) -> Dataset:
    """The `digits`, pixel by pixel in rows from the top: x (n, 64, 1), one label for each sequence.

    A small form of sequential MNIST (Q. Le, N. Jaitly & G. Hinton, arXiv 1504.00941), with 64 steps for 784. Choose it
    for recurrent nets on real data.
    """
    return _pixels("sequential_digits", seed, np.arange(64))


def permuted_digits(seed: int = 0, permutation: int = 0) -> Dataset:
    """The same with the 64 pixels in one random order, fixed by `permutation` and the same for every `seed`.

    Neighbours are far apart now, so it needs a longer memory: a small form of permuted sequential MNIST (Le et al.).
    """
    return _pixels("permuted_digits", seed, np.random.default_rng(permutation).permutation(64))


def _pixels(name: str, seed: int, order: np.ndarray) -> Dataset:
    rows = torch.from_numpy(order)
    whole = digits(seed)
    x, x_val, x_test = (part[:, rows, None] for part in (whole.x, whole.x_val, whole.x_test))
    return replace(whole, name=name, x=x, x_val=x_val, x_test=x_test, image=None)


for _make in (adding, copy, sequential_digits, permuted_digits):
    DATA.register(_make.__name__, _make)
