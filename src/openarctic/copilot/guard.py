"""The first layer that guards data: an allow-list on the parsed tree.

A statement passes when it is exactly one read; when every part of its tree is on the list; when every table is known
and allowed in its own scope (a CTE counts only where it is visible); when every function is on the list; and when every
column belongs to a table in scope. Whatever the list does not name is refused, so what nobody thought of is refused too.
"""

from __future__ import annotations

import datetime
import difflib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import sqlglot
from sqlglot import exp
from sqlglot.errors import OptimizeError, SqlglotError
from sqlglot.generators.duckdb import DuckDBGenerator
from sqlglot.optimizer.qualify import qualify

from openarctic.copilot.schema import Schema
from openarctic.copilot.scopes import read_names
from openarctic.copilot.spelling import meant_name, plain_name, spell
from openarctic.errors import RefusedError, UserError

DIALECTS = ("duckdb", "sqlite", "postgres", "snowflake")
MAX_SQL_CHARS = 100_000
MAX_SERIES = 100_000
MAX_LIMIT = 10_000_000

# sqlglot tells of unsupported syntax by logging; here that is a refusal, not news.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL)

_QUERY = (exp.Select, exp.SetOperation, exp.Subquery)

_NODES: tuple[type[exp.Expr], ...] = tuple(
    getattr(exp, name)
    for name in (
        "Select Union Except Intersect Subquery With CTE From Join Where Group Having Qualify Order Ordered Limit Offset "
        "Fetch LimitOptions Distinct Table TableAlias TableSample Alias Column Identifier Star Literal Boolean Null Paren "
        "Tuple And Or Not EQ NEQ GT GTE LT LTE Is In Between Like ILike SimilarTo Escape NullSafeEQ NullSafeNEQ Glob Add Sub "
        "Mul Div Mod IntDiv Neg DPipe BitwiseAnd BitwiseOr BitwiseXor BitwiseNot Case If Cast TryCast DataType DataTypeParam "
        "Interval IntervalSpan Var Window WindowSpec Filter WithinGroup Exists Any All Values Lateral Unnest Pivot PivotAlias "
        "UnpivotColumns Lambda Dot Collate Bracket Slice Rollup Cube GroupingSets IgnoreNulls RespectNulls AtTimeZone "
        "JSONKeyValue Array Struct PropertyEQ Kwarg TableColumn JSONPath JSONPathRoot JSONPathKey JSONPathSubscript"
    ).split()
    if hasattr(exp, name)
)

# Nothing with side effects, nothing that reads a file, a setting or the catalogue, nothing that grows without bound.
PERMITTED_FUNCTIONS = frozenset(
    """
    abs acos add_months age all and any_value approx_count_distinct approx_distinct approx_quantile approx_top_k arg_max
    arg_min array array_agg array_append array_concat array_concat_agg array_contains array_distinct array_length
    array_max array_min array_overlaps array_position array_prepend array_remove array_reverse array_size array_sort
    array_to_string as_integer ascii asin atan atan2 avg base64 base64_encode bin bit_count bit_length bitand bitor
    bitwise_and bitwise_and_agg bitwise_or bitwise_or_agg bitwise_xor bitwise_xor_agg bitxor bool_and bool_or
    cardinality case cast cast_to_str_type cbrt ceil ceiling century char_length charindex check_json chr
    clock_timestamp coalesce columns concat concat_ws contains convert_timezone corr cos cosh cot count count_if
    count_star covar_pop covar_samp cume_dist current_date current_time current_timestamp damerau_levenshtein date
    date_add date_bin date_diff date_from_parts date_part date_str_to_date date_sub date_trunc dateadd datediff
    datesub datetime datetrunc day day_of_month day_of_week day_of_week_iso day_of_year dayname dayofweek_iso decade
    decode decode_case degrees dense_rank div div0 divide dpipe element_at encode ends_with endswith entropy epoch
    equal_null era even every exists exp explode extract favg filter first first_value flatten floor fmod
    format_bytes format_date fsum gamma gcd geomean geometric_mean get_current_timestamp get_extract glob greatest
    greatest_common_divisor group_concat grouping grouping_id hash haversine hex histogram hll hour if iff ifnull
    ilike initcap instr is_inf is_nan is_null_value isfinite isinf isnull iso_week j_s_o_n_array j_s_o_n_array_agg
    j_s_o_n_object j_s_o_n_object_agg jaccard jarowinkler_similarity json json_array json_array_length
    json_build_object json_extract json_extract_scalar json_format json_keys json_quote json_structure json_type
    json_typeof json_valid jsonb_agg jsonb_array_length jsonb_build_object jsonb_extract jsonb_extract_path_text
    jsonb_extract_scalar julian julianday justify_days kurtosis lag last last_day last_value lcm lead least left
    length levenshtein lgamma like likelihood list list_aggregate list_avg list_extract list_position list_reduce
    list_reverse list_slice list_string_agg list_sum list_unique ln localtimestamp log log10 log2 logical_and
    logical_or lower ltrim mad make_date make_interval map map_keys map_values max max_by md5 median microsecond
    millisecond min min_by minute mod mode month monthname months_between next_day nextafter nfc_normalize now
    nth_value ntile nullif num_nonnulls num_nulls nvl nvl2 object_agg octet_length or ord overlay pad parse_json
    percent_rank percentile_cont percentile_disc pg_typeof pi position pow power prefix previous_day product
    quantile quantile_cont quantile_disc quarter quote_literal radians rand random rank ratio_to_report regexp_count
    regexp_extract regexp_extract_all regexp_full_match regexp_i_like regexp_instr regexp_like regexp_match
    regexp_matches regexp_replace regexp_split regexp_split_to_array regr_avgx regr_avgy regr_count regr_intercept
    regr_r2 regr_slope regr_sxx regr_sxy regr_syy repeat replace reverse right round row row_number row_to_json
    rtrim s_h_a2_digest sample_stddev scale second sem sha sha2 sign similarity sin sinh skewness soundex split
    split_part sqrt square starts_with startswith stddev stddev_pop stddev_samp str_position str_to_date str_to_time
    strftime string_agg string_to_array strip strip_accents strlen strpos strptime strtok struct struct_extract
    stuff substr substring suffix sum tan tanh time time_bucket time_from_parts time_slice time_str_to_time
    time_to_str time_to_unix timediff timestamp timestamp_from_parts timestamp_from_parts_ntz timestamp_trunc
    to_array to_base64 to_boolean to_char to_date to_days to_double to_hours to_json to_jsonb to_minutes to_months
    to_number to_object to_seconds to_timestamp to_timestamp_ntz to_varchar to_variant to_weeks to_years total
    transform translate trim trunc try_cast try_parse_json try_strptime try_to_timestamp ts_or_ds_add ts_or_ds_diff
    ts_or_ds_to_date ts_or_ds_to_time ts_or_ds_to_timestamp typeof unaccent unhex unicode unix_epoch unix_to_time
    unixepoch unnest upper var_pop var_samp variance week week_of_year weekday weighted_avg width_bucket xor year
    year_of_week yearweek
    """.split()
)
# Functions that make long texts: so many characters or copies at most, and none inside another.
_GROWING = (exp.Pad, exp.Repeat)
MAX_GROWTH = 1000
_SERIES = ("generate_series", "range", "generateseries", "exploding_generate_series")
_MANY_ROWS = ("GenerateSeries", "ExplodingGenerateSeries")
_DAYS = {"second": 1 / 86400, "minute": 1 / 1440, "hour": 1 / 24, "day": 1, "week": 7, "month": 28, "quarter": 90, "year": 365}
# The schema that unqualified names mean anyway: its name is dropped.
_MAIN_SCHEMAS = ("main", "public")
_CONSTRUCTS = (exp.Connector, exp.Case, exp.Cast, exp.If, exp.Any, exp.All, exp.Exists, exp.Array, exp.Struct, exp.Unnest)


@dataclass(frozen=True, slots=True)
class Checked:
    """A statement that may run: `sql` (written anew from the tree), the real tables and the columns it reads.

    Under a policy `sql` is what runs, and `original` is the same statement before the policy rewrote it; `filtered` names the
    tables of which the reader sees some rows only; `max_rows` and `max_seconds` are limits that no caller can exceed; `role` is
    the role of the database that it runs under.
    `tree` is that of `shown`: whoever changes it copies it first.
    """

    sql: str
    tables: tuple[str, ...]
    columns: tuple[str, ...]
    original: str | None = None
    filtered: tuple[str, ...] = ()
    max_rows: int | None = None
    max_seconds: float | None = None
    role: str | None = None
    tree: exp.Expr | None = field(default=None, compare=False, repr=False)

    @property
    def shown(self) -> str:
        """What people may see: without the filters and masks of a policy."""
        return self.sql if self.original is None else self.original


def check(
    sql: str,
    dialect: str,
    schema: Schema | None,
    allowed_tables: Iterable[str] | None = None,
    principal: str | None = None,
) -> Checked:
    """Pass one read over known tables, columns and functions.

    `schema` None checks tables against `allowed_tables` alone. `principal` is who asks: without a policy everybody may
    read everything that `allowed_tables` leaves (with one, `access.Access.check` is the door). Raises RefusedError with one of
    `RefusedError.REFUSALS`, UserError for an unknown dialect.
    """
    return check_within(sql, dialect, Bounds(schema, allowed_tables))


class Bounds:
    """What a statement may name.

    `schema` holds what may be read and `allowed_tables` narrows it. What stands in `whole` alone is not permitted rather than
    unknown. `functions` narrows the guard's own list of functions.
    """

    def __init__(
        self,
        schema: Schema | None,
        allowed_tables: Iterable[str] | None = None,
        whole: Schema | None = None,
        functions: frozenset[str] | None = None,
    ) -> None:
        self.schema, self.whole, self.functions = schema, whole or schema, functions
        self.tables = _known_tables(schema, allowed_tables)
        self.namespace = "" if self.whole is None else self.whole.namespace


def check_within(sql: str, dialect: str, bounds: Bounds) -> Checked:
    """`check` within bounds that are made once for many statements."""
    if dialect not in DIALECTS:
        raise UserError(f"dialect {dialect!r} is not supported", f"known: {', '.join(DIALECTS)}")
    tree = _parse(sql, dialect)
    try:
        spell(tree, dialect, bounds.whole)
        tables = _check_tables(tree, bounds)
        for column in tree.find_all(exp.Column):
            if is_in_main(column, bounds.namespace):
                column.set("db", None)
        for node in tree.walk():
            _check_node(node, dialect, bounds.functions)
        columns = _check_columns(tree, dialect, bounds, tables)
        return Checked(write_sql(tree, dialect), tuple(sorted(tables)), columns, tree=tree)
    except RecursionError as error:
        raise RefusedError("too_expensive", "the statement is nested too deeply") from error


class _DuckDBWriter(DuckDBGenerator):
    """sqlglot takes the qualifiers off every column below a PIVOT, also those of the query that it pivots: there they matter."""

    TRANSFORMS: ClassVar = {kind: write for kind, write in DuckDBGenerator.TRANSFORMS.items() if kind is not exp.Pivot}


def write_sql(tree: exp.Expr, dialect: str) -> str:
    """The text of a tree. It is this text that runs, so it must say what the tree says."""
    return _DuckDBWriter(dialect=dialect).generate(tree) if dialect == "duckdb" else tree.sql(dialect=dialect)


def _known_tables(schema: Schema | None, allowed: Iterable[str] | None) -> frozenset[str]:
    every = None if schema is None else frozenset(t.name.lower() for t in schema.tables)
    if allowed is None:
        if every is None:
            raise UserError("a schema or a list of allowed tables is needed")
        return every
    wanted = frozenset(name.lower() for name in allowed)
    return wanted if every is None else wanted & every


def _parse(sql: str, dialect: str) -> exp.Expr:
    if len(sql) > MAX_SQL_CHARS:
        raise RefusedError("too_expensive", f"the statement has {len(sql)} characters, the limit is {MAX_SQL_CHARS}")
    if "\x00" in sql:
        raise RefusedError("unparsable", "the statement holds a NUL character")
    try:
        statements = [s for s in sqlglot.parse(sql, read=dialect) if s is not None]
    except (SqlglotError, RecursionError) as error:
        detail = str(error).splitlines()[0] if str(error) else "too deeply nested"
        raise RefusedError("unparsable", f"this is not {dialect} SQL that can be understood: {detail}") from error
    if not statements:
        raise RefusedError("unparsable", "there is no statement")
    if len(statements) > 1:
        raise RefusedError("not_a_read", f"{len(statements)} statements were given", "run one SELECT at a time")
    tree = statements[0]
    is_pivot = dialect == "duckdb" and isinstance(tree, exp.Pivot)
    if not isinstance(tree, _QUERY) and not is_pivot:
        raise RefusedError("not_a_read", f"{_label(tree)} is not a read", "only SELECT statements may run")
    return tree


def _label(node: exp.Expr) -> str:
    if isinstance(node, exp.Command):
        return str(node.this).upper()
    return type(node).__name__.upper()


def _check_tables(tree: exp.Expr, bounds: Bounds) -> set[str]:
    """The real tables of a tree, in lower case. Raises RefusedError for one that is unknown or not permitted."""
    names = read_names(tree)
    ctes = {cte.alias.lower() for cte, _ in names.ctes}
    for clause in tree.find_all(exp.With):
        if clause.args.get("recursive"):
            for cte in clause.expressions:
                _check_recursion(cte.this, cte.alias.lower())
    for node in names.functions:
        _check_series(node)
    for node in names.tables:
        if is_in_main(node, bounds.namespace) and node.name.lower() not in ctes:
            node.set("db", None)
        _check_table(node, bounds)
    return {node.name.lower() for node in names.tables}


def _check_table(node: exp.Table, bounds: Bounds) -> None:
    name = node.name.lower()
    if node.args.get("db") or node.args.get("catalog"):
        raise RefusedError("unknown_table", f"table {node.sql()} is qualified by a schema", f"write {node.name}")
    if name in bounds.tables:
        return
    near = difflib.get_close_matches(name, bounds.tables, 1)
    hint = f"did you mean {near[0]}?" if near else f"tables: {', '.join(sorted(bounds.tables)[:10])}"
    if bounds.whole is not None and bounds.whole.table(name) is not None:
        raise RefusedError("not_permitted", f"table {node.name} may not be read here", hint)
    raise RefusedError("unknown_table", f"there is no table {node.name}", hint)


def _check_series(node: exp.Table) -> None:
    function = node.this
    if not is_small_series(function):
        name = function.sql_name() if isinstance(function, exp.Func) else type(function).__name__
        if isinstance(function, exp.Anonymous):
            name = function.name
        raise RefusedError("forbidden_function", f"{name} may not be read as a table", "read the tables by name")


def is_in_main(node: exp.Table | exp.Column, namespace: str = "") -> bool:
    """Whether a name is qualified by the schema that it means anyway: `namespace`, or the usual one of the engine."""
    known = (namespace.lower(),) if namespace else _MAIN_SCHEMAS
    return node.text("db").lower() in known and not node.args.get("catalog")


def _check_recursion(query: exp.Expr, name: str) -> None:
    """A recursive branch needs a condition: without one nothing but the clock ends it."""
    for table in query.find_all(exp.Table):
        select = table.find_ancestor(exp.Select)
        if table.name.lower() == name and select is not None and not select.args.get("where"):
            raise RefusedError("too_expensive", f"the recursion of {name} has no end", "add a WHERE to its recursive part")


def is_small_series(node: exp.Expr) -> bool:
    """A series from literal to literal, numbers or dates, with a small number of steps."""
    if type(node).__name__ in _MANY_ROWS:
        parts = [node.args.get(k) for k in ("start", "end", "step")]
    elif isinstance(node, exp.Anonymous) and node.name.lower() in _SERIES:
        parts = list(node.expressions)
    else:
        return False
    numbers = [_number(p) for p in parts if p is not None]
    if len(numbers) == 1:
        numbers.insert(0, 0)
    if None in numbers or len(numbers) < 2:
        return False
    start, end, step = (*numbers, 1)[:3]
    assert start is not None and end is not None and step is not None
    return step != 0 and abs((end - start) / step) <= MAX_SERIES


def _number(node: exp.Expr) -> float | None:
    """What a literal counts: itself, the days of a date since the year 1, or the days of an interval; None for anything else."""
    if isinstance(node, exp.Interval):
        days = _DAYS.get(node.text("unit").lower().removesuffix("s"))
        count = _number(node.this)
        return None if days is None or count is None else count * days
    if isinstance(node, exp.Cast) and isinstance(node.this, exp.Literal) and node.to.is_type(*exp.DataType.TEMPORAL_TYPES):
        node = node.this
    text = node.this.name if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) else node.name
    if not isinstance(node, exp.Literal | exp.Neg):
        return None
    try:
        return datetime.date.fromisoformat(text[:10]).toordinal() if text[4:5] == "-" else float(text)
    except ValueError:
        return None


def _check_node(node: exp.Expr, dialect: str, functions: frozenset[str] | None) -> None:
    if isinstance(node, _CONSTRUCTS):
        pass
    elif type(node).__name__ in _MANY_ROWS:
        if not is_small_series(node):
            raise RefusedError("too_expensive", f"a series may have {MAX_SERIES} steps at most")
        return
    elif isinstance(node, exp.Func) and not isinstance(node, _NODES):
        _check_function(node, functions)
        return
    if not isinstance(node, (*_NODES, *_CONSTRUCTS)):
        raise RefusedError("not_a_read", f"{_label(node)} may not be used", "write a plain SELECT")
    if isinstance(node, exp.Select) and (node.args.get("into") or node.args.get("locks") or node.args.get("hint")):
        raise RefusedError("not_a_read", "INTO, FOR UPDATE and hints may not be used")
    if isinstance(node, exp.Select) and node.args.get("kind"):
        raise RefusedError("not_a_read", f"SELECT AS {node.args['kind']} may not be used")
    if isinstance(node, exp.In) and dialect == "sqlite" and node.args.get("field"):
        # SQLite takes the name after IN for a table.
        raise RefusedError("not_a_read", f"IN {node.args['field'].sql()} may not be used", "write IN (SELECT ...)")
    if isinstance(node, exp.Dot) and not isinstance(node.expression, exp.Identifier):
        raise RefusedError("not_a_read", f"{node.sql()} may not be used", "write f(x) for x.f()")
    if isinstance(node, exp.Limit):
        _check_limit(node)


def _check_limit(node: exp.Limit) -> None:
    value = node.expression
    if isinstance(value, exp.Literal) and not value.is_string and float(value.this) > MAX_LIMIT:
        raise RefusedError("too_expensive", f"LIMIT {value.this} is more than {MAX_LIMIT}")


def _check_function(node: exp.Func, permitted: frozenset[str] | None) -> None:
    if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
        names = [node.name.lower()]
    else:
        names = [name.lower() for name in node.sql_names()]
    if isinstance(node.parent, exp.Dot) or not any(name in PERMITTED_FUNCTIONS for name in names):
        near = difflib.get_close_matches(names[0], PERMITTED_FUNCTIONS, 1)
        hint = f"did you mean {near[0]}?" if near else "only functions that compute on values may be used"
        raise RefusedError("forbidden_function", f"function {names[0]} may not be used", hint)
    if isinstance(node, _GROWING):
        _check_growth(node, names[0])
    if permitted is not None and not permitted.intersection(names):
        raise RefusedError(
            "not_permitted", f"function {names[0]} may not be used here", f"permitted: {', '.join(sorted(permitted))}"
        )


def _check_growth(node: exp.Func, name: str) -> None:
    size = node.args.get("times") or node.expression
    is_small = isinstance(size, exp.Literal) and not size.is_string and float(size.this) <= MAX_GROWTH
    if not is_small or any(inner is not node for inner in node.find_all(*_GROWING)):
        raise RefusedError(
            "too_expensive", f"{name} may make {MAX_GROWTH} characters, written as a number, and not inside another"
        )


def _check_columns(tree: exp.Expr, dialect: str, bounds: Bounds, tables: set[str]) -> tuple[str, ...]:
    schema = bounds.schema
    names = {c.name.lower() for c in tree.find_all(exp.Column) if not isinstance(c.this, exp.Star)}
    if schema is None or isinstance(tree, exp.Pivot) or tree.find(exp.Pivot, exp.Lateral, exp.Unnest):
        _check_names(names, tree, bounds)
        return tuple(sorted(names))
    copy = _without_positions(tree)
    for identifier in copy.find_all(exp.Identifier):  # `spell` made case mean nothing
        identifier.set("this", plain_name(identifier.name))
        identifier.set("quoted", False)
    readable = (table for table in schema.tables if table.name.lower() in tables)
    try:
        qualify(
            copy,
            schema={plain_name(t.name): {plain_name(c.name): "text" for c in t.columns} for t in readable},
            dialect=dialect,
            expand_stars=True,  # so that columns of `SELECT *` in a subquery are known
            validate_qualify_columns=True,
            identify=False,
        )
    except OptimizeError as error:
        raise _unknown_column(str(error), bounds, tables) from error
    except SqlglotError as error:
        raise RefusedError("unparsable", f"the statement does not make sense: {error}") from error
    return tuple(sorted(names))


def _without_positions(tree: exp.Expr) -> exp.Expr:
    """A copy without `ORDER BY 1` and `GROUP BY 2`: they name no column, and sqlglot cannot resolve all of them."""
    copy = tree.copy()
    for clause in list(copy.find_all(exp.Order, exp.Group)):
        kept = [e for e in clause.expressions if not (e.this if isinstance(e, exp.Ordered) else e).is_number]
        clause.set("expressions", kept)
        if not kept and not any(value for key, value in clause.args.items() if key != "expressions"):
            clause.pop()
    return copy


def _check_names(names: set[str], tree: exp.Expr, bounds: Bounds) -> None:
    """Where scopes cannot be followed: every name is a column of some table, or defined by the statement itself."""
    schema = bounds.schema
    if schema is None:
        return
    made = set(_defined_names(tree))
    known = {name for t in schema.tables for name in t.column_names}
    for name in sorted(names - made - known):
        raise _unknown_column(name, bounds, {t.name.lower() for t in schema.tables})


def _defined_names(tree: exp.Expr) -> Iterator[str]:
    for node in tree.find_all(exp.Alias, exp.TableAlias, exp.CTE, exp.Table, exp.Literal, exp.UnpivotColumns):
        if isinstance(node, exp.UnpivotColumns):
            yield from (c.name.lower() for c in node.find_all(exp.Column))
        elif isinstance(node, exp.Literal):
            yield node.name.lower()  # pivoted values become columns
        elif isinstance(node, exp.TableAlias):
            yield node.name.lower()
            yield from (c.name.lower() for c in node.args.get("columns") or [])
        else:
            yield node.alias_or_name.lower()


def _unknown_column(detail: Any, bounds: Bounds, tables: set[str]) -> RefusedError:
    text = str(detail).splitlines()[0]
    name = text.split("'")[1] if text.count("'") >= 2 else text.removeprefix("Unknown column: ")
    name = meant_name(name)
    plain = name.split(".")[-1].strip('"').lower()
    columns = _columns_of(bounds.schema, tables)
    near = difflib.get_close_matches(plain, columns, 1)
    hint = f"did you mean {near[0]}?" if near else f"columns: {', '.join(columns[:12])}"
    if plain not in columns and plain in _columns_of(bounds.whole, tables):
        return RefusedError("not_permitted", f"column {name} may not be read here", hint)
    return RefusedError("unknown_column", f"column {name} is not in scope", hint)


def _columns_of(schema: Schema | None, tables: set[str]) -> list[str]:
    found = () if schema is None else (t for t in schema.tables if t.name.lower() in tables)
    return sorted({c for t in found for c in t.column_names})
