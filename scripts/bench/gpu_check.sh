#!/usr/bin/env bash
# Is a GPU alive, are the kernels right on it, how fast are they: in under 8 minutes, on a machine with torch, triton,
# pyyaml, numpy and pytest. Hydra, wandb, datasets and plugins of pytest are not needed. Each test and each timing that
# there is: gpu_full.sh.
#
#   scripts/bench/gpu_check.sh [--out FOLDER] [--commit NAME] [--minutes 8] [--tiny]
#
# --out       where rows.jsonl (timings, appended) and gpu_check.jsonl (stages) go: scripts/bench/results
# --commit    what is measured, where there is no .git to ask
# --minutes   time for all stages together; timings take what the tests leave, and go on where they stopped next time
# --tiny      rehearse on a CPU under Triton's interpreter: tiny sizes, figures that mean nothing; default folder .cache
#
# PYTHON=python3.12 scripts/bench/gpu_check.sh takes another Python. A stage that fails or hangs does not keep the next
# ones from running, unless there is no GPU at all; the exit status is 1 if any failed. Full output of each stage:
# .cache/gpu_check/STAGE.log
set -u
cd "$(dirname "$0")/../.." || exit 1

out="" commit="" minutes=8 tiny=""
while [ $# -gt 0 ]; do
    case "$1" in
        --tiny) tiny="--tiny"; shift; continue ;;
        --out | --commit | --minutes) [ $# -gt 1 ] || { echo "gpu_check: $1 needs a value" >&2; exit 2; } ;;
        -h | --help) sed -n '2,/^set -u/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
        *) echo "gpu_check: no option '$1'. See gpu_check.sh --help." >&2; exit 2 ;;
    esac
    case "$1" in --out) out="$2" ;; --commit) commit="$2" ;; --minutes) minutes="$2" ;; esac
    shift 2
done
case "$minutes" in '' | *[!0-9]*) echo "gpu_check: --minutes is '$minutes'. Give a whole number." >&2; exit 2 ;; esac
logs=".cache/gpu_check"
[ -n "$out" ] || { [ -n "$tiny" ] && out="$logs" || out="scripts/bench/results"; }
[ -n "$commit" ] || commit="$(git rev-parse --short HEAD 2>/dev/null)" || commit=""
# Only a clean checkout is what its commit says; run.py asks by itself where there is a .git.
asked=""; [ -e .git ] || asked="$commit"
[ -n "$commit" ] || echo "gpu_check: no .git and no --commit: rows will not say what was measured" >&2
python="${PYTHON:-python3}"
mkdir -p "$out" "$logs"
[ -z "$tiny" ] || export TRITON_INTERPRET=1
deadline=$((SECONDS + minutes * 60 - 10))
failed="" last=0

# stage NAME SECONDS COMMAND...: run it for at most so long, keep its output, go on whatever happens. `last` is its
# exit status.
stage() {
    local name="$1" limit="$2" left=$((deadline - SECONDS)) start=$SECONDS status=0
    shift 2
    [ "$left" -ge "$limit" ] || limit=$left
    if [ "$limit" -lt 5 ]; then
        echo "gpu_check: $name: no time left"; status=124
    else
        echo "gpu_check: $name, at most $limit s"
        timeout -k 5 "$limit" "$@" > "$logs/$name.log" 2>&1 || status=$?
    fi
    local took=$((SECONDS - start))
    printf '{"date": "%s", "commit": "%s", "stage": "%s", "status": %d, "seconds": %d, "interpreted": %s}\n' \
        "$(date -u +%FT%TZ)" "$commit" "$name" "$status" "$took" "$([ -n "$tiny" ] && echo true || echo false)" \
        >> "$out/gpu_check.jsonl"
    [ "$status" -ne 75 ] || status=0 # the time was over: the next call goes on
    last=$status
    if [ "$status" -eq 0 ]; then
        echo "gpu_check: $name passed in $took s"
        return
    fi
    failed="$failed $name"
    case "$status" in
        124 | 137) echo "gpu_check: $name did not end in $limit s; the last lines of $logs/$name.log:" ;;
        *) echo "gpu_check: $name failed (status $status); the last lines of $logs/$name.log:" ;;
    esac
    tail -n 40 "$logs/$name.log" 2>/dev/null
}

# tests NAME SECONDS FILES...: of tests/gpu in several processes, which end by themselves a little earlier.
tests() {
    local name="$1" limit="$2" left=$((deadline - SECONDS))
    shift 2
    [ "$left" -ge "$limit" ] || limit=$left
    stage "$name" "$limit" "$python" -m scripts.bench.gpu_tests "$@" --limit $((limit - 5)) --logs "$logs"
    [ "$last" -ne 0 ] || cat "$logs/$name.log"
}

stage alive 60 "$python" -m scripts.bench.gpu_alive $tiny
[ "$last" -ne 0 ] || cat "$logs/alive.log"
[ "$last" -ne 3 ] || { echo "gpu_check: nothing else can run here" >&2; exit 1; }
if [ -n "$tiny" ]; then
    stage bodies 240 "$python" -m pytest tests/kernels/test_gpu_bodies.py -p no:cacheprovider -vv --tb=short
    [ "$last" -ne 0 ] || tail -n 1 "$logs/bodies.log"
else
    tests products 70 test_products.py test_fused.py test_memory.py
    tests networks 150 test_networks.py
    tests random_graphs 50 test_random_graphs.py
    tests long 60 test_long.py
    tests large 40 test_large.py --shards 2
fi
left=$((deadline - SECONDS))
stage timings "$left" "$python" -m scripts.bench.run --tables gpu --out "$out/rows.jsonl" --limit $((left > 45 ? left - 25 : 20)) \
    ${asked:+--commit "$asked"} $tiny
[ "$last" -ne 0 ] || cat "$logs/timings.log"
[ -z "$failed" ] || { echo "gpu_check: failed:$failed" >&2; exit 1; }
echo "gpu_check: all passed. Rows are in $out/rows.jsonl; python -m scripts.bench.page shows them"
