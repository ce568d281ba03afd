"""From a request's fields to the engine's `Sampling` and `Constraint`.

Defaults are OpenAI's: temperature 1, top_p 1, a new seed each time.
"""

from __future__ import annotations

from openarctic.errors import OpenArcticError, UserError
from openarctic.generator import Constraint, Sampling
from openarctic.serve.errors import HTTPError, as_http
from openarctic.serve.grammars import Form
from openarctic.serve.protocol import ResponseFormat, SamplingFields, StructuredOutputs

ALL = -1  # of `top_k`, as vLLM writes it beside 0
FORMS = ("json", "regex", "choice", "grammar")


def sampling_of(
    fields: SamplingFields,
    *,
    best_of: int | None = None,
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
) -> Sampling:
    """Raises UserError for a value outside its limits."""

    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    return Sampling(
        temperature=given(fields.temperature, 1.0),
        top_p=given(fields.top_p, 1.0),
        top_k=0 if fields.top_k in (None, ALL) else fields.top_k,
        min_p=given(fields.min_p, 0.0),
        repetition_penalty=given(fields.repetition_penalty, 1.0),
        presence_penalty=given(fields.presence_penalty, 0.0),
        frequency_penalty=given(fields.frequency_penalty, 0.0),
        logit_bias=_biases(fields.logit_bias or {}),
        seed=fields.seed,
        stop=fields.stop or (),
        stop_token_ids=fields.stop_token_ids or (),
        ignore_eos=bool(fields.ignore_eos),
        n=1 if fields.n is None else fields.n,
        best_of=best_of,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def _biases(biases: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in biases.items()}
    except ValueError as error:
        raise UserError(f"logit_bias has a key that is no token id: {error}") from error


def form_of(outputs: StructuredOutputs | None, response: ResponseFormat | None = None) -> Form | None:
    """What the output must follow. Raises UserError or HTTPError where both ways, or several of one way, say so."""
    by_format = _format(response) if response else None
    if outputs is None:
        return by_format
    if by_format:
        raise UserError("structured_outputs and response_format are both given", "leave one of them out")
    try:
        constraint = Constraint(
            json=outputs.json_,
            regex=outputs.regex,
            choice=outputs.choice,
            grammar=outputs.grammar,
            disable_any_whitespace=outputs.disable_any_whitespace,
        )
    except OpenArcticError as error:
        http = as_http(error, FORMS)
        http.param = f"structured_outputs.{http.param}" if http.param else "structured_outputs"
        raise http from error
    return Form(constraint, f"structured_outputs.{constraint.kind}")


def _format(response: ResponseFormat) -> Form | None:
    if response.type == "text":
        return None
    if response.type == "json_object":
        return Form(Constraint(json={"type": "object"}, disable_any_whitespace=True), "response_format")
    if response.json_schema is None:
        raise HTTPError(400, "response_format.json_schema is missing", param="response_format.json_schema")
    schema = response.json_schema.schema_
    constraint = Constraint(json={"type": "object"} if schema is None else schema, disable_any_whitespace=True)
    return Form(constraint, "response_format.json_schema.schema")
