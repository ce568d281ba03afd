from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from openarctic.data import Curriculum, Mixture, Stage, arctic_curriculum, single_stage
from openarctic.data.curriculum import curriculum_from_dict, limit_repeats, read_curriculum, write_curriculum
from openarctic.errors import UserError


def test_arctic_has_the_published_budgets_and_share_of_web() -> None:
    arctic = arctic_curriculum()
    assert [stage.tokens for stage in arctic.stages] == [10**12, 15 * 10**11, 10**12]
    assert arctic.tokens_by_domain()["web"] == pytest.approx(2.5e12)
    sql = [stage.mixture.shares["sql"] for stage in arctic.stages]
    assert all(later >= 2 * earlier for earlier, later in pairwise(sql))


def test_arctic_scales_to_any_budget() -> None:
    small = arctic_curriculum(7_000_000, (128, 256, 512)).only(["web", "sql"])
    assert [(stage.tokens, stage.sequence_length) for stage in small.stages] == [
        (2_000_000, 128),
        (3_000_000, 256),
        (2_000_000, 512),
    ]
    assert small.domains == ("web", "sql") and all(sum(s.mixture.shares.values()) == pytest.approx(1) for s in small.stages)
    with pytest.raises(UserError, match="2 sequence lengths for 3 stages"):
        arctic_curriculum(7_000_000, (128, 256))


def test_a_curriculum_survives_its_file(tmp_path: Path) -> None:
    curriculum = replace(arctic_curriculum(7_000_000), max_epochs={"web": 2.0}, on_excess="reweight")
    write_curriculum(tmp_path / "c.json", curriculum)
    assert read_curriculum(tmp_path / "c.json") == curriculum
    for broken in ({}, {"stages": [{"name": "x"}]}, {**curriculum.to_dict(), "steps": 3}, {"stages": 3}):
        with pytest.raises(UserError, match="this is no curriculum"):
            curriculum_from_dict(broken)


def test_the_guide_shows_a_curriculum_and_arctics_mixtures() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    shown = curriculum_from_dict(json.loads(re.findall(r"```json\n(.*?)```", guide, re.S)[0]))
    assert shown.domains == ("web", "instruct", "sql") and shown.max_epochs == 4
    for stage in arctic_curriculum().stages:
        row = " | ".join(f"{percent:g}" for percent in stage.mixture.proportions.values())
        assert f"| {stage.name} | {row} |" in guide


def test_repeating_past_the_cap_is_an_error_with_both_numbers() -> None:
    curriculum = single_stage({"web": 0.5, "sql": 0.5}, 10_000, 16)
    with pytest.raises(UserError, match=r"domain sql: 5.00 epochs of its 1,000 tokens are needed, at most 4 are allowed"):
        limit_repeats(curriculum, {"web": 5000, "sql": 1000})
    assert limit_repeats(replace(curriculum, max_epochs={"web": 1}), {"web": 5000, "sql": 1000}) == (
        replace(curriculum, max_epochs={"web": 1}),
        [],
    )
    assert limit_repeats(replace(curriculum, max_epochs=None), {"web": 1, "sql": 1})[1] == []


def test_reweighting_gives_what_there_is_and_says_so() -> None:
    stages = (
        Stage(name="one", tokens=8000, sequence_length=16, mixture=Mixture({"web": 0.5, "code": 0.25, "sql": 0.25})),
        Stage(name="two", tokens=2000, sequence_length=16, mixture=Mixture({"web": 0.5, "sql": 0.5})),
    )
    curriculum = Curriculum(stages=stages, max_epochs=2, on_excess="reweight")
    limited, changes = limit_repeats(curriculum, {"web": 10**6, "code": 10**6, "sql": 500})
    first, second = (stage.mixture.shares for stage in limited.stages)
    assert first == pytest.approx({"web": 0.875 * 2 / 3, "code": 0.875 / 3, "sql": 0.125})  # 2 epochs of 500 in 8000
    assert second == pytest.approx({"web": 1.0, "sql": 0.0})
    assert len(changes) == 2 and "sql 25.00 % -> 12.50 %" in changes[0]
    with pytest.raises(UserError, match="stage one needs 8,000 tokens, its domains have 3,000 left"):
        limit_repeats(curriculum, {"web": 500, "code": 500, "sql": 500})
    assert limit_repeats(curriculum, {"web": 10**6, "code": 10**6, "sql": 10**6}) == (curriculum, [])


def test_nonsense_is_refused() -> None:
    with pytest.raises(UserError, match="no stage"):
        Curriculum(stages=())
    with pytest.raises(UserError, match="max_epochs is 0"):
        single_stage({"web": 1}, 100, 16, max_epochs=0)
    with pytest.raises(UserError, match="on_excess"):
        single_stage({"web": 1}, 100, 16, on_excess="ignore")
    with pytest.raises(UserError, match="0 tokens in sequences of 16"):
        single_stage({"web": 1}, 0, 16)
    with pytest.raises(UserError, match=r"tokens 1000.0, sequence_length 16"):
        single_stage({"web": 1}, 1e3, 16)  # type: ignore[arg-type]
