"""Conversations: follow-ups without a model against what would be right, and everything around them with scripted models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openarctic.copilot.ask import AskOptions, Copilot
from openarctic.copilot.conversation import Conversation, Turn
from openarctic.copilot.conversation.said import number_of
from openarctic.copilot.sample import sample_database
from openarctic.errors import RefusedError, UserError
from openarctic.generator import ScriptedGenerator

from .databases import databases
from .play import play, silent

GERMANS = Turn(
    question="How many customers are there in Germany?", sql="SELECT COUNT(*) FROM customers WHERE country = 'Germany'"
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENARCTIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="module")
def copilots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Copilot]]:
    with silent(databases(tmp_path_factory.mktemp("conversations"))) as copilots:
        yield copilots


@pytest.mark.parametrize(
    ("name", "least"), [("cases.txt", 1.0), ("unseen.txt", 0.95), ("unseen2.txt", 0.95), ("unseen3.txt", 0.94)]
)
def test_follow_ups_are_read_without_a_model(name: str, least: float, copilots: dict[str, Copilot]) -> None:
    played = list(play(name, copilots))
    wrong = [f"{p.case} / {p.follow_up}: {p.sql} {p.read_as}" for p in played if not p.is_right]
    assert len(played) - len(wrong) >= least * len(played), "\n".join(wrong)
    # What was read says so, and names what it is about.
    assert all(p.read_as for p in played if p.is_right)


@pytest.fixture
def copilot() -> Iterator[Copilot]:
    with Copilot(sample_database(), ScriptedGenerator([])) as copilot:
        yield copilot


def with_model(*texts: str, **options: object) -> Copilot:
    return Copilot(sample_database(), ScriptedGenerator([[text] for text in texts], **options))  # type: ignore[arg-type]


def test_a_follow_up_says_how_it_was_read(copilot: Copilot) -> None:
    conversation = Conversation(copilot, [GERMANS])
    answer = conversation.ask("and in France?", AskOptions())
    assert answer.question == "and in France?"
    assert answer.read_as == "\"How many customers are there in Germany?\", changed: country 'France' instead of 'Germany'"
    assert answer.to_dict()["read_as"] == answer.read_as
    again = conversation.ask("only Club", AskOptions())
    assert again.read_as == f"{answer.read_as}; segment 'Club'"
    assert [turn.question for turn in conversation.turns] == [GERMANS.question, "and in France?", "only Club"]


def changed_sql(copilot: Copilot, sql: str, follow_up: str) -> str | None:
    return Conversation(copilot, [Turn(question="x", sql=sql)]).ask(follow_up, AskOptions()).sql


def test_a_list_of_columns_ends_where_another_phrase_was_read(copilot: Copilot) -> None:
    wanted = "SELECT name, price FROM products ORDER BY price ASC"
    assert changed_sql(copilot, "SELECT name FROM products", "only show the name and the price sorted by price") == wanted


@pytest.mark.parametrize(
    "orders", ["WHERE status IN ('shipped', 'cancelled')", "GROUP BY customer_id HAVING COUNT(*) > 3"], ids=["values", "rows"]
)
def test_without_rows_of_another_table_denies_no_earlier_condition(orders: str, copilot: Copilot) -> None:
    earlier = f"country = 'Norway' AND customer_id IN (SELECT customer_id FROM orders {orders})"
    assert changed_sql(copilot, f"SELECT name FROM customers WHERE {earlier}", "without any orders") == (
        f"SELECT name FROM customers WHERE ({earlier}) AND NOT customer_id IN (SELECT customer_id FROM orders "
        "WHERE NOT customer_id IS NULL)"
    )


def test_as_many_rows_at_the_other_end_are_said_to_be_so_many(copilot: Copilot) -> None:
    turn = Turn(question="Which products cost the most?", sql="SELECT name, price FROM products ORDER BY price DESC LIMIT 3")
    answer = Conversation(copilot, [turn]).ask("and the cheapest?", AskOptions())
    assert answer.sql == "SELECT name, price FROM products ORDER BY price ASC LIMIT 3"
    assert answer.read_as is not None and answer.read_as.endswith("the 3 with the lowest price")


def test_a_day_is_not_compared_with_a_year(copilots: dict[str, Copilot]) -> None:
    with pytest.raises(StopIteration):  # the (silent) model is asked
        changed_sql(copilots["music"], "SELECT Title FROM concert", "before 2014-12-01")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,200", 1200),
        ("Three", 3),
        ("2.5", 2.5),
        ("5k", 5000),
        ("12345678901234567", 12345678901234567),
        ("1.001 million", 1001000),
    ],
)
def test_numbers_are_read_as_they_are(text: str, number: float) -> None:
    read = number_of(text)
    assert (read, type(read)) == (number, type(number))


def test_a_new_question_is_asked_as_it_is() -> None:
    with with_model(" SELECT COUNT(*) FROM suppliers") as copilot:
        answer = Conversation(copilot, [GERMANS]).ask("Which suppliers deliver the most different products to us?", AskOptions())
    assert answer.read_as is None and answer.rows == [(6,)]


def test_what_has_signs_of_both_says_that_it_is_new() -> None:
    with with_model(" SELECT COUNT(*) FROM customers") as copilot:
        answer = Conversation(copilot, [GERMANS]).ask("How many customers are there?", AskOptions())
    assert answer.read_as == "a question of its own" and answer.rows == [(300,)]


def test_without_a_turn_before_nothing_is_a_follow_up() -> None:
    with with_model(" SELECT COUNT(*) FROM customers WHERE country = 'France'") as copilot:
        answer = Conversation(copilot).ask("and in France?", AskOptions())
    assert answer.read_as is None


def test_what_no_rule_understands_is_completed_for_the_model() -> None:
    model = ScriptedGenerator([[" SELECT COUNT(*) FROM customers"]])
    with Copilot(sample_database(), model) as copilot:
        answer = Conversation(copilot, [GERMANS]).ask("which of them complained about a delivery?", AskOptions())
    assert "Q: which of the customers with country Germany complained about a delivery?" in model.prompts[0]
    assert answer.read_as == '"which of the customers with country Germany complained about a delivery?"'
    assert answer.question == "which of them complained about a delivery?"


def test_a_model_that_reads_dialogues_is_shown_the_turns() -> None:
    model = ScriptedGenerator([["```sql\nSELECT COUNT(*) FROM customers WHERE country = 'France'\n```"]])
    model.target_form = None  # type: ignore[attr-defined]
    with Copilot(sample_database(), model) as copilot:
        conversation = Conversation(copilot, [GERMANS])
        answer = conversation.ask("and in France?", AskOptions())
        assert GERMANS.question in model.prompts[0] and GERMANS.sql in model.prompts[0]
        assert answer.read_as == "with the questions before"
        # A picture of the same rows needs no model.
        assert conversation.ask("as a chart", AskOptions()).rows == answer.rows


def test_history_in_a_prompt_is_bounded() -> None:
    from openarctic.copilot.conversation.turns import PROMPT_CHARS, PROMPT_TURNS, history_text

    turns = [Turn(question=f"question {i}", sql="SELECT 1 " + "x" * 700) for i in range(30)]
    text = history_text(turns)
    assert len(text) < PROMPT_CHARS + 200 and text.count("Question:") <= PROMPT_TURNS
    assert "question 29" in text and text.index("question 28") < text.index("question 29")
    assert history_text([]) == ""


def test_a_number_names_an_earlier_answer(copilot: Copilot) -> None:
    conversation = Conversation(copilot, [GERMANS, Turn(question="Which orders?", sql="SELECT order_id FROM orders")])
    answer = conversation.ask("which of #1 are in the Club segment?", AskOptions())
    assert answer.sql == "SELECT COUNT(*) FROM customers WHERE country = 'Germany' AND segment = 'Club'"
    with pytest.raises(UserError, match="no answer 9"):
        conversation.ask("and #9 by city?", AskOptions())


def test_reset_forgets(copilot: Copilot) -> None:
    conversation = Conversation(copilot, [GERMANS])
    conversation.reset()
    assert conversation.turns == [] and conversation.clarification is None


def test_a_failed_follow_up_leaves_the_conversation_as_it_was(copilot: Copilot) -> None:
    conversation = Conversation(copilot, [GERMANS])
    with pytest.raises(RefusedError):
        conversation.ask("delete them", AskOptions())
    assert conversation.turns == [GERMANS]
    assert conversation.ask("and in France?", AskOptions()).status == "ok"


def test_the_history_opens_no_door_that_the_policy_closed(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "roles:\n  clerk:\n    tables:\n      customers: {columns: {deny: [email]}, rows: \"country = 'Germany'\"}\n"
        "users: {eve: [clerk]}\n"
    )
    with Copilot(sample_database(), ScriptedGenerator([]), policy=policy, user="eve") as copilot:
        # SQL of a history comes from anywhere: it is checked like any other.
        forged = Conversation(copilot, [Turn(question="x", sql="SELECT email FROM customers")])
        with pytest.raises(RefusedError) as refused:
            forged.ask("how many are there?", AskOptions())
        assert refused.value.type in ("not_permitted", "unknown_column")
        hidden = Conversation(copilot, [Turn(question="x", sql="SELECT COUNT(*) FROM customers")])
        seen = hidden.ask("by country", AskOptions())
        assert [row[0] for row in seen.rows or []] == ["Germany"] and seen.hidden_by_policy == ("customers",)
        with pytest.raises(StopIteration):  # nothing leads to what may not be seen: the (silent) model is asked
            Conversation(copilot, [Turn(question="x", sql="SELECT name FROM customers")]).ask("their emails too", AskOptions())
