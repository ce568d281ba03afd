"""Our GGUF files in llama.cpp: the same logits and the same greedy tokens (pip install llama-cpp-python; pytest -m peer)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from openarctic.engine.reference import PlainModel  # noqa: E402
from openarctic.formats import HybridConfig  # noqa: E402
from openarctic.formats.convert import ConvertOptions, convert  # noqa: E402
from openarctic.formats.names import stock_obstacles  # noqa: E402
from openarctic.formats.sources import open_source  # noqa: E402
from openarctic.model.parity.report import judge  # noqa: E402
from openarctic.model.parity.runtimes import RUNTIMES, Forms, Task  # noqa: E402
from tests.model.test_transformers import write_checkpoint  # noqa: E402
from tests.tiny import random_state, tiny_config  # noqa: E402

pytestmark = pytest.mark.peer

WIDE = {"hidden_size": 128, "intermediate_size": 96, "num_attention_heads": 4, "max_position_embeddings": 256, "vocab_size": 256}
STOCK = {
    "parallel": tiny_config(**WIDE),
    "parallel, MHA, top-3": tiny_config(**WIDE, num_key_value_heads=4, num_experts_per_tok=3),
    "parallel, one kv head, tied": tiny_config(**WIDE, num_key_value_heads=1, tie_word_embeddings=True),
    "sequential (Mixtral's form)": tiny_config(**WIDE, parallel_attn_mlp_res=False),
    "dense (Llama's form)": tiny_config(**WIDE, num_local_experts=0, num_experts_per_tok=0),
}
PROMPTS = [np.random.default_rng(i).integers(0, 256, 4 + i % 13).tolist() for i in range(20)]


@pytest.mark.parametrize("layout", STOCK)
def test_f32_files_give_the_same_logits_and_tokens(layout: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    config = STOCK[layout]
    assert not stock_obstacles(HybridConfig.from_dict(config))
    folder = write_checkpoint(tmp_path / "checkpoint", config)
    convert(open_source(folder), tmp_path / "m.gguf", ConvertOptions(type="F32"))
    forms = Forms(folder, tmp_path / "m.gguf")
    tokens = RUNTIMES["transformers"].run(forms, Task(PROMPTS, 64, 2)).tokens
    sequences = [p + t for p, t in zip(PROMPTS, tokens, strict=True)]
    plain = PlainModel(HybridConfig.from_dict(config), random_state(config))
    task = Task(PROMPTS, 64, 2, sequences)
    found = judge("llama.cpp", "", task, [plain.logits(s) for s in sequences], RUNTIMES["llama.cpp"].run(forms, task))
    print(f"{layout}: max {found.max_logit_diff:.2g}, mean {found.mean_logit_diff:.2g}, agreement {found.greedy_agreement}")
    assert found.max_logit_diff < 1e-3
    assert found.greedy_agreement == 1.0 and found.first_divergence is None
