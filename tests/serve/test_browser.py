"""The page in a real browser: pip install playwright, apt-get install chromium, then pytest -m browser."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openarctic.copilot.databases import open_database
from openarctic.copilot.feedback import Feedback, FeedbackFile
from openarctic.copilot.sample import database_or_sample
from openarctic.engine import Engine, load
from openarctic.serve.desk import Desk

from .world import Server, running

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
INTERACTIVE_S = 1.0
LARGE = [(2**53 + 1, "9007199254740993 \\"), (2**53, '"'), (-(2**63), ""), (7, "x")]
EVIL = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def nano() -> Engine:
    return load()


@pytest.fixture(scope="module")
def served(nano: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    with sqlite3.connect(folder / "big.sqlite") as connection:
        connection.execute("CREATE TABLE big (id INTEGER, text TEXT)")
        connection.executemany("INSERT INTO big VALUES (?, ?)", ((i, f"row {i}") for i in range(12_000)))
        connection.execute("CREATE TABLE large (number INTEGER, text TEXT)")
        connection.executemany("INSERT INTO large VALUES (?, ?)", LARGE)
        connection.execute("CREATE TABLE evil (x TEXT)")
        connection.execute("INSERT INTO evil VALUES (?)", (EVIL,))
    databases = {"sample": database_or_sample(None), "big": open_database(folder / "big.sqlite")}
    desk = Desk(nano, databases, feedback=FeedbackFile(folder / "feedback.jsonl"))
    with running(nano, desk) as server:
        yield server
    desk.close()


@pytest.fixture
def page(served: Server) -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.fail("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(f"http://127.0.0.1:{served.port}/")
        page.wait_for_selector("#schema details")
        yield page
        assert failures == []
        browser.close()


def until(page: Any, condition: str, seconds: float = 60.0) -> None:
    """Asked from outside: the page's own policy lets nobody evaluate a string inside."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.05)


def ask(page: Any, question: str) -> None:
    page.fill("#question", question)
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#stage').textContent.startsWith('Done')")


def run(page: Any, sql: str) -> None:
    page.fill("#sql", sql)
    page.keyboard.press("Control+Enter")
    time.sleep(0.1)
    until(page, "!document.querySelector('#run').disabled")


def test_a_question_its_chart_and_changed_sql(page: Any) -> None:
    ask(page, "How many customers are there in each segment?")
    assert "105" in page.inner_text("#answer") and "GROUP BY segment" in page.input_value("#sql")
    assert page.is_visible("#view-chart img")
    assert page.evaluate("document.querySelector('#chart').naturalWidth") > 100
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=str(PICTURES / "copilot-chart.png"))
    page.click("#tab-table")
    assert page.inner_text("#rows tr:nth-child(2) td:first-child") == "Business"
    run(page, "SELECT segment FROM customers WHERE segment = 'Club' LIMIT 2")
    assert page.inner_text("#count") == "The first 2 rows; there are more." or page.inner_text("#count") == "2 rows"


def test_a_write_is_refused_like_help(page: Any) -> None:
    ask(page, "How many orders are there?")
    run(page, "DROP TABLE orders")
    assert page.inner_text("#what") == "DROP is not a read" and "SELECT" in page.inner_text("#hint")
    page.screenshot(path=str(PICTURES / "copilot-refused.png"))
    ask(page, "How many orders are there?")
    assert not page.is_visible("#trouble")


def test_downloads(page: Any) -> None:
    ask(page, "List the names of all suppliers from Norway.")
    with page.expect_download() as download:
        page.click("#csv")
    assert Path(download.value.path()).read_text().splitlines() == ["name", "Fjord Gear"]
    with page.expect_download() as download:
        page.click("#parquet")
    assert Path(download.value.path()).read_bytes()[:4] == b"PAR1"


def test_history_survives_a_reload(page: Any) -> None:
    ask(page, "How many customers are there?")
    page.reload()
    page.wait_for_selector("#schema details")
    page.click("#history button")
    page.wait_for_selector("#result:not([hidden])")
    assert page.input_value("#question") == "How many customers are there?"
    assert page.inner_text("#rows tr:nth-child(2) td") == "300"


def test_ten_thousand_rows_do_not_stutter(page: Any) -> None:
    page.select_option("#database", "big")
    page.evaluate("document.querySelector('#result').hidden = false")
    run(page, "SELECT * FROM big")
    assert page.inner_text("#count") == "The first 10000 rows; there are more."
    assert page.evaluate("document.querySelectorAll('#rows tr').length") < 150
    slowest = page.evaluate(
        """async () => {
          const box = document.querySelector('#scroller'); let worst = 0;
          for (let i = 0; i < 60; i++) {
            const before = performance.now(); box.scrollTop = (i * 4999) % (10000 * 30);
            box.dispatchEvent(new Event('scroll')); box.offsetHeight; worst = Math.max(worst, performance.now() - before);
          }
          return worst;
        }"""
    )
    assert slowest < 50, "milliseconds for one scroll"
    page.click("#head button >> nth=0")
    page.click("#head button >> nth=0")
    until(page, "document.querySelector('#rows td.number')?.textContent === '9999'")
    assert page.get_attribute("#head th >> nth=0", "aria-sort") == "descending"


def column(page: Any, number: int) -> list[str]:
    return list(page.locator(f"#rows tr:not(.gap) td:nth-child({number})").all_inner_texts())


def test_whole_numbers_are_exact(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.select_option("#database", "big")
    page.evaluate("document.querySelector('#result').hidden = false")
    run(page, "SELECT * FROM large ORDER BY number DESC")
    assert column(page, 1) == ["9007199254740993", "9007199254740992", "7", "-9223372036854775808"]
    assert column(page, 2) == ["9007199254740993 \\", '"', "x", ""]
    assert page.locator("#rows td.number").count() == 4
    page.click("#head button >> nth=0")
    assert column(page, 1) == ["-9223372036854775808", "7", "9007199254740992", "9007199254740993"]
    page.click("#copy")
    until(page, "document.querySelector('#copy').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()").splitlines()[4] == "9007199254740993\t9007199254740993 \\"
    with page.expect_download() as download:
        page.click("#csv")
    assert "9007199254740993," in Path(download.value.path()).read_text()
    until(page, "document.querySelector('#stage').textContent === 'Done: the file has all rows.'")


def test_a_screen_reader_knows_the_place_among_all_rows(page: Any) -> None:
    page.select_option("#database", "big")
    page.evaluate("document.querySelector('#result').hidden = false")
    run(page, "SELECT * FROM big")
    assert page.get_attribute("table", "aria-rowcount") == "10001" and page.get_attribute("#head", "aria-rowindex") == "1"
    page.evaluate("document.querySelector('#scroller').scrollTop = 5000 * 30")
    until(page, "Number(document.querySelector('#rows tr:nth-child(2)').ariaRowIndex ?? 0) > 4000")
    first = page.locator("#rows tr:not(.gap) >> nth=0")
    assert int(first.get_attribute("aria-rowindex")) == int(first.locator("td").first.inner_text()) + 2


@pytest.mark.parametrize("told", ["", 'event: linked\ndata: {"tables": ["orders"], "values": []}\n\n'])
def test_a_connection_that_breaks_is_told_like_help(page: Any, told: str) -> None:
    page.route("**/v1/ask", lambda route: route.fulfill(body=told, content_type="text/event-stream"), times=1)
    page.fill("#question", "How many orders are there?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#trouble:not([hidden])")
    assert page.inner_text("#what") == "The connection broke before the answer was whole." and page.inner_text("#hint")
    assert page.inner_text("#stage") == "" and page.get_attribute("#stage", "class") == ""
    assert page.is_enabled("#send")


def test_a_server_that_ends_amid_an_answer_is_told_like_help(page: Any) -> None:
    """A real connection that is cut: the browser throws words of its own."""
    listening = socket.create_server(("127.0.0.1", 0))

    def cut() -> None:
        connection, _ = listening.accept()
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000\r\n\r\nevent: linked\n")
        connection.close()

    threading.Thread(target=cut, daemon=True).start()
    port = listening.getsockname()[1]
    page.route("**/v1/ask", lambda route: route.continue_(url=f"http://127.0.0.1:{port}/"), times=1)
    page.fill("#question", "How many orders are there?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#trouble:not([hidden])")
    assert page.inner_text("#what") == "The connection broke before the answer was whole."
    assert page.inner_text("#stage") == ""
    listening.close()


def test_a_browser_that_keeps_nothing(page: Any) -> None:
    page.add_init_script(
        """for (const name of ["localStorage", "sessionStorage"])
             Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });"""
    )
    page.reload()
    page.wait_for_selector("#schema details")
    ask(page, "How many orders are there?")
    assert page.locator("#history button").all_inner_texts() == ["How many orders are there?"], "while the page is open"
    page.click("#theme")
    assert page.inner_text("#theme") == "Light"
    page.click("#forget")
    assert page.locator("#history button").count() == 0


def test_text_of_others_stays_text(page: Any) -> None:
    page.select_option("#database", "big")
    page.evaluate("document.querySelector('#result').hidden = false")
    run(page, "SELECT x FROM evil")
    assert page.inner_text("#rows tr:nth-child(2) td") == EVIL and page.title() == "OpenArctic copilot"


def test_keyboard_alone(page: Any) -> None:
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("How many orders are there?")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#stage').textContent.startsWith('Done')")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id"))
    assert {"send", "sql", "run", "tab-table", "copy", "csv", "scroller", "up", "down"} <= set(seen)


def test_follow_ups_go_on_until_a_new_question(page: Any) -> None:
    ask(page, "How many customers are there in Germany?")
    assert page.inner_text("#question-label") == "Your follow-up, or another question"
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("and in France?")  # what was asked is selected, and typing takes its place
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#sql').value.includes(\"'France'\")")
    assert "instead of 'Germany'" in page.inner_text("#read-as")
    assert page.get_attribute("#read-as", "role") == "status", "a screen reader says how it was read"
    ask(page, "by segment")
    assert page.input_value("#sql") == "SELECT segment, COUNT(*) FROM customers WHERE country = 'France' GROUP BY segment"
    page.screenshot(path=str(PICTURES / "copilot-follow-up.png"))
    asked = ["How many customers are there in Germany?", "and in France?", "by segment"]
    assert page.locator("#thread button").all_inner_texts() == asked
    assert page.get_attribute("#thread li:last-child button", "aria-current") == "step"
    page.click("#thread li:nth-child(2) button")
    until(page, "document.querySelectorAll('#thread li').length === 2 && !document.querySelector('#run').disabled")
    ask(page, "only Club")
    assert page.input_value("#sql") == "SELECT COUNT(*) FROM customers WHERE country = 'France' AND segment = 'Club'"
    page.click("#new")
    assert not page.is_visible("#thread-part") and not page.is_visible("#result")
    assert page.inner_text("#question-label") == "Your question" and page.evaluate("document.activeElement.id") == "question"


def test_follow_ups_are_about_sql_that_was_changed_and_survive_a_reload(page: Any) -> None:
    ask(page, "How many customers are there in Germany?")
    run(page, "SELECT name FROM suppliers WHERE country = 'Norway'")
    page.reload()
    page.wait_for_selector("#schema details")
    assert page.locator("#thread button").all_inner_texts() == ["How many customers are there in Germany?"]
    ask(page, "what about Sweden?")
    assert page.input_value("#sql") == "SELECT name FROM suppliers WHERE country = 'Sweden'"
    page.select_option("#database", "big")
    assert not page.is_visible("#thread-part"), "another database is another conversation"


def test_a_conversation_by_keyboard_alone(page: Any) -> None:
    page.keyboard.type("How many orders are there?")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#stage').textContent.startsWith('Done')")
    page.keyboard.type("by status")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#thread li').length === 2")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "new"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.textContent") == "by status"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert not page.is_visible("#thread-part")


def test_a_question_back_is_answered_with_a_key(page: Any) -> None:
    """The server's events are given here: which questions the model finds two readings of is another matter."""
    choices = [
        {"text": "the highest price", "sql": "SELECT MAX(price) FROM products"},
        {"text": "the highest stock", "sql": "SELECT MAX(stock) FROM products"},
    ]
    told = {"question": "What is the most?", "clarification": {"question": "What is the most?", "text": "?", "choices": choices}}
    body = f"event: clarification\ndata: {json.dumps(told)}\n\nevent: done\ndata: {json.dumps(told)}\n\n"
    page.route("**/v1/ask", lambda route: route.fulfill(body=body, content_type="text/event-stream"), times=1)
    page.fill("#question", "What is the most?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#asked-back:not([hidden])")
    assert page.inner_text("#stage") == "Which one do you mean?" and page.evaluate("document.activeElement.id") == "choice-1"
    assert page.inner_text("#choice-2") == "2: the highest stock"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#stage').textContent.startsWith('Done')")
    assert page.input_value("#sql") == choices[1]["sql"] and "meant: the highest stock" in page.inner_text("#read-as")
    assert page.locator("#thread button").all_inner_texts() == ["What is the most?"]


def test_verdicts_are_kept(page: Any, served: Server) -> None:
    ask(page, "How many products are there?")
    page.click("#up")
    until(page, "document.querySelector('#thanks').textContent !== ''")
    run(page, "SELECT count(*) AS products FROM products")
    page.click("#correct")
    until(page, "document.querySelector('#thanks').textContent !== ''")
    desk_file = FeedbackFile(Path(str(_feedback(served))))
    first, second = list(desk_file.records())[-2:]
    assert isinstance(first, Feedback) and first.verdict == "up"
    assert isinstance(second, Feedback) and second.corrected == "SELECT COUNT(*) AS products FROM products"


def _feedback(served: Server) -> Any:
    assert served.desk is not None and served.desk.feedback is not None
    return served.desk.feedback.path


def test_dark_and_phone(page: Any) -> None:
    ask(page, "How many customers are there in each segment?")
    page.click("#theme")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=str(PICTURES / "copilot-phone.png"))
    page.click("#browse")
    assert page.is_visible("#schema") and page.get_attribute("#browse", "aria-expanded") == "true"


def test_it_is_soon_ready(page: Any) -> None:
    began = time.monotonic()
    page.reload()
    page.wait_for_selector("#schema details")
    assert time.monotonic() - began < INTERACTIVE_S


# What Lighthouse asks of accessibility, in the page as it is rendered: (what is wrong, where) for each fault.
AUDIT = """() => {
  const faults = [], shown = e => e.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const name = e => (e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.labels?.[0]?.textContent ||
                     e.textContent || e.getAttribute("alt") || e.title || "").trim();
  for (const e of document.querySelectorAll("a, button, input, select, textarea, summary, [tabindex]"))
    if (shown(e) && !name(e)) faults.push(["no name", e.outerHTML.slice(0, 80)]);
  for (const e of document.images) if (shown(e) && !e.alt) faults.push(["no alt", e.id]);
  for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) faults.push(["tabindex", e.id]);
  let level = 0;
  for (const e of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    if (!shown(e)) continue;
    if (+e.tagName[1] > level + 1) faults.push(["a heading's level is skipped", e.textContent]);
    level = +e.tagName[1];
  }
  if (!document.title || !document.documentElement.lang) faults.push(["no title or language", ""]);
  if (!document.querySelector("meta[name=viewport]")) faults.push(["no viewport", ""]);
  const parts = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const colour = parts(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement, style = getComputedStyle(e), size = parseFloat(style.fontSize);
    if (!texts.currentNode.textContent.trim() || !shown(e) || e.closest(":disabled") || e.closest("option")) continue;
    const both = [light(parts(style.color)), light(ground(e))].sort((a, b) => b - a);
    const ratio = (both[0] + 0.05) / (both[1] + 0.05);
    const isLarge = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
    if (ratio < (isLarge ? 3 : 4.5)) faults.push(["contrast " + ratio.toFixed(2), e.outerHTML.slice(0, 80)]);
  }
  if (innerWidth < 500)
    for (const e of document.querySelectorAll("button, select, input")) {
      const box = e.getBoundingClientRect();
      if (shown(e) && box.height > 0 && Math.min(box.height, box.width) < 24) faults.push(["small target", e.outerHTML]);
    }
  return faults;
}"""
LARGEST_BYTES = 1_500_000


def test_what_lighthouse_would_say(served: Server, page: Any) -> None:
    """Accessibility in both themes and at phone width; size, foreign requests and messages of a first visit."""
    ask(page, "How many customers are there in each segment?")
    assert page.evaluate(AUDIT) == []
    page.click("#tab-table")
    page.click("#theme")
    assert page.evaluate(AUDIT) == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(AUDIT) == []
    page.evaluate(
        """() => { const a = document.createElement("button"), b = document.createElement("p");
          b.textContent = "faint"; b.style.color = b.style.background = "rgb(90, 90, 90)"; document.body.append(a, b); }"""
    )
    assert [what for what, _ in page.evaluate(AUDIT)] == ["no name", "contrast 1.00"]  # it does find faults

    assert min(first_visit(page.context.browser, f"http://127.0.0.1:{served.port}/") for _ in range(3)) < INTERACTIVE_S


def first_visit(browser: Any, own: str) -> float:
    """Seconds until the page could be used, with nothing in the cache; the best of some visits leaves out what else ran."""
    page = browser.new_page()
    fetched: list[Any] = []
    told: list[str] = []
    page.on("response", lambda answer: fetched.append(answer))
    page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
    page.goto(own)
    page.wait_for_selector("#schema details")
    assert told == [] and all(answer.url.startswith(own) and answer.status < 400 for answer in fetched)
    assert sum(len(answer.body()) for answer in fetched) < LARGEST_BYTES
    seconds = page.evaluate("performance.getEntriesByType('navigation')[0].domInteractive / 1000")
    page.close()
    return float(seconds)
