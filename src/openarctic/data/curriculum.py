"""Stages of training, each with a budget of tokens, a mixture of domains and a length of sequences."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from openarctic.config import read_object, write_text
from openarctic.data.mixture import Mixture
from openarctic.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """`tokens` of training on one mixture, in sequences of `sequence_length`."""

    name: str
    tokens: int
    sequence_length: int
    mixture: Mixture

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, int) or not isinstance(self.sequence_length, int):
            raise UserError(
                f"stage {self.name}: tokens {self.tokens!r}, sequence_length {self.sequence_length!r}", "give whole numbers"
            )
        if self.tokens <= 0 or self.sequence_length < 2:
            raise UserError(
                f"stage {self.name} has {self.tokens} tokens in sequences of {self.sequence_length}",
                "give a budget of at least one token, and sequences of at least two",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Curriculum:
    """Stages in their order. No domain is read more often than `max_epochs` (a number for all, or one for each; None: no limit).

    What happens otherwise is `on_excess`: an error, or "reweight", where the domain gets what it has and the others share the
    rest (`limit_repeats` says so). Four epochs cost little against fresh data, many more teach nothing (Muennighoff et al. 2023,
    "Scaling Data-Constrained Language Models"), hence the default.
    """

    stages: tuple[Stage, ...]
    max_epochs: float | Mapping[str, float] | None = 4.0
    on_excess: Literal["error", "reweight"] = "error"

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("the curriculum has no stage")
        if self.on_excess not in ("error", "reweight"):
            raise UserError(f"on_excess is {self.on_excess!r}", "give error or reweight")
        caps = self.max_epochs.values() if isinstance(self.max_epochs, Mapping) else [self.max_epochs]
        if any(cap is not None and not cap > 0 for cap in caps):
            raise UserError(f"max_epochs is {self.max_epochs}", "give more than 0, or none for no limit")

    @property
    def domains(self) -> tuple[str, ...]:
        """All domains in the order in which they first appear."""
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage.mixture.proportions))

    @property
    def tokens(self) -> int:
        """The whole budget."""
        return sum(stage.tokens for stage in self.stages)

    def cap(self, domain: str) -> float:
        """How many epochs of a domain are allowed."""
        caps = self.max_epochs
        cap = caps.get(domain) if isinstance(caps, Mapping) else caps
        return math.inf if cap is None else cap

    def tokens_by_domain(self) -> dict[str, float]:
        """What each domain is to give over all stages."""
        wanted = dict.fromkeys(self.domains, 0.0)
        for stage in self.stages:
            for name, share in stage.mixture.shares.items():
                wanted[name] += share * stage.tokens
        return wanted

    def only(self, domains: Iterable[str]) -> Curriculum:
        """Without the domains that are not named, their part given to the others of the stage (see `Mixture.only`)."""
        kept = tuple(domains)
        return replace(self, stages=tuple(replace(stage, mixture=stage.mixture.only(kept)) for stage in self.stages))

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; `curriculum_from_dict` reads it back."""
        caps = dict(self.max_epochs) if isinstance(self.max_epochs, Mapping) else self.max_epochs
        stages = [
            {
                **{key: value for key, value in asdict(stage).items() if key != "mixture"},
                "mixture": dict(stage.mixture.proportions),
            }
            for stage in self.stages
        ]
        return {"stages": stages, "max_epochs": caps, "on_excess": self.on_excess}


def curriculum_from_dict(values: Mapping[str, Any]) -> Curriculum:
    """Raises UserError for fields that are missing, unknown or of another kind."""
    try:
        stages = tuple(Stage(**{**stage, "mixture": Mixture(stage["mixture"])}) for stage in values["stages"])
        return Curriculum(**{**values, "stages": stages})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"this is no curriculum: {error!r}", "see docs/data.md for its form") from error


def read_curriculum(path: Path) -> Curriculum:
    """From a JSON file. Raises CorruptError or UserError."""
    return curriculum_from_dict(read_object(path))


def write_curriculum(path: Path, curriculum: Curriculum) -> None:
    """As a JSON file."""
    write_text(path, json.dumps(curriculum.to_dict(), indent=1) + "\n")


def single_stage(proportions: Mapping[str, float], tokens: int, sequence_length: int, **settings: Any) -> Curriculum:
    """A curriculum of one stage; `settings` are those of `Curriculum`."""
    stage = Stage(name="train", tokens=tokens, sequence_length=sequence_length, mixture=Mixture(proportions))
    return Curriculum(stages=(stage,), **settings)


ARCTIC_TOKENS = 3_500_000_000_000
_ARCTIC_STAGES = (
    ("generic", 1.0, {"web": 85, "code": 8, "sql": 1, "stem": 5, "instruct": 1}),
    ("enterprise", 1.5, {"web": 70, "code": 15, "sql": 4, "stem": 9, "instruct": 2}),
    ("refinement", 1.0, {"web": 60, "code": 18, "sql": 8, "stem": 9, "instruct": 5}),
)


def arctic_curriculum(tokens: int = ARCTIC_TOKENS, sequence_length: int | Sequence[int] = 4096, **settings: Any) -> Curriculum:
    """Arctic's three stages, scaled to any budget: generic, introduction of enterprise skills, refinement, as 1 : 1.5 : 1.

    Published are the budgets (1T, 1.5T, 1T of 3.5T tokens), the kinds of text (web, code, SQL, STEM, instructions), the turn from
    web towards code, SQL and mathematics, and that about 2.5T of all tokens are of the web. The mixtures themselves are not.
    Those here are our choice: they keep the 2.5T (0.85, 1.05 and 0.6T of the stages), and SQL doubles or more at each stage.
    Domains are web, code, sql, stem, instruct; `.only([...])` leaves some out. One `sequence_length`, or one for each stage.
    """
    lengths = [sequence_length] * len(_ARCTIC_STAGES) if isinstance(sequence_length, int) else list(sequence_length)
    if len(lengths) != len(_ARCTIC_STAGES):
        raise UserError(f"{len(lengths)} sequence lengths for {len(_ARCTIC_STAGES)} stages", "give one, or one for each stage")
    parts = sum(part for _, part, _ in _ARCTIC_STAGES)
    stages = tuple(
        Stage(name=name, tokens=round(tokens * part / parts), sequence_length=length, mixture=Mixture(percent))
        for (name, part, percent), length in zip(_ARCTIC_STAGES, lengths, strict=True)
    )
    return Curriculum(stages=stages, **settings)


def limit_repeats(curriculum: Curriculum, available: Mapping[str, int]) -> tuple[Curriculum, list[str]]:
    """The curriculum that keeps within `max_epochs` of what is there (domain -> tokens), and a line for every change to it.

    Stages are served in order. Raises UserError for a domain that is not there, for one that would be read too often if that is
    an error, and where reweighting finds a stage for which all domains together have too little.
    """
    missing = [name for name in curriculum.domains if name not in available]
    if missing:
        raise UserError(
            f"no data for {', '.join(missing)}", f"there is {', '.join(available) or 'nothing'}; give theirs, or leave them out"
        )
    left = {name: curriculum.cap(name) * available[name] for name in curriculum.domains}
    wanted = curriculum.tokens_by_domain()
    if curriculum.on_excess == "error":
        for name, tokens in wanted.items():
            if tokens > left[name] * (1 + 1e-9):
                raise UserError(
                    f"domain {name}: {tokens / available[name]:.2f} epochs of its {available[name]:,} tokens are needed, "
                    f"at most {curriculum.cap(name):g} are allowed",
                    "lower the budget or its proportion, add data, raise max_epochs, or set on_excess=reweight",
                )
        return curriculum, []
    stages, changes = [], []
    for stage in curriculum.stages:
        shares = _fill(stage, left)
        for name, share in shares.items():
            left[name] -= share * stage.tokens
        before = stage.mixture.shares
        if any(not math.isclose(shares[name], before[name], rel_tol=1e-9, abs_tol=1e-12) for name in before):
            told = ", ".join(f"{name} {100 * before[name]:.2f} % -> {100 * shares[name]:.2f} %" for name in before)
            changes.append(f"stage {stage.name}: reweighted to keep within max_epochs: {told}")
            stage = replace(stage, mixture=Mixture(shares))
        stages.append(stage)
    return replace(curriculum, stages=tuple(stages)), changes


def _fill(stage: Stage, left: Mapping[str, float]) -> dict[str, float]:
    """Shares of a stage in which no domain exceeds what is left of it: those that would get all of it, the others grow alike."""
    before = stage.mixture.shares
    full: dict[str, float] = {}
    while True:
        free = {name: share for name, share in before.items() if name not in full and share > 0}
        rest = 1 - sum(full.values())
        if rest > 1e-9 and not free:
            has = sum(left[name] for name in before if before[name] > 0)
            raise UserError(
                f"stage {stage.name} needs {stage.tokens:,} tokens, its domains have {has:,.0f} left within max_epochs",
                "lower the budget, add data, or raise max_epochs",
            )
        total = sum(free.values())
        grown = {name: share / total * rest for name, share in free.items()}
        over = {name: left[name] / stage.tokens for name in grown if grown[name] * stage.tokens > left[name] * (1 + 1e-12)}
        if not over:
            return {name: full.get(name, grown.get(name, 0.0)) for name in before}
        full |= over
