"""Charts: which one is chosen, what the closed set lets through, and that every drawing is sound."""

from __future__ import annotations

import copy
import io
import itertools
import json
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest

from openarctic.copilot.charts.choose import binned, chart_for, choose_chart, moment
from openarctic.copilot.charts.scales import ticks, time_ticks
from openarctic.copilot.charts.scene import fitting, text_width
from openarctic.copilot.charts.svg import svg
from openarctic.copilot.charts.terminal import shown_width, terminal
from openarctic.copilot.charts.vegalite import Spec, read_spec, validate
from openarctic.errors import UserError

Rows = list[tuple[Any, ...]]
MONTHS: Rows = [(f"2024-{m:02}-01", m * 10 % 7) for m in range(1, 13)]
COUNTRIES: Rows = [("Norway", 4), ("Sweden", 9), ("Åland & <Co>", 2)]
PAIRED: Rows = [(c, s, len(c) + len(s)) for c in ("Oslo", "Rome", "Bern") for s in ("new", "old")]
CLOUD: Rows = [(i * 1.5, (i * 7) % 11) for i in range(30)]
GROUPED = "SELECT a, COUNT(*) FROM t GROUP BY a"

CASES: list[tuple[str, list[str], Rows, str | None, str]] = [
    ("bar", ["country", "n"], COUNTRIES, None, ""),
    ("bar", ["customer_id", "n"], [(i, i * i) for i in range(8)], GROUPED, ""),
    ("bar", ["stars", "n"], [(3, 5), (1, 2), (2, 9)], "SELECT stars, COUNT(*) FROM t GROUP BY stars", ""),
    ("grouped bar", ["city", "state", "n"], PAIRED, "SELECT city, state, COUNT(*) FROM t GROUP BY city, state", ""),
    ("grouped bar", ["city", "low", "high"], [("Oslo", 1, 2), ("Rome", 3, 5)], None, ""),
    ("line", ["month", "n"], MONTHS, None, ""),
    ("line", ["year", "n"], [(2020, 4), (2021, 3), (2022, 8)], None, ""),
    ("line", ["quarter", "n"], [("2023-Q4", 1), ("2024-Q1", 2), ("2024-Q2", 3)], None, ""),
    ("line", ["day", "kind", "n"], [(f"2024-01-0{d}", k, d) for d in range(1, 5) for k in "ab"],
     "SELECT day, kind, COUNT(*) FROM t GROUP BY day, kind", ""),
    ("scatter", ["price", "stock"], CLOUD, None, ""),
    ("histogram", ["price"], [(v,) for v, _ in CLOUD], None, ""),
    ("histogram", ["name", "price"], [(f"p{i}", v) for i, (v, _) in enumerate(CLOUD)], "SELECT name, price FROM t", ""),
    ("", ["n"], [(3,)], None, "one row"),
    ("", ["n"], [], None, "no rows"),
    ("", ["name"], [("a",), ("b",)], None, "no number"),
    ("", ["id", "name"], [(1, "a"), (2, "b")], None, "no number"),
    ("", ["name", "n"], [("a", 1), ("a", 2), ("b", 3)], None, "neither distinct labels"),
    ("", ["name", "n"], [("a", 1e20), ("b", 2)], None, "too large"),
    ("", ["x", "y"], [("a", [1]), ("b", [2])], None, "no number"),
]  # fmt: skip
SPECS = [chart_for(columns, (), rows, "", sql) for kind, columns, rows, sql, _ in CASES if kind]


@pytest.mark.parametrize(("kind", "columns", "rows", "sql", "reason"), CASES)
def test_what_is_chosen(kind: str, columns: list[str], rows: Rows, sql: str | None, reason: str) -> None:
    spec, why = choose_chart(columns, (), rows, "", sql)
    if kind:
        assert spec is not None and read_spec(spec).kind == kind, why
        json.dumps(spec, allow_nan=False)
    else:
        assert spec is None and reason in why


def test_the_smaller_ones_are_added_up_only_where_that_means_something() -> None:
    rows: Rows = [(f"p{i:02}", 100 - i if i < 25 else 1) for i in range(60)]
    counted = read_spec(chart_for(["name", "n"], (), rows, "", "SELECT name, COUNT(*) AS n FROM t GROUP BY name"))
    assert len(counted.marks) == 20 and counted.marks[-1] == ("p19", 81, "")
    assert counted.subtitle == "the 20 highest of 60"  # 41 others would dwarf the rest
    small: Rows = [(f"p{i:02}", 100 if i < 19 else 1) for i in range(60)]
    added = read_spec(chart_for(["name", "n"], (), small, "", "SELECT name, COUNT(*) AS n FROM t GROUP BY name"))
    assert added.marks[-1] == ("41 others", 41, "") and sum(bar.value for bar in added.marks) == sum(n for _, n in small)
    averages = read_spec(chart_for(["name", "x"], (), small, "", "SELECT name, AVG(n) AS x FROM t GROUP BY name"))
    assert "others" not in averages.marks[-1].category and averages.subtitle == "the 20 highest of 60"
    cut = read_spec(chart_for(["name", "n"], (), small, "", "SELECT name, COUNT(*) AS n FROM t GROUP BY name", truncated=True))
    assert "others" not in cut.marks[-1].category


def test_the_order_of_the_query_is_kept() -> None:
    sql = "SELECT country, COUNT(*) AS n FROM t GROUP BY country ORDER BY country"
    assert [b.category for b in read_spec(chart_for(["country", "n"], (), COUNTRIES, "", sql)).marks] == [c for c, _ in COUNTRIES]
    unordered = read_spec(chart_for(["country", "n"], (), COUNTRIES, "", sql.partition(" ORDER")[0]))
    assert [b.value for b in unordered.marks] == [9, 4, 2]


def test_missing_values_are_left_out_and_told() -> None:
    plot = read_spec(chart_for(["month", "n"], (), [*MONTHS[:6], ("2024-09-01", None)]))
    assert len(plot.marks) == 6 and plot.subtitle == "1 without a value"
    assert read_spec(chart_for(["name", "n"], (), [("a", 1), (None, 2)])).marks[0].category == "(no name)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2024, "2024-01-01"),
        ("2024", "2024-01-01"),
        ("2024-03", "2024-03-01"),
        ("2024-Q2", "2024-04-01"),
        ("0001-01-01", "0001-01-01"),
    ],
)
def test_times_are_recognised(value: Any, text: str) -> None:
    assert str(moment(value)).startswith(text)


@pytest.mark.parametrize("value", ["12", "2024-13", "2024-02-30", "0000-01-01", "x", None, True, 12.5, 20245])
def test_what_is_no_time(value: Any) -> None:
    assert moment(value) is None


def test_bins_count_every_value_once() -> None:
    rng = random.Random(1)
    for size in (20, 77, 1000):
        values = [rng.gauss(0, 10 ** rng.randint(-3, 6)) for _ in range(size)]
        bins = binned(values)
        assert sum(b.number for b in bins) == size and len(bins) <= 22
        assert bins[0].low <= min(values) and max(values) <= bins[-1].high
        assert all(a.high == b.low for a, b in itertools.pairwise(bins))


def test_ticks_are_round_and_span_the_values() -> None:
    rng = random.Random(2)
    for _ in range(300):
        values = [rng.uniform(-1, 1) * 10 ** rng.randint(-6, 12) for _ in range(3)]
        marks = ticks(values, 5, from_zero=rng.random() < 0.5)
        slack = 1e-8 * (marks[-1] - marks[0])
        assert 2 <= len(marks) <= 8 and marks[0] <= min(values) + slack and max(values) <= marks[-1] + slack
    assert ticks([0, 0], 5, from_zero=True) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_time_ticks_are_few_and_inside() -> None:
    rng = random.Random(3)
    for _ in range(300):
        low, high = sorted(moment(f"{rng.randint(1, 9999):04}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}") for _ in "ab")  # type: ignore[type-var]
        marks = time_ticks(low, high)  # type: ignore[arg-type]
        assert 1 <= len(marks) <= 9 and all(low <= m <= high for m in marks)  # type: ignore[operator]


# the closed set


def changes() -> list[Callable[[Spec], Any]]:
    """Each makes a valid spec invalid."""

    def put(*path: Any) -> Callable[[Spec], Any]:
        *before, last, value = path

        def change(spec: Spec) -> None:
            node: Any = spec
            for part in before:
                node = node[part]
            node[last] = value

        return change

    return [
        put("$schema", "https://evil.example/v5.json"),
        put("config", {}),
        put("transform", [{"calculate": "1", "as": "x"}]),
        put("usermeta", 1),
        put("title", "text"),
        put("title", "text", 3),
        put("title", "href", "x"),
        put("title", "text", "x" * 2000),
        put("description", None),
        put("data", "url", "https://evil.example/data.json"),
        put("data", "values", []),
        put("data", "values", [{}]),
        put("data", "values", 0, "extra", 1),
        put("data", "values", 0, []),
        put("data", "values", [1]),
        put("mark", "bar"),
        put("mark", {"type": "image"}),
        put("mark", "href", "x"),
        put("encoding", []),
        put("encoding", "href", {"field": "x"}),
        put("encoding", "x", "field", "a.b"),
        put("encoding", "x", "type", "geojson"),
        put("encoding", "x", "title", {"signal": "x"}),
        put("encoding", "x", "axis", {"labelExpr": "x"}),
        put("encoding", "y", "aggregate", "sum"),
        put("encoding", "y", {}),
    ]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s["description"])
def test_nothing_outside_the_closed_set_is_valid(spec: Spec) -> None:
    validate(spec)
    for change in changes():
        broken = copy.deepcopy(spec)
        change(broken)
        with pytest.raises(UserError, match="is not valid"):
            validate(broken)
    for broken in (None, [], "x", {}, {**spec, "data": None}):
        with pytest.raises(UserError):
            validate(broken)
    for value in (float("nan"), float("inf"), 1e300, True, "1", None, []):
        for field in spec["data"]["values"][0]:
            if field not in ("category", "series", "time"):
                broken = copy.deepcopy(spec)
                broken["data"]["values"][0][field] = value
                with pytest.raises(UserError, match=re.escape(f"values[0].{field}")):
                    validate(broken)


@pytest.mark.ecosystem
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s["description"])
def test_vega_lite_takes_every_spec(spec: Spec) -> None:
    compiler = pytest.importorskip("vl_convert")
    vega = compiler.vegalite_to_vega(spec)
    assert vega["marks"] and not re.search(r"null|undefined|NaN", str(vega["marks"][0].get("type")))
    assert len(compiler.vegalite_to_svg(spec)) > 1000
    altair = pytest.importorskip("altair")
    altair.Chart.from_dict(spec, validate=True)


@pytest.mark.ecosystem
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s["description"])
def test_viewers_without_style_sheets_show_the_colours(spec: Spec) -> None:
    image, renderer = pytest.importorskip("PIL.Image"), pytest.importorskip("vl_convert")
    picture = image.open(io.BytesIO(renderer.svg_to_png(svg(spec)))).convert("RGB")
    colours = dict((colour, count) for count, colour in picture.getcolors(1 << 20))
    assert max(colours, key=lambda c: colours[c]) == (255, 255, 255) and colours[0x25, 0x63, 0xEB] > 20


# drawings

HOSTILE = [
    "<script>alert(1)</script>",
    "a\x1b[31mred",
    "x\ny",
    "'\"&]]>",
    "日本語の名前",
    "🦊" * 40,
    "\ud800",
    "é" * 90,
    "",
    "\x00",
]
HOSTILE_SPECS = [
    chart_for(["na<me>\n", "n\x1b"], (), [(label, i - 3) for i, label in enumerate(HOSTILE)]),
    chart_for(
        ["d", "s", "n"], (), [(f"2024-01-0{d}", s, d) for d in (1, 2, 3) for s in HOSTILE[:6]], "",
        "SELECT d, s, COUNT(*) FROM t GROUP BY d, s"
    ),
]  # fmt: skip
EVERY = [*SPECS, *HOSTILE_SPECS]


@pytest.mark.parametrize("number", range(len(EVERY)))
def test_svg_is_sound(number: int) -> None:
    spec = EVERY[number]
    assert spec is not None
    text = svg(spec, name="a<b")
    root = ElementTree.fromstring(text)
    names = {element.tag.split("}")[1] for element in root.iter()}
    assert names <= {"svg", "title", "desc", "style", "rect", "polyline", "circle", "text"}
    assert not re.search(r"<script|onload|javascript:|href", text, re.IGNORECASE)
    assert "prefers-color-scheme:dark" in text and root.get("role") == "img"
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for element in root.iter():
        if element.tag.endswith("rect") and element.get("x"):
            x, y = float(element.get("x", 0)), float(element.get("y", 0))
            assert 0 <= x and x + float(element.get("width", 0)) <= width + 0.1
            assert 0 <= y and y + float(element.get("height", 0)) <= height + 0.1
    marks = read_spec(spec).marks
    drawn = sum(e.tag.endswith(("rect", "circle")) and e.find("{*}title") is not None for e in root.iter())
    assert drawn == len([m for m in marks if getattr(m, "number", 1)])


@pytest.mark.parametrize("number", range(len(EVERY)))
@pytest.mark.parametrize("width", [10, 40, 80, 500])
def test_the_terminal_is_respected(number: int, width: int) -> None:
    spec = EVERY[number]
    assert spec is not None
    for unicode in (True, False):
        text = terminal(spec, width, unicode)
        assert all(shown_width(line) <= min(max(width, 24), 200) for line in text.splitlines())
        assert "\x1b" not in text and (unicode or text.isascii())
        assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
    assert re.sub(r"\x1b\[\d+m", "", terminal(spec, width, colour=True)).count("\x1b") == 0


def test_bars_are_as_long_as_they_should_be() -> None:
    spec = chart_for(["name", "n"], (), [("a", 40), ("b", 20), ("c", 0)])
    assert spec is not None
    lengths = [line.count("#") for line in terminal(spec, 60, unicode=False).splitlines()[1:]]
    assert abs(lengths[0] - 2 * lengths[1]) <= 1 and lengths[2] == 0
    boxes = [float(e.get("width", 0)) for e in ElementTree.fromstring(svg(spec)).iter() if e.tag.endswith("rect") and e.get("x")]
    assert boxes[0] == pytest.approx(2 * boxes[1], abs=0.2)


@pytest.mark.parametrize("number", range(len(EVERY)))
def test_png_shows_the_same(number: int) -> None:
    image = pytest.importorskip("PIL.Image")
    from openarctic.copilot.charts.png import png

    spec = EVERY[number]
    assert spec is not None
    picture = image.open(io.BytesIO(png(spec, scale=1)))
    root = ElementTree.fromstring(svg(spec))
    assert picture.size == (round(float(root.get("width", 0))), round(float(root.get("height", 0))))
    assert len(picture.convert("RGB").getcolors(1 << 20)) > 5


def test_long_texts_are_cut_to_fit() -> None:
    assert fitting("short", 100) == "short"
    cut = fitting("a very long name of a product", 80)
    assert cut.endswith("…") and text_width(cut) <= 80
