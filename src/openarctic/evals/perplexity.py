"""How surprised is a model by the right answer? Perplexity of gold queries, in the very form that it was trained to write.

Finer than accuracy: it moves before answers change, so it tells number types apart on a few hundred questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from sqlglot.errors import SqlglotError

from openarctic.copilot.examples import Databases, single_quoted
from openarctic.copilot.joins import shorten
from openarctic.copilot.plan import TargetForm
from openarctic.copilot.prompt import target_text
from openarctic.errors import UserError
from openarctic.evals.spider import Question
from openarctic.tokenizer import Tokenizer


class Scorer(Protocol):
    """A model that gives logits of every position."""

    tokenizer: Tokenizer | None
    target_form: str

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """[len(ids), vocabulary]"""


def gold_perplexity(questions: Sequence[Question], databases: Path, model: Scorer) -> tuple[float, int]:
    """exp of the mean negative log likelihood of the gold queries' tokens, end token included, and how many tokens they have.

    Questions whose gold has no short form, or whose database is absent, do not count. Raises UserError where none counts.
    """
    tokenizer = model.tokenizer
    if tokenizer is None or tokenizer.bos_id is None or tokenizer.eos_id is None:
        raise UserError("the model has no tokenizer with begin and end tokens", "take one that was trained to write SQL")
    form = cast(TargetForm, model.target_form or "sql")
    known = Databases(databases)
    total, count = 0.0, 0
    for question in questions:
        linked = known.get(question.database)
        if linked is None:
            continue
        try:
            short = shorten(single_quoted(question.gold), linked.schema)
        except SqlglotError:
            continue
        prompt = [tokenizer.bos_id, *tokenizer.encode(linked.text()), *tokenizer.encode(linked.prompt(question.text))]
        target = [*tokenizer.encode(target_text(short, form)), tokenizer.eos_id]
        total -= log_likelihood(model.logits([*prompt, *target])[len(prompt) - 1 : -1], target)
        count += len(target)
    if not count:
        raise UserError(f"no question has a gold query over the databases in {databases}")
    return math.exp(total / count), count


def log_likelihood(logits_SV: NDArray[np.float32], targets: Sequence[int]) -> float:
    """Summed log probability of `targets`, each by its row of logits."""
    rows = logits_SV.astype(np.float64)
    peak = rows.max(1, keepdims=True)
    log_sum = peak[:, 0] + np.log(np.exp(rows - peak).sum(1))
    return float((rows[np.arange(len(targets)), list(targets)] - log_sum).sum())
