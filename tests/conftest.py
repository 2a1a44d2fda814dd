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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))
