"""A model whose completions are kept in a file: what a run asked once, no later run computes again.

A run that is stopped goes on where it was, and everything that stands behind the model (mending, checks, election, confidence)
can be measured again and again without it. Lines are JSON: first what the model is, then one a completion.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openarctic.copilot.confidence import fingerprint_of
from openarctic.errors import CorruptError, UserError
from openarctic.generator import GREEDY, Completion, Constraint, Generator, OnText, Sampling


class Recording:
    """A `Generator` that answers from the file at `path` where it can, and else asks `model` and writes its answer down.

    Completions are known by prompt, grammar, length, temperature and seed. Raises UserError for the file of another model (by
    name, and by `fingerprint` where the weights have one), CorruptError for one that is no recording; a last line that was cut
    off is asked for again.
    """

    def __init__(self, model: Generator, path: Path) -> None:
        self.model, self.path, self.name = model, path, model.name
        self.fingerprint = fingerprint_of(model)
        self.target_form: str | None = getattr(model, "target_form", "sql")
        self.asks_questions: bool = getattr(model, "asks_questions", False)
        self._known: dict[str, Completion] = {}
        self.asked = 0  # completions that the model had to make
        header = {"model": model.name, "fingerprint": self.fingerprint}
        if path.exists() and path.stat().st_size:
            self._read(header)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(header) + "\n", encoding="utf-8")

    def _read(self, header: dict[str, Any]) -> None:
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        try:
            first, *lines = (json.loads(line) for line in whole.splitlines())
            found = {name: first[name] for name in header}
            for line in lines:
                ids = [0] * line["tokens"]
                self._known[line["key"]] = Completion(line["text"], ids, line["logprob"], line["finish_reason"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(f"{self.path} is no recording of completions: {error!r}", "give another file") from error
        if found != header:
            raise UserError(
                f"{self.path} holds completions of {found['model']} ({found['fingerprint'] or 'no fingerprint'}), "
                f"not of {header['model']} ({header['fingerprint'] or 'no fingerprint'})",
                "give another file, or delete it",
            )

    def count_tokens(self, text: str) -> int:
        """Length of `text` in tokens."""
        return self.model.count_tokens(text)

    def generate(
        self,
        prompt: str,
        *,
        sampling: Sequence[Sampling] = (GREEDY,),
        max_tokens: int = 256,
        grammar: str | Constraint | None = None,
        on_text: OnText | None = None,
    ) -> list[Completion]:
        """As `Generator.generate`, one completion for each of `sampling`."""
        keys = [_key(prompt, one, max_tokens, grammar) for one in sampling]
        missing = [i for i, key in enumerate(keys) if key not in self._known]
        if missing:
            wanted = [sampling[i] for i in missing]
            made = self.model.generate(prompt, sampling=wanted, max_tokens=max_tokens, grammar=grammar, on_text=on_text)
            self._write({keys[i]: completion for i, completion in zip(missing, made, strict=True)})
        # `replace` copies: who asked may change what they got.
        return [replace(self._known[key]) for key in keys]

    def continuation_logprobs(self, prompts: Sequence[str], continuation: str) -> list[float]:
        """As `Engine.continuation_logprobs`."""
        keys = [_digest([prompt, continuation]) for prompt in prompts]
        missing = [i for i, key in enumerate(keys) if key not in self._known]
        if missing:
            found = self.model.continuation_logprobs([prompts[i] for i in missing], continuation)  # type: ignore[attr-defined]
            self._write({keys[i]: Completion("", [], value, "scored") for i, value in zip(missing, found, strict=True)})
        return [self._known[key].logprob for key in keys]

    def _write(self, made: dict[str, Completion]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            for key, completion in made.items():
                line = {
                    "key": key,
                    "text": completion.text,
                    "tokens": len(completion.ids),
                    "logprob": completion.logprob,
                    "finish_reason": completion.finish_reason,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._known.update(made)
        self.asked += len(made)


def _key(prompt: str, sampling: Sampling, max_tokens: int, grammar: str | Constraint | None) -> str:
    source = grammar if isinstance(grammar, str) or grammar is None else repr(grammar)
    seed = 0 if sampling.is_greedy else sampling.seed
    return _digest([prompt, source, max_tokens, sampling.temperature, seed])


def _digest(parts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
