#!/usr/bin/env bash
# Repeats the kernel tests with other versions of Triton, each in a virtual environment of its own under .cache/.
# Registers, shared memory and what the compiler deletes differ between versions: a kernel is done when all agree.
#
#   scripts/check_triton_versions.sh                 the oldest supported version (3.6.0)
#   scripts/check_triton_versions.sh 3.7.0 3.8.0     these
#   PYTEST_ARGS="-m slow" scripts/check_triton_versions.sh    other options for pytest
#
# Needs .venv (make .venv) and the Python package registry (0.5 GB on disk for each version).
set -eu
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || { echo "no .venv here. Run: make .venv" >&2; exit 1; }
site="import sysconfig; print(sysconfig.get_path('purelib'))"
shared="$(.venv/bin/python -c "$site")"
[ $# -gt 0 ] || set -- 3.6.0

failed=""
for version in "$@"; do
    home=".cache/triton-$version"
    if [ ! -f "$home/.installed" ]; then
        echo "== installing triton $version into $home"
        .venv/bin/python -m venv "$home"
        "$home/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps "triton==$version"
        # All else (torch, numpy, pytest) comes from .venv: its folder is searched after the own one.
        echo "$shared" > "$("$home/bin/python" -c "$site")/shared.pth"
        touch "$home/.installed"
    fi
    found="$("$home/bin/python" -c 'import triton; print(triton.__version__)')"
    [ "$found" = "$version" ] || { echo "$home has triton $found. Remove the folder and run again." >&2; exit 1; }
    echo "== kernel tests with triton $version"
    # shellcheck disable=SC2086 # several options are meant to be split
    "$home/bin/python" -m pytest tests/kernels -o cache_dir="$home/pytest_cache" ${PYTEST_ARGS:-} || failed="$failed $version"
done
[ -z "$failed" ] || { echo "failed with triton:$failed" >&2; exit 1; }
echo "passed with triton: $*"
