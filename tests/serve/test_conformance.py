"""Clients of the field against the running server, each as its users run it, in an environment of its own:

    scripts/conformance_environments.sh FOLDER
    PATH=FOLDER/bin:$PATH pytest -m ecosystem tests/serve

The openai client is called from here (pip install openai). What is not installed is skipped, and says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openarctic.copilot.sample import database_or_sample
from openarctic.engine import Engine
from openarctic.serve.desk import Desk

from .fuzz_openapi import SETTINGS, fuzz
from .test_chat import NOW, WEATHER
from .world import Server, running

pytestmark = pytest.mark.ecosystem
TALK = [{"role": "user", "content": "name of"}]


@pytest.fixture
def small(engine: Engine) -> Iterator[Server]:
    """Nothing takes long here."""
    desk = Desk(engine, {"sample": database_or_sample(None)})
    with running(engine, desk, max_output_tokens=200, request_timeout_s=20) as server:
        yield server
    desk.close()


@pytest.fixture
def client(small: Server) -> Any:
    openai = pytest.importorskip("openai", reason="pip install openai")
    return openai.OpenAI(base_url=f"http://127.0.0.1:{small.port}/v1", api_key="none", max_retries=0)


def test_openai_chat_stream_and_completions(client: Any) -> None:
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model
    whole = client.chat.completions.create(model=model, messages=TALK, max_completion_tokens=8, temperature=0)
    stream = client.chat.completions.create(
        model=model, messages=TALK, max_completion_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    done = client.completions.create(model=model, prompt="name of", max_tokens=4, echo=True, logprobs=2)
    assert done.choices[0].text.startswith("name of") and done.choices[0].logprobs.token_logprobs[0] is None


def test_openai_parse_and_tools(client: Any) -> None:
    pydantic = pytest.importorskip("pydantic")
    Answer = pydantic.create_model("Answer", yes=(bool, ...), no=(bool, ...))
    parsed = client.chat.completions.parse(
        model="tiny", messages=TALK, response_format=Answer, max_completion_tokens=150, temperature=0
    )
    assert isinstance(parsed.choices[0].message.parsed, Answer)
    with client.chat.completions.stream(
        model="tiny", messages=TALK, tools=[WEATHER, NOW], tool_choice="required", parallel_tool_calls=False,
        max_completion_tokens=200, seed=2,
    ) as stream:  # fmt: skip
        for _ in stream:
            pass
        [choice] = stream.get_final_completion().choices
    [call] = choice.message.tool_calls
    assert call.function.name in ("get_weather", "now") and isinstance(json.loads(call.function.arguments), dict)


def test_openai_responses(client: Any) -> None:
    whole = client.responses.create(model="tiny", input="name of", max_output_tokens=8, temperature=0)
    events = list(client.responses.create(model="tiny", input="name of", max_output_tokens=8, temperature=0, stream=True))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text


def tool(name: str) -> str:
    """The command's path; the test is skipped where there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not on the PATH: scripts/conformance_environments.sh")
    return path


def test_schemathesis_finds_no_server_error(engine: Engine) -> None:
    """Few cases; `python -m tests.serve.fuzz_openapi` tries as many as one likes."""
    tool("schemathesis")
    desk = Desk(engine, {"sample": database_or_sample(None)})
    with running(engine, desk, **SETTINGS) as server:
        run = fuzz(server.port, seed=1, examples=3)
    desk.close()
    assert not run.failed and run.cases > 500, run.failed


@pytest.mark.parametrize(("profile", "probes"), [("chat", 5), ("modern", 7)])
def test_compatcanary_gives_a_hundred(server: Server, profile: str, probes: int) -> None:
    """It wants texts that end by themselves: no limit but the context."""
    command = [tool("compatcanary"), "scan", "--base-url", f"http://127.0.0.1:{server.port}/v1", "--model", "tiny"]
    command += ["--profile", profile, "--format", "json", "--timeout", "60", "--fail-on", "any"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["score"], report["summary"]["passes"], report["summary"]["total"]) == (100, probes, probes)


@pytest.fixture
def llm(small: Server, tmp_path: Path) -> Callable[..., str]:
    """Calls `llm` with the server as one of its models, and gives what it prints."""
    path = tool("llm")
    model = {
        "model_id": "served",
        "model_name": "tiny",
        "api_base": f"http://127.0.0.1:{small.port}/v1",
        "api_key_name": "served",
    }
    model |= {"supports_schema": True, "supports_tools": True}
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([model]))  # JSON is YAML
    (tmp_path / "keys.json").write_text('{"served": "none"}')

    def call(*arguments: str) -> str:
        command = [path, *arguments, "-m", "served", "-o", "temperature", "0"]
        environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_llm_talks_and_streams(llm: Callable[..., str], small: Server) -> None:
    whole = llm("name of", "-o", "max_tokens", "12", "--no-stream", "-s", "ab")
    assert llm("name of", "-o", "max_tokens", "12", "-s", "ab") == whole
    talk = [{"role": "system", "content": "ab"}, {"role": "user", "content": "name of"}]
    body = small.post("/v1/chat/completions", {"messages": talk, "max_tokens": 12, "temperature": 0}).json
    assert whole.strip() == body["choices"][0]["message"]["content"].strip()
    assert llm("of", "-c", "-o", "max_tokens", "4")  # goes on with the conversation


def test_llm_gets_what_its_schema_and_tools_ask_for(llm: Callable[..., str]) -> None:
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
    assert isinstance(json.loads(llm("name of", "--schema", json.dumps(schema)))["yes"], bool)
    code = "def now(zone: str) -> str:\n    'The time'\n    return 'twelve'\n"
    assert llm("name of", "--functions", code, "-o", "max_tokens", "20", "--no-stream", "--td") is not None


def test_lm_eval_reads_likelihoods(small: Server, tmp_path: Any) -> None:
    rows = [{"q": "name", "a": "of"}, {"q": "true", "a": "ab"}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "local.yaml").write_text(
        "task: local\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: "
        f"{tmp_path / 'data.jsonl'}\ntest_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{{{q}}}}'\n"
        "doc_to_choice: [' of', ' ab']\ndoc_to_target: 0\nmetric_list:\n  - metric: acc\n"
    )
    arguments = (
        f"model=tiny,base_url=http://127.0.0.1:{small.port}/v1/completions,tokenizer_backend=remote,tokenized_requests=True"
    )
    command = [tool("lm_eval"), "--model", "local-completions", "--model_args", arguments]
    command += ["--tasks", "local", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**_offline(), "HF_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "acc" in done.stdout


def _offline() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
