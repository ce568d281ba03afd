"""`explain`, `optimise`, `report` and `--chart` as their user meets them."""

from __future__ import annotations

import json
import sqlite3
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from openarctic.cli import main
from openarctic.copilot.charts.vegalite import read_spec

BY_CITY = "SELECT city, COUNT(*) AS n FROM customers GROUP BY city"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "shop.sqlite") as connection:
        connection.executescript(
            "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT);"
            "INSERT INTO customers VALUES (1, 'Ann', 'Oslo'), (2, 'Bo', 'Oslo'), (3, 'Cy', 'Rome');"
        )
    connection.close()
    (tmp_path / "policy.yaml").write_text(
        "roles: {north: {tables: {customers: {rows: \"city = 'Oslo'\"}}}}\nusers: {ann: [north]}\n", encoding="utf-8"
    )
    return tmp_path / "shop.sqlite"


def run(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as error:
        return int(error.code or 0)


def test_explain(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", f"{BY_CITY} HAVING COUNT(*) > 1", "--db", str(shop)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "Read customers.\nMake one row for each city.\nKeep the groups where the number of rows is above 1.\n"
    )
    assert "Plan:\nread customers whole (about 3 rows)\n" in printed
    assert run("explain", BY_CITY, "--db", str(shop), "--format", "json") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["status"] == "ok" and body["plan"][0]["kind"] == "scan" and body["steps"][0] == "Read customers."
    assert run("explain", BY_CITY, "--db", str(shop), "--raw-plan") == 0
    assert "SCAN customers" in capsys.readouterr().out
    assert run("explain", "DELETE FROM customers", "--db", str(shop)) == 3


def test_a_policy_hides_the_plan(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--db", str(shop), "--policy", str(shop.with_name("policy.yaml")), "--user", "ann")
    assert run("explain", BY_CITY, *arguments) == 0
    printed = capsys.readouterr()
    assert "Plan" not in printed.out and "Oslo" not in printed.out and "under a policy" in printed.err
    assert run("optimise", "SELECT DISTINCT id, city FROM customers", *arguments, "--repeats", "1", "--format", "json") == 0
    printed = capsys.readouterr()
    body = json.loads(printed.out)
    assert "Oslo" not in printed.out and body["advice"] == [] and body["trials"][0]["verdict"] in ("faster", "no gain")


def test_optimise(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimise", "SELECT name FROM customers", "--db", str(shop), "--repeats", "1") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("original: ") and "no form was faster" in printed.err
    assert run("optimise", "SELECT DISTINCT id FROM customers", "--db", str(shop), "--repeats", "1") == 0
    assert "drop DISTINCT: " in capsys.readouterr().out
    assert run("optimise", "SELECT 1", "--repeats", "0") == 2


@pytest.mark.parametrize("ending", ["svg", "json", "png"])
def test_charts_in_files(shop: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    if ending == "png":
        pytest.importorskip("PIL")
    path = shop.with_name(f"c.{ending}")
    assert run("query", BY_CITY, "--db", str(shop), "--chart", str(path)) == 0
    assert "wrote" in capsys.readouterr().err
    if ending == "svg":
        assert "Oslo: 2" in [e.text for e in ElementTree.parse(path).iter() if e.tag.endswith("title")]
    elif ending == "json":
        assert read_spec(json.loads(path.read_text(encoding="utf-8"))).kind == "bar"
    else:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_charts_in_the_terminal(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("query", BY_CITY, "--db", str(shop), "--chart") == 0
    assert "Oslo │█" in capsys.readouterr().out
    assert run("query", BY_CITY, "--db", str(shop), "--chart", "--format", "csv") == 0
    printed = capsys.readouterr()
    assert printed.out == "city,n\nOslo,2\nRome,1\n" and "Oslo │█" in printed.err
    assert run("query", BY_CITY, "--db", str(shop), "--chart", "--format", "json") == 0
    assert read_spec(json.loads(capsys.readouterr().out)["chart"]).title == "Number of customers by city"
    assert run("query", "SELECT 1", "--db", str(shop), "--chart") == 0
    assert "no chart fits: one row" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["query", "SELECT 1", "--chart", "c.pdf"], "c.pdf"),
        (["query", "SELECT 1", "--chart", "/no/such/c.svg"], "no folder"),
        (["report", "sales", "--out", "x.pdf"], ".html or .md"),
        (["report", "sales", "--out", "/no/such/x.md"], "no folder"),
        (["report", " , ", "--out", "x.md"], "empty"),
    ],
)
def test_wrong_input_is_told_before_anything_runs(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert text in capsys.readouterr().err
