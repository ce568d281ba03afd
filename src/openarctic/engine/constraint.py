"""Grammars as token masks, through llguidance."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from openarctic.errors import UserError
from openarctic.generator import Constraint
from openarctic.tokenizer import Tokenizer

COMPILED_GRAMMARS = 32
NAMES = {"json": "JSON schema", "regex": "regular expression", "choice": "choice", "grammar": "grammar"}
HINTS = {
    "json": "llguidance's documentation of JSON Schema lists what is supported",
    "regex": "the syntax is that of the Rust crate regex: no look-around, no back references",
    "choice": None,
    "grammar": "Lark as llguidance writes it: lower-case rules, upper-case terminals, a rule named start",
}


class Constraints:
    """Compiles grammars for one tokenizer; the last ones are kept."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = LLTokenizer(tokenizer.to_json(), n_vocab=tokenizer.vocab_size, eos_token=tokenizer.eos_id)
        self._compiled = lru_cache(COMPILED_GRAMMARS)(self._compile)

    def start(self, constraint: Constraint | str) -> Follower:
        """A follower at the start; a plain text is Lark. Raises UserError when the grammar is wrong."""
        if isinstance(constraint, str):
            constraint = Constraint(grammar=constraint)
        matcher = self._compiled(constraint.kind, constraint.source, constraint.disable_any_whitespace)
        return Follower(matcher.deep_copy(), self._tokenizer.vocab_size)

    def _compile(self, kind: str, source: str, is_compact: bool) -> LLMatcher:
        try:
            grammar = as_llguidance(kind, source, is_compact)
        except ValueError as error:  # nested too deep for its parser, or half of a surrogate pair
            raise UserError(f"the {NAMES[kind]} is not valid: {_in_ascii(error)}", HINTS[kind]) from error
        matcher = LLMatcher(self._tokenizer, grammar, limits=limits(), log_level=0)
        if matcher.is_error():
            raise UserError(f"the {NAMES[kind]} is not valid: {_reason(kind, matcher.get_error())}", HINTS[kind])
        if not _can_begin(matcher.deep_copy()):
            raise UserError(f"the {NAMES[kind]} is too large", "fewer or smaller repetitions, shorter alternatives")
        return matcher


def _can_begin(matcher: LLMatcher) -> bool:
    """Whether a first token leads on within the limits; warms the tables that copies share."""
    allowed = int.from_bytes(matcher.compute_bitmask(), "little")
    if allowed:
        matcher.consume_token((allowed & -allowed).bit_length() - 1)
    return not matcher.is_error()


def as_llguidance(kind: str, source: str, is_compact: bool = False) -> str:
    """`Constraint.kind` and `.source` in llguidance's own form. Raises ValueError for text that it cannot read."""
    if kind == "json":
        return str(LLMatcher.grammar_from_json_schema(source, overrides={"whitespace_flexible": False} if is_compact else {}))
    if kind == "regex":
        return str(LLMatcher.grammar_from_regex(source))
    if kind == "choice":
        source = "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in json.loads(source))
    return str(LLMatcher.grammar_from_lark(source))


def _in_ascii(error: ValueError) -> str:
    """Its message, in which may stand what cannot be written."""
    return str(error).encode("ascii", "backslashreplace").decode()


def _reason(kind: str, error: str) -> str:
    """llguidance's message in one line: what is wrong, without the excerpt of the grammar and the pointer under it."""
    lines = [line.strip() for line in error.splitlines()]
    if kind != "grammar":  # the place is one in the Lark text that llguidance made
        lines[0] = re.sub(r"^(at )?\d+\(\d+\): ", "", lines[0]).replace(" (in regex)", "")
    causes = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return f"{lines[0].split(': regex parse error')[0]}{': ' if causes else ''}{'; '.join(causes)}"


def limits() -> LLParserLimits:
    """Room for the rules of grammars that unroll a large schema: about ten times the defaults, still milliseconds a token. Its
    lexemes are short, and a pattern's cost grows with what its repetitions come to: with the default fuel one takes at most some
    two seconds to be refused, where `(a{1000}){1000}` took half a minute."""
    return LLParserLimits(max_items_in_row=20_000, initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, step_max_items=500_000)


class Follower:
    """Where one candidate stands in its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._bits: bytes | None = None  # of the place where it stands, one bit a token

    def copy(self) -> Follower:
        """One more candidate at the same place."""
        return Follower(self._matcher.deep_copy(), self._vocab_size)

    def bits(self, vocab_size: int) -> bytes:
        """Which tokens may follow, bit i % 8 of byte i // 8; what the tokenizer does not know may not."""
        return self._bitmask().ljust(-(-vocab_size // 8), b"\0")

    def prepare(self) -> None:
        """Computes now what `bits` and `forced` will ask for; for a thread that has time."""
        self._bitmask()

    def forced(self) -> int | None:
        """The token, where the mask allows exactly one: the choice is the mask's, so nobody needs the model's logits.

        llguidance's own list of forced tokens may hold more than that: a tokenisation that it prefers where several spell the
        same forced text. Taking those would change what a model writes.
        """
        allowed = int.from_bytes(self._bitmask(), "little")
        return None if self.is_stuck or allowed.bit_count() != 1 else allowed.bit_length() - 1

    def accepted(self, tokens: Sequence[int]) -> int:
        """How many of the tokens, from the first on, the masks would let through one after the other; nothing moves.

        The end token counts where the text may end or must, and nothing after it does. After a complete text nothing counts.
        """
        known = list(takewhile(lambda token: token < self._vocab_size, tokens))  # others are an error of llguidance's
        return int(self._matcher.deep_copy().validate_tokens(known)) if known else 0  # limits that are reached break the copy

    @property
    def is_prepared(self) -> bool:
        """Whether `bits` has nothing left to compute."""
        return self._bits is not None

    def _bitmask(self) -> bytes:
        if self._bits is None:
            self._bits = self._matcher.compute_bitmask()
        return self._bits

    def advance(self, token: int) -> None:
        """The token was chosen."""
        self._matcher.consume_token(token)
        self._bits = None

    @property
    def is_stuck(self) -> bool:
        """The grammar was too large for its limits; no token can follow."""
        return bool(self._matcher.is_error())

    @property
    def is_complete(self) -> bool:
        """Nothing may follow."""
        return bool(self._matcher.is_stopped())
