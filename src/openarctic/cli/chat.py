"""`openarctic chat`: a conversation with a database, in the terminal or through pipes."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from openarctic.cli.ask import add_answer_arguments

if TYPE_CHECKING:
    from openarctic.cli.talk import Talk

SUMMARY = "talk with a database: questions, follow-ups, commands"
DESCRIPTION = """\
Asks question after question. A follow-up may use what was asked before ("only those in 2023", "and in France?", "by country",
"their names too", "which of #1 ..."); how it was read is said with the answer. Commands begin with a slash: /help lists them.
Ctrl-C stops an answer, Ctrl-D leaves. On a terminal a question may come back where two readings differ; --no-clarify prevents it.

Without a terminal, each line of standard input is a question (or a command), and answers go to standard output, with --format
json one object a line; the exit code is that of the first question that failed.

examples:
  openarctic chat --db shop.duckdb
  printf 'How many orders are there?\\nby status\\nas a chart\\n' | openarctic chat
  openarctic chat --db sales.sqlite --format json < questions.txt > answers.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_answer_arguments(parser)
    parser.add_argument(
        "--clarify",
        action=argparse.BooleanOptionalAction,
        help="ask back where two readings are near and differ in their results (default: on a terminal)",
    )
    parser.add_argument("--no-history", action="store_true", help="keep no file of what was typed (default: in the cache folder)")


def run(args: argparse.Namespace) -> int:
    """Talk until the end; return the exit code."""
    from openarctic.cli.ask import open_copilot, options_of
    from openarctic.cli.talk import Talk

    is_terminal = sys.stdin.isatty()
    clarify = is_terminal if args.clarify is None else args.clarify
    options = options_of(args, clarify=clarify)
    with open_copilot(args) as copilot:
        talk = Talk(copilot, options, form=args.format, is_terminal=is_terminal)
        if is_terminal:
            return _at_terminal(talk, keeps_history=not args.no_history)
        for line in sys.stdin.buffer:
            talk.hear(_text_of(line))
            sys.stdout.flush()
            if talk.is_over:
                break
    return talk.exit_code


def _text_of(line: bytes) -> str:
    """A line of a pipe. Raises UserError when it is not UTF-8 text."""
    from openarctic.errors import UserError

    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UserError("a line on standard input is not UTF-8 text") from error


def _at_terminal(talk: Talk, keeps_history: bool) -> int:
    """Lines with editing, history and completion. Ctrl-C stops the answer or clears the line, Ctrl-D leaves."""
    from openarctic.cli.line import editing

    print(talk.greeting())
    with editing(talk.words, keeps_history):
        while not talk.is_over:
            try:
                line = input(talk.prompt()).strip()
            except EOFError:
                print()
                break
            except KeyboardInterrupt:
                print()
                continue
            try:
                talk.hear(line)
            except KeyboardInterrupt:
                print("\nstopped; the conversation goes on", file=sys.stderr)
    return 0
