"""The official MCP SDK around the tools: over standard input and output, or over HTTP behind the same gate as `serve`.

Needs `openarctic[mcp]`. Nothing but the protocol reaches standard output: the SDK keeps the descriptor to itself, and what
anything else prints goes to standard error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from openarctic import __version__
from openarctic.errors import MissingError, OpenArcticError
from openarctic.serve.keys import Key
from openarctic.serve.mcp.tools import INSTRUCTIONS, Outcome, Tell, Toolbox, table_address

if TYPE_CHECKING:
    import socket

    from mcp.server import Server, ServerRequestContext

    from openarctic.serve.settings import ServeSettings

try:
    import anyio
    import mcp_types as types
    from mcp.server import Server
    from mcp.server.stdio import stdio_server
    from mcp.shared.exceptions import MCPError
except ImportError as missing:
    raise MissingError("the MCP server needs the official SDK", "pip install 'openarctic[mcp]'") from missing

PATH = "/mcp"
PULSE_S = 5.0  # of progress while a model thinks: clients take it for a sign of life

Result = TypeVar("Result")


def build_server(toolbox: Toolbox) -> Server[Any]:
    """The SDK's server over a toolbox."""

    async def list_tools(context: ServerRequestContext[Any, Any], params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    title=tool.title,
                    description=tool.description,
                    input_schema=arguments,
                    output_schema=tool.output,
                    annotations=types.ToolAnnotations(
                        title=tool.title, read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
                    ),
                )
                for tool, arguments in toolbox.tools()
            ]
        )

    async def call_tool(context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams) -> types.CallToolResult:
        key = _key(context, toolbox)
        async with _progress(context) as tell:
            outcome = await _cancellable(toolbox.call(params.name, dict(params.arguments or {}), key, tell))
        return _result(outcome)

    async def list_resources(context: ServerRequestContext[Any, Any], params: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(
            resources=[
                types.Resource(
                    name=f"{name} schema",
                    title=f"Tables of {name}",
                    uri=uri,
                    description="Tables, columns, types, keys and comments.",
                    mime_type="application/json",
                )
                for name, uri in toolbox.resources()
            ]
        )

    async def list_templates(context: ServerRequestContext[Any, Any], params: Any) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(
                    name=f"{name} table",
                    title=f"One table of {name}",
                    uri_template=table_address(name),
                    description="Columns, types, keys and comments of a table.",
                    mime_type="application/json",
                )
                for name, _ in toolbox.resources()
            ]
        )

    async def read_resource(
        context: ServerRequestContext[Any, Any], params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        uri = str(params.uri)
        text = await _cancellable(toolbox.read(uri, _key(context, toolbox)))
        return types.ReadResourceResult(contents=[types.TextResourceContents(uri=uri, mime_type="application/json", text=text)])

    return Server(
        "openarctic",
        version=__version__,
        title="OpenArctic",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
    )


def _key(context: ServerRequestContext[Any, Any], toolbox: Toolbox) -> Key:
    """Over HTTP the one that the gate let in, with every request anew; else the one that the process was started for."""
    request = context.request
    return toolbox.key if request is None else request.scope["state"]["key"]


def _result(outcome: Outcome) -> types.CallToolResult:
    content: list[Any] = [types.TextContent(type="text", text=text) for text in (outcome.text, outcome.drawing) if text]
    if outcome.png is not None:
        content.append(types.ImageContent(type="image", data=outcome.png, mime_type="image/png"))
    return types.CallToolResult(content=content, structured_content=outcome.body, is_error=outcome.is_error)


async def _cancellable(work: Coroutine[Any, Any, Result]) -> Result:
    """A call as a task of its own: cancelled once when the client gives up, and waited for until what it began has ended.

    The SDK cancels by a scope, which would cut every wait on the way out too. Raises MCPError for an error of ours.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task})
        raise
    except OpenArcticError as error:
        raise MCPError(types.INVALID_PARAMS, f"{error.message}; {error.hint}" if error.hint else error.message) from error


@asynccontextmanager
async def _progress(context: ServerRequestContext[Any, Any]) -> AsyncIterator[Tell]:
    """A function that threads tell what they do, sent as progress; and a pulse while nothing is told."""
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[str] = asyncio.Queue()

    async def send() -> None:
        number, text, waited = 0, "", 0.0
        while True:
            try:
                text, waited = await asyncio.wait_for(told.get(), PULSE_S), 0.0
            except TimeoutError:
                waited += PULSE_S
            number += 1
            shown = f"{text} ({waited:.0f} s)" if waited else text
            await context.session.report_progress(number, None, shown)

    sending = asyncio.ensure_future(send())
    try:
        yield lambda text: loop.call_soon_threadsafe(told.put_nowait, text)  # type: ignore[misc]
    finally:
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending


def serve_stdio(toolbox: Toolbox) -> None:
    """Serve the one client at standard input and output until it goes."""

    async def run() -> None:
        server = build_server(toolbox)
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())

    try:
        asyncio.run(run())
    finally:
        toolbox.desk.close()


def serve_http(
    toolbox: Toolbox, settings: ServeSettings, listening: socket.socket, on_ready: Callable[[], None] = lambda: None
) -> None:
    """Serve streamable HTTP at `/mcp` until SIGTERM or Ctrl-C; host, origin, key and size are checked by the gate of `serve`."""
    from openarctic.serve.gate import Gate
    from openarctic.serve.server import run_app
    from openarctic.serve.service import Service

    app = build_server(toolbox).streamable_http_app(
        streamable_http_path=PATH,
        host=settings.host,
        max_request_body_size=settings.max_body_bytes,
        transport_security=_unchecked(),
    )
    service = Service(toolbox.desk.engine, settings)
    with closing(toolbox.desk):
        run_app(Gate(app, service), service, listening, on_ready, has_lifespan=True)


def _unchecked() -> Any:
    """The gate has looked at host and origin already, with the names that the operator gave."""
    from mcp.server.transport_security import TransportSecuritySettings

    return TransportSecuritySettings(enable_dns_rebinding_protection=False)
