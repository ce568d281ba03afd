"""Follow-ups for an end: `who is the oldest?`, `the 3 cheapest`, `who has the most orders?`, `the most common city`."""

from __future__ import annotations

import re

from sqlglot import exp

from openarctic.copilot.conversation.mentions import root
from openarctic.copilot.conversation.orders import (
    LOW,
    SUPERLATIVE,
    end_word,
    is_highest_meant,
    key_of,
    main_number,
    redirect,
    superlative_word,
)
from openarctic.copilot.conversation.query import CannotEdit, Place, Query, in_words, ordered
from openarctic.copilot.conversation.said import NUMBER, Said, Stage, number_of
from openarctic.copilot.conversation.summaries import AGGREGATES, read_number_of, show_number

_LEAST = frozenset("least fewest lowest smallest youngest cheapest shortest lightest slowest earliest oldest".split())


def read_superlative(said: Said) -> None:
    """The highest of a column, or the rows that have it."""
    match = said.take(rf"(?<!\bat )\b(?:the\s+)?(?:(?P<count>{NUMBER})\s+)?{SUPERLATIVE}\b")
    if match is None:
        return
    count = int(number_of(match["count"])) if match["count"] else None
    word = superlative_word(match)
    if word in ("common", "frequent"):
        _most_common(said, match)
        return
    if (said.is_replacing or said.query.limit == 1) and count is None and _other_end(said, match, word):
        return
    is_asked_who = bool(re.search(r"\b(?:who|which|has|have|had|with|whose|one)\b", said.text[: match.start()], re.IGNORECASE))
    if word in AGGREGATES and not is_asked_who and count is None:
        read_number_of(said, AGGREGATES[word], match.end())
    elif match["bare"] or word in AGGREGATES:
        _with_most(said, match.end(), word not in _LEAST, count)
    else:
        _by_adjective(said, word, match["degree"], count)


def _other_end(said: Said, match: re.Match[str], word: str) -> bool:
    """`and the fewest?` after the one with the most: the order of the earlier query, perhaps the other way."""
    if said.query.limit is None or said.query.select.args.get("order") is None or not (match["bare"] or word in AGGREGATES):
        return False
    if re.search(r"\w", said.text[match.end() :]):
        return False
    is_down = word not in _LEAST
    said.change(Stage.ORDER, lambda q: redirect(q, is_down))
    return True


def _most_common(said: Said, match: re.Match[str]) -> None:
    """The value that the most (or fewest) rows have."""
    places, degree = said.columns_after(match.end()), match["degree"].lower()
    if not places:
        raise CannotEdit("it is not clear what is meant")

    def apply(query: Query) -> str:
        query.settle()
        if not query.is_listing:
            raise CannotEdit("it is grouped already")
        query.order(())
        query.group([query.column(p) for p in places])
        query.select.set("expressions", query.select.expressions[:-1])
        query.order([exp.Ordered(this=exp.Count(this=exp.Star()), desc=degree == "most")])
        query.stop_after(1)
        return f"the {degree} common {in_words(places)}"

    said.change(Stage.GROUP, apply)


def _with_most(said: Said, position: int, is_down: bool, count: int | None) -> None:
    """`the most orders`, `the highest price`: by rows of a table, by a column, or by the number that is shown."""
    noun = said.noun_after(position, r"\s+(?:number of\s+)?")
    places = said.columns_after(position) if noun.table is None or said.query.aggregates else []
    if noun.table is not None:
        said.use(position, noun.end)
    if noun.table is None or said.query.aggregates:
        _choose(said, places, is_down, count)
        return
    table, rows = noun.table.name.lower(), 1 if count is None else count
    said.change(Stage.ORDER, lambda q: _most_rows(q, table, is_down, rows))


def _most_rows(query: Query, table: str, is_most: bool, count: int) -> str:
    query.settle()
    query.most_related(table, is_most, count)
    return f"{_so_many(count)} with the {'most' if is_most else 'fewest'} {table}"


def _by_adjective(said: Said, word: str, degree: str | None, count: int | None) -> None:
    """`the oldest`: by the column that the adjective is about; after one number, its highest or lowest value."""
    places = said.vocabulary.adjective(root(word), said.query)
    is_one_number = bool(said.query.aggregates) and not said.query.is_grouped
    if not places:
        if not is_one_number:
            raise CannotEdit(f"it is not clear what is {word}")
        function = exp.Min if root(word) in LOW else exp.Max
        said.change(Stage.AGGREGATE, lambda q: show_number(said, q, function, None))
        return
    said.take(r"\bhow (?:old|young|big|large|small|tall|high|long|heavy|expensive|much)\b")
    is_down = is_highest_meant(word, degree, places[0])
    if places[0].table:
        said.explain([places[0].column, root(word)])
    if is_one_number:
        said.change(Stage.AGGREGATE, lambda q: show_number(said, q, exp.Max if is_down else exp.Min, places[0]))
        return
    _choose(said, places, is_down, count)


def _choose(said: Said, places: list[Place], is_down: bool, count: int | None) -> None:
    """The rows at that end; where they take the place of others, as many as there were."""
    if said.query.is_grouped:
        said.explain(said.query.names)
    if count is None:
        count = (said.query.limit if said.is_replacing else None) or 1

    def apply(query: Query) -> str:
        if said.is_of_them or (said.query.limit is not None and not said.is_replacing):
            query.settle()
        key = key_of(query, places[0], is_down) if places else ordered(main_number(query), is_down)
        if query.aggregates and not query.is_grouped:
            raise CannotEdit("it is one number already")
        query.order([key])
        query.stop_after(count)
        return f"{_so_many(count)} with the {end_word(is_down)} {places[0].column if places else 'number'}"

    said.change(Stage.ORDER, apply)


def _so_many(count: int) -> str:
    return f"the {count if count > 1 else 'one'}"
