"""The recipe `tiny`: from text to a model in about a minute, on text that every installation has: this package's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import openarctic
from openarctic.data.prepare import PrepareOptions, prepare
from openarctic.data.readers import ReadOptions
from openarctic.tokenizer import Tokenizer
from openarctic.train.config import TrainConfig
from openarctic.train.job import Job
from openarctic.train.pretrain import SMALL_HYBRID, PretrainRecipe, pretrain_job
from openarctic.train.processes import ALONE, Processes

VOCABULARY = 2048


def tiny_recipe() -> PretrainRecipe:
    """A hybrid of 1.8 million parameters and 400,000 tokens of Python."""
    shape = replace(
        SMALL_HYBRID, hidden_size=128, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_local_experts=8
    )
    return PretrainRecipe(
        name="tiny",
        model=shape,
        tokens=400_000,
        sequence_length=256,
        batch_tokens=2048,
        max_epochs=None,
        validation_sequences=16,
        train=TrainConfig(lr=3e-3, warmup_steps=20, validate_every=50, decay_share=0.5),
    )


def tiny_job(recipe: PretrainRecipe, tokenizer: Tokenizer, out: Path, processes: Processes = ALONE) -> Job:
    """The run on the package's own source files; `tokenizer` is cut to its first tokens."""
    small = tokenizer.truncate(VOCABULARY)
    folder = out / "data"
    if processes.rank == 0 and not folder.exists():
        out.mkdir(parents=True, exist_ok=True)
        sources = sorted(Path(openarctic.__file__).parent.rglob("*.py"))
        texts = out / "text"
        texts.mkdir(exist_ok=True)
        for source in sources:
            name = "-".join(source.relative_to(Path(openarctic.__file__).parent).with_suffix(".txt").parts)
            (texts / name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
        options = PrepareOptions(domain="python", read=ReadOptions(split="file"), validation_share=0.1)
        prepare([texts], small, folder, options, note=lambda line: None)
    processes.gather(None)  # until the data are there
    return pretrain_job(recipe, [folder], small, out, processes)
