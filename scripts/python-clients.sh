#!/usr/bin/env bash
# Installs Python packages of the tests into a virtual environment: scripts/python-clients.sh DIRECTORY [REQUIREMENTS]. Instant when they are there.
# Without a list of requirements: the replication clients.
set -euo pipefail
venv=${1:?a directory is wanted}
requirements=${2:-$(cd "$(dirname "$0")/.." && pwd)/tests/python/requirements.txt}
if ! cmp -s "$requirements" "$venv/installed"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
    cp "$requirements" "$venv/installed"
fi
