"""The model among transformers' own tools: Auto classes, generation, saving, adapters, trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM  # noqa: E402

from openarctic.errors import CorruptError, MissingError, UserError  # noqa: E402
from openarctic.model import ArcticConfig, ArcticForCausalLM, ArcticModel, load_model  # noqa: E402
from tests.plain_hybrid import PlainHybrid  # noqa: E402
from tests.tiny import IDS, LAYOUTS, random_state, tiny_config  # noqa: E402


def write_checkpoint(folder: Path, config: dict[str, object], seed: int = 0) -> Path:
    """A folder as a publisher would lay it out: config.json and one safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    official = {"model_type": "arctic", "architectures": ["ArcticForCausalLM"], "use_residual": config["parallel_attn_mlp_res"]}
    (folder / "config.json").write_text(json.dumps({**config, **official, "moe_min_capacity": 0}))
    tensors = {name: torch.from_numpy(values) for name, values in random_state(config, seed).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), tiny_config(bos_token_id=1, eos_token_id=2))


def greedy(model: ArcticForCausalLM, ids: list[int], count: int) -> list[int]:
    """Without cache and without `generate`: the whole sequence anew for every token."""
    out = list(ids)
    with torch.no_grad():
        for _ in range(count):
            out.append(int(model(torch.tensor([out]), use_cache=False).logits[0, -1].argmax()))
    return out[len(ids) :]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_auto_classes_load_every_layout_without_remote_code(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout]
    model = AutoModelForCausalLM.from_pretrained(write_checkpoint(tmp_path, config, seed=3)).eval()
    assert type(model) is ArcticForCausalLM and type(AutoConfig.from_pretrained(tmp_path)) is ArcticConfig
    with torch.no_grad():
        got = model(torch.tensor([IDS])).logits[0].numpy()
    assert np.abs(got - PlainHybrid(config, random_state(config, 3)).logits(IDS)).max() < 1e-5
    assert type(AutoModel.from_pretrained(tmp_path)) is ArcticModel


def test_generate_with_and_without_cache(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None
    wanted = greedy(model, IDS, 16)
    for options in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        out = model.generate(torch.tensor([IDS]), max_new_tokens=16, do_sample=False, pad_token_id=0, **options)
        assert out[0, len(IDS) :].tolist() == wanted, options


def test_generate_in_a_padded_batch_is_generate_alone(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None
    prompts = [IDS, IDS[:5], IDS[3:11]]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    together = model.generate(ids, attention_mask=mask, max_new_tokens=10, do_sample=False, pad_token_id=0)
    assert [row[width:].tolist() for row in together] == [greedy(model, p, 10) for p in prompts]


def test_beams_and_logits_to_keep(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    out = model.generate(torch.tensor([IDS]), max_new_tokens=6, num_beams=3, do_sample=False, pad_token_id=0)
    assert len(IDS) < out.shape[1] <= len(IDS) + 6  # beams reorder the cache
    with torch.no_grad():
        whole, last = model(torch.tensor([IDS])).logits, model(torch.tensor([IDS]), logits_to_keep=2).logits
    assert torch.allclose(whole[:, -2:], last, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_and_loaded_is_the_same_model(layout: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_checkpoint(tmp_path / "a", LAYOUTS[layout]))
    model.save_pretrained(tmp_path / "b", max_shard_size="100KB")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    stored = {name for file in (tmp_path / "b").glob("*.safetensors") for name in load_file(file)}
    official = set(load_file(tmp_path / "a" / "model.safetensors"))
    assert stored == official
    saved = json.loads((tmp_path / "b" / "config.json").read_text())
    assert saved["moe_min_capacity"] == 0, "a key that we do not know survives"
    for key, value in LAYOUTS[layout].items():
        assert saved[key] == value, key


def test_bf16_follows_dtype(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert model(torch.tensor([IDS])).logits.dtype == torch.float32


def test_a_missing_key_of_config_json_is_an_error(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, tiny_config())
    values = json.loads((folder / "config.json").read_text())
    del values["num_experts_per_tok"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(MissingError, match="num_experts_per_tok"):
        AutoConfig.from_pretrained(folder)
    values |= {"num_experts_per_tok": 2, "use_residual": False}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="contradict"):
        AutoConfig.from_pretrained(folder)


@pytest.mark.parametrize("name", ["sdpa", pytest.param("flex_attention", marks=pytest.mark.slow)])  # flex is compiled first
def test_attention_implementations_agree(folder: Path, name: str) -> None:
    logits = {}
    for implementation in ("eager", name):
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation).eval()
        assert model.config._attn_implementation == implementation
        with torch.no_grad():
            logits[implementation] = model(torch.tensor([IDS]), use_cache=False).logits
    assert (logits["eager"] - logits[name]).abs().max() < 1e-5


def test_an_attention_implementation_that_is_not_installed_is_told(folder: Path) -> None:
    with pytest.raises(ImportError, match="Flash"):  # the switch is there, the package is not
        AutoModelForCausalLM.from_pretrained(folder, attn_implementation="flash_attention_2")


def test_device_map_with_offload_to_disk(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{i}": "disk" for i in (1, 2)}
    mapped = AutoModelForCausalLM.from_pretrained(folder, device_map=places, offload_folder=tmp_path).eval()
    assert next(mapped.model.layers[1].parameters()).device.type == "meta"
    with torch.no_grad():
        assert (mapped(torch.tensor([IDS])).logits - plain(torch.tensor([IDS])).logits).abs().max() < 1e-6
        auto = AutoModelForCausalLM.from_pretrained(folder, device_map="auto").eval()
        assert torch.equal(auto(torch.tensor([IDS])).logits, plain(torch.tensor([IDS])).logits)


def test_lora_trains_merges_and_reloads(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder)
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "w1", "w2", "w3"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, lora)
    adapted = {n.split(".lora_")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert any("experts.7.w2" in n for n in adapted) and any("residual_mlp.w1" in n for n in adapted)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    ids = torch.tensor([IDS, IDS[::-1]])
    losses = []
    for _ in range(6):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    model.eval()
    with torch.no_grad():
        trained = model(ids).logits
    model.save_pretrained(tmp_path / "adapter")
    reloaded = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert (reloaded(ids).logits - trained).abs().max() < 1e-5
    merged = reloaded.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        assert (whole(ids).logits - trained).abs().max() < 1e-4


def test_transformers_own_trainer_trains_it(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(folder)
    data = [{"input_ids": IDS, "labels": IDS} for _ in range(8)]
    options = TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-2,
        logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, gradient_checkpointing=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, options, train_dataset=data)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


EXPERT = "model.layers.1.block_sparse_moe.experts.{}.w2.weight"


def rewrite(folder: Path, change: Any) -> Path:
    """Edit the tensors of a checkpoint in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def lack(tensors: dict[str, Any]) -> None:
    del tensors[EXPERT.format(1)]


def add(tensors: dict[str, Any]) -> None:
    tensors[EXPERT.format(16)] = tensors[EXPERT.format(1)].clone()


def stack(tensors: dict[str, Any]) -> None:
    for layer in range(3):
        for matrix in ("w1", "w2", "w3"):
            prefix = f"model.layers.{layer}.block_sparse_moe.experts."
            tensors[f"{prefix}{matrix}.weight"] = torch.stack([tensors.pop(f"{prefix}{e}.{matrix}.weight") for e in range(8)])


def to_float8(tensors: dict[str, Any]) -> None:
    tensors.update({name: values.to(torch.float8_e4m3fn) for name, values in tensors.items() if values.dim() == 2})


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lack, MissingError, r"lacks 1 of .* tensors: .*experts\.1\.w2"),
        (add, CorruptError, r"1 tensors that its config does not know: .*experts\.16\.w2"),
        (stack, MissingError, r"lacks 72 of .* tensors: .*experts\.0\.w1"),
        (to_float8, UserError, "float8 checkpoints are not supported yet"),
        (lambda tensors: tensors.pop("lm_head.weight"), MissingError, "lm_head"),
    ],
)
def test_no_weight_is_left_to_chance(change: Any, error: type[Exception], told: str, tmp_path: Path) -> None:
    folder = rewrite(write_checkpoint(tmp_path, tiny_config()), change)
    with pytest.raises(error, match=told) as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert type(caught.value) is error and caught.value.hint  # type: ignore[attr-defined]
    if change in (lack, add):
        with pytest.raises(error, match=told.removeprefix("lacks 1 of")):
            AutoModel.from_pretrained(folder)


def test_the_training_layout_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = rewrite(write_checkpoint(tmp_path, tiny_config()), stack)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "layout": "openarctic.stacked"})
    with pytest.raises(UserError, match="training layout") as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert "load_model" in (caught.value.hint or "")
    assert load_model(folder).config.num_local_experts == 8


def test_a_model_without_head_and_back(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "whole", tiny_config())
    body = AutoModel.from_pretrained(folder)
    body.save_pretrained(tmp_path / "body")
    again = AutoModel.from_pretrained(tmp_path / "body")
    assert all(torch.equal(values, again.state_dict()[name]) for name, values in body.state_dict().items())
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "body")  # the head is new, as asked
    assert torch.equal(whole.model.norm.weight, body.norm.weight)
    rewrite(tmp_path / "body", lambda tensors: tensors.pop("norm.weight"))
    for kind in (AutoModel, AutoModelForCausalLM):
        with pytest.raises(MissingError, match=r"norm\.weight"):
            kind.from_pretrained(tmp_path / "body")


def test_loading_information_only_where_it_is_asked_for(folder: Path) -> None:
    assert isinstance(ArcticForCausalLM.from_pretrained(folder), ArcticForCausalLM)
    model, info = ArcticForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, ArcticForCausalLM) and not info["missing_keys"]


def test_an_adapter_brings_its_base_which_must_be_whole(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = write_checkpoint(tmp_path / "base", tiny_config())
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    tuned = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).eval()
    tuned.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        wanted = tuned(torch.tensor([IDS])).logits
        for kind in (AutoModelForCausalLM, ArcticForCausalLM):
            got = kind.from_pretrained(tmp_path / "adapter").eval()(torch.tensor([IDS])).logits
            assert torch.allclose(got, wanted, atol=1e-5)
    rewrite(base, lack)
    for kind in (AutoModelForCausalLM, ArcticForCausalLM):
        with pytest.raises(MissingError, match=r"experts\.1\.w2"):
            kind.from_pretrained(tmp_path / "adapter")


def test_several_end_tokens_stay(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a", tiny_config(eos_token_id=[2, 63]))
    config = AutoConfig.from_pretrained(folder)
    assert config.eos_token_id == [2, 63] and config.shape.eos_token_id == 2
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["eos_token_id"] == [2, 63]
