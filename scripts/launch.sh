#!/usr/bin/env bash
# Trains on several processes of this machine: one per GPU, or on the CPU where there are fewer GPUs.
#
#   bash scripts/launch.sh -n 2 -- data-bin/wikitext-103 --task memory_language_modeling --arch lamemo_lm ...
#
# What stands behind -- goes to fairseq-train; --batch-size is per process. When one process ends with an error or is
# killed, the others are stopped and a line says which one it was: the same command goes on from the last checkpoint.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

usage() { sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//' >&2; exit 2; }

ranks=""
while [ $# -gt 0 ]; do
    case "$1" in
        -n) [ $# -ge 2 ] || usage; ranks="$2"; shift 2 ;;
        --) shift; break ;;
        *) usage ;;
    esac
done
[[ "$ranks" =~ ^[1-9][0-9]*$ ]] || { echo "launch: -n '$ranks' is no number of processes: e.g. -n 2" >&2; exit 2; }
[ $# -gt 0 ] || { echo "launch: nothing to train: give fairseq-train's arguments behind --" >&2; exit 2; }

PYTHON="${PYTHON:-$ROOT/.venv/bin/python}"
[ -x "$PYTHON" ] || PYTHON=python3
# A free port on which the processes meet, and the number of GPUs.
read -r port gpus < <("$PYTHON" -c '
import socket, torch
probe = socket.socket()
probe.bind(("127.0.0.1", 0))
print(probe.getsockname()[1], torch.cuda.device_count())')

shared=(--distributed-world-size "$ranks" --distributed-init-method "tcp://127.0.0.1:$port" --distributed-no-spawn)
if [ "$gpus" -ge "$ranks" ]; then
    where="$ranks GPUs"
else
    where="the CPU ($gpus GPUs for $ranks processes)"
    shared+=(--cpu --distributed-backend gloo --ddp-backend legacy_ddp)
    export CUDA_VISIBLE_DEVICES=""
fi
if [ "$ranks" -eq 1 ]; then # fairseq meets nobody then
    shared=()
    [ "$gpus" -ge 1 ] || shared=(--cpu)
fi
case " $* " in *" --user-dir"*) ;; *) shared+=(--user-dir "$ROOT/lamemo_fairseq") ;; esac
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Many launchers leave these behind; fairseq would take them for its own.
unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT
echo "launch: $ranks processes on $where, port $port" >&2

children=()
stop() {
    trap - EXIT INT TERM
    local child
    for child in "${children[@]}"; do kill -TERM "$child" 2>/dev/null || true; done
    for _ in $(seq 50); do
        local alive=0
        for child in "${children[@]}"; do if kill -0 "$child" 2>/dev/null; then alive=1; fi; done
        [ "$alive" -eq 1 ] || return 0
        sleep 0.1
    done
    for child in "${children[@]}"; do kill -KILL "$child" 2>/dev/null || true; done
}
trap 'stop; exit 130' INT TERM
trap stop EXIT

for ((rank = 0; rank < ranks; rank++)); do
    own=()
    if [ "$ranks" -gt 1 ]; then own=(--distributed-rank "$rank" --device-id "$rank"); fi
    "$PYTHON" -m fairseq_cli.train "$@" ${shared[@]+"${shared[@]}"} ${own[@]+"${own[@]}"} &
    children+=($!)
    echo "launch: rank $rank is process $!" >&2
done

# Looks once a second who has ended: `wait -n` would need a newer bash than some machines have.
running=$ranks
ended=()
while [ "$running" -gt 0 ]; do
    for ((rank = 0; rank < ranks; rank++)); do
        if [ -n "${ended[$rank]:-}" ] || kill -0 "${children[$rank]}" 2>/dev/null; then continue; fi
        code=0
        wait "${children[$rank]}" || code=$?
        ended[rank]=1
        running=$((running - 1))
        if [ "$code" -ne 0 ]; then
            if [ "$code" -gt 128 ]; then how="was killed by signal $((code - 128))"; else how="ended with status $code"; fi
            echo "launch: rank $rank (process ${children[$rank]}) $how; stopping the others." \
                "The same command goes on from the last checkpoint." >&2
            stop
            exit 1
        fi
    done
    [ "$running" -eq 0 ] || sleep 1
done
trap - EXIT
