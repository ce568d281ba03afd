"""Plays conversations of a file without a model: which follow-ups give the rows that the right SQL gives?"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openarctic.copilot.ask import AskOptions, Copilot
from openarctic.copilot.conversation import Conversation, Turn
from openarctic.copilot.databases import Database
from openarctic.copilot.vote import result_key
from openarctic.errors import OpenArcticError
from openarctic.generator import ScriptedGenerator

CASES = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """A first question with the SQL that answered it, and follow-ups with the SQL that would be right."""

    database: str
    first: str
    sql: str
    then: list[tuple[str, str]]


@dataclass(frozen=True)
class Played:
    """One follow-up; `sql` is None where it was left to a model."""

    case: str
    follow_up: str
    gold: str
    sql: str | None
    read_as: str
    is_right: bool


def play(name: str, copilots: dict[str, Copilot]) -> Iterator[Played]:
    """Each follow-up after its predecessors; a wrong one is followed by what would have been right."""
    for case in read(CASES / name):
        yield from _play(case, copilots[case.database])


@contextlib.contextmanager
def silent(databases: dict[str, Database]) -> Iterator[dict[str, Copilot]]:
    """Copilots whose model has nothing to say."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(Copilot(db, ScriptedGenerator([]))) for name, db in databases.items()}


def read(path: Path) -> Iterator[Case]:
    """`DATABASE: question => SQL`, and below it indented `follow-up => SQL`; # begins a comment."""
    case: Case | None = None
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        question, sql = line.strip().split(" => ")
        if line.startswith("  "):
            assert case is not None
            case.then.append((question, sql))
            continue
        if case is not None:
            yield case
        database, _, first = question.partition(": ")
        case = Case(database, first, sql, [])
    if case is not None:
        yield case


def _play(case: Case, copilot: Copilot) -> Iterator[Played]:
    conversation = Conversation(copilot, [Turn(question=case.first, sql=case.sql)])
    for follow_up, gold in case.then:
        wanted = copilot.answer_with(follow_up, gold, AskOptions())
        sql, read_as, is_right = None, "", False
        try:
            answer = conversation.ask(follow_up, AskOptions())
            sql, read_as = answer.sql, answer.read_as or ""
            is_right = same(answer.rows or [], wanted.rows or [], is_ordered=bool(re.search(r"ORDER BY(?!.*\))", gold)))
        except StopIteration:  # the scripted model was asked
            read_as = "(asked a model)"
        except OpenArcticError as error:
            read_as = f"({error.message})"
        if not is_right:
            conversation.turns = [
                *conversation.turns[: len(conversation.turns) - (sql is not None)],
                Turn(question=follow_up, sql=gold),
            ]
        yield Played(case.first, follow_up, gold, sql, read_as, is_right)


def same(rows: list[tuple[Any, ...]], wanted: list[tuple[Any, ...]], is_ordered: bool) -> bool:
    """Equal rows; in order where the right SQL orders them."""
    if is_ordered:
        return len(rows) == len(wanted) and all(result_key([a]) == result_key([b]) for a, b in zip(rows, wanted, strict=True))
    return result_key(rows) == result_key(wanted)
