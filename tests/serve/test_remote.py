"""Models behind a URL, asked through our own server: far = near."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from openarctic.copilot.ask import AskOptions, ask
from openarctic.copilot.models import TalkingEngine, load_generator
from openarctic.engine import Engine, load
from openarctic.errors import CapacityError, MissingError, UserError
from openarctic.generator import Sampling
from openarctic.remote import Endpoint, RemoteModel, remote_model
from openarctic.serve.desk import Voice
from openarctic.serve.keys import Key, digest_of

from .world import Server, running


@pytest.fixture(scope="module")
def nano() -> Engine:
    return load(threads=1)


@pytest.fixture(scope="module")
def far(nano: Engine) -> Iterator[Server]:
    with running(nano) as server:
        yield server


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/v1"


@pytest.mark.parametrize("question", ["How many customers are there?", "List the names of all suppliers from Norway."])
def test_asked_far_is_asked_near(far: Server, nano: Engine, question: str) -> None:
    near = ask(question, model=nano, options=AskOptions(candidates=2))
    told = ask(question, model=url(far), options=AskOptions(candidates=2))
    assert (told.sql, told.rows, told.answer) == (near.sql, near.rows, near.answer)


def test_a_chat_model_far_away(server: Server, engine: Engine) -> None:
    model = load_generator(url(server))
    assert engine.tokenizer is not None
    settings = [Sampling(), Sampling(temperature=1.0, seed=3)]
    got = model.generate("name of", sampling=settings, max_tokens=8)
    ids = engine.tokenizer.encode_chat([{"role": "user", "content": "name of"}])
    assert [one.text for one in got] == [one.text for one in engine.generate(ids, sampling=settings, max_tokens=8)]
    assert got[0].logprob < 0


def test_a_chat_model_near_is_talked_to_at_every_door(engine: Engine) -> None:
    assert engine.tokenizer is not None
    ids = engine.tokenizer.encode_chat([{"role": "user", "content": "name of"}])
    wanted = engine.generate(ids, max_tokens=8)[0].text
    assert wanted != engine.generate("name of", max_tokens=8)[0].text
    for model in (TalkingEngine(engine), Voice(engine)):
        assert model.generate("name of", max_tokens=8)[0].text == wanted


def test_variables_of_openais_client(server: Server) -> None:
    assert remote_model("openai", {"OPENAI_BASE_URL": url(server), "OPENAI_MODEL": "tiny"}).name == "tiny"
    with pytest.raises(UserError, match="needs a server"):
        remote_model("openai", {})
    with pytest.raises(MissingError, match="no model 'other'"):
        remote_model("openai", {"OPENAI_BASE_URL": url(server), "OPENAI_MODEL": "other"})


def test_servers_that_are_not_there_or_refuse(engine: Engine) -> None:
    with pytest.raises(MissingError, match="no server answers"):
        RemoteModel(Endpoint("http://127.0.0.1:9/v1"))
    for wrong in ("ftp://x/v1", "http:///v1"):
        with pytest.raises(UserError, match="not the URL"):
            Endpoint(wrong)
    with pytest.raises(UserError, match="unprotected"):
        Endpoint("http://models.example.org/v1", key="secret")
    with running(engine, keys=(Key("ann", digest_of("a")),)) as server:
        with pytest.raises(UserError, match="refuses the key") as told:
            RemoteModel(Endpoint(url(server), key="wrong-secret"))
        assert "wrong-secret" not in str(told.value) and "wrong-secret" not in repr(Endpoint(url(server), key="wrong-secret"))
        assert RemoteModel(Endpoint(url(server), key="a")).generate("name", max_tokens=2)
    with running(engine, request_timeout_s=0.2) as server, pytest.raises(CapacityError, match="504"):
        RemoteModel(Endpoint(url(server))).generate("name", max_tokens=3000)
