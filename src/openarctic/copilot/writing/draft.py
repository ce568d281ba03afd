"""Asking a model for code until it is right: answer, check, the problems back to the model, at most so many rounds."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from openarctic.errors import AbstainedError, OpenArcticError, UserError
from openarctic.generator import Generator, Sampling

ROUNDS = 3
MAX_TOKENS = 8192
TOLD_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in a file, and where; `line` is counted from 1."""

    file: str
    line: int | None
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}, line {self.line}"
        return f"{place}: {self.message}" + (f" ({self.hint})" if self.hint else "")

    @classmethod
    def of(cls, error: OpenArcticError, file: str, line: int | None = None) -> Problem:
        """An error of ours in a file."""
        return cls(file, line, error.message, error.hint)


def odd_characters(files: Mapping[str, str]) -> list[Problem]:
    """Characters that engines, interpreters and eyes read differently: a lone carriage return ends a comment for some and not for
    others, and marks of direction show a line other than it is."""
    problems = []
    for path, text in files.items():
        for character in text:
            if character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
                line = text.count("\n", 0, text.index(character)) + 1
                problems.append(
                    Problem(path, line, f"it holds the character U+{ord(character):04X}", "plain text, lines end with \\n")
                )
                break
    return problems


class Task(Protocol):
    """One kind of code: how it is asked for, found in an answer, and checked."""

    def prompt(self) -> str:
        """What the model is told."""

    def read(self, text: str) -> dict[str, str]:
        """The files in an answer, by path. Raises UserError where it holds none, or one that may not be."""

    def check(self, files: Mapping[str, str]) -> list[Problem]:
        """Everything that is wrong with them."""

    def complete(self, files: Mapping[str, str]) -> dict[str, str]:
        """With what is made without the model; nothing, where a task does not say."""
        return dict(files)

    @property
    def checks(self) -> tuple[str, ...]:
        """What `check` looks at, for people."""


@dataclass(frozen=True, slots=True)
class Written:
    """Files by their path, what they passed, and how many rounds the model needed (0: it was not asked)."""

    files: dict[str, str]
    checks: tuple[str, ...]
    rounds: int
    model: str | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        files = [{"path": path, "text": text} for path, text in self.files.items()]
        return {
            "status": "ok",
            "files": files,
            "checks": list(self.checks),
            "rounds": self.rounds,
            "model": self.model,
            "error": None,
        }


def check_capable(model: Generator) -> None:
    """Raises UserError for a model that was made for short SQL: it says so itself (`target_form`)."""
    if getattr(model, "target_form", "sql") is not None:
        raise not_capable(model.name)


def not_capable(name: str) -> UserError:
    """Which models can write code, for one that cannot."""
    return UserError(
        f"{name} writes SQL for questions, and no other code",
        "name a model that chats: --model URL, --model openai, or a GGUF file with a chat template; "
        "`openarctic write dbt --staging` needs none",
    )


def write_code(task: Task, model: Generator, rounds: int = ROUNDS, max_tokens: int = MAX_TOKENS) -> Written:
    """Ask until the answer passes.

    Raises UserError for a model that cannot, AbstainedError with the last answer's problems after `rounds`.
    """
    check_capable(model)
    prompt = asked = task.prompt()
    problems: list[Problem] = []
    for number in range(1, rounds + 1):
        [completion] = model.generate(asked, sampling=(Sampling(),), max_tokens=max_tokens)
        files: dict[str, str] = {}
        if completion.finish_reason == "length":
            problems = [Problem("the answer", None, f"it was cut off after {max_tokens} tokens", "write less")]
        else:
            try:
                files = task.read(completion.text)
                problems = odd_characters(files) or task.check(files)
            except UserError as error:
                problems = [Problem.of(error, "the answer")]
        if not problems:
            return Written(task.complete(files), task.checks, number, model.name)
        asked = repair(prompt, completion.text, problems)
    told = "\n".join(f"  {problem}" for problem in problems[:TOLD_PROBLEMS])
    raise AbstainedError(
        f"{model.name} gave {rounds} answer{'s' if rounds > 1 else ''} and none is right; of the last:\n{told}",
        "describe it more plainly, or ask a more capable model; nothing was written",
    )


def repair(prompt: str, answer: str, problems: Sequence[Problem]) -> str:
    """The prompt again, with the answer and what is wrong with it."""
    told = "\n".join(f"- {problem}" for problem in problems[:TOLD_PROBLEMS])
    return f"{prompt}\n\nThis was answered:\n{answer}\n\nIt has these problems:\n{told}\n\nAnswer again, whole, without them."
