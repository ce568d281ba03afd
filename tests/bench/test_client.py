"""The measured process: its jobs compute what the engine computes, and its failures arrive as errors with hints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from openarctic.bench.client import LLAMA, OURS, Client, EngineSpec, busy_processors, started
from openarctic.bench.ours import OpenArctic
from openarctic.bench.server import Jobs
from openarctic.engine import Engine
from openarctic.errors import CapacityError, CorruptError, MissingError, UserError


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[Client]:
    with started(EngineSpec(OURS, 1), model) as client:
        client.ask("open", tokens=512, sequences=1, context=128)
        yield client


def test_it_says_how_it_runs(client: Client) -> None:
    assert client.settings["name"] == "openarctic" and client.settings["threads"] == 1


def test_logits_are_the_engines_own(client: Client, model: Path, tmp_path: Path) -> None:
    ids = client.ask("logits", tokens=12, path=str(tmp_path / "x.npy"))["ids"]
    assert np.array_equal(np.load(tmp_path / "x.npy"), Engine.load(model, threads=1).logits(ids))


def test_every_job_takes_time(client: Client) -> None:
    assert client.ask("prefill", tokens=40)["seconds"] > 0
    assert client.ask("decode", context=8, batch=1, steps=3, rewind=2)["seconds"] > 0
    client.ask("layout", sequences=3, context=32)
    assert client.ask("decode", context=8, batch=3, steps=3, rewind=2)["seconds"] > 0
    reply = client.ask("prefix", requests=3, shared=20, own=4, shares=True)
    assert reply["seconds"] > 0 and reply["cpu_s"] >= 0


def test_what_goes_wrong_there_is_raised_here(client: Client) -> None:
    with pytest.raises(UserError, match="beyond the table"):
        client.ask("decode", context=4000, batch=1, steps=1, rewind=2)


def jobs_of(model: Path, sequences: int, context: int) -> Jobs:
    jobs = Jobs(OpenArctic(str(model), 1))
    jobs.open(tokens=512, sequences=sequences, context=context)
    return jobs


@pytest.mark.parametrize("shared", [16, 20, 64])
def test_a_shared_prefix_gives_the_logits_of_whole_prompts(model: Path, shared: int) -> None:
    rows: list[np.ndarray] = []
    jobs = jobs_of(model, 3, 128)
    step = jobs.runner.step

    def kept(*arguments: object) -> np.ndarray:
        rows.append(np.array(step(*arguments)))  # type: ignore[arg-type]
        return rows[-1]

    jobs.runner.step = kept  # type: ignore[method-assign]
    jobs.prefix(requests=3, shared=shared, own=4, shares=True)
    jobs.prefix(requests=3, shared=shared, own=4, shares=False)
    first, second = [row for row in rows if len(row) == 3]
    assert np.array_equal(first, second)
    prompt = [*jobs.ids(0, shared).tolist(), *jobs.ids(1002, 4).tolist()]
    assert np.array_equal(first[2], Engine.load(model, threads=1).logits(prompt)[-1])


def test_a_decode_leaves_its_context(model: Path) -> None:
    jobs = jobs_of(model, 2, 64)
    jobs.decode(context=8, batch=2, steps=4, rewind=2)
    assert jobs.filled == {0: 8, 1: 8}
    before = jobs.runner.step([5], [1], [8], [0]).copy()
    jobs.decode(context=8, batch=2, steps=4, rewind=2)
    assert np.array_equal(jobs.runner.step([5], [1], [8], [0]), before)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF")
    with started(EngineSpec(OURS, 1), path) as client, pytest.raises(CorruptError, match="ends inside"):
        client.ask("open", tokens=64, sequences=1, context=64)


def test_a_missing_llama_cpp_comes_with_its_install_line(model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c \"import sys, runpy; sys.modules['llama_cpp'] = None; "
        'sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name=\'__main__\')" "$@"\n'
    )
    bare.chmod(0o755)
    with pytest.raises(MissingError, match="not installed") as caught, started(EngineSpec(LLAMA, 1, str(bare)), model):
        pass
    assert "pip install llama-cpp-python" in str(caught.value.hint)


def test_a_python_that_is_not_there(model: Path) -> None:
    with pytest.raises(MissingError, match="cannot start"), started(EngineSpec(LLAMA, 1, "no-such-python"), model):
        pass


def test_a_process_that_ends_early_is_told(model: Path) -> None:
    with started(EngineSpec(OURS, 1), model) as client:
        client._process.kill()
        with pytest.raises(CapacityError, match="ended early"):
            client.ask("open", tokens=64, sequences=1, context=64)


def test_busy_processors_end() -> None:
    with busy_processors(1):
        pass


@pytest.mark.peer
def test_llama_cpp_computes_the_same_model(dense: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    from openarctic.bench.random_models import tokenizer_metadata
    from openarctic.formats import HybridConfig, to_gguf, write_gguf
    from tests.tiny import random_state, tiny_config

    config = tiny_config(vocab_size=320)
    metadata, tensors = to_gguf(HybridConfig.from_dict(config), random_state(config), lambda *_: "F32", tokenizer_metadata(320))
    path = write_gguf(tmp_path / "m.gguf", metadata, tensors)[0]
    logits = {}
    for kind in (OURS, LLAMA):
        with started(EngineSpec(kind, 1), path) as client:
            client.ask("open", tokens=512, sequences=1, context=128)
            client.ask("logits", tokens=12, path=str(tmp_path / "x.npy"))
            logits[kind] = np.load(tmp_path / "x.npy")
            client.ask("layout", sequences=3, context=64)
            client.ask("decode", context=8, batch=3, steps=3, rewind=2)
            client.ask("prefix", requests=3, shared=20, own=4, shares=True)
            client.ask("prefill", tokens=40)
    assert np.abs(logits[OURS] - logits[LLAMA]).max() < 1e-2 * np.abs(logits[OURS]).max()
