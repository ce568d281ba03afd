"""English for names: one of many, and many of one."""

from __future__ import annotations

import pytest

from openarctic.copilot.wording import counted, several, singular, words

ONE_OF = {
    "customers": "customer", "order items": "order item", "order_items": "order_item", "categories": "category", "ties": "tie",
    "boxes": "box", "batches": "batch", "dishes": "dish", "classes": "class", "addresses": "address", "statuses": "status",
    "buses": "bus", "courses": "course", "purchases": "purchase", "expenses": "expense", "houses": "house",
    "warehouses": "warehouse", "clauses": "clause", "caches": "cache", "movies": "movie", "cookies": "cookie",
}  # fmt: skip


@pytest.mark.parametrize(("many", "one"), ONE_OF.items())
def test_one_of_many(many: str, one: str) -> None:
    assert singular(many) == one and singular(one) == one


@pytest.mark.parametrize("noun", ["news", "series", "species", "analysis"])
def test_what_is_no_plural_stays(noun: str) -> None:
    assert singular(noun) == noun


@pytest.mark.parametrize(
    ("one", "many"),
    [("city", "cities"), ("day", "days"), ("box", "boxes"), ("class", "classes"), ("people", "people"), ("col2", "col2")],
)
def test_many_of_one(one: str, many: str) -> None:
    assert several(one) == many


def test_counted() -> None:
    assert (counted("1", "movies"), counted("2", "movies"), counted("1", "rows")) == ("1 movie", "2 movies", "1 row")


def test_names_as_people_say_them() -> None:
    assert words("birthDate") == words("birth_date") == words("BIRTH_DATE") == "birth date"
