#!/usr/bin/env bash
# All tests on a GPU, then all timings, in calls of some minutes: each call goes on where the last one ended.
# Needs what gpu_check.sh needs, which is the short form of it and comes first.
#
#   scripts/bench/gpu_full.sh [--out FOLDER] [--commit NAME] [--minutes 9] [--only tests|timings]
#
# --out       where gpu_tests.jsonl (what has passed), rows.jsonl (timings) go, both appended: scripts/bench/results
# --commit    what is measured, where there is no .git to ask
# --minutes   time for this call
# --only      one of the two
#
# Exit status: 0 when all is done and passed, 75 when the time was over and the next call goes on, 1 when something
# failed (the next call tries that again, after all that is new). Logs are in .cache/gpu_full.
# Until it is done:  while scripts/bench/gpu_full.sh; [ $? -eq 75 ]; do :; done
set -u
cd "$(dirname "$0")/../.." || exit 1

out="scripts/bench/results" commit="" minutes=9 only=""
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) sed -n '2,/^set -u/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
        --out | --commit | --minutes | --only) [ $# -gt 1 ] || { echo "gpu_full: $1 needs a value" >&2; exit 2; } ;;
        *) echo "gpu_full: no option '$1'. See gpu_full.sh --help." >&2; exit 2 ;;
    esac
    case "$1" in --out) out="$2" ;; --commit) commit="$2" ;; --minutes) minutes="$2" ;; --only) only="$2" ;; esac
    shift 2
done
case "$minutes" in '' | *[!0-9]*) echo "gpu_full: --minutes is '$minutes'. Give a whole number." >&2; exit 2 ;; esac
case "$only" in
    '' | tests | timings) ;;
    *) echo "gpu_full: --only is '$only'. Give tests or timings." >&2; exit 2 ;;
esac
python="${PYTHON:-python3}"
logs=".cache/gpu_full"
mkdir -p "$out" "$logs"
deadline=$((SECONDS + minutes * 60 - 10))
worst=0

# part COMMAND...: run it; of the exit statuses, 1 goes before 75, 75 before 0. Where its time was over the call ends.
part() {
    local status=0
    "$@" || status=$?
    case "$status" in
        0) return ;;
        75) [ "$worst" -ne 0 ] || worst=75 ;;
        *) worst=1 ;;
    esac
}

"$python" -m scripts.bench.gpu_alive || exit 1
if [ "$only" != timings ]; then
    # Large ones by themselves: many at once would not fit the memory of a GPU.
    for group in "" "test_large.py --shards 2"; do
        left=$((deadline - SECONDS))
        if [ "$left" -lt 60 ]; then
            [ "$worst" -ne 0 ] || worst=75
            break
        fi
        # shellcheck disable=SC2086 # a group is several words, or none
        part "$python" -m scripts.bench.gpu_tests $group --full --progress "$out/gpu_tests.jsonl" \
            --limit "$left" --logs "$logs"
    done
fi
if [ "$only" != tests ] && [ "$worst" -ne 75 ]; then
    left=$((deadline - SECONDS))
    if [ "$left" -lt 60 ]; then
        [ "$worst" -ne 0 ] || worst=75
    else
        asked=""
        [ -e .git ] || asked="$commit"
        part "$python" -m scripts.bench.run --tables gpu --out "$out/rows.jsonl" --limit $((left - 25)) \
            ${asked:+--commit "$asked"}
    fi
fi
case "$worst" in
    0) echo "gpu_full: all done" ;;
    75) echo "gpu_full: the time is over. Run it again: it goes on from here" ;;
    *) echo "gpu_full: something failed, see above and $logs" >&2 ;;
esac
exit "$worst"
