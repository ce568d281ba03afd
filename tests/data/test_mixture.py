from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.data.mixture import WINDOW, Mixture, Schedule
from openarctic.errors import UserError


@st.composite
def shares(draw: st.DrawFn) -> list[float]:
    """Up to 12 proportions; some tiny, some equal, some nought."""
    weights = draw(st.lists(st.one_of(st.floats(0, 1), st.floats(0, 0.002), st.just(0.25)), min_size=1, max_size=12))
    weights[0] += 0.01
    total = sum(weights)
    return [weight / total for weight in weights]


def counts(schedule: Schedule, num_domains: int) -> np.ndarray:
    """Of each domain before each position [length + 1, K], counted one by one."""
    met = schedule.domains(np.arange(schedule.length))[:, None] == np.arange(num_domains)
    return np.concatenate([np.zeros((1, num_domains), np.int64), np.cumsum(met, axis=0)])


@settings(max_examples=150, deadline=None)
@given(shares(), st.integers(WINDOW, 6000), st.integers(0, 2**32))
def test_any_thousand_sequences_keep_the_proportions_to_a_tenth_of_a_percent(wanted: list[float], length: int, key: int) -> None:
    before = counts(Schedule(wanted, length, key), len(wanted))
    in_windows = before[WINDOW:] - before[:-WINDOW]
    assert np.abs(in_windows / WINDOW - wanted).max() <= 0.001 + 1e-9


@settings(max_examples=50, deadline=None)
@given(shares(), st.integers(1, 6000), st.integers(0, 2**32))
def test_ranks_count_the_domain(wanted: list[float], length: int, key: int) -> None:
    schedule = Schedule(wanted, length, key)
    before = counts(schedule, len(wanted))
    positions = np.arange(length)
    assert (schedule.ranks(positions) == before[positions, schedule.domains(positions)]).all()
    assert (schedule.counts() == before[-1]).all()


@settings(max_examples=30, deadline=None)
@given(shares())
def test_nothing_drifts(wanted: list[float]) -> None:
    """After any number of sequences a domain is at most a few off, however long the stage is."""
    before = counts(Schedule(wanted, 50_000, 1), len(wanted))
    assert np.abs(before - np.arange(len(before))[:, None] * wanted).max() < 6


def test_a_rare_domain_comes_as_often_as_it_should() -> None:
    assert Schedule([0.9999, 0.0001], 1_000_000, 0).counts().tolist() == [999_900, 100]


def test_every_nth_sequence_is_no_domain_of_its_own() -> None:
    schedule = Schedule([0.5, 0.5], 10_000, 0)
    for world_size in (2, 4, 8):
        for rank in range(world_size):
            domains = schedule.domains(np.arange(rank, 10_000, world_size))
            assert 0.4 < domains.mean() < 0.6


def test_a_seed_decides_the_order() -> None:
    positions = np.arange(2000)
    one, again, other = (Schedule([0.3, 0.7], 2000, key).domains(positions) for key in (1, 1, 2))
    assert (one == again).all() and (one != other).any()


@pytest.mark.parametrize(
    ("proportions", "message"),
    [
        ({"web": 0.5, "code": 0.4}, "sum to 0.9, not to 1"),
        ({"web": 50, "code": 51}, "sum to 101"),
        ({}, "sum to 0"),
        ({"web": 1.5, "code": -0.5}, "code has the proportion -0.5"),
        ({"web": float("nan")}, "web has the proportion nan"),
    ],
)
def test_proportions_that_make_no_whole_are_refused(proportions: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mixture(proportions)


def test_percent_and_parts_of_one_say_the_same() -> None:
    assert Mixture({"web": 75, "code": 25}).shares == Mixture({"web": 0.75, "code": 0.25}).shares
    assert Mixture({"web": 50, "code": 25, "sql": 25}).only(["web", "sql"]).shares == pytest.approx({"web": 2 / 3, "sql": 1 / 3})
