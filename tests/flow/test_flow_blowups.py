"""Problems whose solution ceases to exist: no run is a success, and an adaptive one says where it stopped."""

from __future__ import annotations

import pytest

import odenet as on
from odenet.fields import Noisy
from odenet.fields.testset import BLOW_UPS

EARLY = ("max_steps", "non_finite", "step_underflow", "newton_failed")


@pytest.mark.parametrize("name", ["tsit5", "radau_iia5", "bdf", "reversible_dopri5"])
@pytest.mark.parametrize("problem", BLOW_UPS)
def test_an_adaptive_run_ends_with_a_status_at_the_last_good_time(problem: str, name: str) -> None:
    given = BLOW_UPS[problem]
    span = [given.t0, given.t1]
    found = on.solve(given.f, given.start(), span, name, rtol=1e-6, atol=1e-8, max_steps=1000, on_failure="return")
    assert found.status in EARLY
    assert "t = " in found.message
    past = (found.t_last - given.ends) / (given.t1 - given.t0)
    assert past < 0.01


@pytest.mark.parametrize("name", ["rk4", "euler", "implicit_midpoint", "ab3"])
@pytest.mark.parametrize("problem", BLOW_UPS)
@pytest.mark.filterwarnings("ignore:.*so the result may be wrong", "ignore:.*half the step size")
def test_a_run_with_fixed_steps_is_no_success_and_its_check_says_so(problem: str, name: str) -> None:
    given = BLOW_UPS[problem]
    span = [given.t0, given.t1]
    plain, checked = (
        on.solve(given.f, given.start(), span, name, steps=50, check=check, on_failure="return")
        for check in (False, True)
    )
    assert plain.status in ("non_finite", "newton_failed", "suspect", "completed")
    assert checked.status in ("non_finite", "newton_failed", "inaccurate")


@pytest.mark.filterwarnings("ignore:.*half the step size")
def test_check_looks_at_all_steps_since_an_end_may_be_the_same_by_symmetry() -> None:
    """Around t = 1, where y = sqrt(1 - t) ends, a symmetric method goes as it came: y(2) = 0 with any steps."""
    given = BLOW_UPS["square_root"]
    field = Noisy(given.f, lambda t, y: 0 * y, "diagonal", "stratonovich")
    ends = []
    for steps in (50, 100):
        found = on.solve(field, given.start(), [0.0, 2.0], "reversible_heun", steps=steps, check=True)
        assert found.status == "inaccurate"
        ends.append(abs(float(found.y[-1])))
    assert max(ends) < 1e-9
