#!/usr/bin/env bash
# NVIDIA's compute-sanitizer over a few launches of each kind of kernel (scripts/bench/gpu_sanitized.py).
#
#   scripts/sanitize.sh [--tools memcheck,initcheck,synccheck,racecheck] [--only TEXT] [--minutes 10] [--logs FOLDER]
#
# --tools     which: memcheck (reads and writes out of bounds), initcheck (reads of global memory that nobody wrote),
#             synccheck (barriers of a program that not all of its threads reach), racecheck (shared memory)
# --only      launches whose name holds this text; python -m scripts.bench.gpu_sanitized --list names them
# --minutes   for each tool; they make kernels 10 to 100 times slower
# --logs      what each tool said: .cache/sanitize
#
# No tool sees a race through global memory between programs: the concurrent interpreter does (tests/interpreter).
# Needs the CUDA toolkit (compute-sanitizer on PATH or under CUDA_HOME) and an NVIDIA GPU. PYTHON=python3.12 takes
# another Python. Exit status: 0 nothing found, 1 something was, 2 a wrong option, 3 it cannot run here.
# Options of the tools: https://docs.nvidia.com/compute-sanitizer/ComputeSanitizer/index.html
set -u
cd "$(dirname "$0")/.." || exit 3

tools="memcheck,initcheck,synccheck,racecheck" only="" minutes=10 logs=".cache/sanitize"
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) sed -n '2,/^set -u/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
        --tools | --only | --minutes | --logs) [ $# -gt 1 ] || { echo "sanitize: $1 needs a value" >&2; exit 2; } ;;
        *) echo "sanitize: no option '$1'. See sanitize.sh --help." >&2; exit 2 ;;
    esac
    case "$1" in --tools) tools="$2" ;; --only) only="$2" ;; --minutes) minutes="$2" ;; --logs) logs="$2" ;; esac
    shift 2
done
case "$minutes" in '' | *[!0-9]*) echo "sanitize: --minutes is '$minutes'. Give a whole number." >&2; exit 2 ;; esac
for tool in ${tools//,/ }; do
    case "$tool" in
        memcheck | initcheck | synccheck | racecheck) ;;
        *) echo "sanitize: no tool '$tool'. There are memcheck, initcheck, synccheck and racecheck." >&2; exit 2 ;;
    esac
done
python="${PYTHON:-python3}"
sanitizer="$(command -v compute-sanitizer)" || sanitizer="${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer"
if [ ! -x "$sanitizer" ]; then
    echo "sanitize: no compute-sanitizer on PATH nor in ${CUDA_HOME:-/usr/local/cuda}/bin. It comes with the CUDA" \
        "toolkit; set CUDA_HOME to where that is. It is for NVIDIA GPUs only." >&2
    exit 3
fi
mkdir -p "$logs"

# One allocation for each tensor: what is beyond its end is nobody's, and shows.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
# Once without a tool: are results right, is there a GPU at all; the tools then find the kernels compiled.
timeout -k 5 $((minutes * 60)) "$python" -m scripts.bench.gpu_sanitized --only "$only" > "$logs/plain.log" 2>&1
status=$?
if [ "$status" -ne 0 ]; then
    tail -n 25 "$logs/plain.log" >&2
    echo "sanitize: that failed without any tool (status $status)" >&2
    [ "$status" -eq 3 ] && exit 3
    [ "$status" -eq 2 ] && exit 2
    exit 1
fi
failed=""
for tool in ${tools//,/ }; do
    options=(--tool "$tool" --error-exitcode 86 --print-limit 20 --launch-timeout 120)
    start=$SECONDS
    timeout -k 5 $((minutes * 60)) "$sanitizer" "${options[@]}" \
        "$python" -m scripts.bench.gpu_sanitized --only "$only" > "$logs/$tool.log" 2>&1
    status=$?
    case "$status" in
        0) echo "sanitize: $tool found nothing in $((SECONDS - start)) s"; continue ;;
        86) echo "sanitize: $tool found something, the last lines of $logs/$tool.log:" ;;
        124 | 137) echo "sanitize: $tool did not end in $minutes minutes, the last lines of $logs/$tool.log:" ;;
        *) echo "sanitize: $tool failed (status $status), the last lines of $logs/$tool.log:" ;;
    esac
    tail -n 40 "$logs/$tool.log"
    failed="$failed $tool"
done
[ -z "$failed" ] || { echo "sanitize: not clean:$failed" >&2; exit 1; }
