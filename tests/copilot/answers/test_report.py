"""Reports: a description becomes questions, hostile texts stay texts, what failed is named, files are whole."""

from __future__ import annotations

import re
import sqlite3
from html.parser import HTMLParser
from pathlib import Path

import pytest

from openarctic.copilot.answers.report import make_report, split_description, to_html, to_markdown, write_report
from openarctic.copilot.answers.trace import untraceable
from openarctic.copilot.ask import AskOptions, Copilot
from openarctic.copilot.databases import Database, open_database
from openarctic.errors import UserError
from openarctic.generator import ScriptedGenerator

EVIL = "<script>alert('x')</script> | `code` *b* [l](javascript:x) & \"q\" \n# h 🦊"
OPTIONS = AskOptions(candidates=1, chart=True)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    with sqlite3.connect(tmp_path / "e<v>il.sqlite") as connection:
        connection.execute("CREATE TABLE things (name TEXT, amount REAL, kind TEXT)")
        connection.executemany("INSERT INTO things VALUES (?, ?, ?)", [(EVIL, 3.5, "a"), ("plain", 2.25, "b"), ("x", 1.0, "b")])
    connection.close()
    return open_database(tmp_path / "e<v>il.sqlite")


def report_of(database: Database, description: str, replies: list[list[str]], title: str | None = None):  # type: ignore[no-untyped-def]
    with Copilot(database, ScriptedGenerator(replies)) as copilot:
        return make_report(description, copilot, OPTIONS, title)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("sales by country, top customers, monthly orders", ["sales by country", "top customers", "monthly orders"]),
        ("sales by country, top customers and monthly orders.", ["sales by country", "top customers", "monthly orders"]),
        ("sales by country, top customers, and monthly orders", ["sales by country", "top customers", "monthly orders"]),
        ("orders by country and city", ["orders by country and city"]),
        ("sales by region, orders per country and city", ["sales by region", "orders per country and city"]),
        ("customers in Berlin, Germany", ["customers in Berlin, Germany"]),
        ("how many orders; sales by year, month", ["how many orders", "sales by year, month"]),
        ("- how many orders?\n* sales by month\n\n2. top customers, please",
         ["how many orders?", "sales by month", "top customers, please"]),
        ("revenue", ["revenue"]),
    ],
)  # fmt: skip
def test_a_description_is_split(text: str, parts: list[str]) -> None:
    assert split_description(text) == parts


@pytest.mark.parametrize(
    ("text", "message"), [("", "empty"), (" ,;\n- ", "empty"), ("a\n" * 21, "21 parts"), ("x" * 5000, "5000")]
)
def test_a_description_must_make_sense(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_description(text)


class Tags(HTMLParser):
    """The elements of a page, and whether they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_is_whole_safe_and_honest(database: Database) -> None:
    replies = [
        [" SELECT name, amount FROM things"],
        [" SELECT nothing FROM nowhere"],
        [" SELECT x FROM y"],
        [" SELECT COUNT(*) FROM things"],
    ]
    report = report_of(database, "amount of each\nthe <b>moon</b>\nhow many things\ndelete all things", replies, title="T <i>&")
    assert [s.question for s in report.answered] == ["amount of each", "how many things"]
    text = to_html(report)
    page = Tags(text)
    assert page.open == [] and page.seen.isdisjoint({"script", "img", "a", "link", "iframe", "b", "i"})
    assert not any(name.startswith("on") or name in ("href", "src") for name, _ in page.attributes)
    assert "<svg" in text and EVIL[:40] in page.text and "T <i>&" in page.text
    assert "There are 3 things." in page.text and "2 of 4 questions answered" in page.text
    assert "the <b>moon</b>: no candidate query" in page.text and "OpenArctic only reads" in page.text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_markdown_means_what_it_says(database: Database) -> None:
    report = report_of(
        database, "amount of each\nhow many", [[" SELECT name, amount FROM things"], [" SELECT COUNT(*) FROM things"]]
    )
    text = to_markdown(report)
    outside = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in outside.replace("\\<", "") and "\\<script\\>" in outside
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    assert len(rows) == 5 and all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    assert "█" in text and "Read things." in text


def test_numbers_of_a_report_are_at_home(database: Database) -> None:
    report = report_of(database, "sums", [[" SELECT kind, SUM(amount) FROM things GROUP BY kind"]])
    answer = report.answered[0].answer
    assert answer is not None
    assert answer.answer.startswith("a has the highest total amount, 3.50 of 6.75 in all 2 rows (51.9 % = 3.50 / 6.75)")
    assert untraceable(answer.answer, answer.columns or [], answer.rows or []) == []


def test_a_file_is_written_whole_or_not_at_all(database: Database, tmp_path: Path) -> None:
    report = report_of(database, "how many", [[" SELECT COUNT(*) FROM things"]])
    for name in ("r.html", "r.md"):
        write_report(report, tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8").endswith("\n")
    with pytest.raises(UserError, match=r"ends in \.pdf"):
        write_report(report, tmp_path / "r.pdf")
    with pytest.raises(UserError, match="no folder"):
        write_report(report, tmp_path / "none" / "r.md")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e<v>il.sqlite", "r.html", "r.md"]
