"""dbt models: those that a model wrote, checked as SQL after their Jinja is resolved, and staging models made from the schema.

A reference becomes a table of its own for the check (`source__shop__orders`), so that a model that names a table without
`source()` or `ref()` is found. Models are checked in the order of their references; each adds its columns for the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from openarctic.copilot.forms import ENGINES, ChatForm
from openarctic.copilot.linking.words import words_of
from openarctic.copilot.schema import Column, ForeignKey, Schema, Table
from openarctic.copilot.writing.answer import blocks, safe_path
from openarctic.copilot.writing.dbt_yaml import (
    PLAIN,
    PropertyFile,
    check_names,
    described,
    models_text,
    properties,
    sources_text,
    written,
)
from openarctic.copilot.writing.draft import Problem, Task, Written
from openarctic.copilot.writing.jinja import Reference, Resolved, resolve
from openarctic.copilot.writing.statements import Statements
from openarctic.errors import MissingError, RefusedError, UserError, did_you_mean

FOLDER = "models"
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


def source_name(name: str) -> str:
    """A database's name as dbt's name of a source."""
    return "_".join(words_of(name)) or "source"


@dataclass(frozen=True, slots=True)
class Dbt(Task):
    """The task (see `draft.Task`): `source` is dbt's name of the database."""

    description: str
    schema: Schema
    source: str
    shown: Schema | None = None
    whole: Schema | None = None

    def prompt(self) -> str:
        """Schema, rules, what is wanted."""
        tables = ", ".join(f"source('{self.source}', '{table.name}')" for table in (self.shown or self.schema).tables[:50])
        return "\n".join(
            [
                ChatForm().schema_text(self.shown or self.schema),
                f"Write dbt models: {self.description}",
                f"The tables are read with {tables}; other models of the answer with ref('name'). sources.yml is there already.",
                "Name every column that a model gives. Jinja: ref, source, config(materialized=...), {% if is_incremental() %}; "
                "no hooks, no macros, no run_query, no variables. Models are not called like tables.",
                "Write models/schema.yml too: every model with a description, its columns with descriptions and data_tests "
                "(not_null, unique, accepted_values, relationships, with their values below arguments).",
                "Answer with one block a file, its path behind the language, such as ```sql models/orders_by_month.sql",
            ]
        )

    def read(self, text: str) -> dict[str, str]:
        """Files below `models`. Raises UserError for other paths, and for an answer without a model."""
        files: dict[str, str] = {}
        for block in blocks(text):
            if not block.path and block.language in ("", "bash", "sh", "shell", "text", "console"):
                continue
            path = block.path or ("schema.yml" if block.language in ("yaml", "yml") else "")
            if not path:
                raise UserError("a block has no path", "such as ```sql models/orders_by_month.sql")
            path = safe_path(path, FOLDER, (".sql", ".yml", ".yaml"))
            if path in files:
                raise UserError(f"{path} is given twice")
            files[path] = block.text.strip() + "\n"
        if not any(path.endswith(".sql") for path in files):
            raise UserError("there is no model in it", "a ```sql models/name.sql block for each")
        return files

    def check(self, files: Mapping[str, str]) -> list[Problem]:
        """SQL, references, property files."""
        return Project(files, self.schema, self.source, self.whole).problems

    def complete(self, files: Mapping[str, str]) -> dict[str, str]:
        """With `sources.yml` of the tables that are read."""
        read = {
            reference[2].lower()
            for path, text in files.items()
            if path.endswith(".sql")
            for reference in resolve(text, path, lambda _: "x").references
            if reference[0] == "source"
        }
        tables = [table for table in self.schema.tables if table.name.lower() in read]
        return {**files, f"{FOLDER}/_{self.source}__sources.yml": sources_text(self.schema, self.source, tables)}

    @property
    def checks(self) -> tuple[str, ...]:
        """What `check` looks at."""
        return (
            f"every model parsed as {ENGINES[self.schema.dialect]} SQL; ref, source, tables, columns, functions checked",
            "schema.yml read; its models, columns and tests exist",
            "no Jinja but ref, source, config and is_incremental; never rendered or executed",
        )


class Project:
    """A set of model files; `problems` is everything that is wrong, `columns` those of each model that is right."""

    def __init__(self, files: Mapping[str, str], schema: Schema, source: str, whole: Schema | None = None) -> None:
        self.schema, self.source, self.whole = schema, source, whole or schema
        self.problems: list[Problem] = []
        self.columns: dict[str, tuple[str, ...]] = {}
        self._tables = [
            Table(name="__".join(("source", source, t.name)), columns=t.columns, row_count=t.row_count) for t in schema.tables
        ]
        self._files = {path.rpartition("/")[2].removesuffix(".sql"): path for path in files if path.endswith(".sql")}
        if len(self._files) < sum(path.endswith(".sql") for path in files):
            self.problems.append(Problem("the answer", None, "two models have the same name"))
        self._resolved = {name: resolve(files[path], path, self._name_of) for name, path in self._files.items()}
        for name, resolved in self._resolved.items():
            self._check_references(name, resolved)
        for name in self._in_order():
            self._check_model(name, self._resolved[name])
        self._check_properties(files)

    def _refuse(self, name: str, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(self._files[name], None, message, hint))

    def _name_of(self, reference: Reference) -> str:
        name = "__".join(reference)
        return name if re.fullmatch(r"\w+", name) else '"' + name.replace('"', '""') + '"'

    def _check_references(self, name: str, resolved: Resolved) -> None:
        self.problems += resolved.problems
        if self.whole.table(name) is not None:
            self._refuse(name, f"{name} is a table of the source: the model would take its place", "call it otherwise")
        if not _PLAIN.fullmatch(name):
            self._refuse(name, f"{name} is no plain name", "lower-case letters, digits and _")
        for reference in resolved.references:
            if reference[0] == "ref" and reference[1] not in self._files:
                hint = did_you_mean(reference[1], self._files, f"models: {', '.join(self._files)}")
                self._refuse(name, f"there is no model {reference[1]}", hint)
            if reference[0] == "source":
                self._check_source(name, reference)

    def _check_source(self, name: str, reference: Reference) -> None:
        table = self.schema.table(reference[2])
        if reference[1] != self.source:
            self._refuse(name, f"there is no source {reference[1]}", f"the source is {self.source}")
        elif table is None:
            names = [known.name for known in self.schema.tables]
            hint = did_you_mean(reference[2], names, f"tables: {', '.join(names[:20])}")
            self._refuse(name, f"the source {self.source} has no table {reference[2]}", hint)
        else:
            try:
                check_names((table,))
            except UserError as error:
                self._refuse(name, error.message)

    def _in_order(self) -> Iterator[str]:
        """Models after those that they refer to."""
        done: set[str] = set()
        waiting = list(self._resolved)
        while waiting:
            ready = [name for name in waiting if self._needs(name) <= done]
            if not ready:
                told = " and ".join(sorted(waiting)[:5])
                self.problems.append(Problem(self._files[waiting[0]], None, f"the models {told} refer to each other in a circle"))
                return
            yield from ready
            done.update(ready)
            waiting = [name for name in waiting if name not in done]

    def _needs(self, name: str) -> set[str]:
        return {r[1] for r in self._resolved[name].references if r[0] == "ref" and r[1] in self._resolved}

    def _check_model(self, name: str, resolved: Resolved) -> None:
        if any(problem.file == self._files[name] for problem in self.problems):
            return
        try:
            self.columns[name] = columns = self._columns(resolved.sql, name)
            self._check_columns(name, columns, resolved)
            if resolved.is_incremental:
                self._columns(resolved.later, name)
        except RefusedError as error:
            told = RefusedError(error.type, _aswritten(error.message), _aswritten(error.hint) if error.hint else None)
            self.problems.append(Problem.of(told, self._files[name]))

    def _check_columns(self, name: str, columns: Sequence[str], resolved: Resolved) -> None:
        """dbt puts names of columns and keys into SQL as they are."""
        for column in columns:
            if not PLAIN.fullmatch(column):
                self._refuse(name, f"its column {column!r} has no plain name", "call it with AS")
        for setting in ("unique_key", "cluster_by"):
            value = resolved.config.get(setting, [])
            for key in [value] if isinstance(value, str) else value:
                if key.lower() not in [column.lower() for column in columns]:
                    self._refuse(name, f"{setting} is {key!r}, which is no column of the model", f"columns: {', '.join(columns)}")
        tags = resolved.config.get("tags", [])
        for tag in [tags] if isinstance(tags, str) else tags:
            if not re.fullmatch(r"[\w:.-]+", tag):
                self._refuse(name, f"the tag {tag!r} is no plain word")

    def _columns(self, sql: str, name: str) -> tuple[str, ...]:
        """The columns of one model's SQL, over the tables of sources and the models before it."""
        models = {f"ref__{model}": columns for model, columns in self.columns.items()}
        if name in self.columns:
            models["this"] = self.columns[name]
        made = [Table(name=model, columns=tuple(Column(name=c) for c in columns)) for model, columns in models.items()]
        statements = Statements(Schema(dialect=self.schema.dialect, tables=(*self._tables, *made)))
        tree = statements.parse(sql)
        if not isinstance(tree, exp.Query):
            raise RefusedError("not_a_read", "a model is one SELECT statement", "dbt makes the table or view")
        if sql.rstrip().endswith(";"):
            raise RefusedError("unparsable", "a model ends without a semicolon: dbt puts it into a statement of its own")
        return statements.read(_with_aliases(tree))

    def _check_properties(self, files: Mapping[str, str]) -> None:
        told: list[str] = []
        for path, text in files.items():
            if not path.endswith(".sql"):
                found = PropertyFile(text, path, self._known_columns)
                self.problems += found.problems
                told += found.models
        for name in self._files:
            if name not in told:
                self._refuse(name, f"no schema.yml speaks of {name}", "describe it and its columns in models/schema.yml")

    def _known_columns(self, name: str) -> Sequence[str] | None:
        if name in self._files:
            return self.columns.get(name, ())
        source, _, table = name.partition(".")
        found = self.schema.table(table) if source == self.source else None
        return None if found is None else [column.name for column in found.columns]


def _with_aliases(tree: exp.Expr) -> exp.Expr:
    """What a reference is called in dbt: by the name of its table, so that `orders.id` means what it says."""
    for table in tree.find_all(exp.Table):
        parts = table.name.split("__")
        if not table.alias and len(parts) > 1 and parts[0] in ("ref", "source"):
            name = "__".join(parts[2:] if parts[0] == "source" else parts[1:])
            table.set("alias", exp.TableAlias(this=exp.to_identifier(name, quoted=not _PLAIN.fullmatch(name))))
    return tree


def _aswritten(text: str) -> str:
    """A message in the words of the model: `{{ ref('m') }}` for the name that stood for it."""
    text = re.sub(r"\bsource__(\w+?)__(\w+)", r"{{ source('\1', '\2') }}", text)
    text = re.sub(r"\bref__(\w+)", r"{{ ref('\1') }}", text)
    return re.sub(r"(there is no table \w+)", r"\1 (tables are read with source() and ref())", text)


def staging(schema: Schema, source: str, tables: Sequence[str] | None = None) -> Written:
    """A staging model for each table (or those named), `sources.yml` and `schema.yml`, from the schema alone.

    Raises MissingError for a table that does not exist, UserError for names that dbt cannot hold.
    """
    chosen = list(schema.tables)
    if tables is not None:
        for name in tables:
            if schema.table(name) is None:
                raise MissingError(f"there is no table {name}", f"tables: {', '.join(t.name for t in schema.tables[:20])}")
        wanted = {name.lower() for name in tables}
        chosen = [table for table in schema.tables if table.name.lower() in wanted]
    if not chosen:
        raise MissingError("the database has no tables")
    check_names(chosen)
    folder = f"{FOLDER}/staging/{source}"
    names = _unique([f"stg_{source}__{'_'.join(words_of(table.name)) or 'table'}" for table in chosen])
    models = dict(zip((table.name.lower() for table in chosen), names, strict=True))
    columns = {t.name.lower(): _column_names(t) for t in chosen}
    files = {
        f"{folder}/{models[t.name.lower()]}.sql": _staging_sql(t, source, schema.dialect, columns[t.name.lower()]) for t in chosen
    }

    def to(key: ForeignKey) -> tuple[str, str] | None:
        name = key.table.lower()
        return (f"ref('{models[name]}')", columns[name].get(key.to_column, key.to_column)) if name in models else None

    told = []
    for table in chosen:
        entries = properties(table, schema.dialect, to, columns[table.name.lower()])
        comment = f"{table.name} as it stands in the source. {' '.join(table.comment.split())}".strip()
        told.append({"name": models[table.name.lower()], "description": described(comment), "columns": entries})
    files[f"{folder}/_{source}__sources.yml"] = sources_text(schema, source, chosen)
    files[f"{folder}/_{source}__models.yml"] = models_text(told)
    checked = {path: text for path, text in files.items() if not path.endswith("sources.yml")}
    kept = replace(schema, tables=tuple(chosen))
    problems = Project(checked, kept, source, schema).problems
    if problems:
        raise UserError(f"staging models cannot be made: {problems[0]}", "leave the table out: --tables A,B")
    return Written(files, Dbt("", kept, source).checks, 0, None)


def _unique(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        number, free = 2, name
        while free in found:
            free, number = f"{name}_{number}", number + 1
        found.append(free)
    return found


def _column_names(table: Table) -> dict[str, str]:
    """New names by old: in lower case with underscores."""
    made = []
    for number, column in enumerate(table.columns, 1):
        name = "_".join(words_of(column.name)) or f"column_{number}"
        name = column.name.lower() if _PLAIN.fullmatch(column.name.lower()) else name
        made.append(name if _PLAIN.fullmatch(name) else f"column_{name}" if name.isascii() else f"column_{number}")
    return dict(zip((column.name for column in table.columns), _unique(made), strict=True))


def _staging_sql(table: Table, source: str, dialect: str, names: Mapping[str, str]) -> str:
    lines = []
    for old, new in names.items():
        was, alias = written(old, dialect), written(new, dialect)
        lines.append(f"    {was}" if was.strip('"') == new else f"    {was} as {alias}")
    listed = ",\n".join(lines)
    literal = table.name.replace("\\", "\\\\").replace("'", "\\'")
    return f"""with source as (

    select * from {{{{ source('{source}', '{literal}') }}}}

)

select
{listed}
from source
"""
