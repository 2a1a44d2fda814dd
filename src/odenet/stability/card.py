"""What there is to know about an integrator on one page: formula, coefficients, facts in words, reference, region."""

from __future__ import annotations

import dataclasses
import inspect
import math
import textwrap
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from .. import integrators
from ..integrators import Facts, Integrator
from ..rational import Number, Root
from .region import picture

WIDTH = 116
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
        parts.append(picture(method, plain=plain))
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
    low = f", with an estimate of order {facts.order_low}" if facts.order_low is not None else ""
    strong = ", ".join(f"{p:g} ({noise})" for noise, p in getattr(method, "strong_orders", {}).items())
    lines = [
        ("order", f"{method.order}{low}"),
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
        ("between", _between(data_of(method))),
        ("when", method.when),
        ("cite", method.cite),
    ]
    return [(label, text) for label, text in lines if text]


def _between(data: Any) -> str:
    """Dense output."""
    order = getattr(data, "order_dense", None)
    return "" if order is None else f"steps, a polynomial of its own, of order {order}"


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
    return text.split("\n\n")[0]


def coefficients(method: Integrator) -> str:
    """The coefficients as they were written: a Butcher array where there are a and b, else field by field."""
    data = data_of(method)
    if data is None:
        held = {k: v for k, v in vars(method).items() if not k.startswith("_") and k not in {*_ELSEWHERE, "learnable"}}
        plain = {k: v for k, v in held.items() if isinstance(v, str | int | float) and not hasattr(Integrator, k)}
        return "\n".join(f"{k} = {v}" for k, v in plain.items())
    done: set[str] = set()
    parts: list[str] = []
    if _is_butcher(data):
        parts.append(butcher(data.a, data.nodes, data.b, getattr(data, "b_low", None)))
        done = {"a", "b", "b_low"}
    for f in dataclasses.fields(data):
        value = getattr(data, f.name)
        if f.name not in {*_ELSEWHERE, *done} and value not in (None, "", False, f.default):
            parts.append(_field(f.name, value))
    return "\n".join(parts)


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
    return textwrap.wrap("  ".join(row) or "-", WIDTH - 4, initial_indent=head, subsequent_indent=" " * len(head))


def _field(name: str, value: Any) -> str:
    if isinstance(value, tuple) and value and all(isinstance(row, str) for row in value):
        rows = [row.split() for row in value]
        columns = max(map(len, rows))
        widths = [max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(columns)]
        if sum(widths) + 2 * columns < WIDTH - 12:
            lines = ["  ".join(f"{word:>{width}}" for word, width in zip(row, widths)) or "-" for row in rows]
            return "\n".join(f"{name if i == 0 else '':12}{line}" for i, line in enumerate(lines))
        long = (_wrapped("" if i else name, str(i + 1), row) for i, row in enumerate(rows))
        return "\n".join(line for row in long for line in row)
    if isinstance(value, tuple) and value and all(isinstance(row, tuple) for row in value):
        lines = [",  ".join(map(str, row)) or "-" for row in value]
        return "\n".join(f"{name if i == 0 else '':12}{line}" for i, line in enumerate(lines))
    text = str(getattr(value, "name", "") or type(value).__name__) if isinstance(value, Integrator) else str(value)
    return textwrap.fill(text, WIDTH, initial_indent=f"{name:12}", subsequent_indent=" " * 12)


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
