"""Traces repeat themselves from call to call, and not from draw to draw."""

from __future__ import annotations

import pytest

from openarctic.bench.traces import PER_DRAW, sql_trace, text_trace


@pytest.mark.parametrize("trace", [text_trace, sql_trace])
def test_a_draw_is_always_the_same(trace: object) -> None:
    assert trace(3) == trace(3) != trace(4)  # type: ignore[operator]


def test_sql_prompts_share_the_schema_and_ask_one_question_each() -> None:
    prompts = sql_trace(0).prompts
    assert len(prompts) == PER_DRAW and all(prompt.endswith("\nSQL:") for prompt in prompts)
    assert len({prompt.split("\nQ: ")[0] for prompt in prompts}) == 1
    assert len({prompt.split("\nQ: ")[1] for prompt in prompts}) == PER_DRAW
    assert sql_trace(0).grammar is None and "start" in str(sql_trace(0, with_grammar=True).grammar)


def test_most_questions_come_again_with_other_values() -> None:
    prompts = [prompt for draw in range(6) for prompt in sql_trace(draw).prompts]
    assert len(set(prompts)) > 0.8 * len(prompts)
