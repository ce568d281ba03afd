"""Execution accuracy on Spider-form questions (`question`, `query`, `db_id`) over SQLite databases.

Gold is scored as a prediction first: a gold query that does not run, or whose result is not stable, bounds what any
model can reach. Results are equal as multisets of rows; order counts only where gold orders. Columns must stand in gold's
order; what would be right in any order of them, as in Spider's own evaluator, is counted beside.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp

from openarctic.copilot.ask import Answer, AskOptions, Copilot, Tally
from openarctic.copilot.confidence import Calibration
from openarctic.copilot.databases import Database, open_database, sqlite_uri
from openarctic.errors import AbstainedError, CapacityError, MissingError, OpenArcticError, RefusedError, UserError
from openarctic.evals.calibrate import Case
from openarctic.evals.curve import SHOWN, Judged, accuracy_at
from openarctic.generator import Generator

GOLD_TIMEOUT_S = 20.0
GOLD_ROWS = 100_000
CHECK_EVERY_OPCODES = 20_000
MOST_ORDERS = 100  # of a result's columns; more are only possible where many columns hold the same values
HARDNESS = ("easy", "medium", "hard", "extra")

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Question:
    """One line of a question file."""

    text: str
    gold: str
    database: str

    @property
    def hardness(self) -> str:
        """Spider's four classes, by the parts of the gold query's tree."""
        return hardness(self.gold)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one question: `kind` is correct, wrong, abstained, invalid, timeout or refused.

    `is_first_correct`: the greedy candidate alone would have been right, whatever the others voted. `case` is what a calibration
    is fitted on. The last two are the same facts for columns in any order.
    """

    question: Question
    kind: str
    sql: str | None
    confidence: float
    is_first_correct: bool
    first_in_scope: bool
    generated: int
    parsed: int
    seconds: float
    case: Case
    is_correct_in_any_order: bool
    is_first_correct_in_any_order: bool

    @property
    def judged(self) -> Judged:
        """How sure the answer was, and whether it was right; without one, not at all."""
        return self.confidence, self.kind == "correct"


@dataclass(slots=True)
class Report:
    """The counts of a run; `to_dict` is the contract's JSON object."""

    outcomes: list[Outcome] = field(default_factory=list)
    gold_correct: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Numbers only."""
        kinds = Counter(o.kind for o in self.outcomes)
        total = len(self.outcomes)
        by_hardness = {}
        for level in HARDNESS:
            own = [o for o in self.outcomes if o.question.hardness == level]
            right = sum(o.kind == "correct" for o in own)
            by_hardness[level] = {"total": len(own), "correct": right}
        generated = sum(o.generated for o in self.outcomes)
        return {
            "total": total,
            "executed": kinds["correct"] + kinds["wrong"],
            "correct": kinds["correct"],
            "accuracy": round(kinds["correct"] / total, 4) if total else 0.0,
            "surest_70_accuracy": round(accuracy_at(SHOWN, [o.judged for o in self.outcomes]), 4),
            "greedy_correct": (greedy := sum(o.is_first_correct for o in self.outcomes)),
            "greedy_accuracy": round(greedy / total, 4) if total else 0.0,
            "columns_in_any_order": {
                "correct": sum(o.is_correct_in_any_order for o in self.outcomes),
                "greedy_correct": sum(o.is_first_correct_in_any_order for o in self.outcomes),
            },
            "gold_ceiling": round(self.gold_correct / total, 4) if total else 0.0,
            "abstained": kinds["abstained"],
            "invalid": kinds["invalid"],
            "timeouts": kinds["timeout"],
            "refused": kinds["refused"],
            "by_hardness": by_hardness,
            "candidates": generated,
            "candidates_parsed": sum(o.parsed for o in self.outcomes),
            "first_in_scope": sum(o.first_in_scope for o in self.outcomes),
            "seconds": round(self.seconds, 1),
        }


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """Questions of a JSONL file. Raises MissingError or UserError naming the line."""
    if not path.exists():
        raise MissingError(f"no question file at {path}")
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            questions.append(Question(record["question"], record["query"], record["db_id"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} line {number} is not a question: {error!r}", 'wanted: {"question", "query", "db_id"}'
            ) from error
    if not questions:
        raise UserError(f"{path} has no questions")
    return questions[:limit]


def evaluate(
    questions: Sequence[Question],
    databases: Path,
    model: Generator,
    options: AskOptions,
    progress: Callable[[Outcome], None] = lambda outcome: None,
    calibration: str | Path | Calibration | None = None,
) -> Report:
    """Ask every question (database by database) and compare with gold. Raises MissingError for an absent database."""
    by_database: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_database[question.database].append(question)
    opened = {name: _open(databases, name) for name in by_database}
    report = Report()
    started = time.monotonic()
    for name, own in by_database.items():
        with Copilot(opened[name], model, calibration=calibration) as copilot:
            for outcome, gold_runs in outcomes(own, copilot, partial(run_gold, opened[name]), options):
                report.outcomes.append(outcome)
                report.gold_correct += gold_runs
                progress(outcome)
    report.seconds = time.monotonic() - started
    return report


def _open(folder: Path, name: str) -> Database:
    return open_database(folder / name / f"{name}.sqlite")


def outcomes(
    questions: Sequence[Question], copilot: Copilot, rows_of: Callable[[str], Rows | None], options: AskOptions
) -> Iterator[tuple[Outcome, bool]]:
    """What became of each question of one database, and whether its gold query gives the same rows (`rows_of`) twice."""
    dialect = copilot.database.dialect
    for question in questions:
        started = time.monotonic()
        gold, again = rows_of(question.gold), rows_of(question.gold)
        gold_runs = gold is not None and again is not None and same_result(question.gold, gold, again, dialect)
        tally = Tally()
        kind, answer = _ask(copilot, question, options, tally)
        rows = answer.rows if answer is not None else None
        first = tally.first.rows if tally.first is not None else None
        if kind == "answered":
            kind = "correct" if _is_right(question, gold, rows, dialect) else "wrong"
        yield (
            Outcome(
                question=question,
                kind=kind,
                sql=answer.sql if answer else None,
                confidence=answer.confidence if answer else 0.0,
                is_first_correct=_is_right(question, gold, first, dialect),
                first_in_scope=tally.first_in_scope,
                generated=tally.generated,
                parsed=tally.parsed,
                seconds=round(time.monotonic() - started, 3),
                case=_case(question, gold, tally, dialect),
                is_correct_in_any_order=_is_right(question, gold, rows, dialect, any_order=True),
                is_first_correct_in_any_order=_is_right(question, gold, first, dialect, any_order=True),
            ),
            gold_runs,
        )


def _is_right(question: Question, gold: Rows | None, rows: Rows | None, dialect: str, any_order: bool = False) -> bool:
    return gold is not None and rows is not None and same_result(question.gold, gold, rows, dialect, any_order)


def _case(question: Question, gold: Rows | None, tally: Tally, dialect: str) -> Case:
    groups = tally.election.groups if tally.election is not None else ()
    candidates = tuple(candidate for group in groups for candidate in group.candidates)
    rows = [candidate.result.rows if candidate.result is not None else [] for candidate in candidates]
    return Case(question.database, candidates, tuple(_is_right(question, gold, own, dialect) for own in rows))


def _ask(copilot: Copilot, question: Question, options: AskOptions, tally: Tally) -> tuple[str, Answer | None]:
    try:
        return "answered", copilot.ask(question.text, options, tally)
    except AbstainedError:
        return "abstained", None
    except CapacityError:
        return "timeout", None
    except RefusedError:
        return "refused", None
    except OpenArcticError:
        return "invalid", None


def run_gold(database: Database, sql: str) -> Rows | None:
    """The rows of a trusted query, or None when it fails or takes longer than GOLD_TIMEOUT_S."""
    deadline = time.monotonic() + GOLD_TIMEOUT_S
    with closing(sqlite3.connect(sqlite_uri(database.file)[0], uri=True)) as connection:
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), CHECK_EVERY_OPCODES)
        try:
            return connection.execute(sql).fetchmany(GOLD_ROWS)
        except sqlite3.Error:
            return None


def same_result(
    gold_sql: str, gold: Sequence[Sequence[Any]], rows: Sequence[Sequence[Any]], dialect: str = "sqlite", any_order: bool = False
) -> bool:
    """Equal rows: in order where gold orders, else as multisets; numbers to 4 decimals; NULL equals NULL. `any_order`: with
    the columns of `rows` in any order."""
    left, right = [_row(r) for r in gold], [_row(r) for r in rows]
    is_same = (lambda own: left == own) if is_ordered(gold_sql, dialect) else (lambda own: Counter(left) == Counter(own))
    return any(map(is_same, _orders(left, right) if any_order else (right,)))


def _orders(gold: Rows, rows: Rows) -> Iterator[Rows]:
    """`rows` in the orders of columns in which each column holds the values of gold's, whatever the rows they stand in."""
    if not gold or not rows or len(gold[0]) != len(rows[0]):
        yield rows
        return
    wanted, found = ([Counter(column) for column in zip(*own, strict=True)] for own in (gold, rows))
    fitting = [[i for i, own in enumerate(found) if own == column] for column in wanted]
    if all(len(own) == wanted.count(column) for own, column in zip(fitting, wanted, strict=True)):
        for order in itertools.islice(_one_of_each(fitting), MOST_ORDERS):
            yield [tuple(row[i] for i in order) for row in rows]


def _one_of_each(choices: Sequence[Sequence[int]], taken: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Every way to take one of each of `choices`, none twice."""
    if len(taken) == len(choices):
        yield taken
        return
    for one in choices[len(taken)]:
        if one not in taken:
            yield from _one_of_each(choices, (*taken, one))


def _row(row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(round(float(v), 4) if isinstance(v, int | float) else v for v in row)


def is_ordered(sql: str, dialect: str = "sqlite") -> bool:
    """Whether the outermost query has an ORDER BY."""
    return bool(_parse(sql, dialect).args.get("order"))


def _parse(sql: str, dialect: str = "sqlite") -> exp.Expr:
    return sqlglot.parse_one(sql, read=dialect)


def hardness(sql: str) -> str:
    """easy, medium, hard or extra: Spider's counting of clauses, extras and nesting, on the tree."""
    tree = _parse(sql)
    select = tree if isinstance(tree, exp.Select) else tree.find(exp.Select)
    assert select is not None
    where = select.args.get("where")
    conditions = list(where.find_all(exp.Predicate)) if where else []
    ors = len(list(where.find_all(exp.Or))) if where else 0
    likes = len(list(where.find_all(exp.Like))) if where else 0
    clauses = sum(bool(select.args.get(k) or tree.args.get(k)) for k in ("where", "group", "order", "limit"))
    first = clauses + len(select.args.get("joins") or []) + ors + likes
    nested = len(list(tree.find_all(exp.Select))) - 1
    group = select.args.get("group")
    others = (
        (len(list(select.find_all(exp.AggFunc))) > 1)
        + (len(select.expressions) > 1)
        + (len(conditions) > 1)
        + (len(group.expressions) > 1 if group else 0)
    )
    if nested == 0:
        if first <= 1 and others == 0:
            return "easy"
        if (others <= 2 and first <= 1) or (first <= 2 and others < 2):
            return "medium"
        if (others > 2 and first <= 2) or (2 < first <= 3 and others <= 2):
            return "hard"
        return "extra"
    return "hard" if nested == 1 and first <= 1 and others == 0 else "extra"
