#!/usr/bin/env bash
# For whoever has an NVIDIA GPU: runs what cannot run without one, and writes what to send back.
#
#   bash scripts/gpu_check.sh [--device cuda|cpu] [--out gpu_check]
#
# First the tests marked gpu, then the benchmark: training steps at the paper's sizes in float32, float16 and bfloat16,
# and decoding. With --device cpu the tests skip themselves and the smallest preset is timed, so that this file is tried
# on any machine. Writes OUT.json and OUT.md.
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

"$PYTHON" -m pytest -q -m gpu tests || [ $? -eq 5 ]  # 5: none was selected
parts=(presets) threads=2
if [ "$device" = cpu ]; then threads=1; else parts+=(decode train); fi
{
    echo "# gpu_check on $device, commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    echo
    echo '```'
    "$PYTHON" -m lamemo_fairseq benchmark "${parts[@]}" --device "$device" --threads "$threads" --json "$out.json"
    echo '```'
} | tee "$out.md"
echo "gpu_check: wrote $out.json and $out.md"
