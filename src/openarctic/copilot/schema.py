"""What a database holds, as plain data: tables, columns, keys, row counts and value samples.

Everything that a question may be linked to, a prompt may show and a guard may allow is in a `Schema`.
Names keep the database's own spelling; look-ups ignore case, as SQL does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

NUMBER_TEXT = re.compile(r"\s*[-+$]?\d[\d.,:]*\s*%?\s*")
_DATE_TYPE = re.compile(r"DATE|TIME", re.IGNORECASE)
_DATE_NAME = re.compile(
    r"(^|_)(date|day|time|on|at)$|(?<=[a-z])(Date|Time|Day)$|^(date|joined|opened|hired|founded|created|born)", re.I
)
_YEAR_NAME = re.compile(r"(^|_)year(_|$)|(?<=[a-z])Year$|^year|year$", re.IGNORECASE)
_YEAR_VERB = re.compile(r"published|released|founded|built|established|opened|launched|introduced|born|elected", re.IGNORECASE)
_DATE_VALUE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column. `values` are distinct text values that were sampled, at most `databases.VALUES_PER_COLUMN`."""

    name: str
    type: str = ""
    values: tuple[str, ...] = ()
    comment: str = ""

    @property
    def is_numeric(self) -> bool:
        """True when the declared type is a number type (SQLite's affinity rules plus DuckDB's names)."""
        kind = self.type.upper()
        if any(word in kind for word in ("INTERVAL", "POINT", "RANGE", "[")):
            return False
        return any(word in kind for word in ("INT", "REAL", "FLOA", "DOUB", "DEC", "NUM", "YEAR"))

    @property
    def is_summable(self) -> bool:
        """Whether a sum or an average of it can mean anything: a number, or texts that are all written as one."""
        if self.is_numeric:
            return True
        is_moment = any(word in self.type.upper() for word in ("DATE", "TIME", "BOOL", "BLOB"))
        return not is_moment and all(NUMBER_TEXT.fullmatch(value) for value in self.values)

    @property
    def is_date(self) -> bool:
        """Whether it holds dates, by its type or, where that says nothing, by its name and values."""
        if _DATE_TYPE.search(self.type):
            return True
        if self.is_numeric or not _DATE_NAME.search(self.name):
            return False
        return not self.values or all(_DATE_VALUE.match(v) for v in self.values[:5])

    @property
    def is_year(self) -> bool:
        """Whether it holds years."""
        if _DATE_TYPE.search(self.type):
            return False
        return bool(_YEAR_NAME.search(self.name)) or (self.is_numeric and bool(_YEAR_VERB.fullmatch(self.name)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignKey:
    """`column` of this table points at `table.to_column`."""

    column: str
    table: str
    to_column: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table or view; `definition` is the SQL that a view was made with, as the database keeps it.

    `row_count` was counted; `row_estimate` is what a server believes, where counting would cost a scan.
    """

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    row_count: int | None = None
    is_view: bool = False
    definition: str = ""
    comment: str = ""
    row_estimate: int | None = None

    def column(self, name: str) -> Column | None:
        """The column of that name, in any case, or None."""
        wanted = name.lower()
        return next((c for c in self.columns if c.name.lower() == wanted), None)

    @property
    def column_names(self) -> frozenset[str]:
        """Lower-case names of all columns."""
        return frozenset(c.name.lower() for c in self.columns)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """All tables of one database, or of one schema of it: `namespace` is its name where that is not the usual one."""

    dialect: str
    tables: tuple[Table, ...]
    namespace: str = ""
    _by_name: dict[str, Table] = field(init=False, repr=False, compare=False)
    _links: dict[str, list[tuple[str, str, str]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {t.name.lower(): t for t in self.tables})
        links: dict[str, list[tuple[str, str, str]]] = {}
        for table in self.tables:
            mine = table.name.lower()
            for key in table.foreign_keys:
                links.setdefault(mine, []).append((key.table.lower(), key.column.lower(), key.to_column.lower()))
                links.setdefault(key.table.lower(), []).append((mine, key.to_column.lower(), key.column.lower()))
        object.__setattr__(self, "_links", links)

    def table(self, name: str) -> Table | None:
        """The table of that name, in any case, or None."""
        return self._by_name.get(name.lower())

    def links(self, name: str) -> Iterator[tuple[str, str, str]]:
        """(other table, my column, its column) for every foreign key out of and into table `name`."""
        return iter(self._links.get(name.lower(), ()))
