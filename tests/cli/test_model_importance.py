"""`openarctic model importance`, and `convert --calibration`, which is the two in one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from openarctic.cli import main, model_importance
from openarctic.formats import config_from_gguf, read_gguf, targets
from openarctic.formats.bundled import bundled_models
from openarctic.formats.imatrix import read_imatrix
from tests.tiny import tiny_config, write_model

NANO = bundled_models()["arctic-nano"]


@pytest.mark.slow
def test_two_steps_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("SELECT name FROM customers WHERE city = 'Oslo' ORDER BY name; " * 3)
    assert main(["model", "importance", "arctic-nano", str(text), str(tmp_path / "im.gguf"), "--threads", "1"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "im.gguf")
    assert read_imatrix(tmp_path / "im.gguf", config_from_gguf(read_gguf(NANO)))
    for name, option in (("a", ["--imatrix", str(tmp_path / "im.gguf")]), ("b", ["--calibration", str(text)]), ("c", [])):
        assert main(["model", "convert", str(NANO), str(tmp_path / f"{name}.gguf"), "--type", "Q4_0", *option]) == 0
    assert not (tmp_path / "b.gguf.imatrix.gguf").exists()
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


def convert(tmp_path: Path, text: Path, *options: str) -> int:
    """To Q4_0, measured on a text."""
    arguments = ["model", "convert", str(NANO), str(tmp_path / "m.gguf"), "--type", "Q4_0", "--calibration", str(text)]
    return main([*arguments, *options])


@pytest.mark.slow
def test_a_measurement_is_reused_for_the_same_text_and_model_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("SELECT name FROM customers WHERE city = 'Oslo'; " * 3)
    other.write_text("SELECT count(*) FROM orders; " * 3)
    real, kept = targets.GGUFTarget.finish, tmp_path / "m.gguf.imatrix.gguf"

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(targets.GGUFTarget, "finish", stopped)
    monkeypatch.setattr("openarctic.cli.signal.signal", lambda *_: None)  # or this process would be deaf to Ctrl-C
    told = []
    for text in (one, one, other):
        assert convert(tmp_path, text) == 130 and kept.exists()
        told.append("importance of" in capsys.readouterr().err)
    assert told == [True, False, True]
    monkeypatch.setattr(targets.GGUFTarget, "finish", real)
    assert convert(tmp_path, tmp_path / "none.txt") == 2
    assert convert(tmp_path, other) == 0 and "importance of" not in capsys.readouterr().err
    assert not kept.exists()


def test_nothing_is_measured_for_what_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model_importance, "measure", lambda *_, **__: pytest.fail("it was measured"))
    text = tmp_path / "text.txt"
    text.write_text("SELECT 1; " * 9)
    assert convert(tmp_path, text, "--type", "Q8_0") == 2
    assert "importance changes nothing" in capsys.readouterr().err
    assert main(["model", "convert", str(NANO), str(tmp_path / "folder"), "--calibration", str(text)]) == 2
    assert "for GGUF files" in capsys.readouterr().err
    (tmp_path / "m.gguf").write_text("mine")
    assert convert(tmp_path, text) == 2
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "m.gguf").unlink()
    write_model(tmp_path / "m.gguf.imatrix.gguf", tiny_config(), "F32")
    assert convert(tmp_path, text) == 2
    assert "no calibration made it" in capsys.readouterr().err
    assert (tmp_path / "m.gguf.imatrix.gguf").exists()


def test_nothing_is_overwritten_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, model = tmp_path / "text.txt", tmp_path / "copy.gguf"
    text.write_text("SELECT 1; " * 9)
    write_model(model, tiny_config(), "F32")
    (tmp_path / "there").write_text("mine")
    with monkeypatch.context() as context:
        context.setattr(model_importance, "measure", lambda *_, **__: pytest.fail("it was measured"))
        for source, out, force, told in (
            ("arctic-nano", text, True, "is read, and would be replaced"),
            (model, model, True, "is read, and would be replaced"),
            ("arctic-nano", tmp_path / "there", False, "exists already"),
            ("arctic-nano", tmp_path, True, "is a folder"),
            ("arctic-nano", tmp_path / "none" / "x.gguf", False, "no folder"),
        ):
            assert main(["model", "importance", str(source), str(text), str(out), *(["--force"] if force else [])]) == 2
            assert told in capsys.readouterr().err
    assert (tmp_path / "there").read_text() == "mine"
    assert main(["model", "importance", "arctic-nano", str(text), str(tmp_path / "there"), "--force"]) == 0
    for threads in ("0", "-1"):
        with pytest.raises(SystemExit, match="2"):
            main(["model", "importance", "arctic-nano", str(text), "x.gguf", "--threads", threads])
