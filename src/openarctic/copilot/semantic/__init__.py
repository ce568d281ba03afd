"""Semantic models: Cortex Analyst YAML and Apache Ossie, their lint, drafts, metrics and verified queries (docs/semantic.md)."""
