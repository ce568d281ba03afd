"""Grammars as token masks, through llguidance."""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from openarctic.errors import UserError
from openarctic.tokenizer import Tokenizer

COMPILED_GRAMMARS = 32


class Constraints:
    """Compiles grammars for one tokenizer; the last ones are kept."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = LLTokenizer(tokenizer.to_json(), n_vocab=tokenizer.vocab_size, eos_token=tokenizer.eos_id)
        self._compiled = lru_cache(COMPILED_GRAMMARS)(self._compile)

    def start(self, grammar: str) -> Constraint:
        """A fresh constraint. Raises UserError when the grammar (Lark text or a JSON Schema) is wrong."""
        return Constraint(self._compiled(grammar).deep_copy(), self._tokenizer.vocab_size)

    def _compile(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, as_llguidance(grammar), limits=limits())
        if matcher.is_error():
            raise UserError(f"the grammar is not valid: {matcher.get_error().splitlines()[0]}")
        matcher.deep_copy().compute_bitmask()  # warms the tables that copies share
        return matcher


def as_llguidance(grammar: str) -> str:
    """Lark text or a JSON Schema in llguidance's own form."""
    if grammar.lstrip().startswith("{"):
        try:
            json.loads(grammar)
        except ValueError as error:
            raise UserError(f"the JSON schema is not valid JSON: {error}") from error
        return str(LLMatcher.grammar_from_json_schema(grammar))
    return str(LLMatcher.grammar_from_lark(grammar))


def limits() -> LLParserLimits:
    """Room for grammars that unroll a large schema: about ten times the defaults, still milliseconds a token."""
    return LLParserLimits(
        max_items_in_row=20_000, initial_lexer_fuel=10_000_000, step_lexer_fuel=2_000_000, step_max_items=500_000
    )


class Constraint:
    """Where one candidate stands in its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def mask(self, logits_V: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of the logits with -inf wherever the grammar forbids the token."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(bool)
        return np.where(allowed, logits_V[: self._vocab_size], -np.inf).astype(np.float32)

    def advance(self, token: int) -> None:
        """The token was chosen."""
        self._matcher.consume_token(token)

    @property
    def is_stuck(self) -> bool:
        """The grammar was too large for its limits; no token can follow."""
        return bool(self._matcher.is_error())

    @property
    def is_complete(self) -> bool:
        """Nothing may follow."""
        return bool(self._matcher.is_stopped())
