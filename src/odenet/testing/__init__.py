"""Conformance of plug-ins: one call tells the author of a scheme, field, depth or gradient what is wrong with it."""

from __future__ import annotations

from .depth import check_depth
from .field import check_field
from .gradient import check_gradient
from .integrator import check_integrator
from .report import Finding, Report
from .subject import check, known

__all__ = [
    "Finding",
    "Report",
    "check",
    "check_depth",
    "check_field",
    "check_gradient",
    "check_integrator",
    "known",
]
