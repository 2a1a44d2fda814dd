"""What there is to know about an integrator on one page: formula, coefficients, facts in words, reference, region."""

from __future__ import annotations

import dataclasses
import inspect
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from .. import integrators
from ..integrators import Facts, Integrator
from ..rational import Number, Root
from .picture import picture

WIDTH = 98  # of a page of 100 columns, indented by two
# fields of coefficients that the facts repeat, or that are too long to read
_ELSEWHERE = {"order", "order_low", "cite", "when", "name", "dense", "a_dense", "order_dense"}


def card(integrator: Any, drawn: bool = True, plain: bool = False) -> str:
    """The page: what it is in one line, facts, formula and coefficients, when to choose it, where it is from.

    drawn: with the stability region in characters; plain: in ASCII ones
    """
    method = integrators.resolve(integrator)
    head = [f"{method.name or type(method).__name__} (integrator)", *_labelled(facts_in_words(method))]
    parts = ["\n".join(head), formula(method), coefficients(method)]
    if drawn:
        parts.append(picture(method, plain=plain, width=WIDTH))
    return "\n\n".join(textwrap.indent(part, "  ") if i else part for i, part in enumerate(parts) if part)


def _labelled(lines: Sequence[tuple[str, str]]) -> list[str]:
    out = []
    for label, text in lines:
        first, *more = textwrap.wrap(text, WIDTH - 15) or [""]
        out += [f"  {label + ':':13}{first}", *(" " * 15 + line for line in more)]
    return out


# ------------------------------------------------------------------------------------------------------ facts


def facts_in_words(method: Integrator) -> list[tuple[str, str]]:
    """(label, sentence) of everything that is known."""
    facts = method.facts
    strong = ", ".join(f"{p:g} ({noise})" for noise, p in getattr(method, "strong_orders", {}).items())
    lines = [
        ("order", _order(method)),
        ("strong", strong and f"mean error on a path O(h^p), p = {strong}"),
        ("stages", _stages(method)),
        ("needs", _needs(method)),
        ("kind", _kind(method)),
        ("stable for", _stable_for(method)),
        ("stability", _stability(facts)),
        ("contractive", _contractive(facts)),
        ("monotone", _monotone(facts.ssp)),
        ("error", "" if facts.error_constant is None else f"{facts.error_constant:.4g} h^{method.order + 1}"),
        ("exact", "rational or algebraic coefficients, checked in exact arithmetic" if facts.exact else ""),
        ("dense", _dense(data_of(method))),
        ("when", method.when),
        ("cite", method.cite),
    ]
    return [(label, text) for label, text in lines if text]


def _order(method: Integrator) -> str:
    if hasattr(data_of(method), "highest"):
        return f"1 to {method.order}, chosen step by step; the facts below are those of the highest, in equal steps"
    low = method.facts.order_low
    return f"{method.order}, with an estimate of order {low}" if low is not None else f"{method.order}"


def _dense(data: Any) -> str:
    order = getattr(data, "order_dense", None)
    return "" if order is None else f"between steps a polynomial of its own, of order {order}"


def _stages(method: Integrator) -> str:
    words = [str(method.stages)]
    words += ["the last is the first of the next step"] if method.facts.fsal else []
    words += [f"remembers {method.history} step{'s' * (method.history > 1)}"] if method.history else []
    words += [f"stage order {method.facts.stage_order}"] if method.facts.stage_order else []
    return "; ".join(words)


def _needs(method: Integrator) -> str:
    explained = {
        "separable": "a separable field, q' = drift(t, p), p' = kick(t, q)",
        "second_order": "a second-order field, y'' = f(t, y)",
        "split": "a field in two parts, f = explicit + implicit",
        "linear": "a field with a linear part, f = L y + nonlinear",
        "noise": "a field with noise, dy = f dt + g dW; without noise it is an ordinary method",
    }
    return "; ".join(explained.get(n, n) for n in sorted(method.needs)) or "any field"


def _kind(method: Integrator) -> str:
    words = [w for w in ("adaptive", "symplectic", "reversible", "implicit", "learnable") if getattr(method, w)]
    return ", ".join(words if "implicit" in words or method.needs else [*words, "explicit"])


def _stable_for(method: Integrator) -> str:
    facts, parts = method.facts, []
    if facts.real_interval:
        words = "every h lambda < 0" if math.isinf(facts.real_interval) else f"h lambda >= -{facts.real_interval:.4g}"
        parts.append(f"{words} (damping)")
    if facts.imag_interval is not None:
        words = "every h omega" if math.isinf(facts.imag_interval) else f"h omega <= {facts.imag_interval:.4g}"
        parts.append(f"{words} (oscillation)" if facts.imag_interval else "no oscillation")
    return ", ".join(parts)


def _stability(facts: Any) -> str:
    named = {
        "A-stable": facts.a_stable,
        "L-stable": facts.l_stable,
        "B-stable": facts.b_stable,
        "stiffly accurate": facts.stiffly_accurate,
        "zero-stable": facts.zero_stable,
    }
    return ", ".join(name if holds else f"not {name}" for name, holds in named.items() if holds is not None)


def _monotone(ssp: float | None) -> str:
    if not ssp:
        return ""
    return "at every h" if math.isinf(ssp) else f"h <= {ssp:.4g} h0 where euler is up to h0 (SSP)"


def _contractive(facts: Any) -> str:
    r = facts.contractivity_radius
    if r is None:
        return ""
    if not r:
        return "not for all monotone fields at any h"
    return "on monotone fields at every h" if math.isinf(r) else f"h L <= {2 * r:.4g} on monotone fields"


# ----------------------------------------------------------------------------------------------- coefficients


def data_of(method: Integrator) -> Any:
    """The frozen coefficients that an integrator was made from; None where it is a class of its own."""
    held = (v for v in vars(method).values() if not isinstance(v, type | Facts))
    return next((v for v in held if dataclasses.is_dataclass(v)), None)


def formula(method: Integrator) -> str:
    """The first paragraph of what documents the coefficients, or the method."""
    data = data_of(method)
    text = inspect.getdoc(method if data is None or type(data).__name__ == "Declared" else data) or ""
    lines = text.split("\n\n")[0].splitlines()
    return "\n".join(line for long in lines for line in textwrap.wrap(long, WIDTH, subsequent_indent=" " * 4))


def coefficients(method: Integrator) -> str:
    """The coefficients as they were written: a Butcher array where there are a and b, else field by field."""
    data = data_of(method)
    if data is None:
        held = {k: v for k, v in vars(method).items() if not k.startswith("_") and k not in {*_ELSEWHERE, "learnable"}}
        plain = {k: v for k, v in held.items() if isinstance(v, str | int | float) and not hasattr(Integrator, k)}
        return "\n".join(_field(k, v) for k, v in plain.items())
    done: set[str] = set()
    parts: list[str] = []
    if _is_butcher(data):
        parts.append(butcher(data.a, data.nodes, data.b, getattr(data, "b_low", None)))
        done = {"a", "b", "b_low"}
    held = {f.name: getattr(data, f.name) for f in dataclasses.fields(data) if f.name not in {*_ELSEWHERE, *done}}
    defaults = {f.name: f.default for f in dataclasses.fields(data)}
    held = {name: value for name, value in held.items() if value not in (None, "", False, defaults[name])}
    rows = {name: value.split() for name, value in held.items() if isinstance(value, str) and _numbers(value)}
    parts += [_field(name, value, rows) for name, value in held.items() if name not in _REPEATED]
    return "\n".join(parts)


_REPEATED = {"stages", "controls_error", "properties"}  # among the facts, by other names
_NOTES = {
    "substituted": "as programs use them: alpha and b times Gamma^-1, gamma below the diagonal minus Gamma^-1",
    "rounded": "rationals that agree with irrational coefficients to double precision",
}


def _numbers(text: str) -> bool:
    return len(text.split()) > 1


def _is_butcher(data: Any) -> bool:
    a, b = getattr(data, "a", None), getattr(data, "b", None)
    return (
        isinstance(a, tuple)
        and all(isinstance(row, str) for row in a)
        and isinstance(b, str)
        and hasattr(data, "nodes")
    )


def butcher(a: Sequence[str], c: Sequence[Number], b: str, b_low: str | None = None) -> str:
    """The array c | A over b and the embedded weights; what is too wide becomes one line per row."""
    lines = [[number(x), *row.split()] for x, row in zip(c, a)]
    weights = [["b", *b.split()], *([["b_low", *b_low.split()]] if b_low else [])]
    columns = max(map(len, [*lines, *weights]))
    padded = [row + [""] * (columns - len(row)) for row in [*lines, *weights]]
    widths = [max(len(row[i]) for row in padded) for i in range(columns)]
    if sum(widths) + 2 * columns > WIDTH:
        return "\n".join(_long(lines, weights))
    drawn = [_aligned(row, widths) for row in padded]
    rule = "-" * (widths[0] + 1) + "+" + "-" * (sum(widths[1:]) + 2 * columns - 2)
    return "\n".join([*drawn[: len(lines)], rule, *drawn[len(lines) :]])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (f"{word:>{width}}" for word, width in zip(row, widths))
    return f"{first} | {'  '.join(rest)}".rstrip()


def _long(lines: Sequence[Sequence[str]], weights: Sequence[Sequence[str]]) -> Iterator[str]:
    for i, (c, *row) in enumerate(lines):
        yield from _wrapped(f"c{i + 1} = {c}", f"a{i + 1}", row)
    for name, *row in weights:
        yield from _wrapped("", name, row)


def _wrapped(before: str, name: str, row: Sequence[str]) -> list[str]:
    head = f"{before:25} {name:6}"
    return textwrap.wrap("  ".join(row) or "-", WIDTH, initial_indent=head, subsequent_indent=" " * len(head))


def _field(name: str, value: Any, rows: Mapping[str, Sequence[str]] | None = None) -> str:
    """`name value`; rows: those that are aligned with each other where they have as many entries."""
    if isinstance(value, tuple) and value and all(isinstance(row, str) for row in value):
        return _labelled_lines(name, _matrix(value))
    if isinstance(value, tuple) and value and all(isinstance(row, tuple) for row in value):
        return _labelled_lines(name, [",  ".join(map(str, row)) or "-" for row in value])
    if name in (rows or {}):
        return _labelled_lines(name, _row(name, rows or {}))
    if value is True:
        return textwrap.fill(_NOTES.get(name, "yes"), WIDTH, initial_indent=_head(name), subsequent_indent=_head(""))
    text = str(getattr(value, "name", "") or type(value).__name__) if isinstance(value, Integrator) else str(value)
    return textwrap.fill(text, WIDTH, initial_indent=_head(name), subsequent_indent=_head(""))


def _head(name: str) -> str:
    return f"{name:11} "


def _labelled_lines(name: str, lines: Sequence[str]) -> str:
    return "\n".join(f"{_head('' if i else name)}{line}".rstrip() for i, line in enumerate(lines))


def _row(name: str, rows: Mapping[str, Sequence[str]]) -> list[str]:
    """One row of numbers, in columns with the other rows of as many."""
    alike = [row for row in rows.values() if len(row) == len(rows[name])]
    widths = [max(len(row[i]) for row in alike) for i in range(len(rows[name]))]
    if sum(widths) + 2 * len(widths) + 12 <= WIDTH:
        return ["  ".join(f"{word:>{width}}" for word, width in zip(rows[name], widths))]
    return textwrap.wrap("  ".join(rows[name]), WIDTH - 12)


def _matrix(value: Sequence[str]) -> list[str]:
    """Rows of numbers in columns; rows of formulas as they are; what is too wide becomes numbered rows."""
    if any("phi" in row for row in value):  # functions, with blanks of their own
        return [f"{i + 1:<3} {row}" for i, row in enumerate(value)]
    rows = [row.split() for row in value]
    columns = max(map(len, rows))
    widths = [max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(columns)]
    if sum(widths) + 2 * columns + 12 <= WIDTH:
        return ["  ".join(f"{word:>{width}}" for word, width in zip(row, widths)) or "-" for row in rows]
    long = (
        textwrap.wrap("  ".join(row) or "-", WIDTH - 12, initial_indent=f"{i + 1:<3} ", subsequent_indent=" " * 4)
        for i, row in enumerate(rows)
    )
    return [line for row in long for line in row]


def number(x: Number) -> str:
    """A coefficient as a reader writes it: a fraction, a sum of roots, or its digits."""
    if isinstance(x, Fraction):
        return str(x)
    if isinstance(x, Root):
        word = {2: "sqrt", 3: "cbrt"}.get(x.degree, f"root{x.degree}")
        powers = ["", f"{word}({x.radicand})", *(f"{word}({x.radicand})^{i}" for i in range(2, x.degree))]
        terms = [_term(c, power) for c, power in zip(x.coefficients, powers) if c]
        return "".join(terms).removeprefix("+")
    return f"{float(x):.16g}"


def _term(c: Fraction, power: str) -> str:
    sign, size = ("-" if c < 0 else "+"), abs(c)
    if not power:
        return f"{sign}{size}"
    over = f"/{size.denominator}" if size.denominator > 1 else ""
    return f"{sign}{'' if size.numerator == 1 else f'{size.numerator}*'}{power}{over}"
