"""One thread, a fixed seed, and the default dtype given back, for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
os.environ.setdefault("COLUMNS", "200")  # tables of the command line are not cut


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    yield
    torch.set_default_dtype(default)


@pytest.fixture
def double() -> None:
    """float64 as the default dtype of the test."""
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient "discrete" recomputes small graphs too, so that small tests reach the recomputation."""
    monkeypatch.setattr("odenet.flow.gradient.WHOLE", 0)


def pytest_configure(config: pytest.Config) -> None:
    """`slow`, `gpu` and `bench` run only when asked for, with -m."""
    if not config.getoption("-m"):
        config.option.markexpr = "not slow and not bench"


# Sweeps written before these families were there; each family has test files of its own.
SWEEPS = {
    f"test_{name}.py"
    for name in (
        "flow_solve", "flow_gradients", "integrators_order", "integrators_steps", "integrators_derivatives",
        "integrators_stability", "integrators_registry", "stability_region", "testing_sweep",
    )
}  # fmt: skip
FIRST = frozenset({
    "euler", "midpoint", "heun", "heun_euler", "fehlberg2", "heun3", "ralston", "rk3", "ssprk3", "rk4", "rk4_38",
    "bosh3", "dopri5", "tsit5", "polynet2", "polynet3", "ab2", "ab3", "ab4", "lm", "momentum", "leapfrog",
    "two_step_midpoint", "symplectic_euler", "verlet", "yoshida4",
})  # fmt: skip


def _waits(item: pytest.Item) -> bool:
    """Whether a sweep meets a family that it has not been extended to."""
    from odenet.integrators.library import LIBRARY

    values = getattr(item, "callspec", None)
    names = [v for v in values.params.values() if isinstance(v, str)] if values else []
    return item.path.name in SWEEPS and any(n in LIBRARY and n not in FIRST for n in names)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _waits(item):
            item.add_marker(pytest.mark.skip(reason="this sweep is not yet extended to the family"))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))
