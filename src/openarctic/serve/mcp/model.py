"""Any model as the desk's engine: what is written in a thread can be given up from outside."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from openarctic.copilot.models import TalkingEngine
from openarctic.errors import CapacityError
from openarctic.generator import Completion, Constraint, Generator, Sampling

if TYPE_CHECKING:
    from openarctic.engine import Engine


def as_engine(model: Generator) -> Engine:
    """What `serve.desk` writes with: the embedded engine itself, or any other model as one."""
    if isinstance(model, TalkingEngine):
        return model.engine
    return cast("Engine", model if hasattr(model, "submit") else DetachedModel(model))


class DetachedModel:
    """A `Generator` with the part of `Engine` that `serve.desk` needs.

    A model behind a URL cannot be stopped in the middle: whoever cancels stops waiting, and what still comes is thrown away.
    """

    tokenizer = None  # prompts are given as they are

    def __init__(self, model: Generator) -> None:
        self.model, self.name = model, model.name
        self.target_form = getattr(model, "target_form", "sql")
        self.num_running, self.num_waiting, self.cache_usage = 0, 0, 0.0

    def count_tokens(self, text: str) -> int:
        """Length in tokens."""
        return self.model.count_tokens(text)

    def submit(
        self,
        prompt: str,
        *,
        sampling: Sequence[Sampling],
        max_tokens: int,
        grammar: str | Constraint | None = None,
        tenant: str = "",
    ) -> DetachedStream:
        """Begin to write; `tenant` makes no difference here."""
        return DetachedStream(self.model, prompt, sampling, max_tokens, grammar)


class DetachedStream:
    """What a model writes, in a thread of its own."""

    is_heard = False

    def __init__(self, model: Generator, prompt: str, sampling: Sequence[Sampling], max_tokens: int, grammar: Any) -> None:
        self._done = threading.Event()
        self._completions: list[Completion] | None = None
        self._error: BaseException | None = None

        def write() -> None:
            try:
                self._completions = model.generate(prompt, sampling=sampling, max_tokens=max_tokens, grammar=grammar)
            except BaseException as error:  # noqa: BLE001 - raised again where the result is wanted
                self._error = error
            self._done.set()

        threading.Thread(target=write, daemon=True, name="detached-model").start()

    def cancel(self) -> None:
        """Stop waiting."""
        self._error = self._error or CapacityError("the question was given up")
        self._done.set()

    def result(self) -> list[Completion]:
        """The completions. Raises what the model raised, CapacityError once cancelled."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._completions is not None
        return self._completions
