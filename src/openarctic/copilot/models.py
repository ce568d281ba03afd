"""Models by name, path or URL, ready to be asked for SQL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openarctic.generator import GREEDY, Completion, Constraint, Generator, OnText, Sampling
from openarctic.remote import is_remote, remote_model

if TYPE_CHECKING:
    from openarctic.engine import Engine


def load_generator(model: str | Path | None, **options: Any) -> Generator:
    """A bundled model's name (None: arctic-nano), a GGUF file, or a server: a URL, or `openai` (see `openarctic.remote`).

    `options` are those of `openarctic.engine.load`. A file with a chat template is talked to; one that was made for short SQL, or
    that has no template, completes. Raises what loading or the server's first answer raises.
    """
    if model is not None and is_remote(str(model)):
        return remote_model(str(model))
    from openarctic.engine import load

    engine = load(model, **options)
    return TalkingEngine(engine) if is_chat(engine) else engine


def is_chat(engine: Engine) -> bool:
    """Whether its model was made for conversations, and not for short SQL."""
    return engine.target_form is None and engine.tokenizer is not None and engine.tokenizer.chat_template is not None


def heard(engine: Engine, prompt: str) -> str | list[int]:
    """The prompt as the engine's model is given it: what a user says, if it is one that chats."""
    if not is_chat(engine):
        return prompt
    assert engine.tokenizer is not None
    return engine.tokenizer.encode_chat([{"role": "user", "content": prompt}])


class TalkingEngine:
    """An embedded chat model as a `Generator`: every prompt is what a user says, and the answer is the assistant's."""

    target_form = None

    def __init__(self, engine: Engine) -> None:
        self.engine, self.name, self.fingerprint = engine, engine.name, engine.fingerprint

    def count_tokens(self, text: str) -> int:
        """Length of `text` in tokens."""
        return self.engine.count_tokens(text)

    def generate(
        self,
        prompt: str,
        *,
        sampling: Sequence[Sampling] = (GREEDY,),
        max_tokens: int = 256,
        grammar: str | Constraint | None = None,
        on_text: OnText | None = None,
    ) -> list[Completion]:
        """As `Generator.generate`."""
        given = heard(self.engine, prompt)
        return self.engine.generate(given, sampling=sampling, max_tokens=max_tokens, grammar=grammar, on_text=on_text)
