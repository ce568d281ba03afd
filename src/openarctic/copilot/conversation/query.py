"""A SELECT that can be changed as a tree: another filter, order, limit, group, column, or a count over it.

Columns are meant by their `Place` (table and column); a table that the query does not read yet is reached along foreign keys,
so that no row is shown or counted twice: a join where the keys lead to one row, `IN (SELECT ...)` where they lead to many.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from sqlglot import exp

from openarctic.copilot.answers.phrases import conjuncts
from openarctic.copilot.conversation.keys import Keys, Step
from openarctic.copilot.joins import identifier, own_columns, sources_of
from openarctic.copilot.schema import Column, Schema, Table
from openarctic.copilot.wording import listed

THOSE = "those"
_LABEL = re.compile(r"(^|_)(name|title|label)$|(?<=[a-z])(Name|Title)$", re.IGNORECASE)
_WHOLE_NAME = ("firstname", "lastname")


class CannotEdit(Exception):
    """The change does not fit the query."""


class Place(NamedTuple):
    """A column of a table, both in lower case; without a table it is an output of the query."""

    table: str
    column: str

    @classmethod
    def of(cls, table: Table, column: Column) -> Place:
        """Where that column of the schema is."""
        return cls(table.name.lower(), column.name.lower())


class Query:
    """A copy of `tree`, to be changed. What is no plain SELECT is read as a table of its rows, called `those`."""

    def __init__(self, tree: exp.Expr, keys: Keys) -> None:
        tree = tree.copy()
        while isinstance(tree, exp.Subquery) and isinstance(tree.this, exp.Query) and not tree.args.get("limit"):
            tree = tree.this
        self.keys, self.schema = keys, keys.schema
        self._ways: tuple[tuple[str, ...], dict[str, list[Step]]] = ((), {})
        self.select = tree if isinstance(tree, exp.Select) else _over(tree)

    def copy(self) -> Query:
        """One more, to be changed instead of this one."""
        return Query(self.select, self.keys)

    # what it is

    @property
    def sources(self) -> dict[str, Table | None]:
        """The names that columns may be qualified by, and their tables; None for a nested query or a CTE."""
        return _sources(self.select, self.schema)

    @property
    def tables(self) -> list[Table]:
        """The tables that it reads by itself, in order."""
        return [table for table in self.sources.values() if table is not None]

    def reads(self, table: Table) -> bool:
        """Whether that table is one of them."""
        return any(t.name == table.name for t in self.tables)

    @property
    def subject(self) -> Table | None:
        """The table of which one row of FROM is: that whose keys lead to the others (of several, the first)."""
        tables = self.tables
        pointed = {key.table.lower() for table in tables for key in table.foreign_keys if key.table.lower() != table.name.lower()}
        return next((t for t in tables if t.name.lower() not in pointed), tables[0] if tables else None)

    @property
    def shown(self) -> Table | None:
        """The table that is asked for: of the first plain column that is shown, else the subject."""
        for output in self.select.expressions:
            inner = output.unalias()
            if isinstance(inner, exp.Column) and (place := self.place(inner)) and place.table:
                return self.schema.table(place.table)
        return self.subject

    @property
    def is_grouped(self) -> bool:
        """Whether it has a GROUP BY."""
        return bool(self.select.args.get("group"))

    @property
    def aggregates(self) -> list[exp.AggFunc]:
        """Its own aggregates in what is shown, without those of windows."""
        found = [a for e in self.select.expressions for a in e.find_all(exp.AggFunc)]
        return [a for a in found if a.find_ancestor(exp.Select) is self.select and not a.find_ancestor(exp.Window)]

    @property
    def is_listing(self) -> bool:
        """One row of the result is one row of the data."""
        return not self.is_grouped and not self.aggregates

    @property
    def limit(self) -> int | None:
        """The number of rows that it stops after."""
        clause = self.select.args.get("limit")
        if clause is None:
            return None
        count = clause.args.get("count") if isinstance(clause, exp.Fetch) else clause.expression
        return int(count.name) if isinstance(count, exp.Literal) and count.name.isdigit() else 1  # FETCH FIRST ROW ONLY

    @property
    def names(self) -> list[str]:
        """What its outputs are called, in lower case."""
        return [e.alias_or_name.lower() for e in self.select.expressions]

    def place(self, column: exp.Column) -> Place | None:
        """Which column is meant in the query's own clauses."""
        return _place(column, self.sources)

    def place_within(self, column: exp.Column) -> Place | None:
        """Which column is meant, also in a nested query."""
        select = column.find_ancestor(exp.Select)
        return None if select is None else _place(column, _sources(select, self.schema))

    def described(self, place: Place) -> Column | None:
        """The schema's column."""
        table = self.schema.table(place.table)
        return None if table is None else table.column(place.column)

    def called(self, place: Place) -> str:
        """The column's name, with the table's where it is another than the one that is asked for."""
        column, table = self.described(place), self.schema.table(place.table)
        if column is None or table is None:
            return place.column
        is_other = self.subject is not None and self.subject.name != table.name
        return f"{table.name} {column.name}" if is_other else column.name

    def filters(self) -> list[tuple[exp.Expr, Place | None]]:
        """The conditions on rows, each with the only column that it is about, or None."""
        where = self.select.args.get("where")
        return [(part, self._about(part)) for part in conjuncts(where.this)] if where is not None else []

    def newest_filters(self, earlier: Query | None) -> set[str]:
        """The SQL of the conditions that `earlier` has not; the last one where that has them all."""
        before = {part.sql() for part, _ in earlier.filters()} if earlier is not None else set()
        texts = [part.sql() for part, _ in self.filters()]
        return {text for text in texts if text not in before} or set(texts[-1:])

    def _about(self, condition: exp.Expr) -> Place | None:
        if condition.find(exp.Query):
            return None
        places = {self.place(c) for c in condition.find_all(exp.Column)}
        return places.pop() if len(places) == 1 else None

    # how to name a column

    def column(self, place: Place, keeps_rows: bool = False) -> exp.Column:
        """The column for a clause of this query; its table is joined where it is not read yet.

        `keeps_rows` joins so that rows without a partner stay. Raises CannotEdit where nothing leads there, or to many rows.
        """
        if not place.table:
            return exp.column(identifier(place.column))
        alias = self.alias(place.table)
        if alias is None:
            path = self._path(place.table)
            if path is None or not all(step.is_to_one for step in path):
                raise CannotEdit(f"no key leads to {place.table}")
            for step in path:
                self._join(step, keeps_rows)
            alias = self.alias(place.table)
        name = self._spelling(place)
        return exp.column(name, table=identifier(alias or place.table)) if len(self.sources) > 1 else exp.column(name)

    def _spelling(self, place: Place) -> exp.Identifier:
        column = self.described(place)
        return identifier(column.name if column is not None else place.column)

    def alias(self, table: str) -> str | None:
        """What a table (in lower case) is called in it; None where it does not read it."""
        for source in sources_of(self.select)[0]:
            if isinstance(source, exp.Table) and source.name.lower() == table:
                return source.alias_or_name
        return None

    def distance(self, table: str) -> int | None:
        """How many joins away a table is; None where nothing leads there."""
        if any(t.name.lower() == table for t in self.tables):
            return 0
        path = self._path(table)
        return None if path is None else len(path)

    def near(self, most: int) -> list[tuple[str, int]]:
        """The tables that are so many joins away at most, its own first."""
        own = [t.name.lower() for t in self.tables]
        self._path("")
        return [*((name, 0) for name in own), *((name, len(way)) for name, way in self._ways[1].items() if len(way) <= most)]

    def _path(self, table: str) -> list[Step] | None:
        """The shortest way along keys; of equal ones that which leads to one row."""
        own = tuple(t.name.lower() for t in self.tables)
        if self._ways[0] != own:
            self._ways = (own, self.keys.ways(own))
        return self._ways[1].get(table)

    def _join(self, step: Step, keeps_rows: bool) -> None:
        if self.alias(step.other):
            return
        self.qualify()
        near, far = self.alias(step.table) or step.table, self.schema.table(step.other)
        on = exp.EQ(
            this=exp.column(self._spelling(Place(step.table, step.column)), table=identifier(near)),
            expression=exp.column(
                self._spelling(Place(step.other, step.to_column)), table=identifier(far.name if far else step.other)
            ),
        )
        join = exp.Join(this=exp.Table(this=identifier(far.name if far else step.other)), on=on)
        if keeps_rows:
            join.set("side", "LEFT")
        self.select.append("joins", join)

    def qualify(self) -> None:
        """Say of every column whose it is, before another table comes in."""
        labels = {e.alias.lower() for e in self.select.expressions if e.alias}
        for column in own_columns(self.select):
            place = None if column.table or isinstance(column.this, exp.Star) else self.place(column)
            in_order = column.find_ancestor(exp.Order) is not None and column.name.lower() in labels
            if place is not None and place.table and not in_order:
                column.set("table", identifier(self.alias(place.table) or place.table))
        if any(isinstance(e, exp.Star) for e in self.select.expressions):
            stars = [exp.Column(this=exp.Star(), table=identifier(s.alias_or_name)) for s in sources_of(self.select)[0]]
            self.select.set("expressions", stars)

    # changes

    def keep(self, place: Place, condition: Callable[[exp.Column], exp.Expr]) -> None:
        """Only rows for which the condition on that column holds. Raises CannotEdit where nothing leads to it."""
        self.select.where(self.condition(place, condition), copy=False)

    def condition(self, place: Place, condition: Callable[[exp.Column], exp.Expr]) -> exp.Expr:
        """The condition, in a nested query where keys lead to many rows."""
        path = self._path(place.table) if place.table and self.alias(place.table) is None else []
        if path is None:
            raise CannotEdit(f"no key leads to {place.table}")
        if all(step.is_to_one for step in path):
            return condition(self.column(place))
        first, *rest = path
        inner = self._select_from(first.other)
        for step in rest:
            inner._join(step, False)
        inner.select.where(condition(inner.column(place)), copy=False)
        return self._among(first, inner)

    def _among(self, step: Step, inner: Query) -> exp.In:
        inner.select.set("expressions", [inner.column(Place(step.other, step.to_column))])
        return exp.In(this=self.column(Place(step.table, step.column)), query=inner.select.subquery(copy=False))

    def keep_related(self, table: str, condition: Callable[[exp.Expr], exp.Expr]) -> None:
        """Only rows with so many rows of `table`. Raises CannotEdit where no key of it points here."""
        inner, among = self._among_related(table)
        inner.group_by(inner.expressions[0].copy(), copy=False)
        inner.having(condition(exp.Count(this=exp.Star())), copy=False)
        self.select.where(among, copy=False)

    def drop_related(self, table: str) -> None:
        """Only rows without any row of `table`. Raises CannotEdit where no key of it points here."""
        inner, among = self._among_related(table)
        is_null = exp.Is(this=inner.expressions[0].copy(), expression=exp.Null())
        inner.where(exp.Not(this=is_null), copy=False)  # with a NULL in it NOT IN holds for no row
        self.select.where(exp.Not(this=among), copy=False)

    def _among_related(self, table: str) -> tuple[exp.Select, exp.In]:
        """Whether a row's key is among those that the rows of `table` point to; the SELECT of these, too."""
        step = self._step_to_rows(table)
        inner = self._select_from(table)
        return inner.select, self._among(step, inner)

    def _step_to_rows(self, table: str) -> Step:
        path = self._path(table)
        if path is None or len(path) != 1 or path[0].is_to_one:
            raise CannotEdit(f"no key of {table} points here")
        return path[0]

    def _select_from(self, table: str) -> Query:
        return Query(exp.select("1").from_(exp.Table(this=identifier(table))), self.keys)

    def most_related(self, table: str, is_most: bool, count: int) -> None:
        """Those with the most (or fewest) rows of `table`. Raises CannotEdit where no key of it points here."""
        step = self._step_to_rows(table)
        if not self.is_listing:
            raise CannotEdit("its rows are no rows of a table")
        self._join(step, keeps_rows=not is_most)
        key = self.column(Place(step.other, step.to_column))
        for grouped in [*self._keys_of(step.table), *(e.unalias() for e in self.select.expressions)]:
            if isinstance(grouped, exp.Column) and not isinstance(grouped.this, exp.Star):
                self.select.group_by(grouped.copy(), copy=False)
        self.order([exp.Ordered(this=exp.Count(this=key), desc=is_most)])
        self.stop_after(count)

    def count_related(self, table: str) -> None:
        """How many rows of `table` the rows have together. Raises CannotEdit where no key of it points here."""
        self._join_related(table)
        self.select.set("expressions", [exp.Count(this=exp.Star())])

    def list_related(self, table: str) -> None:
        """The rows of `table` that belong to the rows, by name. Raises CannotEdit where no key of it points here."""
        self._join_related(table)
        found = self.schema.table(table)
        assert found is not None
        self.select.set("expressions", [self.column(place) for place in self.labels(found)])

    def _join_related(self, table: str) -> None:
        path = self._path(table)
        if not path or path[0].is_to_one or not self.is_listing:
            raise CannotEdit(f"no key of {table} points here")
        self.settle()
        for step in path:
            self._join(step, keeps_rows=False)
        self.order(())
        self.select.set("distinct", None)

    def unaggregate(self) -> None:
        """The rows that one number is about; of a highest or lowest value the row that has it."""
        aggregates = self.aggregates
        if len(aggregates) == 1 and isinstance(aggregates[0], exp.Min | exp.Max) and isinstance(aggregates[0].this, exp.Column):
            self.order([ordered(aggregates[0].this.copy(), isinstance(aggregates[0], exp.Max))])
            self.stop_after(1)
        else:
            self.order(())

    def _keys_of(self, name: str) -> list[exp.Column]:
        table = self.schema.table(name)
        return [self.column(Place(name, key.lower())) for key in (table.primary_key if table else ())]

    def drop_filters(self, is_meant: Callable[[exp.Expr, Place | None], bool]) -> list[exp.Expr]:
        """Take the conditions away that are meant, and give them back."""
        kept: list[exp.Expr] = []
        dropped: list[exp.Expr] = []
        for part, place in self.filters():
            (dropped if is_meant(part, place) else kept).append(part)
        if dropped:
            self.select.set("where", exp.Where(this=exp.and_(*kept, copy=False)) if kept else None)
        return dropped

    def order(self, keys: Sequence[exp.Expr]) -> None:
        """Order by these, and nothing else."""
        self.select.set("order", exp.Order(expressions=list(keys)) if keys else None)

    def turn_order(self, is_down: bool | None = None) -> None:
        """The order that it has, with the highest first or last; without either the other way round."""
        for key in self.select.args["order"].expressions:
            key.set("desc", not key.args.get("desc") if is_down is None else is_down)
            key.set("nulls_first", False)

    def stop_after(self, count: int | None, skip: int = 0) -> None:
        """So many rows at most; None for all."""
        for clause in ("limit", "fetch", "offset"):
            self.select.set(clause, None)
        if count is not None:
            self.select.limit(count, copy=False)
        if skip:
            self.select.offset(skip, copy=False)

    def show(self, columns: Sequence[exp.Expr], instead: bool = False) -> None:
        """Show these too, or these alone; what is there already is not shown twice."""
        before = [] if instead else list(self.select.expressions)
        there = {e.unalias().sql() for e in before}
        new = [c for c in columns if c.unalias().sql() not in there]
        if self.is_grouped and not instead:
            for column in new:
                self.select.group_by(column.unalias().copy(), copy=False)
        self.select.set("expressions", [*before, *new])

    def labels(self, table: Table) -> list[Place]:
        """The columns that name a row of a table: its name, else its first text, else its key."""
        named = [c for c in table.columns if _LABEL.search(c.name)]
        whole = [c for c in table.columns if c.name.lower().replace("_", "").endswith(_WHOLE_NAME)]
        own = [c for c in named if c.name.lower().replace("_", "").endswith("name") and c not in whole]
        texts = [c for c in table.columns if not c.is_numeric and c.name.lower() not in key_names(table)]
        found = whole if len(whole) == 2 else own[:1] or named[:1] or texts[:1] or list(table.columns[:1])
        return [Place.of(table, c) for c in found]

    def settle(self) -> None:
        """Where rows are limited, what is done next is done to those rows: by their key, else as a table of the rows."""
        if self.select.args.get("limit") is None and self.select.args.get("offset") is None:
            return
        table = self.subject
        key = table.primary_key if table is not None else ()
        if table is None or len(key) != 1 or not self.is_listing or self.select.args.get("distinct"):
            self.nest()
            return
        chosen = self.select.copy()
        place = Place(table.name.lower(), key[0].lower())
        chosen.set("expressions", [self.column(place)])
        self.stop_after(None)
        self.select.set("where", None)
        self.select.where(exp.In(this=self.column(place), query=chosen.subquery()), copy=False)

    def nest(self) -> None:
        """Make it a table of its rows: `SELECT * FROM (...) AS those`."""
        name_outputs(self.select)
        self.select = _over(self.select)

    def count(self, distinct: Place | None = None) -> None:
        """How many rows (or different values) there are. The order does not matter, a limit does."""
        if distinct is None and self.aggregates and not self.is_grouped:
            raise CannotEdit("it is one number already")
        if self.is_grouped or any(self.select.args.get(k) for k in ("limit", "offset", "distinct", "having")):
            self._as_source(distinct)
        self._only(exp.Count(this=exp.Star() if distinct is None else exp.Distinct(expressions=[self._inner(distinct)])))

    def _as_source(self, place: Place | None) -> None:
        """Make its rows what is counted next; a column that they do not show is counted over the rows of the table."""
        if place is not None and not self._shows(place):
            self.settle()
            if self.is_listing:
                return
        self.nest()

    def _only(self, number: exp.Expr) -> None:
        """Show this number and nothing else; one row needs no order."""
        self.order(())
        self.select.set("expressions", [number])

    def _shows(self, place: Place) -> bool:
        return any(isinstance(i := e.unalias(), exp.Column) and self.place(i) == place for e in self.select.expressions)

    def _inner(self, place: Place) -> exp.Column:
        """The column, or the output of that name once the query has become a table."""
        return self.column(place) if self.tables else exp.column(identifier(place.column))

    def aggregate(self, function: type[exp.AggFunc], place: Place | None) -> None:
        """One number about a column: of the rows, or (without a place) of what is shown. Raises CannotEdit without numbers."""
        if place is None:
            place = self.only_number()
        if not self.is_listing or self.select.args.get("distinct"):
            self.nest()
        elif self.select.args.get("limit"):
            self.settle()
        self._only(function(this=self._inner(place)))

    def only_number(self) -> Place:
        """The only number that is shown and no key, else CannotEdit."""
        found = list(self._numbers())
        if len(found) != 1:
            raise CannotEdit("it is not clear which number is meant")
        return found[0]

    def _numbers(self) -> Iterator[Place]:
        if not self.is_listing:
            name_outputs(self.select)
        for output in self.select.expressions:
            inner = output.unalias()
            if not isinstance(inner, exp.Column):
                yield Place("", output.alias_or_name.lower())
            elif (place := self.place(inner)) is not None and place.table and self.is_listing:
                column, table = self.described(place), self.schema.table(place.table)
                if column is not None and table is not None and column.is_numeric and place.column not in key_names(table):
                    yield place

    def show_for_each(self, number: exp.Expr, is_more: bool) -> None:
        """For each group this number, instead of the others or (`is_more`) next to them; in no order, for all groups."""
        kept = [e for e in self.select.expressions if not e.find(exp.AggFunc) or (is_more and e.unalias().sql() != number.sql())]
        self.select.set("expressions", [*kept, number])
        self.order(())
        self.stop_after(None)

    def group(self, keys: Sequence[exp.Expr], instead: bool = True) -> None:
        """One row for each key: of the aggregates that are shown, else of the number of rows."""
        measures = [e for e in self.select.expressions if e.find(exp.AggFunc)] or [exp.Count(this=exp.Star())]
        has_more = self.is_grouped and not instead
        kept = [e for e in self.select.expressions if not e.find(exp.AggFunc)] if has_more else []
        old = list(self.select.args["group"].expressions) if has_more else []
        order = self.select.args.get("order")
        if order is not None and not all(o.this.find(exp.AggFunc) for o in order.expressions):
            self.order(())
        self.select.set("distinct", None)
        self.select.set("expressions", [*kept, *(k.copy() for k in keys), *measures])
        self.select.set("group", exp.Group(expressions=[*old, *(k.unalias().copy() for k in keys)]))


def in_words(places: Iterable[Place]) -> str:
    """The names of columns: `name, age and city`."""
    return listed([place.column for place in places])


def ordered(key: exp.Expr, is_down: bool) -> exp.Ordered:
    """A key to order by; NULLs stand last, whichever way."""
    return exp.Ordered(this=key, desc=is_down, nulls_first=False)


def key_names(table: Table) -> set[str]:
    """The columns that say which row is meant, its own or another table's."""
    return {k.lower() for k in table.primary_key} | {k.column.lower() for k in table.foreign_keys}


def _sources(select: exp.Select, schema: Schema) -> dict[str, Table | None]:
    found: dict[str, Table | None] = {}
    for source in sources_of(select)[0]:
        found[source.alias_or_name.lower()] = schema.table(source.name) if isinstance(source, exp.Table) else None
    return found


def _place(column: exp.Column, sources: dict[str, Table | None]) -> Place | None:
    name = column.name.lower()
    if column.table:
        table = sources.get(column.table.lower())
        return Place(table.name.lower(), name) if table is not None and table.column(name) else None
    holders = [t for t in sources.values() if t is not None and t.column(name)]
    return Place(holders[0].name.lower(), name) if holders else None


def name_outputs(select: exp.Select) -> None:
    """Give every output a name of its own, so that it can be read from outside."""
    taken: set[str] = set()
    named = []
    for output in select.expressions:
        inner = output.unalias()
        if isinstance(output, exp.Star) or output.is_star:
            named.append(output)
            continue
        name = output.alias or (inner.name if isinstance(inner, exp.Column) else _made_name(inner))
        while name.lower() in taken:
            name += "_2"
        taken.add(name.lower())
        named.append(output if (output.alias or output.name) == name else exp.alias_(inner, identifier(name)))
    select.set("expressions", named)


def _made_name(inner: exp.Expr) -> str:
    column = inner.find(exp.Column)
    kind = type(inner).__name__.lower() if isinstance(inner, exp.Func) else "value"
    return kind if column is None or isinstance(column.this, exp.Star) else f"{kind}_{column.name}".lower()


def _over(tree: exp.Expr) -> exp.Select:
    return exp.select("*").from_(exp.Subquery(this=tree, alias=exp.TableAlias(this=identifier(THOSE))))
