"""Names of a statement in one spelling: afterwards, names that are equal without regard to case are written the same.

The guard and the policy compare names without regard to case. Engines do not all agree: PostgreSQL lowers what is not quoted
and Snowflake raises it, so that `"Salaries"` and `salaries` are two names; SQLite and DuckDB know the case of ASCII letters only.
What would be one name to us and two to the engine could read another table than the one that was checked. So every name of a
table or column takes the spelling that the database keeps, and every other name the spelling of its first mention.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator

from sqlglot import exp

from openarctic.copilot.schema import Schema

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_UPPER = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
FOLDING = {"postgres": _LOWER, "snowflake": _UPPER}
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ODD = "odd_name_"
# Where a name is neither a table's nor a column's nor an alias.
_OTHER_PLACES = ("db", "catalog")
_OTHER_PARENTS = (exp.Dot, exp.PropertyEQ, exp.Kwarg, exp.DataType)


def spell(tree: exp.Expr, dialect: str, schema: Schema | None) -> None:
    """Rewrite the names of `tree` in place."""
    identifiers = list(_names(tree))
    fold = FOLDING.get(dialect)
    if fold is None and all(identifier.name.isascii() for identifier in identifiers):
        return
    read = _reader(dialect)
    stored = _stored(schema, {identifier.name.lower() for identifier in identifiers})
    first: dict[tuple[bool, str], str] = {}
    for identifier in identifiers:
        key, meant = (_is_of_table(identifier), identifier.name.lower()), read(identifier)
        spellings = stored.get(key, [])
        if any(_same(meant, spelling, dialect) for spelling in spellings):
            continue
        wanted = spellings[0] if len(spellings) == 1 else first.setdefault(key, meant)
        if not _same(meant, wanted, dialect):
            identifier.set("this", wanted)
            identifier.set("quoted", True)


def _is_of_table(identifier: exp.Identifier) -> bool:
    """Whether it names a table, a CTE or an alias of one, and not a column or an alias of that."""
    if isinstance(identifier.parent, exp.Column):
        return identifier.arg_key == "table"
    return isinstance(identifier.parent, exp.Table | exp.TableAlias) and identifier.arg_key == "this"


def plain_name(name: str) -> str:
    """The name in lower case; one that needs quotes in another form, for a reader of names that cannot take all of them."""
    return name.lower() if PLAIN.fullmatch(name) else ODD + name.lower().encode().hex()


def meant_name(plain: str) -> str:
    """What `plain_name` was made from."""
    try:
        return bytes.fromhex(plain.lower().removeprefix(ODD)).decode() if plain.lower().startswith(ODD) else plain
    except ValueError:
        return plain


def _names(tree: exp.Expr) -> Iterator[exp.Identifier]:
    for identifier in tree.find_all(exp.Identifier):
        if identifier.arg_key not in _OTHER_PLACES and not isinstance(identifier.parent, _OTHER_PARENTS):
            yield identifier


def _reader(dialect: str) -> Callable[[exp.Identifier], str]:
    """What the engine takes an identifier for."""
    fold = FOLDING.get(dialect)
    if fold is None:
        return lambda identifier: identifier.name
    return lambda identifier: identifier.name if identifier.quoted else identifier.name.translate(fold)


def _same(one: str, other: str, dialect: str) -> bool:
    """Whether the engine takes both for the same name."""
    return one == other if dialect in FOLDING else one.translate(_LOWER) == other.translate(_LOWER)


def _stored(schema: Schema | None, mentioned: set[str]) -> dict[tuple[bool, str], list[str]]:
    """The spellings in the database: under (True, name) of mentioned tables, under (False, name) of their columns."""
    stored: dict[tuple[bool, str], list[str]] = {}
    for name in sorted(mentioned):
        table = None if schema is None else schema.table(name)
        if table is None:
            continue
        stored[True, name] = [table.name]
        for column in table.columns:
            spellings = stored.setdefault((False, column.name.lower()), [])
            if column.name not in spellings:
                spellings.append(column.name)
    return stored
