"""Everything that odenet registers passes the kit: integrators, fields, gradients and bases in depth."""

from __future__ import annotations

import warnings

import pytest

import odenet as on
from odenet.depth import DEPTHS
from odenet.flow import GRADIENTS
from odenet.testing import check, check_depth, check_field, check_gradient, check_integrator


@pytest.mark.parametrize("name", on.integrators.names())
def test_every_integrator_passes_the_light_profile(name: str) -> None:
    report = check_integrator(name, light=True)
    assert report.passed, report.table()
    assert sum(f.passed is True for f in report.findings) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", on.integrators.names())
def test_every_integrator_passes_every_check(name: str) -> None:
    report = check(name)
    assert report.passed, report.table()


@pytest.mark.parametrize("name", on.fields.names())
def test_every_field_passes_every_check(name: str) -> None:
    report = check_field(name)
    assert report.passed, report.table()
    assert sum(f.passed is True for f in report.findings) >= 9


@pytest.mark.parametrize("name", sorted(GRADIENTS))
def test_every_gradient_passes_every_check(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = check_gradient(name)
    assert report.passed, report.table()


@pytest.mark.parametrize("name", sorted(DEPTHS))
def test_every_depth_passes_every_check(name: str) -> None:
    report = check_depth(name)
    assert report.passed, report.table()
