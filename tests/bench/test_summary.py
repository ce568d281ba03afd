"""Medians, paired ratios and rejection: by hand, and by numpy over many pairs."""

from __future__ import annotations

import numpy as np
import pytest

from openarctic.bench.summary import Run, Spread, Timing, is_quiet, steps_for, summarize


def pair(first: float, second: float, foreign: float | None = 0.0) -> tuple[Timing, Timing]:
    return Timing(first, 100, foreign), Timing(second, 100, foreign)


def test_a_ratio_is_the_median_of_ratios_of_pairs_and_not_the_ratio_of_medians() -> None:
    run = Run((pair(1, 2), pair(2, 2), pair(4, 12)), 0)
    body = summarize(("ours", "peer"), [run])
    assert body["ratio"] == {"median": 2.0, "min": 1.0, "max": 3.0, "runs": [2.0]}
    assert body["sides"]["ours"]["median"] == 50  # 100 / 2
    assert body["sides"]["peer"]["median"] / body["sides"]["ours"]["median"] == 1


@pytest.mark.parametrize("runs", [1, 3])
def test_summaries_agree_with_numpy(runs: int) -> None:
    rng = np.random.default_rng(runs)
    seconds = rng.uniform(0.5, 2, (runs, 9, 2))
    body = summarize(("a", "b"), [Run(tuple(pair(*row) for row in run), 1) for run in seconds])
    rates, ratios = 100 / seconds, seconds[..., 1] / seconds[..., 0]
    for i, name in enumerate("ab"):
        side = body["sides"][name]
        assert np.isclose(
            [side["median"], side["min"], side["max"]], [f(rates[..., i]) for f in (np.median, np.min, np.max)]
        ).all()
        assert np.allclose(side["runs"], np.median(rates[..., i], axis=1))
    assert np.isclose(body["ratio"]["median"], np.median(ratios)) and np.allclose(body["ratio"]["runs"], np.median(ratios, 1))
    assert (body["repetitions"], body["rejected"]) == (9 * runs, runs)


def test_of_seconds_less_is_better() -> None:
    body = summarize(("ours", "peer"), [Run((pair(0.5, 2),), 0)], is_rate=False)
    assert body["sides"]["ours"]["median"] == 0.5
    assert body["ratio"]["median"] == 4


def test_what_was_rejected_altogether_has_no_numbers() -> None:
    body = summarize(("ours", "peer"), [Run((), 27)])
    assert body["sides"] == {"ours": None, "peer": None}
    assert body["ratio"] is None and body["rejected"] == 27


def test_a_run_without_pairs_leaves_a_gap_among_the_others() -> None:
    body = summarize(("ours", "peer"), [Run((), 3), Run((pair(1, 2),), 0)])
    assert body["ratio"]["runs"] == [None, 2.0]


def test_one_side_has_no_ratio() -> None:
    assert "ratio" not in summarize(("ours",), [Run(((Timing(1, 5),),), 0)])


@pytest.mark.parametrize(
    ("shares", "quiet"),
    [((0.0, 0.1), True), ((0.0, 0.11), False), ((0.11, 0.0), False), ((None, None), True), ((None, 0.5), False)],
)
def test_a_pair_counts_as_a_whole(shares: tuple[float | None, ...], quiet: bool) -> None:
    assert is_quiet([Timing(1, 1, share) for share in shares], 0.1) is quiet


def test_a_spread_of_nothing_is_nothing() -> None:
    assert Spread.of([]) is None
    assert Spread.of([3, 1, 2, 10]) == Spread(2.5, 1, 10)


@pytest.mark.parametrize(("step", "steps"), [(0.01, 35), (1.0, 4), (1e-6, 128), (0.0, 128)])
def test_steps_fill_the_time_within_limits(step: float, steps: int) -> None:
    assert steps_for(step, 0.35, 4, 128) == steps
