"""What a line of a chat does: a question is answered and printed, a slash command is carried out.

Answers go to standard output, talk to standard error. With `json` every answer is one line, failures included.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openarctic.cli.ask import confidence_note, verified_note
from openarctic.cli.chart import drawn
from openarctic.cli.render import render
from openarctic.copilot.ask import Answer, AskOptions, Copilot
from openarctic.copilot.conversation import Conversation
from openarctic.errors import AbstainedError, MissingError, OpenArcticError, UserError

SHOWN_ROWS = 40  # of a result at a terminal; /rows prints all
SAVED = (".csv", ".md", ".json", ".sql", ".svg", ".png")


class Talk:
    """A conversation and what was printed last. `exit_code` is that of the first question that failed."""

    def __init__(self, copilot: Copilot, options: AskOptions, form: str = "table", is_terminal: bool = False) -> None:
        self.copilot, self.options, self.form, self.is_terminal = copilot, options, form, is_terminal
        self.conversation = Conversation(copilot)
        self.last: Answer | None = None
        self.is_over = False
        self.exit_code = 0
        self.commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/sql": self._sql,
            "/explain": self._explain,
            "/rows": self._rows,
            "/chart": self._chart,
            "/schema": self._schema,
            "/history": self._history,
            "/save": self._save,
            "/format": self._format,
            "/limit": self._limit,
            "/reset": self._reset,
            "/quit": self._quit,
        }

    def greeting(self) -> str:
        """The first lines."""
        tables = len(self.copilot.access.schema.tables)
        place = self.copilot.database.place
        return f"{place}: {tables} {'table' if tables == 1 else 'tables'}, model {self.copilot.model.name}. /help lists commands."

    def prompt(self) -> str:
        """It holds the number that the next answer will have."""
        return "1 or 2> " if self.conversation.clarification else f"{len(self.conversation.turns) + 1}> "

    def words(self, before: str) -> Sequence[str]:
        """What may stand after `before`: commands at the beginning, else tables and columns."""
        if not before.strip():
            return [*self.commands, *self._names()]
        return [t.name for t in self.copilot.access.schema.tables] if before.startswith("/schema") else self._names()

    def _names(self) -> list[str]:
        tables = self.copilot.access.schema.tables
        return list(dict.fromkeys([t.name for t in tables] + [c.name for t in tables for c in t.columns]))

    def hear(self, line: str) -> None:
        """One line. Errors of ours are told, and the conversation goes on."""
        if not line:
            return
        try:
            if line.startswith("/"):
                self._command(line)
            else:
                self._answer(self.conversation.ask(line, self.options))
        except OpenArcticError as error:
            self._failed(line, error)

    def _failed(self, line: str, error: OpenArcticError) -> None:
        self.exit_code = self.exit_code or error.exit_code
        if self.form == "json":
            print(json.dumps({"question": line, "status": error.status, "error": error.to_dict()}, ensure_ascii=False))
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        command = self.commands.get(name.lower())
        if command is None:
            raise UserError(f"there is no command {name}", f"commands: {' '.join(self.commands)}")
        command(rest.strip())

    # answers

    def _answer(self, answer: Answer, is_own: bool = False) -> None:
        if answer.clarification is None:
            self.last = answer
        if answer.abstained or answer.clarification:
            self.exit_code = self.exit_code or (0 if self.is_terminal else AbstainedError.exit_code)
        if self.form == "json":
            print(json.dumps(answer.to_dict(), ensure_ascii=False, default=str))
            return
        if answer.read_as:
            print(f"read as: {answer.read_as}", file=sys.stderr)
        if answer.sql is not None and self.form == "table" and not is_own:
            print(f"{answer.sql}\n")
        if answer.rows is not None:
            self._table(answer, None if self.form != "table" or not self.is_terminal else SHOWN_ROWS)
        if answer.chart is not None:
            print(f"\n{drawn(answer.chart, sys.stdout)}", end="")
        self._say(answer, is_own)

    def _say(self, answer: Answer, is_own: bool) -> None:
        """The sentence: where people read it with the rows, beside rows for programs on standard error."""
        note = f" ({confidence_note(answer)})" if answer.rows is not None and not is_own else ""
        end = "\n" if self.form == "table" else ""  # a line between answers
        print(f"{answer.answer}{note}\n{end}", end="", file=sys.stdout if self.form == "table" else sys.stderr)
        if answer.verified is not None:
            print(verified_note(answer.verified), file=sys.stderr)

    def _table(self, answer: Answer, most: int | None) -> None:
        rows = answer.rows or []
        print(render(answer.columns or [], rows[:most], self.form), end="")
        if most is not None and len(rows) > most:
            print(f"... {len(rows) - most} more rows: /rows prints them", file=sys.stderr)
        elif answer.truncated:
            print(f"only the first {len(rows)} rows; /limit N changes that", file=sys.stderr)

    # commands

    def _tell(self, text: str) -> None:
        """What a command prints: beside JSON lines it would be no line of theirs."""
        print(text, file=sys.stderr if self.form == "json" else sys.stdout)

    def _need_last(self) -> Answer:
        if self.last is None:
            raise MissingError("nothing has been answered yet", "ask a question first")
        return self.last

    def _help(self, rest: str) -> None:
        """These lines."""
        width = max(map(len, self.commands))
        self._tell("\n".join(f"{name:<{width}}  {(command.__doc__ or '').strip()}" for name, command in self.commands.items()))

    def _sql(self, rest: str) -> None:
        """The SQL of the last answer; /sql SELECT ... runs your own, and follow-ups may be about it."""
        if not rest:
            self._tell(self._need_last().sql or "")
            return
        self._answer(self.conversation.tell(rest, self.options), is_own=True)

    def _explain(self, rest: str) -> None:
        """What the last SQL does, in words."""
        from openarctic.copilot.answers.explain import explain

        self._tell("\n".join(explain(self._need_last().sql or "", self.copilot.database.dialect)))

    def _rows(self, rest: str) -> None:
        """All rows of the last answer."""
        answer = self._need_last()
        self._tell(render(answer.columns or [], answer.rows or [], "table" if self.form == "json" else self.form).rstrip("\n"))

    def _chart(self, rest: str) -> None:
        """The last rows as a chart."""
        spec = self._spec()
        self._tell(drawn(spec, sys.stdout).rstrip("\n"))

    def _spec(self) -> dict[str, Any]:
        from openarctic.copilot.charts.choose import chart_for

        answer = self._need_last()
        spec = chart_for(
            answer.columns or [], (), answer.rows or [], answer.question, answer.sql, answer.dialect, answer.truncated
        )
        if spec is None:
            raise MissingError("no chart fits these rows", "ask for one number for each of several things")
        return spec

    def _schema(self, rest: str) -> None:
        """The tables, or the columns of one: /schema TABLE."""
        tables = self.copilot.access.schema.tables
        if not rest:
            self._tell("\n".join(f"{t.name}: {', '.join(c.name for c in t.columns)}" for t in tables))
            return
        table = self.copilot.access.schema.table(rest)
        if table is None:
            raise MissingError(f"there is no table {rest}", f"tables: {', '.join(t.name for t in tables[:20])}")
        targets = {k.column: f" > {k.table}.{k.to_column}" for k in table.foreign_keys}
        lines = [f"{c.name} {c.type}{targets.get(c.name, '')}{f'  -- {c.comment}' if c.comment else ''}" for c in table.columns]
        self._tell("\n".join(lines))

    def _history(self, rest: str) -> None:
        """The questions of this conversation; #2 in a question names the second."""
        turns = self.conversation.turns
        self._tell("\n".join(f"#{i} {turn.question}" for i, turn in enumerate(turns, 1)) or "nothing has been asked yet")

    def _save(self, rest: str) -> None:
        """The last answer into a file: /save FILE.csv, .md, .json (rows), .sql, .svg or .png (chart)."""
        answer, path = self._need_last(), Path(rest)
        if path.suffix not in SAVED:
            raise UserError(f"{rest or 'no name'} is no {', '.join(SAVED)} file", "/save FILE.csv")
        if not path.parent.is_dir():
            raise MissingError(f"there is no folder {path.parent}", "make it first")
        if path.suffix in (".svg", ".png"):
            from openarctic.cli.chart import write_chart

            write_chart(self._spec(), path)
        else:
            from openarctic.config import write_text

            form = path.suffix.removeprefix(".")
            write_text(path, f"{answer.sql}\n" if form == "sql" else render(answer.columns or [], answer.rows or [], form))
        print(f"wrote {path}", file=sys.stderr)

    def _format(self, rest: str) -> None:
        """How rows are printed: /format table, json, csv or md."""
        if rest not in ("table", "json", "csv", "md"):
            raise UserError(f"there is no format {rest or 'of no name'}", "/format table, json, csv or md")
        self.form = rest

    def _limit(self, rest: str) -> None:
        """How many rows are read at most: /limit 5000."""
        if not rest.isdigit() or not 1 <= int(rest) <= 1_000_000:
            raise UserError(f"/limit {rest} is no number of 1 to 1000000")
        self.options = replace(self.options, limit=int(rest))

    def _reset(self, rest: str) -> None:
        """Forget what was asked: the next question is the first."""
        self.conversation.reset()
        self.last = None
        print("a new conversation", file=sys.stderr)

    def _quit(self, rest: str) -> None:
        """Leave; so does Ctrl-D."""
        self.is_over = True
