"""The integrators that come with odenet, as data; one file per family."""

from __future__ import annotations

from typing import Any

from ..registration import INTEGRATORS
from . import explicit, multistep, reversible, symplectic

LIBRARY: dict[str, Any] = {**explicit.LIBRARY, **multistep.LIBRARY, **symplectic.LIBRARY, **reversible.LIBRARY}

INTEGRATORS.shelve(LIBRARY)
