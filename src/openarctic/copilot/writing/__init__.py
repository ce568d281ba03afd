"""Code beside SQL, written by a model and checked before anybody sees it: dbt models, procedures, ETL scripts (docs/writing.md).

Nothing that is written here is ever executed.
"""
