"""The exceptions of odenet, one tree.

    OdenetError
    ├── BadInput (ValueError)            an argument cannot be right
    │   ├── UnknownName (KeyError)       no registry entry of that name
    │   └── Incompatible                 two choices that cannot work together
    ├── ClaimRefused (ValueError)        a method's stated fact contradicts its coefficients
    ├── NotBuiltYet (NotImplementedError)  a documented part that this version does not have
    ├── StepFailed (RuntimeError)        one step could not be taken (Newton's iteration diverged); a march catches it
    ├── SolveFailed (RuntimeError)       an integration that ended early; holds `.solution`
    └── TrainingStopped (RuntimeError)   a training run that met a non-finite number; holds `.fit`

Every message is one sentence or two that say what was wrong, what was given, why, and what to write instead.
"""

from __future__ import annotations

from typing import Any


class OdenetError(Exception):
    """Root of all exceptions that odenet raises on purpose."""


class BadInput(OdenetError, ValueError):
    """An argument cannot be right."""


class UnknownName(BadInput, KeyError):
    """No registry entry has that name."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0])


class Incompatible(BadInput):
    """Two choices that cannot work together, found when they are combined."""


class ClaimRefused(OdenetError, ValueError):
    """A method states a fact (its order, say) that its own coefficients contradict."""


class NotBuiltYet(OdenetError, NotImplementedError):
    """A documented part that this version does not have."""


class StepFailed(OdenetError, RuntimeError):
    """A step from t with size h cannot be taken; an adaptive march shortens it, a fixed one ends with `status`."""

    def __init__(self, message: str, status: str = "newton_failed") -> None:
        super().__init__(message)
        self.status = status


class SolveFailed(OdenetError, RuntimeError):
    """An integration ended before its last time; the partial result is in `.solution`."""

    def __init__(self, message: str, solution: Any = None) -> None:
        super().__init__(message)
        self.solution = solution


class TrainingStopped(OdenetError, RuntimeError):
    """Training met a non-finite loss or gradient; the state before it is in `.fit`."""

    def __init__(self, message: str, fit: Any = None) -> None:
        super().__init__(message)
        self.fit = fit
