"""`check`: any plug-in, told by what it is."""

from __future__ import annotations

import inspect
from typing import Any

from .. import fields, integrators
from ..depth import DEPTHS, Depth
from ..errors import BadInput, UnknownName
from ..fields import Field
from ..flow import GRADIENTS, Gradient
from ..integrators import Integrator
from ..integrators.base import build
from .depth import check_depth
from .field import check_field
from .gradient import check_gradient
from .integrator import check_integrator
from .report import Report


def known(name: str) -> Any:
    """The integrator, field, gradient or depth registered under a name; None where there is none."""
    if name in integrators.INTEGRATORS:
        return integrators.get(name)
    if name in fields.FIELDS:
        return fields.get(name)
    return GRADIENTS.get(name) or DEPTHS.get(name)


def check(obj: Any) -> Report:
    """`check_integrator`, `check_field`, `check_gradient` or `check_depth`, by what `obj` is.

    obj: a registered name, or an integrator, coefficients of one, field, gradient or depth, or a class of one of them
    Raises BadInput for anything else, UnknownName for a name of none of them.
    """
    if isinstance(obj, str):
        name, obj = obj, known(obj)
        if obj is None:
            raise UnknownName(f"no integrator, field, gradient or depth is called {name!r}.")
    kind = obj if inspect.isclass(obj) else type(obj)
    for family, function in (
        (Integrator, check_integrator),
        (Field, check_field),
        (Gradient, check_gradient),
        (Depth, check_depth),
    ):
        if issubclass(kind, family):
            return function(obj)
    if not inspect.isclass(obj) and build.dispatch(kind) is not build.dispatch(object):
        return check_integrator(obj)
    if obj in [fields.get(name) for name in fields.names()]:  # a maker of fields
        return check_field(obj)
    raise BadInput(
        f"{getattr(obj, '__name__', type(obj).__name__)} is no integrator, coefficients, field, gradient or depth; "
        "of a plain right-hand side, write odenet.testing.check_field(f, y)."
    )
