"""Models behind an OpenAI-compatible URL: vLLM, `openarctic serve`, and everything else that speaks the API.

Nothing is sent anywhere unless a URL is named: `--model http://127.0.0.1:8000/v1`, or `--model openai`, which reads
OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from openarctic.errors import CapacityError, MissingError, UserError
from openarctic.generator import GREEDY, Completion, Constraint, OnText, Sampling

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_ANSWER_BYTES = 64 << 20
CHARS_PER_TOKEN = 3  # fewer than in most text, so that estimates are on the safe side
PARALLEL = 8


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is, which of its models is asked, and the key, which no message and no repr shows."""

    url: str
    model: str = ""
    key: str = field(default="", repr=False)
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{self.url!r} is not the URL of a server", "such as http://127.0.0.1:8000/v1")
        if self.key and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise UserError(f"the key for {parts.hostname} would travel unprotected", "use https")

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer's object. Raises MissingError (nobody there), UserError (it refuses), CapacityError (busy, late)."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            secure = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, parts.port, timeout=self.timeout_s, context=secure)
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=self.timeout_s)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        try:
            connection.request(method, parts.path.rstrip("/") + path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            raw = answer.read(MAX_ANSWER_BYTES + 1)
        except TimeoutError as error:
            raise CapacityError(f"{self.url} did not answer within {self.timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise MissingError(f"no server answers at {self.url}: {error}", "is it running?") from error
        finally:
            connection.close()
        if len(raw) > MAX_ANSWER_BYTES:
            raise CapacityError(f"{self.url} sent more than {MAX_ANSWER_BYTES} bytes")
        return self._read(answer.status, raw)

    def _read(self, status: int, raw: bytes) -> dict[str, Any]:
        try:
            told = json.loads(raw)
        except (ValueError, RecursionError):
            told = None
        if status == 200 and isinstance(told, dict):
            return told
        error = told.get("error") if isinstance(told, dict) else None
        message = str(error.get("message", ""))[:500] if isinstance(error, dict) else raw[:200].decode("utf-8", "replace")
        if status in (401, 403):
            raise UserError(f"{self.url} refuses the key: {message}", "set OPENAI_API_KEY")
        if status in (408, 429) or status >= 500:
            raise CapacityError(f"{self.url} answered {status}: {message}", "try again in a moment")
        raise Rejected(f"{self.url} answered {status}: {message}")


class Rejected(UserError):
    """The server does not take a request as it is."""


@dataclass(slots=True)
class RemoteModel:
    """A `Generator` over an endpoint. `target_form` is None for a model that chats and writes whole SQL; a server of ours tells
    when its model writes the short form, and is then given plain prompts and grammars.

    Servers differ in what they take: log probabilities are asked for until one refuses them.
    """

    endpoint: Endpoint
    name: str = ""
    target_form: str | None = None
    _gives_logprobs: bool = True

    def __post_init__(self) -> None:
        listed = self.endpoint.call("GET", "/models").get("data", [])
        models = {str(entry.get("id")): entry for entry in listed if isinstance(entry, dict)}
        wanted = self.endpoint.model or next(iter(models), "")
        if not wanted or (models and wanted not in models):
            known = ", ".join(list(models)[:8]) or "none"
            raise MissingError(f"{self.endpoint.url} has no model {wanted!r}", f"it has: {known}; set OPENAI_MODEL")
        self.name = self.name or wanted
        self.target_form = self.target_form or models.get(wanted, {}).get("target_form")
        self.endpoint = replace(self.endpoint, model=wanted)

    def count_tokens(self, text: str) -> int:
        """An estimate that is rather too high: the server's tokenizer is not asked."""
        return -(-len(text) // CHARS_PER_TOKEN)

    def generate(
        self,
        prompt: str,
        *,
        sampling: Sequence[Sampling] = (GREEDY,),
        max_tokens: int = 256,
        grammar: str | Constraint | None = None,
        on_text: OnText | None = None,
    ) -> list[Completion]:
        """As `Generator.generate`: a request for each of `sampling`, several at a time. `on_text` hears whole texts."""
        constraint = Constraint(grammar=grammar) if isinstance(grammar, str) else grammar
        with ThreadPoolExecutor(min(PARALLEL, len(sampling))) as pool:
            parts = list(pool.map(lambda one: self._one(prompt, one, max_tokens, constraint), sampling))
        completions = [completion for part in parts for completion in part]
        for index, completion in enumerate(completions):
            if on_text:
                on_text(index, completion.text)
        return completions

    def _one(self, prompt: str, sampling: Sampling, max_tokens: int, constraint: Constraint | None) -> list[Completion]:
        is_chat = self.target_form is None
        body = {"model": self.endpoint.model, "max_tokens": max_tokens, **_fields(sampling)}
        body |= {"messages": [{"role": "user", "content": prompt}]} if is_chat else {"prompt": prompt}
        if constraint is not None:
            body["structured_outputs"] = {constraint.kind: getattr(constraint, constraint.kind)}
        path = "/chat/completions" if is_chat else "/completions"
        if self._gives_logprobs:
            try:
                told = self.endpoint.call("POST", path, {**body, "logprobs": True if is_chat else 0})
            except Rejected:
                self._gives_logprobs = False
        if not self._gives_logprobs:
            told = self.endpoint.call("POST", path, body)
        read: Callable[[Any], Completion] = _from_chat if is_chat else _from_completion
        try:
            return [read(choice) for choice in told["choices"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.endpoint.url} gives no completions of the OpenAI API: {error!r}") from error


def _fields(sampling: Sampling) -> dict[str, Any]:
    """Only what differs from the API's defaults: many servers refuse fields that they do not know."""
    fields: dict[str, Any] = {"temperature": sampling.temperature}
    if not sampling.is_greedy:
        fields |= {"top_p": sampling.top_p, "seed": sampling.seed, "n": sampling.n}
    for name in ("top_k", "min_p", "presence_penalty", "frequency_penalty"):
        if value := getattr(sampling, name):
            fields[name] = value
    if sampling.repetition_penalty != 1:
        fields["repetition_penalty"] = sampling.repetition_penalty
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    return fields


def _from_chat(choice: Mapping[str, Any]) -> Completion:
    scores = (choice.get("logprobs") or {}).get("content") or []
    logprob = sum(float(score["logprob"]) for score in scores)
    return Completion(choice["message"].get("content") or "", [], logprob, str(choice.get("finish_reason") or "stop"))


def _from_completion(choice: Mapping[str, Any]) -> Completion:
    scores = (choice.get("logprobs") or {}).get("token_logprobs") or []
    logprob = sum(float(score) for score in scores if score is not None)
    return Completion(choice["text"], [], logprob, str(choice.get("finish_reason") or "stop"))


def is_remote(name: str) -> bool:
    """Whether a model's name stands for a server."""
    return name == "openai" or name.startswith(("http://", "https://"))


def remote_model(name: str, environment: Mapping[str, str] = os.environ) -> RemoteModel:
    """By URL, or `openai` with the variables that OpenAI's own client reads. Raises UserError without a URL."""
    url = environment.get("OPENAI_BASE_URL", "") if name == "openai" else name
    if not url:
        raise UserError("--model openai needs a server", "set OPENAI_BASE_URL, such as http://127.0.0.1:8000/v1")
    return RemoteModel(Endpoint(url, environment.get("OPENAI_MODEL", ""), environment.get("OPENAI_API_KEY", "")))
