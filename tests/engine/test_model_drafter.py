"""Drafts of a model: a scripted one that checks what stands in its pages, and real small ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from openarctic.engine import Engine
from openarctic.engine.model_drafter import ModelDrafter, NativeDraftModel, check_same_vocabulary, load_draft_model
from openarctic.errors import UserError
from openarctic.formats import HybridConfig, read_gguf, to_gguf, write_gguf
from tests.tiny import IDS, random_state, tiny_config, write_model

VOCAB = 50


def following(tokens: Sequence[int]) -> int:
    """What the scripted model says after `tokens`: depends on every one of them."""
    return hash(tuple(tokens)) % VOCAB


class Scripted:
    """Keeps tokens in its pages in place of keys and values, and answers from what stands there."""

    page_size, context = 4, 200

    def __init__(self, num_pages: int = 200, sure: float = 30.0) -> None:
        self.num_pages, self.sure = num_pages, sure
        self.pages = np.full((num_pages, self.page_size), -1)
        self.steps: list[int] = []

    def step(
        self,
        tokens: Sequence[int],
        rows: Sequence[int],
        positions: Sequence[int],
        tables: NDArray[np.int32],
        wanted: Sequence[int],
    ) -> NDArray[np.float32]:
        self.steps.append(len(tokens))
        for token, row, position in zip(tokens, rows, positions, strict=True):
            self.pages[tables[row, position // self.page_size], position % self.page_size] = token
        logits = np.zeros((len(wanted), VOCAB), np.float32)
        for out, at in enumerate(wanted):
            seen = self.pages[tables[rows[at]]].reshape(-1)[: positions[at] + 1]
            logits[out, following(seen.tolist())] = self.sure
        return logits


def continuation(tokens: list[int], count: int) -> list[int]:
    """What the scripted model would write."""
    written = list(tokens)
    for _ in range(count):
        written.append(following(written))
    return written[len(tokens) :]


def test_drafts_are_the_model_s_greedy_text_whatever_was_committed_before() -> None:
    """Random lives of many sequences: drafts accepted in part, or ignored, or not asked for; few pages; ends."""
    rng, model = random.Random(0), Scripted(num_pages=60)
    drafter, texts = ModelDrafter(model), dict[int, list[int]]()
    drafts = 0
    for step in range(1500):
        if len(texts) < 5 and rng.random() < 0.3:
            prompt = [rng.randrange(3) for _ in range(rng.randint(1, 30))]
            texts[step] = prompt
            drafter.start(step, str(step % 2), prompt)
            continue
        limits = {id: rng.randint(0, 6) for id in texts if rng.random() < 0.8}
        for id, draft in drafter.draft(limits).items():
            assert draft.tokens == continuation(texts[id], limits[id])
            assert draft.probabilities == sorted(draft.probabilities, reverse=True)
            more = draft.tokens[: rng.randint(0, 6)] + [rng.randrange(VOCAB)] * rng.randint(0, 2)
            drafter.append(id, more)
            texts[id] = texts[id] + more
            drafts += 1
        drafter._pool.check([line.pages for line in drafter._lines.values()])
        for id in [id for id, text in texts.items() if len(text) > 80 or rng.random() < 0.01]:
            drafter.finish(id, keep=True)
            del texts[id]
    assert drafts > 500
    for id in texts:
        drafter.finish(id, keep=False)
    assert drafter._pool.held == 0


def test_all_sequences_draft_in_one_step_and_a_prompt_is_computed_once() -> None:
    model = Scripted()
    drafter = ModelDrafter(model)
    prompt = list(range(21))
    for id in range(4):
        drafter.start(id, "", prompt)
    drafts = drafter.draft(dict.fromkeys(range(4), 5))
    assert all(drafts[id].tokens == continuation(prompt, 5) for id in range(4))
    assert model.steps == [20, 4 * 1, 4, 4, 4, 4]
    drafter.append(0, drafts[0].tokens)
    model.steps.clear()
    drafter.draft({0: 2})
    assert model.steps == [1, 1]  # the drafts were right, so the last committed token alone is missing


def test_a_long_prompt_is_computed_in_chunks_over_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openarctic.engine.model_drafter.CHUNK", 50)
    model = Scripted()
    drafter = ModelDrafter(model)
    prompt = [i % VOCAB for i in range(120)]
    drafter.start(0, "", prompt)
    assert drafter.draft({0: 3}) == {} and drafter.draft({0: 3}) == {}
    assert drafter.draft({0: 3})[0].tokens == continuation(prompt, 3)
    assert max(model.steps) == 50


def test_a_draft_ends_where_the_model_is_unsure_and_where_its_context_ends() -> None:
    drafter = ModelDrafter(Scripted(sure=4.6))  # a token's probability is about two thirds
    drafter.start(0, "", [1, 2, 3])
    draft = drafter.draft({0: 16})[0]
    assert len(draft.tokens) == 5 and draft.probabilities[-1] >= 0.1 > draft.probabilities[-1] * draft.probabilities[0]
    drafter.start(1, "", [1] * 195)
    assert drafter.draft({1: 8}) == {} and len(drafter.draft({1: 5})[1].tokens) == 5


def test_no_prompt_page_is_shared_between_tenants() -> None:
    model = Scripted()
    drafter = ModelDrafter(model)
    for id, tenant in enumerate("abab"):
        drafter.start(id, tenant, list(range(21)))
    drafter.draft(dict.fromkeys(range(4), 1))
    assert model.steps == [20, 20, 4]


def test_a_real_model_drafts_what_it_would_write_itself(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_config(), "F32")
    engine = Engine.load(path, threads=1)
    drafter = ModelDrafter(load_draft_model(read_gguf(path), read_gguf(path), num_pages=16, threads=1), floor=0.0)
    drafter.start(0, "", IDS)
    drafter.start(1, "", IDS * 3)
    (first,) = engine.generate(IDS, max_tokens=20)
    (second,) = engine.generate(IDS * 3, max_tokens=20)
    drafts = drafter.draft({0: 8, 1: 8})
    assert drafts[0].tokens == first.ids[:8] and drafts[1].tokens == second.ids[:8]
    drafter.append(0, [*first.ids[:5], 7])  # the sixth was another
    drafter.append(1, second.ids[:9])
    (other,) = engine.generate([*IDS, *first.ids[:5], 7], max_tokens=4)
    drafts = drafter.draft({0: 4, 1: 4})
    assert drafts[0].tokens == other.ids and drafts[1].tokens == second.ids[9:13]


def named(path: Path, tokens: list[str] | None, size: int = 64) -> Path:
    """A model with a vocabulary of that many tokens."""
    config = tiny_config(vocab_size=size)
    keys = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.model": "gpt2"} if tokens else {}
    metadata, tensors = to_gguf(HybridConfig.from_dict(config), random_state(config), lambda *_: "F32", {})
    return write_gguf(path, {**metadata, **keys}, tensors)[0]


def test_another_vocabulary_is_told(tmp_path: Path) -> None:
    tokens = [f"t{i}" for i in range(64)]
    target = read_gguf(named(tmp_path / "target.gguf", tokens))
    check_same_vocabulary(read_gguf(named(tmp_path / "same.gguf", tokens)), target)
    with pytest.raises(UserError, match="token 9 is 'x' in the draft model and 't9' in the model"):
        load_draft_model(read_gguf(named(tmp_path / "x.gguf", [*tokens[:9], "x", *tokens[10:]])), target, num_pages=4)
    with pytest.raises(UserError, match="the draft model has 72 tokens, the model 64"):
        load_draft_model(read_gguf(named(tmp_path / "y.gguf", [f"t{i}" for i in range(72)], 72)), target, num_pages=4)
    with pytest.raises(UserError, match="64 tokens without names, the model 64"):
        load_draft_model(read_gguf(named(tmp_path / "z.gguf", None)), target, num_pages=4)
    plain = read_gguf(tmp_path / "z.gguf")
    check_same_vocabulary(plain, plain)
    assert isinstance(NativeDraftModel(plain, num_pages=2, threads=1).context, int)
