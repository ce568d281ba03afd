"""Recipes from their inputs to a model file: pretrain on token shards, sft on prompts and responses; and what a dry run says."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from openarctic.cli import main  # noqa: E402
from openarctic.config import override  # noqa: E402
from openarctic.data import TokenShards  # noqa: E402
from openarctic.data.prepare import PrepareOptions, prepare  # noqa: E402
from openarctic.engine import Engine  # noqa: E402
from openarctic.errors import CapacityError, MissingError, UserError  # noqa: E402
from openarctic.formats.bundled import model_path  # noqa: E402
from openarctic.formats.gguf import read_gguf  # noqa: E402
from openarctic.model import load_model  # noqa: E402
from openarctic.model.routing import RoutingConfig  # noqa: E402
from openarctic.tokenizer import Tokenizer  # noqa: E402
from openarctic.train.base import load_base  # noqa: E402
from openarctic.train.config import TrainConfig, check_unchanged, fixed_fields  # noqa: E402
from openarctic.train.dry_run import bytes_needed, check_room, estimate  # noqa: E402
from openarctic.train.packing import Pack  # noqa: E402
from openarctic.train.pretrain import SMALL_HYBRID, PretrainRecipe, curriculum_of, pretrain_job  # noqa: E402
from openarctic.train.recipes import NanoRecipe  # noqa: E402
from openarctic.train.room import check_device_memory, keep_few_kernels  # noqa: E402
from openarctic.train.runlog import read_log  # noqa: E402
from openarctic.train.sft import Example, SftRecipe, packs_of, read_examples, sequences_of, sft_job, share_beginnings  # noqa: E402

RECIPE = PretrainRecipe(
    model=replace(
        SMALL_HYBRID, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4, num_local_experts=4
    ),
    tokens=64 * 8 * 4,
    sequence_length=64,
    batch_tokens=64 * 4,
    max_epochs=None,
    validation_sequences=2,
    train=TrainConfig(lr=1e-3, warmup_steps=2, validate_every=4, accumulate=2),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf_metadata(read_gguf(model_path("arctic-nano")).metadata).truncate(400)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> list[Path]:
    folder = tmp_path_factory.mktemp("data")
    for domain, words in (("numbers", "one two three four five"), ("colours", "red green blue yellow")):
        text = "\n\n".join(" ".join(words.split()[i % 3 :]) + f" {i}." for i in range(150))
        (folder / f"{domain}.txt").write_text(text)
        options = PrepareOptions(domain=domain, validation_share=0.1)
        prepare([folder / f"{domain}.txt"], tokenizer, folder / domain, options, note=lambda line: None)
    return [folder / "numbers", folder / "colours"]


def test_from_shards_to_files_of_one_model(tmp_path: Path, shards: list[Path], tokenizer: Tokenizer) -> None:
    job = pretrain_job(RECIPE, shards, tokenizer, tmp_path)
    assert job.config.steps == 4  # 8 batches, 2 a step
    gguf, folder = job.run(tmp_path)
    log = read_log(tmp_path)
    assert len(log) == 4 and set(log[-1]["validation"]) == {"numbers", "colours"}
    assert len(log[0]["expert_load"]) == 2 and log[-1]["loss"] < log[0]["loss"]
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model"]["vocab_size"] == tokenizer.vocab_size and saved["train"]["steps"] == 4

    ids = tokenizer.encode("red green blue")
    with torch.no_grad():
        wanted = job.model.eval()(torch.tensor([ids])).logits[0].numpy()
        from_folder = load_model(folder)(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(from_folder - wanted).max() < 1e-5
    assert np.abs(Engine.load(gguf, threads=1, cache_type="f32").logits(ids) - wanted).max() < 0.02

    # Nothing is left to do, and another budget is another run.
    assert pretrain_job(RECIPE, shards, tokenizer, tmp_path).run(tmp_path) == (gguf, folder)
    with pytest.raises(UserError, match=r"batch_tokens \(256 -> 128\)"):
        pretrain_job(replace(RECIPE, batch_tokens=128), shards, tokenizer, tmp_path).run(tmp_path)


def test_training_goes_on_from_a_model(tmp_path: Path, shards: list[Path], tokenizer: Tokenizer, base: Path) -> None:
    job = pretrain_job(replace(RECIPE, base=str(base)), shards, tokenizer, tmp_path / "more")
    start = load_model(base).state_dict()
    assert all(torch.equal(start[name], tensor) for name, tensor in job.model.state_dict().items())
    assert job.recipe.model.hidden_size == 32 and len(job.run(tmp_path / "more")) == 2


def test_an_upcycled_model_keeps_what_was_to_be_frozen(tmp_path: Path, base: Path) -> None:
    values = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**values, "upcycled": {"freeze_dense": True}}))
    learning = {name.split(".")[3] for name, p in load_base(base).named_parameters() if p.requires_grad}
    assert learning == {"block_sparse_moe", "post_attention_layernorm"}


def test_data_that_do_not_fit_are_told(tmp_path: Path, shards: list[Path], tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="tokenised by another tokenizer"):
        pretrain_job(RECIPE, shards, tokenizer.truncate(300), tmp_path)
    with pytest.raises(UserError, match="no training data"):
        pretrain_job(RECIPE, [], tokenizer, tmp_path)
    with pytest.raises(UserError, match="two folders are of domain numbers"):
        pretrain_job(RECIPE, [shards[0], shards[0]], tokenizer, tmp_path)
    with pytest.raises(UserError, match="epochs of its"):
        pretrain_job(replace(RECIPE, max_epochs=0.01), shards, tokenizer, tmp_path)


def test_hints_can_be_followed(tmp_path: Path, shards: list[Path], tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError) as caught:
        pretrain_job(replace(RECIPE, max_epochs=0.01), shards, tokenizer, tmp_path)
    assert "on_excess=reweight" in str(caught.value.hint)
    recipe = override(RECIPE, ["on_excess=reweight"])
    assert curriculum_of(recipe, {"numbers": TokenShards(shards[0])}).on_excess == "reweight"
    with pytest.raises(UserError) as caught:
        override(NanoRecipe(), ["train.steps=9"])
    assert caught.value.hint == "did you mean tune.steps?"


@pytest.mark.parametrize(("type_", "told"), [("Q9", "Q9 is unknown"), ("Q4_K", "rows of a multiple of 256 values, .* has 32")])
def test_a_type_that_cannot_be_exported_is_told_before_the_run(
    tmp_path: Path, shards: list[Path], tokenizer: Tokenizer, base: Path, type_: str, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        pretrain_job(replace(RECIPE, export_type=type_), shards, tokenizer, tmp_path)
    with pytest.raises(UserError, match=told):
        sft_job(SftRecipe(export_type=type_), [write_lines(tmp_path / "a.jsonl", OTHERS)], base, tmp_path)


def test_a_finished_run_is_exported_in_another_type(tmp_path: Path, shards: list[Path], tokenizer: Tokenizer) -> None:
    recipe = replace(RECIPE, train=replace(RECIPE.train, steps=1))
    for type_ in ("F16", "BF16"):
        path, _ = pretrain_job(replace(recipe, export_type=type_), shards, tokenizer, tmp_path).run(tmp_path)
        assert read_gguf(path).tensors["blk.0.attn_q.weight"].type == type_


def test_a_field_that_an_older_version_fixed_may_change() -> None:
    saved = {**fixed_fields(RECIPE), "export_type": "F16"}
    check_unchanged(saved, replace(RECIPE, export_type="Q8_0"), Path("step-1"))


def test_sequences_longer_than_the_context_are_told_before_the_run(
    tmp_path: Path, shards: list[Path], tokenizer: Tokenizer, base: Path
) -> None:
    short = replace(RECIPE, model=replace(RECIPE.model, max_position_embeddings=32))
    with pytest.raises(UserError, match="a sequence of 64 tokens is longer than the model's context, 32"):
        pretrain_job(short, shards, tokenizer, tmp_path)
    values = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**values, "max_position_embeddings": 8}))
    with pytest.raises(UserError, match=r"an example of .* tokens is longer than the model's context, 8"):
        sft_job(SftRecipe(min_shared_tokens=4), [write_lines(tmp_path / "a.jsonl", PAIRS)], base, tmp_path)


def test_a_dry_run_says_what_the_run_takes(tmp_path: Path, shards: list[Path], tokenizer: Tokenizer) -> None:
    job = pretrain_job(RECIPE, shards, tokenizer, tmp_path)
    found = estimate(job, tmp_path)
    parameters = sum(p.numel() for p in job.model.parameters())
    experts = sum(p.numel() for n, p in job.model.named_parameters() if ".experts." in n)
    assert (found.parameters, found.active_parameters) == (parameters, parameters - experts // 2)
    assert found.steps == 4 and found.tokens_per_step == 512
    assert 8 * parameters <= found.moment_bytes < found.memory_bytes
    # A checkpoint holds weights and two moments; files and manifest add little.
    assert 12 * parameters < found.checkpoint_bytes < 12 * parameters + 100_000
    assert 4 * found.seconds_per_step <= found.seconds
    assert {p.name for p in tmp_path.iterdir()} == {"estimate.json"}


def test_a_dry_run_tries_the_largest_batch_and_tells_of_the_mean_one(tmp_path: Path, base: Path) -> None:
    data = write_lines(tmp_path / "pairs.jsonl", PAIRS + OTHERS)
    recipe = SftRecipe(batch_tokens=64, min_shared_tokens=8, epochs=2, train=replace(SftRecipe().train, accumulate=2))
    job = sft_job(recipe, [data], base, tmp_path / "run")
    tokens = [job.objective.size(batch).tokens for batch in job.source.upcoming()]  # type: ignore[attr-defined]
    assert len(set(tokens)) > 1  # or there is nothing to see
    tried: list[int] = []
    size = type(job.objective).size

    class Watched(type(job.objective)):  # type: ignore[misc]
        def __call__(self, model: Any, batch: Any) -> Any:
            tried.append(size(self, batch).tokens)
            return super().__call__(model, batch)

    job.objective.__class__ = Watched
    (tmp_path / "run").mkdir()
    found = estimate(job, tmp_path / "run")
    assert tried[-2:] == [max(tokens)] * 2  # both of the last step
    assert tried[:3] == [sorted(tokens)[int(share * len(tokens))] for share in (0.5, 0.25, 0.75)]
    assert found.tokens_per_step == pytest.approx(2 * sum(tokens) / len(tokens))
    assert found.seconds_per_step > 0 and found.flops_per_step > 0


def test_free_memory_is_handed_back_now_and_then(
    tmp_path: Path, shards: list[Path], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[int] = []
    monkeypatch.setattr("openarctic.train.trainer.return_free_memory", lambda: trims.append(1))
    pretrain_job(RECIPE, shards, tokenizer, tmp_path / "a").run(tmp_path / "a")
    assert not trims  # four steps of milliseconds
    monkeypatch.setattr("openarctic.train.trainer.TRIM_SECONDS", 0.0)
    pretrain_job(RECIPE, shards, tokenizer, tmp_path / "b").run(tmp_path / "b")
    assert len(trims) == 4


def test_too_little_memory_or_disk_is_said_before_the_run(
    tmp_path: Path, shards: list[Path], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = pretrain_job(RECIPE, shards, tokenizer, tmp_path)
    monkeypatch.setattr("openarctic.machine.available_bytes", lambda *_: 100_000)
    with pytest.raises(CapacityError, match="gradients, moments and activations"):
        check_room(job, tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": bytes_needed(job).checkpoint})())
    with pytest.raises(CapacityError, match="checkpoints and model files take"):
        check_room(job, tmp_path / "run")


def test_weights_that_do_not_fit_are_told_before_the_model_is_made(
    tmp_path: Path, shards: list[Path], tokenizer: Tokenizer, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 4 * load_base(base).num_parameters()
    monkeypatch.setattr("openarctic.machine.available_bytes", lambda *_: needed - 1)
    for settings in (RECIPE, replace(RECIPE, base=str(base))):
        with pytest.raises(CapacityError, match="billion parameters in fp32 takes"):
            pretrain_job(settings, shards, tokenizer, tmp_path)
    monkeypatch.setattr("openarctic.machine.available_bytes", lambda *_: needed)
    assert pretrain_job(RECIPE, shards, tokenizer, tmp_path)


def test_an_accelerator_has_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (1000, 8000))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 700)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 200)
    check_device_memory(1500, "it", "less", torch.device("cuda"))
    with pytest.raises(CapacityError, match="of the accelerator's memory"):
        check_device_memory(1501, "it", "less", torch.device("cuda"))


def test_few_kernels_are_kept_unless_the_user_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, "7")
    keep_few_kernels()
    assert os.environ[name] == "7"
    monkeypatch.delenv(name)
    keep_few_kernels()
    assert os.environ[name] == "128"


def test_the_exported_files_take_what_was_told(tmp_path: Path, shards: list[Path], tokenizer: Tokenizer) -> None:
    job = pretrain_job(replace(RECIPE, train=replace(RECIPE.train, steps=1)), shards, tokenizer, tmp_path)
    gguf, folder = job.run(tmp_path)
    written = gguf.stat().st_size + sum(path.stat().st_size for path in folder.iterdir())
    assert job.exported_bytes < written < job.exported_bytes + 150_000  # a tokenizer, twice


def test_loss_free_balancing_ends_in_files_or_is_refused_before_the_run(
    tmp_path: Path, shards: list[Path], tokenizer: Tokenizer
) -> None:
    recipe = replace(RECIPE, routing=RoutingConfig(bias_update_rate=0.01))
    for share in (0.0, 0.1):  # none, and less than one of four steps
        with pytest.raises(UserError, match="leaves no step to learn without"):
            pretrain_job(replace(recipe, train=replace(RECIPE.train, unbiased_share=share)), shards, tokenizer, tmp_path)
    job = pretrain_job(replace(recipe, train=replace(RECIPE.train, unbiased_share=0.25)), shards, tokenizer, tmp_path)
    assert job.notes == ("the last 25% of the run are without the biases of loss-free balancing, as the exported files are",)
    assert len(job.run(tmp_path)) == 2


def test_a_run_that_goes_on_needs_no_room_for_the_checkpoints_it_has(
    tmp_path: Path, shards: list[Path], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain_job(RECIPE, shards, tokenizer, tmp_path).run(tmp_path)
    job = pretrain_job(RECIPE, shards, tokenizer, tmp_path)
    # Of three checkpoints that may lie there at once, one and a first one without moments do.
    free = 2 * bytes_needed(job).checkpoint + job.exported_bytes
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free})())
    check_room(job, tmp_path)
    with pytest.raises(CapacityError, match="checkpoints and model files take"):
        check_room(job, tmp_path / "elsewhere")


def test_spread_experts_are_counted_once_on_disk(tmp_path: Path, shards: list[Path], tokenizer: Tokenizer) -> None:
    job = pretrain_job(RECIPE, shards, tokenizer, tmp_path)
    alone = bytes_needed(job)
    assert bytes_needed(job, of_all=True) == alone
    for layer in job.model.model.layers:  # as a process holds them that shares experts with another
        layer.block_sparse_moe.experts = torch.nn.ModuleDict({str(e): layer.block_sparse_moe.experts[e] for e in (2, 3)})
    assert bytes_needed(job, of_all=True) == alone and bytes_needed(job).total < alone.total


def test_muon_keeps_one_moment_for_hidden_matrices(tmp_path: Path, shards: list[Path], tokenizer: Tokenizer) -> None:
    recipe = replace(RECIPE, train=replace(RECIPE.train, optimizer="muon", steps=1))
    job = pretrain_job(recipe, shards, tokenizer, tmp_path)
    needed = bytes_needed(job)
    job.run(tmp_path)
    state = (tmp_path / "checkpoints" / "step-1" / "state-00001-of-00001.safetensors").stat().st_size
    assert needed.checkpoint < state < needed.checkpoint + 50_000


# Supervised tuning

PAIRS = [{"prompt": f"Colours are red, green and blue. Say number {i}:", "response": f" it is {i}"} for i in range(12)]
OTHERS = [{"prompt": f"{i} plus one is", "response": f" {i + 1}"} for i in range(20)]


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


@pytest.fixture
def base(tmp_path: Path, shards: list[Path], tokenizer: Tokenizer) -> Path:
    recipe = replace(RECIPE, train=replace(RECIPE.train, steps=1))
    return pretrain_job(recipe, shards, tokenizer, tmp_path / "base").run(tmp_path / "base")[1]


def test_tuning_learns_the_answers_and_packs_what_is_shared(tmp_path: Path, base: Path) -> None:
    data = write_lines(tmp_path / "pairs.jsonl", PAIRS + OTHERS)
    recipe = SftRecipe(
        epochs=3,
        batch_tokens=128,
        min_shared_tokens=8,
        validation_share=0.1,
        frozen=("model.embed_tokens.*",),
        train=replace(SftRecipe().train, lr=5e-3, warmup_steps=1),
    )
    job = sft_job(recipe, [data], base, tmp_path / "run")
    kinds = {type(batch).__name__ for batch in job.source._epochs(0)}  # type: ignore[attr-defined]
    assert kinds == {"Pack", "Batch"}
    embedding = job.model.model.embed_tokens.weight.detach().clone()
    job.run(tmp_path / "run")
    log = read_log(tmp_path / "run")
    assert log[-1]["loss"] < log[0]["loss"] and "held out" in log[-1]["validation"]
    assert torch.equal(job.model.model.embed_tokens.weight, embedding)


def test_tuning_goes_on_with_the_same_examples_only(tmp_path: Path, base: Path) -> None:
    data = write_lines(tmp_path / "pairs.jsonl", PAIRS + OTHERS)
    recipe = SftRecipe(batch_tokens=64, min_shared_tokens=8, train=replace(SftRecipe().train, steps=1))
    sft_job(recipe, [data], base, tmp_path / "run").run(tmp_path / "run")
    longer = replace(recipe, train=replace(recipe.train, steps=2))
    write_lines(data, PAIRS + OTHERS[:-1])
    with pytest.raises(UserError, match="data of this run have changed"):
        sft_job(longer, [data], base, tmp_path / "run").run(tmp_path / "run")
    write_lines(data, PAIRS + OTHERS)
    assert sft_job(longer, [data], base, tmp_path / "run").run(tmp_path / "run")
    assert len(read_log(tmp_path / "run")) == 2


def test_tuning_goes_on_from_the_same_base_only(tmp_path: Path, base: Path) -> None:
    data = write_lines(tmp_path / "pairs.jsonl", OTHERS)
    recipe = SftRecipe(batch_tokens=64, frozen=("model.embed_tokens.*",), train=replace(SftRecipe().train, steps=1))
    job = sft_job(recipe, [data], base, tmp_path / "run")
    frozen = job.model.model.embed_tokens.weight.numel()
    assert job.notes == (f"{frozen:,} of {job.model.num_parameters():,} parameters are frozen",)
    tuned = job.run(tmp_path / "run")[1]
    with pytest.raises(UserError, match=f"began with the model {base}, and {tuned} is another"):
        sft_job(recipe, [data], tuned, tmp_path / "run").run(tmp_path / "run")
    moved = base.rename(tmp_path / "elsewhere")
    assert sft_job(recipe, [data], moved, tmp_path / "run").run(tmp_path / "run")


@pytest.mark.parametrize("changes", [{"validation_share": 1.0}, {"validation_share": -0.1}, {"epochs": 0.0}])
def test_a_recipe_that_leaves_nothing_to_learn_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        SftRecipe(**changes)


def test_packs_and_sequences_hold_every_example_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    examples = list(read_examples(write_lines(tmp_path / "a.jsonl", OTHERS + PAIRS), tokenizer))
    groups, single = share_beginnings(examples, 8)
    assert [len(group) for group in groups] == [12]
    packs = list(packs_of(groups[0], 80))
    assert len(packs) > 1 and all(len(pack) <= 80 for pack in packs)
    unpacked = [(pack.prefix + s.prompt, s.target) for pack in packs for s in pack.segments]
    assert sorted(unpacked) == sorted((e.prompt, e.target) for e in groups[0])
    batches = list(sequences_of(single, 64))
    assert sum(int((batch.labels != -100).sum()) for batch in batches) == sum(len(e.target) for e in single)
    assert all((batch.labels[batch.position_ids == 0] == -100).all() for batch in batches)


def test_a_group_shares_a_beginning_among_all_its_members() -> None:
    # 1 and 2 share much, 2 and 3 share much, 1 and 3 little: three cannot be one group.
    prompts = [[1] * 4 + [2] * 20, [1] * 24 + [2], [1] * 24 + [3]]
    groups, single = share_beginnings([Example(p, [9]) for p in prompts], 8)
    assert [len(group) for group in groups] == [2] and [e.prompt for e in single] == [prompts[0]]
    assert all(isinstance(pack, Pack) and len(pack.prefix) == 24 for pack in packs_of(groups[0], 100))


def test_every_turn_of_the_assistant_is_learned(tokenizer: Tokenizer, tmp_path: Path) -> None:
    each = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    template = each + "{% if add_generation_prompt %}assistant:{% endif %}"
    metadata = {**tokenizer.to_gguf_metadata(), "tokenizer.chat_template": template}
    chat = Tokenizer.from_gguf_metadata(metadata)
    messages = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))]
    first, second = read_examples(write_lines(tmp_path / "chat.jsonl", [{"messages": messages}]), chat)
    assert chat.decode(first.prompt) == "user: a\nassistant:" and chat.decode(first.target).strip() == "b"
    assert (
        chat.decode(second.prompt) == "user: a\nassistant: b\nuser: c\nassistant:" and chat.decode(second.target).strip() == "d"
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "a.jsonl:2 is not JSON"),
        ("[1]", "a.jsonl:2 is not a JSON object"),
        ('{"prompt": NaN, "response": "x"}', "a.jsonl:2: NaN is not a value"),
        ('{"prompt": "x"}', "a.jsonl:2: response is None"),
        ('{"prompt": "", "response": "x"}', "a.jsonl:2: prompt is ''"),
        ('{"messages": "x"}', "a.jsonl:2: messages must be"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "a.jsonl:2: no message is the assistant's"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, tokenizer: Tokenizer, line: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        list(read_examples(write_lines(tmp_path / "a.jsonl", [PAIRS[0], line]), tokenizer))


def test_long_examples_are_told_or_left_out(tmp_path: Path, base: Path) -> None:
    data = write_lines(tmp_path / "long.jsonl", [{"prompt": "one " * 100, "response": "two"}, PAIRS[0]])
    with pytest.raises(UserError, match="1 of 2 examples are longer than 64 tokens"):
        sft_job(SftRecipe(max_tokens=64), [data], base, tmp_path / "run")
    job = sft_job(SftRecipe(max_tokens=64, long_examples="drop"), [data], base, tmp_path / "run")
    assert job.notes == ("1 examples of more than 64 tokens are left out",)
    with pytest.raises(MissingError, match="no model at"):
        sft_job(SftRecipe(), [data], tmp_path / "nowhere", tmp_path / "run")


def test_the_command_refuses_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny"]) == 2
    assert main(["train", "sft", "--out", str(tmp_path)]) == 2
    assert main(["train", "pretrain", "--out", str(tmp_path)]) == 2
    assert main(["train", "tiny", "--out", str(tmp_path), "--resume", "sometimes"]) == 2
    assert main(["train", "tiny", "--out", str(tmp_path), "--set", "train.optimizer=sgd"]) == 2
    for threads in ("0", "-3"):
        assert main(["train", "tiny", "--out", str(tmp_path), "--threads", threads]) == 2
    told = capsys.readouterr().err
    for part in (
        "--out is missing",
        "--base is missing",
        "--tokenizer is missing",
        "'sometimes' is not",
        "one of adamw, muon",
        "threads is -3",
    ):
        assert part in told
