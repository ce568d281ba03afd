"""Accuracy and perplexity of a text-to-SQL model at several precisions: the table of its model card.

Each type is a conversion of the same GGUF file (`openarctic model convert --type`; rows that no K type fits get the fallback of
`formats.mixture`, so "Q4_K" of a 576-wide model is partly Q5_0), evaluated as `openarctic eval spider` does, with the perplexity
of the gold queries beside. The first row is the file as it is. One JSON document on standard output, a table on standard error.

    python benchmarks/nano_precision.py src/openarctic/assets/arctic-nano-00001-of-00002.gguf \\
        --questions dev.jsonl --databases database/ --every 4
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from openarctic.bench.machine import commit, processor
from openarctic.copilot.ask import AskOptions
from openarctic.engine import load
from openarctic.evals.perplexity import gold_perplexity
from openarctic.evals.spider import GOLD_ROWS, Question, evaluate, read_questions
from openarctic.formats import read_gguf
from openarctic.formats.convert import ConvertOptions, convert
from openarctic.formats.sources import open_source

TYPES = ("F16", "Q8_0", "Q6_K", "Q4_K", "Q4_0")


def main() -> None:
    """Run and print."""
    options = parse()
    questions = read_questions(options.questions)[:: options.every]
    rows = [measure("as shipped", options.model, questions, options)]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for type_ in options.types:
            path = Path(folder) / f"{type_}.gguf"
            convert(open_source(options.model), path, ConvertOptions(type=type_, threads=options.threads))
            rows.append(measure(type_, path, questions, options))
            path.unlink()
    report = {"questions": len(questions), "candidates": options.candidates, "rows": rows}
    print(json.dumps({**report, "commit": commit(), "processor": processor(), "load_average": os.getloadavg()[0]}, indent=1))


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="GGUF file; of splits the first")
    parser.add_argument("--questions", required=True, type=Path)
    parser.add_argument("--databases", required=True, type=Path)
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth question")
    parser.add_argument("--candidates", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where converted files lie while they are used")
    return parser.parse_args()


def measure(name: str, path: Path, questions: list[Question], options: argparse.Namespace) -> dict[str, Any]:
    """One row: what the file holds, how large it is, and what it knows."""
    file = read_gguf(path)
    engine = load(path, threads=options.threads)
    perplexity, tokens = gold_perplexity(questions, options.databases, engine)
    asked = AskOptions(candidates=options.candidates, limit=GOLD_ROWS)
    report = evaluate(questions, options.databases, engine, asked).to_dict()
    row = {
        "type": name,
        "megabytes": round(sum(p.stat().st_size for p in file.paths) / 1e6, 1),
        "tensors": dict(Counter(t.type for t in file.tensors.values())),
        "perplexity": round(perplexity, 4),
        "tokens": tokens,
        "greedy_accuracy": report["greedy_accuracy"],
        "accuracy": report["accuracy"],
        "first_in_scope": report["first_in_scope"],
    }
    greedy = 100 * report["greedy_accuracy"]
    print(f"{name:12} {row['megabytes']:7} MB  perplexity {perplexity:.4f}  greedy {greedy:.2f} %", file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    main()
