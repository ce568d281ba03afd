"""Follow-ups that keep some rows: `and in Germany?`, `without the cancelled ones`, `with no phone`, `for all countries`."""

from __future__ import annotations

import re
from functools import partial

from sqlglot import exp

from openarctic.copilot.conversation.dates import read_dates
from openarctic.copilot.conversation.mentions import Mention, is_place
from openarctic.copilot.conversation.numbers import read_bare_number, read_comparisons, read_range
from openarctic.copilot.conversation.query import CannotEdit, Place, Query
from openarctic.copilot.conversation.said import Said, Stage
from openarctic.copilot.wording import listed

_NOT = re.compile(
    r"\b(?:not|except|without|excluding|exclude|other than|apart from|besides|aside from|no|non|isn't|aren't|wasn't|weren't|"
    r"doesn't|don't|remove|drop|leave out|ignore|ignoring)\s+(?:(?:for|the|those|ones|any|all|from|in|of|that|are|is|"
    r"with|who|which)\s+)*$",
    re.IGNORECASE,
)
_COMPARISON = re.compile(r"\s+(?:of|over|under|above|below|more|less|than|at|between)\b")
_HAVING_NO = (
    r"\b(?:(?:with|have|has|having|had)\s+no|without\s+(?:an?|any)|(?:with|have|has)\s+(?:a\s+)?missing|"
    r"lacking(?:\s+an?)?|no)\s+(?=\w)"
)
_HAVING_ANY = r"\b(?:that|who|which)\s+(?:have|has)\s+(?:an?|any)\s+(?=\w)|\bwith\s+(?:an?|any)\s+(?:known\s+)?(?=\w)"
_DIRECTIONS = {
    "to": frozenset(("to", "destination", "dest", "arrival", "target", "receiver", "recipient")),
    "from": frozenset(("from", "origin", "source", "departure", "start", "sender")),
}


def read_filters(said: Said) -> None:
    """All conditions on rows."""
    _missing(said)
    read_range(said)
    read_dates(said)
    read_comparisons(said)
    _flags(said)
    _values(said)
    read_bare_number(said)
    _dropped(said)


# values


def _flags(said: Said) -> None:
    """`only the official ones`, `not cancelled`: a column that says yes or no."""
    if not re.search(r"\b(?:only|just|ones?|not|those|which|that|who|are|is|non)\b", said.text, re.IGNORECASE):
        return
    for word, place, yes, no in said.vocabulary.flags(said.query):
        match = said.take(rf"\b(?P<not>(?:not|non|aren't|isn't|weren't|wasn't)[\s-]+)?{re.escape(word)}\b")
        if match is not None:
            # `partial`, here and below: a lambda would see the place of the loop's last round.
            said.change(Stage.FILTER, partial(_keep_flag, said, place, no if match["not"] else yes))


def _keep_flag(said: Said, place: Place, value: str | bool | int, query: Query) -> str:
    query.drop_filters(lambda part, p: p == place)
    said.keep(query, place, lambda c: exp.EQ(this=c, expression=exp.convert(value)))
    return f"{query.called(place)} {value}"


def _values(said: Said) -> None:
    found = [m for m in said.vocabulary.mentions(said.text, said.query) if said.is_free(m.start, m.end)]
    found.sort(key=lambda m: m.start)
    while found:
        mention = found.pop(0)
        place = _chosen_place(said, mention)
        said.use(mention.start, mention.end)
        values, first = [mention.value], mention.start
        while found and place in found[0].places and _is_list(said.text[mention.end : found[0].start]):
            mention = found.pop(0)
            said.use(mention.start, mention.end)
            values.append(mention.value)
        denial = _NOT.search(said.text[:first])
        if denial is not None:
            said.use(denial.start(), denial.end())
        said.explain([place.column, place.table])
        said.change(Stage.FILTER, partial(_without_values if denial is not None else _keep_values, said, place, values))
    _typed(said)


def _is_list(between: str) -> bool:
    return bool(re.fullmatch(r"\s*(?:,|and|or|,\s*and|,\s*or|or in|and in|or from|and from)?\s*", between, re.IGNORECASE))


def _chosen_place(said: Said, mention: Mention) -> Place:
    """Of several places of a value that whose column the text names or its preposition means, else the nearest."""
    words = {w.lower() for w in re.findall(r"\w+", said.text)}
    named = [p for p in mention.places if p.column in words or p.column + "s" in words]
    before = re.search(r"\b(to|from)\s+$", said.text[: mention.start], re.IGNORECASE)
    meant = _DIRECTIONS.get(before[1].lower(), frozenset()) if before else frozenset()
    led = [p for p in mention.places if meant & set(re.split(r"[_ ]", p.column))]
    return (named or led or mention.places)[0]


def _keep_values(said: Said, place: Place, values: list[str], query: Query) -> str:
    told = _swap_value(query, place, values, said.is_widening)
    if told:
        return told
    query.drop_filters(lambda part, p: _is_replaced(said, part, p, place))
    said.keep(query, place, lambda c: _among(c, values))
    return f"{query.called(place)} {_quoted(values)}"


def _without_values(said: Said, place: Place, values: list[str], query: Query) -> str:
    said.keep(query, place, lambda c: _among(c, values, is_denied=True))
    return f"without {query.called(place)} {_quoted(values)}"


def _is_replaced(said: Said, part: exp.Expr, old: Place | None, new: Place) -> bool:
    """`in Berlin` gives way to `and in Germany?`: two answers to the question where."""
    if not said.is_replacing or old is None or old == new or old.table != new.table or not isinstance(part, exp.EQ | exp.In):
        return False
    return is_place(old.column) and is_place(new.column)


def _among(column: exp.Expr, values: list[str], is_denied: bool = False) -> exp.Expr:
    """One value or one of several, or none of them."""
    if len(values) == 1:
        return (exp.NEQ if is_denied else exp.EQ)(this=column, expression=exp.convert(values[0]))
    among = exp.In(this=column, expressions=[exp.convert(v) for v in values])
    return exp.Not(this=among) if is_denied else among


def _quoted(values: list[str]) -> str:
    return listed([f"'{value}'" for value in values], "or")


def _swap_value(query: Query, place: Place, values: list[str], is_widening: bool) -> str:
    """Where the query (also a nested one) compares that column already, other values there; empty where it does not."""
    for node in list(query.select.find_all(exp.EQ, exp.In)):
        column = node.this
        if not isinstance(column, exp.Column) or query.place_within(column) != place:
            continue
        old = node.expressions if isinstance(node, exp.In) else [node.expression]
        if not old or not all(isinstance(o, exp.Literal) and o.is_string for o in old) or isinstance(node.parent, exp.Not):
            continue
        before = [o.name for o in old]
        if before == values:
            return f"{column.name} {_quoted(values)}"
        merged = [*before, *(v for v in values if v not in before)] if is_widening else values
        node.replace(_among(column.copy(), merged))
        return f"{column.name} {_quoted(merged)}" + ("" if is_widening else f" instead of {_quoted(before)}")
    return ""


def _typed(said: Said) -> None:
    """`what about Ada Keller?`, where the earlier query compares one text and the new one is in no sample of the column."""
    rest = said.left_text()
    if said.changes or not rest or not said.is_replacing or not (rest[:1].isupper() or rest[:1].isdigit()):
        return
    compared = [
        p
        for n in said.query.select.find_all(exp.EQ)
        if isinstance(n.this, exp.Column) and isinstance(n.expression, exp.Literal) and n.expression.is_string
        if (p := said.query.place_within(n.this)) is not None
    ]
    if len(compared) != 1 or said.vocabulary.table(rest) is not None:
        return
    start = said.text.find(rest)
    said.use(start, start + len(rest))
    said.change(Stage.FILTER, lambda q: _swap_value(q, compared[0], [rest], False))


# what is missing, and filters that go away


def _missing(said: Said) -> None:
    """`with no phone`, `that have an email`: a column; `without any orders`: rows of another table."""
    for pattern, is_null in ((_HAVING_NO, True), (_HAVING_ANY, False)):
        match = said.sees(pattern)
        if match is None:
            continue
        noun = said.noun_after(match.end())
        if noun.table is not None and said.query.distance(noun.table.name.lower()):
            said.use(match.start(), noun.end)
            said.change(Stage.FILTER, partial(_without_related if is_null else _keep_related, said, noun.table.name.lower()))
            continue
        places = said.vocabulary.columns(noun.word, said.query)
        if places and places[0].table and not _COMPARISON.match(said.text, noun.end):
            said.use(match.start(), noun.end)
            said.change(Stage.FILTER, partial(_keep_nulls, said, places[0], is_null))


def _keep_nulls(said: Said, place: Place, is_null: bool, query: Query) -> str:
    def condition(column: exp.Column) -> exp.Expr:
        test = exp.Is(this=column, expression=exp.Null())
        return test if is_null else exp.Not(this=test)

    said.keep(query, place, condition)
    return f"{query.called(place)} is {'missing' if is_null else 'known'}"


def _keep_related(said: Said, table: str, query: Query) -> str:
    said.settle(query)
    query.keep_related(table, lambda count: exp.GT(this=count, expression=exp.convert(0)))
    return f"with {table}"


def _without_related(said: Said, table: str, query: Query) -> str:
    said.settle(query)
    query.drop_related(table)
    return f"without {table}"


def _dropped(said: Said) -> None:
    """`for all countries`, `in any year`, `without that filter`: a condition goes away."""
    if said.take(
        r"\b(?:without|remove|drop|forget|ignore|clear)\s+(?:that|the|this|all|any|these)\s+(?:last\s+)?(?:filters?|"
        r"conditions?|restrictions?)\b"
    ):
        said.change(Stage.FILTER, lambda q: _drop_last(said, q))
        return
    match = said.sees(r"\b(?:for|in|of|from|across|over)?\s*(?:all|any|every|regardless of|whatever)\s+(?:the\s+)?(?=\w)")
    if match is None:
        return
    noun = said.noun_after(match.end())
    filtered = {p for _, p in said.query.filters()}
    meant = [p for p in said.vocabulary.columns(noun.word, said.query) if p in filtered]
    if meant:
        said.use(match.start(), noun.end)
        said.change(Stage.FILTER, lambda q: _drop_place(q, meant[0]))


def _drop_place(query: Query, place: Place) -> str:
    query.drop_filters(lambda part, p: p == place)
    return f"whatever the {query.called(place)}"


def _drop_last(said: Said, query: Query) -> str:
    texts = query.newest_filters(said.earlier)
    if not texts:
        raise CannotEdit("there is no filter")
    query.drop_filters(lambda part, p: part.sql() in texts)
    return "without the last filter"
