#!/usr/bin/env bash
# Breaks the package in one place at a time and tells which breaks no test sees: see tests/mutation/mutate.py.
#
#   bash scripts/mutate.sh                                  every file of its table: an hour or more on one core
#   bash scripts/mutate.sh core/softmax.py data/layout.py   some of them
#   bash scripts/mutate.sh --show                           what was found before
#   bash scripts/mutate.sh --nearest; bash scripts/mutate.sh --survivors    the tests nearest to a file first: faster
#
# It goes on where it was stopped. What was found last, and why what survives does: tests/mutation.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
.venv/bin/python -m pip install --quiet "mutmut==3.8.1"
export OMP_NUM_THREADS=1 MPLBACKEND=Agg
exec .venv/bin/python tests/mutation/mutate.py "$@"
