"""Tiny models are cut into many pieces and shards; and as no test cuts the power, nobody need wait for the disk."""

from __future__ import annotations

import os

import pytest

from openarctic.formats import convert, targets


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(convert, "PIECE_VALUES", 1500)
    monkeypatch.setattr(targets, "SHARD_BYTES", 60_000)
