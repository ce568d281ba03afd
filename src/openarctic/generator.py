"""What every model offers, wherever it runs: the `Generator` protocol, its request and its result.

Field names, meanings and limits are those of vLLM's SamplingParams and StructuredOutputsParams and of the OpenAI API, letter for
letter where they exist there.
"""

from __future__ import annotations

import json as json_format
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from openarctic.errors import UserError

# Called with (completion, new text) as text appears.
OnText = Callable[[int, str], None]

MAX_LOGPROBS = 20
MAX_BIAS = 100
MIN_TEMPERATURE = 1e-5
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to choose tokens. The same seed gives the same tokens, whatever else runs beside; temperature 0 needs no seed.

    The order is vLLM's: `logit_bias`, then `repetition_penalty` (of the tokens in prompt and output: positive logits are divided
    by it, others multiplied), `frequency_penalty` (times the count in the output), `presence_penalty` (once for each token in the
    output); at temperature 0 the largest logit, else `temperature`, `min_p` (at least this share of the largest probability),
    `top_k` (0 is off), `top_p`, and a draw.

    `stop` strings end a text and are not part of it, wherever tokens divide them; `stop_token_ids` end it too; `ignore_eos` goes
    on after the model's own end. `n` completions come back, the ones with the highest mean log probability a token (OpenAI's
    meaning: a sum would prefer short texts) of `best_of` (default: n). `logprobs` and `prompt_logprobs` ask for the log
    probabilities of each token and of the most probable ones beside it (0: none beside), in the model's own distribution: before
    grammar, bias, penalties and temperature. `seed` None takes another seed each time.

    Raises UserError for a value outside its limits.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = 0
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    n: int = 1
    best_of: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0, 10)
        _check("top_k", self.top_k, 0, None, whole=True)
        _check("top_p", self.top_p, 0, 1, above=True)
        _check("min_p", self.min_p, 0, 1)
        _check("repetition_penalty", self.repetition_penalty, 0, 100, above=True)
        _check("presence_penalty", self.presence_penalty, -2, 2)
        _check("frequency_penalty", self.frequency_penalty, -2, 2)
        _check("n", self.n, 1, None, whole=True)
        if self.seed is not None:
            _check("seed", self.seed, 0, MAX_SEED, whole=True)
        if self.best_of is not None:
            _check("best_of", self.best_of, self.n, None, whole=True)
        for name in ("logprobs", "prompt_logprobs"):
            if (count := getattr(self, name)) is not None:
                _check(name, count, 0, MAX_LOGPROBS, whole=True)
        if self.num_candidates > 1 and self.is_greedy:
            name = "n" if self.n > 1 else "best_of"
            raise UserError(f"{name} is {getattr(self, name)} at temperature 0: all would be the same", "raise the temperature")
        self._check_tokens()
        self._check_stop()

    @property
    def is_greedy(self) -> bool:
        """Whether the largest logit is taken; like in vLLM a temperature of almost 0 is 0."""
        return self.temperature < MIN_TEMPERATURE

    @property
    def num_candidates(self) -> int:
        """Completions to make, of which `n` are returned."""
        return self.n if self.best_of is None else self.best_of

    def _check_tokens(self) -> None:
        for id, bias in self.logit_bias.items():
            _check_token("logit_bias", id)
            _check(f"logit_bias of token {id}", bias, -MAX_BIAS, MAX_BIAS)
        for id in self.stop_token_ids:
            _check_token("stop_token_ids", id)
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))

    def _check_stop(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        for text in stop:
            if not isinstance(text, str):
                raise UserError(f"stop holds {text!r}, it must hold texts")
            if not text:
                raise UserError("stop holds an empty text, it must have at least 1 character")
        object.__setattr__(self, "stop", stop)


def _check(name: str, value: Any, low: float, high: float | None, *, above: bool = False, whole: bool = False) -> None:
    """Raises UserError unless `value` is a number of `low` (or only `above` it) to `high`; NaN is none."""
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number:
        raise UserError(f"{name} is {value!r}, it must be a {'whole number' if whole else 'number'}")
    if not (value > low or (value == low and not above)) or (high is not None and value > high):
        start = f"above {low}" if above else f"{low}"
        end = " or more" if high is None else f" and at most {high}" if above else f" to {high}"
        raise UserError(f"{name} is {value}, it must be {start}{end}")


def _check_token(name: str, id: Any) -> None:
    if not isinstance(id, int) or isinstance(id, bool) or id < 0:
        raise UserError(f"{name} names token {id!r}, it must be a whole number, 0 or more")


GREEDY = Sampling()


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraint:
    """What every output must follow; exactly one of the four.

    `json` is a JSON Schema (text or object), `regex` a regular expression of the whole output, `choice` the texts to choose
    from, `grammar` Lark text (llguidance's dialect). `disable_any_whitespace` writes JSON without optional white space, so that
    keys and punctuation cost no model steps. Raises UserError when none or several are given, or for a value of the wrong kind;
    whether a grammar is valid shows when it is compiled for a model.
    """

    json: str | Mapping[str, Any] | bool | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    disable_any_whitespace: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("json", "regex", "choice", "grammar") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UserError(
                f"a constraint has {' and '.join(given) if given else 'nothing'}", "give one of json, regex, choice, grammar"
            )
        if self.disable_any_whitespace and self.json is None:
            raise UserError(f"disable_any_whitespace is given with {given[0]}, it belongs to json")
        for name in ("regex", "grammar"):
            if (text := getattr(self, name)) is not None and not (isinstance(text, str) and text.strip()):
                raise UserError(f"{name} is {text!r}, it must be a text that is not empty")
        if self.choice is not None:
            self._check_choice()

    def _check_choice(self) -> None:
        choice = self.choice
        if isinstance(choice, str) or not choice or not all(isinstance(text, str) and text for text in choice):
            raise UserError(f"choice is {choice!r}, it must be a list of texts that are not empty")

    @property
    def kind(self) -> str:
        """json, regex, choice or grammar."""
        return next(name for name in ("json", "regex", "choice", "grammar") if getattr(self, name) is not None)

    @property
    def source(self) -> str:
        """The value as text: itself, or JSON. Raises UserError when a JSON Schema is not valid JSON."""
        value = getattr(self, self.kind)
        if self.kind in ("regex", "grammar"):
            return str(value)
        if isinstance(value, str):
            try:
                value = json_format.loads(value)
            except (ValueError, RecursionError) as error:
                raise UserError(f"the JSON schema is not valid JSON: {error}") from error
        try:
            return json_format.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"the JSON schema cannot be written as JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token's natural log probability in the model's own distribution, its rank (1 is the most probable), and the most
    probable tokens with theirs, best first."""

    id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Completion:
    """One candidate. `logprob` sums the log probabilities of its tokens, among those that the grammar allowed.

    `finish_reason` is stop, length, or grammar (parsing it took more than the limits allow). `stop_reason` is the stop string or
    the id of `stop_token_ids` that ended it. `ids` and `logprobs` have one entry a token, without the token that ended the text,
    but with all tokens of a stop string. `prompt_logprobs` has one entry a prompt token; nothing predicts the first, it is None.
    """

    text: str
    ids: list[int]
    logprob: float
    finish_reason: str
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None


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
        grammar: str | Constraint | None = None,
        on_text: OnText | None = None,
    ) -> list[Completion]:
        """`n` completions for each of `sampling`; every one follows `grammar` (a plain text is Lark)."""


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
        grammar: str | Constraint | None = None,
        on_text: OnText | None = None,
    ) -> list[Completion]:
        """The next scripted reply."""
        self.prompts.append(prompt)
        return [Completion(text, [], -float(i), "stop") for i, text in enumerate(next(self._replies))]
