"""Schemas from descriptions and gold SQL alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openarctic.copilot.described import read_described
from openarctic.errors import MissingError

DESCRIPTIONS = {
    "shop": {
        "Customer": {"CustomerID": "key", "Name": "", "City": ""},
        "Orders": {"OrderID": "", "CustomerID": "", "Amount": ""},
    },
    "hidden": {"t": {"a": ""}},
}
JOINED = "FROM Customer AS T1 JOIN Orders AS T2 ON T1.CustomerID = T2.CustomerID"
RECORDS = [
    ("What did Ann spend?", f"SELECT SUM(T2.Amount) {JOINED} WHERE T1.Name = 'Ann'"),
    ("Orders from Oslo?", f"SELECT T2.OrderID {JOINED} WHERE T1.City = 'Oslo'"),
    ("Who is the best?", "SELECT Name FROM Customer WHERE City = 'Rome'"),  # the question does not name Rome
    ("How many big orders?", "SELECT SUM(CASE WHEN Amount > 9 THEN 1 ELSE 0 END) FROM Orders"),
    ("Broken?", "SELECT FROM WHERE"),
]


def write(folder: Path) -> Path:
    (folder / "schema_descriptions.json").write_text(json.dumps(DESCRIPTIONS))
    lines = [json.dumps({"question": q, "query": s, "db_id": "shop"}) for q, s in RECORDS]
    lines.append(json.dumps({"question": "a?", "query": "SELECT a FROM t", "db_id": "hidden"}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    return folder


def test_keys_numbers_and_values_come_from_the_gold_sql(tmp_path: Path) -> None:
    linked, pairs = read_described(write(tmp_path), frozenset({"hidden"}))
    assert list(linked) == ["bird:shop"]
    assert (
        linked["bird:shop"].text()
        == "customer: customerid, name, city (Oslo/Rome)\norders: orderid, customerid > customer, amount\n"
    )
    amount = linked["bird:shop"].schema.table("orders").column("amount")  # type: ignore[union-attr]
    assert amount is not None and amount.is_numeric
    assert [(p.prompt, p.sql) for p in pairs] == [
        ("\nQ: What did Ann spend? [Ann = customer.name]\nSQL:", "SELECT SUM(amount) FROM customer, orders WHERE name = 'Ann'"),
        ("\nQ: Orders from Oslo? [Oslo = customer.city]\nSQL:", "SELECT orderid FROM customer, orders WHERE city = 'Oslo'"),
    ]


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"train\.jsonl"):
        read_described(tmp_path)
