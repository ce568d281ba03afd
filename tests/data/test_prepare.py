from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openarctic.cli.data_prepare import read_tokenizer
from openarctic.data import MixtureSource, TokenShards, single_stage
from openarctic.data import prepare as prepare_room
from openarctic.data.contamination import ContaminationCheck
from openarctic.data.documents import Document
from openarctic.data.prepare import JOURNAL, PrepareOptions, prepare
from openarctic.data.readers import ReadOptions, read_documents
from openarctic.data.shards import MANIFEST, TRAIN, VALIDATION, Manifest, tokenizer_fingerprint
from openarctic.errors import CorruptError, UserError
from openarctic.formats.resume import open_locked
from openarctic.tokenizer import Tokenizer

WORDS = "select name from singer where age over the concert stadium of a year count ü 2014".split()
OPTIONS = PrepareOptions(domain="web", validation_share=0.2, shard_tokens=400)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return read_tokenizer("arctic-nano")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = random.Random(1)
    texts = [" ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 60))) for _ in range(150)]
    texts[10], texts[20], texts[30] = "", " \n", texts[31]
    path = tmp_path / "web.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def make(source: Path, tokenizer: Tokenizer, out: Path, options: PrepareOptions = OPTIONS, **settings: Any) -> Manifest:
    return prepare([source], tokenizer, out, options, **{"note": lambda line: None, "threads": 2, **settings})


def stored(folder: Path, split: str) -> list[list[int]]:
    shards = TokenShards(folder, split)
    lengths = shards.lengths(0, shards.num_documents)
    return [shards.read(document, 0, int(length)).tolist() for document, length in enumerate(lengths)]


def test_shards_hold_every_document_with_an_end_token(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    manifest = make(source, tokenizer, tmp_path / "out")
    expected = [
        [*([tokenizer.bos_id] if tokenizer.adds_bos else []), *tokenizer.encode(document.text), tokenizer.eos_id]
        for document in read_documents(source)
        if document.text.strip()
    ]
    train, validation = stored(tmp_path / "out", TRAIN), stored(tmp_path / "out", VALIDATION)
    held_out = [ids for ids in expected if ids in validation]
    assert validation == held_out and train == [ids for ids in expected if ids not in validation]
    assert 10 < len(validation) < 50
    assert manifest.documents_read == 150 and manifest.left_out == {"empty": 2}
    assert manifest.text_bytes == sum(len(d.text.encode()) for d in read_documents(source) if d.text.strip())
    assert manifest.dtype == "uint16" and len(manifest.shards[TRAIN]) > 3
    assert not (tmp_path / "out.partial").exists() and not (tmp_path / "out" / JOURNAL).exists()


def test_copies_of_a_text_are_held_out_together(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    doubled = tmp_path / "doubled.jsonl"
    doubled.write_text(source.read_text() * 2)
    make(doubled, tokenizer, tmp_path / "out")
    train, validation = (stored(tmp_path / "out", split) for split in (TRAIN, VALIDATION))
    assert not [ids for ids in validation if ids in train]


@pytest.mark.parametrize("stop", [1, 40, 70, 149])
def test_a_stopped_preparation_goes_on_and_gives_the_same(
    source: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    whole = make(source, tokenizer, tmp_path / "whole")
    read: list[int] = []

    def stopping(path: Path, options: ReadOptions) -> Iterator[Document]:
        for document in read_documents(path, options):
            if document.index > stop and not read:
                read.append(document.index)
                raise KeyboardInterrupt
            yield document

    monkeypatch.setattr(prepare_room, "read_documents", stopping)
    with pytest.raises(KeyboardInterrupt):
        make(source, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    notes: list[str] = []
    again = make(source, tokenizer, tmp_path / "out", note=notes.append)
    assert again == whole
    assert [note for note in notes if "going on with" in note]
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_killed_preparation_goes_on_and_gives_the_same(source: Path, tmp_path: Path) -> None:
    """kill -9 as soon as two sets of shards are safe; then the same command again."""
    source.write_text(source.read_text() * 10)
    command = [
        sys.executable,
        "-c",
        "import sys; from openarctic.cli import main; sys.exit(main())",
        "data",
        "prepare",
        str(source),
    ]
    command += ["--tokenizer", "arctic-nano", "--shard-tokens", "1500", "--validation-share", "0.2", "--domain", "web"]
    killed = subprocess.Popen([*command, "--out", str(tmp_path / "out")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal = tmp_path / "out.partial" / JOURNAL
    while killed.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 3):
        time.sleep(0.005)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL and not (tmp_path / "out").exists()
    again = subprocess.run([*command, "--out", str(tmp_path / "out")], check=True, capture_output=True, text=True)
    assert "going on with" in again.stderr
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_other_options_start_anew(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / JOURNAL).write_text('{"fingerprint": "another"}\n{"documents_read": 3}\n')
    (partial / "train-00000.tokens").write_bytes(b"old")
    notes: list[str] = []
    assert make(source, tokenizer, tmp_path / "out", note=notes.append) == make(source, tokenizer, tmp_path / "fresh")
    assert "starting anew" in notes[0]


def test_what_is_in_the_way_is_not_touched(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        make(source, tokenizer, tmp_path / "out")
    (tmp_path / "other.partial").mkdir()
    (tmp_path / "other.partial" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="no preparation made it"):
        make(source, tokenizer, tmp_path / "other")
    assert (tmp_path / "other.partial" / "mine.txt").read_text() == "keep"


def test_two_processes_do_not_write_one_folder(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    held = open_locked(tmp_path / "out.partial" / JOURNAL)
    with pytest.raises(UserError, match="another process is writing"):
        make(source, tokenizer, tmp_path / "out")
    os.close(held)
    make(source, tokenizer, tmp_path / "out")


def test_contaminated_documents_are_left_out(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    documents = list(read_documents(source))
    long = next(document for document in documents if len(document.text.split()) > 30)
    check = ContaminationCheck({"dev": [Document(long.text.upper(), "dev", 1)]})
    manifest = make(source, tokenizer, tmp_path / "out", contamination=check)
    assert manifest.left_out == {"empty": 2, "contaminated": 1}
    ids = [*tokenizer.encode(long.text), tokenizer.eos_id]
    assert not [own for split in (TRAIN, VALIDATION) for own in stored(tmp_path / "out", split) if own[-len(ids) :] == ids]


def test_errors_name_the_place(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source.write_text('{"text": "good"}\n{"text": "bad \\ud800"}\n')
    with pytest.raises(UserError, match=r"web.jsonl:2: the text is not valid Unicode"):
        make(source, tokenizer, tmp_path / "out")
    source.write_text('{"text": "good"}\n{"text": \n')
    with pytest.raises(CorruptError, match=r"web.jsonl line 2: not JSON"):
        make(source, tokenizer, tmp_path / "out")
    source.write_text('{"text": ""}\n')
    with pytest.raises(UserError, match="no document is left of 1: 1 empty"):
        make(source, tokenizer, tmp_path / "out")
    with pytest.raises(UserError, match="validation share is 1"):
        replace(OPTIONS, validation_share=1.0)


def test_another_tokenizer_does_not_fit(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    make(source, tokenizer, tmp_path / "out")
    shards = TokenShards(tmp_path / "out")
    shards.check_fits(tokenizer)
    shards.check_vocab(tokenizer.vocab_size)
    with pytest.raises(UserError, match="was tokenised by another tokenizer"):
        shards.check_fits(tokenizer.truncate(1000))
    with pytest.raises(UserError, match="the model's vocab_size is 16383"):
        shards.check_vocab(16383)


def test_unused_tokens_at_the_end_make_no_other_tokenizer(tokenizer: Tokenizer) -> None:
    padded = Tokenizer.from_gguf_metadata(tokenizer.to_gguf_metadata(tokenizer.vocab_size + 64))
    assert tokenizer_fingerprint(padded) == tokenizer_fingerprint(tokenizer)
    assert tokenizer_fingerprint(tokenizer.truncate(1000)) != tokenizer_fingerprint(tokenizer)


def test_prepared_shards_train(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    make(source, tokenizer, tmp_path / "out")
    shards = TokenShards(tmp_path / "out")
    one_epoch = single_stage({"web": 1}, shards.num_tokens // 32 * 32, 32)
    ids = np.concatenate([batch.input_ids.ravel() for batch in MixtureSource(one_epoch, {"web": shards}, batch_tokens=32)])
    counted = np.bincount(np.concatenate(stored(tmp_path / "out", TRAIN)), minlength=tokenizer.vocab_size)
    missing = counted - np.bincount(ids, minlength=tokenizer.vocab_size)
    assert missing.min() >= 0 and missing.sum() == shards.num_tokens % 32


def test_a_folder_without_its_manifest_is_unfinished(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    make(source, tokenizer, tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "copy", ignore=shutil.ignore_patterns(MANIFEST))
    with pytest.raises(UserError, match=r"has no manifest.json"):
        TokenShards(tmp_path / "copy")
