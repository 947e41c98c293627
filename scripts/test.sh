#!/usr/bin/env bash
# Runs every check: formatting, lint, types, imports between the floors, tests.
#
#   bash scripts/test.sh            all but the slow tests
#   bash scripts/test.sh --all      these as well
#   bash scripts/test.sh tests/data/test_corpus.py -k words     other arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/bootstrap.sh

PYTHON=.venv/bin/python
marker=(-m "not slow")
arguments=()
for argument in "$@"; do
    if [ "$argument" = --all ]; then marker=(); else arguments+=("$argument"); fi
done

check() {
    echo "test: $*"
    "$PYTHON" -m "$@" || failed="${failed:+$failed, }$*"
}
failed=""
check ruff check .
check ruff format --check .
check mypy
echo "test: lint-imports"
.venv/bin/lint-imports || failed="${failed:+$failed, }lint-imports"
if [ -n "$failed" ]; then
    echo "test: no tests were run, because these failed: $failed" >&2
    exit 1
fi

# Two workers with one thread each: the models of the tests are too small to gain from a second thread, and what takes
# the time, starting fairseq's commands, runs on one core. A file stays with one worker, for the fixtures it shares.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export MPLBACKEND=Agg
exec "$PYTHON" -m pytest -n 2 --dist loadfile ${marker[@]+"${marker[@]}"} ${arguments[@]+"${arguments[@]}"}
