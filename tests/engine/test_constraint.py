"""Forms of the output: what each kind accepts, what is told about a wrong one, and what it means that a token is forced."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from openarctic.engine.constraint import Constraints, Follower
from openarctic.errors import UserError
from openarctic.generator import Constraint
from tests.engine.words import VOCAB, word_tokenizer

TOKENIZER = word_tokenizer()
CONSTRAINTS = Constraints(TOKENIZER)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ab", "true"]}, "n": {"type": "integer"}},
    "required": ["name", "n"],
    "additionalProperties": False,
}
FORMS = {
    "json": Constraint(json=SCHEMA),
    "compact json": Constraint(json=json.dumps(SCHEMA), disable_any_whitespace=True),
    "regex": Constraint(regex="[0-9]{3}-(SELECT|true)!"),
    "choice": Constraint(choice=["yes", "true", 'say "é"\n']),
    "lark": Constraint(grammar='start: "SELECT " NAME (", " NAME)*\nNAME: "name" | "ab"'),
    "unforced lark": Constraint(grammar='%llguidance {"no_forcing": true}\nstart: "SELECT " ("name" | "true")'),
}


def allowed(follower: Follower) -> list[int]:
    return np.flatnonzero(np.unpackbits(np.frombuffer(follower.bits(VOCAB), np.uint8), bitorder="little")).tolist()


def accepts(constraint: Constraint | str, text: str) -> bool:
    """Whether the whole text may be written, in one of its tokenisations, with nothing missing."""
    follower = CONSTRAINTS.start(constraint)
    for id in [*TOKENIZER.encode(text)]:
        if follower.is_complete or id not in allowed(follower):
            return False
        follower.advance(id)
    return follower.is_complete or TOKENIZER.eos_id in allowed(follower)


def written(follower: Follower, seed: int) -> tuple[list[int], list[bool]]:
    """Tokens of a random text of the grammar, and which of them were forced."""
    rng, ids, forced = np.random.default_rng(seed), [], []
    while not follower.is_complete and len(ids) < 200:
        choices = allowed(follower)
        token = int(rng.choice(choices))
        assert follower.forced() == (token if len(choices) == 1 else None)
        if token == TOKENIZER.eos_id:
            break
        ids.append(token)
        forced.append(len(choices) == 1)
        follower.advance(token)
    return ids, forced


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("json", ['{"name":"ab","n":1}', '{ "name": "true" ,\n"n": -20}'], ['{"name":"no","n":1}', '{"name":"ab"}', "x", ""]),
        ("compact json", ['{"name":"ab","n":1}'], ['{"name": "ab","n":1}']),
        ("regex", ["123-true!", "000-SELECT!"], ["12-true!", "123-true", "123-true!!", ""]),
        ("choice", ["yes", "true", 'say "é"\n'], ["ye", "no", "yestrue", ""]),
        ("lark", ["SELECT name", "SELECT ab, name, ab"], ["SELECT", "SELECT nam", "SELECT ab,"]),
    ],
)
def test_each_kind_accepts_its_texts(name: str, right: list[str], wrong: list[str]) -> None:
    assert [text for text in right if not accepts(FORMS[name], text)] == []
    assert [text for text in wrong if accepts(FORMS[name], text)] == []


def test_a_plain_text_is_lark_whatever_it_looks_like() -> None:
    assert accepts('start: "ab"', "ab")
    with pytest.raises(UserError, match="the grammar is not valid"):
        CONSTRAINTS.start(json.dumps(SCHEMA))


@pytest.mark.parametrize("name", FORMS)
def test_a_token_is_forced_where_the_mask_allows_one_alone(name: str) -> None:
    """Random texts of each grammar; every one of them is valid in the end."""
    found = 0
    for seed in range(25):
        ids, forced = written(CONSTRAINTS.start(FORMS[name]), seed)
        found += sum(forced)
        if name.endswith("json") and len(ids) < 200:
            assert json.loads(TOKENIZER.decode(ids))["name"] in ("ab", "true")
        if name == "regex":
            assert re.fullmatch(FORMS[name].regex or "", TOKENIZER.decode(ids))
    assert found > 0


def test_no_tokenisation_is_forced_where_the_grammar_leaves_it_open() -> None:
    """A forced text with several spellings: all of them stay open, so only what has one spelling is forced."""
    follower = CONSTRAINTS.start(FORMS["unforced lark"])
    spellings = {TOKENIZER.token(id) for id in allowed(follower)}
    assert spellings == {"S", "SE", "SEL", "SELE", "SELEC", "SELECT"} and follower.forced() is None
    for letter in "SELEC":
        follower.advance(TOKENIZER.encode(letter)[0])
    assert follower.forced() == TOKENIZER.encode("T")[0]


def test_copies_go_their_own_ways() -> None:
    start = CONSTRAINTS.start(FORMS["choice"])
    one, two = start.copy(), start.copy()
    one.advance(TOKENIZER.encode("y")[0])
    assert allowed(two) == allowed(start) != allowed(one)


def accepted_by_masks(follower: Follower, tokens: list[int]) -> int:
    """What `Follower.accepted` says, by one mask after the other."""
    for count, token in enumerate(tokens):
        if token == TOKENIZER.eos_id and (follower.is_complete or token in allowed(follower)):
            return count + 1
        if follower.is_complete or token not in allowed(follower):
            return count
        follower.advance(token)
    return len(tokens)


@pytest.mark.parametrize("name", FORMS)
def test_tokens_are_accepted_as_far_as_the_masks_allow_them(name: str) -> None:
    """What is left of random texts of each grammar, with a wrong token somewhere."""
    rng, counts = np.random.default_rng(0), set()
    for seed in range(30):
        ids, _ = written(CONSTRAINTS.start(FORMS[name]), seed)
        follower = CONSTRAINTS.start(FORMS[name])
        start = int(rng.integers(len(ids)))
        for id in ids[:start]:
            follower.advance(id)
        draft = [*ids[start:], TOKENIZER.eos_id, TOKENIZER.eos_id]
        if seed % 3:
            draft[rng.integers(len(draft))] = int(rng.integers(VOCAB + 9))
        before = allowed(follower)
        assert follower.accepted(draft) == accepted_by_masks(follower.copy(), draft)
        assert allowed(follower) == before and not follower.is_stuck
        counts.add(follower.accepted(draft))
    assert len(counts) > 2


def test_the_end_token_is_accepted_where_the_text_may_end() -> None:
    follower, end = CONSTRAINTS.start('start: "ab" "ab"*'), TOKENIZER.eos_id
    ab = TOKENIZER.encode("ab")
    assert [follower.accepted(t) for t in ([], [end], [*ab, end], [*ab, end, end], [*ab, end, *ab])] == [0, 0, 2, 2, 2]
    follower.advance(ab[0])
    assert follower.accepted([end]) == 1
    follower.advance(end)
    assert follower.is_complete and follower.accepted(ab) == follower.accepted([end]) == 0
    follower = CONSTRAINTS.start(FORMS["choice"])
    for id in TOKENIZER.encode("true"):
        follower.advance(id)
    assert follower.is_complete and follower.accepted([end]) == 0  # such a text has ended already


def test_rows_of_logits_wider_than_the_vocabulary() -> None:
    follower = CONSTRAINTS.start(FORMS["choice"])
    assert len(follower.bits(VOCAB + 80)) == (VOCAB + 87) // 8 and not any(follower.bits(VOCAB + 80)[VOCAB // 8 + 1 :])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "nothing"),
        ({"regex": "a", "choice": ["a"]}, "regex and choice"),
        ({"regex": ""}, "regex is ''"),
        ({"grammar": "  "}, "grammar is '  '"),
        ({"choice": []}, r"choice is \[\]"),
        ({"choice": ["a", ""]}, "choice is"),
        ({"choice": "abc"}, "choice is 'abc'"),
        ({"regex": "a", "disable_any_whitespace": True}, "belongs to json"),
    ],
)
def test_a_constraint_that_is_none_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Constraint(**values)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Constraint(regex="[0-9"), r"^the regular expression is not valid: .*unclosed character class"),
        (Constraint(regex="(?=a)b"), r"^the regular expression is not valid: .*look-around"),
        (Constraint(json="{not json"), "^the JSON schema is not valid JSON: .*line 1"),
        (Constraint(json={"type": "strin"}), "^the JSON schema is not valid: Invalid type: strin"),
        (Constraint(json={"type": "string", "format": "zzz"}), "Unknown format: zzz"),
        (Constraint(json={"not": {}}), "Unimplemented keys"),
        (Constraint(json={"a": {1}}), "cannot be written as JSON"),
        (Constraint(json={"const": "\ud800"}), "^the JSON schema is not valid"),
        (Constraint(json=nested(400)), "^the JSON schema is not valid: recursion limit"),
        (Constraint(json=nested(100_000)), "cannot be written as JSON"),
        (Constraint(json="[" * 100_000), "^the JSON schema is not valid JSON"),
        (Constraint(choice=["\ud800"]), "^the choice is not valid"),
        (Constraint(regex="\ud800"), "^the regular expression is not valid"),
        (Constraint(grammar="start: foo"), '^the grammar is not valid: at 1.*unknown name: "foo"'),
        (Constraint(grammar='start "x"'), "^the grammar is not valid: .*Expected token ':'"),
    ],
)
def test_a_wrong_grammar_is_told_in_a_line(constraint: Constraint, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as caught:
        CONSTRAINTS.start(constraint)
    assert re.search(message, caught.value.message) and "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")
