#!/usr/bin/env bash
# Makes the environment of the tests that run in fakesnow: it needs a Snowflake connector before 5 and pins DuckDB and sqlglot.
# Usage: scripts/snowflake_environment.sh FOLDER; then FOLDER/bin/python -m pytest -m snowflake
set -euo pipefail
folder=${1:?usage: scripts/snowflake_environment.sh FOLDER}
cd "$(dirname "$0")/.."
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install -q 'fakesnow[server]>=0.12,<0.13' 'snowflake-connector-python>=4,<5' 'pytest>=8' 'hypothesis>=6' .
