"""What every model offers, wherever it runs: the `Generator` protocol, its request and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from openarctic.errors import UserError

# Called with (candidate, new text) as text appears.
OnText = Callable[[int, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to choose the next token; temperature 0 takes the most probable. The same seed gives the same tokens."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:
            raise UserError(f"temperature is {self.temperature}, it must be 0 to 10")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}, it must be above 0 and at most 1")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}, it must be 0 (off) or more")


GREEDY = Sampling()


@dataclass(slots=True)
class Completion:
    """One candidate: `logprob` sums the model's log probabilities of its tokens.

    `finish_reason` is stop, length, or grammar (parsing it took more than the limits allow).
    """

    text: str
    ids: list[int]
    logprob: float
    finish_reason: str


class Generator(Protocol):
    """A model that completes text."""

    @property
    def name(self) -> str:
        """For people and logs."""

    def count_tokens(self, text: str) -> int:
        """Length of `text` in tokens."""

    def generate(
        self,
        prompt: str,
        *,
        sampling: Sequence[Sampling] = (GREEDY,),
        max_tokens: int = 256,
        grammar: str | None = None,
        on_text: OnText | None = None,
    ) -> list[Completion]:
        """One completion for each of `sampling`; `grammar` is Lark text that every completion follows."""


@dataclass
class ScriptedGenerator:
    """A test double: answers with the scripted texts, whatever the prompt; remembers the prompts."""

    texts: Iterable[Sequence[str]]
    name: str = "scripted"
    prompts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._replies = iter(self.texts)

    def count_tokens(self, text: str) -> int:
        """Words."""
        return len(text.split())

    def generate(
        self,
        prompt: str,
        *,
        sampling: Sequence[Sampling] = (GREEDY,),
        max_tokens: int = 256,
        grammar: str | None = None,
        on_text: OnText | None = None,
    ) -> list[Completion]:
        """The next scripted reply."""
        self.prompts.append(prompt)
        return [Completion(text, [], -float(i), "stop") for i, text in enumerate(next(self._replies))]
