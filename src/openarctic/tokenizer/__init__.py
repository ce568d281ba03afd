"""Text to token ids and back: byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`, as Arctic has it).

A tokenizer is held as the `tokenizer.*` keys of a GGUF file (`vocabulary.py`); a Hugging Face folder is read into them and
written from them (`huggingface.py`), so that both give the same ids. `backends.py` makes the `tokenizers` library do the work.
"""

from openarctic.tokenizer.tokenizer import Tokenizer, check_vocab
from openarctic.tokenizer.vocabulary import BYTE, CONTROL, MODEL, NO_VOCAB, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, has_vocabulary

__all__ = [
    "BYTE",
    "CONTROL",
    "MODEL",
    "NORMAL",
    "NO_VOCAB",
    "UNKNOWN",
    "UNUSED",
    "USER_DEFINED",
    "Tokenizer",
    "check_vocab",
    "has_vocabulary",
]
