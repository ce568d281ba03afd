"""`openarctic mcp`: databases as tools of Claude Desktop, Cursor, VS Code and every other MCP client."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openarctic.copilot.policy import Policy
    from openarctic.serve.keys import Key
    from openarctic.serve.mcp.tools import Toolbox
    from openarctic.serve.settings import ServeSettings

SUMMARY = "serve databases to MCP clients as tools"
DESCRIPTION = """\
Offers the tools ask, query, schema and chart over the Model Context Protocol: by default to the program that starts it, over
standard input and output; with --http to any client on this machine. Policy, audit log and limits are those of ask and query.
docs/mcp.md says how to register it in Claude Desktop, Cursor and VS Code.

examples:
  openarctic mcp --db shop=shop.duckdb
  openarctic mcp --db shop=shop.duckdb --policy policy.yaml --user ann
  openarctic mcp --db shop=shop.duckdb --http --port 8765 --api-key-file keys.txt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from openarctic.cli.ask import add_candidates, add_no_values, add_policy_arguments

    parser.add_argument("--db", action="append", default=[], metavar="NAME=URL", help="a database, several (default: the sample)")
    parser.add_argument("--semantic", action="append", default=[], metavar="NAME=FILE", help="a database's semantic model")
    parser.add_argument("--model", metavar="NAME_PATH_OR_URL", help="bundled, a GGUF file, or a server (default: arctic-nano)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all that this process may use)")
    add_no_values(parser)
    add_policy_arguments(parser)
    limits = parser.add_argument_group("limits of a call")
    limits.add_argument("--limit", type=int, default=1000, metavar="N", help="rows that a client may ask for (default 1000)")
    limits.add_argument("--max-bytes", type=int, default=100_000, metavar="N", help="of a result as JSON (default 100000)")
    limits.add_argument("--timeout", type=float, default=30.0, metavar="S", help="seconds a query may run (default 30)")
    add_candidates(limits)
    http = parser.add_argument_group("over HTTP")
    http.add_argument("--http", action="store_true", help="streamable HTTP at /mcp instead of standard input and output")
    http.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    http.add_argument("--port", type=int, default=8765, help="port to listen on; 0 takes a free one (default 8765)")
    http.add_argument("--api-key-file", type=Path, metavar="FILE", help="keys, as those of openarctic serve")
    http.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help="a name by which clients call it")


def run(args: argparse.Namespace) -> int:
    """Load, serve."""
    if not args.http:
        with contextlib.redirect_stdout(sys.stderr):  # standard output belongs to the protocol
            from openarctic.serve.mcp.server import serve_stdio

            toolbox = _toolbox(args, *_reader(args))
        serve_stdio(toolbox)
        return 0
    from openarctic.cli.serve import policy_of
    from openarctic.serve.keys import ANYONE
    from openarctic.serve.mcp.server import PATH, serve_http
    from openarctic.serve.server import address, bind

    settings = _settings(args)
    policy = policy_of(args.policy, settings.keys)
    listening = bind(settings)
    where = f"{address(settings, listening)}{PATH}"
    toolbox = _toolbox(args, policy, ANYONE)
    serve_http(toolbox, settings, listening, lambda: print(f"serving MCP at {where}", file=sys.stderr, flush=True))
    return 0


def _reader(args: argparse.Namespace) -> tuple[Policy | None, Key]:
    """Who asks over standard input. Raises UserError where policy or user is missing, RefusedError for an unknown one."""
    from openarctic.copilot.access import check_both_named
    from openarctic.copilot.policy import read_policy
    from openarctic.serve.keys import ANYONE, Key

    check_both_named(args.policy, args.user)
    if args.policy is None:
        return None, ANYONE
    policy = read_policy(args.policy)
    policy.principal(args.user)
    return policy, Key(args.user, "")


def _toolbox(args: argparse.Namespace, policy: Policy | None, key: Key) -> Toolbox:
    from openarctic.cli.serve import databases_of, semantic_of
    from openarctic.copilot.models import load_generator
    from openarctic.serve.desk import Desk
    from openarctic.serve.mcp.model import as_engine
    from openarctic.serve.mcp.tools import Limits, Toolbox

    limits = Limits(rows=args.limit, bytes=args.max_bytes, seconds=args.timeout, candidates=args.candidates)
    databases = databases_of(args.db)
    model = load_generator(args.model, threads=args.threads)
    semantic = semantic_of(args.semantic, databases)
    return Toolbox(Desk(as_engine(model), databases, policy, semantic, values=not args.no_values), key, limits)


def _settings(args: argparse.Namespace) -> ServeSettings:
    from openarctic.cli.serve import keys_of
    from openarctic.errors import UserError
    from openarctic.serve.settings import ServeSettings

    if args.user is not None:
        raise UserError("--user belongs to standard input: over HTTP a key's name is its user's", "leave --user out")
    keys = keys_of(args.api_key_file)
    return ServeSettings(host=args.host, port=args.port, hosts=tuple(args.allowed_host), keys=keys)
