#!/usr/bin/env bash
# enwik8: prepares, trains, evaluates, and writes a table beside published numbers.
#
#   bash examples/enwik8/run.sh [--variants lamemo,transformer_xl] [--size small] [--archive FILE] [OVERRIDE ...]
#   bash examples/enwik8/run.sh --smoke     all of it in small, in two minutes
#
# Stopped, the same command goes on. --help names all flags; README.md beside this file has the commands one by one.
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/recipe.sh"
recipe enwik8 "$@"
