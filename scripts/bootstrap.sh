#!/usr/bin/env bash
# Makes .venv/ in the repository root from scripts/requirements.lock. Run again with nothing changed, it does nothing.
#
#   bash scripts/bootstrap.sh                     the first of python3.11, python3.12, python3.10 that runs
#   PYTHON=/path/to/python bash scripts/bootstrap.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=.venv
VENV_PYTHON=$VENV/bin/python
LOCK=scripts/requirements.lock
STAMP=$VENV/.bootstrap-stamp     # what was installed; written last, so that it stands for a finished run only
AT_WORK=$VENV/.bootstrap-at-work # process id of the run that is installing; left behind by an interrupted one
LOG=$VENV/bootstrap.log
CPU_INDEX=https://download.pytorch.org/whl/cpu
# What must be built with the packages already in .venv, not in pip's own empty build environment.
UNISOLATED='^(fastBPE|fairseq-fixed)=='

say() { echo "bootstrap: $*"; }
die() { echo "bootstrap: $*" >&2; exit 1; }

# Shims can exist for interpreters that do not, so a candidate counts only if it answers.
version_of() { "$1" -I -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }

fingerprint() {
    "$1" -I -c '
import hashlib, sys
content = b"".join(open(name, "rb").read() for name in sys.argv[1:])
print("%d.%d.%d" % sys.version_info[:3], hashlib.sha256(content).hexdigest())
' "$LOCK" setup.py scripts/bootstrap.sh
}

# A killed pip can leave half a package that looks installed: after it, only a new environment is sure to be whole.
venv_is_usable() {
    [ -e "$VENV/pyvenv.cfg" ] && [ ! -e "$AT_WORK" ] && "$VENV_PYTHON" -m pip --version >/dev/null 2>&1
}

up_to_date() {
    [ -e "$STAMP" ] && [ ! -e "$AT_WORK" ] &&
        [ "$(fingerprint "$VENV_PYTHON" 2>/dev/null)" = "$(cat "$STAMP")" ] &&
        { [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of "$VENV_PYTHON")" ]; }
}

choose_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        version_of "$PYTHON" >/dev/null ||
            die "PYTHON=$PYTHON does not run; give the path of a Python 3.10, 3.11 or 3.12"
        echo "$PYTHON"
        return
    fi
    # An environment that someone made with another PYTHON= is kept up to date, not replaced behind their back.
    if venv_is_usable; then
        echo "$VENV_PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.10; do
        if version_of "$candidate" >/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no python3.11, python3.12 or python3.10 runs here; install one (Debian, Ubuntu:" \
        "apt install python3.11 python3.11-venv python3.11-dev) or name one with PYTHON=/path/to/python"
}

# Looks at the command, too: after a restart the number may belong to any other process.
other_run_is_alive() {
    [ -e "$AT_WORK" ] && ps -p "$(cat "$AT_WORK")" -o args= 2>/dev/null | grep -q bootstrap
}

wait_for_other_run() {
    other_run_is_alive || return 0
    say "process $(cat "$AT_WORK") is installing into $VENV/; waiting for it"
    while other_run_is_alive; do sleep 1; done
}

make_venv() {
    local python=$1
    if [ -e "$VENV" ] && [ ! -e "$VENV/pyvenv.cfg" ] && [ ! -e "$AT_WORK" ]; then
        die "$VENV exists and is not a Python environment; move it away and run this again"
    fi
    if ! venv_is_usable || [ "$(version_of "$VENV_PYTHON")" != "$(version_of "$python")" ]; then
        rm -rf "$VENV"
    fi
    mkdir -p "$VENV"
    echo $$ >"$AT_WORK"
    rm -f "$STAMP"
    : >"$LOG"
    if [ ! -e "$VENV/pyvenv.cfg" ]; then
        say "1/4 making $VENV with Python $(version_of "$python")"
        "$python" -m venv "$VENV" >>"$LOG" 2>&1 ||
            die "$python cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv); see $LOG"
    else
        say "1/4 bringing $VENV up to date"
    fi
}

pip_install() { "$VENV_PYTHON" -m pip --no-input install --progress-bar off "$@" >>"$LOG" 2>&1; }

must_install() {
    pip_install "$@" || die "pip could not install this: $(grep -E '^ *(ERROR|error)' "$LOG" | tail -n 1); see $LOG"
}

# The lock's line for this interpreter, without the marker: "torch==2.13.0".
torch_pin() {
    if [ "$minor" -ge 11 ]; then
        sed -n 's/^\(torch==[^ ]*\) ; python_version >=.*/\1/p' "$LOCK"
    else
        sed -n 's/^\(torch==[^ ]*\) ; python_version <.*/\1/p' "$LOCK"
    fi
}

install_torch() {
    local pin installed
    pin=$(torch_pin)
    installed=$("$VENV_PYTHON" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true)
    if [ "torch==${installed%%+*}" = "$pin" ]; then
        say "2/4 $pin is there already"
        return
    fi
    if [ "$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1; then
        # The CPU build needs nothing beyond the lock, so --no-deps; the plain one brings its CUDA libraries.
        say "2/4 installing $pin, CPU build (no NVIDIA driver found)"
        pip_install --no-deps "$pin+cpu" && return
        say "2/4 pip's own index has no CPU build; trying $CPU_INDEX"
        pip_install --no-deps --timeout 10 --retries 1 --index-url "$CPU_INDEX" "$pin+cpu" && return
        say "2/4 no CPU build within reach; installing plain $pin, which brings gigabytes of CUDA libraries"
    else
        say "2/4 installing plain $pin (an NVIDIA driver answers, or this is not Linux)"
    fi
    must_install --constraint "$LOCK" "$pin"
}

install_packages() {
    local machine compiler=no
    machine="$(uname -s)-$(uname -m)"
    if command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null; then compiler=yes; fi
    if [ "$compiler" = no ] && { [ "$minor" -lt 11 ] || [ "$machine" != Linux-x86_64 ]; }; then
        die "fairseq is built from source for Python 3.$minor on $machine: install a C++ compiler (Debian, Ubuntu:" \
            "apt install g++ python3-dev), or use Python 3.11 or 3.12 on Linux x86-64"
    fi
    if [ "$minor" -lt 11 ]; then
        # From 24.1 on, pip refuses the metadata of omegaconf 2.0.6, which fairseq 0.12.2 cannot do without.
        must_install 'pip<24.1'
    fi
    say "3/4 installing fairseq and the other packages of $LOCK"
    grep -vE "^#|^$|^torch==|$UNISOLATED" "$LOCK" >"$VENV/isolated.txt"
    grep -E "$UNISOLATED" "$LOCK" | grep -v '^fastBPE' >"$VENV/unisolated.txt"
    must_install --no-deps -r "$VENV/isolated.txt"
    must_install --no-deps --no-build-isolation -r "$VENV/unisolated.txt"
    if [ "$compiler" = no ]; then
        say "3/4 no C++ compiler: leaving out fastBPE, which only --bpe fastbpe and lamemo prepare --bpe need" \
            "(install g++, delete $STAMP, rerun)"
    else
        pip_install --no-deps --no-build-isolation "$(grep '^fastBPE==' "$LOCK")" ||
            say "3/4 fastBPE could not be built (see $LOG); only --bpe fastbpe and lamemo prepare --bpe need it"
    fi
}

main() {
    local python minor version
    wait_for_other_run
    if up_to_date; then
        say "$VENV is up to date, nothing to do"
        return
    fi
    python=$(choose_python)
    version=$(version_of "$python")
    minor=$(echo "$version" | cut -d. -f2)
    case $version in
    3.10.* | 3.11.* | 3.12.*) ;;
    *) die "$python is Python $version; $LOCK serves 3.10, 3.11 and 3.12: choose one with PYTHON=/path/to/python" ;;
    esac
    make_venv "$python"
    install_torch
    install_packages
    say "4/4 installing lamemo_fairseq itself (editable)"
    must_install --no-deps --no-build-isolation --editable .
    fingerprint "$VENV_PYTHON" >"$STAMP"
    rm -f "$AT_WORK"
    say "done: $VENV with Python $version"
}

main
