"""Models of one shape seen as their weighted mean: "model soup" (Wortsman et al. 2022, arXiv:2203.05482), mergekit's `linear`.

`MergedSource` is a `Source`, so `convert` writes the mean in any form, piece by piece and resumable. A piece that is the same in
all models keeps its very bytes; any other is averaged in F32 and rounded to the type that it has in the first model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from openarctic.errors import UserError
from openarctic.formats.config import HybridConfig
from openarctic.formats.names import state_dict_shapes
from openarctic.formats.quants import Raw, byte_size, dequantize, encode
from openarctic.formats.sources import ChangedSource, Source
from openarctic.formats.verify import OnBytes

RECORD = "merged"  # the key of a `config.json`, and what keys of a GGUF file begin with after `openarctic.`


def normalised(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Weights whose sum is 1; equal ones for None. Raises UserError unless there are `count`, none negative, not all 0."""
    if weights is None:
        return (1 / count,) * count
    if len(weights) != count:
        raise UserError(f"{len(weights)} weights were given for {count} models", "give one for each, in their order")
    if not all(math.isfinite(w) and w >= 0 for w in weights) or not sum(weights):
        raise UserError(
            f"the weights are {', '.join(f'{w:g}' for w in weights)}", "none may be negative, and one must be above 0"
        )
    return tuple(weight / sum(weights) for weight in weights)


class MergedSource(ChangedSource):
    """The mean of at least two sources; tokenizer and other things beside the weights are the first one's.

    Raises UserError for models of different sizes, and for weights as `normalised`.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float] | None = None) -> None:
        if len(sources) < 2:
            raise UserError("one model was given to merge", "give two or more")
        self.sources, self.weights = tuple(sources), normalised(weights, len(sources))
        self.source = first = self.sources[0]
        self.path, self.config, self.names = first.path, first.config, first.names
        self._shapes = state_dict_shapes(self.config)
        for other in self.sources[1:]:
            _check_same(first, other)
        self.record = {RECORD: {"models": [s.path.resolve().name for s in self.sources], "weights": list(self.weights)}}

    def type_of(self, name: str) -> str:
        """The first model's."""
        return self.source.type_of(name)

    def read_rows(self, name: str, first: int, out: Raw) -> Raw:
        """Fill `out`."""
        width, type_ = self._shapes[name][-1], self.type_of(name)
        shape = (out.size // byte_size(type_, (width,)), width)
        pieces = [(source.type_of(name), _read(source, name, first, shape)) for source in self.sources]
        if all(kind == type_ and np.array_equal(raw, pieces[0][1]) for kind, raw in pieces[1:]):
            out[:] = pieces[0][1]
            return out
        mean = np.zeros(shape, np.float32)
        for weight, (kind, raw) in zip(self.weights, pieces, strict=True):
            mean += np.float32(weight) * dequantize(raw, kind, shape)
        return encode(mean.view(np.uint8).reshape(-1), "F32", type_, shape, out=out)

    def verify(self, on_bytes: OnBytes) -> None:
        """All of them."""
        for source in self.sources:
            source.verify(on_bytes)

    def fingerprint(self) -> Any:
        """All of them, and the weights."""
        return [list(self.weights), *(source.fingerprint() for source in self.sources)]

    def close(self) -> None:
        """Close all."""
        for source in self.sources:
            source.close()


def _read(source: Source, name: str, first: int, shape: tuple[int, int]) -> Raw:
    return source.read_rows(name, first, np.empty(byte_size(source.type_of(name), shape), np.uint8))


def _check_same(first: Source, other: Source) -> None:
    differences = _differences(first.config, other.config)
    if differences:
        raise UserError(
            f"{other.path} has another shape than {first.path}: {'; '.join(differences)}", "merge models of one shape"
        )
    missing = set(first.names) ^ set(other.names)
    if missing:
        raise UserError(f"{other.path} and {first.path} have other tensors: {', '.join(sorted(missing)[:3])}")


def _differences(one: HybridConfig, other: HybridConfig) -> list[str]:
    pairs = ((field.name, getattr(one, field.name), getattr(other, field.name)) for field in fields(HybridConfig))
    return [f"{name} is {b!r}, not {a!r}" for name, a, b in pairs if not _is_same(a, b)][:3]


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)  # GGUF's keys hold float32
    return bool(one == other)
