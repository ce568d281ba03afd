"""DeepSpeed training checkpoints as a source of conversions (spec 3.2), read without running what is in them.

They are pickles. `torch.load(weights_only=True)` builds tensors and plain containers and refuses everything else; nothing else
here reads them. `mp_rank_00_model_states.pt` has all but the experts under `module`; expert e of the n-th MoE layer is in
`layer_{n}_expert_{e}_mp_rank_00_model_states.pt`. Files are mapped, and one is open at a time.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openarctic.errors import CorruptError, MissingError, UserError
from openarctic.formats.checkpoint import check_tensors, stacked_name
from openarctic.formats.config import HybridConfig
from openarctic.formats.names import state_dict_shapes
from openarctic.formats.quants import Raw
from openarctic.formats.sources import DEEPSPEED_MAIN as MAIN
from openarctic.formats.sources import deepspeed_folder, identity
from openarctic.formats.verify import OnBytes, check_finite

_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_GATE = ("block_sparse_moe.mlp.deepspeed_moe.gate.wg.weight", "block_sparse_moe.gate.weight")
_EXPERTS = ("block_sparse_moe.mlp.deepspeed_moe.experts.deepspeed_experts", "block_sparse_moe.experts")
# A mapped file is opened anew after so many bytes of it were touched: that is how their pages are given back.
REOPEN_BYTES = 1 << 28


class DeepSpeedSource:
    """A checkpoint folder (`global_stepN`); config.json, and a tokenizer, stand in it or in the folder above."""

    def __init__(self, path: str | Path) -> None:
        self.folder = deepspeed_folder(Path(path))
        has_config = (self.folder / "config.json").exists()
        self.path = self.folder if has_config else self.folder.parent
        self.config = HybridConfig.from_file(self.path)
        self._open: tuple[Path, dict[str, torch.Tensor]] | None = None
        self._touched = 0
        self._where = dict(self._places())
        self._types = self._check()
        self.names = tuple(self._where)

    def type_of(self, name: str) -> str:
        """F32, F16 or BF16."""
        return self._types[name]

    def read_rows(self, name: str, first: int, out: Raw) -> Raw:
        """Fill `out`."""
        path = self._where[name]
        if self._touched > REOPEN_BYTES:
            self.close()
        tensor = self._tensors(path)[name]
        row = tensor.element_size() * tensor.shape[-1]
        rows = tensor.reshape(-1, tensor.shape[-1])[first : first + out.size // row]
        out.reshape(-1, row)[:] = rows.contiguous().view(torch.uint8).numpy()
        self._touched += out.size
        return out

    def verify(self, on_bytes: OnBytes) -> None:
        """DeepSpeed writes no checksums; every value must be a number."""
        shapes = state_dict_shapes(self.config)
        for name in self.names:
            rows, width = shapes[name] if len(shapes[name]) == 2 else (1, shapes[name][0])
            item = 4 if self.type_of(name) == "F32" else 2
            step = max((1 << 24) // width, 1)
            for first in range(0, rows, step):
                out = np.empty(min(step, rows - first) * width * item, dtype=np.uint8)
                check_finite(self.read_rows(name, first, out), self.type_of(name), name)
                on_bytes(out.size)

    def fingerprint(self) -> Any:
        """Config and files."""
        config = hashlib.sha256((self.path / "config.json").read_bytes()).hexdigest()
        return [config, *(identity(path) for path in dict.fromkeys(self._where.values()))]

    def close(self) -> None:
        """Let go of the open file, and so of its mapped pages."""
        self._open = None
        self._touched = 0

    def _places(self) -> Iterator[tuple[str, Path]]:
        """Official name -> file, file by file. Raises MissingError for expert files that are not there."""
        files: dict[str, Path] = {}
        missing = []
        moe_layers = [i for i in range(self.config.num_hidden_layers) if self.config.is_moe_layer(i)]
        for name in state_dict_shapes(self.config):
            stacked = stacked_name(name)
            if not stacked:
                files[name] = self.folder / MAIN
                continue
            layer = moe_layers.index(int(name.split(".")[2]))
            files[name] = self.folder / f"layer_{layer}_expert_{stacked[1]}_{MAIN}"
            if not files[name].is_file() and files[name].name not in missing:
                missing.append(files[name].name)
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise MissingError(f"{self.folder} lacks expert files: {', '.join(missing[:3])}{more}")
        return iter(sorted(files.items(), key=lambda item: item[1] != self.folder / MAIN))

    def _check(self) -> dict[str, str]:
        """Open every file once: official names, shapes and one dtype. Returns the types."""
        found = {}
        for path in dict.fromkeys(self._where.values()):
            for name, tensor in self._tensors(path).items():
                if self._where.get(name, path) != path:
                    raise CorruptError(f"tensor {name} stands in {path.name}, it belongs into {self._where[name].name}")
                dtype = _TYPES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.").replace("float8", "F8").upper())
                found[name] = (dtype, tuple(tensor.shape))
        check_tensors(self.config, found, "huggingface", self.folder)
        return {name: dtype for name, (dtype, _) in found.items()}

    def _tensors(self, path: Path) -> dict[str, torch.Tensor]:
        if self._open is None or self._open[0] != path:
            self.close()
            state = load_tensors(path)
            tensors = _official(state.get("module") if path.name == MAIN else state, path)
            if self.config.tie_word_embeddings and "lm_head.weight" in tensors:
                _drop_tied_head(tensors, path)
            self._open = (path, tensors)
        return self._open[1]


def load_tensors(path: Path) -> dict[str, Any]:
    """The dictionary in a .pt file, mapped. Raises UserError for a file that holds more than tensors and plain values."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().split("\n")[0]
        hint = "a checkpoint of tensors and plain values loads; save it again without other objects"
        raise UserError(f"{path} holds more than tensors, and loading it could run code: refused ({reason})", hint) from error
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise CorruptError(f"{path} is damaged, or no file of torch.save: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict):
        raise CorruptError(f"{path} holds no dictionary of tensors")
    return state


def _official(state: Any, path: Path) -> dict[str, torch.Tensor]:
    """Tensors under official names; DeepSpeed wraps gate and experts in modules of its own."""
    if not isinstance(state, Mapping):
        raise CorruptError(f"{path} has no dictionary `module`")
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or not isinstance(name, str):
            raise CorruptError(f"{path}: {name!r} is no tensor")
        if re.search(r"\.lora_weight(_[12])?\b|\.base_weight\b", name):
            raise UserError(f"{path} was trained with LoRA: {name}", "merge the LoRA weights into the model first")
        for theirs, ours in (_GATE, _EXPERTS):
            name = name.replace(theirs, ours)
        tensors[name] = tensor
    return tensors


def _drop_tied_head(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """DeepSpeed stores a tied head under both of its names."""
    head = tensors.pop("lm_head.weight")
    if not torch.equal(head, tensors.get("model.embed_tokens.weight", head)):
        raise CorruptError(f"{path}: lm_head differs from the embedding, the config says that they are tied")
