"""The application: routes, and nothing that a route does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from openarctic import __version__
from openarctic.errors import OpenArcticError
from openarctic.serve import chat, completions, responses, tokens
from openarctic.serve.answers import LatestAnswers
from openarctic.serve.bodies import JSONRoute
from openarctic.serve.desk import Desk, OnWork
from openarctic.serve.errors import HTTPError, as_http, for_path, invalid, stopping
from openarctic.serve.gate import Gate
from openarctic.serve.keys import ANYONE, Key
from openarctic.serve.page import add_page
from openarctic.serve.protocol import (
    AnalystFeedback,
    AnalystRequest,
    AskRequest,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    FeedbackRequest,
    QueryRequest,
    ResponsesRequest,
    TokenizeRequest,
)
from openarctic.serve.service import Service
from openarctic.serve.work import ClientGone, Work, while_connected

if TYPE_CHECKING:
    from openarctic.copilot.execute import Result

_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_ERROR_FIELDS = {"message": _TEXT, "type": _TEXT, "param": _TEXT_OR_NULL, "code": _TEXT_OR_NULL}


def _errors(**beside: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """What every failure is answered with: an error, and the fields beside it."""
    error = {"type": "object", "required": list(_ERROR_FIELDS), "properties": _ERROR_FIELDS}
    schema = {"type": "object", "required": ["error", *beside], "properties": {"error": error, **beside}}
    answer = {"description": "what was wrong", "content": {"application/json": {"schema": schema}}}
    return dict.fromkeys((400, 401, 403, 404, 413, 421, 422, 429, 503, 504), answer)


RESPONSES = _errors()
ANALYST_ERRORS = _errors(request_id=_TEXT, error_code=_TEXT, message=_TEXT)
PARQUET = "application/vnd.apache.parquet"
TRUNCATED = "X-Truncated"  # of a file: whether there were more rows than the limit
# Kinds of answers beside JSON.
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
FILES: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": _TEXT}, PARQUET: {}}}}


def build_app(service: Service, desk: Desk | None = None) -> FastAPI:
    """All routes of a service; those of databases answer for the ones at `desk`."""
    app = FastAPI(
        title="OpenArctic", version=__version__, docs_url=None, redoc_url=None, responses=RESPONSES, strict_content_type=False
    )
    app.router.route_class = JSONRoute
    app.add_middleware(Gate, service=service)
    _add_error_handlers(app)
    _add_plain_routes(app, service)
    _add_model_routes(app, service)
    add_page(app)
    desk = desk or Desk(service.engine, {})
    desk.metrics, desk.timeout_s = service.metrics, service.settings.request_timeout_s
    _add_database_routes(app, desk)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    def answer(request: Request, error: HTTPError) -> Response:
        return _failed(request, error.body(), error.status, error.headers)

    @app.exception_handler(HTTPError)
    async def ours(request: Request, error: HTTPError) -> Response:
        return answer(request, error)

    @app.exception_handler(OpenArcticError)
    async def known(request: Request, error: OpenArcticError) -> Response:
        return answer(request, as_http(error))

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        return answer(request, invalid(error.errors()))

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        return answer(request, HTTPError(error.status_code, str(error.detail), type=kind, headers=error.headers))

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)


def _events(stream: AsyncIterator[bytes]) -> Response:
    """Server-sent events, which no proxy shall collect."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _watched(request: Request, work: Coroutine[Any, Any, Any], answer: Callable[[Any], Response]) -> Response:
    """The answer of what `work` gives, made in a thread as it may be large; work ends when the client goes away. Failures are
    told as the command line tells them."""

    async def made() -> Response:
        return await asyncio.to_thread(answer, await work)

    try:
        return await while_connected(request, made())
    except OpenArcticError as error:
        http = as_http(error)
        told = {**http.body()["error"], **error.to_dict()}
        return _failed(request, {"status": error.status, "error": told}, http.status)


def _failed(request: Request, body: dict[str, Any], status: int, headers: Mapping[str, str] | None = None) -> Response:
    request_id = request.scope.get("state", {}).get("request_id", "")
    return JSONResponse(for_path(body, request.url.path, request_id), status, headers)


def _json(body: dict[str, Any]) -> Response:
    """Dates as text."""
    from openarctic.serve import files

    return Response(files.as_json(body), media_type="application/json")


def _key(request: Request) -> Key:
    key = request.scope.get("state", {}).get("key", ANYONE)
    assert isinstance(key, Key)
    return key


def _noted(request: Request) -> OnWork:
    """For the line that is logged of a request: what its question costs the model."""

    def note(work: Work) -> None:
        request.state.usage = work.usage

    return note


def _add_plain_routes(app: FastAPI, service: Service) -> None:
    # Load balancers and monitors ask with HEAD: the server leaves the body out.
    @app.head("/health", include_in_schema=False)
    @app.get("/health", tags=["server"])
    @app.get("/ping", tags=["server"], include_in_schema=False)
    async def health() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", tags=["server"])
    async def ready() -> Response:
        """Whether requests are taken: not while the server stops."""
        if service.is_draining:
            raise stopping()
        return JSONResponse({"status": "ready"})

    @app.get("/version", tags=["server"])
    async def version() -> dict[str, str]:
        """Of OpenArctic."""
        return {"version": __version__}

    @app.get("/metrics", tags=["server"], responses={200: {"content": {"text/plain": {"schema": _TEXT}}}})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def model_object() -> dict[str, Any]:
        return {
            "id": service.name,
            "object": "model",
            "created": service.created,
            "owned_by": "openarctic",
            "root": service.engine.name,
            "max_model_len": service.engine.context,
            **({"target_form": service.engine.target_form} if service.engine.target_form else {}),
        }

    @app.head("/v1/models", include_in_schema=False)
    @app.get("/v1/models", tags=["models"])
    async def models() -> dict[str, Any]:
        """The model that is served."""
        return {"object": "list", "data": [model_object()]}

    @app.get("/v1/models/{model:path}", tags=["models"])
    async def model(model: str) -> dict[str, Any]:
        """By id."""
        service.check_model(model)
        return model_object()


async def _written(form: Any, service: Service, body: Any, request: Request) -> Response:
    """What the model writes in the form of a module: `begin` checks and starts, `stream` and `whole` are the two ways to tell."""
    work, answer = await while_connected(request, form.begin(service, body, _key(request)))
    request.state.usage = work.usage
    if body.stream:
        return _events(form.stream(work, answer))
    return JSONResponse(await form.whole(work, answer, request))


def _add_model_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", tags=["models"], responses=STREAMED)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Texts after prompts."""
        return await _written(completions, service, body, request)

    @app.post("/v1/chat/completions", tags=["models"], responses=STREAMED)
    async def converse(body: ChatRequest, request: Request) -> Response:
        """An answer to messages."""
        return await _written(chat, service, body, request)

    @app.post("/v1/responses", tags=["models"], responses=STREAMED)
    async def respond(body: ResponsesRequest, request: Request) -> Response:
        """An answer to messages, in the newer form."""
        return await _written(responses, service, body, request)

    @app.post("/tokenize", tags=["tokens"])
    async def tokenize(body: TokenizeRequest) -> Response:
        """Text to ids."""
        return JSONResponse(await tokens.tokenize(service, body))  # FastAPI would look at each id

    @app.post("/detokenize", tags=["tokens"])
    async def detokenize(body: DetokenizeRequest) -> dict[str, Any]:
        """Ids to text."""
        return tokens.detokenize(service, body)

    @app.get("/tokenizer_info", tags=["tokens"])
    async def tokenizer_info() -> dict[str, Any]:
        """Special tokens and chat template."""
        return tokens.tokenizer_info(service)


def _add_database_routes(app: FastAPI, desk: Desk) -> None:
    # Each route loads what it needs when it is called: see Desk.warm.
    answers = LatestAnswers()

    @app.get("/v1/databases", tags=["databases"])
    async def databases() -> dict[str, Any]:
        """Names that the other routes take."""
        data = [{"id": name, "dialect": db.dialect} for name, db in desk.databases.items()]
        return {"object": "list", "data": data, "keeps_feedback": desk.feedback is not None}

    @app.post("/v1/ask", tags=["databases"], responses=STREAMED)
    async def ask(body: AskRequest, request: Request) -> Response:
        """A question; server-sent events unless `stream` is false."""
        from openarctic.serve import sql

        if body.stream:
            return _events(sql.stages(desk, body, _key(request), _noted(request)))
        return await _watched(request, sql.ask(desk, body, _key(request), _noted(request)), _json)

    @app.post("/v1/query", tags=["databases"], responses=FILES)
    async def query(body: QueryRequest, request: Request) -> Response:
        """A statement."""
        from openarctic.serve import files, sql

        def answer(found: tuple[dict[str, Any], Result]) -> Response:
            if body.format == "json":
                return _json(found[0])
            result = found[1]
            data, kind = (files.as_csv(result), "text/csv") if body.format == "csv" else (files.as_parquet(result), PARQUET)
            headers = {
                "Content-Disposition": f'attachment; filename="result.{body.format}"',
                TRUNCATED: "true" if result.truncated else "false",
            }
            return Response(data, media_type=kind, headers=headers)

        return await _watched(request, sql.query(desk, body, _key(request)), answer)

    @app.get("/v1/schema", tags=["databases"])
    async def schema(request: Request, database: str | None = None) -> dict[str, Any]:
        """Tables and columns that the key may see."""
        from openarctic.serve import sql

        return await sql.schema(desk, database, _key(request))

    @app.post("/v1/feedback", tags=["databases"])
    async def feedback(body: FeedbackRequest, request: Request) -> dict[str, Any]:
        """A verdict on an answer, for review."""
        from openarctic.serve import sql

        return sql.keep_feedback(desk, body, _key(request))

    @app.post("/api/v2/cortex/analyst/message", tags=["databases"], responses=ANALYST_ERRORS | STREAMED)
    async def analyst(body: AnalystRequest, request: Request) -> Response:
        """A question in Cortex Analyst's form."""
        from openarctic.serve import cortex

        asked = cortex.asked(desk, body)
        if body.stream:
            return _events(cortex.stream(desk, answers, asked, _key(request)))
        return await _watched(request, cortex.message(desk, answers, asked, _key(request)), _json)

    @app.post("/api/v2/cortex/analyst/feedback", tags=["databases"], responses=ANALYST_ERRORS)
    async def analyst_feedback(body: AnalystFeedback, request: Request) -> dict[str, Any]:
        """A verdict on an answer in Cortex Analyst's form, for review."""
        from openarctic.serve import cortex

        return cortex.keep_feedback(desk, answers, body, _key(request))
