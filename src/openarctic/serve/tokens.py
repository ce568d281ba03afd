"""`/tokenize`, `/detokenize`, `/tokenizer_info`: the tokenizer over HTTP, as vLLM has it and lm_eval asks for it."""

from __future__ import annotations

from typing import Any

from openarctic.errors import OpenArcticError
from openarctic.serve.chat import prompt_ids, size_of
from openarctic.serve.errors import HTTPError, as_http
from openarctic.serve.protocol import DetokenizeRequest, TokenizeRequest
from openarctic.serve.service import Service


async def tokenize(service: Service, request: TokenizeRequest) -> dict[str, Any]:
    """Ids of a prompt or of messages. Raises HTTPError."""
    service.check_model(request.model)
    tokenizer, prompt, messages = service.tokenizer, request.prompt, request.messages or []
    if (prompt is None) == (request.messages is None):
        raise HTTPError(400, "give a prompt or messages", param="prompt")

    def encoded() -> tuple[list[int], list[str] | None]:
        if prompt is not None:
            ids = tokenizer.encode(prompt, add_special=request.add_special_tokens is not False)
        else:
            ids = prompt_ids(tokenizer, messages, [], add_generation_prompt=request.add_generation_prompt)
        return ids, [tokenizer.token(id) for id in ids] if request.return_token_strs else None

    try:
        ids, strings = await service.tokenized(len(prompt or "") + size_of(messages), encoded)
    except OpenArcticError as error:
        raise as_http(error) from error
    return {"count": len(ids), "max_model_len": service.engine.context, "tokens": ids, "token_strs": strings}


def detokenize(service: Service, request: DetokenizeRequest) -> dict[str, Any]:
    """The text of ids. Raises HTTPError."""
    service.check_model(request.model)
    tokenizer = service.tokenizer
    for id in request.tokens:
        if not 0 <= id < tokenizer.vocab_size:
            raise HTTPError(400, f"token {id} is not in the vocabulary of {tokenizer.vocab_size}", param="tokens")
    return {"prompt": tokenizer.decode(request.tokens)}


def tokenizer_info(service: Service) -> dict[str, Any]:
    """Names of special tokens and the chat template, as a `tokenizer_config.json` has them."""
    tokenizer = service.tokenizer
    names = {f"{name}_token": token for name, token in tokenizer.special_names().items()}
    return {
        "tokenizer_class": "OpenArcticTokenizer",
        "model_max_length": service.engine.context,
        "add_bos_token": tokenizer.adds_bos,
        "chat_template": tokenizer.chat_template,
        **names,
    }
