"""The tokenizer in transformers' form: `openarctic.Tokenizer` behind the interface that its users know.

The published `ArcticTokenizer` is remote code on a class that transformers 5 no longer has. This one opens the same folders
(and those of byte-level BPE) through our own reader, so that transformers and the engine cannot differ in an id.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from openarctic.model.config import ArcticConfig
from openarctic.tokenizer import Tokenizer


class ArcticTokenizer(PreTrainedTokenizerFast):
    """Made by `from_pretrained(folder)`; errors of the folder are those of `Tokenizer.from_huggingface`.

    A conversation as ids (`apply_chat_template`) has no begin token beside the template's own. `encode` of a rendered
    conversation would add one, here as everywhere in transformers: give it `add_special_tokens=False`.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json", "vocab_file": "tokenizer.model"}  # noqa: RUF012 - as the base has it
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    padding_side = "left"

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Called by `from_pretrained` with the files found: they are read by our reader, and what the caller asked for stays."""
        found = [Path(path) for path in (kwargs.pop("tokenizer_file", None), kwargs.pop("vocab_file", None)) if path]
        if not found:
            return dict(super().convert_to_native_format(trust_remote_code=trust_remote_code, **kwargs))
        ours = Tokenizer.from_huggingface(found[0].parent)
        backend = Backend.from_str(ours.to_json())
        settings = {"add_bos_token": ours.adds_bos, "add_eos_token": ours.adds_eos, "clean_up_tokenization_spaces": False}
        names = {f"{name}_token": token for name, token in ours.special_names().items()}
        asked = {key: value for key, value in kwargs.items() if value is not None}
        added: dict[int, AddedToken] = backend.get_added_tokens_decoder()
        return {**settings, **names, **asked, "added_tokens_decoder": added, "tokenizer_object": backend}


def register() -> None:
    """Teach `AutoTokenizer` this class, for the model type and for the name in `tokenizer_config.json`.

    transformers lists arctic among the models whose files name a wrong class, and takes its general one for them unless its
    table of names has another.
    """
    AutoTokenizer.register(ArcticConfig, ArcticTokenizer, exist_ok=True)
    TOKENIZER_MAPPING_NAMES[ArcticConfig.model_type] = ArcticTokenizer.__name__
