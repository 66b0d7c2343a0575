#!/usr/bin/env bash
# Lints, renders and validates the Helm chart: scripts/chart-tests.sh [PYTEST ARGUMENTS]. Running what it renders is a test of the testbed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${CARGO_TARGET_DIR:-$PWD/target}/chart-python"
scripts/python-clients.sh "$venv" tests/chart/requirements.txt
exec "$venv/bin/python" -B -m pytest -q -p no:cacheprovider tests/chart "$@"
