"""Whatever is left out or added, the pairs still mean what they meant."""

from __future__ import annotations

import random

from openarctic.copilot.joins import expand
from openarctic.copilot.schema import Column, ForeignKey, Schema, Table
from openarctic.copilot.variation import varied


def table(name: str, *columns: str, **keys: str) -> Table:
    """The first column is the primary key; `keys` are column=other table, by its first column `id`."""
    pointing = tuple(ForeignKey(column=column, table=other, to_column="id") for column, other in keys.items())
    return Table(name=name, columns=tuple(Column(name=c) for c in columns), primary_key=columns[:1], foreign_keys=pointing)


SCHEMA = Schema(
    dialect="sqlite",
    tables=(
        table("singer", "id", "name", "age", "country", "height"),
        table("singer_in_concert", "singer_id", "concert_id", singer_id="singer", concert_id="concert"),
        table("concert", "id", "year", "theme", "stadium_id", stadium_id="stadium"),
        table("stadium", "id", "seats", "city", "opened"),
    ),
)
SHORT = "SELECT name FROM singer, concert WHERE year = 2014"
NEEDED = frozenset({"name", "singer", "concert", "year"})
STRANGERS = [Column(name=n) for n in ("name", "theme", "wheels", "doors", "engine")]


def test_joins_and_names_stay_what_they_were() -> None:
    wanted = expand(SHORT, SCHEMA)
    for seed in range(200):
        schema = varied(SCHEMA, NEEDED, STRANGERS, random.Random(seed))
        assert expand(SHORT, schema) == wanted


def test_schemas_differ_in_both_directions() -> None:
    found = [varied(SCHEMA, NEEDED, STRANGERS, random.Random(seed)) for seed in range(60)]
    names = [{c.name for t in schema.tables for c in t.columns} for schema in found]
    own = {c.name for t in SCHEMA.tables for c in t.columns}
    assert any(own - one for one in names) and any(one - own for one in names)
    assert any(schema.table("stadium") is None for schema in found)
    every = [c.name for schema in found for t in schema.tables for c in t.columns]
    # A stranger never brings a name that is there already.
    assert all(sum(c.name == "name" for t in schema.tables for c in t.columns) == 1 for schema in found)
    assert {"wheels", "doors", "engine"} <= set(every)
