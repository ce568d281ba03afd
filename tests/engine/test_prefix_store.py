"""Prompts kept on disk: the next process computes only the rest, and nothing wrong is ever taken for right."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openarctic.engine import Engine
from openarctic.engine.prefix_store import PrefixStore
from openarctic.errors import UserError
from openarctic.generator import Sampling
from tests.engine.words import word_engine

PREFIX = [(11 * i) % 190 for i in range(80)]  # two whole pages and a half
QUESTION = [7, 9, 30]


def counted(engine: Engine, **options: Any) -> tuple[list[int], int]:
    """Tokens after the prompt, and how many of the prompt's were not computed."""
    stream = engine.submit([*PREFIX, *QUESTION], sampling=Sampling(ignore_eos=True), max_tokens=8, **options)
    [done] = stream.result()
    return done.ids, stream.usage.cached_tokens


@pytest.mark.parametrize("cache_type", ["f16", "f32"])
def test_the_next_process_computes_only_the_rest(tmp_path: Path, cache_type: str) -> None:
    options: dict[str, Any] = {"cache_type": cache_type, "prefix_folder": tmp_path / "prefixes"}
    wanted, _ = counted(word_engine(tmp_path, cache_type=cache_type))
    first = word_engine(tmp_path, **options)
    assert first.keep_prefix(PREFIX) == 64 and counted(first) == (wanted, 64)
    [file] = (tmp_path / "prefixes").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    second = word_engine(tmp_path, **options)
    steps: list[int] = []

    def step(tokens: list[int], *others: Any) -> Any:
        steps.append(len(tokens))
        return second._runner.run(tokens, *others)

    second._loop.step = step
    assert second.keep_prefix(PREFIX) == 64 and steps == []
    assert counted(second) == (wanted, 64) and steps[0] == 19
    assert counted(second, tenant="other") == (wanted, 0)
    steps.clear()
    assert word_engine(tmp_path, **options)._restore(PREFIX[:64], "other") is False  # nor from disk
    second._loop.scheduler.check()


def test_without_a_folder_it_is_kept_in_memory(tmp_path: Path) -> None:
    engine = word_engine(tmp_path)
    assert engine.keep_prefix(PREFIX) == 64 and counted(engine)[1] == 64
    assert engine.keep_prefix(PREFIX[:31]) == 0


def test_what_is_damaged_or_anothers_is_computed_again(tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    wanted, _ = counted(word_engine(tmp_path))
    word_engine(tmp_path, prefix_folder=folder).keep_prefix(PREFIX)
    [file] = folder.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[: len(whole) // 2], b"", b"x" * 100):
        file.write_bytes(damaged)
        engine = word_engine(tmp_path, prefix_folder=folder)
        assert engine._restore(PREFIX[:64], "") is False and not file.exists()
        assert engine.keep_prefix(PREFIX) == 64 and counted(engine)[0] == wanted
        assert file.read_bytes() == whole
    other = word_engine(tmp_path, "Q8_0", prefix_folder=folder)
    assert other.keep_prefix(PREFIX) == 64 and len(list(folder.iterdir())) == 2


def test_the_budget_of_the_disk(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, "m", 100, max_bytes=1900)
    page = np.zeros((4, 100), np.uint8)
    for i in range(3):
        store.save([i], page)
        os.utime(store._path([i], ""), (i, i))
    assert store.load([0]) is not None  # used now
    store.save([3], page)
    assert [store.load([i]) is not None for i in range(4)] == [True, False, True, True]


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="prefixes cannot be kept in"):
        word_engine(tmp_path, prefix_folder=tmp_path / "file" / "below")
