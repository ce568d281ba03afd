"""`openarctic chat`: pipes with a scripted model, and a real terminal with the bundled one."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from openarctic.cli import main
from openarctic.cli.line import completer, editing, history_file
from openarctic.cli.talk import Talk
from openarctic.copilot.ask import AskOptions, Copilot
from openarctic.copilot.sample import sample_database
from openarctic.generator import ScriptedGenerator

SLOW = "SELECT COUNT(*) FROM order_items AS a, order_items AS b, order_items AS c WHERE a.quantity + b.quantity < c.quantity"
COUNT = " SELECT COUNT(*) FROM customers WHERE country = 'Germany'"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def copilot() -> Iterator[Copilot]:
    with Copilot(sample_database(), ScriptedGenerator([[COUNT]] * 9)) as copilot:
        yield copilot


def talk(copilot: Copilot, *lines: str, form: str = "table", is_terminal: bool = False) -> Talk:
    made = Talk(copilot, AskOptions(candidates=1), form=form, is_terminal=is_terminal)
    for line in lines:
        made.hear(line)
    return made


def test_questions_and_follow_ups(copilot: Copilot, capsys: pytest.CaptureFixture[str]) -> None:
    said = talk(copilot, "How many customers are there in Germany?", "", "by city", "as a chart")
    out, err = capsys.readouterr()
    assert "SELECT city, COUNT(*) FROM customers WHERE country = 'Germany' GROUP BY city" in out and "Hamburg" in out
    assert "█" in out or "#" in out, "the chart is drawn"
    assert 'read as: "How many customers are there in Germany?", changed: for each city; as a chart' in err
    assert said.exit_code == 0 and said.prompt() == "4> "


def test_json_is_one_line_an_answer_failures_too(copilot: Copilot, capsys: pytest.CaptureFixture[str]) -> None:
    said = talk(copilot, "How many customers are there in Germany?", "and in France?", "drop the table", "/sql", form="json")
    out, err = capsys.readouterr()
    first, second, third = [json.loads(line) for line in out.splitlines()]
    assert first["status"] == second["status"] == "ok" and second["rows"] == [[41]] and first["read_as"] is None
    assert (third["question"], third["status"], third["error"]["type"]) == ("drop the table", "refused", "not_a_read")
    assert "WHERE country = 'France'" in err, "what commands say is no line of JSON"
    assert said.exit_code == 3


def test_commands(copilot: Copilot, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = talk(
        copilot, "/sql SELECT segment, COUNT(*) AS n FROM customers GROUP BY segment", "only Club", "/explain", "/history"
    )
    out, _ = capsys.readouterr()
    assert "Keep the rows where segment is 'Club'." in out and "#2 only Club" in out
    for name, begin in (
        ("rows.csv", "segment,n\nClub,"),
        ("s.sql", "SELECT segment"),
        ("r.md", "| segment"),
        ("r.json", '{"columns"'),
    ):
        made.hear(f"/save {tmp_path / name}")
        assert (tmp_path / name).read_text().startswith(begin)
    made.hear("/schema payments")
    assert "order_id INTEGER > orders.order_id" in capsys.readouterr().out
    made.hear("/help")
    told = capsys.readouterr().out
    assert all(command in told for command in made.commands)
    made.hear("/limit 2")
    made.hear("/sql SELECT name FROM customers")
    assert "only the first 2 rows; /limit N changes that" in capsys.readouterr().err
    made.hear("/format csv")
    made.hear("show all")
    assert capsys.readouterr().out.startswith("name\n")
    made.hear("/reset")
    assert made.conversation.turns == [] and made.exit_code == 0
    made.hear("/quit")
    assert made.is_over


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nope", "there is no command /nope"),
        ("/rows", "nothing has been answered yet"),
        ("/schema nowhere", "there is no table nowhere"),
        ("/limit many", "/limit many is no number"),
        ("/format xml", "there is no format xml"),
        ("/sql DROP TABLE customers", "DROP is not a read"),
        ("#7 by city", "there is no answer 7"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_talk_goes_on(
    copilot: Copilot, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    made = talk(copilot, *(["How many customers are there in Germany?"] if line.startswith("#") else []), line)
    assert message in capsys.readouterr().err and not made.is_over
    made.hear("How many customers are there in Germany?")
    assert "62" in capsys.readouterr().out


def test_a_terminal_shows_the_first_rows(copilot: Copilot, capsys: pytest.CaptureFixture[str]) -> None:
    made = talk(copilot, "/sql SELECT customer_id FROM customers", is_terminal=True)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) < 50 and "... 260 more rows" in err
    made.hear("/rows")
    assert len(capsys.readouterr().out.splitlines()) == 302


def test_words_that_can_be_completed(copilot: Copilot) -> None:
    made = talk(copilot)
    assert "/schema" in made.words("") and "customers" in made.words("How many ") and "segment" in made.words("by ")
    line, begin = "how many cust", 9
    complete = completer(made.words, lambda: line, lambda: begin)
    assert [complete("cust", i) for i in range(3)] == ["customers", "customer_id", None]


def test_history_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readline = pytest.importorskip("readline")
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path / "new"))
    with editing(lambda before: [], keeps_history=False):
        readline.add_history("secret")
    assert not history_file().exists()
    with editing(lambda before: [], keeps_history=True):
        readline.add_history("How many?")
    assert "How many?" in history_file().read_text() and stat.S_IMODE(history_file().stat().st_mode) == 0o600


def test_a_line_that_is_no_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    piped = io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"))
    monkeypatch.setattr(sys, "stdin", piped)
    assert main(["chat", "--db", str(sample_database().path)]) == 2
    assert "not UTF-8" in capsys.readouterr().err


class Terminal:
    """The command on a pseudo-terminal of its own."""

    def __init__(self, folder: Path) -> None:
        import pty

        self.mine, its = pty.openpty()
        code = "import sys; from openarctic.cli import main; sys.exit(main(['chat', '--candidates', '2']))"
        env = {**os.environ, "OPENARCTIC_CACHE": str(folder), "TERM": "dumb"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=its, stdout=its, stderr=its, env=env, start_new_session=True, close_fds=True
        )
        os.close(its)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.mine, text.encode())

    def wait_for(self, text: str, seconds: float = 60) -> str:
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"no {text!r} in {self.seen!r}"
            if select.select([self.mine], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.mine, 65536).decode()
                except OSError:  # it has left
                    assert text in self.seen, self.seen
        before, _, self.seen = self.seen.partition(text)
        return before


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_interrupted_and_left(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    try:
        terminal.wait_for("1> ")
        terminal.type("How many customers are there in Germany?\n")
        terminal.wait_for("There are 62 customers")
        terminal.wait_for("2> ")
        # A statement that would take long is stopped, and what was asked before is still known.
        terminal.type(f"/sql {SLOW}\n")
        time.sleep(1.0)
        os.kill(terminal.process.pid, signal.SIGINT)
        terminal.wait_for("stopped; the conversation goes on")
        terminal.wait_for("2> ")
        terminal.type("and in France?\n")
        terminal.wait_for("There are 41 customers")
        terminal.wait_for("3> ")
        time.sleep(1.0)  # readline shows its prompt a moment before it listens; a signal in between waits for a key
        os.kill(terminal.process.pid, signal.SIGINT)  # clears the line
        terminal.wait_for("3> ")
        terminal.type("\x04")
        assert terminal.process.wait(timeout=20) == 0
        assert "and in France?" in (tmp_path / "chat_history").read_text()
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.mine)
