"""Llama, Qwen2, Qwen3, Mixtral, OLMoE and Qwen3-MoE: from a checkpoint of transformers through a conversion, in plain numpy, in
the engine, in llama.cpp and back in transformers, the same logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import transformers  # noqa: E402
from openarctic.native._native import available_kernels  # noqa: E402

from openarctic.engine import Engine  # noqa: E402
from openarctic.engine.reference import reference_logits  # noqa: E402
from openarctic.errors import UserError  # noqa: E402
from openarctic.formats import HybridConfig, read_gguf  # noqa: E402
from openarctic.formats.checkpoint import open_checkpoint  # noqa: E402
from openarctic.formats.convert import ConvertOptions, convert  # noqa: E402
from openarctic.formats.names import config_from_gguf, stock_obstacles  # noqa: E402
from openarctic.formats.sources import open_source  # noqa: E402
from openarctic.model import load_model  # noqa: E402
from openarctic.model.importance import measure_importance  # noqa: E402
from tests.tokenizer.folders import README  # noqa: E402

IDS = np.random.default_rng(0).integers(0, 96, 24).tolist()
SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TOP = {"num_experts_per_tok": 2}
# Name -> class and what its config says beyond SIZES.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, own head_dim, tied": ("Llama", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2, tied, one kv head": ("Qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3, tied, plain head_dim": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "mixtral": ("Mixtral", {"num_local_experts": 8, **TOP}),
    "mixtral, one expert, own head_dim": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 1, "head_dim": 24}),
    "olmoe": ("Olmoe", {"num_experts": 8, "num_experts_per_tok": 4, "num_key_value_heads": 4}),
    "olmoe, shared kv heads": ("Olmoe", {"num_experts": 4, **TOP}),
    "olmoe, renormalised": ("Olmoe", {"num_experts": 4, **TOP, "norm_topk_prob": True, "num_key_value_heads": 4}),
    "qwen3_moe": (
        "Qwen3Moe",
        {"head_dim": 32, "num_experts": 8, **TOP, "moe_intermediate_size": 32, "norm_topk_prob": True},
    ),
    "qwen3_moe, not renormalised": ("Qwen3Moe", {"head_dim": 16, "num_experts": 4, **TOP, "moe_intermediate_size": 64}),
}
ARCTICS = ("llama", "mixtral")  # which Arctic's own form can say
NOT_STOCK = ("olmoe, shared kv heads", "olmoe, renormalised", "qwen3_moe, not renormalised")


def make_model(case: str) -> Any:
    """A random model of transformers' own class, with biases and norms that are not those of a new one."""
    name, changes = CASES[case]
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**{**SIZES, **changes}))
    with torch.no_grad():
        for own, parameter in model.named_parameters():
            if own.endswith("norm.weight"):
                parameter.normal_(1.0, 0.2)
            elif parameter.ndim == 1:
                parameter.normal_(0.0, 0.3)
            else:
                parameter.normal_(0.0, 1.2 / parameter.shape[-1] ** 0.5)
    return model.eval()


def logits_of(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].double().numpy()


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path, np.ndarray]:
    """The case, its checkpoint, its F32 GGUF file, and transformers' logits."""
    folder = tmp_path_factory.mktemp("family")
    model = make_model(request.param)
    model.save_pretrained(folder / "checkpoint", max_shard_size="60KB")
    convert(open_source(folder / "checkpoint"), folder / "m.gguf", ConvertOptions(type="F32"))
    return request.param, folder / "checkpoint", folder / "m.gguf", logits_of(model)


def test_the_reference_computes_what_transformers_computes(made: Any) -> None:
    _, _, gguf, wanted = made
    assert np.abs(reference_logits(read_gguf(gguf), IDS) - wanted).max() < 1e-4


@pytest.mark.parametrize("kernels", available_kernels())
def test_the_engine_computes_what_transformers_computes(made: Any, kernels: str) -> None:
    _, _, gguf, wanted = made
    engine = Engine.load(gguf, threads=1, kernels=kernels, cache_type="f32")
    assert np.abs(engine.logits(IDS) - wanted).max() < 1e-4


def test_all_forms_describe_one_model(made: Any) -> None:
    case, checkpoint, gguf, _ = made
    config = HybridConfig.from_file(checkpoint)
    from_file = config_from_gguf(read_gguf(gguf))
    assert from_file.model_type == config.model_type == ("arctic" if case in ARCTICS else case.split(",")[0])
    unsaid = {"rms_norm_eps": 1e-5, "router_aux_loss_coef": 0.001, "bos_token_id": None, "eos_token_id": None}
    assert replace(from_file, **unsaid) == replace(config, **unsaid)
    assert HybridConfig.from_dict(config.to_dict()) == config
    assert bool(stock_obstacles(config)) == (case in NOT_STOCK)


def test_a_file_becomes_a_checkpoint_of_its_family(made: Any, tmp_path: Path) -> None:
    _, _, gguf, wanted = made
    convert(open_source(gguf), tmp_path / "back", ConvertOptions())
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    assert np.abs(logits_of(model.eval()) - wanted).max() < 1e-5


def test_importance_is_measured_where_torch_computes_the_model(made: Any) -> None:
    case, _, gguf, _ = made
    if case in ARCTICS:
        assert "blk.0.attn_q.weight" in measure_importance(gguf, IDS)
        return
    with pytest.raises(UserError, match="the measurement cannot compute"):
        measure_importance(gguf, IDS)


def test_torch_takes_what_arctics_form_says_and_refuses_the_rest(made: Any) -> None:
    case, checkpoint, gguf, wanted = made
    for path in (checkpoint, gguf):
        if case in ARCTICS:
            assert np.abs(logits_of(load_model(path)) - wanted).max() < 1e-4
            continue
        with pytest.raises(UserError, match="the torch model cannot compute"):
            load_model(path)


def test_a_training_layout_is_arctics(made: Any, tmp_path: Path) -> None:
    case, checkpoint, _, _ = made
    if case in ARCTICS:
        convert(open_source(checkpoint), tmp_path / "stacked", ConvertOptions(layout="training"))
        with open_checkpoint(tmp_path / "stacked") as stacked:
            assert stacked.layout == "training"
        return
    with pytest.raises(UserError, match="the training layout cannot"):
        convert(open_source(checkpoint), tmp_path / "stacked", ConvertOptions(layout="training"))


@pytest.mark.parametrize("type_", ["Q8_0", "Q4_0"])
def test_quantised_files_are_those_of_the_reference(made: Any, type_: str, tmp_path: Path) -> None:
    _, checkpoint, _, _ = made
    convert(open_source(checkpoint), tmp_path / "q.gguf", ConvertOptions(type=type_, is_pure=True))
    wanted = reference_logits(read_gguf(tmp_path / "q.gguf"), IDS)
    got = Engine.load(tmp_path / "q.gguf", threads=1, cache_type="f32").logits(IDS)
    assert np.median(np.abs(got - wanted)) < (2e-3 if type_ == "Q8_0" else 0.15)


@pytest.mark.peer
def test_llama_cpp_runs_the_same_file(made: Any) -> None:
    pytest.importorskip("llama_cpp")
    from openarctic.model.parity.runtimes import RUNTIMES, Forms, Task

    case, checkpoint, gguf, wanted = made
    if case in NOT_STOCK:
        pytest.skip("; ".join(stock_obstacles(HybridConfig.from_file(checkpoint))))
    prompts = [IDS[: 4 + i] for i in range(8)]
    task = Task(prompts, 32, 1, [IDS])
    mine, theirs = (RUNTIMES[name].run(Forms(checkpoint, gguf), task) for name in ("openarctic", "llama.cpp"))
    print(f"{case}: llama.cpp differs by {np.abs(theirs.logits[0] - wanted).max():.2g} from transformers")
    assert np.abs(theirs.logits[0] - wanted).max() < 1e-3
    assert mine.tokens == theirs.tokens


def trained(name: str) -> Any:
    """A tokenizer of transformers' own class, with a vocabulary learnt from this repository's README."""
    new = getattr(transformers, name)()
    return new.train_new_from_iterator([README], 400)


@pytest.mark.parametrize(("case", "name", "pre"), [("qwen2", "Qwen2Tokenizer", "qwen2"), ("olmoe", "GPTNeoXTokenizer", "olmo")])
def test_a_checkpoint_with_its_tokenizer_says_the_same_in_a_file(case: str, name: str, pre: str, tmp_path: Path) -> None:
    theirs = trained(name)
    family, changes = CASES[case]
    sizes = {**SIZES, **changes, "vocab_size": 448, "num_hidden_layers": 1, "bos_token_id": None, "pad_token_id": None}
    sizes["eos_token_id"] = theirs.eos_token_id
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**sizes))
    model.save_pretrained(tmp_path / "checkpoint")
    theirs.save_pretrained(tmp_path / "checkpoint")
    convert(open_source(tmp_path / "checkpoint"), tmp_path / "m.gguf", ConvertOptions(type="F32"))
    assert read_gguf(tmp_path / "m.gguf").metadata["tokenizer.ggml.pre"] == pre
    engine = Engine.load(tmp_path / "m.gguf", threads=1, cache_type="f32")
    assert engine.tokenizer is not None and engine.tokenizer.eos_id == theirs.eos_token_id
    for text in (README, "it's 12345 e\u0301 \u00e9\n\n  SELECT\t* FROM t", ""):
        assert engine.tokenizer.encode(text) == theirs(text, add_special_tokens=False).input_ids
    prompt = torch.tensor([theirs("The model").input_ids])
    wanted = model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, prompt.shape[1] :].tolist()
    made = engine.generate("The model", max_tokens=12)[0]
    assert made.ids == wanted[: len(made.ids)] and len(made.ids) >= len(wanted) - 1  # theirs counts the end token
