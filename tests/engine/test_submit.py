"""Many requests at once: each gets what it would get alone, however it is read, interrupted, delayed or pressed for memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openarctic.engine import Engine
from openarctic.engine.constraint import Follower
from openarctic.engine.loop import Loop
from openarctic.engine.request import Stream
from openarctic.engine.speculation import SpeculationPolicy
from openarctic.engine.strand import Rows
from openarctic.engine.suffix import Draft
from openarctic.errors import CapacityError, UserError
from openarctic.generator import Completion, Constraint, Sampling
from tests.engine.test_constraint import FORMS
from tests.engine.words import word_engine, word_tokenizer
from tests.tiny import IDS

LETTERS = Constraint(regex="[a-e]{60}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return word_engine(folder)


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Of 1 to 150 tokens; every third begins like the one before."""
    rng, made = np.random.default_rng(seed), []
    for i in range(count):
        ids = rng.integers(0, 200, int(rng.integers(1, 150))).tolist()
        made.append(made[-1][:70] + ids[:70] if i % 3 == 2 else ids)
    return made


def requests(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Of all kinds."""
    rng = np.random.default_rng(seed)
    forms = [None, None, *FORMS.values()]
    made: list[dict[str, Any]] = []
    for i, prompt in enumerate(prompts(count, seed)):
        settings = [Sampling(), Sampling(temperature=1.2, seed=i, n=3), Sampling(logprobs=2, prompt_logprobs=1)]
        sampling = settings[: 1 + i % 3] if i % 2 else Sampling(temperature=0.9, seed=i, top_p=0.9)
        grammar = forms[int(rng.integers(len(forms)))]
        made.append({"prompt": prompt, "sampling": sampling, "max_tokens": int(rng.integers(1, 40)), "grammar": grammar})
    return made


def is_idle(engine: Engine) -> bool:
    """Nothing is left behind: no page held, no sequence known."""
    wait(lambda: engine._loop._thread is None)
    scheduler = engine._loop.scheduler
    scheduler.check()
    return not (scheduler.pool.held or scheduler.num_waiting or scheduler.num_running or engine._loop._lines)


def wait(is_true: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


@pytest.mark.parametrize("options", [{}, {"speculation": "suffix"}, {"cache_type": "f32"}], ids=str)
def test_requests_together_are_requests_alone(folder: Path, options: dict[str, Any]) -> None:
    engine, wanted = word_engine(folder, **options), requests(24)
    alone = [word_engine(folder, **{**options, "speculation": None}).generate(**request) for request in wanted[:6]]
    streams = [engine.submit(**request) for request in wanted]
    together = [stream.result() for stream in streams]
    assert together[:6] == alone
    assert [engine.generate(**request) for request in reversed(wanted)] == together[::-1]  # prefixes are cached by now
    assert is_idle(engine)


def test_little_memory_changes_no_token(folder: Path) -> None:
    """Pages for one long request and a bit: sequences lose their pages again and again, and resume."""
    wide = word_engine(folder)
    page = wide._model.page_bytes
    narrow, wanted = word_engine(folder, cache_bytes=9 * page), requests(16, seed=3)
    streams = [narrow.submit(**request) for request in wanted]
    assert [stream.result() for stream in streams] == [wide.generate(**request) for request in wanted]
    assert narrow._loop.scheduler.preemptions > 0 and is_idle(narrow)
    assert narrow._loop.scheduler.pool.count == 9


END = word_tokenizer().eos_id or 0
# What one candidate of a request is asked for; some write the same for a while, or to the end.
COMPANY = [
    *(Sampling(temperature=0.3, seed=seed) for seed in range(6)),
    Sampling(temperature=0.3, seed=1, stop="a"),
    Sampling(temperature=0.3, seed=2, logprobs=1),
    Sampling(),
    Sampling(repetition_penalty=1.3),
    Sampling(temperature=1.5, seed=4),
    *(Sampling(temperature=0.3, seed=1, ignore_eos=ignored, logit_bias={END: 4.0}) for ignored in (False, True)),
    Sampling(temperature=0.3, seed=2, stop_token_ids=tuple(range(0, 200, 7))),
    Sampling(temperature=0.3, seed=3, best_of=2, n=1),
    Sampling(prompt_logprobs=1),
]


@pytest.mark.parametrize("grammar", [None, *FORMS.values()], ids=lambda g: g.kind if g else "free")
@pytest.mark.parametrize("options", [{}, {"speculation": "suffix"}, {"max_sequences": 3}], ids=str)
def test_a_candidate_writes_what_it_writes_alone(folder: Path, options: dict[str, Any], grammar: Constraint | None) -> None:
    """Candidates share a sequence until they part; with drafts they part after different tokens of one draft."""
    plain, engine = word_engine(folder), word_engine(folder, **options)
    if engine._loop.speculator is not None:
        engine._loop.speculator.policy = EagerPolicy()
    for _ in range(2):  # the second time with drafts of the first
        for prompt in prompts(4, seed=8):
            together = engine.generate(prompt, sampling=COMPANY, max_tokens=25, grammar=grammar)
            assert together == [plain.generate(prompt, sampling=s, max_tokens=25, grammar=grammar)[0] for s in COMPANY]
    assert is_idle(engine)


def test_candidates_that_write_the_same_cost_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen that draw alike take the rows and the moves in the grammar of one; two that differ part, and then take two."""
    step, advance = engine._loop.step, Follower.advance
    rows: list[int] = []
    moves: list[int] = []

    def counting_step(*args: Any) -> Rows:
        result = step(*args)
        rows.append(len(result))
        return result

    def counting_advance(follower: Follower, token: int) -> None:
        moves.append(token)
        advance(follower, token)

    def cost(*sampling: Sampling) -> tuple[int, int]:
        rows.clear(), moves.clear()
        engine.generate(IDS, sampling=sampling, max_tokens=30, grammar=LETTERS)
        return sum(rows), len(moves)

    monkeypatch.setattr(engine._loop, "step", counting_step)
    monkeypatch.setattr(Follower, "advance", counting_advance)
    one, other = Sampling(temperature=1.2, seed=3), Sampling(temperature=1.2, seed=4)
    assert cost(*[one] * 16) == cost(one) == (30, 30)
    assert min(cost(one, other)) > 45


class EagerPolicy(SpeculationPolicy):
    """Drafts always, whether it pays or not."""

    def limits(self, num_tokens: int, room: Mapping[int, int]) -> dict[int, int]:
        return {id: min(4, num) for id, num in room.items() if num > 0}

    def choose(self, num_tokens: int, num_sequences: int, drafts: Mapping[int, Draft]) -> dict[int, int]:
        return {id: len(draft.tokens) for id, draft in drafts.items()}


def test_speculation_changes_no_token(folder: Path) -> None:
    """Repeated traffic, so that many drafts are right and many wrong, whatever the clock says; with and without grammar."""
    plain, drafting = word_engine(folder), word_engine(folder, speculation="suffix")
    assert drafting._loop.speculator is not None
    drafting._loop.speculator.policy = EagerPolicy()
    accepted = drafts = 0
    for round_ in range(3):
        for request in requests(8, seed=5):
            stream = drafting.submit(**request)
            assert stream.result() == plain.generate(**request), round_
            drafts += stream.usage.draft_tokens
            accepted += stream.usage.accepted_tokens
    assert 0 < accepted < drafts and is_idle(drafting)


def test_a_draft_model_changes_no_token(folder: Path) -> None:
    """The model itself drafts best, another one of the same vocabulary badly; both leave the texts as they are."""
    plain = word_engine(folder)
    shares = []
    for type_ in ("F32", "Q4_0"):
        word_engine(folder, type_)  # writes the file
        drafting = word_engine(folder, draft_model=folder / f"words-{type_}.gguf")
        assert drafting._loop.speculator is not None
        drafting._loop.speculator.policy = EagerPolicy()
        drafting._loop.speculator.drafter._floor = 0.0  # type: ignore[attr-defined]
        drafts = accepted = 0
        for request in [*requests(10, seed=6), *({"prompt": p, "max_tokens": 30} for p in prompts(4))]:
            stream = drafting.submit(**request)
            assert stream.result() == plain.generate(**request)
            drafts += stream.usage.draft_tokens
            accepted += stream.usage.accepted_tokens
        shares.append(accepted / drafts)
        assert is_idle(drafting)
    assert 0.4 > shares[1] < shares[0] > 0.2
    with pytest.raises(UserError, match="both given"):
        word_engine(folder, speculation="suffix", draft_model=folder / "words-F32.gguf")


def test_events_are_the_completion(engine: Engine) -> None:
    sampling = [Sampling(temperature=1.3, seed=3, n=2, logprobs=1, stop="zq"), Sampling()]
    stream = engine.submit(IDS, sampling=sampling, max_tokens=20)
    events = list(stream)
    for index, done in enumerate(stream.result()):
        mine = [event for event in events if event.index == index]
        assert "".join(event.text for event in mine) == done.text
        assert [id for event in mine for id in event.ids] == done.ids
        assert [e.finish_reason for e in mine if e.finish_reason] == [done.finish_reason] == [mine[-1].finish_reason]
        if done.logprobs is not None:
            assert [score for event in mine for score in event.logprobs or ()] == done.logprobs
    usage = stream.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(IDS), sum(len(c.ids) for c in stream.completions))
    assert list(stream) == []


def test_cached_tokens_are_counted(engine: Engine) -> None:
    prompt = [(7 * i) % 200 for i in range(100)]
    first, second = (engine.submit(prompt, max_tokens=2) for _ in range(1)), None
    for stream in first:
        stream.result()
        assert stream.usage.cached_tokens == 0
    second = engine.submit([*prompt, 5], max_tokens=2)
    second.result()
    assert second.usage.cached_tokens == 96  # whole pages
    other = engine.submit([*prompt, 5], max_tokens=2, tenant="other")
    other.result()
    assert other.usage.cached_tokens == 0  # nothing is shared between tenants


def test_asyncio(engine: Engine) -> None:
    async def read(seed: int) -> tuple[str, list[Completion]]:
        stream = engine.submit(IDS, sampling=Sampling(temperature=1.5, seed=seed), max_tokens=15, grammar=LETTERS)
        text = "".join([event.text async for event in stream])
        return text, stream.result()

    async def main() -> list[tuple[str, list[Completion]]]:
        return list(await asyncio.gather(*(read(seed) for seed in range(6))))

    results = asyncio.run(main())
    assert all(text == done.text and len(done.ids) == 15 for text, [done] in results)
    assert len({text for text, _ in results}) > 3


def test_who_stops_listening_stops_the_work(engine: Engine) -> None:
    slow = {"sampling": Sampling(ignore_eos=True), "max_tokens": 200}
    for event in engine.submit(IDS, **slow):
        assert event.ids
        break
    assert is_idle(engine)

    async def leave() -> None:
        async for _ in engine.submit(IDS, **slow):
            return

    asyncio.run(leave())
    assert is_idle(engine)


def test_cancelled_requests_end_with_what_they_have(engine: Engine) -> None:
    stream = engine.submit(
        IDS, sampling=[Sampling(ignore_eos=True), Sampling(temperature=1, seed=1, ignore_eos=True)], max_tokens=200
    )
    seen = next(iter_without_cancel(stream))
    stream.cancel()
    stream.cancel()
    done = stream.result()
    assert {c.finish_reason for c in done} == {"abort"} and tuple(done[seen.index].ids[: len(seen.ids)]) == seen.ids
    waiting = engine.submit(IDS, max_tokens=200)
    waiting.cancel()
    assert waiting.result()[0].finish_reason in ("abort", "stop", "length")
    assert is_idle(engine)


def iter_without_cancel(stream: Stream) -> Any:
    while (event := stream._next()) is not None:
        yield event


def test_deadlines(engine: Engine) -> None:
    late = engine.submit(IDS, sampling=Sampling(ignore_eos=True), max_tokens=240, timeout=1e-9)
    assert (late.result()[0].finish_reason, late.result()[0].ids) == ("deadline", [])
    some = engine.submit(IDS, sampling=Sampling(temperature=1, seed=0, n=30, ignore_eos=True), max_tokens=240, timeout=0.05)
    assert {c.finish_reason for c in some.result()} <= {"deadline", "length"}
    assert is_idle(engine)
    with pytest.raises(UserError, match="timeout is 0, it must be above 0"):
        engine.submit(IDS, timeout=0)


def test_priorities(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one place, the more urgent one is done first though it came last."""
    ended: list[Stream] = []
    finish = Loop._finish
    monkeypatch.setattr(Loop, "_finish", lambda loop, job: (ended.append(job.stream), finish(loop, job)))
    monkeypatch.setattr(engine._loop.scheduler, "max_sequences", 1)
    options: dict[str, Any] = {"max_tokens": 30, "sampling": Sampling(ignore_eos=True)}
    with engine._loop.busy:  # until all three are there
        first, later, urgent = (engine.submit(IDS, priority=priority, **options) for priority in (0, 5, -1))
    for stream in (first, later, urgent):
        stream.result()
    assert ended.index(urgent) < ended.index(later)


def test_a_failure_inside_is_raised_where_the_caller_waits(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("the machine is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(engine._loop, "step", broken)
        streams = [engine.submit(IDS, max_tokens=3) for _ in range(3)]
        for stream in streams:
            with pytest.raises(RuntimeError, match="on fire"):
                stream.result()
        with pytest.raises(RuntimeError, match="on fire"):
            list(engine.submit(IDS, max_tokens=3))
    assert is_idle(engine)
    assert len(engine.generate(IDS, sampling=Sampling(ignore_eos=True), max_tokens=3)[0].ids) == 3


def test_callers_in_many_threads(engine: Engine) -> None:
    wanted = [engine.generate(**request) for request in requests(12, seed=9)]
    got: dict[int, list[Completion]] = {}

    def ask(i: int) -> None:
        got[i] = engine.generate(**requests(12, seed=9)[i])
        engine.logits(IDS)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[i] for i in range(12)] == wanted and is_idle(engine)


def test_limits_of_memory_and_context(folder: Path, engine: Engine) -> None:
    page = engine._model.page_bytes
    small = word_engine(folder, cache_bytes=3 * page)
    assert small.context == 96
    with pytest.raises(CapacityError, match="the prompt has 96 tokens, the context 96"):
        small.submit([5] * 96)
    for options, message in (
        ({"cache_bytes": page}, "two pages of 32 tokens need"),
        ({"context": 999}, "context, which the model limits, is 999, it must be 1 to 256"),
        ({"context": 128, "cache_bytes": 3 * page}, "cache_bytes holds 96 tokens"),
        ({"cache_type": "q4"}, "cache_type is 'q4', it must be f32, f16, q8_0"),
        ({"speculation": "magic"}, "speculation is 'magic'"),
    ):
        with pytest.raises(UserError, match=message):
            word_engine(folder, **options)
