"""Synthetic pairs are right by construction: the SQL runs, is in its shortest form, and is in the grammar."""

from __future__ import annotations

import random

import pytest

from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.examples import LinkedSchema
from openarctic.copilot.execute import Worker
from openarctic.copilot.guard import check
from openarctic.copilot.joins import expand, shorten
from openarctic.copilot.schema import Schema
from openarctic.copilot.synthesis import PATTERNS, Draw, Pattern, synthesise

from .files import write_both
from .test_grammar import accepts, matcher

SCRIPT = """
CREATE TABLE customers (customer_id INTEGER PRIMARY KEY, name TEXT, city TEXT, age INTEGER);
CREATE TABLE orders (order_id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers (customer_id), amount REAL,
  state TEXT);
CREATE TABLE products (product_id INTEGER PRIMARY KEY, title TEXT, price REAL);
CREATE TABLE items (order_id INTEGER REFERENCES orders (order_id), product_id INTEGER REFERENCES products (product_id));
INSERT INTO customers VALUES (1, 'Ann', 'Oslo', 30), (2, 'Bo', 'Rome', 50), (3, 'Cy', 'Oslo', 41);
INSERT INTO orders VALUES (1, 1, 9.5, 'open'), (2, 1, 3.0, 'closed');
INSERT INTO products VALUES (1, 'Tent', 120), (2, 'Rope', 20);
INSERT INTO items VALUES (1, 1), (2, 2);
"""


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> LinkedSchema:
    return LinkedSchema(read_schema(open_database(write_both(tmp_path_factory.mktemp("shop"), SCRIPT)["sqlite"])))


def drawn(linked: LinkedSchema, pattern: Pattern, count: int = 6) -> list[tuple[str, str]]:
    """Some pairs of one pattern."""
    rng, made = random.Random(0), []
    for _ in range(400):
        pair = pattern(Draw(linked, rng.choice(linked.schema.tables), rng))
        made += [pair] if pair else []
        if len(made) == count:
            break
    return made


def test_all_patterns_say_what_runs(linked: LinkedSchema, tmp_path_factory: pytest.TempPathFactory) -> None:
    start = matcher(linked.schema)
    path = write_both(tmp_path_factory.mktemp("shop"), SCRIPT)["sqlite"]
    worker = Worker(open_database(path))
    try:
        for pattern in dict.fromkeys(PATTERNS):
            pairs = drawn(linked, pattern)
            assert pairs, f"{pattern.__name__} never applies"
            for question, sql in pairs:
                assert question[0].isupper() and question[-1] in ".?", question
                full = expand(sql, linked.schema)
                assert shorten(full, linked.schema) == sql, pattern.__name__
                assert accepts(start, f" {sql}"), sql
                worker.execute(check(full, "sqlite", linked.schema), limit=10, timeout_s=5.0)
    finally:
        worker.close()


def test_the_same_seed_gives_the_same_pairs(linked: LinkedSchema) -> None:
    first, again = (list(synthesise({"shop": linked}, 40, seed=3)) for _ in range(2))
    assert first == again != list(synthesise({"shop": linked}, 40, seed=4))


def test_names_that_need_quotes_are_left_alone(linked: LinkedSchema, tmp_path_factory: pytest.TempPathFactory) -> None:
    script = 'CREATE TABLE odd ("from" TEXT, b TEXT); CREATE TABLE plain (a TEXT, b TEXT);'
    path = write_both(tmp_path_factory.mktemp("odd"), script)["sqlite"]
    odd: Schema = read_schema(open_database(path))
    assert all(" odd" not in p.sql for p in synthesise({"odd": LinkedSchema(odd)}, 30, seed=0))
