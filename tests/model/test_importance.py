"""Importance by streaming layers is importance by hooking the whole model; and rounding that knows it loses less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from openarctic.errors import UserError  # noqa: E402
from openarctic.formats import HybridConfig  # noqa: E402
from openarctic.formats.imatrix import read_imatrix, write_imatrix  # noqa: E402
from openarctic.formats.names import tensor_table  # noqa: E402
from openarctic.formats.quants import dequantize, quantize  # noqa: E402
from openarctic.model import load_model  # noqa: E402
from openarctic.model.importance import measure_importance  # noqa: E402
from tests.tiny import LAYOUTS, tiny_config, write_model  # noqa: E402

IDS = np.random.default_rng(0).integers(0, 64, 90).tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layer_by_layer_is_the_whole_model(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout]
    path = write_model(tmp_path / "m.gguf", config, "F32")
    streamed = measure_importance(path, IDS, chunk_tokens=40)
    model = load_model(path)
    seen: dict[str, list[np.ndarray]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _, x, name=name: seen.setdefault(name + ".weight", []).append(x[0].flatten(0, -2).double().numpy())
            )
    with torch.no_grad():
        for start in range(0, len(IDS), 40):
            model(torch.tensor([IDS[start : start + 40]]), use_cache=False)
    for spec in tensor_table(HybridConfig.from_dict(config)):
        if len(spec.shape) == 1 or (spec.part == "embedding" and not config["tie_word_embeddings"]):
            continue
        for index, name in enumerate(spec.hf):
            inputs = np.concatenate(
                seen.get("lm_head.weight" if spec.part == "embedding" else name, [np.zeros((0, spec.shape[1]))])
            )
            assert streamed[spec.gguf].counts[index] == len(inputs)
            assert streamed[spec.gguf].sums[index] == pytest.approx((inputs**2).sum(0), rel=1e-4, abs=1e-6)


def test_the_file_says_the_same(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_config(), "F32")
    measured = measure_importance(path, IDS)
    write_imatrix(tmp_path / "imatrix.gguf", measured, "words")
    read = read_imatrix(tmp_path / "imatrix.gguf", HybridConfig.from_dict(tiny_config()))
    assert read.keys() == measured.keys()
    assert all(np.allclose(read[name], own.mean, rtol=1e-5) for name, own in measured.items())


def test_rounding_by_importance_loses_less_of_the_output(tmp_path: Path) -> None:
    """Columns with large inputs: the product, not the matrix, is what must stay close."""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((64, 256)).astype(np.float32)
    scale = np.exp(2 * rng.standard_normal(256)).astype(np.float32)
    inputs = rng.standard_normal((500, 256)).astype(np.float32) * scale
    for type_ in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"):
        errors = []
        for importance in (None, (inputs**2).mean(0)):
            rounded = dequantize(quantize(weight, type_, importance=importance), type_, weight.shape)
            errors.append(np.square(inputs @ (rounded - weight).T).mean())
        assert errors[1] < errors[0], type_


def test_too_short_a_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 tokens"):
        measure_importance(write_model(tmp_path / "m.gguf", tiny_config(), "F32"), [3])
