"""The whole journey with a scripted model, on the sample database."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from openarctic.copilot.ask import AskOptions, ask
from openarctic.copilot.sample import create_sample, sample_database, sample_rows
from openarctic.copilot.semantic.cortex import parse_cortex
from openarctic.errors import AbstainedError, RefusedError
from openarctic.generator import ScriptedGenerator
from tests.copilot.semantic.models import SALES


class Chatty(ScriptedGenerator):
    target_form = None


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("OPENARCTIC_CACHE", str(folder))


def test_votes_go_to_the_result_most_candidates_agree_on() -> None:
    model = ScriptedGenerator(
        [[" SELECT name FROM customers LIMIT 1", " SELECT COUNT(*) FROM orders", " SELECT COUNT(order_id) FROM orders"]]
    )
    answer = ask("How many orders?", model=model, options=AskOptions(candidates=3))
    assert answer.status == "ok" and answer.sql is not None
    assert "orders: order_id, customer_id > customers" in model.prompts[0]
    # What the greedy candidate alone would have answered is kept, whoever wins.
    assert answer.tally.first is not None and answer.tally.first.columns == ["name"] and len(answer.tally.first.rows) == 1


def test_the_answer_states_the_value() -> None:
    answer = ask("How many customers?", model=ScriptedGenerator([[" SELECT COUNT(*) FROM customers"]]))
    assert answer.rows == [(300,)] and answer.answer == "There are 300 customers."
    assert set(answer.to_dict()) == {
        "question", "status", "sql", "dialect", "columns", "rows", "truncated", "answer", "confidence", "model",
        "timings_ms", "chart", "hidden_by_policy", "verified", "abstained", "calibrated", "read_as", "clarification", "error",
    }  # fmt: skip


def test_a_missing_table_is_mended() -> None:
    answer = ask(
        "Names of stores in region North", model=ScriptedGenerator([[" SELECT stores.name FROM stores WHERE region_id = 1"]])
    )
    assert answer.tally.first_in_scope
    answer = ask("Orders of Ada", model=ScriptedGenerator([[" SELECT order_date FROM customers WHERE customers.name = 'x'"]]))
    assert not answer.tally.first_in_scope and "JOIN orders" in (answer.sql or "")


def test_no_valid_candidate_abstains() -> None:
    replies = [[" SELECT nothing FROM nowhere", " garbage ("], [" SELECT none FROM nowhere"]]
    with pytest.raises(AbstainedError):
        ask("How many?", model=ScriptedGenerator(replies))


def test_a_second_round_is_tried_when_nothing_runs() -> None:
    replies = [[" SELECT CAST(name AS INTEGER) FROM regions"], [" SELECT COUNT(*) FROM regions"]]
    answer = ask("How many regions?", model=ScriptedGenerator(replies))
    assert answer.rows == [(4,)]
    assert (answer.tally.generated, answer.tally.failed) == (2, 1)
    assert answer.tally.first is None  # a candidate of the second round is not the greedy one


def test_a_linked_text_is_looked_for_where_it_stands() -> None:
    sql = " SELECT name FROM products WHERE category_id = 'Tents'"
    answer = ask("Products in Tents?", model=ScriptedGenerator([[sql]]))
    assert answer.sql is not None and answer.sql.endswith("WHERE categories.name = 'Tents'")
    assert answer.sql.startswith("SELECT products.name FROM products JOIN categories ON")
    assert answer.rows and all("Tent" in name for (name,) in answer.rows)


def test_what_the_question_words_plainly_wins_over_what_the_model_wrote() -> None:
    sql = " SELECT COUNT(*), city FROM customers, orders WHERE customers.name LIKE 'a%' GROUP BY city HAVING COUNT(*) > 2"
    question = "List the cities, and the number of orders, of customers whose name contains the letter A, with at least 2 orders."
    answer = ask(question, model=ScriptedGenerator([[sql]]))
    assert (answer.columns or [])[0] == "city" and "LIKE '%a%'" in (answer.sql or "") and "COUNT(*) >= 2" in (answer.sql or "")
    as_written = ask(question, model=ScriptedGenerator([[sql]]), options=AskOptions(without=frozenset({"words"})))
    assert (as_written.columns or [])[-1] == "city" and "LIKE 'a%'" in (as_written.sql or "")


def test_a_misspelt_text_is_spelt_as_it_is_stored() -> None:
    model = ScriptedGenerator([[" SELECT COUNT(*) FROM customers WHERE city = 'Berln'"]])
    answer = ask("How many customers are in Berln?", model=model)
    assert "[Berlin = customers.city / stores.city]" in model.prompts[0]
    assert "'Berlin'" in (answer.sql or "") and answer.rows != [(0,)]


def test_without_values_none_is_read_kept_or_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = sample_database()
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path))
    model = ScriptedGenerator([[" SELECT COUNT(*) FROM customers"]] * 2)
    ask("How many customers are in Berlin?", db=database, model=model, values=False)
    assert "Berlin =" not in model.prompts[0] and "North/" not in model.prompts[0] and "/North" not in model.prompts[0]
    assert not any(b"Berlin" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    ask("How many customers are in Berlin?", db=database, model=model)
    assert "Berlin =" in model.prompts[1] and any(b"Berlin" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.parametrize("values", [True, False])
def test_without_values_a_failure_does_not_tell_the_model_a_cell(tmp_path: Path, values: bool) -> None:
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        connection.execute("CREATE TABLE people (id INTEGER, name VARCHAR); INSERT INTO people VALUES (1, 'Zoe')")
    failing, right = "```sql\nSELECT id FROM people WHERE name::INTEGER > 2\n```", "```sql\nSELECT id FROM people\n```"
    model = Chatty([[failing], [right]])
    answer = ask("ids", db=tmp_path / "shop.duckdb", model=model, options=AskOptions(candidates=1), values=values)
    assert answer.rows == [(1,)] and "It failed" in model.prompts[1] and ("Zoe" in model.prompts[1]) == values


def test_a_change_is_refused_before_any_model_runs() -> None:
    before = sample_database().path.read_bytes()
    with pytest.raises(RefusedError):
        ask("delete all orders", model=ScriptedGenerator([]))
    assert sample_database().path.read_bytes() == before


def test_no_exec_runs_nothing() -> None:
    answer = ask("x", model=ScriptedGenerator([[" SELECT COUNT(*) FROM customers"]]), options=AskOptions(execute=False))
    assert answer.rows is None and answer.sql == "SELECT COUNT(*) FROM customers"


def test_the_sample_is_the_same_everywhere_and_consistent(tmp_path: Path) -> None:
    rows = sample_rows()
    assert rows == sample_rows() and len(rows) == 10
    create_sample(tmp_path / "s.duckdb")
    customers = {r[0] for r in rows["customers"]}
    assert all(o[1] in customers for o in rows["orders"])
    assert sum(len(r) for r in rows.values()) > 3000


SEMANTIC = parse_cortex(SALES).model


def test_a_verified_question_is_answered_without_the_model() -> None:
    model = ScriptedGenerator([])
    answer = ask("how many orders were DELIVERED", model=model, semantic=SEMANTIC)
    assert answer.rows == [(760,)] and answer.confidence == 1 and model.prompts == []
    assert answer.verified is not None and answer.to_dict()["verified"]["badge"] == "verified by Ada on 2024-05-01"
    assert answer.verified["exact"] and answer.verified["used"]


def test_a_verified_query_for_other_values_is_a_candidate() -> None:
    model = ScriptedGenerator([[" SELECT COUNT(*) FROM orders"]])
    answer = ask("How many orders were shipped?", model=model, semantic=SEMANTIC)
    counted = ask("x", model=ScriptedGenerator([[" SELECT COUNT(*) FROM orders WHERE status = 'shipped'"]]))
    assert answer.rows == counted.rows and answer.verified is not None
    assert not answer.verified["exact"] and answer.verified["used"]


def test_a_near_question_is_shown_and_the_model_answers() -> None:
    sql = " SELECT COUNT(*) FROM orders WHERE status = 'delivered'"
    answer = ask("How many orders were delivered on time?", model=ScriptedGenerator([[sql]]), semantic=SEMANTIC)
    assert answer.verified is not None and not answer.verified["used"] and 0.6 <= answer.verified["score"] < 1


def test_a_metric_is_composed_over_several_tables() -> None:
    model = ScriptedGenerator([[" SELECT COUNT(*) FROM customers"]])
    answer = ask("turnover by product group", model=model, semantic=SEMANTIC)
    by_hand = (
        " SELECT categories.name, SUM(quantity * unit_price) FROM order_items, products, categories GROUP BY categories.name "
        "ORDER BY categories.name"
    )
    assert answer.rows == ask("x", model=ScriptedGenerator([[by_hand]])).rows
    # Tables that the semantic model does not name are not shown.
    assert "payments" in model.prompts[0] and "suppliers:" not in model.prompts[0]


def test_a_model_writes_in_the_semantic_models_names() -> None:
    sql = " SELECT category, SUM(units) FROM items, products, categories GROUP BY category ORDER BY category"
    model = ScriptedGenerator([[sql]])
    answer = ask("anything at all", model=model, semantic=SEMANTIC)
    assert "items: order_item_id, order_id > orders, product_id > products, units" in model.prompts[0]
    by_hand = (
        " SELECT categories.name, SUM(quantity) FROM order_items, products, categories GROUP BY categories.name "
        "ORDER BY categories.name"
    )
    assert answer.rows == ask("x", model=ScriptedGenerator([[by_hand]])).rows and answer.columns == ["category", "sum(units)"]


def test_what_a_policy_hides_no_semantic_model_shows(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "roles:\n  clerk:\n    tables:\n      orders: {columns: {deny: [status]}}\n      customers: {}\nusers: {eve: [clerk]}\n"
    )
    with pytest.raises(RefusedError) as refused:
        ask("How many orders were delivered?", model=ScriptedGenerator([]), semantic=SEMANTIC, policy=policy, user="eve")
    assert refused.value.type == "not_permitted"
    model = ScriptedGenerator([[" SELECT COUNT(*) FROM orders"]])
    answer = ask("How many orders were delivered late?", model=model, semantic=SEMANTIC, policy=policy, user="eve")
    assert answer.verified is None and "delivered" not in model.prompts[0].split("Q:")[0]
    answer = ask(
        "revenue", model=ScriptedGenerator([[" SELECT COUNT(*) FROM orders"]]), semantic=SEMANTIC, policy=policy, user="eve"
    )
    assert answer.sql == "SELECT COUNT(*) FROM orders"
