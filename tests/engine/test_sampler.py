"""The sampler against plain loops over the vocabulary, and its draws against the distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from openarctic.engine.sampler import Sampler, adjust, draw, probabilities, token_logprob
from openarctic.errors import UserError
from openarctic.generator import Sampling

LOGITS = np.random.default_rng(7).normal(0, 2, 24).astype(np.float32)
PROMPT, OUTPUT = [3, 5, 5, 9], [5, 1, 1, 1, 20]

SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.6},
    {"temperature": 1.7, "top_k": 5},
    {"temperature": 1.0, "top_p": 0.7},
    {"temperature": 1.2, "min_p": 0.15},
    {"temperature": 0.9, "repetition_penalty": 1.8},
    {"temperature": 0.9, "presence_penalty": 1.5, "frequency_penalty": -0.7},
    {"temperature": 1.0, "logit_bias": {2: 4.0, 7: -100.0}},
    {
        "temperature": 1.3,
        "top_k": 9,
        "top_p": 0.8,
        "min_p": 0.02,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.3,
        "logit_bias": {5: 3.0, 1: -2.0, 20: 1.0},
    },
]


def reference(logits: np.ndarray, sampling: Sampling, prompt: list[int], output: list[int]) -> list[float]:
    """vLLM's order in loops: bias, repetition, frequency, presence, temperature, min_p, top_k, top_p."""
    x = [float(v) for v in logits]
    for id, bias in sampling.logit_bias.items():
        x[id] += bias
    for id in range(len(x)):
        if id in prompt or id in output:
            x[id] = x[id] / sampling.repetition_penalty if x[id] > 0 else x[id] * sampling.repetition_penalty
        x[id] -= sampling.frequency_penalty * output.count(id)
        x[id] -= sampling.presence_penalty * (id in output)
    p = normal([math.exp(v / sampling.temperature) for v in x])
    p = normal([v if v >= sampling.min_p * max(p) else 0.0 for v in p])
    if sampling.top_k:
        p = normal([v if v >= sorted(p)[-sampling.top_k] else 0.0 for v in p])
    if sampling.top_p < 1:
        total, kept = 0.0, set()
        for id in sorted(range(len(p)), key=lambda i: -p[i]):
            if total < sampling.top_p:
                kept.add(id)
            total += p[id]
        p = normal([v if id in kept else 0.0 for id, v in enumerate(p)])
    return p


def normal(p: list[float]) -> list[float]:
    return [v / sum(p) for v in p]


def is_plausible(counts: np.ndarray, wanted: np.ndarray) -> bool:
    """Chi-square with a p-value above 0.001, by Wilson and Hilferty's cube root; rare tokens count together."""
    common = wanted >= 5
    observed, expected = (np.append(a[common], a[~common].sum()) for a in (counts, wanted))
    observed, expected = observed[expected > 0], expected[expected > 0]
    spread = 2 / (9 * (len(expected) - 1))
    statistic = ((observed - expected) ** 2 / expected).sum() / (len(expected) - 1)
    return bool((statistic ** (1 / 3) - (1 - spread)) / math.sqrt(spread) < 3.09)


def sampled(sampling: Sampling, logits: np.ndarray) -> np.ndarray:
    adjusted = adjust(logits, sampling, set(PROMPT), {id: OUTPUT.count(id) for id in OUTPUT})
    return probabilities(adjusted, sampling)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_distribution_is_that_of_the_reference(setting: dict[str, Any], masked: bool) -> None:
    logits = LOGITS.copy()
    if masked:
        logits[::3] = -np.inf
    sampling = Sampling(**setting)
    assert sampled(sampling, logits) == pytest.approx(reference(logits, sampling, PROMPT, OUTPUT), abs=1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_draws_follow_the_distribution(setting: dict[str, Any], masked: bool) -> None:
    """Chi-square over 5000 candidates of one setting, each with draws of its own, after the same output."""
    logits = LOGITS.copy()
    if masked:
        logits[1::3] = -np.inf
    sampling = Sampling(**setting, seed=11)
    drawn = []
    for index in range(5000):
        sampler = Sampler(sampling, PROMPT, index)
        for token in OUTPUT:
            sampler.force(token)
        drawn.append(sampler.choose(logits)[0])
    counts = np.bincount(drawn, minlength=len(logits))
    wanted = np.array(reference(logits, sampling, PROMPT, OUTPUT)) * len(drawn)
    assert not counts[wanted == 0].any()
    assert is_plausible(counts, wanted)
    other = np.array(reference(logits, Sampling(temperature=5), [], [])) * len(drawn)
    assert not is_plausible(counts, other)  # the test can fail


def test_one_candidate_after_another_follows_the_distribution() -> None:
    """The draws of one seed in a row."""
    sampler = Sampler(Sampling(temperature=1.5, seed=5))
    counts = np.bincount([sampler.choose(LOGITS)[0] for _ in range(20_000)], minlength=len(LOGITS))
    assert is_plausible(counts, probabilities(LOGITS, sampler.sampling) * 20_000)


def test_greedy_takes_the_largest_whatever_the_seed() -> None:
    for seed in (0, 1, None):
        sampling = Sampling(seed=seed, top_k=3, top_p=0.1, min_p=0.9)
        assert Sampler(sampling).choose(LOGITS)[0] == int(LOGITS.argmax())


def test_penalties_and_bias_change_what_is_greedy() -> None:
    best = int(LOGITS.argmax())
    assert Sampler(Sampling(logit_bias={4: 50})).choose(LOGITS)[0] == 4
    assert Sampler(Sampling(repetition_penalty=50), [best]).choose(LOGITS)[0] != best
    for name in ("presence_penalty", "frequency_penalty"):
        sampler = Sampler(Sampling(**{name: 2.0}))
        close = np.array([1.0, 0.5], np.float32)
        assert [sampler.choose(close)[0] for _ in range(2)] == [0, 1]


def test_the_log_probability_is_the_models_among_the_allowed() -> None:
    masked = LOGITS.copy()
    masked[::2] = -np.inf
    token, logprob = Sampler(Sampling(temperature=3, logit_bias={1: 9}, repetition_penalty=2), [1]).choose(masked)
    allowed = [float(v) for v in masked if v > -np.inf]
    assert logprob == pytest.approx(float(masked[token]) - math.log(sum(map(math.exp, allowed))), abs=1e-5)


def test_a_seed_gives_the_same_draws_and_others_give_others() -> None:
    def draws(seed: int, index: int = 0) -> list[int]:
        sampler = Sampler(Sampling(temperature=2, seed=seed), index=index)
        return [sampler.choose(LOGITS)[0] for _ in range(20)]

    assert draws(3) == draws(3)
    assert len({tuple(draws(3, index)) for index in range(8)} | {tuple(draws(4))}) == 9


def test_a_forced_token_uses_up_one_draw() -> None:
    chosen, forced = (Sampler(Sampling(temperature=2, seed=3)) for _ in range(2))
    only = np.full(len(LOGITS), -np.inf, np.float32)
    only[6] = 1
    assert chosen.choose(only) == (6, 0.0)
    forced.force(6)
    assert [chosen.choose(LOGITS) for _ in range(9)] == [forced.choose(LOGITS) for _ in range(9)]


def test_draw_is_numpys_choice() -> None:
    probs = probabilities(LOGITS, Sampling(temperature=1, top_k=7))
    one, two = np.random.default_rng(2), np.random.default_rng(2)
    assert [draw(probs, one.random()) for _ in range(300)] == [int(two.choice(len(probs), p=probs)) for _ in range(300)]


@pytest.mark.parametrize("spread", [0.0, 0.01, 5.0])
def test_top_p_of_a_large_vocabulary(spread: float) -> None:
    """Looking at the most probable alone gives what sorting all gives: flat, almost flat and peaked."""
    logits = np.random.default_rng(1).normal(0, spread, 4096).astype(np.float32)
    for top_p in (1e-20, 0.01, 0.3, 0.999):
        sampling = Sampling(temperature=1, top_p=top_p)
        assert probabilities(logits, sampling) == pytest.approx(reference(logits, sampling, [], []), abs=1e-9)


def test_log_probabilities_of_a_token_and_of_the_best() -> None:
    total = math.log(sum(math.exp(float(v)) for v in LOGITS))
    order = sorted(range(len(LOGITS)), key=lambda i: -LOGITS[i])
    for token in (order[0], order[4], order[-1]):
        score = token_logprob(LOGITS, token, 3)
        assert score.logprob == pytest.approx(float(LOGITS[token]) - total)
        assert score.rank == order.index(token) + 1
        assert [id for id, _ in score.top] == order[:3]
        assert [value for _, value in score.top] == pytest.approx([float(LOGITS[i]) - total for i in order[:3]])
    assert token_logprob(LOGITS, 0, 0).top == ()
    assert [id for id, _ in token_logprob(np.zeros(9, np.float32), 0, 4).top] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("temperature", -0.1, "0 to 10"),
        ("temperature", float("nan"), "0 to 10"),
        ("temperature", "hot", "a number"),
        ("temperature", True, "a number"),
        ("top_k", -1, "0 or more"),
        ("top_k", 1.5, "a whole number"),
        ("top_p", 0, "above 0 and at most 1"),
        ("top_p", 1.01, "above 0 and at most 1"),
        ("min_p", 2, "0 to 1"),
        ("repetition_penalty", 0, "above 0"),
        ("repetition_penalty", float("inf"), "at most 100"),
        ("presence_penalty", 2.5, "-2 to 2"),
        ("frequency_penalty", -2.5, "-2 to 2"),
        ("seed", -1, "0 to"),
        ("n", 0, "1 or more"),
        ("best_of", 0, "1 or more"),
        ("logprobs", 21, "0 to 20"),
        ("prompt_logprobs", -1, "0 to 20"),
        ("logit_bias", {3: 101}, "-100 to 100"),
        ("logit_bias", {"3": 1}, "a whole number"),
        ("stop_token_ids", [-2], "0 or more"),
        ("stop", ["a", ""], "at least 1 character"),
        ("stop", [3], "must hold texts"),
    ],
)
def test_a_value_outside_its_limits_is_told(name: str, value: Any, limit: str) -> None:
    with pytest.raises(UserError) as caught:
        Sampling(**{name: value})
    assert name in caught.value.message and limit in caught.value.message
    shown = value if isinstance(value, (int, float, str)) else next(iter(value.values() if isinstance(value, dict) else value))
    assert str(shown) in caught.value.message or name in ("logit_bias", "stop")


def test_values_that_do_not_fit_together() -> None:
    with pytest.raises(UserError, match="best_of is 2, it must be 3 or more"):
        Sampling(temperature=1, n=3, best_of=2)
    with pytest.raises(UserError, match="n is 3 at temperature 0"):
        Sampling(n=3)
    assert Sampling(stop="x", logit_bias={1: 2}).stop == ("x",)
