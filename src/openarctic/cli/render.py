"""Rows as a table, CSV, Markdown or JSON."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Sequence
from typing import Any

MAX_CELL = 60


def render(columns: Sequence[str], rows: Sequence[Sequence[Any]], form: str) -> str:
    """The text, with a final newline. `form` is table, csv, md or json."""
    return {"table": _table, "csv": _csv, "md": _markdown, "json": _json}[form](columns, rows)


def _text(value: Any) -> str:
    text = "" if value is None else str(value)
    # A cell must not move the cursor or colour the terminal.
    return "".join(c if unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [[_cut(_text(v)) for v in row] for row in rows]
    heads = [_cut(_text(c)) for c in columns]
    widths = [max([len(h), *(len(r[i]) for r in cells)]) for i, h in enumerate(heads)]
    numeric = [bool(rows) and all(isinstance(r[i], int | float) or r[i] is None for r in rows) for i in range(len(heads))]

    def line(values: Sequence[str]) -> str:
        padded = [v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, numeric, strict=True)]
        return "  ".join(padded).rstrip() + "\n"

    return line(heads) + line(["-" * w for w in widths]) + "".join(line(row) for row in cells)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 3] + "..."


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(values: Sequence[Any]) -> str:
        return "| " + " | ".join(_text(v).replace("|", "\\|") for v in values) + " |\n"

    return line(columns) + "|" + " --- |" * len(columns) + "\n" + "".join(line(row) for row in rows)


def _json(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return json.dumps({"columns": list(columns), "rows": [list(r) for r in rows]}, ensure_ascii=False) + "\n"
