"""DeepSpeed checkpoints become Hugging Face folders, tensor by tensor; pickles that do more are refused by name."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openarctic.errors import CorruptError, MissingError, OpenArcticError, UserError
from openarctic.formats import HybridConfig
from openarctic.formats.checkpoint import open_checkpoint
from openarctic.formats.convert import ConvertOptions, convert
from openarctic.formats.names import state_dict_shapes
from openarctic.formats.sources import DEEPSPEED_MAIN, deepspeed_folder, is_deepspeed
from openarctic.model import deepspeed
from openarctic.model.deepspeed import DeepSpeedSource
from tests.tiny import LAYOUTS, random_state, tiny_config

EXPERT = "block_sparse_moe.mlp.deepspeed_moe.experts.deepspeed_experts"


def write_deepspeed(folder: Path, config: dict[str, Any], dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """The files of a training run, as DeepSpeed names them (spec 3.2); returns the tensors under official names."""
    shape = HybridConfig.from_dict(config)
    state = {name: torch.from_numpy(values).to(dtype) for name, values in random_state(config).items()}
    moe_layers = [i for i in range(shape.num_hidden_layers) if shape.is_moe_layer(i)]
    main: dict[str, torch.Tensor] = {}
    experts: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if "experts" in parts:
            key = (moe_layers.index(int(parts[2])), int(parts[5]))
            experts.setdefault(key, {})[name.replace("block_sparse_moe.experts", EXPERT)] = tensor
        else:
            main[name.replace("block_sparse_moe.gate.", "block_sparse_moe.mlp.deepspeed_moe.gate.wg.")] = tensor
    folder.mkdir(parents=True)
    values = {"model_type": "arctic", "architectures": ["ArcticForCausalLM"], **config}
    (folder / "config.json").write_text(json.dumps(values))
    extras = {"ds_version": "0.14.2", "global_steps": 7, "param_shapes": [{"a": torch.Size([2, 3])}], "optimizer": None}
    torch.save({"module": main, **extras}, folder / DEEPSPEED_MAIN)
    for (layer, expert), tensors in experts.items():
        torch.save(tensors, folder / f"layer_{layer}_expert_{expert}_{DEEPSPEED_MAIN}")
    return state


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_everything_arrives(tmp_path: Path, layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed, "REOPEN_BYTES", 10_000)
    state = write_deepspeed(tmp_path / "ds", LAYOUTS[layout], dtype)
    convert(DeepSpeedSource(tmp_path / "ds"), tmp_path / "hf", ConvertOptions(is_verified=True))
    with open_checkpoint(tmp_path / "hf") as checkpoint:
        assert set(checkpoint.names) == set(state)
        for name, tensor in state.items():
            assert checkpoint.shape(name) == tuple(tensor.shape)
            assert np.array_equal(checkpoint.read(name), tensor.reshape(-1).view(torch.uint8).numpy()), name


def test_one_file_is_open_at_a_time_and_each_is_read_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_deepspeed(tmp_path / "ds", tiny_config())
    source = DeepSpeedSource(tmp_path / "ds")
    opened: list[str] = []
    real = deepspeed.load_tensors
    monkeypatch.setattr(deepspeed, "load_tensors", lambda path: opened.append(path.name) or real(path))
    convert(source, tmp_path / "hf", ConvertOptions())
    assert len(opened) == len(set(opened)) == 1 + 3 * 8


def test_the_folder_above_a_step(tmp_path: Path) -> None:
    """config.json stands where training was told to save, and `latest` names the step."""
    write_deepspeed(tmp_path / "run" / "global_step9", tiny_config())
    (tmp_path / "run" / "global_step9" / "config.json").rename(tmp_path / "run" / "config.json")
    (tmp_path / "run" / "latest").write_text("global_step9\n")
    assert is_deepspeed(tmp_path / "run") and deepspeed_folder(tmp_path / "run").name == "global_step9"
    for path in (tmp_path / "run", tmp_path / "run" / "global_step9"):
        assert DeepSpeedSource(path).path == tmp_path / "run"
    (tmp_path / "run" / "latest").write_text("../elsewhere")
    assert not is_deepspeed(tmp_path / "run") and not is_deepspeed(tmp_path / "none")


def test_a_tied_head_is_stored_twice(tmp_path: Path) -> None:
    config = tiny_config(tie_word_embeddings=True)
    state = write_deepspeed(tmp_path / "ds", config)
    embedding = state["model.embed_tokens.weight"]
    edit(tmp_path / "ds", DEEPSPEED_MAIN, lambda s: s["module"].update({"lm_head.weight": embedding}))
    assert "lm_head.weight" not in DeepSpeedSource(tmp_path / "ds").names
    edit(tmp_path / "ds", DEEPSPEED_MAIN, lambda s: s["module"].update({"lm_head.weight": embedding + 1}))
    with pytest.raises(CorruptError, match="lm_head differs from the embedding"):
        DeepSpeedSource(tmp_path / "ds")


class Malicious:
    """Runs a command when it is unpickled by anything but a weights-only loader."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("name", [DEEPSPEED_MAIN, f"layer_1_expert_3_{DEEPSPEED_MAIN}"])
@pytest.mark.parametrize("form", ["torch.save", "pickle"])
def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path: Path, name: str, form: str) -> None:
    write_deepspeed(tmp_path / "ds", tiny_config())
    path, target = tmp_path / "ds" / name, tmp_path / "owned"
    bad = {"module": {"model.norm.weight": torch.zeros(64), "x": Malicious(target)}}
    if form == "pickle":
        path.write_bytes(pickle.dumps(bad))
    else:
        torch.save(bad, path)
    with pytest.raises(OpenArcticError, match=name.replace(".", r"\.")) as caught:
        DeepSpeedSource(tmp_path / "ds")
    assert not target.exists()
    if form == "torch.save":
        assert isinstance(caught.value, UserError) and "could run code: refused" in caught.value.message
        torch.load(path, weights_only=False)  # the file is what it claims to be
        assert target.exists()


def edit(folder: Path, name: str, change: Any) -> None:
    state = torch.load(folder / name, weights_only=True)
    change(state)
    torch.save(state, folder / name)


EXPERT_FILE = f"layer_0_expert_2_{DEEPSPEED_MAIN}"
EXPERT_NAME = f"model.layers.0.{EXPERT}.2.w1.weight"
NORM = "model.norm.weight"
BAD: dict[str, tuple[Any, type[OpenArcticError], str]] = {
    "expert file missing": (lambda f: (f / EXPERT_FILE).unlink(), MissingError, f"lacks expert files: {EXPERT_FILE}"),
    "expert of another file": (
        lambda f: edit(f, EXPERT_FILE, lambda s: s.update({EXPERT_NAME.replace(".2.", ".3."): s.pop(EXPERT_NAME)})),
        CorruptError,
        r"experts\.3\.w1\.weight stands in layer_0_expert_2_",
    ),
    "tensor missing": (lambda f: edit(f, DEEPSPEED_MAIN, lambda s: s["module"].pop(NORM)), MissingError, f"lacks 1 .*: {NORM}"),
    "tensor too many": (
        lambda f: edit(f, DEEPSPEED_MAIN, lambda s: s["module"].update(x=torch.zeros(2, dtype=torch.bfloat16))),
        CorruptError,
        "does not know: x",
    ),
    "wrong shape": (
        lambda f: edit(f, DEEPSPEED_MAIN, lambda s: s["module"].update({NORM: torch.zeros(65, dtype=torch.bfloat16)})),
        CorruptError,
        r"norm.weight has shape \(65,\)",
    ),
    "mixed": (
        lambda f: edit(f, DEEPSPEED_MAIN, lambda s: s["module"].update({NORM: torch.zeros(64)})),
        UserError,
        "mixes dtypes",
    ),
    "float8": (
        lambda f: edit(f, DEEPSPEED_MAIN, lambda s: s["module"].update({NORM: torch.zeros(64).to(torch.float8_e4m3fn)})),
        UserError,
        "float8 checkpoints are not supported yet",
    ),
    "LoRA": (
        lambda f: edit(f, DEEPSPEED_MAIN, lambda s: s["module"].update({"layers.0.q.lora_weight_1.weight": torch.zeros(1)})),
        UserError,
        "trained with LoRA",
    ),
    "no tensor": (lambda f: edit(f, DEEPSPEED_MAIN, lambda s: s["module"].update(x=3)), CorruptError, "'x' is no tensor"),
    "no module": (lambda f: edit(f, DEEPSPEED_MAIN, lambda s: s.pop("module")), CorruptError, "no dictionary `module`"),
    "no dictionary": (lambda f: torch.save([1], f / EXPERT_FILE), CorruptError, "no dictionary of tensors"),
    "cut short": (
        lambda f: (f / EXPERT_FILE).write_bytes((f / EXPERT_FILE).read_bytes()[:500]),
        CorruptError,
        f"{EXPERT_FILE} is damaged",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), MissingError, "no config"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named_before_work(tmp_path: Path, case: str) -> None:
    write_deepspeed(tmp_path / "ds", tiny_config())
    damage, error, told = BAD[case]
    damage(tmp_path / "ds")
    with pytest.raises(error, match=told) as caught:
        DeepSpeedSource(tmp_path / "ds")
    assert type(caught.value) is error


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    state = write_deepspeed(tmp_path / "ds", tiny_config())

    def stop(progress: Any) -> None:
        if progress.done > progress.total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(DeepSpeedSource(tmp_path / "ds"), tmp_path / "hf", ConvertOptions(), on_progress=stop)
    assert convert(DeepSpeedSource(tmp_path / "ds"), tmp_path / "hf", ConvertOptions()).resumed_bytes > 0
    with open_checkpoint(tmp_path / "hf") as checkpoint:
        assert all(np.array_equal(checkpoint.read(n), t.reshape(-1).view(torch.uint8).numpy()) for n, t in state.items())
    assert set(state) == set(state_dict_shapes(checkpoint.config))
