"""Recurrent baselines: (B, T, D) -> (B, dim_out), or (B, T, dim_out) with every_step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import Incompatible
from .base import net


class Memory(nn.Module):
    """A torch.nn recurrent core; puts out the last layer's state at the end, or at every step.

    The state at the end is the forward one after the last entry beside the backward one after the first.
    """

    def __init__(self, core: nn.RNNBase, every_step: bool) -> None:
        super().__init__()
        self.core, self.every_step = core, every_step

    def forward(self, x: Tensor) -> Tensor:
        states, last = self.core(x)  # (B, T, ways W), (layers ways, B, W)
        if self.every_step:
            return states
        if isinstance(last, tuple):  # LSTM: hidden and cell state
            last = last[0]
        ways = 1 + self.core.bidirectional
        return torch.cat(tuple(last[-ways:]), dim=-1)  # (B, ways W)


class Recurrent(nn.Sequential):
    """Memory, then a linear head."""

    def __init__(self, core: nn.RNNBase, dim_out: int, every_step: bool) -> None:
        ways = 1 + core.bidirectional
        super().__init__(Memory(core, every_step), nn.Linear(ways * core.hidden_size, dim_out))

    def unrolled(self, x: Tensor) -> tuple[Tensor, list[Callable[[Tensor], Tensor]]]:
        """The start h_0 (B, layers W) and the maps h_t -> h_(t+1), one for each entry of x (B, T, D).

        The head reads the last W columns (`read`). A map takes (k B, layers W) too: k copies of the batch.
        Back-propagation through time is the adjoint of this list. Raises
        Incompatible for a gated or bidirectional net: its state is not one vector moved forward.
        """
        core = self[0].core
        if not isinstance(core, nn.RNN) or core.bidirectional:
            raise Incompatible("only the one-directional vanilla rnn unrolls into maps h -> h; use nets.rnn(...).")
        h0 = x.new_zeros(len(x), core.num_layers * core.hidden_size)
        return h0, [partial(_rnn_step, core, x[:, t]) for t in range(x.shape[1])]

    def read(self, h: Tensor) -> Tensor:
        """The output from a state (B, layers W)."""
        return self[1](h[..., -self[1].in_features :])  # type: ignore[operator]


def _rnn_step(core: nn.RNN, x: Tensor, h: Tensor) -> Tensor:
    """h_k <- tanh(W_k h_(k-1) + b_k + V_k h_k + c_k) through the stacked layers; h (k B, layers W)."""
    below, new = x.repeat(len(h) // len(x), 1), []
    for k, state in enumerate(h.chunk(core.num_layers, dim=-1)):
        w, v, b, c = (getattr(core, f"{name}_l{k}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        below = torch.tanh(F.linear(below, w, b) + F.linear(state, v, c))
        new.append(below)
    return torch.cat(new, dim=-1)


@net(kind="baseline", takes="sequence", cite="J. Elman, Finding structure in time, Cogn. Sci. 14 (1990)")
def rnn(
    dim_in: int,
    dim_out: int,
    width: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    every_step: bool = False,
    seed: int = 0,
) -> nn.Module:
    """h <- tanh(W x + V h + b), then a head: (B, T, dim_in) -> (B, dim_out). Forgets after tens of steps."""
    core = nn.RNN(dim_in, width, layers, batch_first=True, bidirectional=bidirectional)
    return Recurrent(core, dim_out, every_step)


@net(kind="baseline", takes="sequence", cite="S. Hochreiter & J. Schmidhuber, Neural Comput. 9 (1997)")
def lstm(
    dim_in: int,
    dim_out: int,
    width: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    every_step: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Long short-term memory: gates around a state that errors pass undamped; shapes as `rnn`."""
    core = nn.LSTM(dim_in, width, layers, batch_first=True, bidirectional=bidirectional)
    return Recurrent(core, dim_out, every_step)


@net(kind="baseline", takes="sequence", cite="K. Cho et al., EMNLP 2014, arXiv 1406.1078")
def gru(
    dim_in: int,
    dim_out: int,
    width: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    every_step: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Gated recurrent unit, an Euler step with learned step sizes: (B, T, dim_in) -> (B, dim_out)."""
    core = nn.GRU(dim_in, width, layers, batch_first=True, bidirectional=bidirectional)
    return Recurrent(core, dim_out, every_step)
