"""Procedural SQL, read block by block: PL/pgSQL and Snowflake Scripting.

Every query, write, condition and value in it is cut out and checked (`statements.py`) with the variables that are visible there
(`variables.py`). Statements that are not known here are refused, and above all those that build SQL at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import ClassVar

from openarctic.copilot.writing.draft import Problem
from openarctic.copilot.writing.statements import Statements
from openarctic.copilot.writing.variables import Scope, Variable, bind
from openarctic.copilot.writing.words import Word, split_at_commas, words
from openarctic.errors import RefusedError

_SQL = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "CREATE", "DROP", "VALUES")
_TRANSACTION = ("COMMIT", "ROLLBACK")
_DYNAMIC = "SQL that is built at run time cannot be checked: write the statement as it is"
MAX_DEPTH = 50


class _SyntaxError(Exception):
    """The source cannot be read any further."""


class Blocks:
    """Reads one body. `problems` has everything that is wrong; `returned` the widths of queries that are given back."""

    dialect: ClassVar[str]
    predeclared: ClassVar[tuple[str, ...]]

    def __init__(self, body: str, file: str, line: int, statements: Statements, scope: Scope, may_commit: bool = True) -> None:
        self.source, self.file, self.statements, self.may_commit = body, file, statements, may_commit
        self.words = words(body, statements.dialect, line)
        self.place, self.depth = 0, 0
        self.problems: list[Problem] = []
        self.returned: list[tuple[int, tuple[str, ...]]] = []
        self.scope = Scope(scope, {name: Variable() for name in self.predeclared})
        self._last_line = line + body.count("\n")

    def read(self) -> list[Problem]:
        """The whole body: one block."""
        try:
            self._block()
            self._skip(";")
            if self.place < len(self.words):
                raise self._wrong("the end of the body is expected")
        except _SyntaxError as error:
            self.problems.append(Problem(self.file, self._line(), str(error)))
        except RecursionError:
            self.problems.append(Problem(self.file, None, "the body is nested too deeply"))
        return self.problems

    # Words.

    def _peek(self, ahead: int = 0) -> str:
        return self.words[self.place + ahead].upper if self.place + ahead < len(self.words) else ""

    def _line(self) -> int:
        return self.words[self.place].line if self.place < len(self.words) else self._last_line

    def _next(self) -> Word:
        if self.place >= len(self.words):
            raise self._wrong("the body ends too early")
        self.place += 1
        return self.words[self.place - 1]

    def _skip(self, *wanted: str) -> bool:
        """Past the words, if they are the next ones."""
        if all(self._peek(i) == word for i, word in enumerate(wanted)):
            self.place += len(wanted)
            return True
        return False

    def _expect(self, *wanted: str) -> None:
        if not self._skip(*wanted):
            raise self._wrong(f"{' '.join(wanted)} is expected")

    def _wrong(self, text: str) -> _SyntaxError:
        found = self.words[self.place].text[:40] if self.place < len(self.words) else "the end"
        return _SyntaxError(f"{text}, and {found!r} stands there")

    def _name(self) -> str:
        word = self._next()
        if word.kind not in ("word", "name"):
            self.place -= 1
            raise self._wrong("a name is expected")
        return word.value.lower()

    def _until(self, *ends: str) -> list[Word]:
        """Words up to one of `ends` that stands outside of brackets and CASE; the end itself stays."""
        start, depth, cases = self.place, 0, 0
        while self.place < len(self.words):
            word = self.words[self.place].upper
            if depth == 0 and cases == 0 and word in ends:
                return self.words[start : self.place]
            depth += self.words[self.place].nesting
            if word == "CASE":
                cases += 1
            elif word == "END" and cases:
                cases -= 1
            elif word == ";" and depth == 0:
                break
            self.place += 1
        raise self._wrong(f"{' or '.join(ends)} is expected")

    def _text(self, part: list[Word]) -> str:
        return self.source[part[0].start : part[-1].end] if part else ""

    # Checks.

    def _checked(self, line: int, check: Callable[[], tuple[str, ...] | None]) -> tuple[str, ...]:
        try:
            return check() or ()
        except RefusedError as error:
            self.problems.append(Problem.of(error, self.file, line))
            return ()

    def _refuse(self, line: int, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(self.file, line, message, hint))

    def _value(self, part: list[Word]) -> None:
        """One value or condition, in which plain names are variables."""
        if not part:
            self._refuse(self._line(), "a value is missing")
            return
        text, scope = self._text(part), self.scope
        self._checked(
            part[0].line, lambda: self.statements.expression(text, lambda tree: bind(tree, scope, self.statements, bare=True))
        )

    def _sql(self, part: list[Word], before: str = "") -> tuple[str, ...]:
        """One statement; the names of its columns."""
        return self._statement_text(before + self._text(part), part[0].line if part else self._line())

    def _statement_text(self, text: str, line: int) -> tuple[str, ...]:
        scope, bare = self.scope, self.dialect == "postgres"
        return self._checked(
            line, lambda: self.statements.check(text, lambda tree: bind(tree, scope, self.statements, bare=bare))
        )

    def _query(self, part: list[Word]) -> tuple[str, ...]:
        """One statement that reads."""
        while _is_enclosed(part):
            part = part[1:-1]
        if not part or part[0].upper not in ("SELECT", "WITH", "VALUES"):
            self._refuse(part[0].line if part else self._line(), "a query is expected", _DYNAMIC)
            return ()
        return self._sql(part)

    def _into(self, part: list[Word], line: int) -> None:
        """The statement without `INTO [STRICT] names`, which must be variables. Their rows get the statement's columns."""
        depth, start = 0, None
        for i, word in enumerate(part):
            depth += word.nesting
            if word.upper == "INTO" and depth == 0 and i and part[i - 1].upper not in ("INSERT", "MERGE"):
                start = i
                break
        if start is None:
            if part[0].upper == "SELECT" or (part[0].upper == "WITH" and not self._writes(part)):
                hint = "SELECT ... INTO a variable, or PERFORM" if self.dialect == "postgres" else "SELECT ... INTO :variable"
                self._refuse(line, "the rows of this query go nowhere", hint)
            self._sql(part)
            return
        end, names = start + 1, []
        if part[end : end + 1] and part[end].upper == "STRICT":
            end += 1
        while end < len(part):
            if part[end].upper == ":" and self.dialect == "snowflake":
                end += 1
            names.append(part[end].value.lower())
            end += 1
            while end + 1 < len(part) and part[end].upper == ".":
                end += 2
            if end >= len(part) or part[end].upper != ",":
                break
            end += 1
        gap = " " * (part[end - 1].end - part[start].start)
        text = self.source[part[0].start : part[start].start] + gap + self.source[part[end - 1].end : part[-1].end]
        self._assign(names, self._statement_text(text, line), line)

    def _writes(self, part: list[Word]) -> bool:
        depth = 0
        for word in part:
            depth += word.nesting
            if depth == 0 and word.upper in ("INSERT", "UPDATE", "DELETE", "MERGE"):
                return True
        return False

    def _assign(self, names: list[str], columns: tuple[str, ...], line: int) -> None:
        variables = [found for name in names if (found := self._variable(name, line)) is not None]
        if len(variables) == 1 and variables[0].is_row:
            variables[0].fields = tuple(column.lower() for column in columns)
        elif columns and len(names) != len(columns):
            self._refuse(line, f"{len(columns)} columns are put into {len(names)} variables")

    def _variable(self, name: str, line: int) -> Variable | None:
        try:
            return self.scope.require(name)
        except RefusedError as error:
            self.problems.append(Problem.of(error, self.file, line))
            return None

    # Blocks.

    def _block(self) -> None:
        self._enter()
        self._label()
        if self._skip("DECLARE"):
            while self._peek() != "BEGIN":
                self._declaration()
        self._expect("BEGIN")
        self._statements(("END", "EXCEPTION"))
        if self._skip("EXCEPTION"):
            while self._skip("WHEN"):
                self._until("THEN")
                self._expect("THEN")
                self._statements(("WHEN", "END"))
        self._expect("END")
        if self._peek() not in (";", ""):
            self._name()  # a label
        self._leave()

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _SyntaxError(f"blocks are nested more than {MAX_DEPTH} deep")
        self.scope = Scope(self.scope)

    def _leave(self) -> None:
        self.depth -= 1
        assert self.scope.outer is not None
        self.scope = self.scope.outer

    def _label(self) -> None:
        if self._skip("<<"):
            self._name()
            self._expect(">>")

    def _statements(self, ends: Collection[str]) -> None:
        while self._peek() not in ends:
            if self.place >= len(self.words):
                raise self._wrong(f"{' or '.join(ends)} is expected")
            self._statement()

    def _statement(self) -> None:
        word, line = self._peek(), self._line()
        if word == "<<":
            self._label()
            return
        if word in ("DECLARE", "BEGIN") and not (word == "BEGIN" and self._peek(1) in ("TRANSACTION", "WORK", ";")):
            self._block()
            self._expect(";")
            return
        known = getattr(self, f"_do_{word.lower()}", None) if word.isalpha() else None
        if known is not None and self._peek(1) not in (":=", "="):
            known(line)
        elif word in _SQL:
            self._into(self._until(";"), line)
            self._expect(";")
        elif word in _TRANSACTION:
            if not self.may_commit:
                self._refuse(line, f"{word} may not stand in a function", "make it a procedure")
            self._until(";")
            self._expect(";")
        elif self._is_assignment():
            self._assignment(line)
        else:
            self._refuse(line, f"{word or self.words[self.place].text} may not be used", _DYNAMIC if word == "EXECUTE" else None)
            self._until(";")
            self._expect(";")

    def _is_assignment(self) -> bool:
        place = self.place
        while place < len(self.words) and self.words[place].text != ";":
            if self.words[place].text in (":=", "="):
                return self.words[self.place].kind in ("word", "name") and self.words[self.place].upper not in (
                    "EXECUTE",
                    "CALL",
                    "SET",
                )
            place += 1
        return False

    def _assignment(self, line: int) -> None:
        name = self._name()
        variable = self._variable(name, line)
        index = self._until(":=", "=")
        self._next()
        if "[" in (texts := [word.text for word in index]):
            self._value(index[texts.index("[") + 1 : -1])
        self._initial(self._until(";"), variable)
        self._expect(";")

    def _initial(self, part: list[Word], variable: Variable | None) -> None:
        """A value for a variable; for a cursor or RESULTSET a query."""
        if variable is not None and variable.query is not None:
            variable.query = self._query(part)
        else:
            self._value(part)

    def _declaration(self) -> None:
        raise NotImplementedError

    # Statements that both languages have.

    def _do_if(self, line: int) -> None:
        self._expect("IF")
        while True:
            self._value(self._until("THEN"))
            self._expect("THEN")
            self._statements(("ELSIF", "ELSEIF", "ELSE", "END"))
            if self._peek() not in ("ELSIF", "ELSEIF"):
                break
            self._next()
        if self._skip("ELSE"):
            self._statements(("END",))
        self._expect("END", "IF", ";")

    def _do_case(self, line: int) -> None:
        self._expect("CASE")
        if self._peek() != "WHEN":
            self._value(self._until("WHEN"))
        while self._skip("WHEN"):
            self._value(self._until("THEN"))
            self._expect("THEN")
            self._statements(("WHEN", "ELSE", "END"))
        if self._skip("ELSE"):
            self._statements(("END",))
        self._expect("END")
        self._skip("CASE")
        self._expect(";")

    def _loop_body(self, begins: tuple[str, ...], end: tuple[str, ...]) -> None:
        if self._peek() not in begins:
            raise self._wrong(f"{' or '.join(begins)} is expected")
        self._next()
        self._statements(("END",))
        self._expect("END")
        if self._peek() not in end:
            raise self._wrong(f"END {' or '.join(end)} is expected")
        self._next()
        if self._peek() not in (";", ""):
            self._name()
        self._expect(";")

    def _do_loop(self, line: int) -> None:
        self._loop_body(("LOOP",), ("LOOP",))

    def _do_null(self, line: int) -> None:
        self._expect("NULL", ";")

    def _do_exit(self, line: int) -> None:
        self._next()
        if self._peek() not in ("WHEN", ";"):
            self._name()
        if self._skip("WHEN"):
            self._value(self._until(";"))
        self._expect(";")

    _do_continue = _do_break = _do_iterate = _do_exit


def _is_enclosed(part: list[Word]) -> bool:
    """Whether one pair of brackets holds all of it."""
    depth = 0
    for i, word in enumerate(part):
        depth += (word.text == "(") - (word.text == ")")
        if depth == 0:
            return i > 0 and i == len(part) - 1
    return False


class PlPgSql(Blocks):
    """PostgreSQL's."""

    dialect = "postgres"
    predeclared = ("found", "sqlerrm", "sqlstate")

    def _declaration(self) -> None:
        line, name = self._line(), self._name()
        self._skip("CONSTANT")
        if self._peek() in ("CURSOR", "SCROLL", "NO"):
            self._until("FOR", "IS")
            self._next()
            self.scope.own[name] = Variable(query=self._query(self._until(";")))
            self._expect(";")
            return
        if self._peek() == "ALIAS":
            raise self._wrong("a type is expected")
        part = self._until(":=", "=", "DEFAULT", ";")
        self.scope.own[name] = self._typed(part, line)
        if not self._skip(";"):
            self._next()
            self._value(self._until(";"))
            self._expect(";")

    def _typed(self, part: list[Word], line: int) -> Variable:
        """A variable of a declared type: `record`, `table%ROWTYPE`, `table.column%TYPE` or any other."""
        texts = [word.upper or word.value for word in part]
        if texts[:1] == ["RECORD"]:
            return Variable(is_row=True)
        if "%" not in texts:
            return Variable()
        table = self.statements.table(part[0].value)
        if table is None:
            if self.scope.find(part[0].value) is None:
                self._refuse(line, f"there is no table {part[0].value}")
            return Variable()
        if texts[-1] == "ROWTYPE":
            return Variable(is_row=True, fields=tuple(column.name.lower() for column in table.columns))
        if len(part) > 2 and table.column(part[2].value) is None:
            self._refuse(line, f"{table.name} has no column {part[2].value}")
        return Variable()

    def _do_while(self, line: int) -> None:
        self._expect("WHILE")
        self._value(self._until("LOOP"))
        self._loop_body(("LOOP",), ("LOOP",))

    def _do_for(self, line: int) -> None:
        self._expect("FOR")
        names = [self._name()]
        while self._skip(","):
            names.append(self._name())
        self._expect("IN")
        if self._peek() == "EXECUTE":
            self._refuse(line, "EXECUTE may not be used", _DYNAMIC)
            self._until("LOOP")
            self._enter()
        elif self._peek() in ("SELECT", "WITH", "VALUES", "("):
            columns = self._query(self._until("LOOP"))
            self._enter()
            for name in names:
                if self.scope.find(name) is None:
                    self._refuse(line, f"there is no variable {name}", f"DECLARE {name} record;")
            if all(self.scope.find(name) is not None for name in names):
                self._assign(names, columns, line)
        else:
            self._range(names[0])
        self._loop_body(("LOOP",), ("LOOP",))
        self._leave()

    def _range(self, name: str) -> None:
        self._skip("REVERSE")
        cursor = self.scope.find(self.words[self.place].value)
        if cursor is not None and cursor.query is not None and self._peek(1) == "LOOP":
            self._next()
            self._enter()
            self.scope.own[name] = Variable(is_row=True, fields=tuple(column.lower() for column in cursor.query))
            return
        self._value(self._until(".."))
        self._next()
        self._value(self._until("LOOP", "BY"))
        if self._skip("BY"):
            self._value(self._until("LOOP"))
        self._enter()
        self.scope.own[name] = Variable()

    def _do_foreach(self, line: int) -> None:
        self._expect("FOREACH")
        self._variable(self._name(), line)
        self._expect("IN", "ARRAY")
        self._value(self._until("LOOP"))
        self._loop_body(("LOOP",), ("LOOP",))

    def _do_return(self, line: int) -> None:
        self._expect("RETURN")
        if self._skip("QUERY"):
            if self._peek() == "EXECUTE":
                self._refuse(line, "EXECUTE may not be used", _DYNAMIC)
                self._until(";")
            else:
                self.returned.append((line, self._query(self._until(";"))))
        else:
            self._skip("NEXT")
            part = self._until(";")
            if part:
                self._value(part)
        self._expect(";")

    def _do_raise(self, line: int) -> None:
        self._expect("RAISE")
        if self._peek() in ("DEBUG", "LOG", "INFO", "NOTICE", "WARNING", "EXCEPTION"):
            self._next()
        part = self._until("USING", ";")
        if part and part[0].kind == "text":
            values = split_at_commas(part)[1:]
            holes = part[0].text.replace("%%", "").count("%")
            if holes != len(values):
                self._refuse(line, f"RAISE has {holes} places for values (%) and {len(values)} values")
            for value in values:
                self._value(value)
        if self._skip("USING"):
            for option in split_at_commas(self._until(";")):
                self._value(option[2:])
        self._expect(";")

    def _do_perform(self, line: int) -> None:
        self._expect("PERFORM")
        self._sql(self._until(";"), "SELECT ")
        self._expect(";")

    def _do_assert(self, line: int) -> None:
        self._expect("ASSERT")
        for value in split_at_commas(self._until(";")):
            self._value(value)
        self._expect(";")

    def _do_get(self, line: int) -> None:
        self._expect("GET")
        if self._peek() in ("CURRENT", "STACKED"):
            self._next()
        self._expect("DIAGNOSTICS")
        for item in split_at_commas(self._until(";")):
            self._variable(item[0].value, line)
            if len(item) != 3 or item[1].text not in (":=", "=") or item[2].kind != "word":
                self._refuse(line, "GET DIAGNOSTICS takes pairs such as n = ROW_COUNT")
        self._expect(";")


class SnowflakeScripting(Blocks):
    """Snowflake's."""

    dialect = "snowflake"
    predeclared = ("sqlrowcount", "sqlfound", "sqlnotfound", "sqlerrm", "sqlcode", "sqlstate", "sqlid")

    def _declaration(self) -> None:
        self._declared(self._name())

    def _do_let(self, line: int) -> None:
        self._expect("LET")
        self._declared(self._name())

    def _declared(self, name: str) -> None:
        kind = self._peek()
        if kind == "CURSOR":
            self._expect("CURSOR", "FOR")
            part = self._until(";")
            one = self.scope.find(part[0].value) if len(part) == 1 else None
            query = one.query if one is not None and one.query is not None else self._query(part)
            self.scope.own[name] = Variable(query=query)
        elif kind == "RESULTSET":
            self._next()
            self.scope.own[name] = Variable(query=())
            if self._peek() in (":=", "DEFAULT"):
                self._next()
                self._initial(self._until(";"), self.scope.own[name])
        elif kind == "EXCEPTION":
            self._until(";")
            self.scope.own[name] = Variable()
        else:
            self._until(":=", "DEFAULT", ";")
            is_given = self._peek() != ";"
            if is_given:
                self._next()
                self._value(self._until(";"))
            self.scope.own[name] = Variable()
        self._expect(";")

    def _do_begin(self, line: int) -> None:
        if any(word.kind != "word" for word in self._until(";")):
            self._refuse(line, "BEGIN takes no values")
        self._expect(";")

    def _do_while(self, line: int) -> None:
        self._expect("WHILE")
        self._value(self._until("DO", "LOOP"))
        self._loop_body(("DO", "LOOP"), ("WHILE", "LOOP"))

    def _do_repeat(self, line: int) -> None:
        self._expect("REPEAT")
        self._statements(("UNTIL",))
        self._expect("UNTIL")
        self._value(self._until("END"))
        self._expect("END", "REPEAT", ";")

    def _do_for(self, line: int) -> None:
        self._expect("FOR")
        name = self._name()
        self._expect("IN")
        self._skip("REVERSE")
        part = self._until("TO", "DO", "LOOP")
        row = Variable()
        if self._skip("TO"):
            self._value(part)
            self._value(self._until("DO", "LOOP"))
        elif len(part) == 1 and (found := self._variable(part[0].value, line)) is not None:
            if found.query is None:
                self._refuse(line, f"{part[0].value} is no cursor or RESULTSET")
            row = Variable(is_row=True, fields=tuple(column.lower() for column in found.query or ()))
        else:
            self._refuse(line, "FOR runs over a cursor, a RESULTSET or numbers", "DECLARE c CURSOR FOR SELECT ...")
        self._enter()
        self.scope.own[name] = row
        self._loop_body(("DO", "LOOP"), ("FOR", "LOOP"))
        self._leave()

    def _do_return(self, line: int) -> None:
        self._expect("RETURN")
        part = self._until(";")
        if part and part[0].upper == "TABLE":
            self._returned_table(part[2:-1], line)
        elif part:
            self._value(part)
        self._expect(";")

    def _returned_table(self, part: list[Word], line: int) -> None:
        if len(part) != 1:
            self.returned.append((line, self._query(part)))
            return
        found = self._variable(part[0].value, line)
        if found is not None and found.query is None:
            self._refuse(line, f"{part[0].value} is no RESULTSET", "res RESULTSET := (SELECT ...)")
        elif found is not None and found.query is not None:
            self.returned.append((line, found.query))

    def _do_raise(self, line: int) -> None:
        self._expect("RAISE")
        if self._peek() != ";":
            self._variable(self._name(), line)
        self._expect(";")

    def _do_open(self, line: int) -> None:
        self._next()
        self._variable(self._name(), line)
        self._expect(";")

    _do_close = _do_open

    def _do_fetch(self, line: int) -> None:
        self._expect("FETCH")
        self._variable(self._name(), line)
        self._expect("INTO")
        for name in split_at_commas(self._until(";")):
            self._variable(name[-1].value, line)
        self._expect(";")


def blocks_of(dialect: str) -> type[Blocks]:
    """The reader of a dialect's procedural language."""
    return {"postgres": PlPgSql, "snowflake": SnowflakeScripting}[dialect]
