"""Which cell values a question names, what a wide schema shows, and what the prompt looks like."""

from __future__ import annotations

import random

from openarctic.copilot.link import ValueIndex
from openarctic.copilot.narrow import narrow, stem
from openarctic.copilot.prompt import question_text, schema_text
from openarctic.copilot.schema import Column, ForeignKey, Schema, Table

SINGERS = Schema(
    dialect="sqlite",
    tables=(
        Table(
            name="Singer",
            columns=(
                Column(name="Singer_ID", type="INTEGER"),
                Column(name="Name", type="TEXT", values=("Rosé White", "Joe Sharp")),
                Column(name="Country", type="TEXT", values=("France", "United States")),
            ),
            primary_key=("Singer_ID",),
        ),
        Table(
            name="concert",
            columns=(
                Column(name="concert_id", type="INTEGER"),
                Column(name="singer_id", type="INTEGER"),
                Column(name="hall", type="TEXT", values=("IT", "France", "States", "Oslo", "Rome")),
            ),
            foreign_keys=(ForeignKey(column="singer_id", table="Singer", to_column="Singer_ID"),),
        ),
    ),
)


def linked(question: str) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    return [(link.value, link.places) for link in ValueIndex(SINGERS).links(question)]


def test_values_are_found_in_any_case_and_by_the_longest_span() -> None:
    assert linked("How many singers are from the united states?") == [("United States", (("singer", "country"),))]
    assert linked("Songs of ROSÉ WHITE") == [("Rosé White", (("singer", "name"),))]
    assert linked("Who sang in France?") == [("France", (("singer", "country"), ("concert", "hall")))]


def test_short_codes_match_to_the_letter() -> None:
    assert linked("Is it good?") == []
    assert linked("Concerts in IT") == [("IT", (("concert", "hall"),))]


def test_nothing_is_linked_without_values() -> None:
    assert ValueIndex(Schema(dialect="sqlite", tables=())).links("France") == ()


def test_the_prompt() -> None:
    assert schema_text(SINGERS) == (
        "singer: singer_id, name (Joe Sharp/Rosé White), country\nconcert: concert_id, singer_id > singer, hall\n"
    )
    question = "Singers\n from  France?"
    assert question_text(question, ValueIndex(SINGERS).links(question)) == (
        "\nQ: Singers from France? [France = singer.country / concert.hall]\nSQL:"
    )


def test_a_shuffled_schema_says_the_same() -> None:
    def words(text: str) -> list[str]:
        return sorted(text.replace(",", " ").replace(":", " ").split())

    assert words(schema_text(SINGERS, random.Random(1))) == words(schema_text(SINGERS))


def test_a_schema_that_fits_is_not_narrowed() -> None:
    assert narrow(SINGERS, "anything", (), lambda schema: True) is SINGERS


def test_narrowing_keeps_what_the_question_speaks_of() -> None:
    other = tuple(Table(name=f"filler_{i}", columns=(Column(name="a"), Column(name="b"))) for i in range(30))
    wide = Schema(dialect="sqlite", tables=(*other[:15], *SINGERS.tables, *other[15:]))
    kept = narrow(wide, "Which singers had concerts?", (), lambda schema: len(schema.tables) <= 2)
    assert [t.name for t in kept.tables] == ["Singer", "concert"]
    assert len(narrow(wide, "anything", (), lambda schema: False).tables) == 1


def test_stems() -> None:
    assert [stem(w) for w in ("cities", "boxes", "singers", "glass", "bus")] == ["city", "box", "singer", "glass", "bus"]
