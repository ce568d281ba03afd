"""A report from a short description: each of its parts is asked as a question of its own, and what could be answered becomes one
self-contained HTML page or Markdown file, with sentences, charts, tables and the SQL behind them. What could not is named.

Every text of the database and of the model is escaped. The page has no script and needs no network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from pathlib import Path
from typing import Any

from openarctic.copilot.answers.cells import is_money, is_number, written
from openarctic.copilot.answers.explain import explain
from openarctic.copilot.ask import Answer, AskOptions, Copilot
from openarctic.copilot.charts.svg import PALETTE, svg
from openarctic.copilot.charts.terminal import terminal
from openarctic.copilot.intent import check_question
from openarctic.errors import OpenArcticError, UserError

MAX_PARTS = 20
MAX_DESCRIPTION_CHARS = 4000
TABLE_ROWS = 20
FORMS = (".html", ".md")

# A part after "and" belongs to the one before where that one is still naming what it is by.
_OPEN_ENDED = re.compile(r"\b(by|per|for|of|between|with|in|from|each|than|and)\b(?!.*\b(and)\b)", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+")


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the description: its answer, or why there is none."""

    question: str
    answer: Answer | None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All parts, in their order."""

    title: str
    database: str
    made_on: date
    sections: tuple[Section, ...]

    @property
    def answered(self) -> list[Section]:
        """Those that have an answer."""
        return [s for s in self.sections if s.answer is not None]


def split_description(text: str) -> list[str]:
    """The questions of a description: its lines, else what semicolons part, else what commas and a last "and" part.

    `sales by country, top customers and monthly orders` are three; `orders by country and city` is one. Raises UserError for none
    or too many.
    """
    if len(text) > MAX_DESCRIPTION_CHARS:
        raise UserError(f"the description has {len(text)} characters, the limit is {MAX_DESCRIPTION_CHARS}", "make two reports")
    lines = [_BULLET.sub("", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if len(lines) == 1:
        lines = [part.strip() for part in lines[0].split(";")]
    parts = _split_commas(lines[0]) if len(lines) == 1 else lines
    parts = [part.strip(" .,;") for part in parts]
    parts = [part for part in parts if part]
    if not parts:
        raise UserError("the description is empty", 'say what to report: "sales by country, top customers, monthly orders"')
    if len(parts) > MAX_PARTS:
        raise UserError(f"the description has {len(parts)} parts, the limit is {MAX_PARTS}", "make two reports")
    return parts


def _split_commas(line: str) -> list[str]:
    parts: list[str] = []
    for piece in re.split(r",\s+(?:and\s+)?", line):
        # "Berlin, Germany": a single capitalised word goes on with what came before.
        if parts and re.fullmatch(r"[A-Z][\w-]*", piece.strip(" .")):
            parts[-1] += f", {piece}"
        else:
            parts.append(piece)
    before, separator, after = parts[-1].rpartition(" and ")
    is_enumeration = separator and len(after.split()) > 1 and not _OPEN_ENDED.search(before)
    return [*parts[:-1], before, after] if is_enumeration else parts


def make_report(
    description: str,
    copilot: Copilot,
    options: AskOptions,
    title: str | None = None,
    on_question: Callable[[int, int], None] | None = None,
) -> Report:
    """Ask every part through `copilot`; a part that fails is skipped and named, whatever the reason.

    `on_question` is told number and count before each. Raises UserError for a description that has no part.
    """
    parts = split_description(description)
    sections = []
    for i, part in enumerate(parts, start=1):
        if on_question is not None:
            on_question(i, len(parts))
        try:
            sections.append(Section(part, copilot.ask(check_question(part), options)))
        except OpenArcticError as error:
            sections.append(Section(part, None, error.message))
    name = copilot.database.name
    return Report(title or f"Report on {name}", name, date.today(), tuple(sections))


def write_report(report: Report, path: Path) -> None:
    """Write the file whole or not at all; its ending says what it becomes. Raises UserError for another ending."""
    from openarctic.config import write_text

    check_path(path)
    write_text(path, to_html(report) if path.suffix == ".html" else to_markdown(report))


def check_path(path: Path) -> None:
    """Raises UserError for a file that could not be written, before any question is asked."""
    if path.suffix not in FORMS:
        raise UserError(f"{path} ends in {path.suffix or 'nothing'}, a report is {' or '.join(FORMS)}")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}", "make it first")


# HTML


def _style() -> str:
    light, dark = ("".join(f"--{name}:{both[i]};" for name, both in PALETTE.items()) for i in (0, 1))
    return f"""
:root {{ color-scheme: light dark; {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
body {{ margin: 2rem auto; max-width: 52rem; padding: 0 1rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.5rem }} h2 {{ font-size: 1.1rem; margin: 2.5rem 0 .25rem }}
.said {{ font-size: 1.05rem }} .soft {{ color: var(--soft); font-size: .85rem }}
svg {{ max-width: 100%; height: auto }} figure {{ margin: .5rem 0 }}
.wide {{ overflow-x: auto }} table {{ border-collapse: collapse; font-size: .9rem }}
th, td {{ padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line) }}
.number {{ text-align: right; font-variant-numeric: tabular-nums }}
pre {{ overflow-x: auto; padding: .6rem; border: 1px solid var(--line); border-radius: .3rem; font-size: .82rem }}
@media print {{ details > * {{ display: block }} }}
"""


def to_html(report: Report) -> str:
    """The report as one page."""
    body = [f"<h1>{_html(report.title)}</h1>", f'<p class="soft">{_html(_origin(report))}</p>']
    for i, section in enumerate(report.answered, start=1):
        body += _html_section(section, i)
    if missing := [s for s in report.sections if s.answer is None]:
        body.append("<h2>Not answered</h2><ul>")
        body += [f"<li><strong>{_html(s.question)}</strong>: {_html(s.failure)}</li>" for s in missing]
        body.append("</ul>")
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_html(report.title)}</title><style>{_style()}</style></head><body>"
    )
    return "\n".join([head, *body, "</body></html>"]) + "\n"


def _html_section(section: Section, number: int) -> list[str]:
    answer = section.answer
    assert answer is not None
    parts = [f"<h2>{_html(_heading(section.question))}</h2>", f'<p class="said">{_html(answer.answer)}</p>']
    if answer.chart is not None:
        parts.append(f"<figure>{svg(answer.chart, name=f'chart-{number}')}</figure>")
    if _is_tabled(answer):
        parts.append(_html_table(answer))
    steps = "\n".join(explain(answer.sql or "", answer.dialect))
    parts.append(
        f"<details><summary>How this was found (confidence {answer.confidence:.2f})</summary>"
        f"<pre>{_html(answer.sql or '')}</pre><pre>{_html(steps)}</pre></details>"
    )
    return parts


def _html_table(answer: Answer) -> str:
    columns, rows = answer.columns or [], answer.rows or []
    texts, numeric = _cells(columns, rows)
    marks = [' class="number"' if n else "" for n in numeric]
    head = "".join(f"<th{m}>{_html(c)}</th>" for m, c in zip(marks, columns, strict=True))
    lines = ["".join(f"<td{m}>{_html(t)}</td>" for m, t in zip(marks, row, strict=True)) for row in texts]
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"
    return f'<div class="wide">{table}</div><p class="soft">{_html(_cut_note(answer))}</p>'


def _html(text: str) -> str:
    return escape(_clean(text))


# Markdown


def to_markdown(report: Report) -> str:
    """The report as Markdown, its charts as text."""
    parts = [f"# {_markdown(report.title)}", _markdown(_origin(report))]
    for section in report.answered:
        answer = section.answer
        assert answer is not None
        parts += [f"## {_markdown(_heading(section.question))}", _markdown(answer.answer)]
        if answer.chart is not None:
            parts.append(_fenced(terminal(answer.chart, width=72)))
        if _is_tabled(answer):
            parts.append(_markdown_table(answer))
        steps = "\n".join(explain(answer.sql or "", answer.dialect))
        parts += [f"How this was found (confidence {answer.confidence:.2f}):", _fenced(answer.sql or "", "sql"), _fenced(steps)]
    if missing := [s for s in report.sections if s.answer is None]:
        parts.append("## Not answered")
        parts.append("\n".join(f"- **{_markdown(s.question)}**: {_markdown(s.failure)}" for s in missing))
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(answer: Answer) -> str:
    columns, rows = answer.columns or [], answer.rows or []
    texts, numeric = _cells(columns, rows)
    lines = [
        "| " + " | ".join(map(_markdown, columns)) + " |",
        "|" + "|".join(" ---: " if n else " --- " for n in numeric) + "|",
        *("| " + " | ".join(map(_markdown, row)) + " |" for row in texts),
    ]
    note = _cut_note(answer)
    return "\n".join(lines) + (f"\n\n{_markdown(note)}" if note else "")


def _markdown(text: str) -> str:
    """Text that means nothing to Markdown or HTML."""
    line = " ".join(_clean(text).split())
    return re.sub(r"([\\`*_\[\]|<>#~])", r"\\\1", line).replace("&", "&amp;")


def _fenced(text: str, language: str = "") -> str:
    text = _clean(text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


# both


def _clean(text: str) -> str:
    """Without control characters and halves of characters, which no file may hold."""
    return "".join(c if c in "\n\t" or (c >= " " and not "\ud800" <= c <= "\udfff") else " " for c in text)


def _origin(report: Report) -> str:
    answered, asked = len(report.answered), len(report.sections)
    return f"From {report.database}, {report.made_on.isoformat()}: {answered} of {asked} questions answered."


def _heading(question: str) -> str:
    return question[:1].upper() + question[1:]


def _is_tabled(answer: Answer) -> bool:
    """One number, or nothing, has been said already."""
    return len(answer.rows or ()) > 1 or (len(answer.rows or ()) == 1 and len(answer.columns or ()) > 1)


def _cells(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[list[list[str]], list[bool]]:
    """The first rows as texts, and which columns are numbers."""
    shown = rows[:TABLE_ROWS]
    cents = [is_money((row[i] for row in rows), column) for i, column in enumerate(columns)]
    texts = [["" if value is None else written(value, columns[i], cents[i]).text for i, value in enumerate(row)] for row in shown]
    numeric = [
        any(is_number(row[i]) for row in shown) and all(is_number(row[i]) or row[i] is None for row in shown)
        for i in range(len(columns))
    ]
    return texts, numeric


def _cut_note(answer: Answer) -> str:
    count = len(answer.rows or ())
    if count <= TABLE_ROWS and not answer.truncated:
        return ""
    return f"The first {min(count, TABLE_ROWS)} of {'more than ' if answer.truncated else ''}{count:,} rows."
