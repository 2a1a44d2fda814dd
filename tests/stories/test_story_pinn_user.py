"""A PINN user meets the door that is still closed: one sentence, not a traceback."""

from __future__ import annotations

import pytest

import odenet as on
from odenet.errors import NotBuiltYet


def test_pde_problems_say_that_they_are_not_built(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotBuiltYet, match="not built in this version"):
        on.pde.get("burgers")
    from odenet.cli import main

    assert main(["pde", "burgers"]) == 2
    assert "not built in this version" in capsys.readouterr().err
