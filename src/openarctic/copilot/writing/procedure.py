"""Stored procedures and functions for PostgreSQL and Snowflake: asked for, found, checked word by word.

The text may hold routines, and before them the CREATE TABLE of named targets; nothing else. What a routine reads must exist, what
it writes must be a target, and it may not build SQL, call other routines or take its owner's rights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from openarctic.copilot.forms import ENGINES, ChatForm
from openarctic.copilot.schema import Schema
from openarctic.copilot.writing.answer import single
from openarctic.copilot.writing.blocks import blocks_of
from openarctic.copilot.writing.draft import Problem, Task
from openarctic.copilot.writing.statements import Statements
from openarctic.copilot.writing.variables import Scope, Variable, bind
from openarctic.copilot.writing.words import Word, split_at_commas, words
from openarctic.errors import RefusedError, UserError

DIALECTS = ("postgres", "snowflake")
_BEGINS = r"^\s*CREATE\s+(?:OR\s+REPLACE\s+)?(?:PROCEDURE|FUNCTION|TABLE)\b"
_PLAIN_OPTIONS = {
    "postgres": {"STABLE", "VOLATILE", "IMMUTABLE", "STRICT", "LEAKPROOF"},
    "snowflake": {"STRICT", "VOLATILE", "IMMUTABLE"},
}
_OPTION_WORDS = (
    "LANGUAGE",
    "SECURITY",
    "EXECUTE",
    "SET",
    "PARALLEL",
    "COST",
    "ROWS",
    "CALLED",
    "RETURNS",
    "NOT",
    "COMMENT",
    "AS",
)

RULES = {
    "postgres": """\
Write PL/pgSQL: CREATE OR REPLACE PROCEDURE (or FUNCTION, if rows are to be given back) with LANGUAGE plpgsql and AS $$ ... $$.
Names of parameters begin with p_, of variables with v_, so that none is also a column. No SECURITY DEFINER.""",
    "snowflake": """\
Write Snowflake Scripting: CREATE OR REPLACE PROCEDURE with LANGUAGE SQL, EXECUTE AS CALLER and AS $$ ... $$. In SQL statements a
variable is written with a colon (:v). Names of parameters begin with p_, of variables with v_.""",
}


@dataclass(frozen=True, slots=True)
class Procedure(Task):
    """The task (see `draft.Task`): `targets` may be changed, `name` is what the routine must be called ("" leaves it open)."""

    description: str
    schema: Schema
    targets: tuple[str, ...] = ()
    name: str = ""
    shown: Schema | None = None  # of a wide schema the part that fits the prompt
    whole: Schema | None = None

    def __post_init__(self) -> None:
        if self.schema.dialect not in DIALECTS:
            known = " and ".join(ENGINES[dialect] for dialect in DIALECTS)
            raise UserError(f"{ENGINES[self.schema.dialect]} has no stored procedures", f"{known} have; name one with --db")

    def prompt(self) -> str:
        """Schema, rules, what it is to do."""
        may = (
            f"It may change {', '.join(self.targets)} and nothing else."
            if self.targets
            else "It may change nothing: it only reads."
        )
        missing = [target for target in self.targets if self.schema.table(target) is None]
        if missing:
            may += f" Create {', '.join(missing)} with CREATE TABLE IF NOT EXISTS before the procedure."
        return "\n".join(
            [
                ChatForm().schema_text(self.shown or self.schema),
                f"Write a stored procedure: {self.description}",
                *([f"Its name is {self.name}."] if self.name else []),
                may,
                RULES[self.schema.dialect],
                "No EXECUTE, no CALL, no SQL built from text, no GRANT, no COPY. Use only tables and columns of the schema.",
                "Answer with the statements alone, in one ```sql block.",
            ]
        )

    def read(self, text: str) -> dict[str, str]:
        """One file of SQL."""
        sql = single(text, ("sql", "plpgsql", "postgresql", "snowflake"), _BEGINS)
        match = re.search(r"\b(?:PROCEDURE|FUNCTION)\s+(?:\w+\.)?\"?(\w+)", sql, re.IGNORECASE)
        return {f"{(self.name or (match[1] if match else 'procedure')).lower()}.sql": sql}

    def check(self, files: Mapping[str, str]) -> list[Problem]:
        """Every statement of every routine."""
        [(file, sql)] = files.items()
        return Script(sql, file, Statements(self.schema, self.targets, self.whole), self.name).read()

    @property
    def checks(self) -> tuple[str, ...]:
        """What `check` looks at."""
        written = f"writes to {', '.join(self.targets)} alone" if self.targets else "writes nothing"
        return (
            f"every statement parsed as {ENGINES[self.schema.dialect]} SQL; tables, columns, functions, variables checked",
            written,
            "no dynamic SQL, no calls, no owner's rights; never executed",
        )


@dataclass(slots=True)
class _Routine:
    kind: str
    name: str
    parameters: dict[str, Variable] = field(default_factory=dict)
    returns: tuple[str, ...] | None = None  # columns of RETURNS TABLE
    language: str = ""
    is_caller: bool = False
    body: str | None = None
    line: int = 0
    body_line: int = 0


class Script:
    """A file of routines and their targets' CREATE TABLE, in order."""

    def __init__(self, sql: str, file: str, statements: Statements, name: str = "") -> None:
        self.sql, self.file, self.statements, self.name = sql, file, statements, name
        self.dialect = statements.dialect
        self.problems: list[Problem] = []
        self.routines: list[_Routine] = []

    def read(self) -> list[Problem]:
        """Everything that is wrong."""
        try:
            found = words(self.sql, self.dialect)
        except UserError as error:
            return [Problem.of(error, self.file)]
        for part in _statements(found):
            if _is_routine(part):
                self._routine(part)
            else:
                self._plain(part)
        if not self.routines:
            self._refuse(None, "there is no CREATE PROCEDURE or CREATE FUNCTION in it")
        elif self.name and self.name.lower() not in [routine.name for routine in self.routines]:
            self._refuse(None, f"the procedure is called {self.routines[0].name}", f"call it {self.name}")
        return self.problems

    def _refuse(self, line: int | None, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(self.file, line, message, hint))

    def _plain(self, part: list[Word]) -> None:
        """CREATE TABLE of a target; writes outside of routines would run when the file is loaded."""
        line = part[0].line
        text = self.sql[part[0].start : part[-1].end]
        if part[0].upper != "CREATE":
            self._refuse(
                line, f"{part[0].upper or part[0].text} may not stand outside of a routine", "CREATE TABLE of a target may"
            )
            return
        if any(word.upper == "REPLACE" for word in part[:3]):
            self._refuse(
                line, "CREATE OR REPLACE TABLE would drop the table when the file is loaded", "CREATE TABLE IF NOT EXISTS"
            )
        try:
            self.statements.check(text)
        except RefusedError as error:
            self.problems.append(Problem.of(error, self.file, line))

    def _routine(self, part: list[Word]) -> None:
        routine = self._head(part)
        if routine is None:
            return
        self.routines.append(routine)
        wanted = {"postgres": ("plpgsql", "sql"), "snowflake": ("sql",)}[self.dialect]
        if routine.language not in wanted:
            told = routine.language or "no language"
            why = f"{told} is not checked here: SQL in it is text" if routine.language else "LANGUAGE is missing"
            self._refuse(routine.line, why, f"LANGUAGE {wanted[0]}")
        elif self.dialect == "snowflake" and not routine.is_caller:
            self._refuse(routine.line, "it would run with its owner's rights", "EXECUTE AS CALLER")
        elif routine.body is None:
            self._refuse(routine.line, "it has no body", "AS $$ ... $$")
        else:
            self._body(routine)

    def _body(self, routine: _Routine) -> None:
        assert routine.body is not None
        scope = Scope(None, {**routine.parameters, **{name: Variable() for name in routine.returns or ()}})
        line = routine.body_line
        # Tables that a routine makes are not there for the next one before it has run.
        statements = Statements(self.statements.schema, self.statements.targets, self.statements.whole)
        statements.made = dict(self.statements.made)
        is_block = re.match(r"\s*(?:--[^\n]*\n\s*)*(?:DECLARE|BEGIN|<<)", routine.body, re.IGNORECASE) is not None
        if routine.language == "sql" and not is_block:
            self._sql_body(routine, scope, line, statements)
            return
        try:
            may_commit = routine.kind == "PROCEDURE"
            blocks = blocks_of(self.dialect)(routine.body, self.file, line, statements, scope, may_commit)
        except UserError as error:
            self.problems.append(Problem.of(error, self.file))
            return
        self.problems += blocks.read()
        for place, columns in blocks.returned:
            if routine.returns and columns and len(columns) != len(routine.returns):
                self._refuse(place, f"{len(columns)} columns are given back, RETURNS TABLE has {len(routine.returns)}")

    def _sql_body(self, routine: _Routine, scope: Scope, line: int, statements: Statements) -> None:
        assert routine.body is not None
        try:
            found = words(routine.body, self.dialect, line)
        except UserError as error:
            self.problems.append(Problem.of(error, self.file))
            return
        for part in _statements(found):
            text = routine.body[part[0].start : part[-1].end]
            try:
                statements.check(text, lambda tree: bind(tree, scope, statements, bare=self.dialect == "postgres"))
            except RefusedError as error:
                self.problems.append(Problem.of(error, self.file, part[0].line))

    def _head(self, part: list[Word]) -> _Routine | None:
        """Name, parameters and options; None (and a problem) where they cannot be read."""
        place = next(i for i, word in enumerate(part) if word.upper in ("PROCEDURE", "FUNCTION"))
        routine = _Routine(part[place].upper, "", line=part[0].line)
        place += 1
        while place + 1 < len(part) and part[place + 1].text == ".":
            schema = part[place].value.lower()
            if schema not in ("public", "main", self.statements.schema.namespace.lower()):
                self._refuse(part[place].line, f"{schema} is another schema", "leave it out")
            place += 2
        routine.name = part[place].value.lower()
        end = _closing(part, place + 1)
        if end is None:
            self._refuse(part[0].line, "the list of parameters cannot be read", "name (p_from date, ...)")
            return None
        for one in split_at_commas(part[place + 2 : end]):
            self._parameter(routine, one)
        self._options(routine, part[end + 1 :])
        return routine

    def _parameter(self, routine: _Routine, part: Sequence[Word]) -> None:
        if part[0].upper in ("IN", "OUT", "INOUT", "VARIADIC") and len(part) > 2:
            part = part[1:]
        if len(part) < 2:
            self._refuse(part[0].line, f"the parameter {part[0].text} has no name or no type")
            return
        routine.parameters[part[0].value.lower()] = Variable()
        default = next((i for i, word in enumerate(part) if word.upper in ("DEFAULT", "=", ":=")), None)
        if default is not None:
            self._value(part[default + 1 :])

    def _value(self, part: Sequence[Word]) -> None:
        if not part:
            return
        try:
            self.statements.expression(self.sql[part[0].start : part[-1].end])
        except RefusedError as error:
            self.problems.append(Problem.of(error, self.file, part[0].line))

    def _options(self, routine: _Routine, part: list[Word]) -> None:
        place = 0
        while place < len(part):
            word = part[place].upper
            if word == "AS" and place + 1 < len(part) and self._take_body(routine, part, place + 1):
                place += 2 if part[place + 1].body else len(part)
                continue
            end = next((i for i in range(place + 1, len(part)) if self._begins_option(part, place, i)), len(part))
            self._option(routine, word, part[place:end])
            place = end

    def _begins_option(self, part: list[Word], start: int, place: int) -> bool:
        word, first = part[place].upper, part[start].upper
        if first == "EXECUTE" and word == "AS" and place == start + 1:
            return False
        if first == "RETURNS" and part[place - 1].upper == "RETURNS":
            return False
        if first in ("CALLED", "RETURNS", "NOT", "SECURITY") and word in ("NULL", "ON", "INPUT", "NOT"):
            return False
        inside = sum((w.text == "(") - (w.text == ")") for w in part[start:place]) > 0
        return not inside and (word in _OPTION_WORDS or word in _PLAIN_OPTIONS[self.dialect])

    def _take_body(self, routine: _Routine, part: list[Word], place: int) -> bool:
        word = part[place]
        routine.body_line = word.line
        if word.body or (word.kind == "text" and word.text.startswith("$")):
            routine.body = word.body
        elif word.upper in ("BEGIN", "DECLARE") and self.dialect == "snowflake":
            routine.body = self.sql[word.start : part[-1].end]
        else:
            self._refuse(word.line, "the body cannot be read", "AS $$ ... $$")
        return True

    def _option(self, routine: _Routine, word: str, part: list[Word]) -> None:
        texts = [one.upper or one.value for one in part]
        if word == "LANGUAGE" and len(part) == 2:
            routine.language = part[1].value.strip("'").lower()
        elif word == "RETURNS":
            self._returns(routine, part)
        elif texts == ["EXECUTE", "AS", "CALLER"]:
            routine.is_caller = True
        elif texts in (["SECURITY", "INVOKER"], ["CALLED", "ON", "NULL", "INPUT"], ["NOT", "NULL"], ["PARALLEL", "SAFE"]):
            pass
        elif word in ("COST", "ROWS", "COMMENT") and part[-1].kind in ("number", "text"):
            pass
        elif texts[:2] == ["SET", "SEARCH_PATH"] and self._is_own_path(part[3:]):
            pass
        elif len(part) == 1 and word in _PLAIN_OPTIONS[self.dialect]:
            pass
        else:
            hint = "it takes its owner's rights" if "DEFINER" in texts or "OWNER" in texts else "leave it out"
            self._refuse(part[0].line, f"{' '.join(texts)[:60]} may not be used", hint)

    def _is_own_path(self, part: Sequence[Word]) -> bool:
        """Whether a search path holds nothing but where the names were looked up."""
        own = {"public", "pg_catalog", "pg_temp", self.statements.schema.namespace.lower()}
        return all(word.text == "," or word.text.strip("'\"").lower() in own for word in part)

    def _returns(self, routine: _Routine, part: list[Word]) -> None:
        if len(part) > 2 and part[1].upper == "TABLE":
            columns = split_at_commas(part[3:-1])
            routine.returns = tuple(column[0].value.lower() for column in columns) or None
        elif len(part) > 1 and part[1].upper == "TRIGGER":
            self._refuse(part[1].line, "triggers are not written here", "a procedure or a function")


def _is_routine(part: Sequence[Word]) -> bool:
    heads = [word.upper for word in part[:4]]
    return heads[:1] == ["CREATE"] and ("PROCEDURE" in heads or "FUNCTION" in heads)


def _statements(found: Sequence[Word]) -> list[list[Word]]:
    """Parted by semicolons; a Snowflake body without dollar quotes is one statement with its routine, up to the end."""
    parts: list[list[Word]] = [[]]
    for word in found:
        bare = _is_routine(parts[-1]) and any(
            one.upper in ("BEGIN", "DECLARE") and before.upper == "AS"
            for before, one in zip(parts[-1], parts[-1][1:], strict=False)
        )
        if word.text == ";" and not bare:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def _closing(part: Sequence[Word], start: int) -> int | None:
    if start >= len(part) or part[start].text != "(":
        return None
    depth = 0
    for i in range(start, len(part)):
        depth += (part[i].text == "(") - (part[i].text == ")")
        if depth == 0:
            return i
    return None
