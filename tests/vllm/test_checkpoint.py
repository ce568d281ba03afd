"""A checkpoint is used whole or refused by name; `check` is what stands between the files and vLLM's loader."""

from __future__ import annotations

import pytest
import torch

from openarctic.errors import CorruptError
from openarctic.formats import HybridConfig
from openarctic.model.vllm.checkpoint import CheckedNames
from tests.tiny import LAYOUTS, random_state, tiny_config

CONFIG = tiny_config(num_local_experts=13)  # experts.1 is a prefix of experts.12
EXPERT = "model.layers.1.block_sparse_moe.experts.1.w2.weight"


def everywhere(layer: int, expert: int) -> bool:
    return True


def state(config: dict[str, object] = CONFIG) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in random_state(config).items()}


def load(tensors: dict[str, torch.Tensor], config: dict[str, object] = CONFIG, is_quantized: bool = False) -> CheckedNames:
    names = CheckedNames(HybridConfig.from_dict(config), is_quantized)
    assert [name for name, _ in names.check(tensors.items())] == list(tensors)
    return names


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_whole_checkpoint_passes(layout: str) -> None:
    load(state(LAYOUTS[layout]), LAYOUTS[layout]).check_complete(everywhere)


def test_one_missing_expert_is_named_whatever_its_neighbours() -> None:
    tensors = state()
    del tensors[EXPERT]
    with pytest.raises(CorruptError, match=r"lacks model\.layers\.1\.block_sparse_moe\.experts\.1\.w2\.weight$"):
        load(tensors).check_complete(everywhere)


def test_an_expert_of_another_rank_may_be_left_out() -> None:
    tensors = {name: tensor for name, tensor in state().items() if ".experts.1." not in name}
    load(tensors).check_complete(lambda layer, expert: expert != 1)


def test_a_tensor_without_a_place_is_named() -> None:
    with pytest.raises(CorruptError, match=r"experts\.13\.w1"):
        load({**state(), "model.layers.0.block_sparse_moe.experts.13.w1.weight": torch.zeros(32, 64)})


def test_a_wrong_shape_is_told_with_both() -> None:
    with pytest.raises(CorruptError, match=r"\[64, 31\].*\[64, 32\]"):
        load({**state(), EXPERT: torch.zeros(64, 31)})


def test_a_tied_head_may_be_there() -> None:
    config = tiny_config(tie_word_embeddings=True)
    load({**state(config), "lm_head.weight": torch.zeros(64, 64)}, config).check_complete(everywhere)


def test_quantised_tensors_count_for_their_module() -> None:
    packed = {f"{name.removesuffix('.weight')}.{part}": t for name, t in state().items() for part in ("qweight", "scales")}
    load(packed, is_quantized=True).check_complete(everywhere)
    packed = {name: t for name, t in packed.items() if not name.startswith(EXPERT.removesuffix("weight"))}
    with pytest.raises(CorruptError, match=r"experts\.1\.w2"):
        load(packed, is_quantized=True).check_complete(everywhere)
