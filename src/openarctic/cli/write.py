"""`openarctic write`: code beside SQL. One file a subcommand, `write_NAME.py`; what they share is here."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openarctic.copilot.access import Access
    from openarctic.copilot.schema import Schema
    from openarctic.copilot.writing.draft import Task, Written
    from openarctic.generator import Generator

SUMMARY = "write dbt models, stored procedures and ETL scripts"
DESCRIPTION = """\
Has a model write code for a database from a description, checks every part of it, gives problems back to the model, and writes
files only when all of it passes. Nothing of it is executed. A model that chats is needed; `write dbt --staging` needs none.

examples:
  openarctic write dbt --staging --db shop.duckdb --out project
  openarctic write dbt "revenue by month and country" --db shop.duckdb --model http://127.0.0.1:8000/v1 --out project
  openarctic write procedure "refresh revenue" --target revenue --db postgresql://reader@localhost/shop --model openai
  openarctic write etl "load monthly revenue" --target monthly_revenue --db shop.duckdb --model chat.gguf --out jobs
"""
COMMANDS = ("dbt", "procedure", "etl")


def add_writing_arguments(parser: argparse.ArgumentParser, description: str | None) -> None:
    """Source, model, output; `description` is the help of the positional, or None where it may be left out."""
    from openarctic.cli.ask import add_no_values, add_policy_arguments

    told = description or "what is wanted; - reads it from standard input"
    parser.add_argument("description", nargs="?" if description is None else None, help=told)
    parser.add_argument("--db", metavar="URL_OR_PATH", help="file, data files or server (default: DATABASE_URL, else a sample)")
    parser.add_argument("--model", metavar="PATH_OR_URL", help="a model that chats: a server's URL, openai, or a GGUF file")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all that this process may use)")
    add_no_values(parser)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="answers to try at most (default 3)")
    parser.add_argument("--max-tokens", type=int, default=8192, metavar="N", help="of an answer (default 8192)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the files (default: print them)")
    parser.add_argument("--force", action="store_true", help="write over files that are there")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of what is printed")
    add_policy_arguments(parser)


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """What the code may change."""
    parser.add_argument("--target", action="append", default=[], metavar="NAME", help="a table that it may change; several")
    parser.add_argument("--name", default="", metavar="NAME", help="what to call it")


def open_source(args: argparse.Namespace) -> tuple[str, Access, Schema]:
    """The database's name, what the reader may see of it, and all of its schema."""
    from openarctic.copilot.access import open_access
    from openarctic.copilot.databases import cached_schema
    from openarctic.copilot.sample import database_or_sample

    database = database_or_sample(args.db)
    whole = cached_schema(database, values=not args.no_values)
    return database.name or Path(database.path or "source").stem, open_access(whole, args.policy, args.user), whole


def writing_model(args: argparse.Namespace) -> Generator:
    """Raises UserError where none is named, or one that cannot write code."""
    from openarctic.copilot.models import load_generator
    from openarctic.copilot.writing.draft import check_capable, not_capable
    from openarctic.errors import UserError

    if not 1 <= args.rounds <= 10:
        raise UserError(f"--rounds is {args.rounds}, it must be 1 to 10")
    if not 64 <= args.max_tokens <= 100_000:
        raise UserError(f"--max-tokens is {args.max_tokens}, it must be 64 to 100000")
    if args.model is None:
        raise not_capable("the bundled arctic-nano")
    model = load_generator(args.model, threads=args.threads)
    check_capable(model)
    return model


def described(args: argparse.Namespace) -> str:
    """The description. Raises UserError for none, or too much."""
    from openarctic.cli.ask import read_question
    from openarctic.errors import UserError

    text = read_question(args.description or "").strip()
    if not text:
        raise UserError("nothing says what is wanted", 'such as "revenue by month and country"')
    if len(text) > 10_000:
        raise UserError(f"the description has {len(text)} characters, the limit is 10000")
    return text


def fitting(schema: Schema, description: str, model: Generator) -> Schema:
    """The part of a wide schema that fits a prompt."""
    from openarctic.copilot.forms import LONG_PROMPT, ddl
    from openarctic.copilot.linking.linker import Linker

    linker = Linker(schema, lambda part: model.count_tokens(ddl(part)), LONG_PROMPT)
    return linker.link(description, values=False).shown


def write(args: argparse.Namespace, task: Task, access: Access, model: Generator) -> int:
    """Ask, check, save or print."""
    from openarctic.copilot.writing.draft import write_code

    with access.recorded("write", question=args.description):
        written = write_code(task, model, args.rounds, args.max_tokens)
    return give(args, written)


def give(args: argparse.Namespace, written: Written) -> int:
    """Save or print what passed, and say what was checked."""
    if args.out is not None:
        from openarctic.copilot.writing.output import save

        for place in save(written.files, args.out, args.force):
            print(place, file=sys.stdout if args.format == "table" else sys.stderr)
    if args.format == "json":
        print(json.dumps(written.to_dict(), ensure_ascii=False))
    elif args.out is None:
        for path, text in written.files.items():
            mark = "#" if path.endswith((".yml", ".yaml", ".py")) else "--"
            print(
                text if len(written.files) == 1 else f"{mark} file: {path}\n{text}", end="" if len(written.files) == 1 else "\n"
            )
    for check in written.checks:
        print(f"checked: {check}", file=sys.stderr)
    if written.rounds > 1:
        print(f"{written.model} needed {written.rounds} answers", file=sys.stderr)
    return 0
