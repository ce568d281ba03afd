"""Loading in transformers' form, without weights drawn at random: what a checkpoint lacks or has too much is an error.

transformers itself fills missing tensors with random numbers and prints a table. Here a local folder's headers are looked at
before anything is loaded, and what transformers says of its loading afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from openarctic.config import read_object
from openarctic.errors import CorruptError, MissingError, UserError
from openarctic.formats.checkpoint import INDEX, SINGLE, layout_of, open_checkpoint, read_headers, some
from openarctic.model.config import ArcticConfig

_HEAD = "lm_head.weight"
_ADAPTER = "adapter_config.json"


class ArcticPreTrainedModel(PreTrainedModel):
    """What transformers asks of a model. New weights are drawn by its own rule (normal with `initializer_range`)."""

    config_class = ArcticConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("ArcticDecoderLayer",)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As transformers', and complete: MissingError for tensors that the checkpoint lacks, CorruptError for those that the
        model does not know, UserError for stacked experts and float8.

        An `ArcticModel` takes its part of a whole model; a head that an `ArcticModel`'s checkpoint never had may be new. Of an
        adapter's base only local folders are looked at.
        """
        path = pretrained_model_name_or_path
        wants_info = kwargs.pop("output_loading_info", False)
        folder = _local(path, kwargs.get("subfolder"))
        has_adapter = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path") is not None
        if folder and (folder / _ADAPTER).is_file():
            has_adapter = True
            if not (folder / "config.json").is_file():
                folder = _local(read_object(folder / _ADAPTER).get("base_model_name_or_path"), None)
        if folder:
            _check_folder(folder, is_quantised=kwargs.get("quantization_config") is not None, is_base=has_adapter)
        if has_adapter:  # transformers then tells of the adapter's tensors, or (5.0) of none
            return super().from_pretrained(path, *model_args, output_loading_info=wants_info, **kwargs)
        model, info = super().from_pretrained(path, *model_args, output_loading_info=True, **kwargs)
        _check_loaded(model, info, path)
        return (model, info) if wants_info else model

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Yes; transformers would guess it from the wording of this file."""
        return True


def _local(path: Any, subfolder: str | None) -> Path | None:
    """The folder that is meant, if it is one of this machine."""
    folder = Path(path, subfolder or "") if path is not None else None
    return folder if folder and folder.is_dir() else None


def _check_folder(folder: Path, is_quantised: bool, is_base: bool) -> None:
    """Raise for what transformers would fill with random numbers: a layout or number type that it does not know."""
    config = read_object(folder / "config.json") if (folder / "config.json").is_file() else {}
    if not (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        return  # weights of another form; transformers says what it makes of them
    headers = read_headers(folder)[1]
    if layout_of(headers) == "training":
        hint = "openarctic.model.load_model reads it, and `openarctic model convert` makes the other layout"
        raise UserError(f"{folder} has the training layout, experts in one tensor, which transformers cannot read", hint)
    if config.get("quantization_config") is not None:
        return
    tensors = [tensor for header in headers for tensor in header.tensors.values()]
    float8 = next((t for t in tensors if t.dtype.startswith("F8_")), None)
    if float8 and not is_quantised:
        told = f"float8 checkpoints are not supported yet: {float8.name} of {folder} is {float8.dtype}"
        raise UserError(told, "take the bfloat16 one")
    if is_base and not _is_headless(config.get("architectures")):
        open_checkpoint(folder).close()


def _is_headless(architectures: Collection[str] | None) -> bool:
    """Whether a checkpoint was saved from a model without head."""
    return "ArcticModel" in (architectures or ())


def _check_loaded(model: PreTrainedModel, info: Mapping[str, Collection[str]], path: Any) -> None:
    """Raise for tensors that were missing, or left over."""
    missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
    if _is_headless(model.config.architectures):
        missing.discard(_HEAD)
    if not hasattr(model, "lm_head"):
        unexpected.discard(_HEAD)
    if missing:
        told = f"{path} lacks {len(missing)} of {len(model.state_dict())} tensors: {some(sorted(missing))}"
        raise MissingError(told, f"there is also {some(sorted(unexpected))}" if unexpected else "get the whole checkpoint")
    if unexpected:
        told = f"{path} has {len(unexpected)} tensors that its config does not know: {some(sorted(unexpected))}"
        raise CorruptError(told, "config.json and weights must be of one model")
