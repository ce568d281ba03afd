"""Other trainers take the hybrid as it is: the examples of docs/train-elsewhere.md are run here.

DeepSpeed is for `pytest -m ecosystem tests/train/test_elsewhere.py` in an environment that has it.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
import transformers  # noqa: E402

from openarctic.formats import HybridConfig  # noqa: E402
from openarctic.model import ArcticForCausalLM, load_model  # noqa: E402
from openarctic.train.sft import SftRecipe, sft_job  # noqa: E402
from openarctic.train.upcycle import freeze_dense, is_new, upcycle  # noqa: E402
from tests.model.test_families import SIZES  # noqa: E402
from tests.tokenizer.folders import README  # noqa: E402

DOCUMENT = Path(__file__).parents[2] / "docs" / "train-elsewhere.md"


def example(name: str, folder: Path) -> Path:
    """An example of the guide as a file."""
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    assert found, f"{DOCUMENT.name} has no example {name}"
    path = folder / f"{name}.py"
    path.write_text(found[1], encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples need: an upcycled hybrid with its tokenizer, and a text."""
    tokenizer = transformers.Qwen2Tokenizer().train_new_from_iterator([README], 400)
    torch.manual_seed(0)
    dense = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{**SIZES, "vocab_size": 448}))
    hybrid = upcycle_dense(dense)
    hybrid.config.router_aux_loss_coef = 0.05
    hybrid.save_pretrained(tmp_path / "hybrid")
    tokenizer.save_pretrained(tmp_path / "hybrid")
    (tmp_path / "text.txt").write_text(README, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def upcycle_dense(dense: Any) -> ArcticForCausalLM:
    names = {"mlp.gate_proj": "block_sparse_moe.mlp.w1", "mlp.down_proj": "block_sparse_moe.mlp.w2"}
    names["mlp.up_proj"] = "block_sparse_moe.mlp.w3"
    state = {}
    for name, tensor in dense.state_dict().items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        state[name] = tensor
    config = HybridConfig.from_dict(dense.config.to_dict())
    return upcycle(config, state, num_local_experts=4, num_experts_per_tok=2, intermediate_size=32, moe_layer_frequency=2, seed=0)


def losses_of(folder: Path) -> list[float]:
    """What the Trainer logged."""
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_the_trainer_trains_saves_and_goes_on_where_it_was(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = example("trainer", place)
    runpy.run_path(str(script))
    losses = losses_of(place / "trained")
    assert len(losses) == 8 and losses[-1] < losses[0] - 0.2
    whole = load_model(place / "trained" / "final").state_dict()
    # The same, stopped after four steps: what the second run makes has the same bits.
    (place / "trained").rename(place / "uninterrupted")
    (place / "trained").mkdir()
    (place / "uninterrupted" / "checkpoint-4").rename(place / "trained" / "checkpoint-4")
    runpy.run_path(str(script))
    assert losses_of(place / "trained") == losses
    resumed = load_model(place / "trained" / "final").state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    moved = [name for name in whole if ".experts." in name and name.endswith("w2.weight") and whole[name].any()]
    assert len(moved) == 4  # which upcycling left at zero


def test_losses_of_accumulated_batches_sum_to_their_mean(place: Path) -> None:
    """As the Trainer sums them: it divides by nothing where the model takes `num_items_in_batch`."""
    model = transformers.AutoModelForCausalLM.from_pretrained(place / "hybrid")
    batches = [torch.arange(32)[None] * factor % 448 for factor in (3, 5)]
    outputs = [model(ids, labels=ids) for ids in batches]
    assert all(output.aux_loss > 0.5 for output in outputs)
    total = sum(model(ids, labels=ids, num_items_in_batch=64).loss.item() for ids in batches)
    coef = model.config.router_aux_loss_coef
    cross_entropy = sum((output.loss - coef * output.aux_loss) * 31 for output in outputs) / 64  # 31 of 32 labels have a past
    assert total == pytest.approx((cross_entropy + coef * sum(output.aux_loss for output in outputs) / 2).item(), abs=1e-5)


def test_lora_on_attention_and_experts_merges_to_what_the_adapter_computes(place: Path) -> None:
    peft = pytest.importorskip("peft")
    names = runpy.run_path(str(example("lora", place)))
    adapted = {name.split(".lora_")[0] for name in torch_names(place / "adapted" / "adapter" / "adapter_model.safetensors")}
    kinds = ("q_proj", "o_proj", "residual_mlp.w1", "block_sparse_moe.mlp.w3", "experts.3.w2")
    assert all(any(name.endswith(kind) for name in adapted) for kind in kinds) and not any("gate" in name for name in adapted)
    base = transformers.AutoModelForCausalLM.from_pretrained(place / "hybrid")
    adapter = peft.PeftModel.from_pretrained(base, place / "adapted" / "adapter").eval()
    merged = transformers.AutoModelForCausalLM.from_pretrained(place / "adapted" / "merged").eval()
    ids = torch.tensor([names["rows"][0]])
    with torch.no_grad():
        assert (adapter(ids).logits - merged(ids).logits).abs().max() < 1e-4
        assert (merged(ids).logits - load_model(place / "hybrid")(ids).logits).abs().max() > 1e-2


def torch_names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())


def test_frozen_is_all_but_what_upcycling_added(place: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(place / "hybrid")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learning = freeze_dense(model)
    assert len(learning) == 4 * 3 + 2 and all(is_new(model.config, name) for name in learning)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    ids = torch.arange(64)[None] * 5 % 448
    losses = []
    for _ in range(5):
        loss = model.train()(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == set(learning)


def test_our_own_trainer_does_what_upcycling_noted(place: Path) -> None:
    config = json.loads((place / "hybrid" / "config.json").read_text())
    (place / "pairs.jsonl").write_text('{"prompt": "Who?", "response": "They."}\n' * 8, encoding="utf-8")
    for noted in (True, False):
        (place / "hybrid" / "config.json").write_text(json.dumps({**config, "upcycled": {"freeze_dense": noted}}))
        job = sft_job(SftRecipe(frozen=("*.gate.*",)), [place / "pairs.jsonl"], place / "hybrid", place)
        learning = {name for name, parameter in job.model.named_parameters() if parameter.requires_grad}
        assert not any(".gate." in name for name in learning) and any(".experts." in name for name in learning)
        assert any(".self_attn." in name for name in learning) != noted


@pytest.mark.ecosystem
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_in_two_processes_is_plain_training(stage: int, place: Path) -> None:
    """DeepSpeed compiles its shared-memory collectives when it first starts without a GPU, which takes minutes."""
    pytest.importorskip("deepspeed")
    script = example("zero", place)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script.name]
    environment = {**os.environ, "ZERO_STAGE": str(stage)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, cwd=place)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads(found) for found in re.findall(r"\{.*?\}", done.stdout)]  # of two processes, lines may run together
    losses = [[entry["loss"] for entry in told if entry["step"] == step] for step in range(4)]
    wanted, model = plain_training(place)
    assert [sum(each) / 2 for each in losses] == pytest.approx(wanted, abs=1e-4) and all(len(each) == 2 for each in losses)
    if stage == 3:
        return  # each process has a part of every tensor
    trained = load_model(place / "trained").state_dict()
    assert all((trained[name] - tensor).abs().max() < 1e-4 for name, tensor in model.state_dict().items())


def plain_training(place: Path) -> tuple[list[float], ArcticForCausalLM]:
    """What the ZeRO example does in two processes, in one and without DeepSpeed: losses and the trained model."""
    model = transformers.AutoModelForCausalLM.from_pretrained(place / "hybrid").train()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "hybrid")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    ids = tokenizer((place / "text.txt").read_text(encoding="utf-8")).input_ids
    rows = torch.tensor([ids[i : i + 64] for i in range(0, len(ids) - 63, 64)])
    losses = []
    for step in range(4):
        total = 0.0
        for part in range(4):  # two processes with two accumulated batches each
            batch = rows[torch.arange(step * 8 + part * 2, step * 8 + part * 2 + 2) % len(rows)]
            loss = model(batch, labels=batch).loss / 4
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses, model
