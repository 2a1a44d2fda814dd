from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from odenet.experiment import statistics


def rows(**scores: list[float | None]) -> list[dict[str, object]]:
    return [
        {
            "net": name, "integrator": "rk4", "seed": s, "accuracy": a, "val_accuracy": a, "parameters": 5, "nfe": 64,
            "seconds": 2.0, "stable": True, "standing": "measured",
        }
        for name, values in scores.items() for s, a in enumerate(values)
    ]  # fmt: skip


A, B, C = [0.90, 0.95, 0.93, 0.97], [0.88, 0.96, 0.90, 0.91], [0.70, 0.72, 0.74, 0.73]


def test_intervals_and_p_values_are_those_of_scipys_paired_test() -> None:
    for d in statistics.differences(rows(a=A, b=B, c=C), "a/rk4")[1:]:
        theirs = stats.ttest_rel({"b": B, "c": C}[d.key[0]], A)
        low, high = theirs.confidence_interval(0.95)
        assert (d.low, d.high, d.p) == pytest.approx((low, high, theirs.pvalue), rel=1e-10)
        assert d.mean == pytest.approx(theirs.statistic * theirs._standard_error, rel=1e-10)


def test_the_reading_says_where_zero_lies() -> None:
    found = {d.key: d.reading for d in statistics.differences(rows(a=A, b=B, c=C), "a/rk4")}
    assert found == {"a/rk4": "reference", "b/rk4": "no difference detectable", "c/rk4": "lower"}
    assert statistics.differences(rows(a=A, c=C), "c/rk4")[0].reading == "higher"


def test_holms_correction_is_the_step_down_rule() -> None:
    draw = np.random.default_rng(0)
    scores = {f"n{i}": list(0.9 + 0.01 * i + 0.02 * draw.standard_normal(6)) for i in range(6)}
    found = [d for d in statistics.differences(rows(**scores), "n0/rk4") if d.p is not None]
    for d in found:  # Holm 1979: the largest of (m - rank) p over all that are no larger, at most 1
        smaller = sorted(e.p for e in found if e.p <= d.p)
        expected = max(min(1.0, (len(found) - i) * p) for i, p in enumerate(smaller))
        assert d.holm == pytest.approx(expected)


def test_equal_counts_in_a_few_seeds_are_not_certainty() -> None:
    same_lead = rows(a=[0.90, 0.92, 0.94], b=[0.91, 0.93, 0.95])
    blunt = statistics.differences(same_lead, "a/rk4", resolution=0.01)[1]
    assert blunt.reading == "no difference detectable"
    half = stats.t.ppf(0.975, 2) * 0.01 / np.sqrt(3)
    assert blunt.high - blunt.mean == pytest.approx(half)


def test_pairs_are_formed_over_the_seeds_that_both_have() -> None:
    d = statistics.differences(rows(a=[0.9, None, 0.8, 0.7], b=[0.8, 0.1, 0.75, None]), "a/rk4")[1]
    assert d.mean == pytest.approx((-0.1 - 0.05) / 2)
    lost = statistics.differences(rows(a=[0.9, 0.9], b=[None, None]), "a/rk4")[1]
    assert lost.mean is None and lost.reading == "no result"


def test_one_seed_gives_no_interval() -> None:
    d = statistics.differences(rows(a=[0.9], b=[0.8]), "a/rk4")[1]
    assert (d.low, d.high, d.p, d.reading) == (None, None, None, "one seed: no interval")
    assert "no intervals" in statistics.note([d])


def test_a_summary_is_mean_and_sample_deviation() -> None:
    (s,) = statistics.summarise(rows(a=A))
    assert (s.accuracy, s.sd) == pytest.approx((np.mean(A), np.std(A, ddof=1)))
    assert (s.verdict, s.agreement, s.seeds, s.seconds) == ("stable, measured", "4/4", 4, 2.0)


def test_the_reference_is_chosen_on_validation_and_never_on_test() -> None:
    table = rows(a=[0.99, 0.99], b=[0.5, 0.5])
    for row in table:
        row["val_accuracy"] = {"a": 0.1, "b": 0.2}[str(row["net"])]
    summaries = statistics.summarise(table)
    assert statistics.reference_of(summaries, "") == "b/rk4"
    assert statistics.reference_of(summaries, "a/rk4") == "a/rk4"


def test_the_note_counts_what_chance_would_give() -> None:
    found = statistics.differences(rows(a=A, b=B, c=C), "a/rk4")
    assert (
        "2 comparisons at 95 %: about 0.1 intervals would miss 0 by chance alone. 1 of them excludes 0"
        in statistics.note(found)
    )
