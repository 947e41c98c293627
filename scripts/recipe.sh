# Of examples/*/run.sh, which source it: finds the environment, then lamemo_fairseq/study/recipe.py does the work.
set -euo pipefail

recipe() {
    local root python
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    python=${PYTHON:-$root/.venv/bin/python}
    if ! command -v "$python" >/dev/null; then
        echo "run.sh: there is no $python: bash scripts/bootstrap.sh makes it, or name one with PYTHON=" >&2
        exit 1
    fi
    PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m lamemo_fairseq.study.recipe "$@"
}
