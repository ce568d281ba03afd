"""What people say of answers: a file that only grows, drafts of verified queries for review, and training pairs.

Each line of the file is one thumb, correction or review (`Feedback`, `Review`). A draft is a question with a SQL that somebody
liked or wrote; nothing becomes a verified query, or a training pair, before a person has accepted it by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from openarctic.copilot.intent import check_question
from openarctic.copilot.semantic.model import SemanticModel, VerifiedQuery
from openarctic.copilot.semantic.words import normal_words
from openarctic.errors import CapacityError, CorruptError, MissingError, UserError

MAX_SQL_CHARS = 20_000
MAX_NAME_CHARS = 200
MAX_LINE_BYTES = 200_000

Verdict = Literal["up", "down"]
Decision = Literal["accepted", "rejected"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """A verdict on the SQL that answered a question; `corrected` is the SQL that a person put in its place, `comment` what
    they said of it. `at` is in seconds.

    Raises UserError for values outside of their limits.
    """

    question: str
    sql: str
    verdict: Verdict
    corrected: str = ""
    by: str = ""
    at: int = 0
    comment: str = ""

    def __post_init__(self) -> None:
        check_question(self.question)
        if not normal_words(self.question):
            raise UserError(f"the question {self.question!r} has no words")
        if self.verdict not in ("up", "down"):
            raise UserError(f"the verdict is {self.verdict!r}", "it is up or down")
        if not self.sql.strip() and not self.corrected.strip():
            raise UserError("there is no SQL to speak of", "give the SQL of the answer, or the right one")
        for name in ("sql", "corrected", "comment"):
            if len(getattr(self, name)) > MAX_SQL_CHARS:
                raise UserError(f"{name} has {len(getattr(self, name))} characters, the limit is {MAX_SQL_CHARS}")
        _check_name(self.by)


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """What `by` decided of the draft `id`."""

    id: str
    decision: Decision
    by: str
    at: int = 0

    def __post_init__(self) -> None:
        if self.decision not in ("accepted", "rejected"):
            raise UserError(f"the decision is {self.decision!r}", "it is accepted or rejected")
        if not self.by.strip():
            raise UserError("a review needs the name of who makes it", "give --by NAME")
        _check_name(self.by)


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME_CHARS or not (name.isprintable() or not name):
        raise UserError(f"the name {name[:40]!r} is no name", f"at most {MAX_NAME_CHARS} characters that can be printed")


@dataclass(slots=True)
class Draft:
    """A question and a SQL that could become a verified query. `rivals` are drafts of the same question with other SQL."""

    id: str
    question: str
    sql: str
    up: int = 0
    down: int = 0
    corrections: int = 0
    people: list[str] = field(default_factory=list)
    last_at: int = 0
    status: Literal["open", "accepted", "rejected"] = "open"
    reviewed_by: str = ""
    reviewed_at: int = 0
    rivals: tuple[str, ...] = ()

    @property
    def is_supported(self) -> bool:
        """More people found it right, or wrote it, than found it wrong."""
        return self.up + self.corrections > self.down

    def verified_query(self) -> VerifiedQuery:
        """As the semantic model keeps it, once it is accepted."""
        return VerifiedQuery(
            name=self.question, question=self.question, sql=self.sql, verified_at=self.reviewed_at, verified_by=self.reviewed_by
        )


def draft_id(question: str, sql: str) -> str:
    """The same for the same words and the same SQL, whatever its spaces."""
    told = "\n".join((" ".join(normal_words(question)), " ".join(sql.split()).rstrip("; ")))
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:12]


class FeedbackFile:
    """One JSON object a line. Lines are only ever added, each by one write, so that several processes can."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Feedback | Review) -> None:
        """Add one line; `at` becomes now where it is 0. Raises OSError where the file cannot be written."""
        if not record.at:
            record = replace(record, at=int(time.time()))
        kind = "feedback" if isinstance(record, Feedback) else "review"
        line = json.dumps({"kind": kind, **asdict(record)}, ensure_ascii=False) + "\n"
        raw = line.encode("utf-8", "replace")
        if len(raw) > MAX_LINE_BYTES:
            raise CapacityError(f"the record has {len(raw)} bytes, the limit is {MAX_LINE_BYTES}")
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, raw)
        finally:
            os.close(descriptor)

    def records(self) -> Iterator[Feedback | Review]:
        """Every line in order. Raises MissingError without a file, CorruptError with the line that is wrong."""
        if not self.path.exists():
            raise MissingError(f"no feedback at {self.path}", "openarctic feedback add writes it")
        with self.path.open("rb") as lines:
            for number, raw in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES + 1), b""), start=1):
                if raw.strip():
                    yield self._record(raw, number)

    def _record(self, raw: bytes, number: int) -> Feedback | Review:
        place = f"{self.path}, line {number}"
        try:
            values = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"{place} is not JSON", "repair or remove the line") from error
        kind = values.pop("kind", None) if isinstance(values, dict) else None
        cls = {"feedback": Feedback, "review": Review}.get(kind) if isinstance(kind, str) else None
        if cls is None:
            raise CorruptError(f"{place} is neither feedback nor a review")
        is_whole = all(isinstance(v, int if k == "at" else str) and not isinstance(v, bool) for k, v in values.items())
        try:
            if not is_whole:
                raise TypeError("values of other types")
            record: Feedback | Review = cls(**values)
        except (TypeError, UserError) as error:
            raise CorruptError(f"{place} is not what a line must be: {error}", "repair or remove the line") from error
        return record

    def drafts(self) -> list[Draft]:
        """The drafts that the lines make, those to be reviewed first, then the latest first."""
        return drafts_of(self.records())


def drafts_of(records: Iterable[Feedback | Review]) -> list[Draft]:
    """See `FeedbackFile.drafts`. A thumb up supports the SQL, one down speaks against it, a correction is a draft of its own."""
    found: dict[str, Draft] = {}

    def draft(question: str, sql: str, record: Feedback) -> Draft:
        id_ = draft_id(question, sql)
        made = found.setdefault(id_, Draft(id_, question.strip(), sql.strip().rstrip(";")))
        made.last_at = max(made.last_at, record.at)
        if record.by and record.by not in made.people:
            made.people.append(record.by)
        return made

    for record in records:
        if isinstance(record, Review):
            if record.id in found:
                reviewed = found[record.id]
                reviewed.status, reviewed.reviewed_by, reviewed.reviewed_at = record.decision, record.by, record.at
            continue
        if record.sql.strip() and (record.verdict == "down" or not record.corrected):
            own = draft(record.question, record.sql, record)
            own.up += record.verdict == "up"
            own.down += record.verdict == "down"
        if record.corrected.strip():
            draft(record.question, record.corrected, record).corrections += 1
    by_question: dict[tuple[str, ...], list[Draft]] = {}
    for made in found.values():
        by_question.setdefault(normal_words(made.question), []).append(made)
    for same in by_question.values():
        for made in same:
            made.rivals = tuple(other.id for other in same if other is not made and other.is_supported)
    kept = [made for made in found.values() if made.is_supported or made.status != "open"]
    return sorted(kept, key=lambda made: (made.status != "open", -made.last_at, made.id))


def find_draft(drafts: Sequence[Draft], id_: str) -> Draft:
    """The draft whose id begins so. Raises MissingError for none, UserError for several."""
    found = [made for made in drafts if made.id.startswith(id_)] if id_ else []
    if not found:
        raise MissingError(f"there is no draft {id_!r}", "openarctic feedback list shows them")
    if len(found) > 1:
        raise UserError(f"{len(found)} drafts begin with {id_}", "give more of the id")
    return found[0]


def with_verified(model: SemanticModel, query: VerifiedQuery) -> SemanticModel:
    """The model with one more verified query. Raises UserError where another one answers the same question differently."""
    words = normal_words(query.question)
    for known in model.verified_queries:
        if normal_words(known.question) == words and " ".join(known.sql.split()) != " ".join(query.sql.split()):
            raise UserError(
                f"{query.question!r} is already {known.badge}, with other SQL", "remove that one from the model first"
            )
    others = tuple(known for known in model.verified_queries if normal_words(known.question) != words)
    return replace(model, verified_queries=(*others, query))


def as_json(draft: Draft) -> dict[str, Any]:
    """For a program."""
    return {**asdict(draft), "rivals": list(draft.rivals)}
