"""One model in the two forms that runtimes read, and the prompts that it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openarctic.errors import MissingError, UserError
from openarctic.formats import HybridConfig
from openarctic.formats.convert import ConvertOptions, convert
from openarctic.formats.sources import FolderSource, open_source
from openarctic.formats.targets import find_tokenizer
from openarctic.model.parity.runtimes import Forms

FLOAT_TYPES = frozenset(("F32", "F16", "BF16"))
TEXTS = (
    "How many customers are there?",
    "List the names of all suppliers from Norway.",
    "SELECT name, COUNT(*) FROM customers GROUP BY",
    "CREATE TABLE orders (id INTEGER PRIMARY KEY,",
    "Which product sold best in the last quarter?",
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "The three laws of motion say that",
    "To bake a simple loaf of bread, you need",
    "In 1969, the first humans",
    "Q: What is 12 plus 30?\nA:",
    "Dear Sir or Madam,\n\nI am writing to",
    "A dense transformer with a residual mixture of experts",
    "import numpy as np\n\n",
    "Water boils at",
    "The Arctic Ocean is",
    "My favourite season is autumn because",
    "Here is a list of five European countries:\n1.",
    "Photosynthesis is the process by which",
)


@dataclass(frozen=True, slots=True)
class Model:
    """The source, its other form, and what the comparison must know of it."""

    source: Path
    forms: Forms
    config: HybridConfig
    is_quantised: bool


def make_forms(source: Path, scratch: Path, progress: Callable[[str], None]) -> Model:
    """Convert what is not there, in float32, into `scratch`. Raises what `open_source` and `convert` raise."""
    opened = open_source(source)
    config, types = opened.config, {opened.type_of(name) for name in opened.names}
    opened.close()
    is_official = isinstance(opened, FolderSource) and opened.checkpoint.layout == "huggingface"
    huggingface = source if is_official else scratch / "huggingface"
    gguf = scratch / "model.gguf" if isinstance(opened, FolderSource) else source
    for form in (huggingface, gguf):
        if form != source:
            progress(f"converting to {form.name}")
            convert(open_source(source), form, ConvertOptions(type="F32"))
    return Model(source, Forms(huggingface, gguf), config, not types <= FLOAT_TYPES)


def prompt_ids(model: Model, texts: Sequence[str] | None, max_tokens: int) -> list[list[int]]:
    """Token ids of `texts` (by default TEXTS), or random ones where the model has no tokenizer.

    Raises MissingError for texts without a tokenizer, UserError for a prompt that leaves no room for `max_tokens`.
    """
    opened = open_source(model.source)
    tokenizer = find_tokenizer(opened)
    opened.close()
    if tokenizer is None:
        if texts is not None:
            raise MissingError(f"{model.source} has no tokenizer", "leave out the prompts: random ids are taken")
        rng = np.random.default_rng(0)
        ids = [rng.integers(0, model.config.vocab_size, 4 + i % 13).tolist() for i in range(len(TEXTS))]
    else:
        ids = [tokenizer.encode(text, add_special=True) for text in texts or TEXTS]
    for prompt in ids:
        if not prompt or len(prompt) + max_tokens > model.config.max_position_embeddings:
            raise UserError(
                f"a prompt of {len(prompt)} tokens and {max_tokens} more do not fit the context of "
                f"{model.config.max_position_embeddings}"
            )
    return ids
