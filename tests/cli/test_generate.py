"""`openarctic generate` with the bundled model: every option reaches the engine, and nothing asked for is dropped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from openarctic.cli import generate, main
from openarctic.engine import Engine, load
from openarctic.generator import Constraint, Sampling

PROMPT = "Count the words:"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load(threads=1)


@pytest.fixture(autouse=True)
def loaded_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openarctic.engine.load", lambda *_, **__: engine)


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["generate", PROMPT, "--max-tokens", "8", "--format", "json", *arguments]) == 0
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    return body


OPTIONS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "greedy": ([], {}),
    "temperature": (["--temperature", "0.9", "--seed", "3"], {"temperature": 0.9, "seed": 3}),
    "cuts": (
        ["--temperature", "2", "--top-k", "9", "--top-p", "0.8", "--min-p", "0.05"],
        {"temperature": 2, "top_k": 9, "top_p": 0.8, "min_p": 0.05},
    ),
    "penalties": (
        ["--repetition-penalty", "1.7", "--presence-penalty", "1", "--frequency-penalty", "0.5"],
        {"repetition_penalty": 1.7, "presence_penalty": 1, "frequency_penalty": 0.5},
    ),
    "bias and ends": (
        ["--logit-bias", "90=20", "--logit-bias", "91=20.5", "--stop-token-id", "7", "--ignore-eos"],
        {"logit_bias": {90: 20, 91: 20.5}, "stop_token_ids": [7], "ignore_eos": True},
    ),
    "several": (["--temperature", "1", "--n", "2", "--best-of", "4"], {"temperature": 1, "n": 2, "best_of": 4}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_of_the_engine(engine: Engine, capsys: pytest.CaptureFixture[str], name: str) -> None:
    arguments, fields = OPTIONS[name]
    body = report(capsys, *arguments)
    wanted = engine.generate(PROMPT, sampling=Sampling(**fields), max_tokens=8)
    assert [choice["token_ids"] for choice in body["choices"]] == [c.ids for c in wanted]
    assert [choice["text"] for choice in body["choices"]] == [c.text for c in wanted]
    plain = engine.generate(PROMPT, max_tokens=8)[0].ids
    assert name == "greedy" or wanted[0].ids != plain, "the options change nothing here"


def test_json_holds_what_the_help_says(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    body = report(capsys, "--logprobs", "2", "--prompt-logprobs", "1", "--stop", "zzz")
    assert set(body) == {"status", "model", "usage", "choices", "prompt_logprobs", "error"}
    [choice] = body["choices"]
    documented = re.findall(r"\w+", generate.EPILOG)
    for key in [*body, *choice, *body["usage"], *choice["logprobs"][0]]:
        assert key in documented
    assert (
        body["usage"]["prompt_tokens"] == engine.count_tokens(PROMPT) + 1 == len(body["prompt_logprobs"])
    )  # begins with a token
    assert body["usage"]["completion_tokens"] == len(choice["token_ids"]) == len(choice["logprobs"]) == 8
    assert "".join(score["token"] for score in choice["logprobs"]) == choice["text"]
    assert choice["logprobs"][0]["rank"] == 1 and choice["logprobs"][0]["top_logprobs"][0]["id"] == choice["token_ids"][0]
    assert body["prompt_logprobs"][0] is None and len(body["prompt_logprobs"][1]["top_logprobs"]) == 1
    assert choice["logprob"] == pytest.approx(sum(score["logprob"] for score in choice["logprobs"]), abs=1e-3)


def test_a_stop_text_is_told(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    text = engine.generate(PROMPT, max_tokens=8)[0].text
    [choice] = report(capsys, "--stop", text[5:9], "--stop", "zzz")["choices"]
    assert choice["text"] == text[: text.index(text[5:9])]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", text[5:9])


def test_text_is_streamed_and_several_texts_are_separated(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", PROMPT, "--max-tokens", "5"]) == 0
    printed = capsys.readouterr()
    assert printed.out == engine.generate(PROMPT, max_tokens=5)[0].text + "\n" and "--max-tokens" in printed.err
    assert main(["generate", PROMPT, "--max-tokens", "5", "--n", "2", "--temperature", "1"]) == 0
    printed = capsys.readouterr()
    texts = [c.text for c in engine.generate(PROMPT, sampling=Sampling(temperature=1, n=2), max_tokens=5)]
    assert printed.out == "".join(text + "\n" for text in texts) and "--- 2 of 2 ---" in printed.err


@pytest.mark.parametrize(
    ("arguments", "constraint"),
    [
        (["--regex", "[0-9]{3}"], Constraint(regex="[0-9]{3}")),
        (["--choice", "red", "--choice", "blue"], Constraint(choice=["red", "blue"])),
        (["--grammar", "f"], Constraint(grammar='start: "a" | "b"')),
        (["--json-schema", "f"], Constraint(json='{"enum": [1, 2]}')),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_forms(
    tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str], arguments: list[str], constraint: Constraint
) -> None:
    (tmp_path / "f").write_text(str(constraint.source))
    assert main(["generate", PROMPT, *(str(tmp_path / "f") if a == "f" else a for a in arguments)]) == 0
    assert capsys.readouterr().out == engine.generate(PROMPT, grammar=constraint)[0].text + "\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--temperature", "11"], "temperature is 11.0, it must be 0 to 10"),
        (["--n", "2"], "n is 2 at temperature 0"),
        (["--logprobs", "3"], "--logprobs is not shown in text"),
        (["--prompt-logprobs", "3"], "--prompt-logprobs is not shown in text"),
        (["--logit-bias", "x=1"], "--logit-bias is 'x=1'"),
        (["--logit-bias", "999999=1"], "logit_bias names token 999999"),
        (["--stop", ""], "stop holds an empty text"),
        (["--regex", "("], "the regular expression is not valid"),
        (["--choice", ""], "choice is ['']"),
        (["--json-schema", "/no/schema"], "no JSON schema at /no/schema"),
        (["--grammar", "/"], "no grammar at /"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_told(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "x", *arguments]) == 2
    printed = capsys.readouterr()
    assert text in printed.err and printed.out == ""


def test_a_failure_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "x", "--top-p", "0", "--format", "json"]) == 2
    body = json.loads(capsys.readouterr().out)
    assert body["status"] == "error" and "top_p is 0" in body["error"]["message"]


@pytest.mark.parametrize("command", ["generate", "ask"])
@pytest.mark.parametrize("threads", ["0", "-3", "257"])
def test_threads_out_of_range(
    command: str, threads: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openarctic.engine.load", load)
    assert main([command, "How many customers are there?", "--threads", threads]) == 2
    assert f"threads is {threads}, it must be 1 to 256" in capsys.readouterr().err
