"""The registry of networks: a function that builds a module, its reference, and what is needed to rebuild it.

A builder marked with `@net` gets: registration under its name, a `seed` that leaves the global random state alone, a
`spec` on what it builds ({"net": name, "args": {...}}, plain JSON; None where an argument is not plain data) so that
`save` and `load` need no pickle, and the facts that tables print (`kind`, `takes`, `cite`, `integrators`).
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..registry import Registry

NETS: Registry[Callable[..., nn.Module]] = Registry("net", "odenet.nets")


def net(
    *, kind: str, cite: str, takes: str = "vector", integrators: tuple[str, ...] = ()
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register the decorated builder under its own name.

    kind:        "ode" or "baseline"
    takes:       "vector" (B, D), "image" (B, C, H, W), "sequence" (B, T, D) or "tree"
    integrators: of an ODE net, those that `compare` runs by default
    """

    def mark(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        signature = inspect.signature(make)

        @functools.wraps(make)
        def build(*args: Any, **kwargs: Any) -> nn.Module:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(given.arguments.get("seed", 0)))
                module = make(*args, **kwargs)
            module.spec = _plain({"net": make.__name__, "args": dict(given.arguments)})
            return module

        facts = {"kind": kind, "cite": cite, "takes": takes, "integrators": integrators}
        for name, value in facts.items():
            setattr(build, name, value)
        return NETS.register(make.__name__, build)

    return mark


def _plain(spec: dict[str, Any]) -> Any:
    """The spec if it is plain JSON data, else None: such a net is saved as weights to be loaded into a net."""
    try:
        return json.loads(json.dumps(spec))
    except TypeError:
        return None
