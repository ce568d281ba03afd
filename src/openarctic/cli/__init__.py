"""The command line: one file a command, each with SUMMARY, DESCRIPTION, add_arguments(parser) and run(args).

A command with subcommands has their names in COMMANDS instead of the two functions; each is a file of its own, `GROUP_NAME.py`.

Data and SQL go to standard output, talk to standard error. Exit codes: 0 ok, 1 internal error, 2 usage or bad input,
3 refused, 4 abstained, 5 out of capacity or time, 6 corrupt file, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openarctic.errors import OpenArcticError

COMMANDS = (
    "ask",
    "chat",
    "query",
    "explain",
    "optimise",
    "report",
    "schema",
    "init",
    "write",
    "semantic",
    "feedback",
    "generate",
    "eval",
    "data",
    "train",
    "runs",
    "model",
    "serve",
    "mcp",
    "bench",
    "doctor",
    "audit",
)
INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The whole parser."""
    from openarctic import __version__

    parser = argparse.ArgumentParser(
        prog="openarctic",
        description="Ask databases in plain words, and make, run and measure the models that do it. Offline.",
    )
    parser.add_argument("--version", action="version", version=f"openarctic {__version__}")
    _add_commands(parser, "command", "openarctic.cli.", COMMANDS)
    return parser


def _add_commands(parser: argparse.ArgumentParser, dest: str, prefix: str, names: Sequence[str]) -> None:
    """A subparser for each module `prefix` + name, and for those below it; the chosen one's `run` is set as `run_command`."""
    commands = parser.add_subparsers(dest=dest, metavar="COMMAND", required=True)
    for name in names:
        module = importlib.import_module(prefix + name.replace("-", "_"))
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if below := getattr(module, "COMMANDS", None):
            _add_commands(command, f"{name}_command", f"{prefix}{name}_", below)
        else:
            module.add_arguments(command)
            command.set_defaults(run_command=module.run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; the only place that turns errors into text."""
    from openarctic.errors import OpenArcticError

    args = argparse.Namespace()
    try:
        build_parser().parse_args(arguments, args)
        code: int = args.run_command(args)
        sys.stdout.flush()
        return code
    except OpenArcticError as error:
        return _fail(args, error)
    except KeyboardInterrupt:
        # One more Ctrl-C could only break what is left, which is to end. It is not heard; one that has come raises here.
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing is wrong.
        _drop_output()
        return 0
    except OSError as error:
        if error.strerror is None:  # not from the system: a bug
            raise
        return _fail(args, _from_system(error))


def _fail(args: argparse.Namespace, error: OpenArcticError) -> int:
    """Say what went wrong, and return its exit code."""
    if getattr(args, "format", None) == "json":
        print(failure_json(args, error))
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    return error.exit_code


def _from_system(error: OSError) -> OpenArcticError:
    """A file that cannot be read or written, in our words; a full disk is a matter of capacity."""
    import errno

    from openarctic.errors import CapacityError, UserError

    message = f"{error.filename}: {error.strerror}" if error.filename is not None else f"{error.strerror}"
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return CapacityError(message, "make room, or write to another disk") if is_full else UserError(message)


def _drop_output() -> None:
    """Nobody can take what is left of standard output, and Python must not complain of it while it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def failure_json(args: argparse.Namespace, error: OpenArcticError) -> str:
    """The JSON object of a command that failed: the fields of its success, with status and error."""
    import json

    body: dict[str, object] = {"status": error.status}
    if args.command == "ask":
        body = {"question": None if args.question == "-" else args.question, **body}
    if args.command in ("ask", "query"):
        body |= {"sql": None, "dialect": None, "columns": None, "rows": None, "truncated": False}
    if args.command == "ask":
        body |= {"answer": None, "confidence": 0.0, "model": args.model or "arctic-nano"}
    if args.command in ("ask", "query"):
        body["timings_ms"] = {}
    return json.dumps({**body, "error": error.to_dict()}, ensure_ascii=False)
