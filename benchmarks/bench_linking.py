"""What linking finds, and what it costs, in one schema of 1,000 tables and 20,000 columns.

The tables are those of all databases in Spider's form below --databases, put into one schema: a name that several have gets its
database before it, except in the databases that are asked about (`--names plain`), or every name does (`--names prefixed`).
Copies under other names fill up to 1,000 tables, and columns such as any warehouse has fill up to 20,000. Questions are those of
--questions; their gold tables and columns are read from the gold SQL. Values are compared with the literals of the gold SQL on
each database by itself. The prompt is bounded as for the bundled model.

    python benchmarks/bench_linking.py --questions dev_public.jsonl --databases spider/database

One JSON document on standard output.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp

from openarctic.copilot.databases import cached_schema, open_database
from openarctic.copilot.examples import single_quoted
from openarctic.copilot.forms import Form, ShortForm
from openarctic.copilot.linking.linker import Linker
from openarctic.copilot.linking.values import ValueIndex
from openarctic.copilot.schema import Column, Schema, Table

FILLERS = [
    f"{a}_{b}"
    for a in "source load batch record row audit legacy partner internal external".split()
    for b in "created updated deleted checked ref hash flag note status version".split()
]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its gold tables and (table, column) pairs, by their lower-case names in the database."""

    text: str
    database: str
    sql: str
    tables: frozenset[str]
    columns: frozenset[tuple[str, str]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=Path, required=True, help="JSONL: question, query, db_id")
    parser.add_argument("--databases", type=Path, required=True, help="DIR/<db_id>/<db_id>.sqlite")
    parser.add_argument("--limit", type=int, default=100_000, help="questions at most, drawn at random")
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--columns", type=int, default=20_000)
    parser.add_argument("--names", choices=("plain", "prefixed"), default="plain")
    args = parser.parse_args()
    schemas = {path.name: schema for path in sorted(args.databases.iterdir()) if (schema := read(path)) is not None}
    asked = list(read_questions(args.questions, schemas))
    random.Random(0).shuffle(asked)
    asked = asked[: args.limit]
    report: dict[str, Any] = {"questions": len(asked), "names": args.names, "values": values_report(asked, schemas)}
    report["typos"] = typos_report(asked, schemas)
    wide, renamed = mixed(schemas, {q.database for q in asked}, args)
    report |= wide_report(wide, renamed, asked)
    print(json.dumps(report, indent=1))


def read(folder: Path) -> Schema | None:
    """The schema of one database, None where there is none."""
    path = folder / f"{folder.name}.sqlite"
    return cached_schema(open_database(path)) if path.exists() else None


def read_questions(path: Path, schemas: dict[str, Schema]) -> Iterator[Asked]:
    """The questions whose gold SQL can be read."""
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        schema = schemas.get(record["db_id"])
        if schema is not None:
            sql = single_quoted(record["query"])
            tree = sqlglot.parse_one(sql, read="sqlite")
            tables = frozenset(t.name.lower() for t in tree.find_all(exp.Table) if schema.table(t.name))
            columns = frozenset(gold_columns(tree, schema, tables))
            yield Asked(record["question"], record["db_id"], sql, tables, columns)


def gold_columns(tree: exp.Expr, schema: Schema, tables: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Columns of gold tables that the SQL names, with a table that has them."""
    aliases = {t.alias.lower(): t.name.lower() for t in tree.find_all(exp.Table) if t.alias}
    for column in tree.find_all(exp.Column):
        said = aliases.get(column.table.lower(), column.table.lower())
        owners = [said] if said else sorted(tables)
        found = (name for name in owners if (table := schema.table(name)) and table.column(column.name))
        if (owner := next(found, None)) is not None:
            yield owner, column.name.lower()


def gold_literals(question: Asked, stored: set[str]) -> set[str]:
    """Texts in the gold SQL that the database holds, in lower case."""
    literals = sqlglot.parse_one(question.sql, read="sqlite").find_all(exp.Literal)
    return {text for item in literals if item.is_string and (text := item.name.strip().lower()) in stored}


def stored_values(schema: Schema) -> set[str]:
    """All sampled values, in lower case."""
    return {value.strip().lower() for t in schema.tables for c in t.columns for value in c.values}


def scored(pairs: Iterator[tuple[set[str], set[str]]]) -> dict[str, float]:
    """(found, wanted) sets counted."""
    right = wrong = missed = 0
    for found, wanted in pairs:
        right, wrong, missed = right + len(found & wanted), wrong + len(found - wanted), missed + len(wanted - found)
    return {
        "right": right,
        "wrong": wrong,
        "missed": missed,
        "precision": round(right / max(1, right + wrong), 4),
        "recall": round(right / max(1, right + missed), 4),
    }


def values_report(asked: list[Asked], schemas: dict[str, Schema]) -> dict[str, Any]:
    """Linked values against gold literals, with near forms and without."""
    report: dict[str, Any] = {}
    for near in (False, True):
        indexes = {name: ValueIndex(schemas[name], near=near) for name in {q.database for q in asked}}
        stored = {name: stored_values(schemas[name]) for name in indexes}

        def pairs(indexes: dict[str, ValueIndex] = indexes, stored: dict[str, set[str]] = stored) -> Iterator[Any]:
            for q in asked:
                found = {link.value.strip().lower() for link in indexes[q.database].links(q.text)}
                yield found, gold_literals(q, stored[q.database])

        report["near" if near else "to the letter"] = scored(pairs())
    return report


def typos_report(asked: list[Asked], schemas: dict[str, Schema]) -> dict[str, Any]:
    """Gold values that stand in the question, one letter of which is spoilt in five ways: are they still found?"""
    rng = random.Random(1)
    counts: Counter[str] = Counter()
    indexes: dict[str, ValueIndex] = {}
    for q in asked:
        index = indexes.setdefault(q.database, ValueIndex(schemas[q.database]))
        for value in sorted(gold_literals(q, stored_values(schemas[q.database]))):
            start = q.text.lower().find(value)
            if start < 0 or len(value) < 5 or not value.replace(" ", "").isalpha():
                continue
            for name, spoil in SPOILT.items():
                said = spoil(q.text[start : start + len(value)], rng)
                links = index.links(q.text[:start] + said + q.text[start + len(value) :])
                counts[f"{name}: all"] += 1
                counts[f"{name}: found"] += value in {link.value.strip().lower() for link in links}
    return {name: round(counts[f"{name}: found"] / max(1, counts[f"{name}: all"]), 4) for name in SPOILT} | {
        "values": counts["left out: all"]
    }


def _left_out(text: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(text))
    return text[:at] + text[at + 1 :]


def _doubled(text: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(text))
    return text[:at] + text[at] + text[at:]


def _swapped(text: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(text) - 1)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _changed(text: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(text))
    return text[:at] + rng.choice("aeioustrn") + text[at + 1 :]


def _plural(text: str, rng: random.Random) -> str:
    return text + "s"


SPOILT: dict[str, Callable[[str, random.Random], str]] = {
    "left out": _left_out,
    "doubled": _doubled,
    "swapped": _swapped,
    "changed": _changed,
    "plural": _plural,
}


def mixed(schemas: dict[str, Schema], asked: set[str], args: argparse.Namespace) -> tuple[Schema, dict[tuple[str, str], str]]:
    """One schema of all, and the name that each (database, table) has in it."""
    rng = random.Random(2)
    owners = Counter(table.name.lower() for schema in schemas.values() for table in schema.tables)
    taken: set[str] = set()
    names: dict[tuple[str, str], str] = {}
    for database in sorted(schemas, key=lambda name: (name not in asked, name)):
        for table in schemas[database].tables:
            low = table.name.lower()
            is_free = args.names == "plain" and low not in taken and (owners[low] == 1 or database in asked)
            names[database, low] = name = table.name if is_free else f"{database}_{table.name}"
            taken.add(name.lower())
    tables = [renamed_table(table, db, names) for db, schema in schemas.items() for table in schema.tables]
    copied = 0
    while len(tables) < args.tables:
        table = tables[rng.randrange(len(names))]
        copied += 1
        tables.append(replace(table, name=f"{table.name}_archive_{copied}", foreign_keys=()))
    tables = tables[: args.tables] if len(tables) > args.tables else tables
    each = max(0, args.columns - sum(len(t.columns) for t in tables)) / len(tables)
    filled, owed = [], 0.0
    for table in tables:
        owed += each
        more = [f for f in rng.sample(FILLERS, len(FILLERS)) if table.column(f) is None][: int(owed)]
        owed -= len(more)
        filled.append(replace(table, columns=(*table.columns, *(Column(name=name, type="TEXT") for name in more))))
    rng.shuffle(filled)
    return Schema(dialect="sqlite", tables=tuple(filled)), names


def renamed_table(table: Table, database: str, names: dict[tuple[str, str], str]) -> Table:
    """With its new name and its keys to new names."""
    keys = tuple(replace(k, table=names[database, k.table.lower()]) for k in table.foreign_keys)
    return replace(table, name=names[database, table.name.lower()], foreign_keys=keys)


def wide_report(wide: Schema, names: dict[tuple[str, str], str], asked: list[Asked]) -> dict[str, Any]:
    """Are all gold tables and columns shown, how large is the prompt, how long does it take?"""
    form, count = bundled_form()
    started = time.perf_counter()
    linker = Linker(wide, lambda schema: count(form.schema_text(schema)), form.max_prompt)
    linker.link("How many are there in Paris?")
    built = time.perf_counter() - started
    times, cpu, whole, columns, sizes, shown_tables = [], [], 0, 0, [], []
    missed = []
    for q in asked:
        started, used = time.perf_counter(), time.process_time()
        links = linker.link(q.text)
        cpu.append(1000 * (time.process_time() - used))
        times.append(1000 * (time.perf_counter() - started))
        shown = {t.name.lower(): t for t in links.shown.tables}
        gold = {names[q.database, table].lower() for table in q.tables}
        whole += gold <= shown.keys()
        if not gold <= shown.keys():
            missed.append((q.text, q.database, sorted(gold - shown.keys())))
        placed = [(names[q.database, table].lower(), column) for table, column in q.columns]
        columns += all(table in shown and shown[table].column(column) is not None for table, column in placed)
        sizes.append(count(form.schema_text(links.shown)))
        shown_tables.append(len(shown))
    for line in missed[:80]:
        print(*line, sep=" | ", file=sys.stderr)
    return {
        "tables": len(wide.tables),
        "columns": sum(len(t.columns) for t in wide.tables),
        "stored_values": sum(len(c.values) for t in wide.tables for c in t.columns),
        "all_gold_tables_shown": round(whole / len(asked), 4),
        "all_gold_columns_shown": round(columns / len(asked), 4),
        "tables_shown_median": statistics.median(shown_tables),
        "prompt_tokens_max": max(sizes),
        "ms_median": round(statistics.median(times), 1),
        "ms_p95": round(statistics.quantiles(times, n=20)[-1], 1),
        "ms_max": round(max(times), 1),
        "cpu_ms_median": round(statistics.median(cpu), 1),
        "cpu_ms_p95": round(statistics.quantiles(cpu, n=20)[-1], 1),
        "cpu_ms_max": round(max(cpu), 1),
        "built_s": round(built, 2),
    }


def bundled_form() -> tuple[Form, Callable[[str], int]]:
    """The bundled model's form of prompt and the tokens of a text."""
    from openarctic.copilot.models import load_generator

    return ShortForm(), load_generator(None).count_tokens


if __name__ == "__main__":
    main()
