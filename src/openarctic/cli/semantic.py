"""`openarctic semantic`: semantic models checked and converted."""

from __future__ import annotations

SUMMARY = "check and convert semantic models"
DESCRIPTION = """\
Semantic models are Cortex Analyst YAML; Apache Ossie files are read too. `openarctic init` drafts one.

  lint     finds what is wrong, doubtful or missing, by itself, against a database, and on its data
  convert  writes a model of either form as Cortex Analyst YAML, in the usual order of its keys

examples:
  openarctic semantic lint model.yaml --db shop.duckdb
  openarctic semantic convert ossie.yaml model.yaml
"""
COMMANDS = ("lint", "convert")
