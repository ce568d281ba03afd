"""The engine's plan for a query, digested: which tables are read whole, which by an index, how they are joined, how many rows are
expected. Nothing runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openarctic.copilot.execute import Worker
from openarctic.copilot.guard import Checked
from openarctic.copilot.schema import Schema
from openarctic.errors import CorruptError, UserError

Kind = Literal["scan", "index", "join", "other"]


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One operation; those that feed it follow, one `depth` deeper. `rows` is what the engine expects it to give."""

    depth: int
    kind: Kind
    text: str
    table: str = ""
    rows: int | None = None

    @property
    def line(self) -> str:
        """The operation as a line of text, indented."""
        expected = "" if self.rows is None else f" (about {self.rows:,} {'row' if self.rows == 1 else 'rows'})"
        return f"{'  ' * self.depth}{self.text}{expected}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The digest, and the engine's own text."""

    steps: tuple[PlanStep, ...]
    raw: str


def can_plan(dialect: str) -> bool:
    """Whether plans of this engine are read."""
    return dialect in _READERS


def plan_of(worker: Worker, checked: Checked, schema: Schema, timeout_s: float = 10.0) -> Plan:
    """Ask the engine how it would run a checked statement. Raises UserError for an engine whose plans are not read."""
    dialect = worker.database.dialect
    if not can_plan(dialect):
        raise UserError(f"plans of {dialect} are not read", "explain the query without its plan: --no-plan")
    rows = worker.execute(checked, limit=100_000, timeout_s=timeout_s, is_plan=True).rows
    try:
        return _READERS[dialect](rows, schema)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise CorruptError(f"the plan that {dialect} gave cannot be read: {error}") from error


# DuckDB: a tree in JSON

_DUCKDB = {
    "HASH_JOIN": "join by hash",
    "NESTED_LOOP_JOIN": "join by comparing every pair",
    "BLOCKWISE_NL_JOIN": "join by comparing every pair",
    "PIECEWISE_MERGE_JOIN": "join by merging sorted rows",
    "IE_JOIN": "join by ranges",
    "ASOF_JOIN": "join with the nearest",
    "CROSS_PRODUCT": "combine every row with every row",
    "DELIM_JOIN": "join with a nested query that was made independent",
    "LEFT_DELIM_JOIN": "join with a nested query that was made independent",
    "RIGHT_DELIM_JOIN": "join with a nested query that was made independent",
    "HASH_GROUP_BY": "group by hash",
    "PERFECT_HASH_GROUP_BY": "group by position",
    "PARTITIONED_AGGREGATE": "group by partition",
    "UNGROUPED_AGGREGATE": "aggregate all rows",
    "SIMPLE_AGGREGATE": "aggregate all rows",
    "TOP_N": "keep the top",
    "ORDER_BY": "sort",
    "LIMIT": "stop early",
    "STREAMING_LIMIT": "stop early",
    "FILTER": "filter",
    "WINDOW": "compute windows",
    "STREAMING_WINDOW": "compute windows while reading",
    "UNION": "append",
    "CTE": "keep a named query",
    "RECURSIVE_CTE": "repeat until nothing is new",
    "CTE_SCAN": "read the named query",
    "RECURSIVE_CTE_SCAN": "read what is new",
    "DELIM_SCAN": "read the outer query's values",
    "COLUMN_DATA_SCAN": "read values",
    "DUMMY_SCAN": "one row of constants",
    "EMPTY_RESULT": "nothing can match",
    "UNNEST": "unfold lists",
}
_UNSAID = ("PROJECTION", "EXPLAIN", "EXPLAIN_ANALYZE", "RESULT_COLLECTOR")
_DETAILS = ("Filters", "Conditions", "Expression", "Groups", "Order By", "Top")


def _read_duckdb(rows: Sequence[Sequence[Any]], _schema: Schema) -> Plan:
    raw = str(rows[0][-1])
    return Plan(tuple(step for root in json.loads(raw) for step in _duckdb_steps(root, 0)), raw)


def _duckdb_steps(node: dict[str, Any], depth: int) -> Iterator[PlanStep]:
    name, info = node["name"].strip(), node.get("extra_info") or {}
    is_said = name not in _UNSAID
    if is_said:
        rows = info.get("Estimated Cardinality")
        table = str(info.get("Table", "")).split(".")[-1].strip('"')
        kind, text = _duckdb_text(name, info, table)
        details = "; ".join(_joined(info[key]) for key in _DETAILS if info.get(key) and "#" not in _joined(info[key]))
        yield PlanStep(depth, kind, text + (f": {details}" if details else ""), table, int(rows) if rows else None)
    for child in node.get("children") or []:
        yield from _duckdb_steps(child, depth + is_said)


def _duckdb_text(name: str, info: dict[str, Any], table: str) -> tuple[Kind, str]:
    if table:
        if info.get("Type") == "Index Scan" or "INDEX" in name:
            return "index", f"look up {table} by an index"
        return "scan", f"read {table} whole"
    if "JOIN" in name or name == "CROSS_PRODUCT":
        kind = str(info.get("Join Type", "")).replace("_", " ").lower()
        return "join", _DUCKDB.get(name, _plain(name)) + (f" ({kind})" if kind and kind != "inner" else "")
    if name.startswith(("READ_", "PARQUET_SCAN", "CSV")):
        return "scan", f"read files ({_plain(name)})"
    return "other", _DUCKDB.get(name, _plain(name))


def _joined(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(name: str) -> str:
    return name.replace("_", " ").lower()


# SQLite: rows of id, parent, unused, text

_SQLITE_TEXTS: tuple[tuple[str, Kind, str], ...] = (
    (r"SCAN (?P<table>\S+) USING COVERING INDEX (?P<index>\S+)", "scan", "read all of the index {index} of {table}"),
    (r"SCAN (?P<table>\S+) USING INDEX (?P<index>\S+)", "scan", "read {table} whole, in the order of {index}"),
    (r"SCAN CONSTANT ROW|SCAN (?P<count>\d+) CONSTANT ROWS?", "other", "one row of constants"),
    (r"SCAN (?P<table>\S+)", "scan", "read {table} whole"),
    (
        r"SEARCH (?P<table>\S+) USING AUTOMATIC (?:PARTIAL )?COVERING INDEX \((?P<on>.*)\)",
        "index",
        "look up {table} by {on}, with an index made for this query alone",
    ),
    (r"SEARCH (?P<table>\S+) USING INTEGER PRIMARY KEY \((?P<on>.*)\)", "index", "look up {table} by its key"),
    (
        r"SEARCH (?P<table>\S+) USING (?:COVERING )?INDEX (?P<index>\S+) \((?P<on>.*)\)",
        "index",
        "look up {table} by {on} in the index {index}",
    ),
    (r"SEARCH (?P<table>\S+)", "index", "look up {table}"),
    (r"MULTI-INDEX OR", "other", "several indexes, one for each side of OR"),
    (r"USE TEMP B-TREE FOR (?P<on>.*)", "other", "sort for {on}"),
    (r"CORRELATED (?:SCALAR|LIST) SUBQUERY.*", "other", "for each row, a nested query"),
    (r"(?:SCALAR|LIST) SUBQUERY.*", "other", "once, a nested query"),
    (r"(?:CO-ROUTINE|MATERIALIZE) (?P<on>.*)", "other", "make {on}"),
    (r"COMPOUND QUERY", "other", "combine queries"),
    (r"LEFT-MOST SUBQUERY", "other", "the first"),
    (r"(?P<on>UNION ALL|UNION|EXCEPT|INTERSECT)\b.*", "other", "{on} the next"),
    (r"MERGE \((?P<on>.*)\)", "other", "merge ({on})"),
)
_SQLITE = [(re.compile(pattern), kind, text) for pattern, kind, text in _SQLITE_TEXTS]


def _read_sqlite(rows: Sequence[Sequence[Any]], schema: Schema) -> Plan:
    depths: dict[int, int] = {}
    steps = []
    for number, parent, _, text in rows:
        depths[number] = depths.get(parent, -1) + 1
        kind, said, table = _sqlite_text(text)
        known = schema.table(table)
        # SQLite tells no estimates; for a table that is read whole its size is known.
        size = known.row_count if known is not None and kind == "scan" else None
        steps.append(PlanStep(depths[number], kind, said, table, size))
    return Plan(tuple(steps), "\n".join(f"{'  ' * depths[row[0]]}{row[3]}" for row in rows))


def _sqlite_text(text: str) -> tuple[Kind, str, str]:
    for pattern, kind, said in _SQLITE:
        if match := pattern.match(text):
            parts = {
                k: (v or "").replace("=?", "").replace(">?", " from").replace("<?", " up to")
                for k, v in match.groupdict().items()
            }
            return kind, said.format(**parts), parts.get("table", "")
    return "other", text.lower(), ""


# PostgreSQL: a tree in JSON


def _read_postgres(rows: Sequence[Sequence[Any]], _schema: Schema) -> Plan:
    value = rows[0][0]
    plan = json.loads(value) if isinstance(value, str) else value
    return Plan(tuple(_postgres_steps(plan[0]["Plan"], 0)), json.dumps(plan, indent=2))


_POSTGRES = {
    "Nested Loop": "join by looking up each row",
    "Hash Join": "join by hash",
    "Merge Join": "join by merging sorted rows",
    "Aggregate": "aggregate",
    "Sort": "sort",
    "Incremental Sort": "sort",
    "Limit": "stop early",
    "Append": "append",
    "WindowAgg": "compute windows",
    "Unique": "leave out repeats",
    "Materialize": "keep for reading again",
    "Memoize": "keep for reading again",
    "SubPlan": "nested query",
    "Gather": "collect from parallel workers",
    "Gather Merge": "collect from parallel workers",
    "CTE Scan": "read the named query",
    "Result": "one row of constants",
}
_POSTGRES_DETAILS = ("Index Cond", "Hash Cond", "Merge Cond", "Join Filter", "Filter", "Group Key", "Sort Key")


def _postgres_steps(node: dict[str, Any], depth: int) -> Iterator[PlanStep]:
    name, table = node["Node Type"], node.get("Relation Name", "")
    is_said = name not in ("Hash", "Bitmap Index Scan")
    if is_said:
        kind: Kind = "other"
        text = _POSTGRES.get(name, name.lower())
        if name == "Seq Scan":
            kind, text = "scan", f"read {table} whole"
        elif "Scan" in name and table:
            kind, text = "index", f"look up {table} by {node.get('Index Name', 'an index')}"
        elif "Join" in name or name == "Nested Loop":
            kind = "join"
        details = "; ".join(_joined(node[key]) for key in _POSTGRES_DETAILS if node.get(key))
        yield PlanStep(depth, kind, text + (f": {details}" if details else ""), table, node.get("Plan Rows"))
    for child in node.get("Plans") or []:
        yield from _postgres_steps(child, depth + is_said)


_READERS: dict[str, Callable[[Sequence[Sequence[Any]], Schema], Plan]] = {
    "duckdb": _read_duckdb,
    "sqlite": _read_sqlite,
    "postgres": _read_postgres,
}
