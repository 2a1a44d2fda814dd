"""Conformance of plug-ins: one call tells the author of a scheme, field, depth or gradient what is wrong with it."""

from __future__ import annotations

from .integrator import check_integrator
from .report import Finding, Report

__all__ = ["Finding", "Report", "check_integrator"]
