"""A conversation over a `Copilot`: it knows what was asked before.

A follow-up is read without a model where its words say which change of the earlier SQL is meant (`followup.py`). Every changed
statement passes `Access.check` as any other does, so that no history shows anybody more than they may see. A model that can read
a dialogue is shown the latest turns instead; for one that cannot, the question is completed (`ellipsis.py`). `Answer.read_as`
says how a follow-up was read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from openarctic.copilot.ask import Answer, AskOptions, Copilot, OnLinked, Tally
from openarctic.copilot.conversation.clarify import Clarification, clarify
from openarctic.copilot.conversation.ellipsis import completed
from openarctic.copilot.conversation.followup import FollowUp, Kind, kind_of, read_follow_up, read_picture
from openarctic.copilot.conversation.mentions import Vocabulary
from openarctic.copilot.conversation.query import Query
from openarctic.copilot.conversation.turns import MAX_TURNS, Turn, history_text
from openarctic.copilot.guard import write_sql
from openarctic.copilot.intent import check_question, check_text
from openarctic.errors import RefusedError, UserError

_HANDLE = re.compile(
    r"#(?P<number>\d{1,3})\b|\b(?:result|answer|question) (?:no\.? ?|number )?(?P<named>\d{1,2})\b(?!\s*(?:rows|%))",
    re.IGNORECASE,
)
OWN = "a question of its own"


def turn_of(answer: Answer) -> Turn:
    """What is kept of an answer."""
    return Turn(
        question=answer.question,
        sql=answer.sql or "",
        read_as=answer.read_as or "",
        confidence=answer.confidence,
        calibrated=answer.calibrated,
    )


class Conversation:
    """Questions that may be about the ones before. `turns` are the earlier ones, as many as are kept; not safe for "
    "several threads."""

    def __init__(self, copilot: Copilot, turns: Sequence[Turn] = (), clarification: Clarification | None = None) -> None:
        self.copilot = copilot
        self.turns: list[Turn] = list(turns)[-MAX_TURNS:]
        self.clarification = clarification  # what was asked back, and is not answered yet

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.copilot.access.schema)

    def reset(self) -> None:
        """The next question is the first."""
        self.turns.clear()
        self.clarification = None

    def ask(self, question: str, options: AskOptions, tally: Tally | None = None, on_linked: OnLinked | None = None) -> Answer:
        """Answer a question, a follow-up, or the reply to a question back. Raises as `Copilot.ask`; then nothing is "
        "kept of it."""
        text = check_text(question)
        pending, self.clarification = self.clarification, None
        choice = pending.chosen(text) if pending is not None else None
        if pending is not None and choice is not None:
            answer = self.copilot.answer_with(pending.question, choice.sql, options)
            answer.read_as = f'"{pending.question}", meant: {choice.text}'
        else:
            tally = tally or Tally()
            answer = self._asked(text, options, tally, on_linked)
            if options.clarify and not answer.abstained:
                answer = self._or_asked_back(answer, tally)
        self._remember(answer)
        return answer

    def _or_asked_back(self, answer: Answer, tally: Tally) -> Answer:
        """The answer, or a question back where another reading is near and gives something else."""
        groups = tally.election.groups[:2] if tally.election is not None else []
        readings = [(group.sql, group.weight, group.result.rows) for group in groups if group.result is not None]
        asked_back = clarify(answer.question, readings, answer.dialect)
        if asked_back is None:
            return answer
        return replace(
            answer,
            status="clarification",
            sql=None,
            columns=None,
            rows=None,
            truncated=False,
            answer=asked_back.text(),
            chart=None,
            hidden_by_policy=(),
            clarification=asked_back.to_dict(),
        )

    def _remember(self, answer: Answer) -> None:
        if answer.clarification is not None:
            self.clarification = Clarification.from_dict(answer.clarification)
        elif answer.sql is not None and not answer.abstained:
            self.turns = [*self.turns, turn_of(answer)][-MAX_TURNS:]

    def _asked(self, text: str, options: AskOptions, tally: Tally | None, on_linked: OnLinked | None) -> Answer:
        position, rest = self._meant_turn(text)
        query = self._query(position)
        kind = kind_of(rest, self.copilot.access.schema, query) if position == len(self.turns) - 1 else Kind.FOLLOW_UP
        if query is None or kind is Kind.NEW or kind is Kind.OWN:
            answer = self.copilot.ask(check_question(text), options, tally, on_linked)
            answer.read_as = OWN if kind is Kind.OWN else None
            return answer
        turn = self.turns[position]
        if not self.copilot.form.is_short:
            return self._in_dialogue(text, rest, position, query, options, tally, on_linked)
        earlier = self._query(position - 1) if position else None
        found = read_follow_up(rest, query, self._vocabulary, self.copilot.database.dialect, earlier)
        answer = self._changed(text, found, turn, options) if found is not None else None
        if answer is not None:
            return answer
        if kind is Kind.MAYBE:
            answer = self.copilot.ask(check_question(text), options, tally, on_linked)
            answer.read_as = OWN
            return answer
        whole = completed(rest, query)
        check_question(rest)
        answer = self.copilot.ask(check_question(whole), options, tally, on_linked)
        answer.question, answer.read_as = text, f'"{whole}"'
        return answer

    def _changed(self, text: str, found: FollowUp, turn: Turn, options: AskOptions) -> Answer | None:
        """The answer of the changed SQL; None where it cannot run, and something else has to be tried."""
        sql = write_sql(found.tree, self.copilot.database.dialect)
        wanted = replace(options, chart=True) if found.wants_chart else options
        try:
            confidence = 1.0 if turn.confidence is None else turn.confidence
            answer = self.copilot.answer_with(text, sql, wanted, confidence, turn.calibrated)
        except RefusedError as error:
            if error.type == "not_permitted":
                raise
            return None
        except UserError:
            return None
        answer.read_as = turn.extended(found.notes)
        return answer

    def _in_dialogue(
        self,
        text: str,
        rest: str,
        position: int,
        query: Query,
        options: AskOptions,
        tally: Tally | None,
        on_linked: OnLinked | None,
    ) -> Answer:
        """With a model that reads the earlier turns itself; only a picture needs none."""
        picture = read_picture(rest, query)
        answer = self._changed(text, picture, self.turns[position], options) if picture is not None else None
        if answer is None:
            history = history_text(self.turns[: position + 1])
            answer = self.copilot.ask(check_question(text), options, tally, on_linked, history)
            answer.read_as = "with the questions before" if answer.sql is not None else None
        return answer

    def _meant_turn(self, text: str) -> tuple[int, str]:
        """Which earlier turn a follow-up is about: `#2` or `result 2` names one, else the last. Raises UserError for "
        "another number."""
        match = _HANDLE.search(text)
        if match is None or not self.turns:
            return len(self.turns) - 1, text
        number = int(match["number"] or match["named"])
        if not 1 <= number <= len(self.turns):
            if match["named"]:
                return len(self.turns) - 1, text
            raise UserError(f"there is no answer {number} in this conversation", f"there are #1 to #{len(self.turns)}")
        rest = (
            re.sub(r"\b(?:of|from|in|for)?\s*$", "", text[: match.start()], flags=re.IGNORECASE)
            + " of them "
            + text[match.end() :]
        )
        return number - 1, rest.strip()

    def _query(self, position: int) -> Query | None:
        """The query of a turn, as it may be read today. Raises RefusedError where it may not be."""
        if not 0 <= position < len(self.turns):
            return None
        checked = self.copilot.access.check(self.turns[position].sql)
        return None if checked.tree is None else Query(checked.tree, self.copilot.access.schema)
