"""The page's files: complete, small, and locked in. `test_browser.py` drives it."""

from __future__ import annotations

import re

from openarctic.serve.page import assets

from .world import Server

LARGEST = 1_500_000


def test_everything_it_names_is_there_and_nothing_is_elsewhere() -> None:
    text = {name: data.decode() for name, (data, _) in assets().items()}
    named = set(re.findall(r'(?:href|src)="/assets/([^"]+)"', text["index.html"]))
    named |= {name for js in text.values() for name in re.findall(r'from "\./([^"]+)"', js)}
    assert named | {"index.html"} == set(text)
    assert not any(re.search(r"""https?://(?!www\.w3\.org/2000/svg)""", content) for content in text.values())
    assert sum(len(data) for data, _ in assets().values()) < LARGEST


def test_text_of_others_never_becomes_markup() -> None:
    """No way to markup or code from a string is used at all."""
    code = "".join(data.decode() for name, (data, _) in assets().items() if name.endswith(".js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", code)
    page = assets()["index.html"][0].decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=|style=", page)


def test_answers_are_never_rounded_or_kept_by_hand() -> None:
    """JSON of answers is for `exact.js`, which knows large numbers, and storages, which may throw, for `memory.js`."""
    code = {name: data.decode() for name, (data, _) in assets().items() if name.endswith(".js")}
    assert {name for name, text in code.items() if "JSON.parse(" in text} == {"exact.js", "memory.js"}
    assert {name for name, text in code.items() if re.search(r"\b(local|session)Storage\b", text)} == {"memory.js"}


def test_every_control_has_a_name() -> None:
    page = assets()["index.html"][0].decode()
    labelled = set(re.findall(r'<label[^>]*\bfor="([^"]+)"', page)) | set(re.findall(r'<label[^>]*>[^<]*<\w+ id="([^"]+)"', page))
    fields = re.findall(r'<(?:input|textarea|select)\b[^>]*\bid="([^"]+)"', page)
    assert fields and set(fields) <= labelled
    assert re.search(r'<html lang="en">', page) and page.count("<h1>") == page.count("<main>") == 1
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for name in re.findall(r'aria-(?:controls|labelledby|describedby)="([^"]+)"', page):
        assert name in ids


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_in_light_and_dark() -> None:
    style = assets()["style.css"][0].decode()
    blocks = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r"\{[^{}]*--ground:[^{}]*\}", style)]
    assert len(blocks) == 3 and blocks[1] == blocks[2]
    pairs = [
        ("ink", "ground"),
        ("ink", "panel"),
        ("soft", "ground"),
        ("soft", "panel"),
        ("accent", "ground"),
        ("accent", "panel"),
    ]
    for colours in blocks:
        for front, back in [*pairs, ("on-accent", "accent"), ("bad", "bad-ground")]:
            light, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back, colours)


def test_it_is_sent_under_a_strict_policy(server: Server) -> None:
    page = server.get("/")
    assert page.status == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and page.headers["x-content-type-options"] == "nosniff"
    script = server.get("/assets/app.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert server.get("/assets/app.js", **{"If-None-Match": script.headers["etag"]}).status == 304
    for name in ("nothing.js", "..%2Fpage.py", "%2e%2e/page.py"):
        assert server.get(f"/assets/{name}").status == 404
