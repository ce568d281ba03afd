"""Interrupted conversions: whatever stops one, the same call goes on, and the bytes are those of a run in one go."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openarctic.errors import CapacityError, UserError
from openarctic.formats import planned
from openarctic.formats.convert import ConvertOptions, Progress, convert
from openarctic.formats.resume import PartialOutput
from openarctic.formats.sources import open_source
from tests.formats.files import contents, run, write_folder


class Stopped(Exception):
    """Stands for whatever stops a run."""


def stop_after(pieces: int) -> Callable[[Progress], None]:
    left = pieces

    def on_progress(progress: Progress) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Stopped

    return on_progress


@pytest.mark.parametrize("destination", ["m.gguf", "folder"])
def test_a_stopped_run_goes_on(tmp_path: Path, destination: str) -> None:
    folder = write_folder(tmp_path / "hf")
    type_ = "Q8_0" if destination.endswith(".gguf") else "F32"
    wanted = tmp_path / "wanted" / destination
    whole = run(folder, wanted, type=type_)
    path = tmp_path / destination
    done = []
    for pieces in (3, 1, 50, 20):
        with pytest.raises(Stopped):
            convert(open_source(folder), path, ConvertOptions(type=type_), on_progress=stop_after(pieces))
        assert not path.exists()
        done.append((tmp_path / f"{destination}.partial" / "journal").read_text().split("\n")[-2])
    notes: list[str] = []
    converted = convert(open_source(folder), path, ConvertOptions(type=type_), note=notes.append)
    assert contents(path) == contents(wanted)
    assert [int(n) for n in done] == sorted(int(n) for n in done) and int(done[0]) >= 2
    assert converted.bytes_read + converted.resumed_bytes == whole.bytes_read and converted.resumed_bytes > 0
    assert any("going on at" in note for note in notes)
    assert not (tmp_path / f"{destination}.partial").exists()


KILLED = """
import os, sys, time
from pathlib import Path
from openarctic.formats import convert as module, targets
from openarctic.formats.sources import open_source
module.PIECE_VALUES, targets.SHARD_BYTES, os.fsync = 1500, 60_000, lambda descriptor: None
def slowly(progress):
    time.sleep(0.001)
    print(progress.phase, flush=True)
source, destination, type_ = sys.argv[1:]
options = module.ConvertOptions(type=type_, commit_bytes=20_000)
module.convert(open_source(Path(source)), Path(destination), options, on_progress=slowly)
"""


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("destination", ["m.gguf", "folder"])
def test_a_process_killed_at_random_moments(tmp_path: Path, destination: str, signal_: signal.Signals) -> None:
    folder = write_folder(tmp_path / "hf")
    type_ = "Q8_0" if destination.endswith(".gguf") else "F32"
    run(folder, tmp_path / "wanted" / destination, type=type_)
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / destination), type_]
    rng = random.Random(str((destination, signal_)))
    kills = 0
    for _ in range(20):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        if kills < 4:
            process.stdout.readline()  # it has begun
            time.sleep(rng.uniform(0, 0.12))
            process.send_signal(signal_)
        process.communicate()
        if process.returncode == 0:
            break
        kills += 1
        assert not (tmp_path / destination).exists()
    assert process.returncode == 0 and kills >= 2
    assert contents(tmp_path / destination) == contents(tmp_path / "wanted" / destination)


def test_another_source_or_option_begins_anew(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    path = tmp_path / "m.gguf"

    def stopped(**options: Any) -> list[str]:
        notes: list[str] = []
        with pytest.raises(Stopped):
            convert(open_source(folder), path, ConvertOptions(**options), on_progress=stop_after(9), note=notes.append)
        return [note for note in notes if "tokenizer" not in note]

    assert stopped(type="Q8_0") == []
    assert "going on" in stopped(type="Q8_0")[0]
    assert "from other input or options: starting anew" in stopped(type="Q4_0")[0]
    assert "starting anew" in stopped(type="Q4_0", restart=True)[0]
    shard = sorted(folder.glob("*.safetensors"))[2]
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    assert "starting anew" in stopped(type="Q4_0")[0]
    (tmp_path / "m.gguf.partial" / "m.gguf").unlink()
    assert "starting anew" in stopped(type="Q4_0")[0]


def test_a_torn_journal_line_is_not_believed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    run(folder, tmp_path / "wanted.gguf", type="Q8_0")
    path = tmp_path / "m.gguf"
    with pytest.raises(Stopped):
        convert(open_source(folder), path, ConvertOptions(type="Q8_0"), on_progress=stop_after(9))
    with (tmp_path / "m.gguf.partial" / "journal").open("a") as journal:
        journal.write("99")  # of 991, say
    run(folder, path, type="Q8_0")
    assert path.read_bytes() == (tmp_path / "wanted.gguf").read_bytes()


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "hf")
    run(folder, tmp_path / "wanted.gguf", type="Q8_0")
    real, calls = os.pwrite, 0

    def full(descriptor: int, data: Any, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls > 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(planned.os, "pwrite", full)
    with pytest.raises(CapacityError, match="no space left") as caught:
        run(folder, tmp_path / "m.gguf", type="Q8_0")
    assert "it goes on" in str(caught.value.hint) and not (tmp_path / "m.gguf").exists()
    monkeypatch.setattr(planned.os, "pwrite", real)
    assert run(folder, tmp_path / "m.gguf", type="Q8_0").resumed_bytes > 0
    assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "wanted.gguf").read_bytes()


def test_too_little_space_is_said_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "hf")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(CapacityError, match=r"0\.0 GB free, 0\.\d GB are still to be written"):
        run(folder, tmp_path / "m.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_two_conversions_do_not_mix(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    plan = planned.Plan((), {})
    first = PartialOutput(tmp_path / "m.gguf", plan, "a", 0, note=lambda text: None)
    with pytest.raises(UserError, match="another process is writing"):
        run(folder, tmp_path / "m.gguf")
    first.close()
    run(folder, tmp_path / "m.gguf")
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="no conversion made it"):
        run(folder, tmp_path / "x")
    assert (tmp_path / "x.partial" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("number", ["999999999", "-1", "x", "9" * 5000, "1.5"])
def test_a_journal_that_cannot_be_is_not_believed(tmp_path: Path, number: str) -> None:
    folder = write_folder(tmp_path / "hf")
    run(folder, tmp_path / "wanted.gguf", type="Q8_0")
    path = tmp_path / "m.gguf"
    with pytest.raises(Stopped):
        convert(open_source(folder), path, ConvertOptions(type="Q8_0"), on_progress=stop_after(9))
    with (tmp_path / "m.gguf.partial" / "journal").open("a") as journal:
        journal.write(f"{number}\n")
    notes: list[str] = []
    convert(open_source(folder), path, ConvertOptions(type="Q8_0"), note=notes.append)
    assert any("damaged: starting anew" in note for note in notes)
    assert path.read_bytes() == (tmp_path / "wanted.gguf").read_bytes()


@pytest.mark.parametrize("destination", ["m.gguf", "folder"])
def test_foreign_things_in_the_partial_folder_stay(tmp_path: Path, destination: str) -> None:
    folder = write_folder(tmp_path / "hf")
    with pytest.raises(Stopped):
        convert(open_source(folder), tmp_path / destination, ConvertOptions(), on_progress=stop_after(9))
    partial = tmp_path / f"{destination}.partial"
    (partial / "diary.txt").write_text("mine")
    (partial / "sub").mkdir()
    for options in ({}, {"restart": True}):
        with pytest.raises(UserError, match=r"holds what no conversion made: diary\.txt, sub"):
            run(folder, tmp_path / destination, **options)
    assert (partial / "diary.txt").read_text() == "mine"
    (partial / "diary.txt").unlink()
    (partial / "sub").rmdir()
    assert run(folder, tmp_path / destination).resumed_bytes > 0


def test_the_partial_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf.partial").write_text("mine")
    with pytest.raises(UserError, match="no conversion made it"):
        run(write_folder(tmp_path / "hf"), tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf.partial").read_text() == "mine"


@pytest.mark.parametrize("stop_at", [1, 2])
def test_a_stop_between_the_last_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    """Of the old folder away and the new one into its place: the same call finishes either way."""
    folder, path = write_folder(tmp_path / "hf"), tmp_path / "out"
    run(folder, path)
    run(folder, tmp_path / "wanted", type="F32")
    real, moves = os.replace, 0

    def replace(source: Path, destination: Path) -> None:
        nonlocal moves
        if path in (source, destination):
            moves += 1
            if moves == stop_at:
                raise Stopped
        real(source, destination)

    with monkeypatch.context() as context:
        context.setattr(os, "replace", replace)
        with pytest.raises(Stopped):
            run(folder, path, type="F32", force=True)
    assert path.exists() == (stop_at == 1)
    again = run(folder, path, type="F32", force=True)
    assert again.bytes_read == 0 and contents(path) == contents(tmp_path / "wanted")
    assert not (tmp_path / "out.partial").exists()
