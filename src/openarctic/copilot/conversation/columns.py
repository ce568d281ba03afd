"""Follow-ups about what is shown of the rows: `their emails too`, `without the price`, `when did they join?`, `who are they?`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlglot import exp

from openarctic.copilot.conversation.query import CannotEdit, Place, Query, in_words
from openarctic.copilot.conversation.said import Said, Stage

_THEY = r"(?:they|those|these|he|she|it|the ones)"
_ONLY = (
    r"^\W*(?:now\s+|but\s+)?(?:(?:show|list|give|tell)\s+(?:me\s+)?)?(?:only|just)\s+(?:show\s+|list\s+|"
    r"give\s+me\s+)?(?:(?:the|their|its)\b)?\s*(?=\w)"
)
_ADDED = (
    r"\b(?:also|add|include|including|with|plus|together with|along with|show|list|give|see|display|and|what "
    r"(?:is|are|was|were)|what's|tell me|their|its|need|want|know)\b"
    r"(?:\s+(?:me|also|us|them|those|to see|it|show|list|give|add|include|with|what|is|are))*\s*(?:(?:the|their|"
    r"its|his|her)\b)?\s*(?=\w)"
)
_ASKED_WITH = {
    "earn": ("salary", "wage", "income", "pay"),
    "make": ("salary", "wage", "income"),
    "cost": ("price", "cost", "fee", "rate"),
    "weigh": ("weight",),
    "measure": ("height", "length", "size"),
}


def read_asked_column(said: Said) -> None:
    """`how old are they?`, `what do they earn?`, `where do they live?`, `when did they join?`."""
    places: list[Place] = []
    if match := said.sees(rf"\bhow (?P<adjective>\w+) (?:are|is|were|was) {_THEY}\b"):
        places = said.vocabulary.adjective(match["adjective"], said.query)
    elif match := said.sees(rf"\b(?:what|how much) (?:do|does|did) {_THEY} (?P<verb>{'|'.join(_ASKED_WITH)})\b"):
        found = (p for noun in _ASKED_WITH[match["verb"].lower()] for p in said.vocabulary.columns(noun, said.query))
        places = [p for p in found if p.table][:1]
    elif match := said.sees(
        rf"\bwhere (?:do|does|did|are|is|were|was) {_THEY}(?: (?:live|located|come from|work|from|based))?\b"
    ):
        places = said.vocabulary.places_shown(said.query)[:1]
    elif match := said.sees(rf"\bwhen (?:do|does|did|are|is|were|was) {_THEY}(?: (?P<verb>\w+))?\b"):
        dates = said.vocabulary.dates(said.query)
        verb = (match["verb"] or "").lower()[:4]
        places = [p for p in dates if verb and any(part[:4] == verb for part in re.split(r"_| ", p.column))] or dates[:1]
    if match is not None and places:
        said.use(match.start(), match.end())
        said.change(Stage.SHOW, lambda q: _show(q, places[:1], False))


def read_related_rows(said: Said) -> None:
    """`which products do they deliver?`: rows of a table that belong to those before."""
    table = said.take_other_table(rf"\b(?:which|what)\s+(?P<noun>\w+)\s+(?:do|does|did|have|has|had)\s+{_THEY}(?:\s+\w+)?")
    if table is not None:
        said.change(Stage.SHOW, lambda q: _list_related(q, table.name.lower()))


def _list_related(query: Query, table: str) -> str:
    query.list_related(table)
    return f"their {table} listed"


def read_distinct(said: Said) -> None:
    """`without duplicates`, `only the unique ones`."""
    if said.take(
        r"\b(?:without (?:any )?(?:duplicates|repeats|repetitions?)|no (?:duplicates|repeats)|(?:only )?(?:the "
        r")?(?:distinct|unique)(?: ones| values)?|each only once|remove (?:the )?duplicates|deduplicated?)\b"
    ):
        said.change(Stage.SHOW, _make_distinct)


def _make_distinct(query: Query) -> str:
    query.select.distinct(copy=False)
    return "without repeats"


def read_columns(said: Said) -> None:
    """Which columns are shown, read last: what is left of the follow-up may name them."""
    if not _without_columns(said) and not _names_rows(said) and not _only_columns(said):
        _more_columns(said)


def _without_columns(said: Said) -> bool:
    hidden = said.sees(r"\b(?:without|drop|remove|hide|leave out|omit|skip|not)\s+(?:(?:the|their)\b)?\s*(?=\w)")
    if hidden is None or not (places := said.list_after(hidden.end())):
        return False
    said.use(hidden.start(), hidden.end())
    said.take(r"\bcolumns?\b")
    said.change(Stage.SHOW, lambda q: _hide(q, places))
    return True


def _names_rows(said: Said) -> bool:
    """`only countries with more than one`."""
    rows = r"\b(?:with|that|who|which|where|in|from|of|over|under)\b"
    return bool(said.changes) and said.sees(_ONLY) is not None and bool(re.search(rows, said.text, re.IGNORECASE))


def _only_columns(said: Said) -> bool:
    only = said.sees(_ONLY)
    if only is None or not (places := said.list_after(only.end())):
        return False
    said.use(only.start(), only.end())
    said.change(Stage.SHOW, lambda q: _show(q, places, True))
    return True


def _more_columns(said: Said) -> None:
    added = said.sees(_ADDED)
    start = added.end() if added is not None else 0
    if places := said.list_after(start) or (said.list_after(0) if start else []):
        if added is not None and said.is_free(added.start(), added.end()):
            said.use(added.start(), added.end())
        said.take(r"\b(?:too|as well|also|columns?)\b")
        said.change(Stage.SHOW, lambda q: _show(q, places, False))


def _show(query: Query, places: Sequence[Place], instead: bool) -> str:
    names = in_words(places)
    if query.aggregates and not query.is_grouped:
        instead = True
        query.unaggregate()
    columns = [query.column(p, keeps_rows=True) for p in places]
    query.show(columns, instead)
    return f"{'only ' if instead else 'with '}{names}"


def _hide(query: Query, places: Sequence[Place]) -> str:
    kept = []
    for output in query.select.expressions:
        inner = output.unalias()
        is_meant = isinstance(inner, exp.Column) and query.place(inner) in places
        if not is_meant and not any(not p.table and p.column == output.alias_or_name.lower() for p in places):
            kept.append(output)
    if not kept or len(kept) == len(query.select.expressions):
        raise CannotEdit("the column is not shown, or the only one")
    query.select.set("expressions", kept)
    return f"without {in_words(places)}"


def read_listing(said: Said) -> None:
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
    if not whole:
        query.select.set("expressions", [query.column(p) for p in query.labels(table)])
        return "listed by name"
    is_one_of_several = len(query.sources) > 1
    star = exp.column(exp.Star(), table=query.alias(table.name.lower())) if is_one_of_several else exp.Star()
    query.select.set("expressions", [star])
    return "all columns of the rows"
