"""How a model is asked for SQL and how its answer is read: the bundled model's short form, any chat model's, and that of models
that reason first.

A form is chosen by what the model is: one that was trained for the short SQL (`target_form`) gets it with a grammar, a model
whose name says Arctic-Text2SQL-R1 gets the prompt that it was trained with, every other one a plain request for one statement.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

from openarctic.copilot.candidates import LONG_CANDIDATES, SHORT_CANDIDATES
from openarctic.copilot.grammar import schema_grammar
from openarctic.copilot.linking.values import ValueLink
from openarctic.copilot.plan import TargetForm, from_plan
from openarctic.copilot.prompt import question_text, schema_text
from openarctic.copilot.schema import Schema, Table

SHORT_TOKENS, CHAT_TOKENS, REASONING_TOKENS = 160, 1024, 8192
SHORT_PROMPT, LONG_PROMPT = 1800, 12_000
SHOWN_VALUES, SHOWN_CHARS = 3, 40
ENGINES = {"duckdb": "DuckDB", "sqlite": "SQLite", "postgres": "PostgreSQL", "snowflake": "Snowflake"}


class Form(Protocol):
    """`is_short`: the answers are short SQL, to be expanded. `max_prompt` and `max_tokens` are in tokens. After the first attempt
    there are at most `retries` more, where nothing of it ran. `candidates` are asked for where nobody wants another number."""

    is_short: bool
    retries: int
    max_prompt: int
    max_tokens: int
    candidates: int

    def schema_text(self, schema: Schema) -> str:
        """The schema as the model reads it: the beginning of every prompt about it."""

    def prompt(self, schema: Schema, question: str, links: Sequence[ValueLink], instructions: str = "", history: str = "") -> str:
        """The whole prompt; `history` is what was asked before."""

    def grammar(self, schema: Schema) -> str | None:
        """What answers must follow, if anything."""

    def read(self, text: str) -> str:
        """The SQL in an answer; empty where there is none."""

    def repair(self, prompt: str, sql: str, trouble: str) -> str:
        """The prompt for another try after `sql` came to nothing, and why."""


def form_of(model: Any) -> Form:
    """The form of a `Generator`."""
    target = getattr(model, "target_form", "sql")
    if target in ("sql", "plan"):
        return ShortForm(cast(TargetForm, target))
    return ReasoningForm() if re.search(r"text2sql-?r1", model.name, re.IGNORECASE) else ChatForm()


class ShortForm:
    """The bundled model's: see `prompt.py` and `joins.py`."""

    is_short, retries, max_prompt, max_tokens = True, 1, SHORT_PROMPT, SHORT_TOKENS
    candidates = SHORT_CANDIDATES

    def __init__(self, target: TargetForm = "sql") -> None:
        self._target = target

    def schema_text(self, schema: Schema) -> str:
        """One line a table."""
        return schema_text(schema)

    def prompt(self, schema: Schema, question: str, links: Sequence[ValueLink], instructions: str = "", history: str = "") -> str:
        """Schema and question; it was not trained to follow instructions, nor to read a dialogue."""
        return schema_text(schema) + question_text(question, links)

    def grammar(self, schema: Schema) -> str | None:
        """Of this schema."""
        return schema_grammar(schema, self._target)

    def read(self, text: str) -> str:
        """Short SQL, also from a plan."""
        return from_plan(text.strip())

    def repair(self, prompt: str, sql: str, trouble: str) -> str:
        """The same: it was not trained to mend, it only tries again."""
        return prompt


class ChatForm:
    """Any model that follows instructions."""

    is_short, retries, max_prompt, max_tokens = False, 2, LONG_PROMPT, CHAT_TOKENS
    candidates = LONG_CANDIDATES

    def schema_text(self, schema: Schema) -> str:
        """The tables as statements that would create them."""
        return f"Database engine: {ENGINES[schema.dialect]}\n\nSchema:\n{ddl(schema)}\n"

    def prompt(self, schema: Schema, question: str, links: Sequence[ValueLink], instructions: str = "", history: str = "") -> str:
        """Schema, question, what is known of its values and was asked before, and how to answer."""
        rules = [
            f"Write one {ENGINES[schema.dialect]} SELECT statement that answers the question.",
            "Select only what is asked for, in the order in which it is asked for. Use only tables and columns of the schema.",
            "Answer with the statement alone, in a ```sql block.",
        ]
        told = _known(links, instructions, history)
        return "\n".join([self.schema_text(schema), *told, f"Question: {question}", "", *rules])

    def grammar(self, schema: Schema) -> str | None:
        """None: whole SQL is checked afterwards."""
        return None

    def read(self, text: str) -> str:
        """The last statement that is marked as SQL, else the last that looks like one."""
        return last_statement(text)

    def repair(self, prompt: str, sql: str, trouble: str) -> str:
        """The failed statement and why it failed."""
        return (
            f"{prompt}\n\nThis statement was tried:\n```sql\n{sql}\n```\nIt failed: {trouble}\nWrite a statement that does not."
        )


class ReasoningForm(ChatForm):
    """Arctic-Text2SQL-R1's: it thinks in <think>, and answers in <answer> (spec/arctic-family.md, section 7)."""

    max_tokens = REASONING_TOKENS

    def prompt(self, schema: Schema, question: str, links: Sequence[ValueLink], instructions: str = "", history: str = "") -> str:
        """In the order and the words of its training."""
        parts = [
            "You are a data science expert. Below, you are provided with a database schema and a natural language question. Your "
            "task is to understand the schema and generate a valid SQL query to answer the question.",
            f"\nDatabase Engine:\n{ENGINES[schema.dialect]}\n\nDatabase Schema:\n{ddl(schema)}",
            *_known(links, instructions, history),
            f"\nQuestion:\n{question}\n\nInstructions:",
            "- Only output the information that is asked in the question, no more and no less.",
            "- The generated query should return all of the information asked in the question.",
            "- Before generating the final SQL query, think through the steps of how to write it.",
            "\nOutput Format:\nPut the steps in <think> </think>, and the query in <answer> </answer>, in a block:\n"
            "<answer>\n```sql\nthe query\n```\n</answer>",
            "\nLet me solve this step by step.\n<think>",
        ]
        return "\n".join(parts)


def _known(links: Sequence[ValueLink], instructions: str, history: str) -> Iterator[str]:
    for link in links:
        places = " or ".join(f"{table}.{column}" for table, column in link.places)
        yield f"The question names the value '{link.value}' of {places}."
    if instructions:
        yield f"Instructions:\n{instructions}"
    if history:
        yield history


def ddl(schema: Schema) -> str:
    """CREATE TABLE statements with types, keys, comments and up to three values of each text column."""
    return "\n\n".join(_create(table) for table in schema.tables)


def _create(table: Table) -> str:
    lines = []
    for column in table.columns:
        values = heapq.nsmallest(SHOWN_VALUES, set(column.values))
        told = [column.comment, f"such as {', '.join(repr(v[:SHOWN_CHARS]) for v in values)}" if values else ""]
        note = "; ".join(" ".join(part.split()) for part in told if part)
        lines.append((f"  {_name(column.name)} {column.type or 'TEXT'}".rstrip(), note))
    if table.primary_key:
        lines.append((f"  PRIMARY KEY ({', '.join(map(_name, table.primary_key))})", ""))
    for key in table.foreign_keys:
        lines.append((f"  FOREIGN KEY ({_name(key.column)}) REFERENCES {_name(key.table)} ({_name(key.to_column)})", ""))
    last = len(lines) - 1
    body = "\n".join(line + ("" if i == last else ",") + (f" -- {note}" if note else "") for i, (line, note) in enumerate(lines))
    comment = f" -- {' '.join(table.comment.split())}" if table.comment else ""
    return f"CREATE TABLE {_name(table.name)} ({comment}\n{body}\n);"


def _name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else '"' + name.replace('"', '""') + '"'


def last_statement(text: str) -> str:
    """After any </think>: the last ```sql block, else the last other one with a SELECT, else from the last line that has one."""
    told = text.rpartition("</think>")[2]
    blocks = re.findall(r"```(\w*)[ \t]*\n?(.*?)```", told, re.DOTALL)
    marked = [body for language, body in blocks if language.lower() in ("sql", "sqlite", "duckdb", "postgresql", "snowflake")]
    other = [body for _, body in blocks if re.search(r"\b(select|with)\b", body, re.IGNORECASE)]
    for found in (marked, other):
        if found:
            return found[-1].strip().rstrip(";").strip()
    begins = list(re.finditer(r"^\s*(?:select|with)\b", told, re.IGNORECASE | re.MULTILINE))
    if not begins:
        return ""
    return told[begins[-1].start() :].partition("</answer>")[0].strip().rstrip(";").strip()
