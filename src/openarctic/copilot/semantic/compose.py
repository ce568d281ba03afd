"""SQL for metrics by dimensions, over as many tables as they need.

The expression of a metric is taken apart into its aggregates. Each has a home: the table whose rows it adds up, with at most one
partner in every other table that it names (`graph.py`). Aggregates of one home share one SELECT; those of several homes are each
computed in a CTE of their own, by the same dimensions, and put together afterwards. So no row is ever counted twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sqlglot import exp

from openarctic.copilot.joins import identifier
from openarctic.copilot.semantic.graph import FanOutError, RelationshipGraph, Step
from openarctic.copilot.semantic.layer import SemanticLayer, key_column
from openarctic.copilot.semantic.model import Metric, SemanticTable
from openarctic.errors import UserError

Grain = Literal["day", "week", "month", "quarter", "year"]


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric in SQL, with the label that its column gets; `using` are relationships to prefer."""

    label: str
    tree: exp.Expr
    home: str | None
    using: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """A field to group by; a time at the wanted grain."""

    table: str
    field: str
    grain: Grain | None = None

    @property
    def label(self) -> str:
        """Of its column."""
        return self.field if self.grain is None or self.grain == self.field.lower() else f"{self.field}_{self.grain}"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition over the fields of one logical table, its columns qualified by that table's name."""

    table: str
    tree: exp.Expr


@dataclass(frozen=True, slots=True)
class MetricQuery:
    """What is measured, by what, of which rows; `order` sorts by the first measure, `limit` keeps the first groups.

    `shows_measures` False returns the groups alone.
    """

    measures: tuple[Measure, ...]
    groups: tuple[Group, ...] = ()
    conditions: tuple[Condition, ...] = ()
    order: Literal["", "asc", "desc"] = ""
    limit: int | None = None
    shows_measures: bool = True


def measure(layer: SemanticLayer, metric: Metric, home: SemanticTable | None) -> Measure:
    """A metric of the model. Raises UserError for expressions that cannot be followed, or that cannot be summed up freely."""
    if metric.extra.get("non_additive_dimensions"):
        raise UserError(f"metric {metric.name} is not additive over some dimensions, and is not composed")
    return Measure(metric.name, layer.metric(metric, home), home.name if home else None, metric.using_relationships)


def homes(layer: SemanticLayer, measures: Sequence[Measure]) -> tuple[str, ...]:
    """The tables whose rows the measures add up. Raises UserError as `compose` does."""
    composer = _Composer(layer, MetricQuery(tuple(measures)))
    for item in measures:
        composer.take_apart(item)
    return tuple(composer.parts)


def compose(layer: SemanticLayer, query: MetricQuery) -> exp.Query:
    """The SQL, over base tables. Raises UserError (FanOutError where rows would be counted twice) for what cannot be composed."""
    return _Composer(layer, query).compose()


@dataclass(frozen=True, slots=True)
class _Part:
    """The aggregates of one home, each with its label."""

    home: str
    aggregates: list[tuple[str, exp.Expr]] = field(default_factory=list)
    using: list[str] = field(default_factory=list)


class _Composer:
    def __init__(self, layer: SemanticLayer, query: MetricQuery) -> None:
        self.layer, self.query = layer, query
        self.graph = RelationshipGraph(layer.model)
        self.parts: dict[str, _Part] = {}

    def compose(self) -> exp.Query:
        measured = [self.take_apart(m) for m in self.query.measures]
        for part in self.parts.values():
            self._check_reach(part)
        if len(self.parts) == 1:
            return self._single(next(iter(self.parts.values())), measured)
        return self._several(measured)

    def take_apart(self, item: Measure) -> exp.Expr:
        """The expression, with a placeholder column for each aggregate, which `parts` now have."""
        tree = item.tree.copy()
        if tree.find(exp.Window, exp.Subquery, exp.Select):
            raise UserError(f"metric {item.label} has a window or a subquery, and is not composed")
        outermost = list(_outermost_aggregates(tree))
        if not outermost:
            raise UserError(f"metric {item.label} aggregates nothing")
        inside = {id(column) for aggregate in outermost for column in aggregate.find_all(exp.Column)}
        loose = [column for column in tree.find_all(exp.Column) if id(column) not in inside]
        if loose:
            raise UserError(f"metric {item.label} uses {loose[0].sql()} outside of an aggregate")
        for aggregate in outermost:
            inner = aggregate.this if isinstance(aggregate, exp.Filter) else aggregate
            if any(a is not inner for a in aggregate.find_all(exp.AggFunc)):
                raise UserError(f"metric {item.label} has an aggregate inside an aggregate")
            place = self._place(aggregate, item)
            if aggregate is tree:
                tree = place
            else:
                aggregate.replace(place)
        return tree

    def _place(self, aggregate: exp.Expr, item: Measure) -> exp.Column:
        tables = {column.table for column in aggregate.find_all(exp.Column)} or ({item.home} if item.home else set())
        if not tables:
            raise UserError(
                f"metric {item.label} counts the rows of no table", "write it in a table's metrics, or count a column"
            )
        home = self.graph.home(tables)
        part = self.parts.setdefault(home, _Part(home))
        part.using.extend(item.using)
        for label, known in part.aggregates:
            if known == aggregate:
                return exp.Column(this=identifier(label), table=identifier(home))
        label = f"{item.label}_{sum(len(p.aggregates) for p in self.parts.values()) + 1}"
        part.aggregates.append((label, aggregate.copy()))
        return exp.Column(this=identifier(label), table=identifier(home))

    def _check_reach(self, part: _Part) -> None:
        reach = self.graph.reachable(part.home)
        for table in (*(g.table for g in self.query.groups), *(c.table for c in self.query.conditions)):
            if table not in reach:
                raise FanOutError(
                    f"rows of {part.home} would be counted several times by {table}",
                    f"no relationships lead from {part.home} (many) to {table} (one)",
                )

    def _single(self, part: _Part, measured: Sequence[exp.Expr]) -> exp.Query:
        """One SELECT: every placeholder is its aggregate again."""
        trees = [_filled(tree, dict(part.aggregates)) for tree in measured]
        shown = [(m.label, tree) for m, tree in zip(self.query.measures, trees, strict=True)]
        select = self._select(part, shown if self.query.shows_measures else [], trees)
        return self._ordered(select, trees[0], [self._group(g) for g in self.query.groups])

    def _several(self, measured: Sequence[exp.Expr]) -> exp.Query:
        names = {home: self._unused(f"{home}_part") for home in self.parts}
        groups = self._unused("all_groups")
        labels = [g.label for g in self.query.groups]
        aggregates = {label: tree for part in self.parts.values() for label, tree in part.aggregates}
        trees = [_from_parts(tree, names, aggregates if labels else {}) for tree in measured]
        shown = [exp.alias_(tree, identifier(m.label)) for m, tree in zip(self.query.measures, trees, strict=True)]
        if labels:
            spine = self._spine(names, labels)
            keys = [exp.Column(this=identifier(label), table=identifier(groups)) for label in labels]
            shown = shown if self.query.shows_measures else []
            select = exp.select(*[k.copy() for k in keys], *shown).from_(exp.Table(this=identifier(groups)))
            for name in names.values():
                select = select.join(exp.Table(this=identifier(name)), on=_same(labels, groups, name), join_type="left")
        else:
            first, *others = names.values()
            select = exp.select(*shown).from_(exp.Table(this=identifier(first)))
            for name in others:
                select = select.join(exp.Table(this=identifier(name)), join_type="cross")
        for home, part in self.parts.items():
            select = select.with_(names[home], as_=self._select(part, part.aggregates), copy=False)
        if labels:
            select = select.with_(groups, as_=spine, copy=False)
        return self._ordered(select, trees[0], keys if labels else [])

    def _unused(self, name: str) -> str:
        """A name that no table of the database has."""
        while self.layer.base.table(name) is not None or self.layer.model.table(name) is not None:
            name += "_"
        return name

    def _spine(self, names: dict[str, str], labels: Sequence[str]) -> exp.Query:
        """Every group that any part has, once."""
        sides: list[exp.Query] = [
            exp.select(*(exp.Column(this=identifier(label)) for label in labels)).from_(exp.Table(this=identifier(name)))
            for name in names.values()
        ]
        spine = sides[0]
        for side in sides[1:]:
            spine = exp.union(spine, side, copy=False)
        return spine

    def _select(self, part: _Part, measured: Sequence[tuple[str, exp.Expr]], ordered_by: Sequence[exp.Expr] = ()) -> exp.Select:
        groups = [self._group(g) for g in self.query.groups]
        trees = [*(tree for _, tree in measured), *ordered_by]
        used = [t for tree in trees for t in dict.fromkeys(column.table for column in tree.find_all(exp.Column))]
        wanted = dict.fromkeys((*used, *(g.table for g in self.query.groups), *(c.table for c in self.query.conditions)))
        select = exp.select(
            *(exp.alias_(tree, identifier(g.label)) for tree, g in zip(groups, self.query.groups, strict=True)),
            *(exp.alias_(tree, identifier(label)) for label, tree in measured),
        ).from_(self.layer.relation(self._table(part.home), part.home))
        certain = {part.home}  # tables of which every row so far has a partner
        for step in self._steps(part, wanted):
            is_inner = step.is_inner and step.here in certain
            certain |= {step.there} if is_inner else set()
            join = self.layer.relation(self._table(step.there), step.there)
            select = select.join(join, on=self._on(step), join_type="" if is_inner else "left")
        for condition in self.query.conditions:
            select = select.where(condition.tree.copy())
        return select.group_by(*(g.copy() for g in groups)) if groups else select

    def _steps(self, part: _Part, wanted: Iterable[str]) -> list[Step]:
        """The joins that lead from home to all wanted tables, each once. Raises UserError where one table is reached by two."""
        steps: dict[str, Step] = {}
        for table in wanted:
            for step in self.graph.path(part.home, table, part.using):
                if steps.setdefault(step.there, step) != step:
                    ways = f"{steps[step.there].relationship} and {step.relationship}"
                    raise UserError(
                        f"{step.there} is needed by two ways, {ways}", "give the tables of each way names of their own"
                    )
        return list(steps.values())

    def _on(self, step: Step) -> exp.Expr:
        conditions = [exp.EQ(this=self._key(step.here, mine), expression=self._key(step.there, its)) for mine, its in step.pairs]
        return exp.and_(*conditions, copy=False)

    def _key(self, table: str, column: str) -> exp.Expr:
        logical = self._table(table)
        if logical.field(column) is not None:
            return self.layer.field(logical, column, table)
        found = key_column(self.layer, logical, column)
        if found is None:
            raise UserError(f"a relationship joins by {table}.{column}, which is not there")
        return exp.Column(this=identifier(found), table=identifier(table))

    def _group(self, group: Group) -> exp.Expr:
        tree = self.layer.field(self._table(group.table), group.field, group.table)
        return tree if group.grain is None else truncated(tree, group.grain, self.layer.dialect)

    def _table(self, name: str) -> SemanticTable:
        table = self.layer.model.table(name)
        assert table is not None, name
        return table

    def _ordered(self, select: exp.Select, by: exp.Expr, groups: Sequence[exp.Expr]) -> exp.Select:
        order = [exp.Ordered(this=by.copy(), desc=self.query.order == "desc", nulls_first=False)] if self.query.order else []
        order += [exp.Ordered(this=g.copy(), nulls_first=False) for g in groups]  # so that equal values have one order
        if order:
            select = select.order_by(*order)
        return select.limit(self.query.limit) if self.query.limit is not None else select


def _outermost_aggregates(tree: exp.Expr) -> Iterable[exp.Expr]:
    for aggregate in tree.find_all(exp.AggFunc):
        is_filtered = isinstance(aggregate.parent, exp.Filter) and aggregate.parent.this is aggregate
        node: exp.Expr = aggregate.parent if is_filtered and aggregate.parent else aggregate
        above = node.parent
        while above is not None and not isinstance(above, exp.AggFunc):
            above = above.parent
        if above is None:
            yield node


def _filled(tree: exp.Expr, aggregates: dict[str, exp.Expr]) -> exp.Expr:
    if isinstance(tree, exp.Column):
        return aggregates[tree.name].copy()
    tree = tree.copy()
    for column in list(tree.find_all(exp.Column)):
        column.replace(aggregates[column.name].copy())
    return tree


def _from_parts(tree: exp.Expr, names: dict[str, str], aggregates: dict[str, exp.Expr]) -> exp.Expr:
    """Placeholders become columns of the CTEs; a group that a part does not have counts and adds up to nothing there."""

    def column(place: exp.Column) -> exp.Expr:
        there = exp.Column(this=place.this.copy(), table=identifier(names[place.table]))
        aggregate = aggregates.get(place.name)
        inner = aggregate.this if isinstance(aggregate, exp.Filter) else aggregate
        is_additive = isinstance(inner, exp.Sum | exp.Count)
        return exp.Coalesce(this=there, expressions=[exp.Literal.number(0)]) if is_additive else there

    if isinstance(tree, exp.Column):
        return column(tree)
    tree = tree.copy()
    for place in list(tree.find_all(exp.Column)):
        place.replace(column(place))
    return tree


def _same(labels: Sequence[str], left: str, right: str) -> exp.Expr:
    """Equal groups, those that are NULL too."""
    return exp.and_(
        *(
            exp.NullSafeEQ(
                this=exp.Column(this=identifier(label), table=identifier(left)),
                expression=exp.Column(this=identifier(label), table=identifier(right)),
            )
            for label in labels
        ),
        copy=False,
    )


def truncated(tree: exp.Expr, grain: Grain, dialect: str) -> exp.Expr:
    """A time at a grain: the first day of its period; in SQLite, which has no such function, text such as 2024-05."""
    if dialect != "sqlite":
        return exp.TimestampTrunc(this=tree, unit=exp.var(grain.upper()))
    if grain == "quarter":
        return _quarter(tree)
    forms = {"day": "%Y-%m-%d", "week": "%Y-%W", "month": "%Y-%m", "year": "%Y"}
    return exp.Anonymous(this="strftime", expressions=[exp.Literal.string(forms[grain]), tree])


def _quarter(tree: exp.Expr) -> exp.Expr:
    """2024-Q2, in SQLite's functions."""
    year = exp.Anonymous(this="strftime", expressions=[exp.Literal.string("%Y"), tree.copy()])
    month = exp.cast(exp.Anonymous(this="strftime", expressions=[exp.Literal.string("%m"), tree.copy()]), "int")
    quarter = exp.Div(
        this=exp.Paren(this=exp.Add(this=month, expression=exp.Literal.number(2))), expression=exp.Literal.number(3), typed=True
    )
    return exp.DPipe(this=exp.DPipe(this=year, expression=exp.Literal.string("-Q")), expression=exp.Paren(this=quarter))
