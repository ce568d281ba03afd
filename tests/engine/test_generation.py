"""The loop against a plain one over `Engine.logits`, and against itself: alone, among others, with and without forced tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llguidance import LLParserLimits

from openarctic.engine import Engine, constraint
from openarctic.engine.sampler import token_logprob
from openarctic.errors import CapacityError, UserError
from openarctic.generator import Completion, Constraint, Sampling
from tests.engine.test_constraint import FORMS
from tests.engine.test_sampler import is_plausible, reference
from tests.engine.words import VOCAB, word_engine
from tests.tiny import IDS

HOT = Sampling(temperature=1.5, seed=4)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return word_engine(tmp_path_factory.mktemp("model"))


@pytest.fixture
def steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of tokens of each step."""
    counts: list[int] = []

    def step(tokens: Sequence[int], *others: Any) -> Any:
        counts.append(len(tokens))
        return engine._runner.run(tokens, *others)

    monkeypatch.setattr(engine._loop, "step", step)
    return counts


def only(completions: list[Completion]) -> Completion:
    [completion] = completions
    return completion


def plain(engine: Engine, sampling: Sampling, count: int) -> list[int]:
    """Greedy or sampled tokens from whole-sequence logits, the definition of sampling, and numpy's own choice."""
    rng, out = np.random.default_rng(sampling.seed), []
    for _ in range(count):
        row = engine.logits(IDS + out)[-1]
        if sampling.temperature:
            probs = np.array(reference(row, sampling, IDS, out))
            out.append(int(rng.choice(len(probs), p=probs / probs.sum())))
        else:
            probs = np.array(reference(row, Sampling(**{**settings_of(sampling), "temperature": 1.0}), IDS, out))
            out.append(int(probs.argmax()))
    return out


def settings_of(sampling: Sampling) -> dict[str, Any]:
    return {name: getattr(sampling, name) for name in Sampling.__slots__}


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"repetition_penalty": 1.6},
        {"presence_penalty": 1.2, "frequency_penalty": 0.8},
        {"logit_bias": {70: 3.0, 71: 3.0}, "repetition_penalty": 2.0},
        {"temperature": 1.1, "seed": 9},
        {"temperature": 1.4, "seed": 2, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "frequency_penalty": 1.0},
    ],
    ids=str,
)
def test_tokens_are_those_of_the_plain_loop(engine: Engine, setting: dict[str, Any]) -> None:
    sampling = Sampling(**setting, ignore_eos=True)
    assert only(engine.generate(IDS, sampling=sampling, max_tokens=14)).ids == plain(engine, sampling, 14)


@pytest.mark.parametrize("form", [None, "json", "unforced lark"])
def test_a_seed_gives_the_same_tokens_among_31_others(engine: Engine, form: str | None) -> None:
    grammar = FORMS[form] if form else None
    mine = Sampling(temperature=1.0, seed=77, frequency_penalty=0.5)
    others = [Sampling(temperature=0.3 + 0.05 * i, seed=i, top_k=i, logprobs=3) for i in range(31)]
    alone = only(engine.generate(IDS, sampling=mine, max_tokens=20, grammar=grammar))
    among = engine.generate(IDS, sampling=[*others[:11], mine, *others[11:]], max_tokens=20, grammar=grammar)
    assert (among[11].ids, among[11].logprob) == (alone.ids, alone.logprob)
    assert len({tuple(c.ids) for c in among}) > (1 if form else 20)


def test_no_seed_is_another_each_time(engine: Engine) -> None:
    sampling = Sampling(temperature=3, seed=None)
    assert len({tuple(only(engine.generate(IDS, sampling=sampling, max_tokens=9)).ids) for _ in range(3)}) == 3


def test_n_are_different_and_the_first_is_the_one_alone(engine: Engine) -> None:
    alone = only(engine.generate(IDS, sampling=HOT, max_tokens=9)).ids
    several = engine.generate(IDS, sampling=[Sampling(temperature=1.5, seed=4, n=5), Sampling()], max_tokens=9)
    assert len(several) == 6 and several[0].ids == alone
    assert len({tuple(c.ids) for c in several}) == 6
    assert several[5].ids == only(engine.generate(IDS, max_tokens=9)).ids


def test_best_of_returns_the_highest_mean_log_probability(engine: Engine) -> None:
    """Over all tokens with the one that ends the text, so that texts of other lengths compare."""
    letters = Constraint(regex="[a-e]{1,12}")
    made = engine.generate(IDS, sampling=Sampling(temperature=1.5, seed=4, n=8), grammar=letters)
    means, sums = {}, {}
    for done in made:
        assert engine.tokenizer is not None and engine.tokenizer.eos_id is not None
        ids = done.ids if len(done.text) == 12 else [*done.ids, engine.tokenizer.eos_id]
        rows = engine.logits(IDS + ids)[len(IDS) - 1 :]
        scores = [token_logprob(row, t, 0).logprob for row, t in zip(rows, ids, strict=False)]
        means[tuple(done.ids)], sums[tuple(done.ids)] = np.mean(scores), np.sum(scores)
    best = engine.generate(IDS, sampling=Sampling(temperature=1.5, seed=4, n=3, best_of=8), grammar=letters)
    assert [tuple(c.ids) for c in best] == sorted(means, key=lambda ids: -means[ids])[:3]
    assert [tuple(c.ids) for c in best] != sorted(sums, key=lambda ids: -sums[ids])[:3]  # not the sum
    assert best[0].logprobs is None  # nobody asked
    with pytest.raises(UserError, match="cannot be streamed"):
        engine.generate(IDS, sampling=Sampling(temperature=1, best_of=2), on_text=lambda *_: None)


@pytest.mark.parametrize("form", [None, "json"])
def test_log_probabilities_are_those_of_the_models_logits(engine: Engine, form: str | None) -> None:
    """Before grammar, penalties and temperature."""
    sampling = Sampling(temperature=2.0, seed=1, repetition_penalty=1.5, logprobs=4, prompt_logprobs=2)
    done = only(engine.generate(IDS, sampling=sampling, max_tokens=12, grammar=FORMS[form] if form else None))
    rows = engine.logits(IDS + done.ids)
    wanted = [token_logprob(row, t, 4) for row, t in zip(rows[len(IDS) - 1 :], done.ids, strict=False)]
    assert done.logprobs == wanted and len(done.ids) > 3
    prompt = [token_logprob(row, t, 2) for row, t in zip(rows, IDS[1:], strict=False)]
    assert done.prompt_logprobs == [None, *prompt]
    exact = rows[0].astype(np.float64) - np.log(np.exp(rows[0].astype(np.float64)).sum())
    assert prompt[0].logprob == pytest.approx(exact[IDS[1]], abs=1e-9)


def test_prompt_log_probabilities_of_a_prompt_that_is_cached(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is computed again, in chunks here."""
    monkeypatch.setattr(engine._loop.scheduler, "max_step_tokens", 64)
    ids = (IDS * 20)[:230]
    first = only(engine.generate(ids, sampling=Sampling(prompt_logprobs=0), max_tokens=1))
    again = engine.generate(ids, sampling=[Sampling(), Sampling(prompt_logprobs=0)], max_tokens=1)
    assert again[0].prompt_logprobs is None and again[1].prompt_logprobs == first.prompt_logprobs
    wanted = [token_logprob(row, t, 0) for row, t in zip(engine.logits(ids), ids[1:], strict=False)]
    assert first.prompt_logprobs == [None, *wanted]


def test_prompt_log_probabilities_from_a_position_on(engine: Engine, steps: list[int]) -> None:
    """What stands before comes from the cache; the others are those of the whole prompt."""
    ids = (IDS * 20)[:200]
    whole = only(engine.generate(ids, sampling=Sampling(prompt_logprobs=0), max_tokens=1)).prompt_logprobs
    assert whole is not None
    for start in (0, 1, 150, 199):
        steps.clear()
        asked = engine.submit(ids, sampling=Sampling(prompt_logprobs=0), max_tokens=1, prompt_logprobs_start=start)
        assert only(asked.result()).prompt_logprobs == [None] * (start + 1) + whole[start + 1 :]
        assert sum(steps) <= 200 - start + 16
    with pytest.raises(UserError, match="prompt_logprobs_start is 200"):
        engine.submit(ids, sampling=Sampling(prompt_logprobs=0), prompt_logprobs_start=200)


def test_a_continuation_is_as_probable_as_its_tokens(engine: Engine) -> None:
    assert engine.tokenizer is not None and engine.tokenizer.eos_id is not None
    beginning = "a prompt that is a few pages long, " * 2
    prompts, continuation = [f"{beginning}name", f"{beginning}true", "x"], " of SELECT"
    found = engine.continuation_logprobs(prompts, continuation)
    for prompt, value in zip(prompts, found, strict=True):
        before = engine.tokenizer.encode(prompt, add_special=True)
        after = [*engine.tokenizer.encode(continuation), engine.tokenizer.eos_id]
        rows = engine.logits(before + after)[len(before) - 1 :]
        wanted = [token_logprob(row, token, 0).logprob for row, token in zip(rows, after, strict=False)]
        assert value == pytest.approx(sum(wanted) / len(wanted), abs=1e-6)
    assert len(set(found)) == 3


@pytest.mark.parametrize("type_", ["F32", "Q8_0"])
@pytest.mark.parametrize("sampling", [Sampling(), HOT, Sampling(temperature=0.8, seed=3, presence_penalty=1)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_forced_tokens_change_nothing_but_the_number_of_steps(tmp_path: Path, form: str, sampling: Sampling, type_: str) -> None:
    """Three candidates at once, also where the length ends them in the middle of forced tokens."""
    engine = word_engine(tmp_path, type_)
    settings = [sampling, Sampling(temperature=1.2, seed=8), Sampling(temperature=1.2, seed=9, stop="NAM")]
    for max_tokens in (2, 5, 60):
        options: dict[str, Any] = {"sampling": settings, "max_tokens": max_tokens, "grammar": FORMS[form]}
        forced, stepped = (engine.generate(IDS, **options, forces_tokens=forces) for forces in (True, False))
        assert forced == stepped


def test_forced_tokens_take_no_steps_of_their_own(engine: Engine, steps: list[int]) -> None:
    letters = Constraint(grammar='start: "xyzxyzxyz" /[pq]/ "zyxzyx"')
    done = only(engine.generate(IDS, grammar=letters, max_tokens=40))
    assert done.finish_reason == "stop" and len(done.ids) == 16
    assert sum(steps) < len(IDS) + 16 and steps[1:] == [9]  # one choice, p or q: the nine letters before it in one step
    steps.clear()
    slow = only(engine.generate(IDS, grammar=letters, max_tokens=40, forces_tokens=False))
    assert slow == done and steps[1:] == [1] * 15


def test_scored_tokens_are_not_forced(engine: Engine) -> None:
    done = only(engine.generate(IDS, grammar=Constraint(choice=["xyz"]), sampling=Sampling(logprobs=1)))
    assert done.text == "xyz" and len(done.logprobs or []) == 3 and done.logprob == 0
    assert all(token.logprob < 0 for token in done.logprobs or [])


def test_draws_under_a_grammar_follow_the_masked_distribution(engine: Engine) -> None:
    """2560 candidates of one token each."""
    row = engine.logits(IDS)[-1]
    letters = [chr(c) for c in range(ord("a"), ord("p"))]
    assert engine.tokenizer is not None
    ids = [engine.tokenizer.encode(letter)[0] for letter in letters]
    masked = np.full(VOCAB, -np.inf, np.float32)
    masked[ids] = row[ids]
    counts = np.zeros(VOCAB)
    for seed in range(40):
        sampling = Sampling(temperature=1.3, top_p=0.9, seed=seed, n=64)
        for done in engine.generate(IDS, sampling=sampling, max_tokens=1, grammar=Constraint(regex="[a-o]")):
            counts[done.ids[0]] += 1
    wanted = np.array(reference(masked, sampling, [], []))
    assert not counts[wanted == 0].any() and is_plausible(counts, wanted * counts.sum())
    assert not is_plausible(counts, np.where(wanted > 0, counts.sum() / (wanted > 0).sum(), 0))


def test_a_stop_string_ends_the_text_across_tokens(engine: Engine) -> None:
    """Streamed text is the text: no part of the stop string was ever shown."""
    letters = Constraint(regex="[a-e]{40}")
    whole = only(engine.generate(IDS, sampling=HOT, grammar=letters))
    for at, size in ((3, 3), (5, 1), (8, 6)):
        stop = whole.text[at : at + size]
        shown: list[str] = []
        done = only(
            engine.generate(
                IDS,
                sampling=Sampling(temperature=1.5, seed=4, stop=[stop, "never"]),
                grammar=letters,
                on_text=lambda _, text, shown=shown: shown.append(text),  # type: ignore[misc]
            )
        )
        assert done.text == "".join(shown) == whole.text[: whole.text.index(stop)]
        assert (done.finish_reason, done.stop_reason) == ("stop", stop)
        assert done.ids == whole.ids[: len(done.ids)]


def test_held_text_comes_at_the_end_whatever_ends_it(engine: Engine) -> None:
    for grammar, tokens, reason in (('start: "xyz"', 9, "stop"), ('start: "xyzw"', 3, "length")):
        shown: list[tuple[int, str]] = []
        settings = [Sampling(stop="yzz"), Sampling(stop="zww")]
        done = engine.generate(
            IDS, sampling=settings, grammar=grammar, max_tokens=tokens, on_text=lambda *a, shown=shown: shown.append(a)
        )
        assert [c.text for c in done] == ["xyz", "xyz"] and {c.finish_reason for c in done} == {reason}
        assert ["".join(t for i, t in shown if i == index) for index in (0, 1)] == ["xyz", "xyz"]


def test_stop_tokens_and_the_models_own_end(engine: Engine) -> None:
    assert engine.tokenizer is not None
    eos = engine.tokenizer.eos_id or 0
    whole = only(engine.generate(IDS, sampling=Sampling(ignore_eos=True), max_tokens=10)).ids
    stopped = only(engine.generate(IDS, sampling=Sampling(ignore_eos=True, stop_token_ids=[whole[4]]), max_tokens=10))
    assert stopped.ids == whole[: whole.index(whole[4])]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", whole[4])
    wants_end = {"logit_bias": {eos: 100}}
    ended = only(engine.generate(IDS, sampling=Sampling(**wants_end, logprobs=0), max_tokens=5))
    assert (ended.ids, ended.finish_reason, ended.stop_reason, ended.logprobs) == ([], "stop", None, [])
    goes_on = only(engine.generate(IDS, sampling=Sampling(**wants_end, ignore_eos=True), max_tokens=5))
    assert (goes_on.ids, goes_on.finish_reason) == ([eos] * 5, "length")


def test_the_end_of_a_grammar_ends_also_who_ignores_the_end(engine: Engine) -> None:
    assert engine.tokenizer is not None
    sampling = Sampling(ignore_eos=True, logit_bias={engine.tokenizer.eos_id or 0: 100})
    done = only(engine.generate(IDS, sampling=sampling, grammar=Constraint(regex="x{2,20}")))
    assert (done.text, len(done.ids), done.finish_reason) == ("xx", 2, "stop")


def test_json_is_what_the_schema_says(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"], "additionalProperties": False}
    for seed in range(6):
        constraint = Constraint(json=schema, disable_any_whitespace=True)
        done = only(engine.generate(IDS, sampling=Sampling(temperature=2, seed=seed), grammar=constraint))
        assert set(json.loads(done.text)) == {"n"} and done.finish_reason == "stop"


def test_a_grammar_too_complex_to_follow_ends_with_that_reason(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraint, "limits", lambda: LLParserLimits(step_max_items=40))
    nested = 'start: a\na: "x" a "y" | "x" a a | a "z" | "q" | a a'
    settings = [Sampling(logit_bias={61: 50}, temperature=1, n=2, best_of=3)]
    done = engine.generate(IDS, sampling=settings, grammar=nested, max_tokens=60)
    assert {c.finish_reason for c in done} == {"grammar"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": []}, "0 candidates were asked for, it must be 1 to 64"),
        ({"sampling": Sampling(temperature=1, best_of=65)}, "best_of is 65, it must be 1 to 64"),
        ({"sampling": [Sampling(temperature=1, n=40)] * 2}, "80 candidates"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"sampling": Sampling(logit_bias={VOCAB: 1})}, f"logit_bias names token {VOCAB}, the vocabulary has 0 to {VOCAB - 1}"),
        ({"sampling": Sampling(stop_token_ids=[999])}, "stop_token_ids names token 999"),
        ({"grammar": Constraint(regex="(")}, "the regular expression is not valid"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    engine: Engine, steps: list[int], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        engine.generate(IDS, **options)
    assert steps == []


def test_prompts_that_cannot_be_run(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the prompt is empty"):
        engine.generate([])
    with pytest.raises(CapacityError, match="256 tokens, the context 256"):
        engine.generate([5] * 256)
    assert len(only(engine.generate([5] * 255, sampling=Sampling(ignore_eos=True), max_tokens=9)).ids) == 1
    monkeypatch.setattr(engine._loop, "limits", replace(engine._loop.limits, tokenizer=None))
    with pytest.raises(UserError, match="stop strings need a tokenizer"):
        engine.generate(IDS, sampling=Sampling(stop="x"))
    assert only(engine.generate(IDS, max_tokens=3)).text == ""


def test_the_prompts_cache_survives_asking_for_its_log_probabilities(engine: Engine, steps: list[int]) -> None:
    prompt = (IDS * 9)[:97]
    scored = only(engine.generate(prompt, sampling=Sampling(prompt_logprobs=0), max_tokens=3)).ids
    steps.clear()
    assert only(engine.generate(prompt, max_tokens=3)).ids == scored
    assert steps[0] == 1  # only the last token of the prompt was computed again: the others fill whole pages
