"""The bundled arctic-nano as a Hugging Face folder: offline and through vLLM's OpenAI server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.engines import assert_same, environment, greedy, load, run_jobs

pytestmark = pytest.mark.vllm

MAX_TOKENS = 64
START_S = 300
QUESTIONS = """How many customers are there?
List the names of all products.
Which products cost more than 100?
What is the total amount of all orders?
How many orders did each customer make?
Show the five most expensive products.
What is the average price of the products?
Which customers have never ordered anything?
How many employees work in each city?
Who is the oldest employee?
List orders of the year 2024.
Which product was sold most often?
What is the revenue per month?
Show customers from Berlin.
How many different countries do the customers come from?
Which employee handled the most orders?
List the products that were never ordered.
What is the highest order amount?
Show the names of customers with more than three orders.
How many products are there in each category?""".splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `openarctic model convert arctic-nano-00001-of-00002.gguf FOLDER` writes, in float32."""
    made = tmp_path_factory.mktemp("nano") / "model"
    source = str(files("openarctic") / "assets" / "arctic-nano-00001-of-00002.gguf")
    subprocess.run(
        [str(Path(sys.executable).with_name("openarctic")), "model", "convert", source, str(made), "--type", "F32"],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def prompts(folder: Path) -> list[list[int]]:
    """The prompts that `openarctic ask` makes of twenty questions to the sample database."""
    from transformers import AutoTokenizer

    from openarctic.copilot.databases import read_schema
    from openarctic.copilot.prompt import question_text, schema_text
    from openarctic.copilot.sample import sample_database

    schema = schema_text(read_schema(sample_database()))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(schema + question_text(question))["input_ids"] for question in QUESTIONS]


@pytest.fixture(scope="module")
def wanted(folder: Path, prompts: list[list[int]]) -> tuple[list[list[int]], float]:
    return greedy(load(folder), prompts, MAX_TOKENS)


def test_twenty_real_prompts(
    folder: Path, prompts: list[list[int]], wanted: tuple[list[list[int]], float], tmp_path: Path
) -> None:
    options = {"max_model_len": max(map(len, prompts)) + MAX_TOKENS, "skip_tokenizer_init": False}
    (result,) = run_jobs(tmp_path, [{"model": str(folder), "prompts": prompts, "max_tokens": MAX_TOKENS, "options": options}])
    assert_same(result, *wanted)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's server on a free port of the loopback interface, ended with the module.

    `vllm serve` is the same program, but in the CPU build it looks for a package named `vllm` and ends.
    """
    work = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "nano"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "2048"]
    with (work / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment(work), cwd=work, stdout=log, stderr=log)
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", work / "log")
            yield f"http://127.0.0.1:{port}/v1/completions"
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(f"no answer in {START_S} s: {log.read_text()[-4000:]}")


def test_the_server_answers_with_the_same_tokens(
    server: str, prompts: list[list[int]], wanted: tuple[list[list[int]], float]
) -> None:
    body: dict[str, Any] = {"model": "nano", "max_tokens": MAX_TOKENS, "temperature": 0, "ignore_eos": True}
    for prompt, tokens in list(zip(prompts, wanted[0], strict=True))[:3]:
        data = json.dumps({**body, "prompt": prompt, "return_token_ids": True}).encode()
        request = urllib.request.Request(server, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            choice = json.load(response)["choices"][0]
        assert choice["token_ids"] == tokens
        assert choice["text"]
