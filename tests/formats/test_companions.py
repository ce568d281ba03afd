"""What belongs to a checkpoint's folder, by name."""

from __future__ import annotations

from pathlib import Path

from openarctic.formats.companions import foreign_in_checkpoint, foreign_in_partial, is_checkpoint
from tests.formats.files import run, write_folder


def test_what_conversions_write_is_known(tmp_path: Path) -> None:
    run(write_folder(tmp_path / "hf"), tmp_path / "out")
    assert foreign_in_checkpoint(tmp_path / "out") == [] == foreign_in_partial(tmp_path / "out")
    assert is_checkpoint(tmp_path / "out")


def test_what_they_do_not_write_is_foreign(tmp_path: Path) -> None:
    for name in ("a.txt", "my.json", "README.md", "m.gguf", "x.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "tokenizer.json").mkdir()
    assert foreign_in_checkpoint(tmp_path) == ["a.txt", "m.gguf", "my.json", "tokenizer.json"]
    assert foreign_in_partial(tmp_path) == ["README.md", "a.txt", "my.json", "tokenizer.json"]
    assert is_checkpoint(tmp_path) and not is_checkpoint(tmp_path / "tokenizer.json")
