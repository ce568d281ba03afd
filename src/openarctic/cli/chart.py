"""`--chart` of the commands that print rows: a drawing in the terminal, or a file."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any, TextIO

TERMINAL = "-"
ENDINGS = (".svg", ".png", ".json")


def add_chart_argument(parser: argparse.ArgumentParser) -> None:
    """`--chart` alone draws in the terminal."""
    parser.add_argument(
        "--chart",
        nargs="?",
        const=TERMINAL,
        metavar="FILE",
        help="also draw a chart, where one fits: here, or into FILE.svg, FILE.png or FILE.json (Vega-Lite)",
    )


def check_chart(args: argparse.Namespace) -> None:
    """Raises UserError for a file that could not be written, before anything runs."""
    from openarctic.errors import UserError

    if args.chart in (None, TERMINAL):
        return
    path = Path(args.chart)
    if path.suffix not in ENDINGS:
        raise UserError(f"--chart {args.chart} is no {', '.join(ENDINGS)} file", "leave FILE out to draw in the terminal")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}", "make it first")


def show_chart(args: argparse.Namespace, spec: dict[str, Any] | None, reason: str = "") -> None:
    """Draw or write the chart; say on standard error when none fits."""
    if args.chart is None:
        return
    if spec is None:
        print(f"no chart fits: {reason}" if reason else "no chart fits these rows", file=sys.stderr)
    elif args.chart == TERMINAL:
        # Rows in a form for programs are left alone.
        stream = sys.stdout if args.format == "table" else sys.stderr
        print(f"\n{drawn(spec, stream)}", end="", file=stream)
    else:
        write_chart(spec, Path(args.chart))
        print(f"wrote {args.chart}", file=sys.stderr)


def drawn(spec: dict[str, Any], stream: TextIO) -> str:
    """The chart as the terminal behind a stream can show it: its width, its encoding, NO_COLOR."""
    from openarctic.copilot.charts.terminal import terminal

    is_unicode = (stream.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")
    colour = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return terminal(spec, shutil.get_terminal_size().columns, is_unicode, colour)


def write_chart(spec: dict[str, Any], path: Path) -> None:
    """Into a .svg, .png or (else) JSON file."""
    import json

    from openarctic.config import write_bytes, write_text

    if path.suffix == ".svg":
        from openarctic.copilot.charts.svg import svg

        write_text(path, svg(spec))
    elif path.suffix == ".png":
        from openarctic.copilot.charts.png import png

        write_bytes(path, png(spec))
    else:
        write_text(path, json.dumps(spec, ensure_ascii=False, indent=2) + "\n")
