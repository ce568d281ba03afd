"""What is a drafted semantic model worth? On databases in Spider's form:

- relationships: declared foreign keys are taken away; how many does the draft find again, and what else does it claim?
- metrics: how many questions are read to the last word, and do the composed queries return the gold's rows?

One JSON document on standard output.

    python benchmarks/semantic_drafts.py --questions dev_public.jsonl --databases spider/database --limit 70
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter, defaultdict
from pathlib import Path

from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.schema import Schema
from openarctic.copilot.semantic.draft import draft_model
from openarctic.copilot.semantic.layer import SemanticLayer
from openarctic.copilot.semantic.metrics import MetricReader
from openarctic.copilot.semantic.probe import Probe
from openarctic.copilot.vote import result_key
from openarctic.errors import OpenArcticError


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=Path, required=True, help="JSONL: question, query, db_id")
    parser.add_argument("--databases", type=Path, required=True, help="DIR/<db_id>/<db_id>.sqlite")
    parser.add_argument("--limit", type=int, default=1000, help="databases at most, in the order of their names")
    args = parser.parse_args()
    by_database = defaultdict(list)
    for line in args.questions.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        by_database[record["db_id"]].append((record["question"], record["query"]))
    counts: Counter[str] = Counter()
    for name in sorted(by_database)[: args.limit]:
        path = args.databases / name / f"{name}.sqlite"
        if path.exists():
            measure(path, by_database[name], counts)
    print(json.dumps(dict(sorted(counts.items()))))


def measure(path: Path, pairs: list[tuple[str, str]], counts: Counter[str]) -> None:
    """One database."""
    database = open_database(path)
    schema = read_schema(database)
    counts["databases"] += 1
    with Probe(database, schema) as probe:
        if any(table.row_count for table in schema.tables):
            relationships(schema, probe, counts)
        layer = SemanticLayer(draft_model(schema, path.stem, probe).model, schema)
        reader = MetricReader(layer)
        for question, gold in pairs:
            counts["questions"] += 1
            answer = reader.read(question, layer.links(question))
            if answer is None:
                continue
            try:
                wanted = probe.rows(gold, limit=2000)
                got = probe.rows(answer.tree, limit=2000)
            except OpenArcticError:
                counts["gold or composed query failed"] += 1
                continue
            is_right = result_key(wanted) in (result_key(got), result_key([row[::-1] for row in got]))
            counts[f"{len(answer.unread)} words unread, {'right' if is_right else 'wrong'}"] += 1


def relationships(schema: Schema, probe: Probe, counts: Counter[str]) -> None:
    """Declared keys against those that are found in the data."""
    declared = {
        (t.name.lower(), k.column.lower(), k.table.lower(), k.to_column.lower()) for t in schema.tables for k in t.foreign_keys
    }
    bare = dataclasses.replace(schema, tables=tuple(dataclasses.replace(t, foreign_keys=()) for t in schema.tables))
    found = {
        (r.left_table.lower(), pair.left_column.lower(), r.right_table.lower(), pair.right_column.lower())
        for r in draft_model(bare, "bare", probe).model.relationships
        for pair in r.relationship_columns
    }
    counts["databases with rows"] += 1
    counts["keys found"] += len(found & declared)
    counts["keys missed"] += len(declared - found)
    counts["keys claimed besides"] += len(found - declared)


if __name__ == "__main__":
    main()
