"""What a model once said is not asked for again, and belongs to that model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from openarctic.errors import CorruptError, UserError
from openarctic.evals.recording import Recording
from openarctic.generator import GREEDY, Completion, Sampling


class Counting:
    """Answers with how often it was asked."""

    def __init__(self, name: str = "m", fingerprint: str = "f") -> None:
        self.name, self.fingerprint, self.asked = name, fingerprint, 0

    def count_tokens(self, text: str) -> int:
        return len(text)

    def generate(self, prompt: str, *, sampling: Sequence[Sampling] = (GREEDY,), **_: object) -> list[Completion]:
        self.asked += len(sampling)
        return [Completion(f"{prompt} {s.temperature} {s.seed}", [1, 2], -1.5, "stop") for s in sampling]

    def continuation_logprobs(self, prompts: Sequence[str], continuation: str) -> list[float]:
        self.asked += len(prompts)
        return [-float(len(prompt) + len(continuation)) for prompt in prompts]


SAMPLES = [Sampling(), Sampling(temperature=0.5, seed=1), Sampling(temperature=0.5, seed=2)]


def test_only_what_is_missing_is_asked(tmp_path: Path) -> None:
    model, file = Counting(), tmp_path / "r.jsonl"
    first = Recording(model, file).generate("p", sampling=SAMPLES[:2], grammar="g")
    again = Recording(model, file)
    assert again.generate("p", sampling=SAMPLES, grammar="g")[:2] == [Completion(c.text, [0, 0], -1.5, "stop") for c in first]
    assert (model.asked, again.asked) == (3, 1)
    # Another grammar, length or prompt is another question.
    for changes in ({"grammar": "h"}, {"grammar": "g", "max_tokens": 9}):
        again.generate("p", sampling=SAMPLES[:1], **changes)
    again.generate("q", sampling=SAMPLES[:1], grammar="g")
    assert model.asked == 6


def test_what_was_scored_is_not_scored_again(tmp_path: Path) -> None:
    model, file = Counting(), tmp_path / "r.jsonl"
    assert Recording(model, file).continuation_logprobs(["a", "bc"], "d") == [-2, -3]
    again = Recording(model, file)
    assert again.continuation_logprobs(["bc", "e", "a"], "d") == [-3, -2, -2]
    assert (model.asked, again.asked) == (3, 1)
    assert again.continuation_logprobs(["a"], "other") == [-6] and model.asked == 4


def test_a_line_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    model, file = Counting(), tmp_path / "r.jsonl"
    Recording(model, file).generate("p", sampling=SAMPLES)
    file.write_bytes(file.read_bytes()[:-9])
    assert len(Recording(model, file).generate("p", sampling=SAMPLES)) == 3 and model.asked == 4
    assert len(Recording(model, file).generate("p", sampling=SAMPLES)) == 3 and model.asked == 4


def test_another_models_file_and_a_broken_one_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    Recording(Counting(), file)
    with pytest.raises(UserError, match="not of m"):
        Recording(Counting(fingerprint="g"), file)
    file.write_text("nothing\n")
    with pytest.raises(CorruptError, match="no recording"):
        Recording(Counting(), file)
