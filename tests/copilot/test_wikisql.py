"""WikiSQL's nameless tables become small databases whose pairs the grammar can write."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from openarctic.copilot.wikisql import TABLES_PER_DATABASE, read_wikisql
from openarctic.errors import MissingError

from .test_grammar import accepts, matcher

COLUMNS = ["player", "no._of_goals", "team"]
ASKED = [
    ("Which team does Ann play for?", 'SELECT "team" FROM "table" WHERE "player" = \'Ann\''),
    ("What is the highest number of goals?", 'SELECT MAX("no._of_goals") FROM "table"'),
    ("Who scored 3?", 'SELECT "player" FROM "table" WHERE "no._of_goals" = 3'),
    ("When was it?", 'SELECT MIN("no._of_goals") FROM "table"'),  # says nothing of a least one
    ("How many goals?", 'SELECT COUNT("no._of_goals") FROM "table"'),
    ("Who is it?", 'SELECT "team" FROM "table" WHERE "player" = \'Bo\''),  # does not name Bo
    ("Broken?", 'SELECT ""x"" FROM "table"'),
]


def write(path: Path, tables: int) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for number in range(tables):
            columns = [f"player_{number}", *COLUMNS[1:]]
            for question, query in ASKED:
                query = query.replace('"player"', f'"player_{number}"')
                row = {"table_id": str(number), "question": question, "query": query, "known_columns": columns}
                file.write(json.dumps(row) + "\n")
    return path


def test_tables_together_make_a_database_whose_pairs_can_be_written(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl.gz", 2 * TABLES_PER_DATABASE + 1)
    linked, pairs = read_wikisql(path, 1000, seed=0)
    assert [len(one.schema.tables) for one in linked.values()] == [TABLES_PER_DATABASE] * 2
    assert len(pairs) == 3 * 2 * TABLES_PER_DATABASE
    name, schema = next(iter(linked.items()))
    own = [pair for pair in pairs if pair.database == name]
    grammar = matcher(schema.schema)
    assert all(accepts(grammar, f" {pair.sql}") for pair in own)
    first = next(pair for pair in own if "'Ann'" in pair.sql)
    table = schema.schema.tables[0]
    assert first.sql == f"SELECT team FROM {table.name} WHERE {table.columns[0].name} = 'Ann'"
    assert "[Ann = " in first.prompt
    goals = table.column("no_of_goals")
    assert goals is not None and goals.is_numeric


def test_the_seed_decides(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl.gz", 4 * TABLES_PER_DATABASE)
    one, again, other = (read_wikisql(path, 30, seed)[1] for seed in (1, 1, 2))
    assert one == again != other
    assert 30 <= len(one) < 30 + 3 * TABLES_PER_DATABASE


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no .*absent"):
        read_wikisql(tmp_path / "absent.jsonl.gz", 1, 0)
