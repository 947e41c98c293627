#!/usr/bin/env bash
# Breaks the package line by line and tells which breaks no test sees (mutmut; configured in pyproject.toml).
#
#   bash scripts/mutate.sh                                   all that is configured: hours on two cores
#   bash scripts/mutate.sh 'lamemo_fairseq.core.softmax*'    the functions of one file
#
# It goes on where it was stopped. Afterwards: .venv/bin/mutmut results, .venv/bin/mutmut show NAME.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
.venv/bin/python -m pip install --quiet "mutmut==3.8.1"
export OMP_NUM_THREADS=1 MPLBACKEND=Agg
.venv/bin/mutmut run --max-children 2 "$@"
.venv/bin/mutmut results
