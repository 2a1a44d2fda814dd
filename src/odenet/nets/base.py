"""The registry of networks: a function that builds a module, its reference, and what is needed to rebuild it.

A builder marked with `@net` gets: registration under its name, a `seed` that leaves the global random state alone, a
`spec` on what it builds ({"net": name, "args": {...}}, plain JSON; None where an argument is not plain data) so that
`save` and `load` need no pickle, and the facts that tables print (`kind`, `takes`, `cite`, `integrators`).
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..errors import BadInput
from ..registry import Registry

SIZES = ("steps", "dim_in", "dim_out", "width", "hidden", "layers", "heads", "kernel", "growth")
NETS: Registry[Callable[..., nn.Module]] = Registry("net", "odenet.nets")


def net(
    *,
    kind: str,
    cite: str,
    takes: str = "vector",
    integrators: tuple[str, ...] = (),
    words: Iterable[str] | None = None,
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register the decorated builder under its own name.

    kind:        "ode" or "baseline"
    takes:       "vector" (B, D), "image" (B, C, H, W), "sequence" (B, T, D) or "tree"
    integrators: of an ODE net, those that `compare` runs by default
    words:       keywords that the builder takes beside those of its signature (None: it knows them itself)
    """

    def mark(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        signature = inspect.signature(make)

        @functools.wraps(make)
        def build(*args: Any, **kwargs: Any) -> nn.Module:
            given = _bound(make.__name__, signature, words, args, kwargs)
            with torch.random.fork_rng(devices=[]):
                torch.random.default_generator.manual_seed(given.arguments.get("seed", 0))  # not the devices' ones
                module = make(*args, **kwargs)
            module.spec = _plain({"net": make.__name__, "args": dict(given.arguments)})
            return module

        facts = {"kind": kind, "cite": cite, "takes": takes, "integrators": integrators}
        for name, value in facts.items():
            setattr(build, name, value)
        return NETS.register(make.__name__, build)

    return mark


def _bound(
    name: str, signature: inspect.Signature, words: Iterable[str] | None, args: Any, kwargs: Any
) -> inspect.BoundArguments:
    """The arguments with defaults; raises BadInput for one that is unknown or missing, or a number that cannot be."""
    own = [p.name for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    free = len(own) < len(signature.parameters) and words is None
    for word in () if free else kwargs:
        if word not in (known := [*own, *(words or ())]):
            near = difflib.get_close_matches(word, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}."
            raise BadInput(f"net {name!r} has no option {word!r}; {hint}")
    try:
        given = signature.bind(*args, **kwargs)
    except TypeError as problem:
        raise BadInput(f"net {name!r}: {problem}; it is called as {name}{_heads(signature)}.") from None
    given.apply_defaults()
    _check_sizes(given.arguments | given.arguments.get("options", {}))
    seed = given.arguments.get("seed", 0)
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise BadInput(f"seed is a whole number >= 0, got {seed!r}.")
    return given


def _check_sizes(arguments: dict[str, Any]) -> None:
    """Raises BadInput for a size that is no positive whole number, or several; a baseline may have no hidden layer."""
    for name in SIZES if "integrator" in arguments else SIZES[1:]:
        value = arguments.get(name)
        several = value if isinstance(value, list | tuple) else () if value is None else (value,)
        if not all(isinstance(v, int) and v > 0 for v in several):
            raise BadInput(f"{name} is a positive whole number, got {value!r}; write {name}=4, for instance.")


def _heads(signature: inspect.Signature) -> str:
    needed = [p.name for p in signature.parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return f"({', '.join([*needed, '...'])})"


def _plain(spec: dict[str, Any]) -> Any:
    """The spec if it is plain JSON data, else None: such a net is saved as weights to be loaded into a net."""
    try:
        return json.loads(json.dumps(spec))
    except TypeError:
        return None
