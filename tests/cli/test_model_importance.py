"""`openarctic model importance`, and `convert --calibration`, which is the two in one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from openarctic.cli import main
from openarctic.formats import config_from_gguf, read_gguf
from openarctic.formats.bundled import bundled_models
from openarctic.formats.imatrix import read_imatrix
from tests.tiny import tiny_config, write_model

NANO = bundled_models()["arctic-nano"]


def test_two_steps_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("SELECT name FROM customers WHERE city = 'Oslo' ORDER BY name; " * 3)
    assert main(["model", "importance", "arctic-nano", str(text), str(tmp_path / "im.gguf"), "--threads", "1"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "im.gguf")
    assert read_imatrix(tmp_path / "im.gguf", config_from_gguf(read_gguf(NANO)))
    for name, option in (("a", ["--imatrix", str(tmp_path / "im.gguf")]), ("b", ["--calibration", str(text)]), ("c", [])):
        assert main(["model", "convert", str(NANO), str(tmp_path / f"{name}.gguf"), "--type", "Q4_0", *option]) == 0
    assert (tmp_path / "b.gguf.imatrix.gguf").exists()
    a, b, c = (read_gguf(tmp_path / f"{name}.gguf").tensors["blk.7.ffn_up.weight"] for name in "abc")
    assert bytes(a.data) == bytes(b.data) != bytes(c.data)


def test_what_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_config(), "F32")
    assert main(["model", "importance", str(path), str(tmp_path / "none.txt"), str(tmp_path / "im.gguf")]) == 2
    assert "no calibration text" in capsys.readouterr().err
    (tmp_path / "text.txt").write_text("words")
    assert main(["model", "importance", str(path), str(tmp_path / "text.txt"), str(tmp_path / "im.gguf")]) == 2
    assert "no tokenizer" in capsys.readouterr().err
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 9)
    assert main(["model", "importance", "arctic-nano", str(tmp_path / "latin.txt"), str(tmp_path / "im.gguf")]) == 2
    assert "not UTF-8" in capsys.readouterr().err
    assert not (tmp_path / "im.gguf").exists()
