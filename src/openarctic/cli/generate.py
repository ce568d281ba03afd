"""`openarctic generate`: text from a model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

SUMMARY = "complete a text with a model"
DESCRIPTION = """\
Streams what the model writes after PROMPT. --grammar takes a Lark grammar, --json-schema a JSON Schema: every output then
follows it.

example:
  openarctic generate "The capital of France is" --model SmolLM2-135M-Instruct.Q4_1.gguf --max-tokens 20
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("prompt", help="the text to go on from; - reads it from standard input")
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="model (default: the bundled arctic-nano)")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="tokens at most (default 128)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of sampling (default 0)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--grammar", type=Path, metavar="FILE", help="Lark grammar of the output")
    shape.add_argument("--json-schema", type=Path, metavar="FILE", help="JSON Schema of the output")


def run(args: argparse.Namespace) -> int:
    """Generate and stream."""
    from openarctic.cli.ask import read_question
    from openarctic.engine import load
    from openarctic.errors import MissingError, UserError
    from openarctic.generator import Sampling

    if args.max_tokens < 1:
        raise UserError(f"--max-tokens is {args.max_tokens}, it must be at least 1")
    grammar = args.grammar or args.json_schema
    if grammar and not grammar.exists():
        raise MissingError(f"no grammar at {grammar}")
    engine = load(args.model, threads=args.threads)

    def show(_: int, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    [completion] = engine.generate(
        read_question(args.prompt),
        sampling=Sampling(temperature=args.temperature, seed=args.seed),
        max_tokens=args.max_tokens,
        grammar=grammar.read_text(encoding="utf-8") if grammar else None,
        on_text=show,
    )
    print()
    if completion.finish_reason == "length":
        print(f"stopped after {len(completion.ids)} tokens; --max-tokens changes that", file=sys.stderr)
    return 0
