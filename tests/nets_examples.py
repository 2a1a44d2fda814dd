"""A small instance of every registered net: the arguments to build it with, and inputs for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import odenet as on

IMAGE = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
SPECIAL: dict[str, tuple[dict[str, Any], Any]] = {
    "densenet": ({"channels": 1, "classes": 3, "size": 8, "growth": 2, "first": 4, "layers": [2, 1]}, IMAGE),
    "hyperbolic_cnn": ({"channels": 1, "classes": 3, "size": 8, "width": 2}, IMAGE),
    "cnn": ({"channels": 1, "classes": 3, "size": 8, "widths": [4], "hidden": [5]}, IMAGE),
    "perceptron": ({"dim_in": 5}, torch.ones(3, 5)),
    "mlp": ({"dim_in": 5, "dim_out": 3, "norm": "weight"}, torch.ones(3, 5)),
    "tree_net": ({"vocabulary": 7, "dim_out": 3, "width": 4}, [((1, 2), 3), 4]),
}


def example(name: str) -> tuple[dict[str, Any], Any]:
    """(keyword arguments, inputs) of the net called `name`."""
    if name in SPECIAL:
        return SPECIAL[name]
    takes = on.nets.get(name).takes
    if takes == "image":
        return {"channels": 1, "classes": 3, "size": 8, "widths": [4, 8]}, IMAGE
    if takes == "sequence":
        return {"dim_in": 5, "dim_out": 3, "width": 4}, torch.linspace(-1, 1, 60).reshape(3, 4, 5)
    words: dict[str, Any] = {"dim_in": 5, "dim_out": 3, "width": 6, "steps": 3}
    first = next(iter(on.nets.get(name).integrators), None)
    if first is not None and on.integrators.get(first).adaptive:  # steps that the states choose do not repeat
        words["integrator"] = "rk4"
    return words, torch.linspace(-1, 1, 15).reshape(3, 5)


def count(net: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(p.numel() for p in net.parameters())


def shaken(net: nn.Module, by: float = 0.1) -> Any:
    """The net in evaluation mode with weights that no seed gives, and statistics that no batch has."""
    torch.manual_seed(3)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(by * torch.randn_like(p))
        for name, b in net.named_buffers():
            if "var" in name:
                b.copy_(0.5 + torch.rand_like(b))
            elif "mean" in name:
                b.copy_(0.1 * torch.randn_like(b))
    return net.eval()
