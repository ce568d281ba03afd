"""`openarctic serve`: the OpenAI-compatible server."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openarctic.copilot.databases import Database
    from openarctic.copilot.feedback import FeedbackFile
    from openarctic.copilot.policy import Policy
    from openarctic.copilot.semantic.model import SemanticModel
    from openarctic.serve.keys import Key
    from openarctic.serve.settings import ServeSettings

SUMMARY = "serve a model over HTTP, as the OpenAI API has it"
DESCRIPTION = """\
Serves one model on http://127.0.0.1:8000/v1 until SIGTERM or Ctrl-C; what is under way then is finished first. Other machines can
reach it only with --host and an API key.

examples:
  openarctic serve --model SmolLM2-135M-Instruct.Q4_1.gguf
  openarctic serve --new-key ann --scopes ask,query >> keys.txt         # prints the key on standard error, once
  openarctic serve --host 0.0.0.0 --api-key-file keys.txt --allowed-host models.example.org
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from openarctic.cli.ask import add_no_values

    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port (default 8000; 0: any that is free)")
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="model (default: the bundled arctic-nano)")
    parser.add_argument("--served-model-name", metavar="NAME", help="what clients call it (default: its name, or its file's)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all that this process may use)")
    parser.add_argument(
        "--max-model-len", type=int, metavar="N", help="tokens of a request, prompt and answer (default: the model's)"
    )
    parser.add_argument("--max-num-seqs", type=int, default=64, metavar="N", help="texts written at a time (default 64)")
    parser.add_argument("--cache-gb", type=float, default=1.0, metavar="GB", help="for keys and values (default 1)")
    parser.add_argument("--speculation", choices=("suffix",), help="guess tokens from earlier text; the text stays the same")
    data = parser.add_argument_group("databases beside the model (/v1/ask, /v1/query, the page)")
    data.add_argument("--db", action="append", default=[], metavar="NAME=URL", help="a database, several (default: the sample)")
    data.add_argument("--no-db", action="store_true", help="serve no database")
    data.add_argument("--semantic", action="append", default=[], metavar="NAME=FILE", help="a database's semantic model")
    data.add_argument("--feedback", type=Path, metavar="FILE", help="keep what people say of answers, for openarctic feedback")
    data.add_argument("--policy", metavar="FILE", help="YAML file that says who may see what: a key's name is its user's")
    add_no_values(data)
    keys = parser.add_argument_group("who may call")
    keys.add_argument("--api-key-file", type=Path, metavar="FILE", help="keys, a line each: NAME SHA256 SCOPES [ROLES]")
    keys.add_argument("--new-key", metavar="NAME", help="print a new key's line for that file, and the key; serve nothing")
    keys.add_argument("--scopes", default="ask,query,generate", metavar="A,B", help="of --new-key: ask, query, generate, admin")
    keys.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME", help="a name by which clients call this server"
    )
    keys.add_argument("--allowed-origin", action="append", default=[], metavar="URL", help="another site whose pages may call")
    keys.add_argument("--roles", metavar="A,B", help="of --new-key: roles of the policy (default: those of a user of that name)")
    keys.add_argument("--log-contents", action="store_true", help="log what is asked and answered, not only that it was")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-body-mb", type=float, default=4.0, metavar="MB", help="of a request (default 4)")
    limits.add_argument("--max-output-tokens", type=int, metavar="N", help="of a text (default: what fits)")
    limits.add_argument("--max-concurrent", type=int, default=256, metavar="N", help="requests under way (default 256)")
    limits.add_argument("--max-concurrent-per-key", type=int, default=256, metavar="N", help="of one key (default 256)")
    limits.add_argument("--requests-per-minute", type=int, metavar="N", help="of one key (default: no limit)")
    limits.add_argument(
        "--request-timeout", type=float, default=600.0, metavar="S", help="seconds a request may take (default 600)"
    )
    limits.add_argument(
        "--drain-timeout", type=float, default=30.0, metavar="S", help="seconds to finish at the end (default 30)"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    from openarctic.serve.settings import LOOPBACK

    if args.new_key:
        return _print_new_key(args.new_key, args.scopes, args.roles)
    settings = _settings(args)
    from openarctic.cli import progress
    from openarctic.engine import load
    from openarctic.serve.desk import Desk
    from openarctic.serve.server import address, bind, serve

    databases, policy = databases_of(args.db, args.no_db), policy_of(args.policy, settings.keys)
    listening = bind(settings)
    engine = load(
        args.model,
        threads=args.threads,
        context=args.max_model_len,
        max_sequences=args.max_num_seqs,
        cache_bytes=int(args.cache_gb * (1 << 30)),
        speculation=args.speculation,
        on_progress=progress.loading(args.model or "the model"),
    )
    if settings.host not in LOOPBACK:
        print(f"warning: {settings.host} can be reached from other machines; the keys are all that protects it", file=sys.stderr)
    name = settings.served_model_name or engine.name
    semantic, feedback = semantic_of(args.semantic, databases), _feedback(args.feedback)
    desk = Desk(engine, databases, policy, semantic, feedback, values=not args.no_values)
    where = address(settings, listening)
    serve(desk, settings, listening, lambda: print(f"serving {name} at {where}/v1", file=sys.stderr, flush=True))
    return 0


def databases_of(pairs: list[str], is_none: bool = False) -> dict[str, Database]:
    """By name, the sample where none is named; each is opened once, so that a wrong one is told before anything is served."""
    from openarctic.copilot.databases import open_database
    from openarctic.copilot.sample import database_or_sample
    from openarctic.errors import UserError
    from openarctic.serve.desk import named

    if is_none and pairs:
        raise UserError("--db and --no-db are both given", "leave one of them out")
    if is_none:
        return {}
    return {name: open_database(url) for name, url in named(pairs).items()} or {"sample": database_or_sample(None)}


def policy_of(path: str | None, keys: Sequence[Key]) -> Policy | None:
    """Raises UserError where it cannot be kept: without keys, or with a role of a key's that it does not have."""
    if path is None:
        return None
    from openarctic.copilot.policy import read_policy
    from openarctic.errors import UserError

    policy = read_policy(path)
    if not keys:
        raise UserError("--policy needs API keys: their names are the policy's users", "give --api-key-file")
    for key in keys:
        if key.roles:
            policy.principal(key.user)
    return policy


def _feedback(path: Path | None) -> FeedbackFile | None:
    if path is None:
        return None
    from openarctic.copilot.feedback import FeedbackFile

    return FeedbackFile(path)


def semantic_of(pairs: list[str], databases: Mapping[str, Database]) -> dict[str, SemanticModel]:
    """Semantic models by the names of their databases."""
    from openarctic.cli.ask import read_semantic
    from openarctic.errors import UserError

    found = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not separator or name not in databases:
            raise UserError(f"--semantic {pair!r} names none of {', '.join(databases)}", "write --semantic NAME=FILE")
        if model := read_semantic(path):
            found[name] = model
    return found


def _settings(args: argparse.Namespace) -> ServeSettings:
    from openarctic.serve.settings import ServeSettings

    return ServeSettings(
        host=args.host,
        port=args.port,
        served_model_name=args.served_model_name or (Path(args.model).stem if args.model else None),
        hosts=tuple(args.allowed_host),
        origins=tuple(args.allowed_origin),
        max_body_bytes=int(args.max_body_mb * (1 << 20)),
        max_output_tokens=args.max_output_tokens,
        max_concurrent=args.max_concurrent,
        max_concurrent_per_key=args.max_concurrent_per_key,
        requests_per_minute=args.requests_per_minute,
        request_timeout_s=args.request_timeout,
        drain_timeout_s=args.drain_timeout,
        keys=keys_of(args.api_key_file),
        log_contents=args.log_contents,
    )


def keys_of(path: Path | None) -> tuple[Key, ...]:
    """Of the file, and the one in OPENARCTIC_API_KEY, which may do everything."""
    from openarctic.serve.keys import Key, digest_of, read_keys

    keys = read_keys(path) if path else ()
    if own := os.environ.get("OPENARCTIC_API_KEY"):
        keys = (*keys, Key("environment", digest_of(own)))
    return keys


def _print_new_key(name: str, scopes: str, roles: str | None) -> int:
    from openarctic.errors import UserError
    from openarctic.serve.keys import SCOPES, key_line, new_key

    if not name or any(char.isspace() or char == "#" for char in name):
        raise UserError(f"the name {name!r} has spaces or #, or is empty")
    wanted = scopes.split(",")
    for scope in wanted:
        if scope not in SCOPES:
            raise UserError(f"--scopes names {scope!r}", f"known: {', '.join(SCOPES)}")
    key = new_key()
    print(key_line(name, key, wanted, roles.split(",") if roles else ()))
    print(f"the key, which is shown only now: {key}", file=sys.stderr)
    return 0
