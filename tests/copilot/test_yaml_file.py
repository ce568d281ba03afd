"""YAML that nobody vouches for: every error has its line and key, and nothing costs more than its limit."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from openarctic.copilot.yaml_file import MAX_ALIASES, MAX_BYTES, MAX_DEPTH, parse_yaml, read_yaml
from openarctic.errors import CapacityError, MissingError, UserError


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: [1, 2", 2, "not YAML"),
        ("a: 1\n  b: 2", 2, "not YAML"),
        ("a: 1\nb: 'x\n", 2, "not YAML"),
        ("a: 1\n\tb: 2", 2, "not YAML"),
        ("a: 1\nb: *nowhere", 2, "not YAML"),
        ("a: 1\nb: \x07", 2, "not YAML"),
        ("a: 1\n--- \nb: 2", 2, "not YAML"),
    ],
)
def test_broken_text_is_told_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(UserError, match=f"line {line}: .*{words}"):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("t:\n- n: 1\n  n: 2", r"line 3: t\[0\].n is given twice \(first in line 2\)"),
        ("t:\n- n: {x: 1}", r"line 2: t\[0\].n must be text, not a mapping"),
        ("t:\n- n:", r"line 2: t\[0\] has no n"),
        ("t:\n- n: ''", r"line 2: t\[0\].n is empty"),
        ("t: 5", r"line 1: t must be a list, not '5'"),
        ("t:\n- x", r"line 2: t\[0\] must be a mapping of keys to values, not 'x'"),
        ("t:\n- ? [a]\n  : b", r"line 2: t\[0\] has a key that is not text"),
    ],
)
def test_wrong_forms_are_told_with_line_and_key(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_names(text)


def read_names(text: str) -> list[str]:
    return [item.fields().require("n").name() for item in parse_yaml(text).fields().require("t").items()]


@pytest.mark.parametrize("value", ["!!python/object/apply:os.system ['true']", "!mine x", "2024-99-99", "!!int abc"])
def test_nothing_but_plain_values_is_built(value: str) -> None:
    with pytest.raises(UserError, match=r"line 2: b cannot be read"):
        parse_yaml(f"a: 1\nb: {value}").fields().require("b").value()


def test_texts_stay_as_they_were_written() -> None:
    entry = parse_yaml("t: [NO, 1.50, 2024-01-01, ~, 'x', 0x10, on]").fields().require("t")
    assert entry.texts() == ("NO", "1.50", "2024-01-01", "", "x", "0x10", "on")


def test_merge_keys_work_and_own_keys_win() -> None:
    fields = parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}").fields()
    assert {k: e.integer() for k, e in fields.require("b").fields().all().items()} == {"x": 1, "y": 3}
    assert fields.rest().keys() == {"a"}


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, f"more than {MAX_DEPTH} levels"),
        ("- " * 50_000, f"more than {MAX_DEPTH} levels"),
        (bomb(9), "values, with its aliases written out"),
        ("a: &a x\nb: [" + "*a, " * (MAX_ALIASES + 1) + "]", f"more than {MAX_ALIASES} aliases"),
    ],
    ids=["brackets", "dashes", "bomb", "aliases"],
)
def test_limits_hold_and_cost_little(text: str, words: str) -> None:
    began = time.perf_counter()
    with pytest.raises(CapacityError, match=words):
        parse_yaml(text)
    assert time.perf_counter() - began < 2


def test_an_alias_of_itself_is_refused() -> None:
    with pytest.raises(UserError, match="line 1: the file holds an alias of itself"):
        parse_yaml("&a [1, *a]")


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    with pytest.raises(MissingError):
        read_yaml(path)
    with pytest.raises(UserError, match="is a folder"):
        read_yaml(tmp_path)
    path.write_bytes(b"a: 1\nb: \xff")
    with pytest.raises(UserError, match="line 2: this is not UTF-8"):
        read_yaml(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        read_yaml(path)
    path.write_bytes(b"# " + b"x" * MAX_BYTES)
    with pytest.raises(CapacityError, match=str(MAX_BYTES)):
        read_yaml(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_yaml(path).fields().require("a").integer() == 1
