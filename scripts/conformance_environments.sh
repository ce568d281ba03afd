#!/usr/bin/env bash
# Clients and suites of the field that speak to a running server, each in an environment of its own below FOLDER, and their commands
# in FOLDER/bin: what they need cannot be installed together. compatcanary needs npm (Node 20 or later), and is left out without.
# Usage: scripts/conformance_environments.sh FOLDER; then PATH=FOLDER/bin:$PATH pytest -m ecosystem tests/serve
set -euo pipefail
folder=${1:?usage: scripts/conformance_environments.sh FOLDER}
mkdir -p "$folder/bin"
folder=$(cd "$folder" && pwd)

make() {  # COMMAND REQUIREMENT...
  "${PYTHON:-python3}" -m venv "$folder/$1"
  "$folder/$1/bin/pip" install -q "${@:2}"
  ln -sf "$folder/$1/bin/$1" "$folder/bin/$1"
}

make llm 'llm>=0.36' 'openai>=3'
make schemathesis 'schemathesis>=4.32'
make lm_eval 'lm-eval[api]>=0.4.13'
if ! command -v npm >/dev/null; then
  echo "npm is not installed: compatcanary is left out"
  exit 0
fi
npm install --silent --no-audit --no-fund --prefix "$folder/compatcanary" compatcanary@0.2.2
ln -sf "$folder/compatcanary/node_modules/.bin/compatcanary" "$folder/bin/compatcanary"
