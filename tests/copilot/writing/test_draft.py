"""The loop: a scripted server answers well, badly, repaired and with malice; files are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from openarctic.cli import main
from openarctic.copilot.writing.answer import blocks, single
from openarctic.copilot.writing.dbt import Dbt
from openarctic.copilot.writing.draft import write_code
from openarctic.copilot.writing.output import save
from openarctic.errors import AbstainedError, UserError
from openarctic.generator import Completion, ScriptedGenerator
from openarctic.remote import remote_model

from ...scripted_server import scripted
from .world import DBT, ETL, SHOP_SQL, shop

BAD = DBT.replace("o.amount", "o.amout")
HOSTILE = DBT.replace("materialized='incremental'", "pre_hook='drop table orders', materialized='incremental'")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "shop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(SHOP_SQL)
    before = path.read_bytes()
    yield path
    assert path.read_bytes() == before


def test_a_bad_answer_is_repaired_with_the_nearest_name() -> None:
    with scripted(BAD, DBT) as server:
        written = write_code(Dbt("revenue", shop("duckdb"), "shop"), remote_model(server.url))
    assert written.rounds == 2 and "models/revenue_by_month.sql" in written.files
    assert "did you mean amount?" in server.prompts[1] and server.prompts[1].startswith(server.prompts[0])


@pytest.mark.parametrize("answer", [HOSTILE, "I will not.", "```sql models/x.sql\nselect 1", ""])
def test_after_so_many_rounds_it_says_what_was_wrong(answer: str) -> None:
    with scripted(answer) as server, pytest.raises(AbstainedError) as abstained:
        write_code(Dbt("revenue", shop("duckdb"), "shop"), remote_model(server.url), rounds=2)
    assert len(server.prompts) == 2
    assert "2 answers" in abstained.value.message
    if answer == HOSTILE:
        assert "pre_hook may not be used" in abstained.value.message


@pytest.mark.parametrize("odd", ["\r", "\u202e", "\x0b", "\u2028", "\u200b", "\x00"])
def test_characters_that_readers_take_differently(odd: str) -> None:
    answer = DBT.replace("-- one row a month", f"-- one row{odd} drop table orders")
    with scripted(answer) as server, pytest.raises(AbstainedError, match=r"line 2: it holds the character U\+"):
        write_code(Dbt("revenue", shop("duckdb"), "shop"), remote_model(server.url), rounds=1)
    with scripted(DBT.replace("\n", "\r\n")) as server:
        assert write_code(Dbt("revenue", shop("duckdb"), "shop"), remote_model(server.url)).rounds == 1


def test_an_answer_that_was_cut_off_is_none() -> None:
    class Cut(ScriptedGenerator):
        target_form = None

        def generate(self, prompt: str, **_: object) -> list[Completion]:
            return [Completion(DBT, [], 0.0, "length")]

    with pytest.raises(AbstainedError, match="cut off"):
        write_code(Dbt("revenue", shop("duckdb"), "shop"), Cut([]), rounds=1)


@pytest.mark.parametrize("form", ["sql", "plan"])
def test_a_model_for_short_sql_is_not_asked(form: str) -> None:
    model = ScriptedGenerator([[DBT]], name="arctic-nano")
    model.target_form = form  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="arctic-nano writes SQL for questions"):
        write_code(Dbt("revenue", shop("duckdb"), "shop"), model)
    assert model.prompts == []


def test_thinking_is_no_answer() -> None:
    text = "<think>\n```sql models/x.sql\nselect 1\n```\n</think>\n**models/y.sql**\n\n```sql\nselect 2\n```\n~~~sh\nls\n~~~"
    assert [(block.path, block.language, block.text) for block in blocks(text)] == [
        ("models/y.sql", "sql", "select 2\n"),
        ("", "sh", "ls\n"),
    ]
    assert single("import os\nprint(os)", ("python",), "^import ") == "import os\nprint(os)\n"
    with pytest.raises(UserError, match="200000"):
        blocks("x" * 300_000)


def test_files_are_written_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"models/a.sql": "a\n", "models/b/c.sql": "c\n"}
    out = tmp_path / "out"
    assert [path.read_text() for path in save(files, out)] == ["a\n", "c\n"]
    with pytest.raises(UserError, match="there already"):
        save({"models/new.sql": "n\n", **files}, out)
    assert not (out / "models/new.sql").exists()
    save({**files, "models/a.sql": "other\n"}, out, force=True)
    assert (out / "models/a.sql").read_text() == "other\n"

    replace, calls = os.replace, []

    def full(*arguments: str) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(*arguments)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="space"):
        save({"x/a.sql": "a", "x/b.sql": "b"}, tmp_path / "half")
    assert not (tmp_path / "half").exists()


def run(*arguments: str) -> int:
    return main(["write", *arguments])


def test_the_command_writes_what_passed(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "project"
    with scripted(BAD, DBT) as server:
        code = run("dbt", "revenue by month", "--db", str(database), "--model", server.url, "--out", str(out))
    told = capsys.readouterr()
    assert code == 0 and "needed 2 answers" in told.err and "checked: " in told.err
    assert sorted(path.name for path in out.rglob("*.*")) == [
        "_shop__sources.yml",
        "good_months.sql",
        "revenue_by_month.sql",
        "schema.yml",
    ]
    with scripted(DBT) as server:
        assert run("dbt", "revenue by month", "--db", str(database), "--model", server.url, "--out", str(out)) == 2
    assert "there already" in capsys.readouterr().err


def test_the_command_abstains_and_writes_nothing(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "project"
    arguments = ("dbt", "revenue", "--db", str(database), "--rounds", "1", "--out", str(out))
    with scripted(HOSTILE) as server:
        assert run(*arguments, "--model", server.url) == 4
    assert "pre_hook" in capsys.readouterr().err and not out.exists()


def test_staging_needs_no_model(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("dbt", "--staging", "--db", str(database), "--out", str(tmp_path / "project"), "--source", "The Shop") == 0
    assert (tmp_path / "project/models/staging/the_shop/stg_the_shop__orders.sql").is_file()
    assert run("dbt", "--staging", "--db", str(database), "--tables", "orders", "--format", "json") == 0
    assert '"rounds": 0' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("dbt", "revenue"), "arctic-nano writes SQL for questions"),
        (("etl", "revenue"), "arctic-nano writes SQL for questions"),
        (("procedure", "revenue"), "DuckDB has no stored procedures"),
        (("dbt",), "nothing says what is wanted"),
        (("dbt", "x", "--staging"), "leave one of the two out"),
        (("dbt", "x", "--tables", "orders"), "belongs to --staging"),
        (("etl", "x", "--name", "../x"), "no plain name"),
        (("dbt", "x", "--rounds", "0"), "--rounds"),
    ],
)
def test_what_cannot_be_done_is_said(
    database: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    assert run(*arguments, "--db", str(database)) == 2
    error = capsys.readouterr().err
    assert told in error
    if "arctic-nano" in told:
        assert "--model URL" in error and "--staging" in error


def test_a_script_and_what_a_policy_hides(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = ("--target", "monthly_revenue")
    with scripted(f"```python\n{ETL}```") as server:
        assert run("etl", "load revenue", "--db", str(database), "--model", server.url, *target) == 0
        assert capsys.readouterr().out == ETL
        policy = tmp_path / "policy.yaml"
        policy.write_text(f"roles: {{a: {{tables: {{customers: }}}}}}\nusers: {{ann: [a]}}\naudit: {tmp_path / 'log'}\n")
        hidden = ("--policy", str(policy), "--user", "ann", "--rounds", "1")
        assert run("etl", "load revenue", "--db", str(database), "--model", server.url, *target, *hidden) == 4
    assert "orders may not be read here" in capsys.readouterr().err
    assert "orders" not in server.prompts[1] and '"door": "write"' in (tmp_path / "log").read_text()
