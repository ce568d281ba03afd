"""Random policies against random queries: what a principal gets must be what the same query gives on a copy of the data that
holds nothing but what the principal may see.

The copy is made without any of the policy's own code: row conditions are evaluated in Python with SQL's three truth values, masks
by `hashlib` and slices, roles cell by cell. Every hidden text is a word of its own, looked for in every result and every message.

    python -m tests.copilot.policy_fuzz --cases 100000 --seed 1
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import yaml

from openarctic.copilot.access import Access, open_access
from openarctic.copilot.databases import open_database, read_schema, target_of
from openarctic.copilot.engines import duckdb as duckdb_engine
from openarctic.copilot.engines import sqlite as sqlite_engine
from openarctic.copilot.policy import parse_policy
from openarctic.copilot.schema import Schema
from openarctic.errors import OpenArcticError

MARK = "\N{LOZENGE}"
REAL = re.compile(rf"{MARK}(?:main\.)?")
SALT = "a salt for the tests alone"
MAX_ROWS = 5000
USER = "ann o'hara"
TEAMS = ("red", "blue", "green", None)
Truth = bool | None
Row = dict[str, Any]
Type = str  # "int", "text" (one word a cell) or "team"


@dataclass(frozen=True)
class View:
    """A view's text by dialect-free SQL, and the types of its columns."""

    name: str
    sql: str
    columns: dict[str, Type]


TABLES: dict[str, dict[str, Type]] = {
    "people": {"id": "int", "name": "text", "team": "team", "pay": "int", "boss": "int"},
    "deals": {"id": "int", "person_id": "int", "Team": "team", "amount": "int", "note": "text"},
    "teams": {"team": "team", "lead": "text", "budget": "int"},
    "vault": {"id": "int", "code": "text", "team": "team"},
}
VIEWS = (
    View("v_deals", "SELECT * FROM deals WHERE amount > 40", TABLES["deals"]),
    View(
        "v_names",
        "SELECT p.id AS id, p.name, t.lead FROM people AS p JOIN teams AS t ON p.team = t.team",
        {"id": "int", "name": "text", "lead": "text"},
    ),
    View(
        "v_sum",
        "SELECT team, count(*) AS n, sum(amount) AS total FROM deals GROUP BY team",
        {"team": "team", "n": "int", "total": "int"},
    ),
    View("v_both", "SELECT id, team FROM people UNION ALL SELECT id, team FROM vault", {"id": "int", "team": "team"}),
    View("v_deep", "SELECT * FROM v_deals WHERE team IN (SELECT team FROM teams)", TABLES["deals"]),
    View("v_cte", "WITH people AS (SELECT * FROM deals) SELECT id, note FROM people", {"id": "int", "note": "text"}),
    View("v_vault", "SELECT v.* FROM vault AS v", TABLES["vault"]),
)
KINDS = {"int": "INTEGER", "text": "VARCHAR", "team": "VARCHAR"}


# Conditions: SQL text and what it is in Python.


@dataclass(frozen=True)
class Condition:
    """`sql` and its truth for a row of the table; `raw` gives the rows of other tables without any policy."""

    sql: str
    truth: Callable[[Row, dict[str, list[Row]]], Truth]


def _not(value: Truth) -> Truth:
    return None if value is None else not value


def _and(a: Truth, b: Truth) -> Truth:
    return False if a is False or b is False else None if a is None or b is None else True


def condition(random_: random.Random, table: str, columns: dict[str, Type], depth: int = 2) -> Condition:
    kind = random_.random()
    if depth and kind < 0.35:
        a, b = (condition(random_, table, columns, depth - 1) for _ in range(2))
        if random_.random() < 0.5:
            return Condition(f"({a.sql}) AND ({b.sql})", lambda r, raw: _and(a.truth(r, raw), b.truth(r, raw)))
        return Condition(f"({a.sql}) OR ({b.sql})", lambda r, raw: _not(_and(_not(a.truth(r, raw)), _not(b.truth(r, raw)))))
    if depth and kind < 0.45:
        a = condition(random_, table, columns, depth - 1)
        return Condition(f"NOT ({a.sql})", lambda r, raw: _not(a.truth(r, raw)))
    column = random_.choice([c for c, t in columns.items() if t != "text"])
    prefix = random_.choice(("", f"{table}."))
    if random_.random() < 0.15:
        return Condition(f"{prefix}{column} IS NULL", lambda r, raw: r[column] is None)
    if columns[column] == "int":
        bound = random_.randint(5, 90)
        return Condition(f"{prefix}{column} > {bound}", lambda r, raw: None if r[column] is None else r[column] > bound)
    if kind > 0.8:
        sql = f"{prefix}{column} IN (SELECT team FROM teams WHERE lead = :user)"
        return Condition(sql, lambda r, raw: _in(r[column], [t["team"] for t in raw["teams"] if t["lead"] == USER]))
    if kind > 0.7 and "id" in columns:
        sql = f"EXISTS (SELECT 1 FROM vault AS v WHERE v.id = {table}.id AND v.team = 'red')"
        return Condition(sql, lambda r, raw: any(v["id"] == r["id"] is not None and v["team"] == "red" for v in raw["vault"]))
    team = random_.choice(TEAMS[:3])
    return Condition(f"{prefix}{column} = '{team}'", lambda r, raw: None if r[column] is None else r[column] == team)


def _in(value: Any, values: Sequence[Any]) -> Truth:
    if not values:
        return False
    if value is None:
        return None
    return True if value in values else (None if None in values else False)


# Policies


@dataclass
class Grant:
    deny: set[str] = field(default_factory=set)
    mask: dict[str, str] = field(default_factory=dict)
    rows: Condition | None = None
    definer: bool = False

    @property
    def shows_everything(self) -> bool:
        return not self.deny and not self.mask and self.rows is None


Roles = dict[str, dict[str, Grant]]


def random_roles(random_: random.Random) -> Roles:
    """One role, sometimes two that add up."""
    definers = {view.name for view in VIEWS if random_.random() < 0.15}
    roles: Roles = {}
    for name in ("first", "second")[: 1 + (random_.random() < 0.3)]:
        grants = roles[name] = {}
        for table, columns in [*TABLES.items(), *((v.name, v.columns) for v in VIEWS)]:
            if random_.random() < 0.25:
                continue
            grant = grants[table] = Grant(definer=table in definers)
            is_view = table.startswith("v_")
            if random_.random() < (0.2 if is_view else 0.5):
                grant.rows = condition(random_, table, columns)
            if random_.random() < (0.2 if is_view else 0.5):
                for column, kind in columns.items():
                    chance = random_.random()
                    if chance < 0.15 and len(grant.deny) < len(columns) - 1:
                        grant.deny.add(column)
                    elif chance < 0.4:
                        grant.mask[column] = random_.choice(("null", "hash", "last4") if kind != "int" else ("null",))
    return roles


def policy_text(roles: Roles) -> str:
    """The policy as a file would hold it."""
    return yaml.safe_dump(
        {
            "salt": SALT,
            "roles": {
                name: {
                    "tables": {
                        table: {
                            "columns": {
                                "deny": sorted(g.deny),
                                "mask": {c: None if m == "null" else m for c, m in g.mask.items()},
                            },
                            **({"rows": g.rows.sql} if g.rows else {}),
                            **({"security": "definer"} if g.definer else {}),
                        }
                        for table, g in grants.items()
                    }
                }
                for name, grants in roles.items()
            },
            "users": {USER: list(roles)},
        }
    )


# The copy


def masked(value: Any, mask: str | None) -> Any:
    if mask is None or value is None:
        return value
    if mask == "hash":
        return hashlib.sha256((SALT + str(value)).encode()).hexdigest()
    if mask == "last4":
        return "****" + (str(value)[-4:] if len(str(value)) > 4 else "")
    return None


@dataclass
class Shown:
    """A table of the copy: its columns with their types, and its rows."""

    columns: dict[str, Type]
    rows: list[tuple[Any, ...]]


def shown(grants: list[Grant], columns: dict[str, Type], rows: list[Row], raw: dict[str, list[Row]]) -> Shown:
    """Cell by cell what one of the roles shows, the clearest form first. One that shows everything makes the others needless."""
    grants = [g for g in grants if g.shows_everything][:1] or grants
    order = (None, "last4", "hash", "null")
    visible = {c: t for c, t in columns.items() if any(c not in g.deny for g in grants)}
    result = []
    for row in rows:
        showing = [g for g in grants if g.rows is None or g.rows.truth(row, raw) is True]
        if showing:
            forms = {c: min(order.index("null" if c in g.deny else g.mask.get(c)) for g in showing) for c in visible}
            result.append(tuple(masked(row[c], order[form]) for c, form in forms.items()))
    return Shown(visible, result)


class World:
    """One database with random rows, as a file that the product reads, and as rows."""

    def __init__(self, dialect: str, random_: random.Random, folder: Path) -> None:
        self.dialect, self.random = dialect, random_
        self.raw = {name: self._rows(columns) for name, columns in TABLES.items()}
        for i, team in enumerate(self.raw["teams"]):
            team["team"] = TEAMS[i % 4]
            if i % 3 == 0:
                team["lead"] = USER
        self.path = folder / f"raw.{dialect}"
        self.path.unlink(missing_ok=True)
        connection = connect(dialect, str(self.path))
        for name, columns in TABLES.items():
            create(connection, name, Shown(columns, [tuple(row.values()) for row in self.raw[name]]))
        for view in VIEWS:
            connection.execute(f"CREATE VIEW {view.name} AS {view.sql}")
        self.view_rows = {v.name: dicts(v.columns, connection.execute(f"SELECT * FROM {v.name}").fetchall()) for v in VIEWS}
        connection.commit()
        connection.close()
        database = open_database(self.path)
        self.schema: Schema = read_schema(database, values=False)
        engine = sqlite_engine if dialect == "sqlite" else duckdb_engine
        self.engine: Any = engine.Engine(target_of(database)[0], 1 << 30)

    def _rows(self, columns: dict[str, Type]) -> list[Row]:
        return [{c: self._value(t) for c, t in columns.items()} for _ in range(self.random.randint(4, 9))]

    def _value(self, kind: Type) -> Any:
        if kind == "team":
            return self.random.choice(TEAMS)
        if self.random.random() < 0.1:
            return None
        return self.random.randint(1, 9) * 10 if kind == "int" else f"w{self.random.randrange(16**8):08x}z"

    def words(self) -> set[str]:
        """Every text that can give something away."""
        return {v for rows in self.raw.values() for row in rows for v in row.values() if isinstance(v, str) and v[0] == "w"}

    def run(self, request: dict[str, Any]) -> list[tuple[Any, ...]]:
        """As the child process does it."""
        try:
            self.engine.start(request)
            return list(self.engine.fetch(MAX_ROWS + 1))
        finally:
            self.engine.finish()

    def close(self) -> None:
        self.engine.connection.close()


def connect(dialect: str, path: str = ":memory:") -> Any:
    return sqlite3.connect(path) if dialect == "sqlite" else duckdb.connect(path, config={"threads": 1})


def create(connection: Any, name: str, table: Shown, kinds: dict[str, str] | None = None) -> None:
    columns = ", ".join(f'"{c}" {(kinds or {}).get(c, KINDS[t])}' for c, t in table.columns.items())
    connection.execute(f'CREATE TABLE "{name}" ({columns})')
    if table.rows:
        connection.executemany(f'INSERT INTO "{name}" VALUES ({", ".join("?" * len(table.columns))})', table.rows)


def dicts(columns: Iterable[str], rows: list[tuple[Any, ...]]) -> list[Row]:
    return [dict(zip(columns, row, strict=True)) for row in rows]


class Copy:
    """A database that holds what the roles show and nothing else."""

    def __init__(self, world: World, roles: Roles) -> None:
        self.connection = connect(world.dialect)
        self.tables: dict[str, dict[str, Type]] = {}
        self.errors = (sqlite3.Error,) if world.dialect == "sqlite" else (duckdb.Error,)
        for name, columns in TABLES.items():
            grants = [g[name] for g in roles.values() if name in g]
            if grants:
                self._add(name, shown(grants, columns, world.raw[name], world.raw))
        for view in VIEWS:  # in the order in which they stand on each other
            grants = [g[view.name] for g in roles.values() if view.name in g]
            if grants and grants[0].definer:
                self._add(view.name, shown(grants, view.columns, world.view_rows[view.name], world.raw))
            elif grants:
                self._add_view(view, grants, world.raw)

    def _add(self, name: str, table: Shown) -> None:
        create(self.connection, name, table)
        self.tables[name] = table.columns

    def _add_view(self, view: View, grants: list[Grant], raw: dict[str, list[Row]]) -> None:
        try:
            cursor = self.connection.execute(view.sql)
        except self.errors:
            return  # it reads what may not be read
        names = [column[0] for column in cursor.description]
        types = {c.lower(): (c, t) for c, t in view.columns.items()}
        columns = dict(types[name.lower()] for name in names)
        rows = dicts(columns, cursor.fetchall())
        gone = [c for c in view.columns if c not in columns]
        speaks = [g for g in grants if gone and g.rows and re.search(rf"\b(?:{'|'.join(gone)})\b", g.rows.sql)]
        if speaks and not any(g.shows_everything for g in grants):
            return  # a row condition speaks of a column that may not be read
        table = shown(grants, columns, rows, raw)
        if table.columns:
            self._add(view.name, table)

    def shows_what_failed(self, message: str) -> bool:
        """Whether DuckDB could not convert a text that stands here: what failed was computed on a row that may be seen."""
        text = re.search(r"Could not convert string '([^']*)'", message)
        shown = (self.connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in self.tables)
        return text is not None and any(text[1] in row for rows in shown for row in rows)

    def close(self) -> None:
        self.connection.close()


# Queries


@dataclass
class Source:
    """What stands in FROM: its text, the name that columns are qualified with, and the columns."""

    sql: str
    alias: str
    columns: dict[str, Type]


class Queries:
    """Random queries over the tables of a copy, now and then with a name that it does not have; `MARK` is before real tables."""

    def __init__(
        self, dialect: str, tables: dict[str, dict[str, Type]], random_: random.Random, hidden: Iterable[str] = ()
    ) -> None:
        self.dialect, self.tables, self.random, self.hidden = dialect, tables, random_, sorted(hidden)
        self.every = {**TABLES, **{v.name: v.columns for v in VIEWS}}
        self.count = 0

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def statement(self) -> str:
        self.count = 0
        if self.dialect == "duckdb" and self.chance(0.04):
            table = self.table_name()
            return f"PIVOT {MARK}{table} ON {self.column_of(table, 'team')} USING count(*)"
        ctes: dict[str, dict[str, Type]] = {}
        parts = []
        is_recursive = self.chance(0.05)  # then every CTE sees itself, and none may have the name of a table that it reads
        for _ in range(self.random.choice((0, 0, 0, 1, 2))):
            # Often a name that a table has, too.
            name = self.random.choice((*TABLES, "c", "d")) if self.chance(0.7) else self.random.choice(list(self.every))
            name = self.fresh("e") if is_recursive else name
            if name in ctes:
                continue
            sql, columns = self.query(2, ctes, ())
            parts.append(f"{name} AS {self.random.choice(('', '', 'MATERIALIZED ')) if self.dialect == 'sqlite' else ''}({sql})")
            ctes[name] = columns
        if is_recursive:
            name = self.fresh("r")
            parts.append(f"{name}(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM {name} WHERE k < 3)")
            ctes[name] = {"k": "int"}
            head = f"WITH RECURSIVE {', '.join(parts)} "
        else:
            head = f"WITH {', '.join(parts)} " if parts else ""
        return head + self.query(3, ctes, (), is_top=True)[0]

    def query(
        self, depth: int, ctes: dict[str, dict[str, Type]], outer: Sequence[Source], is_top: bool = False
    ) -> tuple[str, dict[str, Type]]:
        """A query and its columns; `outer` may be referred to."""
        if depth > 1 and self.chance(0.15):
            return self.set_operation(depth, ctes, outer)
        sources = [self.source(depth, ctes, outer)]
        text = sources[0].sql
        for _ in range(self.random.choice((0, 0, 1, 1, 2)) if depth > 1 else 0):
            source = self.source(depth - 1, ctes, outer, sources)
            text += self.join(sources, source)
            sources.append(source)
        where = f" WHERE {self.condition(depth, ctes, sources, outer)}" if self.chance(0.5) else ""
        if self.chance(0.25):
            return self.grouped(text, where, sources, depth, ctes, outer)
        items, columns = self.items(depth, ctes, sources, outer)
        distinct = "DISTINCT " if self.chance(0.15) else ""
        sql = f"SELECT {distinct}{items} FROM {text}{where}"
        if is_top and self.chance(0.2):
            places = ", ".join(str(i) for i in range(1, len(columns) + 1))
            sql += f" ORDER BY {places}" + (f" LIMIT {self.random.randint(1, 5)}" if self.chance(0.7) else "")
        if self.dialect == "duckdb" and is_top and self.chance(0.05) and columns:
            first = self.column(sources)
            sql += f" QUALIFY count(*) OVER (PARTITION BY {first}) > 1" if "ORDER BY" not in sql and not distinct else ""
        return sql, columns

    def set_operation(self, depth: int, ctes: dict[str, dict[str, Type]], outer: Sequence[Source]) -> tuple[str, dict[str, Type]]:
        kinds = [self.random.choice(("int", "team")) for _ in range(self.random.randint(1, 2))]
        operator = self.random.choice(("UNION", "UNION ALL", "INTERSECT", "EXCEPT"))
        parts = []
        for _ in range(2):
            source = self.source(depth - 1, ctes, outer)
            items = [f"{self.column([source], kind)} AS o{i}" for i, kind in enumerate(kinds)]
            where = f" WHERE {self.condition(1, ctes, [source], outer)}" if self.chance(0.4) else ""
            parts.append(f"SELECT {', '.join(items)} FROM {source.sql}{where}")
        return f" {operator} ".join(parts), {f"o{i}": kind for i, kind in enumerate(kinds)}

    def table_name(self) -> str:
        names = list(self.every) if self.chance(0.02) or not self.tables else list(self.tables)
        return self.random.choice(names)

    def source(
        self,
        depth: int,
        ctes: dict[str, dict[str, Type]],
        outer: Sequence[Source],
        beside: Sequence[Source] = (),
    ) -> Source:
        alias = self.fresh("t")
        if ctes and self.chance(0.4):
            name = self.random.choice(list(ctes))
            return Source(f"{name} AS {alias}", alias, ctes[name])
        if depth > 1 and self.chance(0.25):
            lateral = self.dialect == "duckdb" and bool(beside) and self.chance(0.5)
            sql, columns = self.query(
                depth - 1, ctes, [*outer, *beside] if lateral else outer if self.dialect != "sqlite" else ()
            )
            return Source(f"{'LATERAL ' if lateral else ''}({sql}) AS {alias}", alias, columns)
        name = self.table_name()
        if name in ctes:
            return Source(f"{name} AS {alias}", alias, ctes[name])
        columns = self.tables.get(name, self.every[name])
        written = MARK + self.random.choice((name, name, name.upper(), f'"{name}"', f"main.{name}"))
        if self.dialect == "duckdb" and self.chance(0.05):
            renamed = {f"{alias}c{i}": kind for i, kind in enumerate(columns.values())}
            return Source(f"{written} AS {alias}({', '.join(renamed)})", alias, renamed)
        if self.chance(0.1) and all(source.alias.lower() != name for source in (*outer, *beside)):
            return Source(written, name, columns)
        return Source(f"{written} AS {alias}", alias, columns)

    def join(self, sources: Sequence[Source], new: Source) -> str:
        if new.sql.startswith("LATERAL"):
            return f", {new.sql}"
        kind = self.random.choice((", ", " JOIN ", " LEFT JOIN ", " CROSS JOIN ", " JOIN "))
        if kind in (", ", " CROSS JOIN "):
            return kind + new.sql
        both = [c for c in new.columns if sum(c.lower() in (d.lower() for d in s.columns) for s in sources) == 1]
        if both and self.chance(0.2):
            return f"{kind}{new.sql} USING ({self.random.choice(both)})"
        type_ = self.random.choice(("int", "team"))
        if self.dialect == "duckdb" and self.chance(0.15):
            kind = self.random.choice((" FULL JOIN ", " RIGHT JOIN "))
        return f"{kind}{new.sql} ON {self.column(sources, type_)} = {self.column([new], type_)}"

    def column_of(self, table: str, kind: Type | None) -> str:
        columns = self.every[table] if self.chance(0.02) else self.tables.get(table, self.every[table])
        fitting = [c for c, t in columns.items() if kind is None or t == kind]
        return self.random.choice(fitting) if fitting else "id"

    def column(self, sources: Sequence[Source], kind: Type | None = None) -> str:
        """A column of that type, or a literal where there is none."""
        fitting = [(s, c) for s in sources for c, t in s.columns.items() if kind is None or t == kind]
        if self.chance(0.01):
            return f"{self.random.choice(list(sources)).alias}.{self.random.choice(('pay', 'note', 'code', 'amount', 'name'))}"
        if not fitting:
            return {"int": "30", "team": "'red'", "text": "'x'", None: "1"}[kind]
        source, column = self.random.choice(fitting)
        unique = sum(column.lower() in (c.lower() for c in s.columns) for s in sources) == 1
        name = self.random.choice((column, column, column.upper(), f'"{column}"'))
        return name if unique and len(sources) == 1 and self.chance(0.3) else f"{source.alias}.{name}"

    def items(
        self, depth: int, ctes: dict[str, dict[str, Type]], sources: Sequence[Source], outer: Sequence[Source]
    ) -> tuple[str, dict[str, Type]]:
        if self.chance(0.3) and len(sources) == 1:
            star = self.random.choice(("*", f"{sources[0].alias}.*"))
            columns = dict(sources[0].columns)
            if self.dialect == "duckdb" and self.chance(0.1) and len(columns) > 1:
                left_out = self.random.choice(list(columns))
                del columns[left_out]
                star = f"* EXCLUDE ({left_out})"
            return star, columns
        items, columns = [], {}
        for i in range(self.random.randint(1, 3)):
            name = self.fresh("o")
            kind = self.random.choice(("int", "int", "team", "text"))
            columns[name] = kind
            items.append(f"{self.value(kind, depth, ctes, sources, outer)} AS {name}")
            if i == 0 and self.dialect == "duckdb" and self.chance(0.03):
                columns[f"{name}s"] = "int"
                items.append(f"length(CAST({sources[0].alias} AS VARCHAR)) AS {name}s")
        return ", ".join(items), columns

    def value(
        self, kind: Type, depth: int, ctes: dict[str, dict[str, Type]], sources: Sequence[Source], outer: Sequence[Source]
    ) -> str:
        chance = self.random.random()
        pool = [*sources, *outer] if self.chance(0.2) else list(sources)
        if depth > 1 and chance < 0.1:
            inner = self.source(1, ctes, ())
            aggregate = "max" if kind != "int" else self.random.choice(("max", "count"))
            inner_sources = [*sources, *outer]
            where = f" WHERE {self.comparison([inner], inner_sources)}"
            return f"(SELECT {aggregate}({self.column([inner], kind)}) FROM {inner.sql}{where})"
        if kind == "int" and chance < 0.2:
            return f"coalesce({self.column(pool, 'int')}, 0) + 1"
        if kind == "int" and chance < 0.25:
            return f"length({self.column(pool, 'text')})"
        if kind == "int" and chance < 0.3:
            return f"sum({self.column(sources, 'int')}) OVER (PARTITION BY {self.column(sources, 'team')})"
        if kind == "int" and chance < 0.35:
            return f"CASE WHEN {self.comparison(pool, pool)} THEN 1 ELSE 0 END"
        if kind == "text" and chance < 0.2:
            return f"upper({self.column(pool, 'text')}) || 'x'"
        return self.column(pool, kind)

    def comparison(self, left: Sequence[Source], right: Sequence[Source]) -> str:
        kind = self.random.choice(("int", "team", "text"))
        a, b = self.column(left, kind), self.column(right, kind)
        return f"{a} {self.random.choice(('=', '=', '<>', '<', '>'))} {b}"

    def condition(self, depth: int, ctes: dict[str, dict[str, Type]], sources: Sequence[Source], outer: Sequence[Source]) -> str:
        chance = self.random.random()
        pool = [*sources, *outer]
        if depth and chance < 0.2:
            operator = self.random.choice((" AND ", " OR "))
            return "(" + operator.join(self.condition(depth - 1, ctes, sources, outer) for _ in range(2)) + ")"
        if depth and chance < 0.3:
            inner = self.source(1, ctes, ())
            condition = self.comparison([inner], pool)
            return f"{self.random.choice(('', 'NOT '))}EXISTS (SELECT 1 FROM {inner.sql} WHERE {condition})"
        if depth and chance < 0.4:
            kind = self.random.choice(("int", "team"))
            inner = self.source(1, ctes, ())
            return (
                f"{self.column(pool, kind)} {self.random.choice(('IN', 'IN', 'NOT IN'))} "
                f"(SELECT {self.column([inner], kind)} FROM {inner.sql})"
            )
        if chance < 0.5:
            return f"{self.column(pool, 'team')} IN ('red', 'blue')"
        if chance < 0.6:
            return f"{self.column(pool, 'text')} LIKE '%{self.random.choice('0123456789abcdefx')}%'"
        if chance < 0.7:
            return f"{self.column(pool)} IS {self.random.choice(('', 'NOT '))}NULL"
        if chance < 0.85:
            return f"{self.column(pool, 'int')} {self.random.choice('<>')} {self.random.randint(5, 90)}"
        if chance < 0.92 and self.hidden:  # fails where it is true, and that it is for hidden cells alone: an error would tell
            failing = "abs(-9223372036854775807 - 1)" if self.dialect == "sqlite" else "CAST('failed' AS INTEGER)"
            word = self.random.choice(self.hidden)
            return f"CASE WHEN {self.column(pool, 'text')} = '{word}' THEN {failing} ELSE 1 END = 1"
        return self.comparison(pool, pool)

    def grouped(
        self,
        text: str,
        where: str,
        sources: Sequence[Source],
        depth: int,
        ctes: dict[str, dict[str, Type]],
        outer: Sequence[Source],
    ) -> tuple[str, dict[str, Type]]:
        kind = self.random.choice(("team", "int"))
        key, name = self.column(sources, kind), self.fresh("g")
        number = self.column(sources, "int")
        aggregate = self.random.choice(("count(*)", f"sum({number})", f"min({number})", f"count(DISTINCT {number})"))
        having = f" HAVING count(*) {self.random.choice('<>')} 1" if self.chance(0.3) else ""
        sql = f"SELECT {key} AS {name}, {aggregate} AS {name}n FROM {text}{where} GROUP BY {key}{having}"
        return sql, {name: kind, f"{name}n": "int"}


# Cases


@dataclass
class Report:
    """What came of the cases; `leaks` and `differences` must be empty."""

    counts: Counter[str] = field(default_factory=Counter)
    leaks: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)

    def leaked(self, what: str) -> None:
        """Something came out that the copy does not hold."""
        self.leaks.append(what)
        print("LEAK", what, flush=True)

    def differed(self, what: str) -> None:
        """An answer, but another one than the copy's."""
        self.differences.append(what)
        print("DIFFERENT", what, flush=True)

    @property
    def answered(self) -> float:
        """The share of the permitted queries that were answered."""
        return self.counts["equal"] / max(1, self.counts["permitted"])

    def summary(self) -> dict[str, Any]:
        return {
            **self.counts,
            "answered": round(self.answered, 4),
            "leaks": len(self.leaks),
            "differences": len(self.differences),
            "refusals": dict(self.refusals.most_common(12)),
        }


def normal(rows: Iterable[Sequence[Any]]) -> list[str]:
    """Rows in an order of their own: the queries that are compared fix none, or fix it by every column."""
    return sorted(repr(tuple(round(v, 6) if isinstance(v, float) else v for v in row)) for row in rows)


def run_case(world: World, copy: Copy, access: Access | None, query: str, hidden: set[str], report: Report) -> None:
    """One query: the copy says what is right."""
    report.counts["cases"] += 1
    sql, why_not = query.replace(MARK, ""), ""
    expected: list[str] | None = None
    try:
        # Here no CTE can stand in the way of a table: SQLite does not keep to the standard's scopes.
        rows = copy.connection.execute(REAL.sub("main.", query)).fetchmany(MAX_ROWS + 1)
        if len(rows) > MAX_ROWS:
            report.counts["too large to compare"] += 1
            return
        expected = normal(rows)
    except copy.errors as error:
        why_not = str(error)
    report.counts["not permitted or failing" if expected is None else "permitted"] += 1
    try:
        text = answered(world, access, sql, expected, why_not, report)
    except OpenArcticError as error:
        text = f"{error.message} {error.hint}"
        if expected is not None:
            report.counts["permitted but refused"] += 1
            report.refusals[f"{getattr(error, 'type', '')}: {error.message[:70]}"] += 1
            report.refused.append(f"{world.dialect}: {error.message} {sql}")
    except (sqlite3.Error, duckdb.Error) as error:
        text = str(error)
        report.counts["failed in the engine"] += 1
        if expected is not None and (copy.shows_what_failed(text) or fails_alike(copy, access, sql, text)):
            report.counts["failed by the order of work"] += 1
        elif expected is not None and text == "interrupted":  # ten seconds: a fence may cost time
            report.counts["out of time"] += 1
        elif expected is not None:
            # The copy computed it without failing: the failure must not depend on what is hidden.
            report.differed(f"{world.dialect}: {sql}\n   engine: {text[:300]}")
    found = [word for word in hidden if word in text and word not in sql]
    if found:
        report.leaked(f"{world.dialect}: {sql}\n   hidden words {found[:3]} in {text[:200]}")


def fails_alike(copy: Copy, access: Access | None, sql: str, message: str) -> bool:
    """Whether the rewritten statement fails on the copy as well, where nothing is hidden: the engine only did its work in
    another order, and met a value that a condition of the query would have kept from it."""
    assert access is not None
    try:
        copy.connection.execute(access.check(sql).sql).fetchall()
    except copy.errors as error:
        return str(error).partition("\n")[0] == message.partition("\n")[0]
    return False


def answered(world: World, access: Access | None, sql: str, expected: list[str] | None, why_not: str, report: Report) -> str:
    """Run it under the policy and compare; the rows as text. Raises what the product raises."""
    if access is None:
        raise OpenArcticError("nothing is permitted")
    checked = access.check(sql)
    rows = world.run({"sql": checked.sql, "tables": list(checked.tables), "timeout": 10.0})
    if expected is None:
        report.counts["answered although the copy fails"] += 1
        if not any(kind in why_not for kind in ("failed", "overflow", "Conversion Error")):
            report.leaked(f"{world.dialect}: {sql}\n   copy: {why_not[:200]}\n   rows: {str(rows)[:200]}")
    elif normal(rows) == expected:
        report.counts["equal"] += 1
    else:
        report.differed(f"{world.dialect}: {sql}\n   expected {expected[:4]}\n   got {normal(rows)[:4]}\n   {checked.sql}")
    return repr(rows)


def run_cases(
    cases: int,
    seed: int,
    seconds: float = float("inf"),
    on_progress: Callable[[Report], None] | None = None,
    per_policy: int = 40,
    policies_per_world: int = 5,
) -> Report:
    """`cases` queries, half of them on each embedded database; fewer when `seconds` are over."""
    report, random_, ends = Report(), random.Random(seed), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        while report.counts["cases"] < cases and time.monotonic() < ends:
            dialect = ("sqlite", "duckdb")[report.counts["worlds"] % 2]
            report.counts["worlds"] += 1
            world = World(dialect, random_, Path(folder))
            for _ in range(policies_per_world):
                _run_policy(world, random_, min(per_policy, cases - report.counts["cases"]), report)
            world.close()
            if on_progress and report.counts["worlds"] % 20 == 0:
                on_progress(report)
    return report


def _run_policy(world: World, random_: random.Random, cases: int, report: Report) -> None:
    roles = random_roles(random_)
    copy = Copy(world, roles)
    report.counts["policies"] += 1
    try:
        access: Access | None = open_access(world.schema, parse_policy(policy_text(roles)), USER)
    except OpenArcticError as error:
        if error.exit_code != 3:
            report.differed(f"{world.dialect}: {error.message}\n{policy_text(roles)}")
        access = None
    visible = repr([copy.connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in copy.tables])
    hidden = {word for word in world.words() if word not in visible}
    queries = Queries(world.dialect, copy.tables, random_, hidden)
    for _ in range(cases):
        run_case(world, copy, access, queries.statement(), hidden, report)
    copy.close()


def main() -> None:
    """Run, print what came of it, and end with 1 where anything leaked or differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--refused", type=int, default=0, help="show so many permitted queries that were refused")
    args = parser.parse_args()
    started = time.monotonic()
    report = run_cases(args.cases, args.seed, args.seconds, lambda so_far: print(json.dumps(so_far.summary()), flush=True))
    for line in report.refused[: args.refused]:
        print(line)
    print(json.dumps({**report.summary(), "seconds": round(time.monotonic() - started), "seed": args.seed}, indent=1))
    raise SystemExit(bool(report.leaks or report.differences))


if __name__ == "__main__":
    main()
