"""A follow-up that stays a question for the model: what it leaves out is put in, in words read from the earlier query's tree."""

from __future__ import annotations

import re

from sqlglot import exp

from openarctic.copilot.conversation.query import Query
from openarctic.copilot.wording import listed, several, words

_SAYS: dict[type[exp.Expr], str] = {
    exp.GT: "above",
    exp.GTE: "of at least",
    exp.LT: "below",
    exp.LTE: "of at most",
    exp.NEQ: "other than",
}
_LEAD = re.compile(r"^\W*(?:(?:and|but|ok|okay|now|then|so|what about|how about)\b\W*)+", re.IGNORECASE)
_THEIR = re.compile(r"\b(?:their|its|his|her)\s+(?P<noun>[\w ]+?)(?=\s*[?.!,]|\s*$)", re.IGNORECASE)
_THEM = re.compile(r"\b(?:the ones|those ones|them|those|these|they|ones)\b", re.IGNORECASE)


def rows_in_words(query: Query) -> str:
    """What the rows of a query are: `customers with country 'Germany' and age above 30`."""
    table = query.subject
    name = several(words(table.name)) if table is not None else "the rows"
    conditions = [said for part, _ in query.filters() if (said := _condition(part))]
    return f"{name} with {listed(conditions)}" if conditions else name


def _condition(part: exp.Expr) -> str:
    column, other = part.args.get("this"), part.args.get("expression")
    if not isinstance(column, exp.Column):
        return ""
    name = words(column.name)
    if isinstance(part, exp.EQ) and isinstance(other, exp.Literal):
        return f"{name} {other.name}"
    if isinstance(part, exp.In) and part.expressions:
        return f"{name} {listed([e.name for e in part.expressions], 'or')}"
    if isinstance(part, exp.Between):
        return f"{name} from {part.args['low'].name} to {part.args['high'].name}"
    said = _SAYS.get(type(part))
    return f"{name} {said} {other.name}" if said and isinstance(other, exp.Literal) else ""


def completed(text: str, query: Query) -> str:
    """The follow-up as a question of its own: a pronoun is what it stands for, and without one the rows are named at the end."""
    rest = _LEAD.sub("", text).strip() or text.strip()
    rows = rows_in_words(query)
    if _THEM.search(rest):
        return _THEM.sub(f"the {rows}", rest, count=1)
    owned = _THEIR.search(rest)
    if owned is not None:
        return f"{rest[: owned.start()]}the {owned['noun']} of the {rows}{rest[owned.end() :]}"
    end = re.search(r"[?.!\s]*$", rest)
    mark = end.group().strip() if end else ""
    return f"{rest[: end.start()] if end else rest} of the {rows}{mark}"
