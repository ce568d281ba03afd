"""Tokens of both kinds of vocabulary, as they are shown and where they stand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openarctic.serve.spelling import Places, spelled
from openarctic.tokenizer import Tokenizer
from tests.tokenizer.test_tokenizer import BYTE_LEVEL, SENTENCE_PIECE


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCE_PIECE])
@given(st.text(alphabet="ab <🎉é日", max_size=20))
def test_tokens_stand_where_their_text_does(tokenizer: Tokenizer, text: str) -> None:
    ids, places = tokenizer.encode(text), Places(tokenizer)
    last = 0
    for id in ids:
        place, shown = places.place(id), spelled(tokenizer, id)
        assert last <= place <= len(text)
        last = place
        if shown.startswith("bytes:"):
            raw = bytes.fromhex(shown.removeprefix("bytes:").replace("\\x", ""))
            assert raw == tokenizer.token_bytes(id) and raw in text[place:].encode()
        else:  # the first word of a text may lose its space
            assert text[place:].startswith(shown) or (place == 0 and text.startswith(shown.removeprefix(" ")))
