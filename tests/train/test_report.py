"""The report of a run: one page, whole, escaped, of bounded size; and the list of runs."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from openarctic.cli import main
from openarctic.errors import CorruptError, MissingError, UserError
from openarctic.train.report import page
from openarctic.train.runlog import read_log

EVIL = "<script>alert('&')</script>"


def record(step: int, **changes: Any) -> dict[str, Any]:
    return {
        "step": step,
        "tokens": 100 * step,
        "seconds": 0.5 * step,
        "loss": 5.0 / step,
        "aux_loss": 2.0,
        "lr": 1e-3,
        "grad_norm": 1.0,
        "tokens_per_s": 200.0,
        "expert_load": [[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]],
        "entropy": [1.0, 0.9],
        "dropped": [0.0, 0.1],
        "dead_experts": [1, 0],
        **changes,
    }


def write_run(folder: Path, steps: int = 12) -> Path:
    folder.mkdir(parents=True)
    records = [record(step, **({"validation": {EVIL: 4.0 / step}} if step % 4 == 0 else {})) for step in range(1, steps + 1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + '{"step": 9')  # a kill cut it short
    (folder / "config.json").write_text(json.dumps({"name": EVIL}))
    (folder / "events.jsonl").write_text(json.dumps({"event": "rollback", "time": "now", "why": EVIL}) + "\n")
    return folder


class Tags(HTMLParser):
    """Counts tags and checks that what opens closes."""

    VOID = ("meta", "line", "rect", "circle", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.seen: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        assert not any(name in ("src", "href", "onload") for name, _ in attrs)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.stack.pop() == tag


def test_the_page_is_whole_and_holds_nothing_of_the_run_unescaped(tmp_path: Path) -> None:
    text = page(write_run(tmp_path / EVIL.replace("/", "")))
    tags = Tags()
    tags.feed(text)
    assert tags.stack == [] and "script" not in tags.seen and "link" not in tags.seen
    assert "&lt;script&gt;" in text and "http" not in text and "@import" not in text
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
    # Curves and heat maps: all layers at the end, and each of both layers over time.
    assert {"Loss", "Learning rate", "Router entropy", "Dropped share", "Dead experts"} <= set(
        re.findall(r'aria-label="([^"]*)"', text)
    )
    assert text.count('aria-label="Layer ') == 2 and 'aria-label="All layers, at the end"' in text
    assert "rollbacks</td><td>1<" in text and "prefers-color-scheme: dark" in text


def test_an_expert_without_tokens_has_no_colour(tmp_path: Path) -> None:
    text = page(write_run(tmp_path / "run"))
    layer = re.search(r'<svg[^>]*aria-label="Layer 0".*?</svg>', text, re.DOTALL)
    assert layer
    assert {match for match in re.findall(r'y="(\d+)"', layer[0])} == {"0", "1"}


def test_layers_have_the_models_numbers_where_the_log_knows_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "log.jsonl").write_text("".join(json.dumps(record(step, moe_layers=[5, 11])) + "\n" for step in (1, 2)))
    text = page(run)
    assert 'aria-label="Layer 5"' in text and 'aria-label="Layer 11"' in text and "layer 11</span>" not in text
    assert "&#9632;</span> layer 11" in text and "rows: layers 5, 11," in text and "layer 0" not in text.lower()


def test_long_runs_make_pages_no_larger(tmp_path: Path) -> None:
    assert len(page(write_run(tmp_path / "long", 5000))) < 3 * len(page(write_run(tmp_path / "short", 400)))


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="holds no run"):
        page(tmp_path)
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(UserError, match="no step yet"):
        page(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(CorruptError, match="line 2"):
        read_log(tmp_path)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "runs" / "first")
    write_run(tmp_path / "runs" / "second", 3)
    assert main(["train", "report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert main(["runs", "report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text() == (run / "report.html").read_text()
    capsys.readouterr()
    assert main(["runs", "list", str(tmp_path / "runs"), "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row[:3] for row in listed["rows"]] == [["first", 12, 1200], ["second", 3, 300]]
    assert main(["runs", "list", str(tmp_path / "none")]) == 2
    assert main(["train", "report"]) == 2


def test_a_loss_that_is_null_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1)
    worse = [record(2, loss=None, validation={"web": None}, entropy=[None, 0.5]), record(3, loss=None)]
    (run / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [record(1), *worse]))
    assert "loss, mean of the last steps</td><td>5.0000<" in page(run)
    (run / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in worse))
    assert "loss, mean of the last steps</td><td>nan<" in page(run)


def test_values_that_are_not_finite_are_left_out_of_curves(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    worse = [record(13, validation={"web": float("inf")}, entropy=[float("nan"), 0.9]), record(14, validation={"web": 3.0})]
    lines = (run / "log.jsonl").read_text().splitlines()[:-1] + [json.dumps(r) for r in worse]
    (run / "log.jsonl").write_text("".join(line + "\n" for line in lines))
    assert "validation web" in page(run) and "nan" not in page(run)
