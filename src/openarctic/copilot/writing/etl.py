"""Python ETL scripts: asked for, found, compiled, linted; every SQL text in them is checked, and nothing runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from openarctic.copilot.forms import ENGINES, ChatForm
from openarctic.copilot.schema import Schema
from openarctic.copilot.writing.answer import single
from openarctic.copilot.writing.draft import Problem, Task
from openarctic.copilot.writing.lint import find_ruff, lint, linter
from openarctic.copilot.writing.python_code import PythonCode
from openarctic.copilot.writing.statements import Statements
from openarctic.copilot.writing.variables import stand_in
from openarctic.errors import RefusedError

_BEGINS = r"^(?:#!|\"\"\"|import |from )"
_DRIVERS = {"duckdb": "duckdb", "sqlite": "sqlite3", "postgres": "psycopg", "snowflake": "snowflake.connector"}
# Statements of a session that change no data; the drivers have methods for them, but scripts write them too.
_SESSION = (exp.Transaction, exp.Commit, exp.Rollback)


@dataclass(frozen=True, slots=True)
class Etl(Task):
    """The task (see `draft.Task`): `targets` are tables and files that may be written."""

    description: str
    schema: Schema
    targets: tuple[str, ...] = ()
    name: str = "etl"
    shown: Schema | None = None
    whole: Schema | None = None
    ruff: str | None = field(default_factory=find_ruff)

    def prompt(self) -> str:
        """Schema, rules, what it is to do."""
        driver = _DRIVERS[self.schema.dialect]
        may = (
            f"It may write {', '.join(self.targets)} and nothing else."
            if self.targets
            else "It may write nothing: it prints its result."
        )
        return "\n".join(
            [
                ChatForm().schema_text(self.shown or self.schema),
                f"Write a Python script for an ETL job: {self.description}",
                may,
                f"Use {driver} and the standard library (pandas where it helps). The database's address comes from os.environ or "
                "argparse, and no password stands in the script.",
                "Every SQL statement is one plain text, given to execute() as a literal or a constant; values are parameters. "
                "No f-strings, + or format() in SQL. Tables that it writes are made with CREATE TABLE IF NOT EXISTS in it.",
                "No subprocess, no network, no eval, no open(). Put the work into functions, and call main() below "
                'if __name__ == "__main__".',
                "Answer with the script alone, in one ```python block.",
            ]
        )

    def read(self, text: str) -> dict[str, str]:
        """One script."""
        return {f"{self.name}.py": single(text, ("python", "py", "python3"), _BEGINS)}

    def check(self, files: Mapping[str, str]) -> list[Problem]:
        """The tree, the lint, and the SQL in it, in the order in which it stands there."""
        [(file, source)] = files.items()
        code = PythonCode(source, file, self.targets)
        if code.problems and not code.statements:
            return code.problems
        problems = [*code.problems, *lint(source, file, self.ruff)]
        statements = Statements(self.schema, self.targets, self.whole)
        # A table is made somewhere in the script; where it stands says little of when it runs.
        ordered = sorted(code.statements, key=lambda statement: (not _makes_a_table(statement.sql), statement.line))
        for statement in ordered:
            try:
                _check(statements, statement.sql)
            except RefusedError as error:
                problems.append(Problem.of(error, file, statement.line))
        return sorted(problems, key=lambda problem: problem.line or 0)

    @property
    def checks(self) -> tuple[str, ...]:
        """What `check` looks at."""
        written = f"writes {', '.join(self.targets)} alone" if self.targets else "writes nothing"
        return (
            "compiled; imports, calls and attributes checked",
            linter(self.ruff),
            f"every SQL text parsed as {ENGINES[self.schema.dialect]} SQL; tables, columns, functions checked",
            written,
            "never executed",
        )


def _makes_a_table(sql: str) -> bool:
    return sql.lstrip()[:6].upper() == "CREATE"


def _check(statements: Statements, sql: str) -> None:
    def bind(tree: exp.Expr) -> exp.Expr:
        for node in list(tree.find_all(exp.Placeholder, exp.Parameter)):
            node.replace(stand_in(node))
        return tree

    if isinstance(statements.parse(sql), _SESSION):
        return
    statements.check(sql, bind)
