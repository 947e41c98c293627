#!/usr/bin/env bash
# The main job: trains LaMemo and Transformer-XL on Shakespeare's plays, scores both, draws the curves.
#
#   bash scripts/quickstart.sh                 five minutes on two cores; finished steps are skipped
#   bash scripts/quickstart.sh --max-update N  fewer or more updates; --help names all flags
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/bootstrap.sh
export MPLBACKEND=Agg
exec .venv/bin/python scripts/quickstart.py "$@"
