"""docs/train.md has every field of every recipe, with the defaults that they have."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
from openarctic.train.pretrain import PretrainRecipe
from openarctic.train.recipes import NanoRecipe
from openarctic.train.sft import SftRecipe
from openarctic.train.tiny import tiny_recipe

DOCS = (Path(__file__).parents[2] / "docs" / "train.md").read_text(encoding="utf-8")
PRETRAIN, TINY, SFT, NANO = PretrainRecipe(), tiny_recipe(), SftRecipe(), NanoRecipe()


def shown(value: Any) -> str:
    """A default as the tables have it, which --set takes too."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return f"{value:_}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value


def table(heading: str) -> dict[str, list[str]]:
    """Field -> its defaults, of the table below a heading."""
    section = DOCS.split(f"\n### {heading}\n")[1].split("\n##")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| [^|]* \|$", section, re.MULTILINE)
    return {name: [cell.strip("` ") for cell in cells.split(" | ")] for name, cells in rows}


@pytest.mark.parametrize(
    ("heading", "configs"),
    [
        ("`pretrain` and `tiny`", (PRETRAIN, TINY)),
        ("`model` of `pretrain` and `tiny`", (PRETRAIN.model, TINY.model)),
        ("`sft`", (SFT,)),
        ("`nano`", (NANO,)),
        ("`train` of all recipes", (PRETRAIN.train, TINY.train, SFT.train, NANO.tune)),
    ],
)
def test_the_tables_have_all_fields_and_their_defaults(heading: str, configs: tuple[Any, ...]) -> None:
    names = [each.name for each in fields(configs[0]) if not is_dataclass(getattr(configs[0], each.name))]
    wanted = {name: [shown(getattr(config, name)) for config in configs] for name in names}
    assert table(heading) == wanted


@pytest.mark.parametrize("group", [PRETRAIN.routing, PRETRAIN.parallel])
def test_the_other_groups_are_named(group: Any) -> None:
    assert all(f"`{each.name}`" in DOCS for each in fields(group))
