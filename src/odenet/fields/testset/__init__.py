"""Initial value problems with known end values, problems that end early, and random ones.

from odenet.fields.testset import BLOW_UPS, IVPS, random_problems

problem = IVPS["arenstorf"]
y = solve(problem.f, problem.start(), [problem.t0, problem.t1]).y[-1]
problem.error(y)
"""

from __future__ import annotations

from .blowups import BLOW_UPS
from .drawn import random_problems
from .nonstiff import NONSTIFF
from .problem import BlowUp, InitialValueProblem
from .stiff import STIFF

IVPS: dict[str, InitialValueProblem] = {**NONSTIFF, **STIFF}

__all__ = ["BLOW_UPS", "IVPS", "NONSTIFF", "STIFF", "BlowUp", "InitialValueProblem", "random_problems"]
