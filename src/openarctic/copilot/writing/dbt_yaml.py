"""dbt's property files: written from the schema, and read from a model's answer with everything refused that dbt would run."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from sqlglot.dialects.dialect import Dialect

from openarctic.copilot.schema import ForeignKey, Schema, Table
from openarctic.copilot.writing.draft import Problem
from openarctic.copilot.yaml_file import Entry, Fields, parse_yaml
from openarctic.errors import OpenArcticError, UserError, did_you_mean

# What a foreign key points at, as a test names it: `ref()` or `source()`, and a column of that. None: it gets no test.
To = Callable[[ForeignKey], tuple[str, str] | None]

_JINJA = re.compile(r"\{[{%#]|[}%#]\}")
_REFERENCE = re.compile(
    r"ref\(\s*(['\"])(?P<model>\w+)\1\s*\)|source\(\s*(['\"])(?P<source>[^'\"]+)\3\s*,\s*(['\"])(?P<table>[^'\"]+)\5\s*\)"
)
PLAIN_TESTS = ("not_null", "unique")
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What some engine reserves and sqlglot does not need to know.
RESERVED = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate column concurrently
    constraint create cross current_user default deferrable desc describe distinct do else end except false fetch for foreign
    freeze from full grant group having ilike in initially inner intersect into is isnull join lambda lateral leading left like
    limit localtime natural not notnull null offset on only or order outer overlaps pivot placing primary qualify references
    returning right select session_user show similar some summarize symmetric table tablesample then to trailing true union
    unique unpivot user using variadic verbose when where window with
    """.split()
)
# dbt puts values between quotes as they are, and types too.
_VALUE = re.compile(r"[^'\"\\;{}]*")
_TYPE = re.compile(r"[\w (),]*")


def described(text: str) -> str:
    """A comment of the database as a description: dbt renders Jinja there, so its brackets are taken apart."""
    return re.sub(r"\{(?=[{%#])|(?<=[}%#])\}", lambda match: "{ " if match[0] == "{" else " }", " ".join(text.split()))


def sources_text(schema: Schema, source: str, tables: Sequence[Table]) -> str:
    """`sources.yml` of tables: descriptions from comments, tests from keys between them."""
    names = {table.name.lower(): table.name for table in tables}

    def to(key: ForeignKey) -> tuple[str, str] | None:
        name = names.get(key.table.lower())
        return None if name is None else (f"source('{source}', '{name}')", key.to_column)

    listed = [
        {
            "name": table.name,
            **({"description": described(table.comment)} if table.comment else {}),
            "columns": properties(table, schema.dialect, to),
        }
        for table in tables
    ]
    usual = {"postgres": "public", "snowflake": "PUBLIC"}.get(schema.dialect, "main")
    return _dumped({"version": 2, "sources": [{"name": source, "schema": schema.namespace or usual, "tables": listed}]})


def models_text(models: Sequence[Mapping[str, Any]]) -> str:
    """`schema.yml` of models."""
    return _dumped({"version": 2, "models": list(models)})


def _dumped(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)


def properties(table: Table, dialect: str, to: To, names: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The columns of a table with descriptions and the tests that its keys promise; `names` are new ones by the old.

    dbt puts names into the SQL and the names of tests as they are: what is no plain name gets no test.
    """
    found = []
    is_testable = names is not None or PLAIN.fullmatch(table.name) is not None
    for column in table.columns:
        name = (names or {}).get(column.name, column.name)
        entry: dict[str, Any] = {"name": name}
        if column.comment:
            entry["description"] = described(column.comment)
        tests = list(_tests_of(table, column.name, to)) if is_testable and PLAIN.fullmatch(name) else []
        if tests and written(name, dialect).startswith('"'):
            entry["quote"] = True
        if tests:
            entry["data_tests"] = tests
        found.append(entry)
    return found


def _tests_of(table: Table, column: str, to: To) -> Iterator[Any]:
    if column in table.primary_key:
        yield "not_null"
        if len(table.primary_key) == 1:
            yield "unique"
    for key in table.foreign_keys:
        if key.column.lower() == column.lower() and PLAIN.fullmatch(key.to_column) and (target := to(key)) is not None:
            yield {"relationships": {"arguments": {"to": target[0], "field": target[1]}}}


def written(name: str, dialect: str) -> str:
    """A name in SQL, with quotes where the engine needs them, or might."""
    folded = name.lower() if dialect == "snowflake" and name == name.upper() else name
    if re.fullmatch(r"[a-z_][a-z0-9_]*", folded) and folded not in _keywords(dialect):
        return folded
    return '"' + name.replace('"', '""') + '"'


@functools.cache
def _keywords(dialect: str) -> frozenset[str]:
    """Every word that may be one of the language: quotes that are not needed do no harm."""
    phrases = Dialect.get_or_raise(dialect).tokenizer_class.KEYWORDS
    return RESERVED | {word.lower() for phrase in phrases for word in phrase.split()}


class PropertyFile:
    """A `schema.yml` from a model: `models` are those that it speaks of."""

    def __init__(self, text: str, file: str, columns_of: Callable[[str], Sequence[str] | None]) -> None:
        """`columns_of` knows the columns of a model (`m`) or of a source's table (`s.t`); None for what does not exist."""
        self.file, self._columns_of = file, columns_of
        self.problems: list[Problem] = []
        self.models: list[str] = []
        try:
            self._read(parse_yaml(text, file))
        except OpenArcticError as error:
            self.problems.append(Problem.of(error, file))

    def _refuse(self, entry: Entry, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(self.file, entry.line, message, hint))

    def _read(self, root: Entry) -> None:
        self._check_tags(root)
        fields = root.fields()
        fields.get("version")
        for entry in fields.require("models").items():
            model = entry.fields()
            name = self._text(model, "name")
            self.models.append(name)
            columns = self._columns_of(name)
            if columns is None:
                self._refuse(entry, f"there is no model {name}", "one of the models of this answer")
                continue
            self._text(model, "description")
            self._tests(model, name, None)
            if (listed := model.get("columns")) is not None:
                for column in listed.items():
                    self._column(column, name, columns)
            self._rest(model)
        self._rest(fields)

    def _check_tags(self, root: Entry) -> None:
        """Raises UserError for `!!python/...` and the like, which some readers of YAML obey."""
        waiting = [root.node]
        for node in waiting:
            if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
                raise Entry(self.file, "", node).error(f"holds the tag {node.tag}", "write plain values")
            if isinstance(node, yaml.MappingNode):
                waiting += [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                waiting += node.value

    def _column(self, entry: Entry, model: str, columns: Sequence[str]) -> None:
        fields = entry.fields()
        name = self._text(fields, "name")
        if name.lower() not in [column.lower() for column in columns]:
            hint = did_you_mean(name, columns, f"columns: {', '.join(columns)}")
            self._refuse(entry, f"{model} has no column {name}", hint)
        self._text(fields, "description")
        if not _TYPE.fullmatch(self._text(fields, "data_type")):
            self._refuse(entry, "data_type is no type")
        if (quote := fields.get("quote")) is not None:
            quote.flag()
        self._tests(fields, model, name)
        self._rest(fields)

    def _text(self, fields: Fields, key: str) -> str:
        entry = fields.get(key)
        if entry is None:
            if key == "name":
                fields.require("name")
            return ""
        text = entry.text()
        if _JINJA.search(text):
            self._refuse(entry, f"{key} holds Jinja, which dbt would run", "write plain text")
        return text

    def _rest(self, fields: Fields) -> None:
        for key, entry in fields.rest().items():
            self._refuse(entry, f"{key} may not be used here", "name, description, columns, data_tests")

    def _tests(self, fields: Fields, model: str, column: str | None) -> None:
        for key in ("data_tests", "tests"):
            if (listed := fields.get(key)) is not None:
                for entry in listed.items():
                    self._test(entry, column)

    def _test(self, entry: Entry, column: str | None) -> None:
        if column is None:
            self._refuse(entry, "a test of a whole model may not be used", "tests of columns")
            return
        if isinstance(entry.node, yaml.ScalarNode):
            if entry.text() not in PLAIN_TESTS:
                self._refuse(entry, f"there is no test {entry.text()}", "not_null, unique, accepted_values, relationships")
            return
        for name, body in entry.fields().all().items():
            fields = body.fields()
            arguments = fields.get("arguments")
            given = fields if arguments is None else arguments.fields()
            if name == "accepted_values":
                for value in given.require("values").items():
                    if not _VALUE.fullmatch(value.text()):
                        self._refuse(value, "a value holds quotes or brackets, which dbt would take for SQL")
            elif name == "relationships":
                self._relationship(given)
            else:
                self._refuse(body, f"there is no test {name}", "not_null, unique, accepted_values, relationships")
                given.all()
            self._rest(given)
            if given is not fields:
                self._rest(fields)

    def _relationship(self, given: Fields) -> None:
        to, field = given.require("to"), given.require("field").name()
        match = _REFERENCE.fullmatch(to.text().strip())
        if match is None:
            self._refuse(to, "to must be ref('model') or source('source', 'table')")
            return
        name = match["model"] or f"{match['source']}.{match['table']}"
        columns = self._columns_of(name)
        if columns is None:
            self._refuse(to, f"there is no {name}")
        elif field.lower() not in [column.lower() for column in columns]:
            self._refuse(to, f"{name} has no column {field}", f"columns: {', '.join(columns)}")


def check_names(tables: Iterable[Table]) -> None:
    """Raises UserError for tables and columns whose names dbt would take for Jinja."""
    for table in tables:
        for name in (table.name, *(column.name for column in table.columns)):
            if _JINJA.search(name):
                raise UserError(f"the name {name!r} of {table.name} is Jinja to dbt", "leave the table out: --tables A,B")
        if not re.fullmatch(r"[^\"'\\\x00-\x1f]+", table.name):
            raise UserError(f"dbt cannot hold the name of the table {table.name!r}", "leave the table out: --tables A,B")
