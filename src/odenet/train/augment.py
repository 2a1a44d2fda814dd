"""Small random changes of images that keep their class. Batches are (B, C H W) or (B, C, H, W).

AUGMENTATIONS["shift"](x, image=(1, 8, 8), generator=g, most=1)
augmented(x, ("shift", "noise"), image=(1, 8, 8), generator=g)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import BadInput, UnknownName

Image = tuple[int, int, int]  # C, H, W


def _images(x: Tensor, image: Image) -> Tensor:
    if math.prod(x.shape[1:]) != math.prod(image):
        raise BadInput(f"a batch {tuple(x.shape)} does not hold images {image}.")
    return x.reshape(len(x), *image)


def shift(x: Tensor, image: Image, generator: torch.Generator | None = None, most: int = 1) -> Tensor:
    """Move each image by whole pixels, uniform on -most..most along both axes; zeros come in."""
    C, H, W = image
    padded = F.pad(_images(x, image), (most, most, most, most))
    start = torch.randint(0, 2 * most + 1, (2, len(x), 1), generator=generator).to(x.device)
    rows = start[0] + torch.arange(H, device=x.device)  # (B, H)
    columns = start[1] + torch.arange(W, device=x.device)  # (B, W)
    b = torch.arange(len(x), device=x.device)[:, None, None, None]
    c = torch.arange(C, device=x.device)[None, :, None, None]
    return padded[b, c, rows[:, None, :, None], columns[:, None, None, :]].reshape(x.shape)


def rotate(x: Tensor, image: Image, generator: torch.Generator | None = None, degrees: float = 10.0) -> Tensor:
    """Turn each image about its centre by an angle uniform on ± degrees, bilinearly; zeros come in."""
    turn = math.radians(degrees) * (2 * torch.rand(len(x), generator=generator) - 1)
    return rotated(x, image, turn.to(x))


def rotated(x: Tensor, image: Image, angle: Tensor) -> Tensor:
    """The images turned counter-clockwise by angle (B,) in radians, as seen with the first row on top."""
    _, H, W = image
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = [torch.stack(r, dim=-1) for r in ((cos, -sin * H / W, zero), (sin * W / H, cos, zero))]
    grid = F.affine_grid(torch.stack(rows, dim=1), [len(x), *image], align_corners=False)
    return F.grid_sample(_images(x, image), grid, align_corners=False).reshape(x.shape)


def noise(x: Tensor, image: Image, generator: torch.Generator | None = None, std: float = 0.05) -> Tensor:
    """Add normal noise of standard deviation `std` to each pixel."""
    draw = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x + std * draw.to(x.device)


AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {f.__name__: f for f in (shift, rotate, noise)}


def augmented(x: Tensor, names: Iterable[str], image: Image, generator: torch.Generator | None = None) -> Tensor:
    """x after the named augmentations, in their order, with default strengths; raises UnknownName."""
    for name in names:
        if name not in AUGMENTATIONS:
            raise UnknownName(f"no augmentation is called {name!r}; known: {', '.join(sorted(AUGMENTATIONS))}.")
        x = AUGMENTATIONS[name](x, image, generator)
    return x
