"""What stands in place of a masked value, in each dialect. NULL stays NULL under every mask."""

from __future__ import annotations

from sqlglot import exp
from sqlglot.errors import SqlglotError

from openarctic.copilot.policy.file import Mask

TEXT_MASKS: tuple[Mask, ...] = ("hash", "last4")
LAST = 4


def masked(column: exp.Expr, mask: Mask, type_: str, salt: str, dialect: str) -> exp.Expr:
    """`null`: nothing, of the column's declared `type_`; `hash`: SHA-256 of salt and text, in hex, so that equal values stay
    equal; `last4`: `****` and the last four characters of a text that has more than four."""
    if mask == "null":
        return _null(type_, dialect)
    text = exp.cast(column.copy(), "text")
    return _hash(text, salt, dialect) if mask == "hash" else _last4(text)


def _null(type_: str, dialect: str) -> exp.Expr:
    """A NULL of the column's own type, so that comparisons and sums with it still make sense."""
    try:
        return exp.cast(exp.Null(), exp.DataType.build(type_, dialect=dialect), dialect=dialect) if type_ else exp.Null()
    except SqlglotError:
        return exp.Null()


def _hash(text: exp.Expr, salt: str, dialect: str) -> exp.Expr:
    salted = exp.DPipe(this=exp.Literal.string(salt), expression=text)
    if dialect == "postgres":
        octets = exp.func("convert_to", salted, exp.Literal.string("UTF8"))
        return exp.func("encode", exp.Anonymous(this="sha256", expressions=[octets]), exp.Literal.string("hex"), dialect=dialect)
    if dialect == "snowflake":
        return exp.Anonymous(this="SHA2", expressions=[salted, exp.Literal.number(256)])
    return exp.Anonymous(this="sha256", expressions=[salted])  # SQLite: a function of `sandbox`


def _last4(text: exp.Expr) -> exp.Expr:
    length = exp.Length(this=text.copy())
    start = exp.Sub(this=length.copy(), expression=exp.Literal.number(LAST - 1))
    tail = exp.Substring(this=text.copy(), start=start)
    stars = exp.Literal.string("*" * LAST)
    return (
        exp.Case()
        .when(exp.Is(this=text.copy(), expression=exp.Null()), exp.Null())
        .when(exp.GT(this=length, expression=exp.Literal.number(LAST)), exp.DPipe(this=stars.copy(), expression=tail))
        .else_(stars)
    )
