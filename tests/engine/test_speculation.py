"""The policy in simulated worlds: step times and acceptance are given, time is a number."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from openarctic.engine.speculation import GAIN, SpeculationPolicy, StepTime
from openarctic.engine.suffix import Draft

DRAFT = Draft([1] * 8, [0.9**i for i in range(1, 9)], 8)


def play(
    policy: SpeculationPolicy,
    step_time: Callable[[int], float],
    chance: Callable[[int], float],
    *,
    steps: int = 400,
    batch: int = 1,
    seed: int = 0,
    draft: Draft = DRAFT,
) -> tuple[float, float]:
    """Steps in which a draft's tokens are right with `chance(sequence)` each. Gives speed against no drafts, and tokens drafted
    a sequence and step.
    """
    rng = random.Random(seed)
    seconds = tokens = drafted = 0.0
    for _ in range(steps):
        limits = policy.limits(batch, dict.fromkeys(range(batch), 99))
        lengths = policy.choose(batch, batch, {id: Draft(*(x[:n] for x in draft[:2]), draft[2]) for id, n in limits.items()})
        outcomes = {}
        for id, length in lengths.items():
            right = next((i for i in range(length) if rng.random() >= chance(id)), length)
            outcomes[id] = (length, right)
        total = batch + sum(lengths.values())
        took = step_time(total) * rng.uniform(0.95, 1.05)
        policy.observe(total, batch, outcomes, took)
        seconds += took
        drafted += sum(lengths.values())
        tokens += batch + sum(right for _, right in outcomes.values())
    return tokens / batch * step_time(batch) / seconds, drafted / batch / steps


def steep(n: int) -> float:
    """Every token takes its time: nothing can be gained."""
    return 1e-3 * n


def flat(n: int) -> float:
    """A step reads the weights, whatever the number of tokens up to 8."""
    return 1e-2 * (1 + 0.02 * n + max(0, n - 8) * 0.1)


def test_where_steps_are_flat_whole_drafts_are_verified() -> None:
    speed, drafted = play(SpeculationPolicy(), flat, lambda id: 0.95)
    assert speed > 4 and drafted > 6


def test_where_every_token_costs_a_step_nothing_is_drafted() -> None:
    policy = SpeculationPolicy()
    speed, _ = play(policy, steep, lambda id: 0.9, steps=1000)
    assert speed > 0.97
    speed, drafted = play(policy, steep, lambda id: 0.9)
    assert speed > 0.97 and drafted < 0.12  # what it costs is measured now and then


def test_drafts_that_are_never_right_cost_little_and_are_still_tried() -> None:
    policy = SpeculationPolicy()
    speed, drafted = play(policy, flat, lambda id: 0.0, steps=2000)
    assert speed > 0.97 and 0 < drafted < 0.5
    speed, drafted = play(policy, flat, lambda id: 0.95, steps=1000)  # now they are right: it switches on again
    assert speed > 2.5 and drafted > 3


def test_lengths_shrink_under_load() -> None:
    drafted = {b: play(SpeculationPolicy(), flat, lambda id: 0.8, batch=b)[1] for b in (1, 4, 16)}
    assert drafted[1] > drafted[4] > drafted[16]


def test_each_sequence_is_judged_for_itself() -> None:
    """One whose drafts are right, one whose drafts are wrong, by the same scores."""
    policy = SpeculationPolicy()
    play(policy, flat, lambda id: 0.97 if id == 0 else 0.2, batch=2)
    lengths = policy.choose(2, 2, {0: DRAFT, 1: DRAFT})
    assert lengths[0] > 2 * lengths.get(1, 0)
    policy.forget(1)
    assert policy.acceptance.chances(1, DRAFT) > policy.acceptance.chances(99, DRAFT)[:0]


def test_better_drafts_get_the_room() -> None:
    policy = SpeculationPolicy()
    play(policy, lambda n: 1e-3 * (1 + 0.4 * n), lambda id: 0.7, batch=2)
    good, poor = Draft([1] * 8, [1.0] * 8, 12), Draft([1] * 2, [0.3, 0.15], 2)
    lengths = policy.choose(2, 2, {0: good, 1: poor})
    assert lengths.get(0, 0) > lengths.get(1, 0)


def test_the_choice_is_the_best_of_all_choices() -> None:
    """Against trying every pair of lengths, for random models of time."""
    rng = random.Random(3)
    for _ in range(200):
        policy = SpeculationPolicy(_next_probe=1000)
        for n in (1, 2, 4, 8, 16):
            policy.step_time.observe(n, rng.uniform(0.5, 1.5) * n**0.5)
        drafts = {}
        for id in range(2):
            p, probabilities = 1.0, []
            for _ in range(rng.randint(1, 6)):
                p *= rng.uniform(0.3, 1)
                probabilities.append(p)
            drafts[id] = Draft([0] * len(probabilities), probabilities, rng.randint(1, 20))
        chances = {id: [0.0, *policy.acceptance.chances(id, draft)] for id, draft in drafts.items()}

        def rate(a: int, b: int, policy: SpeculationPolicy = policy, c: dict[int, list[float]] = chances) -> float:
            return (2 + sum(c[0][: a + 1]) + sum(c[1][: b + 1])) / policy.step_time.predict(2 + a + b)

        lengths = policy.choose(2, 2, drafts)
        best = max(rate(a, b) for a in range(len(chances[0])) for b in range(len(chances[1])))
        assert rate(lengths.get(0, 0), lengths.get(1, 0)) == pytest.approx(best if best > GAIN * rate(0, 0) else rate(0, 0))


def test_what_longer_steps_cost_is_tried_under_load() -> None:
    """Eight sequences, drafts nearly always right: steps of 8 alone do not tell that steps of 40 take hardly longer."""
    speed, drafted = play(SpeculationPolicy(), lambda n: 1e-2 * (1 + 0.002 * n), lambda id: 0.95, batch=8)
    assert speed > 3 and drafted > 3


def test_speculation_pauses_as_a_whole_when_it_loses() -> None:
    """What no model of time against size foretells: 8 tokens of drafts cost three times as much as 8 of other sequences."""
    policy, rng = SpeculationPolicy(), random.Random(5)
    paused = 0
    for _ in range(1000):
        policy.observe(8, 8, {}, 1.0)
        limits = policy.limits(1, {0: 99})
        paused += policy.is_paused
        lengths = policy.choose(1, 1, {id: Draft([1] * 7, [0.6**i for i in range(1, 8)], 8) for id in limits})
        drafted = sum(lengths.values())
        right = next((i for i in range(drafted) if rng.random() >= 0.5), drafted)
        policy.observe(1 + drafted, 1, {0: (drafted, right)} if drafted else {}, 1 + 0.3 * drafted)
    assert paused > 300


def test_the_room_of_a_sequence_limits_its_draft() -> None:
    policy = SpeculationPolicy(max_draft=6)
    assert policy.limits(3, {1: 0, 2: 4, 3: 90}) == {}  # a step without drafts is measured first
    policy.observe(3, 3, {}, 1.0)
    assert policy.limits(3, {1: 0, 2: 4, 3: 90}) == {2: 4, 3: 6}


def test_a_drafter_that_takes_time_is_asked_for_what_pays() -> None:
    """A draft model's tokens cost: at a step each nothing pays, at a hundredth of one nearly all do."""
    lengths = {}
    for cost in (0.001, 0.01, 0.05, 1.0):
        policy = SpeculationPolicy()
        for n in (1, 5, 9, 17):
            policy.observe(n, 1, {}, flat(n) * 100)
        policy.observe_drafting(4, 4 * cost)
        lengths[cost] = policy.limits(1, {0: 99}).get(0, 0)
    assert lengths[0.001] >= lengths[0.01] > lengths[0.05] > lengths[1.0] == 0
    sure, unsure = (play_drafter(chance) for chance in (0.95, 0.4))
    assert sure > 2 * unsure > 0


def play_drafter(chance: float) -> float:
    """Tokens drafted a step by a model that takes a tenth of a step for each and is right with that chance."""
    policy, rng, total = SpeculationPolicy(), random.Random(0), 0
    for _ in range(300):
        limit = policy.limits(1, {0: 99}).get(0, 0)
        policy.observe_drafting(1, 0.1 * flat(1))
        drafts = {0: Draft([1] * limit, [0.9**i for i in range(1, limit + 1)], 64)} if limit else {}
        length = policy.choose(1, 1, drafts).get(0, 0)
        right = next((i for i in range(length) if rng.random() >= chance), length)
        policy.observe(1 + length, 1, {0: (length, right)} if length else {}, flat(1 + length))
        total += length
    return total / 300


def test_step_time_learns_and_lives_through_an_outlier() -> None:
    times = StepTime()
    for _ in range(50):
        for n in (1, 4, 16, 300):
            times.observe(n, flat(n))
    for n in (1, 4, 16, 300):
        assert times.predict(n) == pytest.approx(flat(n), rel=0.02)
    assert flat(4) < times.predict(10) < flat(16)
    times.observe(4, 100.0)
    assert times.predict(4) == pytest.approx(flat(4), rel=0.15)
    for _ in range(200):  # the machine is now half as fast, and steps of 16 have not come up since
        times.observe(1, 2 * flat(1))
    assert times.predict(16) > 1.3 * flat(16)
