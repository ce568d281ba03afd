"""The value index on disk: made once, of what may be seen, anew when values change, and never too large."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from openarctic.copilot.access import Access
from openarctic.copilot.linking import store
from openarctic.copilot.linking.store import bounded
from openarctic.copilot.linking.values import ValueIndex
from openarctic.copilot.policy import read_policy
from openarctic.copilot.principal import Principal
from openarctic.copilot.schema import Column, Schema, Table


def schema_of(*names: str, secrets: tuple[str, ...] = ()) -> Schema:
    columns = (Column(name="name", type="TEXT", values=names), Column(name="secret", type="TEXT", values=secrets))
    return Schema(dialect="sqlite", tables=(Table(name="people", columns=columns),))


PEOPLE = schema_of("Alice Cooper", "Bob Marley", "Chuck Berry", secrets=("Xanadu", "Shangrila"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(store, "KEPT_FROM", 1)
    return tmp_path / "values"


def found(schema: Schema, folder: Path | None, question: str = "songs of Bob Marly and Alice Cooper") -> list[str]:
    return [link.value for link in ValueIndex(schema, folder=folder, name="db").links(question)]


def test_the_file_and_memory_say_the_same(folder: Path) -> None:
    assert found(PEOPLE, folder) == found(PEOPLE, None) == ["Bob Marley", "Alice Cooper"]
    (path,) = folder.glob("*.sqlite")
    before = path.stat().st_ino
    assert found(PEOPLE, folder) == ["Bob Marley", "Alice Cooper"]
    assert path.stat().st_ino == before  # it was not made again
    assert folder.stat().st_mode & 0o077 == 0


def test_it_is_made_again_when_values_change_and_nothing_of_the_old_ones_stays(folder: Path) -> None:
    found(PEOPLE, folder)
    assert found(schema_of("Bob Marley", secrets=("Avalon",)), folder) == ["Bob Marley"]
    (path,) = folder.glob("*")
    assert b"Alice" not in path.read_bytes() and b"Xanadu" not in path.read_bytes()


def test_a_damaged_file_is_made_again(folder: Path) -> None:
    found(PEOPLE, folder)
    (path,) = folder.glob("*.sqlite")
    for content in (b"", b"no index", path.read_bytes()[:5000]):
        path.write_bytes(content)
        assert found(PEOPLE, folder) == ["Bob Marley", "Alice Cooper"]


def test_a_folder_that_cannot_be_written_is_done_without(folder: Path) -> None:
    folder.write_text("a file is in the way")
    assert found(PEOPLE, folder) == ["Bob Marley", "Alice Cooper"]


def test_what_a_policy_hides_is_in_no_index_of_that_reader(folder: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "roles:\n  all: {tables: {people: {}}}\n  some: {tables: {people: {columns: {mask: {secret: hash}}}}}\n"
        "users: {ann: [all], bob: [some]}\n"
    )
    schemas = {name: Access(PEOPLE, read_policy(policy), Principal(name, (role,))).schema for name, role in
               (("ann", "all"), ("bob", "some"))}  # fmt: skip
    assert found(schemas["bob"], folder, "who is in Xanadu?") == []
    (path,) = folder.glob("*.sqlite")
    assert b"Xanadu" not in path.read_bytes() and b"Alice" in path.read_bytes()
    assert found(schemas["ann"], folder, "who is in Xanadu?") == ["Xanadu"]
    assert len(list(folder.glob("*.sqlite"))) == 2  # one for each that sees something else


def test_columns_of_many_values_give_way_to_those_of_few() -> None:
    def kept(counts: list[int], limit: int) -> list[int]:
        columns = tuple(Column(name=f"c{i}", values=tuple(map(str, range(n)))) for i, n in enumerate(counts))
        return [len(own) for *_, own in bounded(Schema(dialect="sqlite", tables=(Table(name="t", columns=columns),)), limit)]

    assert kept([5, 100, 3], 200) == [5, 100, 3]
    assert kept([5, 100, 3], 28) == [5, 20, 3]
    assert kept([50, 50, 50], 30) == [10, 10, 10]
    assert kept([], 10) == []


def test_old_files_give_way_when_all_are_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "KEPT_BYTES", 1)
    for name in ("one", "two"):
        ValueIndex(PEOPLE, folder=folder, name=name).links("Alice Cooper")
    assert len(list(folder.glob("*.sqlite"))) == 1


def test_files_that_nobody_uses_go_away(folder: Path) -> None:
    found(PEOPLE, folder)
    (old,) = folder.glob("*.sqlite")
    os.utime(old, (0, 0))
    ValueIndex(PEOPLE, folder=folder, name="another").links("Alice Cooper")
    assert len(list(folder.glob("*.sqlite"))) == 1 and not old.exists()


def test_without_values_there_is_no_index(folder: Path) -> None:
    bare = replace(
        PEOPLE, tables=tuple(replace(t, columns=tuple(replace(c, values=()) for c in t.columns)) for t in PEOPLE.tables)
    )
    assert found(bare, folder) == [] and not folder.exists()


def test_a_file_cannot_be_written_through_the_index(folder: Path) -> None:
    index = ValueIndex(PEOPLE, folder=folder, name="db")
    index.links("Alice Cooper")
    assert index._store is not None
    with pytest.raises(sqlite3.OperationalError):
        index._store.execute("DELETE FROM value")
