"""A recursive net over binary trees: the same layer merges two children into their parent, up to the root."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from .base import net

Reference = tuple[int, int]  # height of a node, its place among the nodes of that height
Pair = tuple[Reference, Reference]


def by_height(trees: Sequence[Any]) -> tuple[list[Any], list[list[Pair]], list[Reference]]:
    """Leaves, the pairs of children at heights 1, 2, ..., and the roots. No recursion: any depth."""
    leaves: list[Any] = []
    pairs: list[list[Pair]] = []
    done: list[Reference] = []
    open_: list[tuple[Any, bool]] = [(tree, False) for tree in reversed(trees)]
    while open_:
        node, merged = open_.pop()
        if not isinstance(node, tuple | list):
            leaves.append(node)
            done.append((0, len(leaves) - 1))
        elif not merged:
            if len(node) != 2:
                raise BadInput(f"a node of a tree is a pair (left, right), but one has {len(node)} children.")
            open_ += [(node, True), (node[1], False), (node[0], False)]
        else:
            right, left = done.pop(), done.pop()
            height = 1 + max(left[0], right[0])
            pairs += [[] for _ in range(height - len(pairs))]
            pairs[height - 1].append((left, right))
            done.append((height, len(pairs[height - 1]) - 1))
    return leaves, pairs, done


class Roots(nn.Module):
    """The state of every tree's root: leaves are embedded (token numbers) or given ((W,) tensors).

    parent = tanh(W [left, right] + b), all nodes of one height at once. B trees -> (B, W).
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.merge = nn.Linear(2 * width, width)

    def forward(self, trees: Sequence[Any]) -> Tensor:
        leaves, pairs, roots = by_height(trees)
        states = [torch.stack([self._leaf(leaf) for leaf in leaves])]
        for level in pairs:
            left = torch.stack([states[h][i] for (h, i), _ in level])
            right = torch.stack([states[h][i] for _, (h, i) in level])
            states.append(torch.tanh(self.merge(torch.cat([left, right], dim=-1))))  # (nodes of this height, W)
        return torch.stack([states[h][i] for h, i in roots])

    def _leaf(self, leaf: Any) -> Tensor:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
        if not 0 <= int(leaf) < self.embedding.num_embeddings:
            raise BadInput(f"token {int(leaf)} is outside the vocabulary 0..{self.embedding.num_embeddings - 1}.")
        return self.embedding.weight[int(leaf)]


@net(kind="baseline", takes="tree", cite="R. Socher, C. Lin, A. Ng & C. Manning, ICML 2011; J. Pollack, 1990")
def tree_net(vocabulary: int, dim_out: int, width: int = 32, seed: int = 0) -> nn.Module:
    """Class scores of binary trees, nested pairs of tokens such as ((3, 1), 4): B trees -> (B, dim_out).

    For parsed sentences and expressions, whose structure is known. Leaves may be vectors (width,) too.
    """
    return nn.Sequential(Roots(vocabulary, width), nn.Linear(width, dim_out))
