"""Other forms of a query that give the same rows: known rules, each applied only where schema and shape make it sound.

A rule takes a tree in which every column names its table, changes it in place and tells whether it did. Soundness rests on keys:
a primary key is unique, and not NULL (in SQLite only INTEGER PRIMARY KEY promises the latter).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.pushdown_predicates import pushdown_predicates
from sqlglot.optimizer.pushdown_projections import pushdown_projections
from sqlglot.optimizer.qualify import qualify

from openarctic.copilot.answers.phrases import conjuncts, sources_of
from openarctic.copilot.schema import Schema, Table

AGGREGATES = (exp.Count, exp.Sum, exp.Avg, exp.Max, exp.Min)
_SENSITIVE_TO_ORDER = (exp.GroupConcat, exp.ArrayAgg, exp.First, exp.Last, exp.AnyValue, exp.Window, exp.Limit)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A form to try: the rule's name, why it may give the same rows, and the SQL."""

    name: str
    why: str
    sql: str


def rewrites(tree: exp.Expr, schema: Schema) -> list[Rewrite]:
    """Every form that one rule gives, and the one that all of them give together where several apply."""
    dialect = schema.dialect
    try:
        base = _qualified(tree, schema)
    except (SqlglotError, RecursionError):
        return []
    found, together = [], base.copy()
    applied = 0
    for name, (why, rule) in RULES.items():
        changed = base.copy()
        try:
            if rule(changed, schema):
                found.append(Rewrite(name, why, _tidy(changed, tree).sql(dialect=dialect)))
                applied += rule(together, schema)
        except (SqlglotError, RecursionError):
            continue
    whole = _tidy(together, tree).sql(dialect=dialect)
    if applied > 1 and whole not in {r.sql for r in found}:
        found.append(Rewrite("all of these", "each keeps the rows, so all together do", whole))
    return found


def _qualified(tree: exp.Expr, schema: Schema) -> exp.Expr:
    names: dict[str, object] = {t.name.lower(): {c.name.lower(): c.type or "text" for c in t.columns} for t in schema.tables}
    return qualify(
        tree.copy(),
        schema=names,
        dialect=schema.dialect,
        expand_stars=True,
        validate_qualify_columns=False,
        identify=False,
        quote_identifiers=False,
    )


def _tidy(tree: exp.Expr, original: exp.Expr) -> exp.Expr:
    """Without the aliases that say nothing, and with the original's names of columns."""
    for table in tree.find_all(exp.Table):
        if table.alias and table.alias == table.name and not table.args["alias"].args.get("columns"):
            table.set("alias", None)
    for where in list(tree.find_all(exp.Where)):
        if isinstance(where.this, exp.Boolean) and where.this.this:
            where.pop()
    for alias in list(tree.find_all(exp.Alias)):
        if isinstance(alias.this, exp.Column) and alias.alias == alias.this.name and isinstance(alias.parent, exp.Select):
            alias.replace(alias.this)
    if isinstance(tree, exp.Select) and isinstance(original, exp.Select) and len(tree.expressions) == len(original.expressions):
        for new, old in zip(list(tree.expressions), original.expressions, strict=True):
            if isinstance(new, exp.Alias) and not old.alias and not isinstance(old, exp.Column | exp.Star):
                new.replace(new.this)
    return tree


# what is known of tables and columns


def _selects(tree: exp.Expr) -> Iterator[exp.Select]:
    yield from list(tree.find_all(exp.Select))


def _table(source: exp.Expr, schema: Schema) -> Table | None:
    """The real table that a source is; a CTE of that name hides it."""
    if not isinstance(source, exp.Table) or not isinstance(source.this, exp.Identifier):
        return None
    ctes = {cte.alias.lower() for cte in source.root().find_all(exp.CTE)}
    return None if source.name.lower() in ctes else schema.table(source.name)


def _is_key(table: Table, columns: set[str], dialect: str) -> bool:
    """Whether these columns hold the whole primary key, and it cannot be NULL."""
    key = {name.lower() for name in table.primary_key}
    if not key or not key <= columns or table.is_view:
        return False
    if dialect != "sqlite":
        return True
    column = table.column(table.primary_key[0])
    return len(key) == 1 and column is not None and column.type.upper() == "INTEGER"


def _columns_of(node: exp.Expr, alias: str) -> set[str]:
    return {c.name.lower() for c in node.find_all(exp.Column) if c.table.lower() == alias.lower()}


def _is_plain(select: exp.Select) -> bool:
    """No grouping, aggregate, window, limit or order of its own."""
    if any(
        select.args.get(k) for k in ("group", "having", "qualify", "limit", "offset", "order", "distinct", "with_", "windows")
    ):
        return False
    return not any(select is a.find_ancestor(exp.Select) for a in select.find_all(exp.AggFunc, exp.Window))


def _joined_on_key(join: exp.Join, schema: Schema) -> bool:
    """Whether a row can have at most one partner in the joined table: its key is compared."""
    table, on = _table(join.this, schema), join.args.get("on")
    if table is None or on is None or str(join.args.get("kind") or "").upper() in ("SEMI", "ANTI") or join.args.get("method"):
        return False
    alias = join.this.alias_or_name
    compared = {
        side.name.lower()
        for part in conjuncts(on)
        if isinstance(part, exp.EQ)
        for side, other in ((part.this, part.expression), (part.expression, part.this))
        if isinstance(side, exp.Column) and side.table.lower() == alias.lower() and alias.lower() not in _tables_in(other)
    }
    return _is_key(table, compared, schema.dialect)


def _tables_in(node: exp.Expr) -> set[str]:
    return {c.table.lower() for c in node.find_all(exp.Column)}


def _replace_conjunct(clause: exp.Expr, old: exp.Expr, new: exp.Expr | None) -> None:
    """In a WHERE or HAVING: another condition for one, or none."""
    parts = [new if part is old else part for part in conjuncts(clause.this)]
    kept = [part.copy() for part in parts if part is not None]
    if kept:
        clause.set("this", exp.and_(*kept, copy=False) if len(kept) > 1 else kept[0])
    else:
        clause.pop()


def _add_condition(select: exp.Select, condition: exp.Expr) -> None:
    select.where(condition, append=True, copy=False)


def _free_alias(tree: exp.Expr, wanted: str) -> str:
    taken = {t.alias_or_name.lower() for t in tree.root().find_all(exp.Table, exp.Subquery, exp.CTE)}
    number, name = 1, wanted
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


# rules


def drop_distinct(tree: exp.Expr, schema: Schema) -> bool:
    """DISTINCT over rows that a key already tells apart."""
    changed = False
    for select in _selects(tree):
        distinct = select.args.get("distinct")
        sources = sources_of(select)
        if distinct is None or distinct.args.get("on") is not None or select.args.get("group") or not sources:
            continue
        table = _table(sources[0], schema)
        shown = {
            e.unalias().name.lower()
            for e in select.expressions
            if isinstance(e.unalias(), exp.Column) and e.unalias().table.lower() == sources[0].alias_or_name.lower()
        }
        joins = select.args.get("joins") or []
        one_each = all(_joined_on_key(j, schema) and str(j.args.get("side") or "").upper() in ("", "LEFT") for j in joins)
        if table is not None and one_each and _is_key(table, shown, schema.dialect):
            select.set("distinct", None)
            changed = True
    return changed


def count_rows(tree: exp.Expr, schema: Schema) -> bool:
    """COUNT(DISTINCT key) of the only table counts its rows."""
    changed = False
    for count in list(tree.find_all(exp.Count)):
        select = count.find_ancestor(exp.Select)
        inner = count.this
        if select is None or not isinstance(inner, exp.Distinct) or len(inner.expressions) != 1 or len(sources_of(select)) != 1:
            continue
        table = _table(sources_of(select)[0], schema)
        column = inner.expressions[0]
        if table is not None and isinstance(column, exp.Column) and _is_key(table, {column.name.lower()}, schema.dialect):
            count.set("this", exp.Star())
            changed = True
    return changed


def drop_left_join(tree: exp.Expr, schema: Schema) -> bool:
    """A LEFT JOIN by key adds no rows and takes none away; unread, it is for nothing."""
    changed = False
    for select in _selects(tree):
        for join in list(select.args.get("joins") or []):
            if str(join.args.get("side") or "").upper() != "LEFT" or not _joined_on_key(join, schema):
                continue
            alias = join.this.alias_or_name
            inside = {id(c) for c in join.find_all(exp.Column)}
            read = [c for c in select.find_all(exp.Column) if c.table.lower() == alias.lower() and id(c) not in inside]
            if not read and not any(e.is_star for e in select.expressions):
                join.pop()
                changed = True
    return changed


def in_to_exists(tree: exp.Expr, schema: Schema) -> bool:
    """In WHERE, `x IN (SELECT y ...)` keeps a row just where a row with y = x exists."""
    changed = False
    for select, condition, inner in _memberships(tree):
        if inner.args.get("joins") and inner.find(exp.Subquery):
            continue
        query = inner.copy()
        query.set("distinct", None)
        for source in sources_of(query):
            if source.alias_or_name.lower() in _tables_in(condition.this):  # inside it would mean the inner table
                _rename(query, source, _free_alias(tree, f"{source.name.lower()}_in"))
        target = query.expressions[0].unalias()
        query.set("expressions", [exp.Literal.number(1)])
        _add_condition(query, exp.EQ(this=target.copy(), expression=condition.this.copy()))
        _replace_conjunct(select.args["where"], condition, exp.Exists(this=query))
        changed = True
    return changed


def in_to_join(tree: exp.Expr, schema: Schema) -> bool:
    """`x IN (SELECT key ...)`: as keys are unique, a join repeats no row."""
    changed = False
    for select, condition, inner in _memberships(tree):
        source, target = sources_of(inner)[0], inner.expressions[0].unalias()
        table = _table(source, schema)
        is_single = len(sources_of(inner)) == 1 and isinstance(target, exp.Column)
        if table is None or not is_single or not _is_key(table, {target.name.lower()}, schema.dialect):
            continue
        if any(e.is_star for e in select.expressions):
            continue
        alias = _free_alias(tree, f"{source.name.lower()}_in")
        query = inner.copy()
        _rename(query, sources_of(query)[0], alias)
        on: exp.Expr = exp.EQ(this=query.expressions[0].unalias().copy(), expression=condition.this.copy())
        if where := query.args.get("where"):
            on = exp.and_(on, where.this, copy=False)
        _replace_conjunct(select.args["where"], condition, None)
        select.append("joins", exp.Join(this=sources_of(query)[0].copy(), on=on))
        changed = True
    return changed


def _memberships(tree: exp.Expr) -> list[tuple[exp.Select, exp.In, exp.Select]]:
    """(select, `x IN (SELECT ...)` in its WHERE, that plain query) where the query reads nothing from outside."""
    found = []
    for select in _selects(tree):
        where = select.args.get("where")
        for condition in conjuncts(where.this) if where else []:
            query = condition.args.get("query") if isinstance(condition, exp.In) else None
            inner = query.this if isinstance(query, exp.Subquery) else query
            is_read = isinstance(inner, exp.Select) and len(inner.expressions) == 1 and sources_of(inner)
            if isinstance(condition, exp.In) and isinstance(inner, exp.Select) and is_read:
                bare = inner.copy()
                bare.set("distinct", None)
                if _is_plain(bare) and not inner.find(exp.SetOperation) and not _reads_outside(inner):
                    found.append((select, condition, inner))
    return found


def _rename(query: exp.Select, source: exp.Expr, alias: str) -> None:
    """Call a source of a query, and the columns that are read from it, by another name."""
    before = source.alias_or_name.lower()
    for column in query.find_all(exp.Column):
        if column.table.lower() == before:
            column.set("table", exp.to_identifier(alias))
    source.set("alias", exp.TableAlias(this=exp.to_identifier(alias)))


def _reads_outside(inner: exp.Select) -> bool:
    own = {s.alias_or_name.lower() for s in inner.find_all(exp.Table, exp.Subquery)}
    return any(c.table.lower() not in own for c in inner.find_all(exp.Column))


def decorrelate(tree: exp.Expr, schema: Schema) -> bool:
    """An aggregate that is computed for each row anew is computed once for all, grouped by what it is looked up by."""
    changed = False
    for subquery in list(tree.find_all(exp.Subquery)):
        inner, outer = subquery.this, subquery.find_ancestor(exp.Select)
        if outer is None or not isinstance(inner, exp.Select) or not _is_correlated_aggregate(inner):
            continue
        if any(e.is_star for e in outer.expressions):  # it would show what is joined
            continue
        is_shown = any(subquery in list(e.find_all(exp.Subquery)) for e in outer.expressions)
        where = outer.args.get("where")
        is_compared = where is not None and any(s is subquery for s in where.find_all(exp.Subquery))
        if is_shown and (
            outer.args.get("group") or any(a.find_ancestor(exp.Select) is outer for a in outer.find_all(exp.AggFunc))
        ):
            continue
        if not (is_shown or is_compared) or (split := _split_correlation(inner)) is None:
            continue
        keys, rest = split
        alias = _free_alias(tree, "grouped")
        value = inner.expressions[0].unalias()
        derived = exp.Select()
        derived.set("expressions", [exp.alias_(mine.copy(), f"key_{i}") for i, (mine, _) in enumerate(keys, start=1)])
        derived.append("expressions", exp.alias_(value.copy(), "value"))
        derived.set("from_", inner.args["from_"].copy())
        derived.set("joins", [j.copy() for j in inner.args.get("joins") or []])
        if rest:
            derived.where(exp.and_(*(r.copy() for r in rest)), copy=False)
        derived.group_by(*(mine.copy() for mine, _ in keys), copy=False)
        on = [exp.EQ(this=exp.column(f"key_{i}", alias), expression=its.copy()) for i, (_, its) in enumerate(keys, start=1)]
        looked_up: exp.Expr = exp.column("value", alias)
        if isinstance(value, exp.Count):
            looked_up = exp.Coalesce(this=looked_up, expressions=[exp.Literal.number(0)])
        subquery.replace(looked_up)
        outer.append("joins", exp.Join(this=derived.subquery(alias, copy=False), on=exp.and_(*on), side="LEFT"))
        changed = True
    return changed


def _is_correlated_aggregate(inner: exp.Select) -> bool:
    if any(inner.args.get(k) for k in ("group", "having", "limit", "offset", "order", "distinct", "qualify", "with_", "windows")):
        return False
    is_one = len(inner.expressions) == 1 and isinstance(inner.expressions[0].unalias(), AGGREGATES)
    is_flat = not inner.find(exp.SetOperation) and len(list(inner.find_all(exp.Select))) == 1
    return is_one and is_flat and bool(inner.args.get("where")) and bool(inner.args.get("from_")) and _reads_outside(inner)


def _split_correlation(inner: exp.Select) -> tuple[list[tuple[exp.Expr, exp.Expr]], list[exp.Expr]] | None:
    """(inner column, outer column) pairs that are equal, and the conditions on inner columns alone; None where more is said."""
    own = {s.alias_or_name.lower() for s in sources_of(inner)}
    keys: list[tuple[exp.Expr, exp.Expr]] = []
    rest: list[exp.Expr] = []
    for part in conjuncts(inner.args["where"].this):
        tables = _tables_in(part)
        if tables <= own:
            rest.append(part)
        elif isinstance(part, exp.EQ) and isinstance(part.this, exp.Column) and isinstance(part.expression, exp.Column):
            mine, its = (part.this, part.expression) if part.this.table.lower() in own else (part.expression, part.this)
            if mine.table.lower() not in own or its.table.lower() in own:
                return None
            keys.append((mine, its))
        else:
            return None
    elsewhere = [e for e in (*inner.expressions, *(inner.args.get("joins") or [])) if not _tables_in(e) <= own]
    return None if elsewhere or not keys else (keys, rest)


def having_to_where(tree: exp.Expr, _schema: Schema) -> bool:
    """A condition on group keys alone holds for all rows of a group or for none."""
    changed = False
    for select in _selects(tree):
        group, having = select.args.get("group"), select.args.get("having")
        if having is None or group is None or any(group.args.get(k) for k in ("rollup", "cube", "grouping_sets", "all")):
            continue
        keys = {e.sql().lower() for e in group.expressions if isinstance(e, exp.Column)}
        if len(keys) < len(group.expressions):
            continue
        for part in conjuncts(having.this):
            columns = list(part.find_all(exp.Column))
            is_about_keys = columns and all(c.sql().lower() in keys for c in columns)
            if is_about_keys and not part.find(exp.AggFunc, exp.Subquery, exp.Select):
                condition = part.copy()
                _replace_conjunct(having, part, None)
                _add_condition(select, condition)
                changed = True
                break
    return changed


def year_to_range(tree: exp.Expr, schema: Schema) -> bool:
    """`year of d = 2023` is a range of d, which an index or a scan's statistics can answer."""
    changed = False
    for condition in list(tree.find_all(exp.EQ)):
        year, value = condition.this, condition.expression
        column = year.expression if isinstance(year, exp.Extract) and str(year.this).upper() == "YEAR" else None
        if isinstance(year, exp.Year):
            column = year.this
        while isinstance(column, exp.TsOrDsToDate | exp.Paren):
            column = column.this
        is_year = isinstance(value, exp.Literal) and not value.is_string and value.name.isdigit() and 1 <= int(value.name) < 9999
        if isinstance(column, exp.Column) and is_year and _is_date(column, schema):
            start, end = (_date(f"{int(value.name) + i:04d}-01-01") for i in (0, 1))
            range_ = exp.and_(exp.GTE(this=column.copy(), expression=start), exp.LT(this=column.copy(), expression=end))
            condition.replace(exp.paren(range_, copy=False))
            changed = True
    return changed


def _date(text: str) -> exp.Cast:
    return exp.Cast(this=exp.Literal.string(text), to=exp.DataType.build("date"))


def _is_date(column: exp.Column, schema: Schema) -> bool:
    """A real date or time without zone; SQLite's are texts or numbers."""
    if schema.dialect == "sqlite":
        return False
    select = column.find_ancestor(exp.Select)
    for source in sources_of(select) if select is not None else []:
        if source.alias_or_name.lower() == column.table.lower() and (table := _table(source, schema)):
            known = table.column(column.name)
            kind = known.type.upper() if known else ""
            return (
                kind.startswith(("DATE", "TIMESTAMP"))
                and "ZONE" not in kind.replace("WITHOUT TIME ZONE", "")
                and "TZ" not in kind
            )
    return False


def or_to_union(tree: exp.Expr, _schema: Schema) -> bool:
    """Each side of OR on its own can use its own index; the second one leaves out what the first has."""
    if not isinstance(tree, exp.Select) or not _is_plain(tree) or not tree.args.get("where"):
        return False
    condition = tree.args["where"].this
    while isinstance(condition, exp.Paren):
        condition = condition.this
    if not isinstance(condition, exp.Or) or condition.find(exp.Select):
        return False
    first, second = condition.this, condition.expression
    one, other = tree.copy(), tree.copy()
    one.args["where"].set("this", first.copy())
    not_first = exp.Not(this=exp.Is(this=exp.paren(first.copy()), expression=exp.Boolean(this=True)))
    other.args["where"].set("this", exp.and_(exp.paren(second.copy()), not_first))
    union = exp.Union(this=one, expression=other, distinct=False)
    # The tree is changed in place: the root becomes a query over the union.
    columns = [exp.column(e.alias_or_name, "united") for e in tree.expressions]
    names = [e.alias_or_name.lower() for e in tree.expressions]
    if not all(names) or len(set(names)) < len(names):
        return False
    for part in [k for k, v in tree.args.items() if v]:
        tree.set(part, None)
    tree.set("expressions", columns)
    tree.set("from_", exp.From(this=union.subquery("united", copy=False)))
    return True


def push_down(tree: exp.Expr, schema: Schema) -> bool:
    """Conditions are asked, and columns dropped, as near to the tables as can be (sqlglot's rules)."""
    if not tree.find(exp.CTE) and not any(isinstance(s, exp.Subquery) for x in _selects(tree) for s in sources_of(x)):
        return False
    before = tree.sql(dialect=schema.dialect)
    pushed = pushdown_projections(pushdown_predicates(tree.copy(), dialect=schema.dialect))
    if pushed.sql(dialect=schema.dialect) == before:
        return False
    for key in list(tree.args):
        tree.set(key, None)
    for key, value in pushed.args.items():
        tree.set(key, value)
    return True


def drop_inner_order(tree: exp.Expr, _schema: Schema) -> bool:
    """The order of a nested query's rows means nothing unless something counts on it."""
    if tree.find(*_SENSITIVE_TO_ORDER):
        return False
    changed = False
    for select in _selects(tree):
        if select is not tree and select.args.get("order"):
            select.set("order", None)
            changed = True
    return changed


RULES: dict[str, tuple[str, Callable[[exp.Expr, Schema], bool]]] = {
    "drop DISTINCT": ("the key is among the columns, so no two rows are the same", drop_distinct),
    "count rows": ("every row has a key of its own", count_rows),
    "drop a LEFT JOIN": ("it joins by key and nothing of it is read", drop_left_join),
    "group once": ("the aggregate depends on its key alone, so it is computed once for each key", decorrelate),
    "IN as EXISTS": ("a row is kept just where a partner exists", in_to_exists),
    "IN as a join": ("the key is unique, so a join repeats no row", in_to_join),
    "HAVING as WHERE": ("the condition is on group keys alone", having_to_where),
    "year as a range": ("a year is the time from its first day to the next year's", year_to_range),
    "OR as UNION ALL": ("the second part leaves out what the first one has", or_to_union),
    "push down": ("conditions and columns are handled where the tables are read", push_down),
    "drop a nested ORDER BY": ("nothing depends on the order of the nested rows", drop_inner_order),
}
