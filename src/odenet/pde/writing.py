"""Expressions as text, as one would write them."""

from __future__ import annotations

from typing import Any

import torch

from .expressions import CONSTANT, LEAF, Expression, Leaf, is_constant

_SIGNS = {torch.add: (" + ", 1), torch.sub: (" - ", 1), torch.mul: (" ", 2), torch.div: (" / ", 2), torch.pow: ("^", 3)}


def written(e: Any, outer: int = 0) -> str:
    """The expression as text, with parentheses only where the operation outside binds more tightly."""
    if not isinstance(e, Expression):
        return f"{e:.6g}" if isinstance(e, float) else repr(e)
    if e.function == LEAF:
        leaf: Leaf = e.args[0]
        names = "_".join(c for c, k in zip(e.frame.coordinates, leaf.index) for _ in range(k))
        names = names if any(len(c) > 1 for c in e.frame.coordinates) else names.replace("_", "")
        where = "" if leaf.place is None else "(" + ", ".join(written(p) for p in leaf.place) + ")"
        return leaf.unknown + (f"_{names}" if names else "") + where
    if e.function == CONSTANT:
        return written(e.args[0])
    if isinstance(e.function, str):
        return str(e.args[0])
    if e.function not in _SIGNS or len(e.args) != 2:
        return f"{getattr(e.function, '__name__', e.function)}({', '.join(written(a) for a in e.args)})"
    sign, level = _SIGNS[e.function]
    a, b = e.args
    if e.function is torch.mul and isinstance(a, Expression) and is_constant(a, -1.0):
        text = f"-{written(b, 2)}"
    elif e.function is torch.add and (second := written(b, 1)).startswith("-"):
        text, level = f"{written(a, 1)} - {second[1:]}", 1
    else:
        text = f"{written(a, level)}{sign}{written(b, level + (e.function in (torch.sub, torch.div, torch.pow)))}"
    return f"({text})" if level < outer or (outer > 1 and text.startswith("-")) else text
