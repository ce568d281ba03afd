"""Reading a follow-up: is it one at all, and which change of the earlier query does it ask for?

No model takes part. A follow-up is changed SQL only where every word of it is understood; the words for the change say how it
was read. What is a follow-up, and cannot be read like this, is for `ellipsis.py` and the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from sqlglot import exp

from openarctic.copilot.conversation.filters import read_filters
from openarctic.copilot.conversation.mentions import Vocabulary
from openarctic.copilot.conversation.query import CannotEdit, Query
from openarctic.copilot.conversation.said import Said, Stage
from openarctic.copilot.conversation.shapes import read_columns, read_shapes
from openarctic.copilot.linking.words import name_stems, stem
from openarctic.copilot.schema import Schema, Table

SHORT_WORDS = 7


class Kind(Enum):
    """What a question is to the earlier one. `OWN` is new and `MAYBE` a follow-up where it can be read as one, both with signs of
    the other: how they were read has to be said."""

    NEW = "new"
    OWN = "own"
    MAYBE = "maybe"
    FOLLOW_UP = "follow-up"


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """The earlier query, changed: `notes` say how, in words; `wants_chart` asks for a picture of it."""

    tree: exp.Expr
    notes: tuple[str, ...]
    wants_chart: bool = False


_LEAD = re.compile(
    r"^\W*(?:(?:ok|okay|please|great|thanks|now|so)\W+)*(?:and\b|what about|how about|only\b|just\b|also\b|but\b|"
    r"instead\b|same\b|the same\b|plus\b|then\b|or\b|not\b|"
    r"without\b|except\b|excluding\b|sort|order (?:them|it|by|those)|rank (?:them|by|those)|group (?:them|it|by)|by\b|"
    r"per\b|for each|break|split|top\b|the top|"
    r"first\b|the first|bottom|limit|add\b|include\b|remove\b|drop\b|hide\b|as a\b|reverse|which (?:one|of)|who (?:of|"
    r"among)|more\b|next|the next|with\b|to\b|from\b|in\b|"
    r"the others?|the rest|show all|all of)",
    re.IGNORECASE,
)
_ANAPHOR = re.compile(
    r"\b(?:them|those|these|they|theirs?|it|its|ones?|he|she|his|hers?|him|the (?:same|rest|others?|latter|former)|"
    r"(?:is|are|in|of|as|sort|do|plot|chart|"
    r"draw|reverse|than|from|about|count|sum|like|undo|for|on|to|for) (?:that|this)|that again)\b",
    re.IGNORECASE,
)
_EMPTY_COUNT = re.compile(
    r"^\W*(?:and\s+)?how many(?:\s+(?:are there|is that|are that|rows|results|in total|are they))*\W*$", re.IGNORECASE
)
_THEIR_COUNT = re.compile(
    r"^\W*(?:and\s+)?(?:how many|which|what) \w+ (?:do|did|does|have|has|had|is|was|are|were) (?:they|he|she|it|that|"
    r"those|these)\b",
    re.IGNORECASE,
)
_WHOLE = re.compile(
    r"^\W*(?:and\s+|now\s+)?(?:who|which|what)\s+(?:are|is|were|was)\s+(?:they|those|these|that|it)\W*$|^\W*(?:undo|"
    r"go back|back|reverse|descending|ascending|"
    r"the other way(?: a?round)?|all|everything|again)\W*$",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"^\W*(?:what|which|who|whose|when|where|how|list|show|find|give|count|name|return|tell|are there|is there|do|"
    r"does|display|get|calculate|compute)\b",
    re.IGNORECASE,
)


_WHO = re.compile(r"^\W*(?:who|which ones?)\b", re.IGNORECASE)
_AND = re.compile(r"^\W*(?:and|but|or|also)\b", re.IGNORECASE)
_WHOLE_QUESTION = re.compile(
    rf"^\W*(?:(?:ok|okay|now|so|then|and|but|please)\W+)+{_QUESTION.pattern.removeprefix('^')}", re.IGNORECASE
)


def kind_of(text: str, schema: Schema, query: Query | None) -> Kind:
    """Whether a question is about the earlier one. `query` is the earlier one's; without it everything is new."""
    if query is None:
        return Kind.NEW
    if _WHOLE.search(text) or _EMPTY_COUNT.search(text) or _THEIR_COUNT.search(text):
        return Kind.FOLLOW_UP
    tables = _tables_in(text, schema)
    anaphor = _ANAPHOR.search(text)
    if anaphor is not None and not any(start < anaphor.start() for start, _ in tables):
        return Kind.FOLLOW_UP
    if _LEAD.search(text):
        if tables and _WHOLE_QUESTION.search(text):
            return Kind.MAYBE if _AND.search(text) else Kind.OWN
        return Kind.FOLLOW_UP
    num_words = len(re.findall(r"\w+", text))
    if tables and _WHO.search(text):
        return Kind.MAYBE
    if tables:
        own = {t.name.lower() for t in query.tables}
        is_same = any(table.name.lower() in own for _, table in tables) and bool(query.filters())
        if num_words > SHORT_WORDS or not is_same:
            return Kind.NEW
        return Kind.OWN if _QUESTION.search(text) else Kind.MAYBE
    return Kind.FOLLOW_UP if num_words <= SHORT_WORDS and not _QUESTION.search(text) else Kind.MAYBE


def _tables_in(text: str, schema: Schema) -> list[tuple[int, Table]]:
    """The tables that a text names, with where; `order` as a verb is none."""
    words = [(m.start(), m.group().lower()) for m in re.finditer(r"[a-z0-9]+", text, re.IGNORECASE)]
    found = []
    for table in schema.tables:
        stems = name_stems(table.name)
        said = [
            (i, start)
            for i, (start, word) in enumerate(words)
            if stem(word) in stems and not (word == "order" and words[i + 1 : i + 2] and words[i + 1][1] in ("by", "them", "it"))
        ]
        if stems and stems <= {stem(words[i][1]) for i, _ in said}:
            found.append((min(start for _, start in said), table))
    return sorted(found, key=lambda f: f[0])


def read_follow_up(
    text: str, query: Query, vocabulary: Vocabulary, dialect: str, earlier: Query | None = None
) -> FollowUp | None:
    """The changed query; None where some word of the follow-up is not understood, or the change does not fit the query.

    `earlier` is the query before that, to go back to.
    """
    if (picture := read_picture(text, query)) is not None:
        return picture
    for read in _WHOLE_READINGS:
        found = read(text, query, earlier)
        if found is not None:
            return found
    chart, rest = _without_chart(text)
    said = Said(rest, query, vocabulary, dialect, earlier)
    try:
        read_shapes(said)
        read_filters(said)
        _another_table(said)
        read_columns(said)
        if not said.changes:
            _listing(said)
        if not said.changes:
            return None
        stages = {change.stage for change in said.changes}
        if Stage.GROUP in stages and query.is_listing:  # `how many of each`: groups of rows are counted anyway
            said.changes = [change for change in said.changes if change.stage is not Stage.COUNT]
        changed = Query(query.select, query.keys)
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
    changed = Query(query.select, query.keys)
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
    changed = Query(query.select, query.keys)
    if changed.limit is not None and re.search(r"\b(?:sort|them|those|reverse)\b", text, re.IGNORECASE):
        keys = [o.copy() for o in order.expressions]
        changed.settle()
        if changed.tables:
            changed.order(keys)
    clause = changed.select.args.get("order")
    if clause is None:
        return None
    for ordered in clause.expressions:
        ordered.set("desc", not ordered.args.get("desc"))
        ordered.set("nulls_first", False)
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
    changed = Query(query.select, query.keys)
    before = {part.sql() for part, _ in earlier.filters()} if earlier is not None else set()
    parts = [part for part, _ in changed.filters()]
    new = [part for part in parts if part.sql() not in before] or parts[-1:]
    if not new or changed.limit is not None:
        return None
    texts = {part.sql() for part in new}
    dropped = changed.drop_filters(lambda part, place: part.sql() in texts)
    changed.select.where(exp.not_(exp.and_(*dropped, copy=False), copy=False), copy=False)
    return FollowUp(tree=changed.select, notes=(f"those where it does not hold that {' and '.join(sorted(texts))}",))


_WHOLE_READINGS: tuple[Callable[[str, Query, Query | None], FollowUp | None], ...] = (_all_rows, _undone, _reversed, _others)


def _listing(said: Said) -> None:
    """`who are they?`, `list them`: the names of what was counted; `show me the rows`: all of them."""
    if said.take(
        r"\b(?:show|see|display)(?:\s+me)?\s+(?:the\s+)?(?:them|those|these|it|rows|details?|records|data|everything "
        r"about them)\b|\b(?:more\s+)?details\b|\beverything about them\b|\ball (?:the )?columns\b"
    ):
        said.change(Stage.SHOW, lambda q: _as_listing(q, True))
    elif said.take(
        r"\b(?:who|which|what)\s+(?:are|is|were|was)\s+(?:they|those|these|that|it|the ones?)\b|"
        r"\bwhich ones? (?:is|are|was|were) (?:that|it|they|those)\b|\b(?:list|"
        r"name)\s+(?:them|those|these|it)\b|^\W*(?:which|who)(?:\s+(?:ones?|of them|exactly))?\W*$|"
        r"\bwhat are they called\b"
    ):
        said.change(Stage.SHOW, lambda q: _as_listing(q, False))


def _as_listing(query: Query, whole: bool) -> str:
    table = query.subject if query.aggregates else query.shown
    if query.is_grouped or table is None:
        raise CannotEdit("its rows are no rows of a table")
    counted = query.aggregates[0].this if query.aggregates else None
    if query.aggregates:
        query.unaggregate()
    if isinstance(counted, exp.Distinct) and not whole:
        query.select.set("expressions", [e.copy() for e in counted.expressions])
        query.select.distinct(copy=False)
        return "listed"
    columns = (
        [exp.column(exp.Star(), table=query._alias(table.name.lower()))]
        if whole and len(query.sources) > 1
        else [exp.Star()]
        if whole
        else []
    )
    if not whole:
        columns = [query.column(p) for p in query.labels(table)]
    query.select.set("expressions", columns)
    return "all columns of the rows" if whole else "listed by name"


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
        source.set("this", exp.to_identifier(table.name))
        return f"{table.name} instead of {before}"

    said.change(Stage.FILTER, apply)
