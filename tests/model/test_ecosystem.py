"""The model in tools that are no dependency of ours: quantised loading and the evaluation harness.

pip install bitsandbytes torchao lm_eval, then pytest -m ecosystem.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

import openarctic.model  # noqa: E402, F401 - registers the architecture
from tests.model.test_transformers import write_checkpoint  # noqa: E402
from tests.tiny import IDS, tiny_config  # noqa: E402

pytestmark = pytest.mark.ecosystem

# Wide enough for the blocks of every quantiser.
CONFIG = tiny_config(hidden_size=128, intermediate_size=128, num_attention_heads=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), CONFIG)


def logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([IDS]), use_cache=False).logits[0].float().numpy()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def quantised_linears(model: Any, kind: str) -> int:
    return sum(kind in f"{type(m).__name__} {type(getattr(m, 'weight', None)).__name__}" for m in model.modules())


def test_bitsandbytes(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    exact = logits(AutoModelForCausalLM.from_pretrained(folder).eval())
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["gate", "lm_head"],  # routers stay exact, as in GGUF
    )
    four = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config).eval()
    assert quantised_linears(four, "Linear4bit") == 3 * (4 + 3 + 3 * 8), "attention, residual MLP and every expert"
    # Routing may flip on a random model, so the bulk is compared.
    assert correlation(exact, logits(four)) > 0.9


def test_torchao(folder: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    exact = logits(AutoModelForCausalLM.from_pretrained(folder).eval())
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    eight = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config).eval()
    assert quantised_linears(eight, "Int8Tensor") >= 3 * 8 * 3
    assert correlation(exact, logits(eight)) > 0.99


def test_lm_eval_on_a_local_task(folder: Path, tmp_path: Path) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from openarctic.formats import from_gguf, read_gguf
    from openarctic.formats.bundled import bundled_models
    from openarctic.model import ArcticConfig, ArcticForCausalLM
    from openarctic.tokenizer import Tokenizer

    file = read_gguf(bundled_models()["arctic-nano"])
    shape, state = from_gguf(file)
    model = ArcticForCausalLM(ArcticConfig.from_shape(shape))
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in state.items()})
    model.save_pretrained(tmp_path / "nano")
    Tokenizer.from_gguf_metadata(file.metadata).save_huggingface(tmp_path / "nano")

    rows = [
        {"question": "SELECT count(*) FROM", "choices": [" orders", " Paris"], "answer": 0},
        {"question": "SELECT name FROM t WHERE age >", "choices": [" 20", " SELECT"], "answer": 0},
        {"question": "SELECT a, b FROM t ORDER", "choices": [" BY a", " LIMIT"], "answer": 0},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "local_sql.yaml").write_text(
        f"""
task: local_sql
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "rows.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    harness = HFLM(pretrained=str(tmp_path / "nano"), device="cpu", dtype="float32", batch_size=2)
    assert type(harness.model) is ArcticForCausalLM
    result = lm_eval.simple_evaluate(model=harness, tasks=["local_sql"], task_manager=manager)
    assert result["results"]["local_sql"]["acc,none"] == 1.0
