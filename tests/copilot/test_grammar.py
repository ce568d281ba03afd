"""The grammar of a schema: all it accepts parses, names what exists, and is in scope; all that training teaches is accepted."""

from __future__ import annotations

import random

import pytest
import sqlglot
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from sqlglot import exp
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from openarctic.copilot.databases import read_schema
from openarctic.copilot.grammar import MAX_TABLES, schema_grammar
from openarctic.copilot.guard import check
from openarctic.copilot.joins import expand
from openarctic.copilot.sample import sample_database
from openarctic.copilot.schema import Column, ForeignKey, Schema, Table
from openarctic.engine.constraint import Constraints, limits

EOS = 256


def byte_tokenizer() -> LLTokenizer:
    """Every byte is a token: the grammar alone decides what may be written."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate([*alphabet, "<eos>"])}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    return backend


BACKEND = byte_tokenizer()
TOKENIZER = LLTokenizer(BACKEND.to_str(), n_vocab=EOS + 1, eos_token=EOS)


def table(name: str, columns: str, **keys: str) -> Table:
    """`table("orders", "id customer_id", customer_id="customers.id")`"""
    return Table(
        name=name,
        columns=tuple(Column(name=c, type="TEXT") for c in columns.split()),
        foreign_keys=tuple(ForeignKey(column=c, table=t.split(".")[0], to_column=t.split(".")[1]) for c, t in keys.items()),
    )


SHOP = Schema(
    dialect="sqlite",
    tables=(
        table("Customers", "id name city"),
        table("orders", "id customer_id status Order_Date", customer_id="customers.id"),
        table("items", "order_id product quantity", order_id="orders.id"),
        table("odd names", "select größe"),
    ),
)


@pytest.fixture(scope="module")
def shop() -> LLMatcher:
    return matcher(SHOP)


def matcher(schema: Schema, grammar: str | None = None) -> LLMatcher:
    """A matcher at the start of the schema's grammar (of direct SQL, unless another is given)."""
    made = LLMatcher(TOKENIZER, LLMatcher.grammar_from_lark(grammar or schema_grammar(schema)), limits=limits())
    assert not made.is_error(), made.get_error()
    return made


def accepts(start: LLMatcher, text: str) -> bool:
    """Whether the whole text may be written."""
    now = start.deep_copy()
    ids = BACKEND.encode(text, add_special_tokens=False).ids
    return now.try_consume_tokens(ids) == len(ids) and bool(now.is_accepting())


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT COUNT(*) FROM customers",
        "SELECT name FROM customers WHERE city = 'St. John''s' ORDER BY name DESC LIMIT 3",
        "SELECT status, COUNT(*) FROM orders, customers GROUP BY status HAVING COUNT(*) > 2",
        "SELECT name FROM customers, orders, items WHERE quantity > 3 AND NOT status LIKE 'x%'",
        "SELECT id FROM customers, orders WHERE orders.id > 3",
        "SELECT customers.id FROM customers, orders WHERE order_date BETWEEN '2024' AND '2025'",
        "SELECT name FROM customers WHERE NOT id IN (SELECT customer_id FROM orders)",
        "SELECT name FROM customers EXCEPT SELECT name FROM customers, orders",
        'SELECT name FROM customers JOIN "odd names" ON city = größe',
        "SELECT name FROM customers, items",
        "SELECT t1.name FROM customers AS t1 JOIN customers AS t2 ON t1.city = t2.city",
        "SELECT AVG(a) FROM (SELECT COUNT(*) AS a FROM orders GROUP BY customer_id)",
        'SELECT "select" FROM "odd names" WHERE größe > 1',
    ],
)
def test_what_a_question_needs_can_be_written(shop: LLMatcher, sql: str) -> None:
    assert accepts(shop, " " + sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT name FROM people",
        "SELECT salary FROM customers",
        "SELECT orders.name FROM orders",
        "SELECT status FROM customers",
        "SELECT name FROM customers WHERE quantity > 3",
        "SELECT name FROM customers ORDER BY status",
        "SELECT name FROM customers WHERE id IN (SELECT id FROM items)",
        'SELECT name FROM customers, "odd names"',
        "DROP TABLE orders",
        "SELECT name FROM customers; DROP TABLE orders",
        "SELECT name FROM customers -- all",
    ],
)
def test_what_is_out_of_scope_cannot_be_written(shop: LLMatcher, sql: str) -> None:
    assert not accepts(shop, " " + sql)


def walk(start: LLMatcher, seed: int, steps: int = 400) -> str | None:
    """A random text of the grammar, or None when it does not end in time. Endings are taken often, strings kept short."""
    rng, now = random.Random(seed), start.deep_copy()
    ids: list[int] = []
    quote = BACKEND.token_to_id("'")
    for _ in range(steps):
        bits = now.compute_bitmask()
        allowed = [i for i in range(EOS + 1) if bits[i // 8] >> (i % 8) & 1]
        if EOS in allowed and (len(allowed) == 1 or rng.random() < 0.3):
            return str(BACKEND.decode(ids))
        choice = quote if quote in allowed and rng.random() < 0.5 else rng.choice([i for i in allowed if i != EOS])
        now.consume_token(choice)
        ids.append(choice)
    return None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.integers(0, 2**32))
def test_every_output_parses_and_names_only_what_exists(seed: int) -> None:
    text = walk(WALKED, seed)
    assume(text is not None and "\ufffd" not in text)
    assert text is not None
    tree = sqlglot.parse_one(text, read="sqlite")
    assert {t.name for t in tree.find_all(exp.Table)} <= {t.name.lower() for t in SHOP.tables}
    labels = {"t", "a", "b", "c", "d", *(f"t{i}" for i in range(1, 10))}
    columns = {c.name.lower() for t in SHOP.tables for c in t.columns}
    assert {c.name for c in tree.find_all(exp.Column)} <= columns | labels | {"*"}
    selects = list(tree.find_all(exp.Select))
    if " AS " not in text and "FROM (" not in text and all(len(s.args.get("joins") or []) < MAX_TABLES for s in selects):
        check(expand(text.strip(), SHOP), "sqlite", SHOP)


WALKED = matcher(SHOP)


def test_a_large_schema_has_a_bounded_grammar() -> None:
    tables = [table("hub", "id name")]
    tables += [table(f"spoke_{i}", f"id_{i} hub_id text_{i}", hub_id="hub.id") for i in range(60)]
    start = matcher(Schema(dialect="sqlite", tables=tuple(tables)))
    assert accepts(start, " SELECT text_3 FROM hub, spoke_3 WHERE name = 'x'")
    assert not accepts(start, " SELECT text_3 FROM hub, spoke_4 WHERE name = 'x'")


def test_the_sample_has_a_grammar(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path))
    start = matcher(read_schema(sample_database()))
    assert accepts(start, " SELECT products.name FROM categories, products, order_items WHERE categories.name = 'Tents'")
    assert not accepts(start, " SELECT salary FROM customers")


def test_a_constraint_masks_and_ends() -> None:
    from openarctic.tokenizer import Tokenizer as Ours

    ours = Ours(BACKEND, {"tokenizer.ggml.eos_token_id": EOS})
    constraint = Constraints(ours).start('start: "ab" | "ac"')
    import numpy as np

    def allowed() -> list[int]:
        return np.flatnonzero(np.unpackbits(np.frombuffer(constraint.bits(EOS + 1), np.uint8), bitorder="little")).tolist()

    assert [BACKEND.id_to_token(i) for i in allowed()] == ["a"]
    constraint.advance(BACKEND.token_to_id("a"))
    constraint.advance(BACKEND.token_to_id("c"))
    assert allowed() == [EOS]
    assert not constraint.is_stuck


def test_sums_are_of_numbers() -> None:
    columns = (
        Column(name="price", type="REAL"),
        Column(name="title", type="TEXT", values=("Rope", "Tent")),
        Column(name="pieces", type="TEXT", values=("12", "7.5")),
        Column(name="made", type="DATE"),
    )
    start = matcher(Schema(dialect="sqlite", tables=(Table(name="items", columns=columns),)))
    assert [c.name for c in columns if c.is_summable] == ["price", "pieces"]
    for column in columns:
        assert accepts(start, f" SELECT AVG({column.name}) FROM items") == column.is_summable
        assert accepts(start, f" SELECT MAX({column.name}) FROM items")
    assert accepts(start, " SELECT SUM(price * pieces) / SUM(DISTINCT pieces) FROM items")
    words = matcher(Schema(dialect="sqlite", tables=(Table(name="items", columns=columns[1:2]),)))
    assert accepts(words, " SELECT SUM(title) FROM items")  # with nothing else to sum, the grammar stays out of it
