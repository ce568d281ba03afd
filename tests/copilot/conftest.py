"""Servers that tests share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from .postgres_server import Server, find_binaries, running_server


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A real PostgreSQL server. Where there is none its tests are skipped, but `pytest -m postgres` fails then."""
    binaries = find_binaries()
    lacks = []
    if binaries is None:
        lacks.append("no PostgreSQL server is installed (apt-get install postgresql)")
    if importlib.util.find_spec("psycopg") is None:
        lacks.append("psycopg is not installed (pip install 'openarctic[postgres]')")
    if lacks or binaries is None:
        (pytest.fail if request.config.option.markexpr == "postgres" else pytest.skip)("; ".join(lacks))
    with running_server(binaries) as server:
        yield server
