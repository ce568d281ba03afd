"""Which cell values a question names, what a wide schema shows, and what the prompt looks like."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from openarctic.copilot.joins import mend
from openarctic.copilot.linking.linker import Linker
from openarctic.copilot.linking.numbers import spelled_numbers, with_digits
from openarctic.copilot.linking.values import ValueIndex, ValueLink
from openarctic.copilot.linking.words import edits, stem
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


def tables(schema: Schema) -> int:
    return len(schema.tables)


def test_a_schema_that_fits_is_shown_as_it_is() -> None:
    links = Linker(SINGERS, tables, 2).link("Who sang in France?")
    assert links.shown is SINGERS
    assert links.values == ValueIndex(SINGERS).links("Who sang in France?")


def filler(count: int) -> tuple[Table, ...]:
    return tuple(Table(name=f"filler_{i}", columns=(Column(name="a"), Column(name="b"))) for i in range(count))


def wide(*own: Table, namespace: str = "") -> Schema:
    other = filler(30)
    return Schema(dialect="sqlite", tables=(*other[:15], *own, *other[15:]), namespace=namespace)


def shown(schema: Schema, question: str, limit: int, synonyms: tuple[tuple[str, str, str], ...] = ()) -> list[str]:
    return [t.name for t in Linker(schema, tables, limit, synonyms).link(question).shown.tables]


def test_a_wide_schema_shows_what_the_question_speaks_of() -> None:
    assert shown(wide(*SINGERS.tables), "Which singers had concerts?", 2) == ["Singer", "concert"]
    assert len(shown(wide(*SINGERS.tables), "anything", 0)) == 1
    assert len(shown(wide(*SINGERS.tables), "anything", 31)) == 31


def test_the_part_keeps_the_namespace_and_only_keys_that_lead_to_what_is_shown() -> None:
    linker = Linker(wide(*SINGERS.tables, namespace="sales"), tables, 1)
    part = linker.link("concerts by hall").shown
    assert part.namespace == "sales" and [t.name for t in part.tables] == ["concert"]
    assert part.tables[0].foreign_keys == ()


def key(column: str, table: str) -> ForeignKey:
    return ForeignKey(column=column, table=table, to_column="id")


def test_the_table_between_two_is_shown() -> None:
    own = (
        Table(name="student", columns=(Column(name="id"),), primary_key=("id",)),
        Table(name="xref", columns=(Column(name="a"), Column(name="b")), foreign_keys=(key("a", "student"), key("b", "club"))),
        Table(name="club", columns=(Column(name="id"),), primary_key=("id",)),
        Table(name="student_club_archive", columns=(Column(name="id"),)),
    )
    assert set(shown(wide(*own), "students of each club", 4)) == {"student", "xref", "club", "student_club_archive"}


@pytest.mark.parametrize(
    ("question", "table"),
    [
        ("How many country codes?", "countrycode"),
        ("birth dates", "birthdate"),
        ("the number of employees", "emp"),
        ("quantity sold", "qtySold"),
        ("high school pupils", "highschooler"),
        ("all enrolments", "enrollment"),
        ("custmers", "Customers"),
        ("payments that were called off", "cncl"),
        ("turnover", "rev_fact"),
        ("who are the staffers?", "worker"),
    ],
)
def test_names_are_found_in_other_forms(question: str, table: str) -> None:
    comments = {"cncl": "payments that a customer called off"}
    names = ["countrycode", "country", "code", "birthdate", "emp", "qtySold", "highschooler", "enrollment", "Customers", "cncl"]
    own = tuple(
        Table(name=name, columns=(Column(name="id"),), comment=comments.get(name, "")) for name in (*names, "rev_fact", "worker")
    )
    limit = 4 if table == "countrycode" else 1
    found = shown(wide(*own), question, limit, (("turnover", "rev_fact", ""), ("staffer", "worker", ""), ("x", "gone", "")))
    assert table in found


def test_a_wide_table_keeps_keys_names_and_what_is_asked_for() -> None:
    columns = tuple(Column(name=f"c{i}") for i in range(100))
    big = Table(
        name="big",
        columns=(*columns, Column(name="id"), Column(name="name"), Column(name="colour", values=("Green", "Blue"))),
        primary_key=("id",),
    )
    links = Linker(wide(big), tables, 1).link("big ones that are green")
    names = [c.name for c in links.shown.tables[0].columns]
    assert len(names) == 40 and names[-3:] == ["id", "name", "colour"] and names[0] == "c0"
    assert [(link.value, link.places) for link in links.values] == [("Green", (("big", "colour"),))]


def test_values_are_placed_in_tables_that_are_shown() -> None:
    places = tuple(Table(name=f"log_{i}", columns=(Column(name="hall", values=("Oslo",)),)) for i in range(20))
    links = Linker(wide(*places, *SINGERS.tables), tables, 3).link("concerts in Oslo")
    assert ("concert", "hall") in links.values[0].places
    assert all(links.shown.table(table) for table, _ in links.values[0].places)


def test_coverage_is_the_share_of_words_that_are_explained() -> None:
    linker = Linker(SINGERS, tables, 2)
    assert linker.link("How many singers from France?").coverage() == 1.0
    assert linker.link("singers and zebras").coverage() == 0.5
    assert linker.link("how many?").coverage() == 1.0
    assert linker.link("zebras").coverage() == 0.0
    sang = linker.link("How many singers from France sang in two thousand fifteen?")
    assert sang.coverage() == 0.75  # nobody knows what sang is


AIRLINES = Schema(
    dialect="sqlite",
    tables=(
        Table(
            name="flights",
            columns=(
                Column(name="airline", values=("American Airlines", "United Airlines", "KLM")),
                Column(name="city", values=("New York", "São Paulo", "Los Angeles", "NorthCarolina")),
                Column(name="month", values=("Jan", "Feb", "Sep")),
                Column(name="kind", values=("Charter", "Republic", "h")),
                Column(name="continent", values=("Asia", "Europe", "Africa")),
                Column(name="state", values=("CA", "TX", "NY")),
                Column(name="title", values=("The Rise of the Blue Beetle!", "Release", "Study Room")),
            ),
        ),
    ),
)


@pytest.mark.parametrize(
    ("question", "value"),
    [
        ("Flights of Amercan Airlines", "American Airlines"),
        ("flights of amercian airlines", "American Airlines"),
        ("flights to sao paulo", "São Paulo"),
        ("flights to Los Angelos", "Los Angeles"),
        ("flights to North Carolina", "NorthCarolina"),
        ("which republics are there", "Republic"),
        ("charterss", "Charter"),
        ("flights in January", "Jan"),
        ("Asian flights", "Asia"),
        ("european flights", "Europe"),
        ("flights in Texas", "TX"),
        ("flights of kind 'h'", "h"),
        ('is there a "Rise of the blue beetle"?', None),
        ('is there "The rise of the blue beetle"?', "The Rise of the Blue Beetle!"),
        ("flights with study rooms", "Study Room"),
        ("How many flights were released?", None),
        ("flights to Rome", None),
        ("What is the number of flights?", None),
        ("flights by airline", None),
    ],
)
def test_values_are_found_in_other_forms(question: str, value: str | None) -> None:
    assert [link.value for link in ValueIndex(AIRLINES).links(question)] == ([value] if value else [])


def test_initials_and_what_they_stand_for() -> None:
    no_codes = replace(AIRLINES.tables[0], columns=AIRLINES.tables[0].columns[:-2])
    index = ValueIndex(replace(AIRLINES, tables=(no_codes,)))
    assert [link.value for link in index.links("flights to NY")] == ["New York"]
    assert [link.value for link in ValueIndex(AIRLINES).links("flights to NY")] == ["NY"]
    only_codes = replace(AIRLINES.tables[0], columns=(AIRLINES.tables[0].columns[-2],))
    index = ValueIndex(replace(AIRLINES, tables=(only_codes,)))
    assert [link.value for link in index.links("flights to New York")] == ["NY"]


@pytest.mark.parametrize(
    ("question", "values"),
    [
        ("customers in the US", ["USA"]),
        ("customers in the U.S.", ["USA"]),
        ("customers in the United States", ["USA"]),
        ("American customers", ["USA"]),
        ("British customers", ["United Kingdom"]),
        ("customers from the UK", ["United Kingdom"]),
        ("tell us about customers", []),
        ("tracks of Universally Speaking", ["Universally Speaking"]),
    ],
)
def test_countries_that_are_called_by_letters(question: str, values: list[str]) -> None:
    """Before initials: "US" is the country, and not what else begins with these letters."""
    columns = (
        Column(name="country", values=("USA", "United Kingdom", "Norway")),
        Column(name="track", values=("Universally Speaking", "Under Kilimanjaro")),
    )
    schema = Schema(dialect="sqlite", tables=(Table(name="customers", columns=columns),))
    assert [link.value for link in ValueIndex(schema).links(question)] == values


def test_what_is_written_alike_is_found_the_same_with_and_without_other_forms() -> None:
    for question in ("flights to new york by KLM in Sep", "CA and TX", "Republic of KLM"):
        assert ValueIndex(AIRLINES).links(question) == ValueIndex(AIRLINES, near=False).links(question)


def test_a_value_in_sql_is_spelt_as_it_is_stored() -> None:
    links = ValueIndex(AIRLINES).links("Flights of Amercan Airlines")
    assert links[0].said == "Amercan Airlines"
    assert mend("SELECT * FROM flights WHERE airline = 'amercan airlines'", AIRLINES, links) == (
        "SELECT * FROM flights WHERE airline = 'American Airlines'"
    )
    other = "SELECT * FROM flights WHERE city = 'Amercan Airlines'"
    assert mend(other, AIRLINES, links) == other
    assert mend("SELECT * FROM flights WHERE airline IN ('KLM', 'Amercan Airlines')", AIRLINES, links).endswith(
        "IN ('KLM', 'American Airlines')"
    )


def test_numbers_in_words() -> None:
    assert with_digits("more than two thousand people") == "more than 2000 people"
    assert with_digits("at least three of Twenty-Five") == "at least three of 25"
    assert with_digits("one, two and three") == "one, two and three"
    assert [n for *_, n in spelled_numbers("at least three, or two hundred and one million")] == [3, 200, 1_000_000]


def plain_edits(a: str, b: str) -> int:
    """Optimal string alignment, by its definition."""
    if not a or not b:
        return len(a) + len(b)
    best = min(plain_edits(a[1:], b) + 1, plain_edits(a, b[1:]) + 1, plain_edits(a[1:], b[1:]) + (a[0] != b[0]))
    if len(a) > 1 and len(b) > 1 and a[0] == b[1] and a[1] == b[0]:
        best = min(best, plain_edits(a[2:], b[2:]) + 1)
    return best


def test_edits_agree_with_their_definition() -> None:
    rng = random.Random(3)
    for _ in range(300):
        a, b = ("".join(rng.choices("ab", k=rng.randrange(6))) for _ in range(2))
        limit = rng.randrange(4)
        assert edits(a, b, limit) == min(plain_edits(a, b), limit + 1)


def test_any_question_about_any_schema_is_linked() -> None:
    names = ['a"b', "select", "naïve café", "表", "\U0001f600", "new\nline", "x" * 200, "", "ß", "İstanbul"]
    values = ("\U0001f600", "a\nb", "", "  ", "x" * 60, "O'Brien", "ﬁsh", "%", "_", "St. John's", "A&B")
    columns = tuple(Column(name=name, type="TEXT", values=values) for name in names)
    linker = Linker(Schema(dialect="sqlite", tables=tuple(Table(name=n, columns=columns) for n in names)), tables, 3)
    pool = [*names, *values, '"', "'", "“", "the", "NY", "Asian", "two thousand", "\x00", "...", "Ph.D.", "U.S.A.", "\u0301"]
    rng = random.Random(1)
    for _ in range(100):
        links = linker.link(rng.choice((" ", "", "\n")).join(rng.choices(pool, k=rng.randrange(14))))
        assert 0 <= links.coverage() <= 1 and len(links.values) <= 3 and 1 <= len(links.shown.tables) <= 3


def test_links_are_values() -> None:
    link = ValueLink("France", (("singer", "country"),))
    assert link.said == "" and link.holders == ()


def test_stems() -> None:
    singulars = "course house movie class box city status bus database purchase church race gas axe campus"
    plurals = "courses houses movies classes boxes cities statuses buses databases purchases churches races gases axes campuses"
    assert [stem(w) for w in singulars.split()] == [stem(w) for w in plurals.split()]
    assert [stem(w) for w in ("cities", "boxes", "singers", "glass", "bus")] == ["city", "box", "singer", "glass", "bus"]
