"""What is being learned: one shape for classification, control and PDEs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class Problem(ABC):
    """A source of batches, the losses on a batch, and a score against truth.

    `fit` minimises the sum of `losses`; `score` is reported and never minimised.
    """

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Any:
        """A batch of n points drawn with `generator`."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Named scalar losses of `model` on `batch`; their sum is minimised."""

    @abstractmethod
    def score(self, model: nn.Module) -> dict[str, float]:
        """Named numbers against the truth (held-out accuracy, error against a reference)."""
