"""Overrides of frozen configs."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from openarctic.config import override
from openarctic.errors import UserError


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    steps: int | None = None


@dataclass(frozen=True)
class Outer:
    name: str = "a"
    flag: bool = False
    inner: Inner = field(default_factory=Inner)
    words: tuple[str, ...] = ()


@pytest.mark.parametrize("text", ["5", '"abc"', "abc", "[1]", '{"a": 1}', "null"])
def test_a_list_is_a_list_of_the_right_kind(text: str) -> None:
    assert override(Outer(), ['words=["a", "b"]']).words == ("a", "b")
    with pytest.raises(UserError, match="not a JSON list of str"):
        override(Outer(), [f"words={text}"])


def test_nested_fields_are_set_and_nothing_else() -> None:
    changed = override(Outer(), ["inner.lr=0.5", "inner.steps=3", "flag=true"])
    assert changed == Outer(flag=True, inner=Inner(lr=0.5, steps=3))
    assert override(changed, ["inner.steps=none"]).inner.steps is None


@pytest.mark.parametrize(
    ("setting", "message", "hint"),
    [
        ("inner.lrr=1", "inner.lrr", "inner.lr?"),
        ("lr=1", "lr", "inner.lr?"),
        ("train.steps=1", "train.steps", "inner.steps?"),
        ("name.x=1", "name.x", "name?"),
        ("zzz=1", "zzz", "known: name, flag, inner, words"),
        ("inner.lr=fast", "not of type float", None),
        ("name", "no value", "="),
    ],
)
def test_bad_overrides_say_why(setting: str, message: str, hint: str | None) -> None:
    with pytest.raises(UserError, match=message) as caught:
        override(Outer(), [setting])
    assert hint is None or hint in (caught.value.hint or "")
