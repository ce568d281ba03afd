"""What requests may hold, name by name. What is not here is answered with 400: nothing that changes an output is ignored.

Fields and meanings are those of the OpenAI API, and of vLLM's extensions of it (`top_k`, `min_p`, `repetition_penalty`,
`stop_token_ids`, `ignore_eos`, `structured_outputs`, `priority`). A field of type None is one that clients send as null: another
value of it is not supported. `BOOKKEEPING` is accepted and changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from openarctic.copilot.candidates import MAX_CANDIDATES_SERVED

MAX_PROMPTS = 64
MAX_TEXTS = 256  # prompts times the texts that are made for each
MAX_TOOLS = 64
MAX_STOPS = 64
MAX_STOP_IDS = 1024
MAX_TEXT = 1 << 30  # characters; the limit of a body's bytes is much lower


class Body(BaseModel):
    """No unknown fields, no conversions: a number is a number, and a text is Unicode.

    pydantic looks at a text's characters only where its length is limited; half of a surrogate pair would break what writes it.
    """

    model_config = ConfigDict(extra="forbid", strict=True, str_max_length=MAX_TEXT)


class Bookkeeping(Body):
    """For the caller's own records; accepted by every route, without effect."""

    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


BOOKKEEPING = tuple(Bookkeeping.model_fields)


class StreamOptions(Body):
    """`include_usage`: one more chunk at the end, without choices, tells the tokens."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class StructuredOutputs(Body):
    """What every output must follow; one of the four (vLLM's StructuredOutputsParams)."""

    json_: Annotated[dict[str, Any] | str | bool | None, Field(alias="json")] = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    disable_any_whitespace: bool = False


class SamplingFields(Bookkeeping):
    """Which token comes next, and where a text ends."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=MAX_STOP_IDS)] | None = None
    ignore_eos: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    priority: int | None = None


class CompletionRequest(SamplingFields):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: None = None


class TextPart(Body):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class FunctionCall(Body):
    """`arguments` is JSON as text."""

    name: str
    arguments: str


class ToolCall(Body):
    """A call that the model made."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Body):
    """One turn. `developer` is another word for `system`."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class FunctionDefinition(Body):
    """A function that the model may call; `parameters` is a JSON Schema."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool: a function is the only kind."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Body):
    """By name."""

    name: str


class NamedTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchemaFormat(Body):
    """A named schema; `strict` or not, it is followed."""

    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Body):
    """text, json_object (any object) or json_schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class ChatRequest(SamplingFields):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    reasoning_effort: Literal["none"] | None = None
    audio: None = None
    functions: None = None
    function_call: None = None
    prediction: None = None
    verbosity: None = None
    web_search_options: None = None


class TokenizeRequest(Body):
    """`POST /tokenize`: a prompt, or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[int]


class InputText(Body):
    """A piece of an item's content; a client that sends an answer back has its annotations in it."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class MessageItem(Body):
    """A turn."""

    type: Literal["message"] = "message"
    role: Literal["developer", "system", "user", "assistant"]
    content: str | list[InputText]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionCallItem(Body):
    """An earlier call of the model."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionOutputItem(Body):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputText]
    id: str | None = None
    status: str | None = None


class ResponseTool(Body):
    """A function, in the flat form of this route."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseToolChoice(Body):
    """The function that must be called."""

    type: Literal["function"]
    name: str


class ResponseTextFormat(Body):
    """text, json_object or json_schema, in the flat form of this route."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseText(Body):
    """How the text is written."""

    format: ResponseTextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ResponseStreamOptions(Body):
    """Usage is told with the last event in any case, so there is no `include_usage`."""

    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(Bookkeeping):
    """`POST /v1/responses`, without state: every request holds the whole conversation."""

    model: str | None = None
    input: str | list[MessageItem | FunctionCallItem | FunctionOutputItem]
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    text: ResponseText | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    truncation: Literal["disabled"] | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    background: Literal[False] | None = None
    previous_response_id: None = None
    conversation: None = None
    prompt: None = None
    reasoning: None = None
    max_tool_calls: None = None


class EarlierQuestion(Body):
    """A question before this one, with what answered it: fields of `/v1/ask`'s own object."""

    question: Annotated[str, Field(max_length=10_000)]
    sql: Annotated[str, Field(max_length=20_000)]
    read_as: Annotated[str, Field(max_length=1000)] | None = None
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    calibrated: bool = False


class Reading(Body):
    """One of two readings of a question."""

    text: Annotated[str, Field(max_length=2000)]
    sql: Annotated[str, Field(max_length=20_000)]


class AskedBack(Body):
    """The `clarification` of an answer, as it came."""

    question: Annotated[str, Field(max_length=10_000)]
    text: Annotated[str, Field(max_length=5000)] = ""
    choices: Annotated[list[Reading], Field(min_length=2, max_length=2)]


class AskRequest(Body):
    """`POST /v1/ask`: a question to a named database. `chart` asks for a picture too, as a Vega-Lite spec and as SVG. Without
    `candidates` there are as many queries to elect from as suit the model.

    `history` is the conversation before, oldest first: nothing is kept between requests. With `clarify` the answer may be a
    question back; who answers it sends its `clarification` again, and the choice (1, 2, or words) as the question.
    """

    question: str
    database: str | None = None
    history: Annotated[list[EarlierQuestion], Field(max_length=20)] = []
    clarify: bool = False
    clarification: AskedBack | None = None
    stream: bool = True
    execute: bool = True
    chart: bool = False
    candidates: Annotated[int, Field(ge=1, le=MAX_CANDIDATES_SERVED)] | None = None
    limit: Annotated[int, Field(ge=1, le=100_000)] = 1000
    timeout: Annotated[float, Field(gt=0, le=300)] = 10.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class QueryRequest(Body):
    """`POST /v1/query`: one statement, through the guard. `format` csv gives the rows as a file."""

    sql: str
    database: str | None = None
    limit: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    timeout: Annotated[float, Field(gt=0, le=300)] = 10.0
    format: Literal["json", "csv", "parquet"] = "json"
    chart: bool = False


class FeedbackRequest(Body):
    """`POST /v1/feedback`: a verdict on the SQL that answered a question, or the SQL that should have."""

    question: Annotated[str, Field(max_length=10_000)]
    sql: Annotated[str, Field(max_length=20_000)]
    verdict: Literal["up", "down"]
    corrected: Annotated[str, Field(max_length=20_000)] = ""


class AnalystContent(Body):
    """A block of a message in Cortex Analyst's form."""

    type: Literal["text", "sql", "suggestions"]
    text: str | None = None
    statement: str | None = None
    suggestions: list[str] | None = None
    confidence: dict[str, Any] | None = None


class AnalystMessage(Body):
    """A turn in Cortex Analyst's form."""

    role: Literal["user", "analyst"]
    content: Annotated[list[AnalystContent], Field(min_length=1)]
    request_id: str | None = None  # clients send an answer back with the id that it came with


class AnalystRequest(Body):
    """`POST /api/v2/cortex/analyst/message`. A view's or file's name is that of a database here; models are given at start."""

    messages: Annotated[list[AnalystMessage], Field(min_length=1)]
    semantic_view: str | None = None
    semantic_model_file: str | None = None
    semantic_model: None = None
    semantic_models: None = None
    stream: bool | None = None


class AnalystFeedback(Body):
    """`POST /api/v2/cortex/analyst/feedback`: a verdict on the answer of an id."""

    request_id: Annotated[str, Field(max_length=200)]
    positive: bool
    feedback_message: Annotated[str, Field(max_length=10_000)] | None = None
