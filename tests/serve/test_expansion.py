"""How large patterns get, against what they match."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openarctic.errors import UserError
from openarctic.serve.expansion import MAX_DEPTH, check_schema, lark_size, regex_size, schema_size

NESTED = "(a{1000}){1000}"


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("abc", 3),
        ("a{3}", 3),
        ("(ab){2,5}c", 11),
        ("a{2}{3}", 6),
        (r"\(a{9}\)", 11),
        (r"[(\]a]{4}", 4),
        (r"\p{Lu}{3}x", 4),
        ("((a|b){3}c{4}){2}", 20),
        (r"\{3}", 3),
        ("a{,7}?", 7),
        ("(((", 0),
        ("))){3}", 0),
        ("(?x)[ # [\n]" + NESTED, 26_000_000),
    ],
)
def test_sizes_of_patterns(pattern: str, size: int) -> None:
    assert regex_size(pattern) == size


_PATTERNS = st.recursive(
    st.sampled_from(["a", "[ab]", r"\(", "bc"]),
    lambda inner: st.one_of(st.builds("({}){{{}}}".format, inner, st.integers(1, 3)), st.builds("{}{}".format, inner, inner)),
    max_leaves=6,
)


@given(_PATTERNS)
def test_a_pattern_without_alternatives_matches_texts_of_its_size(pattern: str) -> None:
    assert re.compile(pattern).fullmatch("") is None
    assert regex_size(pattern) == re._parser.parse(pattern).getwidth()[1]  # type: ignore[attr-defined]


def test_sizes_of_schemas_and_grammars() -> None:
    assert schema_size({"anyOf": [{"pattern": NESTED}]}) == schema_size({"patternProperties": {NESTED: {}}}) == 1_000_000
    assert schema_size({"const": NESTED, "properties": {"pattern": {"type": "string"}}}) == 0
    assert lark_size('start: C\nA: "a"{100}\nB: A ~ 2..100\nC: (B | "x"){100}') == 1_000_100
    assert lark_size("start: a\na: /" + NESTED + "/") == 1_000_000
    assert lark_size('start: %json {"pattern": "' + NESTED + '"}') == 1_000_000
    doubled = "\n".join(f"T{i}: T{i + 1} T{i + 1}" for i in range(22))
    assert lark_size(f'start: T0\n{doubled}\nT22: "a"') == 2**22
    rules = 'start: term ("+" term){0,1000}\nterm: factor{1000} // "({\nfactor: "(" start ")" | NUMBER\nNUMBER: /[0-9]{1,9}/'
    assert lark_size(rules) == 9
    assert lark_size("A: A A") <= 2


def test_what_is_nested_too_deep_or_no_text() -> None:
    deep: dict[str, Any] = {}
    for _ in range(MAX_DEPTH - 1):
        deep = {"items": deep}
    check_schema(deep)
    with pytest.raises(UserError, match="nested deeper"):
        check_schema({"items": deep})
    for schema in ({"const": "\ud800"}, {"properties": {"\udfff": {}}}):
        with pytest.raises(UserError, match="not valid Unicode"):
            check_schema(schema)
    with pytest.raises(UserError, match="nested too deep"):
        lark_size("\n".join(f"T{i}: T{i + 1}" for i in range(5000)))


@pytest.mark.parametrize("text", ["[", "({", "a{3}", "%json {", '%json {"a":', "/", "a ", "\n", '"', "~"])
def test_sizes_are_known_at_once(text: str) -> None:
    started = time.monotonic()
    source = text * (65_536 // len(text))
    regex_size(source)
    lark_size(source)
    assert time.monotonic() - started < 5
