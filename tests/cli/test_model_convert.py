"""`openarctic model convert`: what it prints, how it fails, and that an interrupted command goes on."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openarctic.cli import main
from openarctic.cli.model_convert import positive, progress_line, size
from openarctic.formats import read_gguf
from openarctic.formats.checkpoint import open_checkpoint
from openarctic.formats.convert import Progress
from tests.formats.files import raw_state, write_folder
from tests.tiny import LAYOUTS, tiny_config


def run(*arguments: object) -> int:
    return main(["model", "convert", *map(str, arguments)])


def test_a_checkpoint_becomes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = write_folder(tmp_path / "hf"), tmp_path / "m.gguf"
    assert run(folder, path, "--type", "Q8_0", "--threads", 1) == 0
    out, err = capsys.readouterr()
    assert out == f"{path}\n"
    assert re.search(r"wrote 0\.\d+ GB in 1 file \(\d+ Q8_0, 13 F32\) in \d+\.\d s, \d+ MB of input a second", err)
    assert "no tokenizer" in err and "\r" not in err
    assert run(folder, path, "--type", "Q8_0", "--split-max-size", "150K") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'm-00001-of-00002.gguf'}\n"
    assert {t.type for t in read_gguf(path, verify=True).tensors.values()} == {"Q8_0", "F32"}


def test_json_says_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = write_folder(tmp_path / "hf"), tmp_path / "m.gguf"
    assert run(folder, path, "--split-max-size", "0.2M", "--format", "json", "--verify", "--stock") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["status"] == "ok"
    assert body["bytes_read"] == sum(raw.size for *_, raw in raw_state(tiny_config()).values())
    assert [file["path"] for file in body["files"]] == sorted(str(p) for p in tmp_path.glob("m-*.gguf"))
    assert sum(file["bytes"] for file in body["files"]) == body["bytes_written"] and len(body["files"]) > 1
    assert body["tensors"] == {"BF16": 95, "F32": 13} and body["resumed_bytes"] == 0
    assert run(body["files"][0]["path"], tmp_path / "t", "--layout", "training") == 0
    assert capsys.readouterr().out == f"{tmp_path / 't'}\n"
    assert open_checkpoint(tmp_path / "t").layout == "training"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["none", "x.gguf"], 2, "no model at none"),
        (["hf", "x.gguf", "--type", "Q9"], 2, "no file type 'Q9'"),
        (["hf", "x", "--type", "Q8_0"], 2, "cannot hold Q8_0"),
        (["hf", "x.gguf", "--layout", "training"], 2, "is one of folders"),
        (["hf", "x", "--split-max-size", "1G"], 2, "are for GGUF files"),
        (["hf", "hf"], 2, "is or contains the source"),
        (["hf", "x.gguf", "--collapse-kv"], 2, "nothing to collapse"),
        (["hf", "x.gguf", "--kv-heads", "1"], 2, "is no copy of head 0"),
        (["hf", "x.gguf", "--type", "Q4_0", "--imatrix", "hf/config.json"], 6, "not a GGUF file"),
        (["wide", "x.gguf", "--stock"], 2, "no stock runtime"),
        (["pickles", "x.gguf"], 2, "pickled checkpoint"),
        (["empty.gguf", "x"], 6, "is empty"),
        (["hf", "folder.gguf"], 2, "folder.gguf is a folder"),
        (["hf", "empty.gguf/x"], 2, "empty.gguf is a file"),
        (["hf", "n" * 300], 2, "File name too long"),
        (["hf", "n" * 250], 2, "File name too long"),
    ],
)
def test_what_fails_says_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(Path("hf"))
    write_folder(Path("wide"), LAYOUTS["top-3, wide residual MLP"])
    Path("empty.gguf").touch()
    Path("folder.gguf").mkdir()
    Path("pickles").mkdir()
    Path("pickles/config.json").write_text(Path("hf/config.json").read_text())
    Path("pickles/pytorch_model.bin").write_bytes(b"x")
    before = sorted(Path().iterdir())
    assert run(*arguments) == code
    out, err = capsys.readouterr()
    assert out == "" and f"error: {err.split('error: ')[1]}" in err and told in err
    assert sorted(Path().iterdir()) == before
    assert run(*arguments, "--format", "json") == code
    assert told in json.loads(capsys.readouterr().out)["error"]["message"]


def test_deepspeed_without_torch_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mp_rank_00_model_states.pt").touch()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(tmp_path, tmp_path / "x") == 2
    assert "pip install 'openarctic[train]'" in capsys.readouterr().err


SLOW = """
import os, sys, time
from openarctic.formats import convert as module
module.PIECE_VALUES = 1500
real = module.check_finite
def slow(*arguments):
    time.sleep(float(os.environ["PAUSE"]))
    real(*arguments)
module.check_finite = slow
from openarctic.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_control_c_keeps_what_is_done(tmp_path: Path) -> None:
    """On a terminal: a line of progress, then 130 and the way to go on; the same command goes on."""
    folder, path = write_folder(tmp_path / "hf"), tmp_path / "m.gguf"
    command = [sys.executable, "-c", SLOW, "model", "convert", str(folder), str(path)]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "PAUSE": "0.01"})
    os.close(theirs)
    seen = ""
    while "left" not in seen:
        seen += os.read(ours, 1000).decode()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    seen += os.read(ours, 1000).decode()
    assert re.search(r"\rconverting +\d+%  \d+\.\d\d GB/s  \d+:\d\d left", seen)
    assert "m.gguf.partial is kept: run the same command again to go on" in seen and "interrupted" in seen
    assert not path.exists()
    os.close(ours)
    again = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PAUSE": "0"})
    assert again.returncode == 0 and re.search(r"note: going on at \d+\.\d%", again.stderr)
    assert read_gguf(path, verify=True).tensors.keys() and not path.with_name("m.gguf.partial").exists()


def test_sizes_and_counts() -> None:
    assert [size(text) for text in ("45G", "1.5k", "7", "2T")] == [45_000_000_000, 1500, 7, 2_000_000_000_000]
    for text in ("", "G", "x", "4X", "-1", "0", "nan", "inf", "1e300"):
        with pytest.raises(argparse.ArgumentTypeError):
            size(text)
    for text in ("0", "-1", "x", "1.5", "\u0663"):
        with pytest.raises(argparse.ArgumentTypeError):
            positive(text)


def test_the_line_of_progress() -> None:
    assert progress_line(Progress("converting", 25, 100), 0) == "converting  25%  0.00 GB/s"
    line = progress_line(Progress("converting", 3 * 10**11, 10**12, 10**11), 100)
    assert line == "converting  30%  2.00 GB/s  5:50 left"
    assert progress_line(Progress("checking", 10**10, 10**13), 10).endswith("1.00 GB/s  2:46:30 left")
    assert progress_line(Progress("checking", 5, 5), 1) == "checking 100%  0.00 GB/s"
