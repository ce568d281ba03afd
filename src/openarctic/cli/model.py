"""`openarctic model`: look at, convert and compare models. One file a subcommand, `model_NAME.py`."""

from __future__ import annotations

SUMMARY = "describe, convert, compare, upcycle and merge models"
DESCRIPTION = """\
Works on GGUF files and checkpoint folders; `openarctic model COMMAND --help` teaches each command.

examples:
  openarctic model describe arctic-480b
  openarctic model convert ./checkpoint model.gguf --type Q4_K_M
  openarctic model parity ./checkpoint
  openarctic model upcycle ./dense ./hybrid --every 6 --expert-size 256
  openarctic model merge ./run-a ./run-b --out ./mean
"""
COMMANDS = ("describe", "convert", "importance", "parity", "overlap", "upcycle", "merge")
