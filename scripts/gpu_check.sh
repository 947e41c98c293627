#!/usr/bin/env bash
# For whoever has an NVIDIA GPU: runs what cannot run without one, and writes what to send back.
#
#   bash scripts/gpu_check.sh [--device cuda|cpu] [--out gpu_check]
#
# First the tests marked gpu, then the benchmark: training steps at the paper's sizes in float32, float16 and bfloat16,
# eager and compiled, with tokens per second, share of the floor and peak; then training and decoding by memory length.
# With --device cpu the tests skip themselves and a small model is timed, so that this file is tried on any machine.
# Writes OUT.json and OUT.md; a test that fails stands there too, and is this command's exit status.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

device=cuda out=gpu_check
while [ $# -gt 0 ]; do
    case "$1" in
        --device) device="$2"; shift 2 ;;
        --out) out="$2"; shift 2 ;;
        *) echo "gpu_check: $1 is no option: give --device or --out" >&2; exit 2 ;;
    esac
done
PYTHON="${PYTHON:-.venv/bin/python}"
if [ "$device" = cuda ] && ! "$PYTHON" -c "import torch, sys; sys.exit(not torch.cuda.is_available())"; then
    echo "gpu_check: torch finds no CUDA device: give --device cpu to try this without one" >&2
    exit 1
fi

tests="$(mktemp)"
trap 'rm -f "$tests"' EXIT
failed=0
"$PYTHON" -m pytest -q -m gpu tests 2>&1 | tee "$tests" || failed=$?

notes=(
    --note "scripts/gpu_check.sh --device $device, commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    --note "$("$PYTHON" -c "import platform, torch
card = torch.cuda.get_device_name() if '$device' == 'cuda' else platform.machine()
print(f'{card}, torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}')")"
    --note "tests marked gpu: $(tail -n 1 "$tests")"
)
parts=(presets train decode eval) settings=(--repeats 5)
if [ "$device" = cpu ]; then settings=(--repeats 1 --threads 1 --tiny); fi
"$PYTHON" -m lamemo_fairseq benchmark "${parts[@]}" --device "$device" "${settings[@]}" "${notes[@]}" \
    --json "$out.json" --markdown "$out.md"
echo "gpu_check: wrote $out.json and $out.md"
exit "$failed"
