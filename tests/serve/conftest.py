from __future__ import annotations

from collections.abc import Iterator

import pytest

from openarctic.engine import Engine

from .world import Server, chat_engine, running


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return chat_engine(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def server(engine: Engine) -> Iterator[Server]:
    with running(engine) as server:
        yield server
