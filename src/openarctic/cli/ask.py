"""`openarctic ask`: a question, answered from a database."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from openarctic.cli.chart import add_chart_argument, check_chart, show_chart
from openarctic.copilot.candidates import LONG_CANDIDATES, MAX_CANDIDATES, SHORT_CANDIDATES

if TYPE_CHECKING:
    from openarctic.copilot.ask import Answer, AskOptions, Copilot
    from openarctic.copilot.semantic.model import SemanticModel

SUMMARY = "ask a database a question in plain words"
DESCRIPTION = """\
Turns the question into SQL, runs it read-only, and prints rows and a sentence. Without --db it asks the bundled sample
database of a small retail company. Nothing is downloaded, sent or changed.

examples:
  openarctic ask "How many customers are there?"
  openarctic ask "Which product has the highest price?" --db shop.duckdb
  echo "List all suppliers" | openarctic ask - --db shop.sqlite --format json
  openarctic ask "How many customers are there in each country?" --chart
  openarctic ask "Which customers are new?" --db shop.duckdb --policy policy.yaml --user ann
  openarctic ask "Which customers are new?" --db shop.duckdb --max-error 0.2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("question", help="the question; - reads it from standard input")
    parser.add_argument("--no-exec", action="store_true", help="print the SQL, do not run it")
    parser.add_argument("--clarify", action="store_true", help="ask back where two readings are near and differ in their results")
    add_answer_arguments(parser)
    add_chart_argument(parser)


def add_answer_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command has that answers questions."""
    parser.add_argument("--db", metavar="URL_OR_PATH", help="file, data files or server (default: DATABASE_URL, else a sample)")
    parser.add_argument("--model", metavar="NAME_PATH_OR_URL", help="bundled, a GGUF file, or a server (default: arctic-nano)")
    add_candidates(parser)
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="rows at most (default 1000)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds a query may run (default 10)")
    parser.add_argument("--semantic", metavar="FILE", help="semantic model: Cortex Analyst or Ossie YAML (docs/semantic.md)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all that this process may use)")
    parser.add_argument("--prefix-cache", action="store_true", help="keep what was computed of the schema on disk (cache folder)")
    add_no_values(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sampled candidates (default 0)")
    parser.add_argument("--format", choices=("table", "json", "csv", "md"), default="table", help="of the output")
    add_confidence_arguments(parser)
    add_policy_arguments(parser)


def add_candidates(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """`--candidates`."""
    numbers = f"default: {SHORT_CANDIDATES} of arctic-nano, {LONG_CANDIDATES} of other models"
    parser.add_argument("--candidates", type=int, metavar="N", help=f"queries to try and elect from ({numbers})")


def add_no_values(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """`--no-values`, of every command that has a model read prompts about a database."""
    parser.add_argument("--no-values", action="store_true", help="read, keep, link and show the model no cell values")


def check_candidates(candidates: int | None) -> None:
    """Raises UserError where `--candidates` is out of range."""
    from openarctic.errors import UserError

    if candidates is not None and not 1 <= candidates <= MAX_CANDIDATES:
        raise UserError(f"--candidates is {candidates}, it must be 1 to {MAX_CANDIDATES}")


def add_confidence_arguments(parser: argparse.ArgumentParser) -> None:
    """When to be silent."""
    parser.add_argument(
        "--max-error", type=float, metavar="P", help="hold back answers so that at most this share is wrong (0 to 1)"
    )
    parser.add_argument("--calibration", metavar="FILE", help="how sure answers are: made by `openarctic eval mine`")


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Who asks, and what they may see."""
    parser.add_argument("--policy", metavar="FILE", help="YAML file that says who may see what (docs/policy.md)")
    parser.add_argument("--user", metavar="NAME", help="who asks, as the policy names them")


def run(args: argparse.Namespace) -> int:
    """Answer, print, return the exit code."""
    from openarctic.cli.render import render
    from openarctic.copilot.conversation import Conversation
    from openarctic.copilot.intent import check_question
    from openarctic.errors import AbstainedError

    check_chart(args)
    options = options_of(args, execute=not args.no_exec, chart=args.chart is not None, clarify=args.clarify)
    question = check_question(read_question(args.question))
    with open_copilot(args) as copilot:
        conversation = Conversation(copilot)
        answer = conversation.ask(question, options)
        if answer.clarification is not None and sys.stdin.isatty() and args.question != "-":
            answer = conversation.ask(input(f"{answer.answer} "), options)
    code = AbstainedError.exit_code if answer.abstained or answer.clarification else 0
    if args.format == "json":
        print(json.dumps(answer.to_dict(), ensure_ascii=False, default=str))
        show_chart(args, answer.chart)
        return code
    if code:
        if answer.sql is not None:
            print(answer.sql)
        print(answer.answer, file=sys.stderr)
        return code
    if args.no_exec:
        print(answer.sql)
        return 0
    if args.format == "table":
        print(f"{answer.sql}\n")
    print(render(answer.columns or [], answer.rows or [], args.format), end="")
    show_chart(args, answer.chart)
    if answer.truncated:
        print(f"only the first {args.limit} rows are shown; --limit changes that", file=sys.stderr)
    print(f"{answer.answer} ({confidence_note(answer)})", file=sys.stderr)
    if answer.verified is not None:
        print(verified_note(answer.verified), file=sys.stderr)
    return 0


def options_of(args: argparse.Namespace, execute: bool = True, chart: bool = False, clarify: bool = False) -> AskOptions:
    """The options of `add_answer_arguments`, and the others. Raises UserError for one that makes no sense."""
    from openarctic.copilot.ask import AskOptions
    from openarctic.errors import UserError

    check_limits(args)
    check_candidates(args.candidates)
    if args.max_error is not None and not 0 <= args.max_error <= 1:
        raise UserError(f"--max-error is {args.max_error}, it must be 0 to 1")
    return AskOptions(
        candidates=args.candidates,
        limit=args.limit,
        timeout_s=args.timeout,
        seed=args.seed,
        keep_prefix=args.prefix_cache,
        max_error=args.max_error,
        execute=execute,
        chart=chart,
        clarify=clarify,
    )


def open_copilot(args: argparse.Namespace) -> Copilot:
    """Database, model, policy and semantic model of `add_answer_arguments`. Raises what each of them raises."""
    from openarctic.cli import progress
    from openarctic.config import cache_folder
    from openarctic.copilot.ask import Copilot
    from openarctic.copilot.models import load_generator
    from openarctic.copilot.sample import database_or_sample

    database = database_or_sample(args.db)
    model = load_generator(
        args.model,
        threads=args.threads,
        prefix_folder=cache_folder() / "prefixes" if args.prefix_cache else None,
        on_progress=progress.loading(args.model or "the model"),
    )
    semantic = read_semantic(args.semantic)
    return Copilot(
        database,
        model,
        policy=args.policy,
        user=args.user,
        semantic=semantic,
        calibration=args.calibration,
        values=not args.no_values,
    )


def confidence_note(answer: Answer) -> str:
    """How sure an answer is, in a few words."""
    return f"{'confidence' if answer.calibrated else 'not calibrated: confidence'} {answer.confidence:.2f}"


def read_semantic(path: str | None) -> SemanticModel | None:
    """The model in a file, its warnings on standard error; None without one. Raises as `load_semantic_model`."""
    if path is None:
        return None
    from pathlib import Path

    from openarctic.copilot.semantic.load import load_semantic_model

    model, warnings = load_semantic_model(Path(path))
    for warning in warnings:
        print(f"warning: {path}, {warning}", file=sys.stderr)
    return model


def verified_note(verified: dict[str, Any]) -> str:
    """One line about the verified query beside an answer."""
    badge, question = verified["badge"], verified["question"]
    if verified["exact"]:
        return badge
    kind = "made of a verified query" if verified["used"] else f"near a verified query ({verified['score']:.2f})"
    return f"{kind}: {question!r}, {badge}"


def check_limits(args: argparse.Namespace) -> None:
    """Raises UserError for a row or time limit that makes no sense."""
    from openarctic.errors import UserError

    for name, low, high in (("limit", 1, 1_000_000), ("timeout", 0.01, 3600)):
        value = getattr(args, name)
        if not low <= value <= high:
            raise UserError(f"--{name} is {value}, it must be {low} to {high}")


def read_question(text: str) -> str:
    """The argument, or standard input for `-`. Raises UserError when that is not UTF-8 text."""
    from openarctic.errors import UserError

    if text != "-":
        return text
    raw = sys.stdin.buffer.read(100_000)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError("the question on standard input is not UTF-8 text") from error
