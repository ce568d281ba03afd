"""Reading a follow-up: which change of the earlier query does it ask for?

No model takes part. A follow-up is changed SQL only where every word of it is understood; the words for the change say how it
was read. What cannot be read like this is for `ellipsis.py` and the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sqlglot import exp

from openarctic.copilot.conversation.columns import (
    read_asked_column,
    read_columns,
    read_distinct,
    read_listing,
    read_related_rows,
)
from openarctic.copilot.conversation.filters import read_filters
from openarctic.copilot.conversation.mentions import Vocabulary
from openarctic.copilot.conversation.orders import read_limit, read_order
from openarctic.copilot.conversation.query import CannotEdit, Query
from openarctic.copilot.conversation.said import Said, Stage
from openarctic.copilot.conversation.summaries import read_aggregate, read_count, read_groups
from openarctic.copilot.conversation.superlatives import read_superlative
from openarctic.copilot.joins import identifier
from openarctic.copilot.linking.words import name_stems, stem


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """The earlier query, changed: `notes` say how, in words; `wants_chart` asks for a picture of it."""

    tree: exp.Expr
    notes: tuple[str, ...]
    wants_chart: bool = False


def read_follow_up(
    text: str, query: Query, vocabulary: Vocabulary, dialect: str, earlier: Query | None = None
) -> FollowUp | None:
    """The changed query; None where some word of the follow-up is not understood, or the change does not fit the query.

    `earlier` is the query before that, to go back to.
    """
    if (picture := read_picture(text, query)) is not None:
        return picture
    for read_whole in _WHOLE_READINGS:
        found = read_whole(text, query, earlier)
        if found is not None:
            return found
    chart, rest = _without_chart(text)
    said = Said(rest, query, vocabulary, dialect, earlier)
    try:
        for read in _READINGS:
            read(said)
        if not said.changes:
            read_listing(said)
        if not said.changes:
            return None
        stages = {change.stage for change in said.changes}
        if Stage.GROUP in stages and query.is_listing:  # `how many of each`: groups of rows are counted anyway
            said.changes = [change for change in said.changes if change.stage is not Stage.COUNT]
        changed = query.copy()
        notes = tuple(change.apply(changed) for change in sorted(said.changes, key=lambda c: c.stage))
    except CannotEdit:
        return None
    said.explain(query.names)
    said.explain(t.name for t in changed.select.find_all(exp.Table))
    return None if said.left() else FollowUp(tree=changed.select, notes=notes, wants_chart=chart)


def read_picture(text: str, query: Query) -> FollowUp | None:
    """`as a chart`: the same rows; None where more (or something else) is asked for."""
    chart, rest = _without_chart(text)
    if not chart or re.sub(r"\b(?:and|now|please|ok|that|it|this|them|those|same|the)\b|\W", "", rest, flags=re.IGNORECASE):
        return None
    return FollowUp(tree=query.select.copy(), notes=("as a chart",), wants_chart=True)


# follow-ups that are one phrase

_PICTURE = r"(?:(?:bar|line|pie|column|scatter|area)\s+)?(?:charts?|graphs?|plots?|diagrams?|pictures?|histograms?)"
_IT = r"(?:it|that|this|them|these|those|the (?:results?|answers?|rows))"


def _without_chart(text: str) -> tuple[bool, str]:
    """Whether a picture is asked for, and the rest."""
    for pattern in (
        rf"\b(?:can you\s+|please\s+|now\s+)*(?:show|draw|plot|display|make|give|turn|put|visuali[sz]e|render|chart|"
        rf"graph)(?:\s+(?:me|us))?(?:\s+{_IT})?(?:\s+again)?\s*"
        rf"(?:as|in|into|on|with)?\s*(?:a|an|the)?\s*{_PICTURE}(?:\s+(?:of|for)\s+{_IT})?",
        rf"\b(?:as|in|on|with)\s+(?:a|an)\s+{_PICTURE}",
        rf"^\W*(?:(?:can you|please|now|and)\s+)*(?:plot|chart|graph|draw|visuali[sz]e)(?:\s+{_IT})?\W*$",
        rf"^\W*(?:a|an|the)?\s*{_PICTURE}\W*$",
    ):
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            return True, f"{text[: match.start()]} {text[match.end() :]}"
    return False, text


def _all_rows(text: str, query: Query, earlier: Query | None) -> FollowUp | None:
    pattern = (
        r"^\W*(?:(?:and|now|please|ok)\W+)*(?:(?:show|list|give|display|see|print)\s+)?(?:me\s+)?(?:them\s+|"
        r"those\s+)?(?:all|everything|all of (?:them|those|it)|all (?:the )?"
        r"(?:rows|results)|the (?:whole|full|complete) (?:list|result|table)|the rest too)\W*$|^\W*(?:without (?:the|"
        r"a|any)|no|remove the) limit\W*$"
    )
    named = re.search(r"^\W*(?:show|list|give)(?: me)? all (?:the |of the )?(?P<noun>\w+)\W*$", text, re.IGNORECASE)
    known = {stem(word) for name in (*query.names, *(t.name for t in query.tables)) for word in name_stems(name)}
    if not re.search(pattern, text, re.IGNORECASE) and not (named and query.limit and stem(named["noun"].lower()) in known):
        return None
    changed = query.copy()
    changed.stop_after(None)
    return FollowUp(tree=changed.select, notes=("all rows",))


def _undone(text: str, query: Query, earlier: Query | None) -> FollowUp | None:
    pattern = (
        r"^\W*(?:undo(?: (?:that|it))?|go back|back|never ?mind|the (?:previous|last) (?:one|answer|result|"
        r"question) again|forget that)\W*$"
    )
    if earlier is None or not re.search(pattern, text, re.IGNORECASE):
        return None
    return FollowUp(tree=earlier.select.copy(), notes=("the question before that, again",))


def _reversed(text: str, query: Query, earlier: Query | None) -> FollowUp | None:
    pattern = (
        r"^\W*(?:(?:and|now|but|ok)\W+)*(?:(?:sort|order|show)(?: (?:them|it|those|that))?\s+)?(?:reversed?(?: (?:it|"
        r"that|them|the order|order))?|in reverse(?: order)?|"
        r"(?:in )?(?:the )?(?:other|opposite) (?:way(?: a?round)?|order|direction)|the other way a?round|flip (?:it|"
        r"that|the order)|upside down)\W*$"
    )
    order = query.select.args.get("order")
    if order is None or not re.search(pattern, text, re.IGNORECASE):
        return None
    changed = query.copy()
    if changed.limit is not None and re.search(r"\b(?:sort|them|those|reverse)\b", text, re.IGNORECASE):
        keys = [o.copy() for o in order.expressions]
        changed.settle()
        if changed.tables:
            changed.order(keys)
    if changed.select.args.get("order") is None:
        return None
    changed.turn_order()
    return FollowUp(tree=changed.select, notes=("in the opposite order",))


def _others(text: str, query: Query, earlier: Query | None) -> FollowUp | None:
    pattern = (
        r"^\W*(?:and\s+)?(?:what about\s+|show\s+(?:me\s+)?|list\s+|how about\s+)?(?:the\s+|"
        r"all\s+)?(?:(?:the\s+)?others?|rest|other ones|remaining(?: ones)?)\W*$|"
        r"^\W*(?:and\s+)?(?:which|who|those|the ones)(?: of them)?(?: (?:that|who|which))? (?:are|do|did|were|have|is|"
        r"does)(?:n't| not)\W*$"
    )
    if not re.search(pattern, text, re.IGNORECASE):
        return None
    changed = query.copy()
    texts = changed.newest_filters(earlier)
    if not texts or changed.limit is not None:
        return None
    dropped = changed.drop_filters(lambda part, place: part.sql() in texts)
    changed.select.where(exp.not_(exp.and_(*dropped, copy=False), copy=False), copy=False)
    return FollowUp(tree=changed.select, notes=(f"those where it does not hold that {' and '.join(sorted(texts))}",))


_WHOLE_READINGS: tuple[Callable[[str, Query, Query | None], FollowUp | None], ...] = (_all_rows, _undone, _reversed, _others)


def _another_table(said: Said) -> None:
    """`and the suppliers?` after a count of customers."""
    if said.changes or not said.is_replacing or said.is_widening or len(said.query.tables) != 1:
        return
    rest = said.left_text()
    table = said.vocabulary.table(rest) if rest else None
    if table is None or table.name == said.query.tables[0].name:
        return
    columns = {c.name.lower() for c in said.query.select.find_all(exp.Column)}
    if not columns <= table.column_names:
        return
    said.use(0, len(said.text))

    def apply(query: Query) -> str:
        source = query.select.find(exp.Table)
        assert source is not None
        before = source.name
        source.set("this", identifier(table.name))
        return f"{table.name} instead of {before}"

    said.change(Stage.FILTER, apply)


# Whoever reads first takes the words; what others might take too (a column, a value) is read late.
_READINGS: tuple[Callable[[Said], None], ...] = (
    read_order,
    read_limit,
    read_count,
    read_asked_column,
    read_related_rows,
    read_superlative,
    read_aggregate,
    read_groups,
    read_distinct,
    read_filters,
    _another_table,
    read_columns,
)
