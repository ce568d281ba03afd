"""Text that comes token by token is the text of all tokens, and stop strings cut it at the same place however it is divided."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given
from hypothesis import strategies as st

from openarctic.engine.detokenizer import Detokenizer
from openarctic.tokenizer import Tokenizer
from tests.engine.words import VOCAB, word_tokenizer
from tests.tokenizer.folders import TEXTS, arctic

BYTES = word_tokenizer()


@cache
def sentencepiece() -> Tokenizer:
    """Drops the space of a text's first word, and spells rare characters in bytes."""
    with TemporaryDirectory() as folder:
        return Tokenizer.from_huggingface(arctic(Path(folder) / "model"))


def pieces(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], Detokenizer]:
    """What each token releases, and at last what was held back."""
    writer = Detokenizer(tokenizer, stop)
    released = []
    for id in ids:
        released.append(writer.add(id))
        if writer.stopped_by is not None:
            break
    return [*released, writer.finish()], writer


@given(st.lists(st.integers(0, VOCAB - 1), max_size=30))
def test_any_tokens_of_a_byte_vocabulary(ids: list[int]) -> None:
    """Also bytes that are no characters, and special tokens."""
    released, writer = pieces(BYTES, ids)
    assert "".join(released) == writer.text == BYTES.decode(ids)


@given(TEXTS)
@example("  a  b")
@example("é🦌\ue000 the model\n\n")
def test_any_text_of_a_sentencepiece_vocabulary(text: str) -> None:
    ids = sentencepiece().encode(text)
    released, _ = pieces(sentencepiece(), ids)
    assert "".join(released) == sentencepiece().decode(ids)


def test_half_a_character_waits() -> None:
    ids = BYTES.encode("aé🦌")
    assert [BYTES.token(i) for i in ids[:2]] == ["a", "Ã©"]
    assert pieces(BYTES, ids)[0] == ["a", "é", "", "", "", "🦌", ""]


def cut(text: str, stop: tuple[str, ...]) -> tuple[str, str | None]:
    """By the definition: the first place where a stop string ends; of several that end there the longest."""
    for end in range(len(text) + 1):
        for s in sorted(stop, key=len, reverse=True):
            if text[:end].endswith(s):
                return text[: end - len(s)], s
    return text, None


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "aab", "ba", "true", "tr", "u", "é", " "]), max_size=14),
    st.lists(st.text("abtrué ", min_size=1, max_size=4), max_size=4).map(tuple),
)
@example(["a", "b"], ("abc", "b"))
@example(["aab", "ab"], ("aabb", "abab"))
def test_stop_strings_cut_where_the_definition_says(words: list[str], stop: tuple[str, ...]) -> None:
    """And nothing that was shown is ever taken back: no released text goes past the cut."""
    ids = [id for word in words for id in BYTES.encode(word)]
    wanted, reason = cut(BYTES.decode(ids), stop)
    released, writer = pieces(BYTES, ids, stop)
    assert ("".join(released), writer.text, writer.stopped_by) == (wanted, wanted, reason)


def test_text_is_held_back_only_while_it_may_become_a_stop_string() -> None:
    ids = BYTES.encode("xtry")
    assert pieces(BYTES, ids, ("true",))[0] == ["x", "", "try", ""]
    assert pieces(BYTES, BYTES.encode("xtr"), ("true",))[0] == ["x", "", "tr"]
