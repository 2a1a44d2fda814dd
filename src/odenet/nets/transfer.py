"""Maps between blocks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..errors import BadInput
from ..flow import Transfer


class Pad(Transfer):
    """Zeros appended to the features, (B, cols) -> (B, rows): gives a flow room to untangle what it cannot in place
    (augmentation, Dupont et al. 2019)."""

    def __init__(self, cols: int, rows: int) -> None:
        super().__init__()
        if rows < cols:
            raise BadInput(f"padding makes states wider, but {cols} features were asked to become {rows}.")
        self.cols, self.rows = cols, rows

    def forward(self, y: Tensor) -> Tensor:
        return F.pad(y, (0, self.rows - self.cols))

    def extra_repr(self) -> str:
        return f"{self.cols}, {self.rows}"
