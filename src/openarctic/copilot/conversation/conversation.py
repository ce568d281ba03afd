"""A conversation over a `Copilot`: it knows what was asked before.

A follow-up is read without a model where its words say which change of the earlier SQL is meant (`followup.py`). Every changed
statement passes `Access.check` as any other does, so that no history shows anybody more than they may see. A model that can read
a dialogue is shown the latest turns instead; for one that cannot, the question is completed (`ellipsis.py`). `Answer.read_as`
says how a follow-up was read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial

from sqlglot import exp

from openarctic.copilot.ask import Answer, AskOptions, Copilot, OnLinked, Tally
from openarctic.copilot.conversation.clarify import Clarification, clarify
from openarctic.copilot.conversation.ellipsis import completed
from openarctic.copilot.conversation.followup import FollowUp, read_follow_up, read_picture
from openarctic.copilot.conversation.keys import Keys
from openarctic.copilot.conversation.kind import Kind, kind_of
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


def _read_as(answer: Answer, words: str | None) -> Answer:
    answer.read_as = words
    return answer


class Conversation:
    """Questions that may be about the ones before. `turns` are the earlier ones, as many as are kept. Not safe for threads."""

    def __init__(self, copilot: Copilot, turns: Sequence[Turn] = (), clarification: Clarification | None = None) -> None:
        self.copilot = copilot
        self.turns: list[Turn] = list(turns)[-MAX_TURNS:]
        self.clarification = clarification  # what was asked back, and is not answered yet

    @cached_property
    def _keys(self) -> Keys:
        return Keys(self.copilot.access.schema)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        # With a semantic model the copilot's own index is of other names.
        near = self.copilot.linker.values if self.copilot.proposer is None else None
        return Vocabulary(self.copilot.access.schema, near)

    def resume(self, turns: Sequence[Turn], clarification: Clarification | None = None) -> Conversation:
        """Go on from another history; what is known of the schema stays."""
        self.turns, self.clarification = list(turns)[-MAX_TURNS:], clarification
        return self

    def reset(self) -> None:
        """The next question is the first."""
        self.turns.clear()
        self.clarification = None

    def ask(self, question: str, options: AskOptions, tally: Tally | None = None, on_linked: OnLinked | None = None) -> Answer:
        """Answer a question, a follow-up, or the reply to a question back. Raises as `Copilot.ask`, and then keeps nothing."""
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

    def tell(self, sql: str, options: AskOptions) -> Answer:
        """The rows of SQL that somebody wrote; follow-ups may be about it. Raises as `Copilot.answer_with`."""
        answer = self.copilot.answer_with(sql, sql, options)
        self.clarification = None
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

    def _asked(self, text: str, options: AskOptions, tally: Tally, on_linked: OnLinked | None) -> Answer:
        position, rest = self._meant_turn(text)
        query, kind = self._query_and_kind(position, rest, is_named=rest != text)
        ask = partial(self.copilot.ask, options=options, tally=tally, on_linked=on_linked)
        if not self.copilot.form.is_short:
            return self._in_dialogue(text, rest, position, query, kind, options, ask)
        if query is None or kind in (Kind.NEW, Kind.OWN):
            return _read_as(ask(check_question(text)), None if kind is Kind.NEW else OWN)
        earlier = self._query(position - 1) if position else None
        found = read_follow_up(rest, query, self._vocabulary, self.copilot.database.dialect, earlier)
        changed = self._changed(text, found, self.turns[position], options) if found is not None else None
        if changed is not None:
            return changed
        if kind is Kind.MAYBE:
            return _read_as(ask(check_question(text)), OWN)
        whole = check_question(completed(check_question(rest), query))
        answer = ask(whole)
        answer.question = text
        return _read_as(answer, f'"{whole}"')

    def _query_and_kind(self, position: int, rest: str, is_named: bool) -> tuple[Query | None, Kind]:
        """The query that a question may be about, and whether it is; whoever names an answer by its number asks about it.

        Raises RefusedError for a follow-up of what may not be read.
        """
        schema = self.copilot.access.schema
        try:
            query = self._query(position)
        except RefusedError:
            if kind_of(rest, schema, Query(exp.select("1"), self._keys)) is Kind.FOLLOW_UP:
                raise
            return None, Kind.NEW
        return query, Kind.FOLLOW_UP if is_named else kind_of(rest, schema, query)

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
        no_chart = ("but no chart fits these rows",) if found.wants_chart and answer.chart is None else ()
        return _read_as(answer, turn.extended((*found.notes, *no_chart)))

    def _in_dialogue(
        self,
        text: str,
        rest: str,
        position: int,
        query: Query | None,
        kind: Kind,
        options: AskOptions,
        ask: Callable[..., Answer],
    ) -> Answer:
        """With a model that reads the earlier turns itself; only a picture needs none."""
        picture = read_picture(rest, query) if query is not None else None
        changed = self._changed(text, picture, self.turns[position], options) if picture is not None else None
        if changed is not None:
            return changed
        history = history_text(self.turns[: position + 1]) if query is not None else ""
        return _read_as(ask(check_question(text), history=history), "with the questions before" if kind is not Kind.NEW else None)

    def _meant_turn(self, text: str) -> tuple[int, str]:
        """Which earlier turn a follow-up is about: `#2` or `result 2` names one, else the last. Raises UserError for `#99`."""
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
        return None if checked.tree is None else Query(checked.tree, self._keys)
