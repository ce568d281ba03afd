"""The line of progress: only on a terminal, only when loading takes long."""

from __future__ import annotations

import io
import sys

import pytest

from openarctic.cli import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, patience_s: float) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    show = progress.loading("m.gguf", patience_s)
    for done in (1, 2, 4):
        show(done, 4)
    return stream.getvalue()


def test_a_line_of_percents_that_goes_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal(), 0)
    assert "loading m.gguf: 25 %" in text and "loading m.gguf: 50 %" in text and text.endswith("\r\x1b[K")


def test_nothing_where_it_is_quick_or_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, Terminal(), 60) == ""
    assert shown(monkeypatch, io.StringIO(), 0) == ""
